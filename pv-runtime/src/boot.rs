//! What the domain builder says about the domain.

use alloc::string::String;

use hypercall_abi::xen::{SIF_INITDOMAIN, SIF_PRIVILEGED, StartInfo};
use hypercall_abi::{DomainId, MachineFrame, Port};

/// What a kernel is told when it starts.
#[derive(Debug)]
pub struct BootInfo {
    /// Pages of memory that the domain has.
    pub memory_pages: usize,
    /// The kernel's command line.
    pub command_line: String,
    /// The boot module, such as an archive, if one was given.
    pub module: Option<&'static [u8]>,
    /// Whether this is the domain that owns the devices and runs the toolstack.
    pub is_initial_domain: bool,
    /// Whether the domain may use privileged hypercalls.
    pub is_privileged: bool,
    /// The page and the port of the connection to the store, unless this domain runs the store.
    pub store: Option<(MachineFrame, Port)>,
    /// The page and the port of the console ring. The initial domain has the hypervisor's console instead.
    pub console: Option<(MachineFrame, Port)>,
    /// This domain's number.
    pub domain_id: DomainId,
    /// The hypervisor's version: major, minor.
    pub hypervisor_version: (u16, u16),
}

impl BootInfo {
    /// The value of `name=value` on the command line; the last one counts.
    pub fn option(&self, name: &str) -> Option<&str> {
        option(&self.command_line, name)
    }

    /// Whether `name` stands on the command line by itself.
    pub fn flag(&self, name: &str) -> bool {
        self.command_line.split_ascii_whitespace().any(|word| word == name)
    }

    /// Puts together what does not need memory to be looked at.
    pub(crate) fn new(info: &StartInfo, module: Option<&'static [u8]>) -> Self {
        let is_initial_domain = info.flags & SIF_INITDOMAIN != 0;
        let connection =
            |frame: MachineFrame, port: Port| (frame.0 != 0 && port.0 != 0).then_some((frame, port));
        let console = connection(info.console.mfn, info.console.evtchn);
        Self {
            memory_pages: info.nr_pages as usize,
            command_line: command_line(&info.cmd_line),
            module,
            is_initial_domain,
            is_privileged: info.flags & SIF_PRIVILEGED != 0,
            store: connection(info.store_mfn, info.store_evtchn),
            console: console.filter(|_| !is_initial_domain),
            domain_id: DomainId::ZERO,
            hypervisor_version: (0, 0),
        }
    }
}

/// The text up to the first zero.
fn command_line(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// The value of the last word `name=value` in `words`.
fn option<'a>(words: &'a str, name: &str) -> Option<&'a str> {
    words.split_ascii_whitespace().rev().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_whole_words_and_the_last_counts() {
        let words = "ip=1.2.3.4 log=info  log=debug catalog=no";
        assert_eq!(option(words, "log"), Some("debug"));
        assert_eq!(option(words, "ip"), Some("1.2.3.4"));
        assert_eq!(option(words, "lo"), None);
    }

    #[test]
    fn the_command_line_ends_at_the_first_zero() {
        assert_eq!(command_line(b"a b\0junk"), "a b");
        assert_eq!(command_line(b""), "");
        assert_eq!(command_line(b"\xff!"), "\u{fffd}!");
    }
}
