//! FPU, SSE and AVX registers at rest: which of them there are, and the memory in which they are kept.
//!
//! The idea to hold: the area has the layout that `xsave` gives it (its first 512 bytes are what `fxsave` stores), and is
//! always one that the CPU can load. What a toolstack brings is made so first; everything else in it was put there by
//! the CPU itself. It is a part of the vCPU, and lies in a frame of its own only where CPUs have more to keep.

use crate::{frame_object::FrameBox, layout::PAGE_SIZE};
use hypercall_abi::Errno;

/// Components of extended state, as bits of XCR0.
pub mod component {
    /// x87 registers.
    pub const X87: u64 = 1 << 0;
    /// SSE registers and MXCSR.
    pub const SSE: u64 = 1 << 1;
    /// Upper halves of the AVX registers.
    pub const AVX: u64 = 1 << 2;
    /// The three of AVX-512, which come together: mask registers, upper halves, upper sixteen registers.
    pub const AVX_512: u64 = 7 << 5;
}
use component::{AVX, AVX_512, SSE, X87};

/// XCR0 after reset.
pub const RESET_COMPONENTS: u64 = X87;

/// The components that are kept for each vCPU, of those that a CPU `has`; none if it has too few to be of use.
pub const fn kept(has: u64) -> u64 {
    if has & (X87 | SSE) != X87 | SSE {
        0
    } else if has & AVX == 0 {
        X87 | SSE
    } else if has & AVX_512 != AVX_512 {
        X87 | SSE | AVX
    } else {
        X87 | SSE | AVX | AVX_512
    }
}

/// True for a value that XCR0 can have where the components `kept` are.
pub const fn is_valid(value: u64, kept: u64) -> bool {
    let avx_512 = value & AVX_512;
    value & X87 != 0
        && value & !kept == 0
        && (value & AVX == 0 || value & SSE != 0)
        && (avx_512 == 0 || avx_512 == AVX_512 && value & AVX != 0)
}

/// Bytes of an area that is a part of its vCPU: x87, SSE and AVX.
const NEAR_SIZE: usize = 832;
/// Bytes of an area in a frame of its own.
const FAR_SIZE: usize = PAGE_SIZE as usize;

/// Bytes that there are for these components. What does not fit is not kept.
pub const fn room_for(kept: u64) -> usize {
    if kept & AVX_512 == 0 { NEAR_SIZE } else { FAR_SIZE }
}

/// What an area begins with whatever is in it: room for `fxsave`, and the header.
const LEAST_SIZE: u32 = 576;
/// Bytes that `fxsave` stores.
const LEGACY_SIZE: usize = 512;
/// Offset and reset value of the x87 control word, and of MXCSR.
const CONTROL: (usize, [u8; 2]) = (0, [0x7f, 0x03]);
const MXCSR: (usize, [u8; 4]) = (24, [0x80, 0x1f, 0, 0]);
/// Offset of the mask of MXCSR bits that exist; a CPU that leaves it zero means the default.
const MXCSR_MASK: usize = 28;
const MXCSR_DEFAULT_MASK: u32 = 0xffbf;
/// Where the sixteen SSE registers lie.
const SSE_REGISTERS: core::ops::Range<usize> = 160..416;
/// Offset of the header's word that says which components are not in their initial state.
const IN_USE: usize = LEGACY_SIZE;

/// Bytes that `components` take, where the CPU says of each (CPUID leaf 0xd, by number) that it has `eax` bytes from offset
/// `ebx` on.
pub fn size_of_area(components: u64, describe: impl Fn(u32) -> [u32; 4]) -> u32 {
    let described = (2..64).filter(|number| components >> number & 1 != 0).map(|number| {
        let [size, offset, ..] = describe(number);
        offset.saturating_add(size)
    });
    described.fold(LEAST_SIZE, u32::max)
}

/// The MXCSR bits that a CPU has which stored this by `fxsave`.
pub fn mxcsr_mask(stored: &[u8; LEGACY_SIZE]) -> u32 {
    match word(stored, MXCSR_MASK) {
        0 => MXCSR_DEFAULT_MASK,
        mask => mask,
    }
}

fn word(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(core::array::from_fn(|index| bytes[offset + index]))
}

