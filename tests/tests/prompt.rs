//! The administrator's terminal: commands, line editing, guests' consoles, the end.

use tests::Dom0;
use tests::prompt::LEAVE;
use xtask::machine::Exit;

#[test]
fn help_names_every_command_and_list_shows_the_domains() {
    let mut dom0 = Dom0::new().start();
    let help = dom0.succeed("help");
    for command in ["list", "create", "destroy", "console", "dmesg", "info", "poweroff"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command}\n{help}");
    }
    assert!(dom0.succeed("help create").contains("kernel=FILE"));
    let list = dom0.succeed("xl list");
    assert!(
        list.starts_with("Name                                        ID   Mem VCPUs\tState\tTime(s)\n"),
        "{list}"
    );
    assert!(list.contains("Domain-0                                     0   128     1     r-----"), "{list}");
}

#[test]
fn dmesg_shows_the_hypervisors_log_from_its_start() {
    let mut dom0 = Dom0::new().start();
    let log = dom0.succeed("dmesg");
    assert!(log.starts_with("(weir) [   0.000000] Weir "), "{log}");
    assert!(log.contains("the control domain starts with 128 MiB"), "{log}");
}

#[test]
fn a_line_can_be_edited_before_it_is_entered() {
    let mut dom0 = Dom0::new().start();
    // A typing error is taken back, a line given up, a word erased, an earlier line fetched and corrected.
    assert!(dom0.succeed("lisx\x7ft").contains("Domain-0"));
    dom0.press("destroy everything\x03");
    dom0.wait_for("^C");
    dom0.wait_for("dom0> ");
    assert!(dom0.succeed("list everything\x17\x7f").contains("Domain-0"));
    assert_eq!(dom0.run("ist"), "error: there is no command \"ist\"; try `help`\n");
    assert!(dom0.succeed("\x1b[A\x01l").contains("Domain-0"));
    assert_eq!(dom0.run(""), "");
}

#[test]
fn a_line_that_is_too_long_is_refused_by_name_and_not_cut() {
    let mut dom0 = Dom0::new().start();
    let long = format!("create web cmdline='{}'", "x".repeat(5000));
    assert_eq!(
        dom0.run(&long),
        format!("error: the line has {} characters; 4096 are the most\n", long.len())
    );
    assert!(dom0.succeed("list").lines().count() == 2, "only the head and domain 0");
}

#[test]
fn a_guests_console_can_be_entered_and_left() {
    let mut dom0 = Dom0::new().start();
    dom0.succeed("create a");
    dom0.succeed("guest-run a info");
    dom0.type_line("console a");
    dom0.wait_for("This is a's console; Ctrl-] leaves it.");
    dom0.press("info\r");
    dom0.wait_for("domain 1, hypervisor interface 4.17");
    dom0.wait_for("guest> ");
    dom0.press(LEAVE);
    dom0.wait_for("dom0> ");
    // What comes meanwhile is not lost.
    dom0.succeed("guest-run a info");
    dom0.type_line("console a");
    dom0.wait_for("@run-end 0");
    dom0.press("shutdown\r");
    dom0.wait_for("a is gone.");
    dom0.wait_for("dom0> ");
    assert!(!dom0.succeed("list").contains("\na "));
}

#[test]
fn poweroff_ends_the_guests_and_then_the_machine() {
    let mut dom0 = Dom0::new().start();
    dom0.succeed("create a");
    dom0.succeed("guest-run a info");
    dom0.succeed("create b paused");
    dom0.type_line("poweroff");
    assert_eq!(dom0.wait_for_end(), Exit::Debug(0x10));
    let console = dom0.console();
    for line in ["(a) is gone", "(b) is gone", "switching the machine off", "powering off"] {
        assert!(console.contains(line), "{line}\n{console}");
    }
}
