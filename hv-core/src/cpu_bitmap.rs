//! Sets of CPUs as the control interface carries them: bits in bytes of the caller's, as many as it says.

use crate::{cpu::CpuSet, guest_access};
use hypercall_abi::{Errno, domctl::XenctlBitmap};

/// Bytes of a set here.
const BYTES: u64 = size_of::<CpuSet>() as u64;
/// Most bits of a caller's set: more CPUs than there will be.
const MOST_BITS: u32 = 4096;

/// Reads a set; CPUs that cannot be are left out.
///
/// # Errors
/// `EFAULT`.
pub fn read(bitmap: &XenctlBitmap) -> Result<CpuSet, Errno> {
    let mut bytes = [0; BYTES as usize];
    let length = u64::from(bitmap.nr_bits).div_ceil(8).min(BYTES) as usize;
    guest_access::read_bytes(bitmap.bitmap, &mut bytes[..length])?;
    let covered = u32::MAX.checked_shr(u32::BITS.saturating_sub(bitmap.nr_bits)).unwrap_or(0);
    Ok(CpuSet::from_le_bytes(bytes) & covered)
}

/// Writes a set: as many bits as the caller has room for, and zeros behind them.
///
/// # Errors
/// `EFAULT`, `EINVAL` for an absurd number of bits.
pub fn write(bitmap: &XenctlBitmap, set: CpuSet) -> Result<(), Errno> {
    if bitmap.nr_bits > MOST_BITS {
        return Err(Errno::EINVAL);
    }
    for index in 0..u64::from(bitmap.nr_bits).div_ceil(8) {
        let byte = if index < BYTES { set.to_le_bytes()[index as usize] } else { 0 };
        guest_access::write_element(bitmap.bitmap, index, &byte)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{ARGUMENTS, Guest, machine_of};

    #[test]
    fn a_set_has_as_many_bits_as_its_owner_says() {
        let _machine = machine_of(256);
        let guest = Guest::new(1);
        guest.write_arguments(&[0xffff_ffff_ffff_ffff_u64]);
        let bitmap = |nr_bits| XenctlBitmap { bitmap: ARGUMENTS, nr_bits, ..Default::default() };
        guest.as_caller(|_| {
            let bits = [0, 1, 7, 8, 16, 31, 32, 64, u32::MAX].map(|bits| read(&bitmap(bits)));
            assert_eq!(bits, [0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, u32::MAX, u32::MAX, u32::MAX].map(Ok));
            assert_eq!(write(&bitmap(40), 0x0201), Ok(()));
            assert_eq!(write(&bitmap(MOST_BITS + 1), 1), Err(Errno::EINVAL));
        });
        let mut words = [0_u64];
        guest.read_arguments(&mut words);
        assert_eq!(words, [0xffff_ff00_0000_0201]);
    }
}
