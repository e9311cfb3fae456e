//! Registers of the CPU itself that each vCPU has its own value of: CR4, XCR0, TSC_AUX and the debug registers.
//!
//! The idea to hold: hardly any kernel changes them, so a switch between two vCPUs for which they are as after reset
//! looks at one flag on either side and loads none of them.

use crate::{
    debug_registers::{CONTROL_RESET, DebugRegisters},
    extended_state::{self, RESET_COMPONENTS},
};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use hypercall_abi::Errno;

/// Bits of CR4.
pub mod control4 {
    /// RDTSC is for ring 0.
    pub const TIME_STAMP_DISABLE: u64 = 1 << 2;
    /// FXSAVE is in use.
    pub const FXSR: u64 = 1 << 9;
    /// SSE exceptions are in use.
    pub const SIMD_EXCEPTIONS: u64 = 1 << 10;
    /// RDFSBASE and its relatives may be used.
    pub const SEGMENT_BASES: u64 = 1 << 16;
    /// XSAVE is in use.
    pub const XSAVE: u64 = 1 << 18;
    /// Always set as far as a guest can tell: physical address extension, and the two above.
    pub const FIXED: u64 = 1 << 5 | FXSR | SIMD_EXCEPTIONS;
    /// What kernels also like to set, and that changes nothing for them: debugging extensions, machine checks, counters.
    pub const WITHOUT_EFFECT: u64 = 1 << 3 | 1 << 6 | 1 << 8;
    /// What the CPU gets to see of a guest's value.
    pub const LOADED: u64 = TIME_STAMP_DISABLE | SEGMENT_BASES | XSAVE;
}

/// The values that one vCPU has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnRegisters {
    control4: u64,
    components: u64,
    auxiliary: u32,
    debug: DebugRegisters,
    is_usual: bool,
}

impl OwnRegisters {
    /// The values after reset.
    pub const fn new() -> Self {
        Self {
            control4: control4::FIXED,
            components: RESET_COMPONENTS,
            auxiliary: 0,
            debug: DebugRegisters::new(),
            is_usual: true,
        }
    }

    /// True when none of them has to be loaded for this vCPU.
    #[inline]
    pub fn is_usual(&self) -> bool {
        self.is_usual
    }

    /// CR4.
    pub fn control4(&self) -> u64 {
        self.control4
    }

    /// Sets CR4; false for a value with bits other than those that are always there and those `available`.
    pub fn set_control4(&mut self, value: u64, available: u64) -> bool {
        let possible = control4::FIXED | control4::WITHOUT_EFFECT | control4::TIME_STAMP_DISABLE | available;
        if value & !possible != 0 {
            return false;
        }
        self.control4 = value | control4::FIXED;
        self.note();
        true
    }

    /// The guest has turned XSAVE on.
    #[inline]
    pub fn has_xsave(&self) -> bool {
        self.control4 & control4::XSAVE != 0
    }

    /// XCR0; of no effect unless XSAVE is on.
    pub fn components(&self) -> u64 {
        self.components
    }

    /// Sets XCR0, of which `kept` components exist; false for a value it cannot have.
    pub fn set_components(&mut self, value: u64, kept: u64) -> bool {
        if !self.has_xsave() || !extended_state::is_valid(value, kept) {
            return false;
        }
        self.components = value;
        self.note();
        true
    }

    /// TSC_AUX.
    pub fn auxiliary(&self) -> u32 {
        self.auxiliary
    }

    /// Sets TSC_AUX.
    pub fn set_auxiliary(&mut self, value: u32) {
        self.auxiliary = value;
        self.note();
    }

    /// The debug registers.
    pub fn debug(&self) -> &DebugRegisters {
        &self.debug
    }

    /// Replaces the debug registers.
    pub fn set_debug(&mut self, registers: DebugRegisters) {
        self.debug = registers;
        self.note();
    }

    /// Sets a debug register.
    ///
    /// # Errors
    /// As [`DebugRegisters::write`].
    pub fn write_debug(&mut self, number: u64, value: u64) -> Result<(), Errno> {
        self.debug.write(number, value)?;
        self.note();
        Ok(())
    }

    /// The CPU stopped the guest for these causes.
    pub fn stopped(&mut self, status: u64) {
        self.debug.stopped(status);
    }

    fn note(&mut self) {
        self.is_usual = self.control4 & control4::LOADED == 0
            && self.auxiliary == 0
            && self.debug.armed() == CONTROL_RESET;
    }
}

impl Default for OwnRegisters {
    fn default() -> Self {
        Self::new()
    }
}

/// What a physical CPU has loaded. Only the CPU itself writes it.
pub struct LoadedRegisters {
    /// All values are as after reset.
    pub are_usual: AtomicBool,
    /// CR4, whole.
    pub control4: AtomicU64,
    /// XCR0.
    pub components: AtomicU64,
    /// TSC_AUX.
    pub auxiliary: AtomicU32,
    /// Debug register 7.
    pub armed: AtomicU64,
}

impl LoadedRegisters {
    /// A CPU after reset.
    pub const fn new() -> Self {
        Self {
            are_usual: AtomicBool::new(true),
            control4: AtomicU64::new(0),
            components: AtomicU64::new(RESET_COMPONENTS),
            auxiliary: AtomicU32::new(0),
            armed: AtomicU64::new(CONTROL_RESET),
        }
    }
}

impl Default for LoadedRegisters {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = control4::SEGMENT_BASES | control4::XSAVE;

    #[test]
    fn control4_takes_what_exists_and_keeps_what_is_fixed() {
        let mut registers = OwnRegisters::new();
        assert!(registers.set_control4(control4::FIXED | control4::WITHOUT_EFFECT, 0));
        assert!(registers.is_usual(), "none of these is loaded");
        assert!(!registers.set_control4(control4::FIXED | control4::XSAVE, control4::SEGMENT_BASES));
        for forbidden in [4, 7, 11, 12, 13, 17, 20, 21, 22, 23, 32, 63] {
            assert!(!registers.set_control4(control4::FIXED | 1 << forbidden, ALL), "bit {forbidden}");
        }
        assert_eq!(registers.control4(), control4::FIXED | control4::WITHOUT_EFFECT);
        assert!(registers.set_control4(0, 0));
        assert_eq!(registers.control4(), control4::FIXED);
    }

    #[test]
    fn components_can_be_set_only_where_xsave_is_on() {
        let mut registers = OwnRegisters::new();
        assert!(!registers.set_components(3, 7));
        assert!(registers.set_control4(control4::XSAVE, ALL));
        assert!(registers.set_components(7, 7));
        assert!(!registers.set_components(7, 3));
        assert!(!registers.set_components(5, 7));
        assert_eq!(registers.components(), 7);
    }

    #[test]
    fn usual_means_that_nothing_has_to_be_loaded() {
        let change: [fn(&mut OwnRegisters); 4] = [
            |registers| assert!(registers.set_control4(control4::TIME_STAMP_DISABLE, 0)),
            |registers| assert!(registers.set_control4(control4::XSAVE, ALL)),
            |registers| registers.set_auxiliary(1),
            |registers| registers.write_debug(7, 1).expect("a breakpoint"),
        ];
        for change in change {
            let mut registers = OwnRegisters::new();
            assert!(registers.is_usual());
            change(&mut registers);
            assert!(!registers.is_usual());
        }
        let mut registers = OwnRegisters::new();
        registers.set_auxiliary(1);
        registers.set_auxiliary(0);
        assert!(registers.is_usual());
    }
}
