//! Locks, for CPUs that must not stop listening while they wait.
//!
//! The hypervisor runs with interrupts off, so a CPU that spins for a lock cannot be interrupted. But whoever holds the
//! lock may be waiting for this very CPU to forget old translations ([`crate::arch::tlb`]). So a waiting CPU looks, in
//! every turn, at what the others ask of it: every lock of the hypervisor is of these kinds, and no other.

use crate::arch;
use spin::relax::RelaxStrategy;

/// What a CPU does between two looks at a lock.
pub struct Listen;

impl RelaxStrategy for Listen {
    #[inline(always)]
    fn relax() {
        arch::cpu::wait_in_place();
    }
}

/// A lock for one.
pub type Mutex<T> = spin::mutex::Mutex<T, Listen>;
/// A lock for one writer or several readers.
pub type RwLock<T> = spin::rwlock::RwLock<T, Listen>;
/// A value that is made once.
pub type Once<T> = spin::once::Once<T, Listen>;

pub use spin::mutex::MutexGuard;
