//! What domain 0 knows of who has what: the same before and after, if whatever happened in between left nothing behind.

use crate::prompt::Prompt;

/// Free memory, domains, and all of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Pages that no domain has, and those in which the hypervisor records what domain 0 has mapped: these are free as
    /// far as guests go, and as many as there ever were mappings at a time.
    pub free_pages: u64,
    /// Grants of others that domain 0 has mapped.
    pub mapped: u64,
    /// Event channels of domain 0.
    pub ports: u64,
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
        let counters = dom0.succeed("perf");
        let info = dom0.succeed("info");
        Self {
            free_pages: number(&info, "free_pages") + counter(&counters, "domain 0 maptrack frames"),
            mapped: counter(&counters, "domain 0 grants mapped"),
            ports: number(&info, "dom0_ports"),
            domains: domains(&dom0.succeed("list")),
            store: dom0.succeed("store ls"),
        }
    }

    /// Makes sure that everything is as it was when this was taken.
    ///
    /// # Panics
    ///
    /// If not; says what differs, and after what.
    #[track_caller]
    pub fn expect_same(&self, dom0: &mut Prompt, after: &str) {
        let difference = self.difference(&Self::of(dom0));
        assert!(
            difference.is_empty(),
            "after {after}, the ledger differs:\n{difference}\n{}",
            dom0.console()
        );
    }

    /// What was taken away and what was added since, a line each; empty if nothing was.
    fn difference(&self, later: &Self) -> String {
        let (before, after) = (self.lines(), later.lines());
        let gone = before.iter().filter(|line| !after.contains(line)).map(|line| format!("- {line}\n"));
        let fresh = after.iter().filter(|line| !before.contains(line)).map(|line| format!("+ {line}\n"));
        gone.chain(fresh).collect()
    }

    /// All of it as lines; those of the store with their whole paths.
    fn lines(&self) -> Vec<String> {
        let domains = self.domains.iter().map(|(number, name)| format!("domain {number} {name}"));
        let mut path: Vec<&str> = Vec::new();
        let nodes = self.store.lines().map(|line| {
            let node = line.trim_start();
            path.truncate(line.len() - node.len());
            path.push(node.split(" = ").next().unwrap_or(node));
            let value = node.split_once(" = ").map_or("", |(_, value)| value);
            format!("/{} = {value}", path.join("/"))
        });
        let numbers =
            [(self.free_pages, "free pages"), (self.mapped, "grants mapped"), (self.ports, "ports in use")];
        let numbers = numbers.map(|(count, what)| format!("{count} {what}"));
        numbers.into_iter().chain(domains).chain(nodes).collect()
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

/// The value of a counter in what `perf` prints.
fn counter(counters: &str, name: &str) -> u64 {
    let values = counters.lines().filter_map(|line| line.trim_end().rsplit_once(' '));
    let value = values.filter(|(key, _)| key.trim() == name).find_map(|(_, value)| value.parse().ok());
    value.unwrap_or_else(|| panic!("no counter {name} in\n{counters}"))
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
        let counters = "idle ticks                        5\ndomain 0 grants mapped           17\n";
        assert_eq!(counter(counters, "domain 0 grants mapped"), 17);
        let list = "Name      ID   Mem VCPUs\tState\tTime(s)\nDomain-0   0   128     1     r-----       0.2\na  12 64 1 r 0\n";
        assert_eq!(domains(list), [(0, "Domain-0".to_owned()), (12, "a".to_owned())]);
    }

    #[test]
    fn a_difference_names_what_came_and_went() {
        let before = Ledger {
            free_pages: 5,
            mapped: 0,
            ports: 9,
            domains: Vec::new(),
            store: "a = \"\"\n b = \"1\"\nc = \"\"\n".to_owned(),
        };
        assert_eq!(before.difference(&before.clone()), "");
        let store = "a = \"\"\nc = \"\"\n b = \"1\"\n".to_owned();
        let after = Ledger { free_pages: 4, mapped: 2, ports: 9, domains: vec![(1, "x".to_owned())], store };
        let expected = "- 5 free pages\n- 0 grants mapped\n- /a/b = \"1\"\n+ 4 free pages\n+ 2 grants mapped\n+ domain 1 x\n+ /c/b = \"1\"\n";
        assert_eq!(before.difference(&after), expected);
    }
}
