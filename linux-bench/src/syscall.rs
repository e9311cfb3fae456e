//! The system calls of Linux on x86-64 that measuring takes.
//!
//! Numbers and flags are those of Linux's user interface (`asm/unistd_64.h` and the headers beside it). Strings end with
//! a null byte, as [`CStr`] has them.

use core::arch::asm;
use core::ffi::CStr;

/// A system call that failed.
#[derive(Clone, Copy, Debug)]
pub struct Error {
    /// Which one.
    pub call: &'static str,
    /// Its error number.
    pub number: i64,
}

/// Does a system call with up to six arguments.
///
/// # Safety
/// What the call does with its arguments must be sound.
#[inline(always)]
unsafe fn call(number: u64, arguments: [u64; 6]) -> i64 {
    let result;
    // SAFETY: the kernel changes nothing but these registers; the caller vouches for the rest.
    unsafe {
        asm!(
            "syscall",
            inout("rax") number as i64 => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            in("r9") arguments[5],
            out("rcx") _,
            out("r11") _,
            options(nostack)
        );
    }
    result
}

fn check(call: &'static str, result: i64) -> Result<u64, Error> {
    u64::try_from(result).map_err(|_| Error { call, number: -result })
}

/// Makes a function of a system call that reads and writes no memory of ours except what its slices name.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $number:literal ($($argument:ident: $type:ty => $($word:expr),+);*);)*) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            pub fn $name($($argument: $type),*) -> Result<u64, Error> {
                let words = [$($($word),+),*];
                let mut arguments = [0; 6];
                arguments[..words.len()].copy_from_slice(&words);
                // SAFETY: what memory the call reaches is named by references in its arguments.
                check(stringify!($name), unsafe { call($number, arguments) })
            }
        )*
    };
}

/// What is read from and what is written to a pipe.
pub type Pipe = [u32; 2];

calls! {
    /// Reads from a file.
    read = 0 (file: u32 => u64::from(file); buffer: &mut [u8] => buffer.as_mut_ptr() as u64, buffer.len() as u64);
    /// Writes to a file.
    write = 1 (file: u32 => u64::from(file); bytes: &[u8] => bytes.as_ptr() as u64, bytes.len() as u64);
    /// Opens a file for reading.
    open = 2 (path: &CStr => path.as_ptr() as u64, 0);
    /// Makes a pipe.
    pipe = 22 (ends: &mut Pipe => ends.as_mut_ptr() as u64);
    /// Waits for any child to end.
    wait4 = 61 (child: u64 => child, 0, 0, 0);
    /// Makes a directory.
    mkdir = 83 (path: &CStr => path.as_ptr() as u64, 0o755);
    /// Mounts a file system of the kind `kind`, which needs no device.
    mount = 165 (kind: &CStr => kind.as_ptr() as u64; path: &CStr => path.as_ptr() as u64, kind.as_ptr() as u64, 0, 0);
    /// Loads a kernel module from a file.
    finit_module = 313 (file: u32 => u64::from(file); parameters: &CStr => parameters.as_ptr() as u64, 0);
}

/// The number of the process that started this one: the least that a system call can do.
#[inline(always)]
pub fn parent() -> u64 {
    // SAFETY: takes no arguments and touches no memory.
    unsafe { call(110, [0; 6]) as u64 }
}

/// The number of this process.
pub fn own_number() -> u64 {
    // SAFETY: takes no arguments and touches no memory.
    unsafe { call(39, [0; 6]) as u64 }
}

/// Readable and writable.
pub const READ_WRITE: u64 = 3;
/// Readable.
pub const READ: u64 = 1;
/// Private and anonymous.
const PRIVATE_ANONYMOUS: u64 = 0x22;

/// New memory, all zeroes, at an address that the kernel chooses.
#[inline(always)]
pub fn map(length: usize) -> Result<*mut u8, Error> {
    let arguments = [0, length as u64, READ_WRITE, PRIVATE_ANONYMOUS, u64::MAX, 0];
    // SAFETY: new memory is nobody's yet.
    check("mmap", unsafe { call(9, arguments) }).map(|address| address as *mut u8)
}

/// Changes what may be done with memory.
///
/// # Safety
/// Nobody may use the memory in a way that is forbidden from now on.
#[inline(always)]
pub unsafe fn protect(address: *mut u8, length: usize, protection: u64) -> Result<(), Error> {
    // SAFETY: the caller vouches.
    check("mprotect", unsafe { call(10, [address as u64, length as u64, protection, 0, 0, 0]) }).map(drop)
}

/// Gives memory back.
///
/// # Safety
/// Nobody may use it any more.
#[inline(always)]
pub unsafe fn unmap(address: *mut u8, length: usize) -> Result<(), Error> {
    // SAFETY: the caller vouches.
    check("munmap", unsafe { call(11, [address as u64, length as u64, 0, 0, 0, 0]) }).map(drop)
}

/// Makes a copy of this process; returns zero in it, and its number here.
#[inline(always)]
pub fn fork() -> Result<u64, Error> {
    // SAFETY: the copy has memory of its own, and there is only one thread.
    check("fork", unsafe { call(57, [0; 6]) })
}

/// Becomes another program; returns only if that fails.
pub fn execute(path: &CStr) -> Error {
    let arguments = [path.as_ptr(), core::ptr::null()];
    let environment = [core::ptr::null::<u8>()];
    let words = [path.as_ptr() as u64, arguments.as_ptr() as u64, environment.as_ptr() as u64, 0, 0, 0];
    // SAFETY: the two lists end with a null pointer, their strings with a null byte.
    Error { call: "execve", number: unsafe { -call(59, words) } }
}

/// Ends this process.
pub fn exit(status: u64) -> ! {
    loop {
        // SAFETY: nothing of this process is there afterwards.
        unsafe { call(231, [status, 0, 0, 0, 0, 0]) };
    }
}

/// Switches the machine off.
pub fn power_off() -> ! {
    const MAGIC: [u64; 2] = [0xfee1_dead, 672_274_793];
    const POWER_OFF: u64 = 0x4321_fedc;
    // SAFETY: ends everything; nothing was left to be written.
    unsafe { call(169, [MAGIC[0], MAGIC[1], POWER_OFF, 0, 0, 0]) };
    exit(1)
}
