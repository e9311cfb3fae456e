//! What the toolstack cannot do it says, and nothing is left of the attempt.

use tests::ledger::number;
use tests::{Dom0, Ledger, Prompt, kernel, program};

/// Domain 0, after the first guest: what domain 0 and the hypervisor keep for later guests is in the books already.
fn settled(machine: Dom0) -> Prompt {
    let mut dom0 = machine.start();
    dom0.succeed("create first");
    dom0.succeed("destroy first");
    dom0
}

/// A command fails for this reason, and everything is as before.
fn expect_refusal(dom0: &mut Prompt, command: &str, reason: &str) {
    let before = Ledger::of(dom0);
    assert_eq!(dom0.run(command), format!("error: {reason}\n"), "{command}");
    before.expect_same(dom0, command);
}

#[test]
fn a_kernel_that_cannot_be_started_is_refused_and_leaves_nothing() {
    let mut without_notes = program::content("WEIR_GUEST");
    kernel::remove_notes(&mut without_notes);
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let machine = Dom0::new().file("notes.txt", "buy milk").file("plain", without_notes).file("own", own);
    let mut dom0 = settled(machine);
    for (file, reason) in [
        ("notes.txt", "the kernel is no ELF file"),
        ("own", "the kernel is no 64-bit x86 executable"),
        ("plain", "the kernel has no Xen notes: it was built without paravirtual support"),
    ] {
        expect_refusal(&mut dom0, &format!("create a kernel={file}"), &format!("{file}: {reason}"));
    }
}

#[test]
fn a_file_that_is_not_there_is_named_with_those_that_are() {
    let mut dom0 = settled(Dom0::new().file("initrd", "x"));
    let reason = "the boot archive has no file \"gest\"; it has: guest initrd";
    expect_refusal(&mut dom0, "create a kernel=gest", reason);
    let reason = "the boot archive has no file \"initramfs\"; it has: guest initrd";
    expect_refusal(&mut dom0, "create a ramdisk=initramfs", reason);
}

#[test]
fn more_memory_than_there_is_is_refused_with_both_numbers() {
    let mut dom0 = settled(Dom0::new());
    let free = number(&dom0.succeed("info"), "free_memory");
    expect_refusal(&mut dom0, "create a memory=4096", &format!("needs 4096 MiB; {free} MiB free"));
}

#[test]
fn less_memory_than_a_kernel_needs_is_refused_with_what_it_needs() {
    let mut dom0 = settled(Dom0::new());
    let before = Ledger::of(&mut dom0);
    let printed = dom0.run("create a memory=1");
    assert!(printed.starts_with("error: kernel and module need "), "{printed}");
    assert!(printed.ends_with(" KiB to start; the domain has 1024 KiB\n"), "{printed}");
    before.expect_same(&mut dom0, "the attempt");
}

#[test]
fn a_name_is_given_once() {
    let mut dom0 = settled(Dom0::new());
    dom0.succeed("create web memory=16");
    dom0.succeed("guest-run web info");
    expect_refusal(&mut dom0, "create web memory=16", "there is a guest called web already");
    expect_refusal(&mut dom0, "create Domain-0", "there is a guest called Domain-0 already");
    dom0.succeed("destroy web");
    dom0.succeed("create web memory=16");
}

#[test]
fn a_mistake_in_a_setting_is_explained_before_anything_is_made() {
    let mut dom0 = settled(Dom0::new());
    for (command, reason) in [
        ("create a memory=lots", "memory=lots: a number of MiB from 1 to 65536 is expected"),
        ("create a colour=red", "there is no setting \"colour=red\"; see `help create`"),
        ("create a on_crash=cry", "on_crash=cry: destroy, restart or preserve is expected"),
        ("destroy nobody", "there is no guest \"nobody\""),
        ("guest-run nobody info", "there is no guest \"nobody\", and none left its console"),
        ("dance", "there is no command \"dance\"; try `help`"),
        ("create a \"b", "\" is not closed"),
    ] {
        expect_refusal(&mut dom0, command, reason);
    }
}

#[test]
fn guests_that_come_and_go_leave_no_page_behind() {
    let mut dom0 = settled(Dom0::new());
    let before = Ledger::of(&mut dom0);
    for memory in [16, 64, 17] {
        dom0.succeed(&format!("create a memory={memory} paused"));
        dom0.succeed("destroy a");
        dom0.succeed(&format!("create b memory={memory}"));
        dom0.succeed("guest-run b info");
        dom0.succeed("shutdown -w b");
    }
    before.expect_same(&mut dom0, "the last of them");
}
