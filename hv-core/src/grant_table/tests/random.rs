//! Random sequences by three domains that grant, revoke, map, copy and unmap as they like: in the end every use
//! is accounted for.

use super::*;
use crate::test_support::machine_of;
use hypercall_abi::grant_table::{GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GnttabCopyPtr};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Action {
    /// A guest writes an entry: flags, grantee, and which of its frames (or of another's).
    Write { who: usize, reference: u32, flags: u16, grantee: usize, frame_of: usize, frame: usize },
    /// A guest maps.
    Map { who: usize, granter: usize, reference: u32, flags: u32, slot: usize },
    /// A guest undoes one of the mappings ever made, its own or another's, in whole or in part.
    Unmap { who: usize, which: prop::sample::Index, host: bool, device: bool },
    /// A guest copies.
    Copy { who: usize, from: (usize, u32), to: (usize, u32), offset: u16, len: u16 },
    /// A guest tries to make a page table of one of its frames, or to undo that.
    Pin { who: usize, frame: usize, is_pinned: bool },
}

const FRAMES: usize = 3;

fn any_action() -> impl Strategy<Value = Action> {
    let who = || 0..3usize;
    let reference = || 0..4u32;
    prop_oneof![
        3 => (who(), reference(), 0..0x20u16, who(), who(), 0..FRAMES).prop_map(
            |(who, reference, flags, grantee, frame_of, frame)| {
                // Mostly grants, and mostly of own frames.
                let flags = if flags & 0x18 != 0 { GTF_PERMIT_ACCESS | flags & GTF_READONLY } else { flags };
                let frame_of = if frame == 0 { frame_of } else { who };
                Action::Write { who, reference, flags, grantee, frame_of, frame }
            }
        ),
        4 => (who(), who(), reference(), 0..8u32, 20..26usize)
            .prop_map(|(who, granter, reference, flags, slot)| Action::Map { who, granter, reference, flags, slot }),
        4 => (who(), any::<prop::sample::Index>(), any::<bool>(), any::<bool>())
            .prop_map(|(who, which, host, device)| Action::Unmap { who, which, host, device }),
        2 => (who(), (who(), reference()), (who(), reference()), 0..5000u16, 0..5000u16)
            .prop_map(|(who, from, to, offset, len)| Action::Copy { who, from, to, offset, len }),
        1 => (who(), 0..FRAMES, any::<bool>())
            .prop_map(|(who, frame, is_pinned)| Action::Pin { who, frame, is_pinned }),
    ]
}

struct World {
    guests: Vec<Guest>,
    frames: Vec<[MachineFrame; FRAMES]>,
    mapped: Vec<GnttabMapGrantRef>,
}

impl World {
    fn new() -> Self {
        let guests: Vec<_> = (1..4).map(Guest::new).collect();
        let frames = guests.iter().map(|guest| [(); FRAMES].map(|()| guest.inner.frame())).collect();
        Self { guests, frames, mapped: Vec::new() }
    }

    fn id(&self, who: usize) -> DomainId {
        self.guests[who].inner.id()
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Write { who, reference, flags, grantee, frame_of, frame } => {
                let (domid, frame) = (self.id(grantee), self.frames[frame_of][frame].0 as u32);
                write_entry(&self.guests[who], reference, GrantEntryV1 { flags, domid, frame });
            }
            Action::Map { who, granter, reference, flags, slot } => {
                let op = map_op(self.id(granter), reference, flags, address(slot));
                self.mapped.extend(Some(map(&self.guests[who], op)).filter(|op| op.status == GNTST_OKAY));
            }
            Action::Unmap { who, ref which, host, device } => {
                if self.mapped.is_empty() {
                    return;
                }
                let op = which.get(&self.mapped);
                let host_addr = if host { op.host_addr } else { 0 };
                unmap(&self.guests[who], op.handle, host_addr, if device { op.dev_bus_addr } else { 0 });
            }
            Action::Copy { who, from, to, offset, len } => {
                let place = |(granter, reference)| {
                    GnttabCopyPtr::granted(self.id(granter), GrantReference(reference), offset)
                };
                let flags = GNTCOPY_SOURCE_GREF | GNTCOPY_DEST_GREF;
                let op =
                    GnttabCopy { source: place(from), dest: place(to), len, flags, ..Default::default() };
                copy(&self.guests[who], op);
            }
            Action::Pin { who, frame, is_pinned } => {
                let (guest, frame) = (&self.guests[who].inner, self.frames[who][frame]);
                let _ = if is_pinned { guest.pin(frame, 1) } else { guest.unpin(frame) };
            }
        }
    }

    /// No page table says that a frame is writable which is itself a table.
    fn check_entries(&self) {
        for guest in &self.guests {
            for slot in 20..26 {
                let entry = read(guest.branch.l1, slot);
                if entry.is_present() && entry.has(Entry::WRITABLE) {
                    assert_eq!(type_of(entry.frame()), FrameType::Writable);
                }
            }
        }
    }

    /// Undoes everything, whoever made it: each guest tries each handle.
    fn unmap_everything(&self) {
        for guest in &self.guests {
            for op in &self.mapped {
                unmap(guest, op.handle, op.host_addr, op.dev_bus_addr);
                unmap(guest, op.handle, 0, op.dev_bus_addr);
            }
        }
    }
}

/// The guests' entries in use were written over while they were; only the flags the hypervisor set must be gone,
/// so they are cleared before the balance is checked where the guest set them itself.
fn clear_entries(world: &World) {
    for guest in &world.guests {
        (0..4).for_each(|reference| write_entry(guest, reference, GrantEntryV1::default()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn every_use_is_accounted_for(actions in prop::collection::vec(any_action(), 1..80)) {
        let _machine = machine_of(256);
        let mut world = World::new();
        for action in &actions {
            world.act(action);
            world.check_entries();
        }
        world.unmap_everything();
        for guest in &world.guests {
            prop_assert_eq!(guest.domain().grant_table.mappings(), 0);
        }
        clear_entries(&world);
        check_balance(&world.guests.iter().collect::<Vec<_>>());
    }
}
