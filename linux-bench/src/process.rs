//! What processes cost: system calls, switching between them, making and ending them.

use crate::measure::least;
use crate::memory::Memory;
use crate::syscall::{self, Error, Pipe};

/// System calls in a round.
const CALLS: u64 = 32;
/// Round trips through two pipes in a round.
const ROUND_TRIPS: u64 = 16;
/// Pages of the process that makes another.
const PAGES: usize = 64;

/// The least that a system call costs.
pub fn system_calls() -> Result<(), Error> {
    least("null system call (getppid)", CALLS, || {
        for _ in 0..CALLS {
            core::hint::black_box(syscall::parent());
        }
        Ok(())
    })
}

fn pipe() -> Result<Pipe, Error> {
    let mut ends = [0; 2];
    syscall::pipe(&mut ends)?;
    Ok(ends)
}

/// Switching from one process to another and back, by a byte through a pipe each way.
pub fn switches() -> Result<(), Error> {
    let (there, back) = (pipe()?, pipe()?);
    let child = syscall::fork()?;
    if child == 0 {
        let ended = reflect(there[0], back[1]);
        syscall::exit(u64::from(ended.is_err()));
    }
    let mut byte = [0];
    least("context switch (half a round trip through pipes)", 2 * ROUND_TRIPS, || {
        for _ in 0..ROUND_TRIPS {
            syscall::write(there[1], &[1])?;
            syscall::read(back[0], &mut byte)?;
        }
        Ok(())
    })?;
    syscall::write(there[1], &[0])?;
    syscall::wait4(child).map(drop)
}

/// Sends back what comes, until a zero does.
fn reflect(from: u32, to: u32) -> Result<(), Error> {
    let mut byte = [1];
    loop {
        syscall::read(from, &mut byte)?;
        if byte[0] == 0 {
            return Ok(());
        }
        syscall::write(to, &byte)?;
    }
}

/// Making processes and waiting for their end.
pub fn children() -> Result<(), Error> {
    let memory = Memory::new(PAGES)?;
    memory.touch();
    least("fork, exit and wait", 1, || {
        let child = syscall::fork()?;
        if child == 0 {
            syscall::exit(0);
        }
        syscall::wait4(child).map(drop)
    })?;
    least("fork, exec, exit and wait", 1, || {
        let child = syscall::fork()?;
        if child == 0 {
            let error = syscall::execute(c"/init");
            syscall::exit(error.number as u64);
        }
        syscall::wait4(child).map(drop)
    })
}
