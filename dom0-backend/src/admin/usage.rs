//! What there is to be said about each command: its words, what it does, and which of `xl`'s are not there.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Each command's words, and what it does.
pub const USAGES: &[(&str, &str)] = &[
    ("help [COMMAND]", "this list, or more about a command"),
    ("list [-l] [-v] [NAME]", "the domains; -v with their uuids, -l as JSON"),
    ("create [-p] [-c] [-n] FILE [KEY=VALUE...]", "make a guest as a file of xl.cfg's kind says"),
    (
        "create [-p] [-c] [-n] NAME [SETTING...]",
        "make a guest; -p paused, -c with its console, -n not really",
    ),
    ("shutdown [-w] NAME | -a", "ask a guest, or all, to switch off; -w waits until that is done"),
    ("reboot [-w] NAME | -a", "ask a guest, or all, to end and be made anew"),
    ("destroy NAME", "take a guest apart, whatever it is doing"),
    ("pause NAME", "stop a guest"),
    ("unpause NAME", "let it go on"),
    ("console NAME", "talk to a guest; Ctrl-] leaves"),
    ("console NAME --tail [LINES]", "the last lines of a guest's console"),
    ("send NAME TEXT", "type a line at a guest's console"),
    ("guest-run [-t SECONDS] NAME COMMAND", "have a guest's shell run a command, and print its output"),
    ("sysrq NAME LETTER", "send a guest's kernel a magic system request"),
    ("domid NAME", "a domain's number"),
    ("domname NUMBER", "a domain's name"),
    ("rename NAME NEW", "call a guest otherwise"),
    ("uptime [-s] [NAME...]", "how long domains have been running"),
    ("vcpu-list [NAME...]", "virtual CPUs, and what they are doing"),
    (
        "vcpu-pin [--dedicated] NAME VCPU|all CPUS [SOFT]",
        "where virtual CPUs run: 0-3,5 or all or all,^1; - as before",
    ),
    ("vcpu-set NAME COUNT", "plug in so many of a guest's virtual CPUs, and unplug the others"),
    ("trigger NAME nmi [VCPU]", "send a virtual CPU a non-maskable interrupt"),
    ("cpupool-list [-c] [Pool-0]", "the pools of processors: there is one; -c with its processors"),
    ("mem-set NAME SIZE", "ask a guest to change its memory to SIZE, MiB or such as 64m"),
    ("mem-max NAME SIZE", "limit the memory to which a guest may grow"),
    ("sched-credit2 [-d NAME [-w WEIGHT] [-c CAP]]", "shares of the processors, and caps in per cent of one"),
    ("block-attach NAME TARGET[,DISK[,r|w]]", "plug a disk into a guest that runs"),
    ("block-detach [--force] NAME DISK", "take it away; --force does not ask the guest"),
    ("network-attach NAME [mac=ADDRESS] [vlan=N]", "plug in a network interface"),
    ("network-detach [--force] NAME NUMBER|ADDRESS", "take it away, likewise"),
    ("block-list [NAME...]", "the guests' disks, and what was counted; of NAME, as xl shows them"),
    ("network-list [NAME...]", "the guests' network interfaces, likewise"),
    ("store ls [PATH]", "a part of the store"),
    ("store read PATH", "a value in the store"),
    ("store write PATH VALUE", "set a value in the store"),
    ("store rm PATH", "remove a part of the store"),
    ("store quota", "what domains have of the store, of what they may"),
    ("pci-assignable-list", "PCI devices that guests can be given"),
    ("pci-assignable-add BDF", "make a PCI device that nobody drives one for guests"),
    ("pci-assignable-remove BDF", "take a PCI device from those for guests"),
    ("pci-list NAME", "a guest's PCI devices"),
    ("top [-b] [-d SECONDS] [-i TIMES]", "who uses what, again and again; q ends it"),
    ("info", "the machine and the hypervisor"),
    ("dmesg [-c]", "the hypervisor's log; -c empties it"),
    ("perf [-r]", "the hypervisor's counters; -r sets them to zero, and counts ticks from now on"),
    ("bench micro [NAME]", "what things cost, in guests made for it or in this one"),
    ("bench traffic TEXT", "what requests or packets cost whose name in `bench micro` has this text"),
    (
        "bench io DISK ACTION ORDER BYTES DEPTH ROUNDS",
        "what a disk request costs; write and flush write to DISK",
    ),
    (
        "bench wire NEAR FAR KIND BYTES COUNT ROUNDS",
        "what traffic costs between a guest's interfaces: `vif`, or a card's address",
    ),
    ("bench pair BYTES COUNT ROUNDS", "what packets cost between two guests"),
    ("bench create COUNT", "how long domains take to be made, the first to the last"),
    ("bench guests MIB", "how many idle guests of this size there is room for"),
    ("drill GUESTS", "make guests while steps of it fail on purpose; is anything left of them?"),
    ("sleep SECONDS", "do nothing for a while"),
    ("poweroff", "ask all guests to end, then switch the machine off; also: shutdown"),
];

