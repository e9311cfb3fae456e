//! Changing the address space to something that is none.

use alloc::format;
use alloc::vec::Vec;

use hypercall_abi::MachineFrame;
use hypercall_abi::xen::{
    HYPERVISOR_MMUEXT_OP, MMUEXT_INVLPG_ALL, MMUEXT_INVLPG_LOCAL, MMUEXT_INVLPG_MULTI, MMUEXT_NEW_BASEPTR,
    MMUEXT_NEW_USER_BASEPTR, MMUEXT_TLB_FLUSH_ALL, MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_TLB_FLUSH_MULTI, MmuextOp,
};
use hypercall_abi::{DomainId, Errno};
use pv_runtime::memory::{BuilderPage, SharedMemory};

use crate::attacker::Attacker;
use crate::mapping::others_numbers;
use crate::report::{Outcome, accepted, cases, expect, refused, refused_as};
use crate::slot::Slot;
use crate::surroundings::Surroundings;
use crate::table::{Table, tables_of};

cases!("roots":
    bad_kernel_roots, bad_user_roots, a_second_root, a_root_that_loses_its_pin, roots_of_others, flushes_anywhere,
    unknown_operations,
);

/// Frames that are no root.
fn no_roots(attacker: &Attacker) -> Result<Vec<MachineFrame>, alloc::string::String> {
    let slot = Slot::new(attacker)?;
    let surroundings = Surroundings::look(attacker)?;
    let mut frames = surroundings.samples();
    frames.extend(tables_of(attacker, slot.address())?.into_iter().skip(1));
    frames.push(slot.frame());
    frames.extend([surroundings.last.0 + 1, 0xfee00, 1 << 40, 1 << 52, u64::MAX].map(MachineFrame));
    Ok(frames)
}

fn bad_kernel_roots(attacker: &Attacker) -> Outcome {
    accepted("its own root", attacker.mmuext(MMUEXT_NEW_BASEPTR, attacker.root.0, 0))?;
    for frame in no_roots(attacker)?.into_iter().chain([MachineFrame(0)]) {
        refused(format!("frame {frame} as root"), attacker.mmuext(MMUEXT_NEW_BASEPTR, frame.0, 0))?;
    }
    Ok(())
}

fn bad_user_roots(attacker: &Attacker) -> Outcome {
    accepted("its own root", attacker.mmuext(MMUEXT_NEW_USER_BASEPTR, attacker.root.0, 0))?;
    // Frame 0 means none.
    for frame in no_roots(attacker)?.into_iter().filter(|frame| frame.0 != 0) {
        refused(format!("frame {frame} as root"), attacker.mmuext(MMUEXT_NEW_USER_BASEPTR, frame.0, 0))?;
    }
    accepted("no root", attacker.mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0))?;
    Ok(())
}

/// A copy of the root serves as well; while the processor uses it, it can neither be written nor be freed.
fn a_second_root(attacker: &Attacker) -> Outcome {
    let original = BuilderPage::find(attacker.root).map_err(|_| "the root is not this domain's")?;
    let copied = |index: usize| (index, original.read::<u64>(8 * index));
    let root = Table::new(attacker, (0..256).chain(272..512).map(copied))?;
    accepted("switching to a copy", attacker.mmuext(MMUEXT_NEW_BASEPTR, root.frame().0, 0))?;
    let still_plain = root.is_plain();
    let pinned = attacker.pin(root.frame(), 4);
    let unpinned = attacker.unpin(root.frame());
    let back = attacker.mmuext(MMUEXT_NEW_BASEPTR, attacker.root.0, 0);
    accepted("switching back", back)?;
    expect(!still_plain, "the root in use can be written")?;
    accepted("pinning the copy", pinned)?;
    accepted("unpinning the copy while in use", unpinned)?;
    expect(root.is_plain(), "the copy stays a table")
}

/// The root in use may lose its pin: it is held by being in use.
fn a_root_that_loses_its_pin(attacker: &Attacker) -> Outcome {
    let root = attacker.root;
    if attacker.unpin(root).is_err() {
        // The builder need not have pinned it.
        accepted("pinning the root", attacker.pin(root, 4))?;
        accepted("unpinning the root", attacker.unpin(root))?;
    }
    let table = Table::new(attacker, [])?;
    refused(
        "switching away to no root",
        attacker.mmuext(MMUEXT_NEW_BASEPTR, table.frame().0 + (1 << 40), 0),
    )?;
    let slot = Slot::new(attacker)?;
    accepted("mapping under it", slot.map(slot.entry()))?;
    accepted("pinning the root again", attacker.pin(root, 4))?;
    Ok(())
}

fn roots_of_others(attacker: &Attacker) -> Outcome {
    for domain in others_numbers(attacker) {
        for command in [MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR, MMUEXT_TLB_FLUSH_LOCAL] {
            let answer = attacker.mmuext_of(domain, command, attacker.root.0, 0);
            refused(format!("operation {command} for domain {domain}"), answer)?;
        }
    }
    Ok(())
}

/// Flushing what is no guest's address is nothing, and must do nothing.
fn flushes_anywhere(attacker: &Attacker) -> Outcome {
    const ADDRESSES: [u64; 7] = [
        0,
        0x7fff_ffff_ffff,
        0x8000_0000_0000,
        0xffff_8000_0000_0000,
        0xffff_8300_0000_0000,
        u64::MAX,
        1 << 63,
    ];
    let mut mask = u64::MAX;
    let mask = crate::attacker::address_of(&mut mask);
    for address in ADDRESSES {
        for command in [MMUEXT_INVLPG_LOCAL, MMUEXT_INVLPG_ALL, MMUEXT_INVLPG_MULTI] {
            accepted(format!("flushing {address:#x}"), attacker.mmuext(command, address, mask))?;
        }
    }
    for command in [MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_TLB_FLUSH_ALL, MMUEXT_TLB_FLUSH_MULTI] {
        accepted("flushing everything", attacker.mmuext(command, 0, mask))?;
    }
    for bad in [0, 1 << 63, 0xffff_8000_0000_0000, u64::MAX - 3] {
        // With one virtual CPU the mask need not be read: both answers are right.
        let answer = attacker.mmuext(MMUEXT_TLB_FLUSH_MULTI, 0, bad);
        expect(matches!(answer, Ok(0) | Err(Errno::EFAULT)), format!("a mask at {bad:#x} gave {answer:?}"))?;
    }
    Ok(())
}

fn unknown_operations(attacker: &Attacker) -> Outcome {
    for command in (14..15).chain(19..64).chain([0x7fff_ffff, 0x8000_0000, u32::MAX]) {
        let mut operation = MmuextOp { cmd: command, arg1: attacker.root.0, ..Default::default() };
        let place = crate::attacker::address_of(&mut operation);
        let answer = attacker.call(HYPERVISOR_MMUEXT_OP, &[place, 1, 0, u64::from(DomainId::SELF.0)]);
        refused_as(
            format!("operation {command}"),
            &[Errno::ENOSYS, Errno::EOPNOTSUPP, Errno::EINVAL],
            answer,
        )?;
    }
    Ok(())
}
