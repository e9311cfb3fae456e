//! The disc boots on machines with either kind of firmware.

use std::time::Duration;

use tests::{Prompt, program};
use xtask::machine::{Exit, Machine};
use xtask::qemu::Uefi;

/// How long firmware, loader and the rest may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The disc boots to domain 0's prompt, with its usual guest, and the machine can be switched off.
fn expect_boot(firmware: Option<Uefi>) {
    let machine = Machine::with_disc(program::path("WEIR_ISO"), firmware).time_limit(LIMIT);
    let mut dom0 = Prompt::start(&machine, None);
    assert!(dom0.succeed("list").contains("\nguest "));
    dom0.type_line("poweroff");
    assert_eq!(dom0.wait_for_end(), Exit::Debug(0x10), "{}", dom0.console());
}

#[test]
fn the_disc_boots_through_the_bios() {
    expect_boot(None);
}

#[test]
fn the_disc_boots_through_uefi() {
    expect_boot(Some(Uefi::find().expect("the firmware's package is installed")));
}