/// `xl`'s other commands.
pub const NOT_YET: &[&str] = &[
    "button-press",
    "cd-eject",
    "cd-insert",
    "channel-list",
    "claims",
    "config-update",
    "cpupool-cpu-add",
    "cpupool-cpu-remove",
    "cpupool-create",
    "cpupool-destroy",
    "cpupool-migrate",
    "cpupool-numa-split",
    "cpupool-rename",
    "debug-keys",
    "devd",
    "dt-overlay",
    "dump-core",
    "fork-vm",
    "getenforce",
    "loadpolicy",
    "migrate",
    "migrate-receive",
    "pci-attach",
    "pci-detach",
    "psr-cat-cbm-set",
    "psr-cat-show",
    "psr-cmt-attach",
    "psr-cmt-detach",
    "psr-cmt-show",
    "psr-hwinfo",
    "psr-mba-set",
    "psr-mba-show",
    "qemu-monitor-command",
    "remus",
    "restore",
    "resume",
    "save",
    "sched-credit",
    "sched-rtds",
    "set-parameters",
    "setenforce",
    "sharing",
    "suspend",
    "usb-list",
    "usbctrl-attach",
    "usbctrl-detach",
    "usbdev-attach",
    "usbdev-detach",
    "vdispl-attach",
    "vdispl-detach",
    "vdispl-list",
    "vkb-attach",
    "vkb-detach",
    "vkb-list",
    "vm-list",
    "vncviewer",
    "vsnd-attach",
    "vsnd-detach",
    "vsnd-list",
    "vtpm-attach",
    "vtpm-detach",
    "vtpm-list",
];

/// What can be said of a guest.
const SETTINGS: &str = "\
A word with a slash, or one that ends with .cfg, is a file; any other is a name.

Settings of a guest:
  kernel=FILE      its kernel                                       [guest]
  ramdisk=FILE     its module, such as a RAM disk                   [none]
  memory=MIB       its memory                                       [64]
  vcpus=N          its virtual CPUs, 1 to 32                        [1]
  maxvcpus=N       those that can be plugged in, by `vcpu-set`      [vcpus]
  maxmem=MIB       the memory up to which it may grow               [memory]
  cmdline=\"TEXT\"   its command line                                 [empty]
  disk=TARGET[,NAME[,r|w]]
                   a disk; TARGET is a disk of the machine (disk0) or a part of one
                   (disk0@OFFSET, disk0@OFFSET+SIZE; sizes such as 64M);
                   r! or w! to have what another guest has
  vif, vif=[mac=ADDRESS][,vlan=N][,antispoof=0]
                   a network interface at the switch
  cpu_weight=N     its share of the processors                      [256]
  cap=PERCENT      the most it gets of them, 100 for one            [no limit]
  cpus=LIST        where it may run, such as 0-1                    [all]
  cpus_soft=LIST   where it should run if there is room             [all]
  uuid=UUID        its uuid                                         [made up]
  on_poweroff=, on_reboot=, on_crash=
                   destroy, restart or preserve                     [destroy, restart, destroy]
  paused           do not let it run yet
