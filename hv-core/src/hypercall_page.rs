//! The page of stubs through which a guest makes hypercalls.
//!
//! Stub `n` is 32 bytes at offset `32 n`. It keeps rcx and r11, which SYSCALL spoils, and leaves the arguments where
//! the ABI has them. `iret` never comes back, so its stub leaves on the stack what the hypervisor takes from it.

use crate::{direct_map, domain::Domain, frame::HeldWritableFrame, layout::PAGE_SIZE};
use hypercall_abi::{Errno, MachineFrame, xen::HYPERVISOR_IRET};

/// Bytes of a stub.
const STUB_SIZE: usize = 32;

/// push rcx; push r11; mov eax, number; syscall; pop r11; pop rcx; ret
const CALL: [u8; 14] = [0x51, 0x41, 0x53, 0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3];
const CALL_NUMBER: usize = 4;
/// push rcx; push r11; push rax; mov eax, number; syscall
const RETURN: [u8; 11] = [0x51, 0x41, 0x53, 0x50, 0xb8, 0, 0, 0, 0, 0x0f, 0x05];
const RETURN_NUMBER: usize = 5;
/// int3: what stands where there is no stub.
const FILLER: u8 = 0xcc;

/// The stub of one hypercall.
fn stub(number: u32) -> [u8; STUB_SIZE] {
    let mut stub = [FILLER; STUB_SIZE];
    if u64::from(number) == HYPERVISOR_IRET {
        stub[..RETURN.len()].copy_from_slice(&RETURN);
        stub[RETURN_NUMBER..RETURN_NUMBER + 4].copy_from_slice(&number.to_le_bytes());
    } else {
        stub[..CALL.len()].copy_from_slice(&CALL);
        stub[CALL_NUMBER..CALL_NUMBER + 4].copy_from_slice(&number.to_le_bytes());
    }
    stub
}

/// Fills a frame of the domain's with stubs.
///
/// # Errors
/// `EINVAL`, `EBUSY` when it is not a frame the domain could write itself.
pub fn write(domain: &Domain, frame: MachineFrame) -> Result<(), Errno> {
    let held = HeldWritableFrame::get(frame, domain.id)?;
    for number in 0..(PAGE_SIZE as usize / STUB_SIZE) as u32 {
        direct_map::write_bytes(held.frame(), number as usize * STUB_SIZE, &stub(number));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_carries_its_number() {
        assert_eq!(stub(29)[..14], [0x51, 0x41, 0x53, 0xb8, 29, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3]);
        assert_eq!(stub(23)[..11], [0x51, 0x41, 0x53, 0x50, 0xb8, 23, 0, 0, 0, 0x0f, 0x05]);
        assert_eq!(stub(23)[11], FILLER);
    }
}