/// The first bytes of an area in its initial state.
pub const fn initial_legacy() -> [u8; LEGACY_SIZE] {
    let mut bytes = [0; LEGACY_SIZE];
    bytes[CONTROL.0] = CONTROL.1[0];
    bytes[CONTROL.0 + 1] = CONTROL.1[1];
    bytes[MXCSR.0] = MXCSR.1[0];
    bytes[MXCSR.0 + 1] = MXCSR.1[1];
    bytes
}

/// x87 and SSE registers as `fxsave` stores them, that a CPU can load.
#[derive(Clone, Copy)]
pub struct LoadableState<'a>(&'a [u8; LEGACY_SIZE]);

impl<'a> LoadableState<'a> {
    /// Looks at a state that came from elsewhere.
    ///
    /// # Errors
    /// `EINVAL` for MXCSR bits that are not in `mxcsr_mask`: loading them would fault.
    pub fn new(state: &'a [u8; LEGACY_SIZE], mxcsr_mask: u32) -> Result<Self, Errno> {
        if word(state, MXCSR.0) & !mxcsr_mask == 0 { Ok(Self(state)) } else { Err(Errno::EINVAL) }
    }
}

/// Memory for an area, aligned as the CPU wants it.
#[repr(C, align(64))]
struct Area<const SIZE: usize>([u8; SIZE]);

/// A vCPU's extended state while it is not in the registers.
pub struct ExtendedState {
    near: Area<NEAR_SIZE>,
    /// In its place, where more is kept.
    far: Option<FrameBox<[u8; FAR_SIZE]>>,
}

impl ExtendedState {
    /// The state after reset, with room for these components; `None` when memory is short.
    pub fn try_new(kept: u64) -> Option<Self> {
        let far = match room_for(kept) {
            NEAR_SIZE => None,
            _ => Some(FrameBox::try_from_fn(|_| 0)?),
        };
        let mut state = Self { near: Area([0; NEAR_SIZE]), far };
        state.bytes_mut()[..LEGACY_SIZE].copy_from_slice(&initial_legacy());
        Some(state)
    }

    fn bytes(&self) -> &[u8] {
        self.far.as_ref().map_or(&self.near.0, |far| &far[..])
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.far.as_mut().map_or(&mut self.near.0, |far| &mut far[..])
    }

    /// Where the CPU is to store the state and load it from: room for the kept components, aligned to 64 bytes.
    pub fn area(&mut self) -> *mut u8 {
        self.bytes_mut().as_mut_ptr()
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.begin_with(&initial_legacy());
    }

    /// Takes over x87 and SSE registers; every other component becomes initial.
    pub fn set_legacy(&mut self, LoadableState(state): LoadableState<'_>) {
        self.begin_with(state);
        self.bytes_mut()[IN_USE] = (X87 | SSE) as u8;
    }

    fn begin_with(&mut self, state: &[u8; LEGACY_SIZE]) {
        let (legacy, rest) = self.bytes_mut().split_at_mut(LEGACY_SIZE);
        legacy.copy_from_slice(state);
        rest.fill(0);
    }

