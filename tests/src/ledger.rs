//! What domain 0 knows of who has what: the same before and after, if whatever happened in between left nothing behind.

use crate::prompt::Prompt;

/// Free memory, domains, and all of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Pages that no domain has.
    pub free_pages: u64,
    /// Number and name of each domain.
    pub domains: Vec<(u16, String)>,
    /// The store, drawn as a tree.
    pub store: String,
}

impl Ledger {
    /// The ledger as it is now.
    ///
    /// # Panics
    ///
    /// If domain 0 does not tell.
    #[track_caller]
    pub fn of(dom0: &mut Prompt) -> Self {
        Self {
            free_pages: number(&dom0.succeed("info"), "free_pages"),
            domains: domains(&dom0.succeed("list")),
            store: dom0.succeed("store ls"),
        }
    }
}

/// The number behind a name in what `info` prints.
///
/// # Panics
///
/// If there is none.
#[track_caller]
pub fn number(info: &str, name: &str) -> u64 {
    let rows = info.lines().filter_map(|line| line.split_once(':'));
    let value = rows.filter(|(key, _)| key.trim() == name).find_map(|(_, value)| value.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no number {name} in\n{info}"))
}

/// Number and name of each domain in what `list` prints.
pub fn domains(list: &str) -> Vec<(u16, String)> {
    let rows = list.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    rows.filter_map(|row| Some((row.get(1)?.parse().ok()?, row[0].to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_understood() {
        assert_eq!(
            number("free_memory            : 888\nfree_pages             : 227400\n", "free_pages"),
            227400
        );
        let list = "Name      ID   Mem VCPUs\tState\tTime(s)\nDomain-0   0   128     1     r-----       0.2\na  12 64 1 r 0\n";
        assert_eq!(domains(list), [(0, "Domain-0".to_owned()), (12, "a".to_owned())]);
    }
}
