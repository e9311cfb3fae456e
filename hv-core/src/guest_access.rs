//! Reading and writing guest memory by the guest's own virtual addresses.
//!
//! The idea to hold: a guest pointer is a claim. Nothing but this module follows one, always in the running
//! guest's address space, never into the hypervisor's range, and a fault on the way is an error and not an
//! accident. What is read is a private copy.

use crate::{arch, layout::is_hypervisor_address, vcpu::Context};
use core::mem::MaybeUninit;
use hypercall_abi::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Copies `destination.len()` bytes from guest address `address`.
///
/// # Errors
/// `EFAULT` when any byte is not the guest's to read.
pub fn read_bytes(address: u64, destination: &mut [u8]) -> Result<(), Errno> {
    check_range(address, destination.len())?;
    crate::arch::guest_memory::read(address, destination)
}

/// Copies `source` to guest address `address`.
///
/// # Errors
/// `EFAULT` when any byte is not the guest's to write; bytes before it may have been written.
pub fn write_bytes(address: u64, source: &[u8]) -> Result<(), Errno> {
    check_range(address, source.len())?;
    crate::arch::guest_memory::write(address, source)
}

/// Reads one value.
///
/// # Errors
/// `EFAULT`, as [`read_bytes`].
#[inline]
pub fn read<T: FromBytes + IntoBytes>(address: u64) -> Result<T, Errno> {
    let mut value = T::new_zeroed();
    read_bytes(address, value.as_mut_bytes())?;
    Ok(value)
}

/// Writes one value.
///
/// # Errors
/// `EFAULT`, as [`write_bytes`].
#[inline]
pub fn write<T: IntoBytes + Immutable>(address: u64, value: &T) -> Result<(), Errno> {
    write_bytes(address, value.as_bytes())
}

/// Reads element `index` of an array of `T` at `base`.
///
/// # Errors
/// `EFAULT`, as [`read_bytes`], or when the address wraps around.
#[inline]
pub fn read_element<T: FromBytes + IntoBytes>(base: u64, index: u64) -> Result<T, Errno> {
    read(element_address::<T>(base, index)?)
}

/// Writes element `index` of an array of `T` at `base`.
///
/// # Errors
/// `EFAULT`, as [`write_bytes`], or when the address wraps around.
#[inline]
pub fn write_element<T: IntoBytes + Immutable>(base: u64, index: u64, value: &T) -> Result<(), Errno> {
    write(element_address::<T>(base, index)?, value)
}

/// Room for some elements of a guest's array, at most `N` bytes of them.
#[repr(align(8))]
pub struct ArrayRoom<const N: usize>([MaybeUninit<u8>; N]);

impl<const N: usize> ArrayRoom<N> {
    /// Room with nothing in it.
    #[inline]
    pub const fn empty() -> Self {
        Self([const { MaybeUninit::uninit() }; N])
    }

    /// Reads `count` elements of a guest's array at `address`, all at once.
    ///
    /// # Errors
    /// `EFAULT`, as [`read_bytes`], or when there is no room for so many.
    #[inline]
    pub fn read<T: FromBytes + IntoBytes + KnownLayout>(
        &mut self,
        address: u64,
        count: usize,
    ) -> Result<&mut [T], Errno> {
        let bytes = self.0.get_mut(..count * size_of::<T>()).ok_or(Errno::EFAULT)?;
        check_range(address, bytes.len())?;
        let bytes = arch::guest_memory::read_uninit(address, bytes)?;
        <[T]>::mut_from_bytes(bytes).map_err(|_| Errno::EFAULT)
    }
}

fn element_address<T>(base: u64, index: u64) -> Result<u64, Errno> {
    let offset = index.checked_mul(size_of::<T>() as u64).ok_or(Errno::EFAULT)?;
    base.checked_add(offset).ok_or(Errno::EFAULT)
}

/// Does something in the address space of the running guest's kernel, whichever of its two is in force.
pub fn in_kernel_space<T>(context: &mut Context, act: impl FnOnce() -> T) -> T {
    if context.in_kernel {
        return act();
    }
    context.in_kernel = true;
    arch::load_page_tables(context);
    let result = act();
    context.in_kernel = false;
    arch::load_page_tables(context);
    result
}

/// Neither end may lie in the hypervisor's range, and the range may not wrap; what lies between two good ends
/// could only be bad if it were larger than the range the hypervisor leaves between them.
fn check_range(address: u64, length: usize) -> Result<(), Errno> {
    let Some(end) = address.checked_add(length as u64) else { return Err(Errno::EFAULT) };
    let crosses =
        address < crate::layout::MACHINE_TO_PHYSICAL_BASE && end > crate::layout::MACHINE_TO_PHYSICAL_BASE;
    if is_hypervisor_address(address) || is_hypervisor_address(end.saturating_sub(1)) || crosses {
        return Err(Errno::EFAULT);
    }
    Ok(())
}
