//! From a configuration file to what a guest is to be like.
//!
//! A file and the words behind it on the command line are the same thing: assignments, of which the last counts.
//! Whatever is wrong is told with the line it stands in; what makes no difference here is a warning.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use pv_runtime::println;

use super::Toolstack;
use super::configuration::GuestConfiguration;
use super::cpus::{CpuSet, CpuSetError};
use crate::config_file::keys::{Support, support};
use crate::config_file::{Assignment, Value, parse};

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// What the guest is to be like.
    pub configuration: GuestConfiguration,
    /// What was passed over, with its line.
    pub warnings: Vec<String>,
}

/// Why a file describes no guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// The file.
    pub file: String,
    /// The line; `None` if it is in no line: a word of the command line, or something that is missing.
    pub line: Option<u32>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(formatter, "{}: line {line}: {}", self.file, self.what),
            None => write!(formatter, "{}: {}", self.file, self.what),
        }
    }
}

impl core::error::Error for FileError {}

/// A mistake, and its line if it is in the file.
type Mistake = (Option<u32>, String);

impl GuestConfiguration {
    /// What the file `file` with this content says of a guest, changed by `words` such as `memory=64`.
    ///
    /// # Errors
    ///
    /// The first mistake.
    pub fn from_file(file: &str, content: &[u8], words: &[&str]) -> Result<Described, FileError> {
        let wrong = |(line, what): Mistake| FileError { file: file.to_owned(), line, what };
        let assignments =
            parse(content).map_err(|error| wrong((Some(error.line), error.what.to_string())))?;
        let mut draft = Draft::of(&assignments, words).map_err(wrong)?;
        assignments.iter().try_for_each(|one| draft.assign(one)).map_err(wrong)?;
        words.iter().try_for_each(|word| draft.assign_word(word)).map_err(|what| wrong((None, what)))?;
        let warnings = core::mem::take(&mut draft.warnings);
        let configuration = draft.finish().map_err(|what| wrong((None, what)))?;
        Ok(Described {
            configuration,
            warnings: warnings.iter().map(|text| format!("{file}: {text}")).collect(),
        })
    }
}

impl Toolstack {
    /// Makes the guests that start by themselves. What goes wrong with one is said, and the next one follows.
    pub async fn start_automatic(&self) {
        for path in self.automatic().await {
            if let Err(error) = self.start_from(&path).await {
                println!("error: {error}");
            }
        }
    }

    async fn start_from(&self, path: &str) -> Result<(), String> {
        let content = self.file(path).await.map_err(|error| error.to_string())?;
        let described =
            GuestConfiguration::from_file(path, &content, &[]).map_err(|error| error.to_string())?;
        described.warnings.iter().for_each(|warning| println!("warning: {warning}"));
        let guest =
            self.create(&described.configuration).await.map_err(|error| format!("{path}: {error}"))?;
        println!("domain {} is {}, from {path}", guest.domain, guest.name());
        Ok(())
    }
}

/// A configuration in the making.
struct Draft {
    configuration: GuestConfiguration,
    warnings: Vec<String>,
    /// Keys that were set, and the line in which.
    set: BTreeMap<String, u32>,
    /// Lists that words have begun anew.
    renewed: Vec<String>,
    root: String,
    extra: String,
}

impl Draft {
    /// A guest with the name that is said last, in the file or by a word.
    fn of(assignments: &[Assignment], words: &[&str]) -> Result<Self, Mistake> {
        let by_word = words.iter().rev().find_map(|word| word.strip_prefix("name="));
        let (line, name) = match assignments.iter().rfind(|one| one.key == "name") {
            _ if by_word.is_some() => (None, by_word.unwrap_or_default().to_owned()),
            Some(one) => (Some(one.line), scalar(one)?),
            None => return Err((None, "the guest's name is missing: name = \"...\"".to_owned())),
        };
        let configuration = GuestConfiguration::new(&name).map_err(|error| (line, error.to_string()))?;
        Ok(Self {
            configuration,
            warnings: Vec::new(),
            set: BTreeMap::new(),
            renewed: Vec::new(),
            root: String::new(),
            extra: String::new(),
        })
    }

    fn assign(&mut self, one: &Assignment) -> Result<(), Mistake> {
        let key = one.key.as_str();
        match support(key) {
            None => return Err((Some(one.line), format!("there is no key {key:?}"))),
            Some(Support::Missing) => return Err((Some(one.line), format!("{key} is not there yet"))),
            Some(Support::WithoutEffect) => {
                self.warn(one.line, format!("{key} has no effect on a paravirtual guest"));
                return Ok(());
            }
            Some(Support::Taken) => {}
        }
        if let Some(earlier) = self.set.insert(key.to_owned(), one.line)
            && !one.adds
        {
            self.warn(one.line, format!("{key} is set in line {earlier} already; this one counts"));
        }
        match (key, &one.value) {
            ("disk" | "vif" | "pci", Value::List(values)) => self.assign_devices(one, values),
            ("disk" | "vif" | "pci", _) => {
                Err((Some(one.line), format!("{key} is a list: {key} = [ '...' ]")))
            }
            ("cpus", Value::List(values)) => {
                self.configuration.cpus = cpu_sets(key, values)?;
                Ok(())
            }
            ("cpus_soft", Value::List(values)) => {
                self.configuration.cpus_soft = cpu_sets(key, values)?;
                Ok(())
            }
            _ => self.assign_scalar(key, &scalar(one)?).map_err(|what| (Some(one.line), what)),
        }
    }

