//! Taking all there is of something: it comes to an end, and can be given back.

use alloc::format;
use alloc::vec::Vec;

use hypercall_abi::event_channel::*;
use hypercall_abi::grant_table::*;
use hypercall_abi::xen::HYPERVISOR_EVENT_CHANNEL_OP;
use hypercall_abi::{DomainId, Errno, Port};
use pv_runtime::grant::GrantAccess;

use crate::attacker::Attacker;
use crate::grants::grant_to;
use crate::report::{Outcome, accepted, cases, expect, refused};
use crate::slot::Slot;

cases!("exhaustion": all_ports, all_handles, all_uses_of_a_grant, the_whole_grant_table);

/// More than a domain can have of anything that is counted here.
const MANY: usize = 200_000;

fn all_ports(attacker: &Attacker) -> Outcome {
    let open = || {
        let mut open =
            EvtchnAllocUnbound { dom: DomainId::SELF, remote_dom: DomainId::SELF, ..Default::default() };
        attacker.command(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_ALLOC_UNBOUND, &mut open).map(|_| open.port)
    };
    let ports: Vec<Port> = (0..MANY).map_while(|_| open().ok()).collect();
    let answer = open();
    for port in &ports {
        let mut close = EvtchnClose { port: *port };
        accepted("closing", attacker.command(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_CLOSE, &mut close))?;
    }
    expect(ports.len() < 4096, format!("there are {} ports", ports.len()))?;
    expect(answer == Err(Errno::ENOSPC), format!("one more port gave {answer:?}"))?;
    let again = accepted("opening a port again", open())?;
    let mut close = EvtchnClose { port: again };
    accepted("closing it", attacker.command(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_CLOSE, &mut close))
        .map(drop)
}

/// Mappings for devices take a handle each, and nothing else.
fn all_handles(attacker: &Attacker) -> Outcome {
    let mut grants = Vec::new();
    let mut handles = Vec::new();
    let slot = Slot::new(attacker)?;
    'all: for _ in 0..MANY {
        let grant = grant_to(attacker, slot.frame(), GrantAccess::ReadOnly)?;
        for _ in 0..200 {
            let mut map = GnttabMapGrantRef {
                flags: GNTMAP_DEVICE_MAP | GNTMAP_READONLY,
                r#ref: grant.reference(),
                dom: attacker.own_id,
                ..Default::default()
            };
            accepted("mapping", attacker.grant_op(GNTTABOP_MAP_GRANT_REF, core::slice::from_mut(&mut map)))?;
            if map.status != GNTST_OKAY {
                grants.push(grant);
                break 'all;
            }
            handles.push((map.handle, map.dev_bus_addr));
        }
        grants.push(grant);
    }
    let count = handles.len();
    for (handle, dev_bus_addr) in handles {
        let mut unmap = GnttabUnmapGrantRef { handle, dev_bus_addr, status: 1, ..Default::default() };
        accepted(
            "unmapping",
            attacker.grant_op(GNTTABOP_UNMAP_GRANT_REF, core::slice::from_mut(&mut unmap)),
        )?;
        expect(unmap.status == GNTST_OKAY, format!("undoing a mapping gave {}", unmap.status))?;
    }
    for grant in grants {
        grant.end().map_err(|_| "a grant is still in use")?;
    }
    expect((100..MANY).contains(&count), format!("{count} mappings could be made"))
}

fn all_uses_of_a_grant(attacker: &Attacker) -> Outcome {
    let slot = Slot::new(attacker)?;
    let grant = grant_to(attacker, slot.frame(), GrantAccess::ReadWrite)?;
    let mut mappings = Vec::new();
    for _ in 0..2000 {
        let mut map = GnttabMapGrantRef {
            flags: GNTMAP_DEVICE_MAP,
            r#ref: grant.reference(),
            dom: attacker.own_id,
            ..Default::default()
        };
        accepted("mapping", attacker.grant_op(GNTTABOP_MAP_GRANT_REF, core::slice::from_mut(&mut map)))?;
        if map.status != GNTST_OKAY {
            break;
        }
        mappings.push((map.handle, map.dev_bus_addr));
    }
    refused("a page that is granted for writing as table", attacker.pin(slot.frame(), 1))?;
    for (handle, dev_bus_addr) in mappings {
        let mut unmap = GnttabUnmapGrantRef { handle, dev_bus_addr, status: 1, ..Default::default() };
        accepted(
            "unmapping",
            attacker.grant_op(GNTTABOP_UNMAP_GRANT_REF, core::slice::from_mut(&mut unmap)),
        )?;
        expect(unmap.status == GNTST_OKAY, format!("undoing a mapping gave {}", unmap.status))?;
    }
    grant.end().map_err(|_| "the grant is still in use".into())
}

fn the_whole_grant_table(attacker: &Attacker) -> Outcome {
    let mut size = GnttabQuerySize { dom: DomainId::SELF, ..Default::default() };
    accepted("its size", attacker.grant_op(GNTTABOP_QUERY_SIZE, core::slice::from_mut(&mut size)))?;
    let mut frames = alloc::vec![0u64; size.max_nr_frames as usize + 1];
    let set_up = |nr_frames: u32, frames: &mut [u64]| {
        let frame_list = frames.as_mut_ptr() as u64;
        let mut table =
            GnttabSetupTable { dom: DomainId::SELF, nr_frames, frame_list, status: 1, ..Default::default() };
        let answer = attacker.grant_op(GNTTABOP_SETUP_TABLE, core::slice::from_mut(&mut table));
        accepted("setting up", answer).map(|_| table.status)
    };
    let status = set_up(size.max_nr_frames, &mut frames)?;
    expect(status == GNTST_OKAY, format!("the largest table gave {status}"))?;
    expect(frames[..size.max_nr_frames as usize].iter().all(|frame| *frame != 0), "it has missing frames")?;
    let status = set_up(size.max_nr_frames + 1, &mut frames)?;
    expect(status < 0, format!("a larger table gave {status}"))
}
