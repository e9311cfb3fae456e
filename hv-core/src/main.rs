#![no_std]
#![no_main]
//! The bootable hypervisor: all of it is in the library, whose boot code the linker script names as the entry.

use hv_core as _;