    fn assign_devices(&mut self, one: &Assignment, values: &[(u32, Value)]) -> Result<(), Mistake> {
        if !one.adds {
            self.forget_devices(&one.key);
        }
        for (line, value) in values {
            let Value::Text(text) = value else {
                return Err((Some(*line), format!("each {} is a text in quotes", one.key)));
            };
            self.set_word(&one.key, text).map_err(|what| (Some(*line), what))?;
        }
        Ok(())
    }

    fn forget_devices(&mut self, key: &str) {
        match key {
            "disk" => self.configuration.disks.clear(),
            "pci" => self.configuration.pci.clear(),
            _ => self.configuration.nics.clear(),
        }
    }

    /// A word such as `memory=64`, or a bare one. The first device of a kind takes the place of all in the file.
    fn assign_word(&mut self, word: &str) -> Result<(), String> {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        if matches!(key, "disk" | "vif" | "pci") {
            if !self.renewed.iter().any(|known| known == key) {
                self.renewed.push(key.to_owned());
                self.forget_devices(key);
            }
            return self.set_word(key, value);
        }
        if !word.contains('=') {
            return self.configuration.set(word).map_err(|error| error.to_string());
        }
        match support(key) {
            Some(Support::Taken) => self.assign_scalar(key, value),
            Some(_) => Err(format!("{key} is not there yet")),
            None => Err(format!("there is no key {key:?}")),
        }
    }

    fn assign_scalar(&mut self, key: &str, value: &str) -> Result<(), String> {
        match (key, value) {
            ("name", _) => Ok(()),
            ("type", "pv") | ("builder", "linux" | "generic") => Ok(()),
            ("type" | "builder", _) => {
                Err(format!("{key}={value}: there are paravirtual guests only: type = \"pv\""))
            }
            ("root", device) => {
                self.root = device.to_owned();
                Ok(())
            }
            ("extra", text) => {
                self.extra = text.to_owned();
                Ok(())
            }
            _ => self.set_word(key, value),
        }
    }

    fn set_word(&mut self, key: &str, value: &str) -> Result<(), String> {
        self.configuration.set(&format!("{key}={value}")).map_err(|error| error.to_string())
    }

    fn warn(&mut self, line: u32, what: String) {
        self.warnings.push(format!("line {line}: {what}"));
    }

    /// Puts the command line together from its parts, unless it is said as a whole.
    fn finish(mut self) -> Result<GuestConfiguration, String> {
        if self.configuration.command_line.is_empty() {
            let root = if self.root.is_empty() { String::new() } else { format!("root={}", self.root) };
            let line = format!("{root} {}", self.extra);
            self.set_word("cmdline", line.trim())?;
        }
        self.configuration.check().map_err(|error| error.to_string())?;
        Ok(self.configuration)
    }
}

