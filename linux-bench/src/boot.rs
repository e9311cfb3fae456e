//! From the kernel's start to this program, and the kernel module that measures what programs cannot.

use core::ffi::CStr;
use core::fmt::{self, Write};

use crate::output;
use crate::syscall::{self, Error};

/// Where the module is, if there is one, and where it shows its figures.
const MODULE: &CStr = c"/weir_bench.ko";
const FIGURES: &CStr = c"/proc/weir_bench";

/// Text that ends with a null byte.
struct Parameters([u8; 40], usize);

impl Write for Parameters {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.1 + text.len();
        self.0.get_mut(self.1..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.1 = end;
        Ok(())
    }
}

/// Loads the module first of all, for it tells how long the machine ran until `start`; on a machine without
/// hypervisor that is `start` itself.
pub fn prepare(start: u64) -> Result<(), Error> {
    syscall::mkdir(c"/proc").or_else(|error| if error.number == EXISTS { Ok(0) } else { Err(error) })?;
    syscall::mount(c"proc", c"/proc")?;
    output::line(format_args!("bench-at: {start} first instruction of user space"));
    let Ok(file) = syscall::open(MODULE) else { return Ok(()) };
    let mut parameters = Parameters([0; 40], 0);
    let _ = write!(parameters, "start={start}");
    let text = CStr::from_bytes_until_nul(&parameters.0).unwrap_or_default();
    syscall::finit_module(file as u32, text).map(drop)
}

/// The error number of what is there already.
const EXISTS: i64 = 17;

/// Prints what the module measured.
pub fn module_figures() -> Result<(), Error> {
    let Ok(file) = syscall::open(FIGURES) else { return Ok(()) };
    let mut text = [0; 4096];
    let length = syscall::read(file as u32, &mut text)? as usize;
    for line in text[..length].split_inclusive(|byte| *byte == b'\n') {
        syscall::write(1, line)?;
    }
    Ok(())
}
