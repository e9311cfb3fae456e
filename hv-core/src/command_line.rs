//! The hypervisor's command line: words for the hypervisor, then `--`, then the control domain's own line.
//!
//! An option is a word or `name=value`. Unknown ones are reported and ignored, because a machine that does not boot
//! for a typing error cannot be told so.

/// Longest command line kept; what is beyond is cut, and said so in the log.
const CAPACITY: usize = 2048;
/// The word that separates the two parts.
const SEPARATOR: &str = "--";

/// A kept copy of the command line.
pub struct CommandLine {
    bytes: [u8; CAPACITY],
    length: usize,
}

impl CommandLine {
    /// Keeps the text, up to the first byte that is no ASCII.
    pub fn new(text: &[u8]) -> Self {
        let mut bytes = [0; CAPACITY];
        let length = text.iter().take(CAPACITY).take_while(|byte| byte.is_ascii() && **byte != 0).count();
        bytes[..length].copy_from_slice(&text[..length]);
        Self { bytes, length }
    }

    fn text(&self) -> &str {
        // Only ASCII was kept.
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or("").trim()
    }

    fn parts(&self) -> (&str, &str) {
        let text = self.text();
        let separator = text.split_ascii_whitespace().find(|word| *word == SEPARATOR);
        // The word is a piece of the text, so the difference of the addresses is its place.
        let Some(place) = separator.map(|word| word.as_ptr() as usize - text.as_ptr() as usize) else {
            return (text, "");
        };
        (text[..place].trim_end(), text[place + SEPARATOR.len()..].trim_start())
    }

    /// The hypervisor's part.
    pub fn hypervisor(&self) -> &str {
        self.parts().0
    }

    /// The control domain's part.
    pub fn control_domain(&self) -> &str {
        self.parts().1
    }
}

/// What the hypervisor can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of memory for the control domain (`dom0_mem=`, in MiB, or with K, M or G).
    pub control_domain_memory: u64,
    /// Port of QEMU's debug exit device (`debug-exit=`), zero for none.
    pub debug_exit: u16,
    /// Most detailed messages that are logged (`loglevel=`).
    pub log_level: log::LevelFilter,
}

/// What holds for what nobody says.
const DEFAULTS: Options =
    Options { control_domain_memory: 128 << 20, debug_exit: 0, log_level: log::LevelFilter::Info };

impl Options {
    /// Reads the hypervisor's part; `complain` is told each word that means nothing.
    pub fn parse(line: &str, mut complain: impl FnMut(&str)) -> Self {
        let mut options = DEFAULTS;
        for word in line.split_ascii_whitespace() {
            if options.set(word).is_none() {
                complain(word);
            }
        }
        options
    }

    fn set(&mut self, word: &str) -> Option<()> {
        let (name, value) = word.split_once('=')?;
        match name {
            "dom0_mem" => self.control_domain_memory = size(value)?,
            "debug-exit" => self.debug_exit = u16::from_str_radix(value.trim_start_matches("0x"), 16).ok()?,
            "loglevel" => self.log_level = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }
}

/// A size with K, M or G behind it, in MiB without.
fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 20),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn separates_the_two_parts() {
        let line = CommandLine::new(b"dom0_mem=64M -- console=x run=\"a -- b\"");
        assert_eq!(line.hypervisor(), "dom0_mem=64M");
        assert_eq!(line.control_domain(), "console=x run=\"a -- b\"");
        assert_eq!(CommandLine::new(b"-- only dom0").control_domain(), "only dom0");
        assert_eq!(CommandLine::new(b"alone").control_domain(), "");
        assert_eq!(CommandLine::new(b"first -- ").hypervisor(), "first");
        assert_eq!(CommandLine::new(b"a--b --c").hypervisor(), "a--b --c", "not words of their own");
    }

    #[test]
    fn keeps_only_text() {
        assert_eq!(CommandLine::new(b"good\xffbad").hypervisor(), "good");
        assert_eq!(CommandLine::new(&[b'a'; 5000]).hypervisor().len(), CAPACITY);
    }

    #[test]
    fn reads_options_and_names_what_it_does_not_know() {
        let mut unknown = Vec::new();
        let options =
            Options::parse("dom0_mem=1G debug-exit=0xf4 nonsense loglevel=debug dom0_mem=x", |word| {
                unknown.push(std::string::String::from(word));
            });
        assert_eq!(options.control_domain_memory, 1 << 30);
        assert_eq!(options.debug_exit, 0xf4);
        assert_eq!(options.log_level, log::LevelFilter::Debug);
        assert_eq!(unknown, ["nonsense", "dom0_mem=x"]);
    }

    #[test]
    fn sizes_have_units_and_do_not_overflow() {
        assert_eq!(size("512"), Some(512 << 20));
        assert_eq!(size("4096K"), Some(4 << 20));
        assert_eq!(size("99999999999999G"), None);
        assert_eq!(size(""), None);
    }
}