/// Processors for one virtual CPU after the other.
fn cpu_sets(key: &str, values: &[(u32, Value)]) -> Result<Vec<CpuSet>, Mistake> {
    let set = |(line, value): &(u32, Value)| {
        let text = match value {
            Value::Text(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::List(_) => return Err((Some(*line), format!("each of {key} is one text or number"))),
        };
        text.parse().map_err(|error: CpuSetError| (Some(*line), error.to_string()))
    };
    values.iter().map(set).collect()
}

/// A value that is one text or one number, as text.
fn scalar(one: &Assignment) -> Result<String, Mistake> {
    match &one.value {
        Value::Text(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::List(_) => Err((Some(one.line), format!("{} is no list", one.key))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolstack::Reaction;

    fn read(content: &str, words: &[&str]) -> Result<Described, String> {
        let read = GuestConfiguration::from_file("web.cfg", content.as_bytes(), words);
        read.map_err(|error| error.to_string())
    }

    const WEB: &str = "name = 'web'\ntype = \"pv\"\nkernel = \"/boot/vmlinuz\"\nramdisk = '/boot/initrd'\n\
        memory = 256\nroot = '/dev/xvda1'\nextra = 'ro quiet'\nvif = [ '', 'mac=00:16:3e:01:02:03' ]\n\
        disk = [ 'phy:disk0,xvda,w',\n 'disk1,raw,xvdb,r' ]\non_crash = 'preserve'\ncpu_weight = 512\ncpus = [ 1, '0-1' ]\n\
        cpus_soft = '^0'\ncap = 40\nuuid = '11111111-2222-3333-4444-555555555555'\n";

    #[test]
    fn a_file_of_xls_describes_a_guest() {
        let Described { configuration, warnings } = read(WEB, &[]).unwrap();
        assert_eq!(warnings, [""; 0]);
        assert_eq!((configuration.name.as_str(), configuration.memory), ("web", 256));
        assert_eq!(configuration.kernel, "/boot/vmlinuz");
        assert_eq!(configuration.command_line, "root=/dev/xvda1 ro quiet");
        assert_eq!((configuration.disks.len(), configuration.nics.len()), (2, 2));
        assert_eq!(configuration.on_crash, Reaction::Preserve);
        assert_eq!((configuration.weight, configuration.cap), (512, 40));
        assert_eq!(configuration.cpus, [CpuSet(2), CpuSet(3)]);
        assert_eq!(configuration.cpus_soft, [CpuSet(!1); 32]);
        assert_eq!(
            configuration.handle.map(|handle| handle.to_string()).as_deref(),
            Some("11111111-2222-3333-4444-555555555555")
        );
    }

    #[test]
    fn words_change_what_the_file_says() {
        let words = ["name=other", "memory=64", "disk=disk2", "disk=disk3", "extra=single", "paused"];
        let configuration = read(WEB, &words).unwrap().configuration;
        assert_eq!((configuration.name.as_str(), configuration.memory), ("other", 64));
        assert_eq!(configuration.disks.len(), 2);
        assert_eq!(configuration.disks[0].target.to_string(), "disk2");
        assert_eq!(configuration.command_line, "root=/dev/xvda1 single");
        assert!(configuration.starts_paused);
    }

    #[test]
    fn what_makes_no_difference_is_a_warning() {
        let text = "name='a'\nvnc=1\nmemory=32\nmemory=64\ndisk=['disk0']\ndisk+=['disk1']";
        let Described { configuration, warnings } = read(text, &[]).unwrap();
        assert_eq!(
            warnings,
            [
                "web.cfg: line 2: vnc has no effect on a paravirtual guest",
                "web.cfg: line 4: memory is set in line 3 already; this one counts"
            ]
        );
        assert_eq!((configuration.memory, configuration.disks.len()), (64, 2));
    }

    #[test]
    fn mistakes_are_told_with_file_and_line() {
        for (text, expected) in [
            ("name='a'\nmemroy=5", "web.cfg: line 2: there is no key \"memroy\""),
            ("name='a'\nusbdev=['type=hostdev']", "web.cfg: line 2: usbdev is not there yet"),
            ("memory=64", "web.cfg: the guest's name is missing: name = \"...\""),
            ("name=['a']", "web.cfg: line 1: name is no list"),
            (
                "name='a'\ntype='hvm'",
                "web.cfg: line 2: type=hvm: there are paravirtual guests only: type = \"pv\"",
            ),
            ("name='a'\ndisk='disk0'", "web.cfg: line 2: disk is a list: disk = [ '...' ]"),
            ("name='a'\ndisk=['disk0',\n5]", "web.cfg: line 3: each disk is a text in quotes"),
            (
                "name='a'\ndisk=['disk0,hda']",
                "web.cfg: line 2: \"hda\" is no name for a guest's disk: xvda to xvdp",
            ),
            ("name='a'\ndisk=['disk0,xvda','disk1,xvda']", "web.cfg: line 2: two disks are called xvda"),
            (
                "name='a'\ndisk=['disk0','disk0']",
                "web.cfg: xvda and xvdb are the same sectors, and one may be written",
            ),
            (
                "name='a'\nvif=['mac=00:16:3e:00:00:01','mac=00:16:3e:00:00:01']",
                "web.cfg: two interfaces have the address 00:16:3e:00:00:01",
            ),
            (
                "name='a'\nmemory='lots'",
                "web.cfg: line 2: memory=lots: a number of MiB from 1 to 65536 is expected",
            ),
            ("name='a'\nmemory=64\nmaxmem=32", "web.cfg: maxmem=32 is less than memory=64"),
            ("name='a'\nvcpus=4\nmaxvcpus=2", "web.cfg: maxvcpus=2 is less than vcpus=4"),
            (
                "name='a'\ncap='x'",
                "web.cfg: line 2: cap=x: per cent of a CPU from 1 to 65535, or 0 for no cap, is expected",
            ),
            (
                "name='a'\ncpus='0-x'",
                "web.cfg: line 2: \"0-x\" is no list of CPUs, such as 0-3,5 or all or all,^1",
            ),
            ("name='a'\ncpus=['0',\n'0,^0']", "web.cfg: line 3: the list leaves no CPU to run on"),
            ("name='a'\ncpu_weight=0", "web.cfg: line 2: cpu_weight=0: a number from 1 to 65535 is expected"),
            (
                "name='a'\nuuid='x'",
                "web.cfg: line 2: uuid=x: 32 hexadecimal digits in five groups is expected",
            ),
            ("name='a\n", "web.cfg: line 1: a text is not closed"),
        ] {
            assert_eq!(read(text, &[]), Err(expected.to_owned()), "{text}");
        }
        assert_eq!(read(WEB, &["colour=red"]), Err("web.cfg: there is no key \"colour\"".to_owned()));
        assert_eq!(read(WEB, &["pool=x"]), Err("web.cfg: pool is not there yet".to_owned()));
    }
}
