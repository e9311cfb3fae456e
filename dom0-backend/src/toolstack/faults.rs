//! Faults on purpose: one step of making a guest fails as if something had run out.
//!
//! Steps are counted while a guest is made. With a fault set, the step of that number fails instead of being done,
//! and the fault is over: what follows is real, above all the taking back of what was done so far. Without one,
//! passing a step costs a comparison.

use core::cell::Cell;

use hypercall_abi::Errno;

use super::error::CreateError;

/// Steps that were passed, and the one that is to fail.
#[derive(Debug, Default)]
pub struct Faults {
    passed: Cell<u32>,
    fails_at: Cell<Option<u32>>,
}

impl Faults {
    /// Counts from zero again. The step `fails_at` is to fail; none, if not said.
    pub fn begin(&self, fails_at: Option<u32>) {
        self.passed.set(0);
        self.fails_at.set(fails_at);
    }

    /// Steps that were passed since it began.
    pub fn passed(&self) -> u32 {
        self.passed.get()
    }

    /// Passes a step.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if it is to fail.
    pub fn pass(&self) -> Result<(), Errno> {
        let number = self.passed.get();
        self.passed.set(number + 1);
        if self.fails_at.get() == Some(number) {
            self.fails_at.set(None);
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// Does a step that is called `step`, unless it is to fail.
    ///
    /// # Errors
    ///
    /// [`CreateError::Refused`], if it failed or was to.
    pub fn step<T>(
        &self,
        step: &'static str,
        work: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, CreateError> {
        self.pass().and_then(|()| work()).map_err(CreateError::in_step(step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_step_fails_and_none_after_it() {
        let faults = Faults::default();
        faults.begin(Some(1));
        let done: [_; 4] = core::array::from_fn(|index| faults.step("x", || Ok(index)).ok());
        assert_eq!((done, faults.passed()), ([Some(0), None, Some(2), Some(3)], 4));
        faults.begin(None);
        assert_eq!(faults.pass(), Ok(()));
        assert_eq!(faults.passed(), 1);
    }

    #[test]
    fn a_fault_is_told_like_a_real_one() {
        let faults = Faults::default();
        faults.begin(Some(0));
        assert_eq!(
            faults.step("open a port", || Ok(())),
            Err(CreateError::Refused { step: "open a port", errno: Errno::ENOMEM })
        );
        assert_eq!(
            faults.step("open a port", || Err::<(), _>(Errno::ENOSPC)),
            Err(CreateError::Refused { step: "open a port", errno: Errno::ENOSPC })
        );
    }
}
