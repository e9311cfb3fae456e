//! What a half-typed line may go on with.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::usage;

/// Commands whose first word behind their name is a guest.
const WITH_GUEST: [&str; 21] = [
    "block-attach",
    "block-detach",
    "block-list",
    "console",
    "destroy",
    "domid",
    "guest-run",
    "list",
    "mem-max",
    "mem-set",
    "network-attach",
    "network-detach",
    "network-list",
    "pause",
    "reboot",
    "rename",
    "send",
    "shutdown",
    "sysrq",
    "unpause",
    "vcpu-list",
];

/// What names there are at the moment.
pub struct Names {
    /// Of guests.
    pub guests: Vec<String>,
    /// Of files.
    pub files: Vec<String>,
}

/// What the last word of a line may become, in order.
pub fn candidates(line: &str, names: &Names) -> Vec<String> {
    let (before, begun) = line.rsplit_once(' ').unwrap_or(("", line));
    let mut words = before.split_whitespace().filter(|word| *word != "xl");
    let all: Vec<String> = match words.next() {
        None | Some("help") => usage::names().iter().map(|name| (*name).to_owned()).collect(),
        Some("create") => names.files.iter().filter(|file| file.ends_with(".cfg")).cloned().collect(),
        Some("store") => ["ls", "quota", "read", "rm", "write"].map(ToOwned::to_owned).into(),
        Some("sched-credit2" | "uptime" | "bench") => names.guests.clone(),
        Some(command) if WITH_GUEST.contains(&command) => names.guests.clone(),
        Some(_) => Vec::new(),
    };
    let mut fitting: Vec<_> = all.into_iter().filter(|word| word.starts_with(begun)).collect();
    fitting.sort();
    fitting.dedup();
    fitting
}

/// The beginning that all have.
pub fn common_beginning(words: &[String]) -> &str {
    let Some((first, others)) = words.split_first() else { return "" };
    let mut length = first.len();
    for other in others {
        let same = first.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count();
        length = length.min(same);
    }
    first.get(..length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(line: &str) -> Vec<String> {
        let names = Names {
            guests: ["web", "db", "web-2"].map(String::from).into(),
            files: ["guest", "web.cfg", "db.cfg"].map(String::from).into(),
        };
        candidates(line, &names)
    }

    #[test]
    fn the_last_word_is_completed() {
        assert_eq!(complete("des"), ["destroy"]);
        assert_eq!(complete("xl dom"), ["domid", "domname"]);
        assert_eq!(complete("destroy w"), ["web", "web-2"]);
        assert_eq!(complete("create "), ["db.cfg", "web.cfg"]);
        assert_eq!(complete("help sch"), ["sched-credit2"]);
        assert_eq!(complete("store r"), ["read", "rm"]);
        assert!(complete("sleep ").is_empty() && complete("zz").is_empty());
    }

    #[test]
    fn the_common_beginning_is_as_long_as_can_be() {
        let of = |words: &[&str]| {
            common_beginning(&words.iter().map(|word| String::from(*word)).collect::<Vec<_>>()).to_owned()
        };
        assert_eq!(of(&["web", "web-2"]), "web");
        assert_eq!(of(&["a", "b"]), "");
        assert_eq!(of(&["only"]), "only");
        assert_eq!(of(&[]), "");
    }

    #[test]
    fn every_command_with_a_guest_is_a_command() {
        assert!(WITH_GUEST.iter().all(|name| usage::names().contains(name)));
    }
}