    /// x87 and SSE registers as `fxsave` stores them. `has_header` says that the CPU stored the area by `xsave`, which
    /// may leave out what is in its initial state.
    pub fn legacy(&self, has_header: bool) -> [u8; LEGACY_SIZE] {
        let mut state: [u8; LEGACY_SIZE] = core::array::from_fn(|index| self.bytes()[index]);
        let in_use = if has_header { u64::from(self.bytes()[IN_USE]) } else { X87 | SSE };
        if in_use & X87 == 0 {
            let initial = initial_legacy();
            state[..MXCSR.0].copy_from_slice(&initial[..MXCSR.0]);
            state[MXCSR_MASK + 4..SSE_REGISTERS.start].fill(0);
        }
        if in_use & SSE == 0 {
            state[SSE_REGISTERS].fill(0);
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::machine_of;

    /// What fits into a vCPU, and what does not.
    const SETS: [u64; 2] = [kept(X87 | SSE | AVX), kept(!0)];

    #[test]
    fn only_whole_sets_of_components_are_kept() {
        assert_eq!(kept(0), 0);
        assert_eq!(kept(X87), 0);
        assert_eq!(kept(X87 | SSE | 1 << 3 | 1 << 9), X87 | SSE, "neither bounds nor protection keys");
        assert_eq!(kept(X87 | SSE | AVX | 1 << 5), X87 | SSE | AVX, "a part of AVX-512 is none");
        assert_eq!(kept(!0), X87 | SSE | AVX | AVX_512);
    }

    #[test]
    fn a_control_value_must_be_consistent_and_within_what_is_kept() {
        let all = kept(!0);
        for value in [X87, X87 | SSE, X87 | SSE | AVX, all] {
            assert!(is_valid(value, all), "{value:#x}");
        }
        for value in [0, SSE, X87 | AVX, X87 | SSE | AVX_512, all & !(1 << 6), all | 1 << 9, all | 1 << 63] {
            assert!(!is_valid(value, all), "{value:#x}");
        }
        assert!(!is_valid(X87 | SSE | AVX, kept(X87 | SSE)));
    }

    #[test]
    fn a_new_state_is_that_after_reset() {
        let _machine = machine_of(64);
        for kept in SETS {
            let state = ExtendedState::try_new(kept).expect("a frame");
            assert_eq!(state.legacy(true), initial_legacy());
            assert_eq!(state.legacy(false), initial_legacy());
            assert!(state.bytes()[LEGACY_SIZE..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn the_area_is_aligned_and_has_room_for_what_is_kept() {
        let _machine = machine_of(64);
        for (kept, size) in SETS.into_iter().zip([832, 4096]) {
            let mut state = ExtendedState::try_new(kept).expect("a frame");
            assert!(state.area().addr().is_multiple_of(64));
            assert_eq!((state.bytes().len(), room_for(kept)), (size, size));
        }
    }

    #[test]
    fn a_loaded_state_leaves_nothing_of_what_was_there() {
        let _machine = machine_of(64);
        for kept in SETS {
            let mut state = ExtendedState::try_new(kept).expect("a frame");
            state.bytes_mut().fill(0xee);
            let mut loaded = initial_legacy();
            loaded[200] = 7;
            state.set_legacy(LoadableState::new(&loaded, MXCSR_DEFAULT_MASK).expect("a good state"));
            assert_eq!(state.legacy(true), loaded);
            assert_eq!(state.bytes()[IN_USE], 3);
            assert!(state.bytes()[IN_USE + 1..].iter().all(|byte| *byte == 0), "the header's rest and AVX");
            state.reset();
            assert_eq!(state.legacy(true), initial_legacy());
            assert!(state.bytes()[LEGACY_SIZE..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn reserved_bits_of_mxcsr_are_refused() {
        let is_loadable = |state: &[u8; LEGACY_SIZE], mask| LoadableState::new(state, mask).is_ok();
        let mut bad = initial_legacy();
        bad[MXCSR.0] |= 1 << 6;
        assert!(!is_loadable(&bad, MXCSR_DEFAULT_MASK));
        assert!(is_loadable(&bad, 0xffff), "a CPU that has the bit");
        bad[MXCSR.0 + 2] = 1;
        assert!(!is_loadable(&bad, 0xffff));
    }

    #[test]
    fn an_area_ends_with_its_last_component() {
        let describe = |number| [[256, 576, 0, 0], [64, 1088, 0, 0]][usize::from(number != 2)];
        assert_eq!(size_of_area(X87 | SSE, describe), 576);
        assert_eq!(size_of_area(X87 | SSE | AVX, describe), 832);
        assert_eq!(size_of_area(kept(!0), describe), 1152);
        assert_eq!(size_of_area(!0, |_| [!0; 4]), u32::MAX);
    }

    #[test]
    fn what_the_cpu_left_out_reads_as_initial() {
        let _machine = machine_of(64);
        let mut state = ExtendedState::try_new(kept(!0)).expect("a frame");
        state.bytes_mut().fill(0x55);
        state.bytes_mut()[IN_USE] = 0;
        let seen = state.legacy(true);
        assert_eq!(seen[CONTROL.0..2], CONTROL.1);
        assert!(seen[32..SSE_REGISTERS.end].iter().all(|byte| *byte == 0));
        assert_eq!(state.legacy(false)[200], 0x55);
    }
}
