//! Nonsense for the disk.

use alloc::format;
use alloc::string::String;

use hypercall_abi::GrantReference;
use hypercall_abi::io::blkif::*;
use pv_runtime::BootInfo;
use pv_runtime::executor::yield_now;
use pv_runtime::grant::{Grant, GrantAccess, grant_access};
use pv_runtime::memory::Page;
use pv_runtime::xenbus::XenbusState;

use crate::front::{Answer, Front};
use crate::random::Random;
use crate::ring::Ring;
use crate::{Outcome, during};

/// How many rings full of requests are sent.
const ROUNDS: u32 = 40;
/// How many states the front end pretends to be in.
const STATES: u32 = 500;

/// A connected disk.
async fn connected(info: &BootInfo) -> Result<(Front, Ring), String> {
    let front = Front::find(info, "vbd").await?;
    let ring = Ring::new(front.device.peer(), size_of::<BlkifRequest>())?;
    front.publish(&[(key::RING_REF, format!("{}", ring.reference()))]).await?;
    front.connect().await?;
    Ok((front, ring))
}

/// Says that there are more requests than the ring has room for.
pub async fn indices(info: &BootInfo) -> Outcome {
    let (front, ring) = connected(info).await?;
    ring.publish(1_000_000);
    during("notifying", front.channel.notify())?;
    front.wait_until_closed().await
}

/// Requests whose every field may be anything.
pub async fn requests(info: &BootInfo, mut random: Random) -> Outcome {
    let (front, ring) = connected(info).await?;
    let page = during("a page", Page::new())?;
    let grant =
        during("a grant", grant_access(front.device.peer(), page.machine_frame(), GrantAccess::ReadOnly))?;
    let mut errors = 0;
    for round in 0..ROUNDS {
        let first = round * ring.slots();
        for index in first..first + ring.slots() {
            ring.put(index, &request(&mut random, &grant));
        }
        if front.exchange(&ring, first + ring.slots()).await? == Answer::Closed {
            return Ok(format!("the back end closed the device after {first} requests"));
        }
        errors += (first..first + ring.slots()).filter(|index| is_error(&ring, *index)).count();
    }
    Ok(format!("{} requests answered, {errors} with errors", ROUNDS * ring.slots()))
}

fn request(random: &mut Random, grant: &Grant) -> BlkifRequest {
    let mut segment = || BlkifRequestSegment {
        gref: random.one_of([
            grant.reference(),
            grant.reference(),
            GrantReference(500),
            GrantReference(u32::MAX),
        ]),
        first_sect: random.one_of([0, 0, 7, 255]),
        last_sect: random.one_of([7, 7, 0, 8, 255]),
        pad: [0xff; 2],
    };
    let seg = core::array::from_fn(|_| segment());
    BlkifRequest {
        operation: random.one_of([
            BLKIF_OP_READ,
            BLKIF_OP_WRITE,
            BLKIF_OP_FLUSH_DISKCACHE,
            BLKIF_OP_DISCARD,
            BLKIF_OP_INDIRECT,
            BLKIF_OP_RESERVED_1,
            200,
        ]),
        nr_segments: random.one_of([0, 1, 1, 11, 12, 255]),
        handle: random.any() as u16,
        pad: [0xff; 4],
        id: random.any(),
        sector_number: random.one_of([0, 8, 2040, 2047, 2048, u64::MAX / 512, u64::MAX - 7, u64::MAX]),
        seg,
    }
}

fn is_error(ring: &Ring, index: u32) -> bool {
    let bytes: [u8; size_of::<BlkifResponse>()] = ring.answer(index);
    let response: BlkifResponse = zerocopy::transmute!(bytes);
    response.status != BLKIF_RSP_OKAY
}

/// Publishes a ring that nobody granted.
pub async fn references(info: &BootInfo) -> Outcome {
    let front = Front::find(info, "vbd").await?;
    front.publish(&[(key::RING_REF, format!("{}", 400))]).await?;
    front.verdict().await
}

/// Publishes words where numbers are expected, and an order that no ring has.
pub async fn words(info: &BootInfo) -> Outcome {
    let front = Front::find(info, "vbd").await?;
    let keys = [(key::RING_PAGE_ORDER, "4294967295"), ("ring-ref0", "a ring"), (key::PROTOCOL, "telepathy")];
    front.publish(&keys.map(|(key, value)| (key, String::from(value)))).await?;
    front.verdict().await
}

/// Goes from state to state without any order, and publishes a ring that comes and goes.
pub async fn states(info: &BootInfo, mut random: Random) -> Outcome {
    let front = Front::find(info, "vbd").await?;
    for _ in 0..STATES {
        let ring = Ring::new(front.device.peer(), size_of::<BlkifRequest>())?;
        if random.below(4) == 0 {
            front.publish(&[(key::RING_REF, format!("{}", ring.reference()))]).await?;
        }
        let state = XenbusState::from_number(random.below(9) as u32).unwrap_or(XenbusState::Closed);
        during("the state", front.device.switch_state(state).await)?;
        yield_now().await;
    }
    during("the state", front.device.switch_state(XenbusState::Closed).await)?;
    Ok(format!("{STATES} states"))
}
