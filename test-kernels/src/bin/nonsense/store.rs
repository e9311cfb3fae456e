//! Nonsense for the store.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::time::Duration;

use hypercall_abi::io::xs_wire::{
    XENSTORE_PAYLOAD_MAX, XENSTORE_RING_SIZE, XenstoreDomainInterface, XsdSockmsg,
};
use pv_runtime::BootInfo;
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::sleep;
use pv_runtime::memory::{BuilderPage, SharedMemory};
use zerocopy::IntoBytes;

use crate::random::Random;
use crate::{Outcome, during, front};

/// How many messages are sent.
const MESSAGES: u32 = 2000;
/// How many nodes and watches are asked for at most; a store without limits would take them all.
const MOST: u32 = 20_000;
/// How long to wait for the store to take something, and how often at most.
const LOOK: Duration = Duration::from_millis(1);
const PATIENCE: u32 = 2000;

/// The page and the port of the store.
fn ring(info: &BootInfo) -> Result<(BuilderPage, EventChannel), String> {
    let (frame, port) = info.store.ok_or("there is no store")?;
    Ok((during("the store's page", BuilderPage::find(frame))?, EventChannel::from_port(port)))
}

/// Says that more was written than there is room for.
pub async fn indices(info: &BootInfo) -> Outcome {
    let (page, channel) = ring(info)?;
    page.write(offset_of!(XenstoreDomainInterface, req_prod), &0x4000_0000_u32);
    page.write(offset_of!(XenstoreDomainInterface, rsp_cons), &0x1234_5678_u32);
    during("notifying", channel.notify())?;
    sleep(Duration::from_secs(1)).await;
    Ok(String::from("the store was told of a gigabyte"))
}

/// Messages whose type, length and content may be anything.
pub async fn messages(info: &BootInfo, mut random: Random) -> Outcome {
    let (page, channel) = ring(info)?;
    let mut stream = Stream { page, channel };
    for number in 0..MESSAGES {
        let payload = payload(&mut random);
        let length = random.one_of([payload.len() as u32, payload.len() as u32, payload.len() as u32 / 2]);
        let header = XsdSockmsg {
            kind: random.one_of([random_type(number), number, u32::MAX]),
            req_id: number,
            tx_id: random.one_of([0, 0, 1, 77]),
            len: length,
        };
        if !stream.send(header.as_bytes()).await? || !stream.send(&payload[..length as usize]).await? {
            return Ok(format!("the store took {number} messages, and then no more"));
        }
    }
    Ok(format!("the store took {MESSAGES} messages"))
}

/// The types there are, one after the other.
fn random_type(number: u32) -> u32 {
    number % 25
}

/// Something like a path, a path that is none, or bytes.
fn payload(random: &mut Random) -> Vec<u8> {
    match random.below(4) {
        0 => Vec::from(*b"data/x\0value"),
        1 => Vec::from(*b"/local/domain/0/name\0nonsense"),
        2 => (0..random.below(200)).map(|_| random.any() as u8).collect(),
        _ => vec![b'/'; random.below(XENSTORE_PAYLOAD_MAX as u64) as usize],
    }
}

/// The bytes that go to the store.
struct Stream {
    page: BuilderPage,
    channel: EventChannel,
}

impl Stream {
    /// Writes bytes as the store makes room, and throws away what it answers. False if it stops to take any.
    async fn send(&mut self, mut bytes: &[u8]) -> Result<bool, String> {
        let mut tries = 0;
        while !bytes.is_empty() {
            let written = self.write(bytes);
            bytes = &bytes[written..];
            self.discard_answers();
            during("notifying", self.channel.notify())?;
            if written == 0 {
                tries += 1;
                sleep(LOOK).await;
            }
            if tries == PATIENCE {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes what there is room for; how much that was.
    fn write(&self, bytes: &[u8]) -> usize {
        let producer: u32 = self.page.read(offset_of!(XenstoreDomainInterface, req_prod));
        let consumer: u32 = self.page.read(offset_of!(XenstoreDomainInterface, req_cons));
        let room =
            XENSTORE_RING_SIZE - producer.wrapping_sub(consumer).min(XENSTORE_RING_SIZE as u32) as usize;
        let count = room.min(bytes.len());
        for (index, byte) in bytes[..count].iter().enumerate() {
            let place = producer.wrapping_add(index as u32) as usize % XENSTORE_RING_SIZE;
            self.page.write(offset_of!(XenstoreDomainInterface, req) + place, byte);
        }
        self.page.write(offset_of!(XenstoreDomainInterface, req_prod), &producer.wrapping_add(count as u32));
        count
    }

    fn discard_answers(&self) {
        let producer: u32 = self.page.read(offset_of!(XenstoreDomainInterface, rsp_prod));
        self.page.write(offset_of!(XenstoreDomainInterface, rsp_cons), &producer);
    }
}

/// Makes nodes and watches until the store has enough.
pub async fn hoard(info: &BootInfo) -> Outcome {
    let store = front::store(info)?;
    let value = vec![b'x'; 1000];
    let mut nodes = 0;
    while nodes < MOST && store.write(&format!("data/{nodes}"), &value).await.is_ok() {
        nodes += 1;
    }
    let mut watches = Vec::new();
    while (watches.len() as u32) < MOST {
        match store.watch(&format!("data/{}", watches.len())).await {
            Ok(watch) => watches.push(watch),
            Err(_) => break,
        }
    }
    let watches_held = watches.len() as u32;
    // They are kept until the domain is destroyed.
    core::mem::forget(watches);
    let verdict =
        if nodes.max(watches_held) < MOST { "the store set a limit" } else { "THE STORE SETS NO LIMIT" };
    Ok(format!("{verdict}: {nodes} nodes, {watches_held} watches"))
}