";

/// What is true of all commands.
const GENERAL: &str = "\
A NAME is a guest's name or number. Any command takes --json right behind its first word, and
answers with one JSON object in one line then. A command's first letters do, if no other begins so.
";

/// The names of all commands, each once.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = USAGES.iter().map(|(usage, _)| first_word(usage)).collect();
    names.dedup();
    names
}

/// The command that is meant by its name or by its first letters.
///
/// # Errors
///
/// All that begin so, if not exactly one does.
pub fn command_named(name: &str) -> Result<&'static str, Vec<&'static str>> {
    let names = names();
    if let Some(known) = names.iter().find(|known| **known == name) {
        return Ok(known);
    }
    let beginning: Vec<_> = names.into_iter().filter(|known| known.starts_with(name)).collect();
    match beginning.as_slice() {
        [only] => Ok(only),
        _ => Err(beginning),
    }
}

/// What is said of one command.
pub fn usages_of(name: &str) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    USAGES.iter().filter(move |(usage, _)| first_word(usage) == name)
}

fn first_word(usage: &'static str) -> &'static str {
    usage.split(' ').next().unwrap_or(usage)
}

/// What `help` prints.
pub fn help(topic: Option<&str>) -> Option<String> {
    let usages: Vec<_> = match topic {
        None => USAGES.iter().collect(),
        Some(name) => usages_of(name).collect(),
    };
    if usages.is_empty() {
        return None;
    }
    let lines = usages.iter().map(|(usage, meaning)| match usage.len() {
        0..=38 => format!("  {usage:<38} {meaning}\n"),
        _ => format!("  {usage}\n  {:<38} {meaning}\n", ""),
    });
    let more = match topic {
        None => GENERAL,
        Some("create") => SETTINGS,
        Some(_) => "",
    };
    Some(lines.collect::<String>() + if more.is_empty() { "" } else { "\n" } + more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_letters_do_if_no_other_command_begins_so() {
        assert_eq!(command_named("list"), Ok("list"));
        assert_eq!(command_named("dest"), Ok("destroy"));
        assert_eq!(command_named("dom"), Err(["domid", "domname"].to_vec()));
        assert_eq!(command_named("zz"), Err(Vec::new()));
        assert_eq!(command_named("s").unwrap_err().first(), Some(&"shutdown"));
    }

    #[test]
    fn help_fits_a_terminal() {
        let long: Vec<_> =
            help(None).unwrap().lines().filter(|line| line.len() > 120).map(String::from).collect();
        assert_eq!(long, [""; 0]);
        assert!(help(Some("create")).unwrap().contains("kernel=FILE"));
        assert_eq!(help(Some("nonsense")), None);
    }

    #[test]
    fn every_command_of_xls_is_in_the_documentation() {
        let text = include_str!("../../../docs/administration.md");
        let table = text.split("## `xl`'s commands").nth(1).unwrap().split("\n## ").next().unwrap();
        let named = |name: &str| {
            let families = name.match_indices('-').map(|(end, _)| format!("`{}-*`", &name[..end]));
            let families = families.chain(name.starts_with("usb").then(|| "`usb*`".into()));
            table.contains(&format!("`{name}`")) || families.into_iter().any(|family| table.contains(&family))
        };
        let missing: Vec<_> = NOT_YET.iter().copied().chain(names()).filter(|name| !named(name)).collect();
        assert_eq!(missing, ["help"]);
    }

    #[test]
    fn nothing_is_there_and_not_there() {
        assert!(NOT_YET.iter().all(|name| !names().contains(name)));
        assert!(NOT_YET.is_sorted());
    }
}
