//! What requests and packets cost on their way through the back ends.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use super::counts::Counts;
use super::creation;
use super::subject::{BenchError, Subject};
use crate::toolstack::Toolstack;

/// Rounds of packets.
const ROUNDS: u32 = 32;
/// Rounds of requests. More than of packets, for the disk answers when it likes.
const DISK_ROUNDS: u32 = 128;
/// Packets of a round: half a ring's.
const PACKETS: u32 = 128;
/// Requests under way at once.
const DEPTHS: [u32; 2] = [1, 32];
/// Settings of a guest that sends packets; it needs no address.
const SENDER: [&str; 3] = ["memory=32", "vif", "cmdline=noecho ip=10.99.0.1/24"];
/// Settings of one that receives them.
const RECEIVER: [&str; 3] = ["memory=32", "vif", "cmdline=noecho ip=10.99.0.2/24"];
/// Settings of a guest that reads from a disk, which others may read too.
const READER: [&str; 2] = ["memory=32", "disk=disk0,xvda,r!"];
/// An address that no interface has.
const NOBODY: &str = "02:00:00:00:00:01";
/// Packets, and how many bytes they have without their Ethernet headers.
const SIZES: [(&str, u32); 2] = [("packet of 1,500 bytes", 1500), ("packet of 64 bytes", 50)];

/// Measures the kinds of traffic whose name contains `selection` and for which there is a device, and says how many there
/// were.
pub async fn measure(toolstack: &Rc<Toolstack>, selection: &str) -> Result<usize, BenchError> {
    let selected = |name: &str| name.contains(selection);
    let inventory = toolstack.inventory();
    let mut measured = 0;
    for (size, bytes) in SIZES.iter().filter(|_| inventory.has_switch) {
        let (between, out) = (format!("{size}, guest to guest"), format!("{size}, guest to network"));
        if selected(&between) {
            between_guests(toolstack, &between, *bytes).await?;
            measured += 1;
        }
        if selected(&out) {
            to_network(toolstack, &out, *bytes).await?;
            measured += 1;
        }
    }
    if selected(creation::COUNTED) {
        print_difference(creation::COUNTED, 1, &creation::counted(toolstack).await?);
        measured += 1;
    }
    if inventory.disks.is_empty() {
        return Ok(measured);
    }
    for depth in DEPTHS {
        let name = format!("read of 4 KiB, {depth} at a time");
        if selected(&name) {
            from_disk(toolstack, &name, depth).await?;
            measured += 1;
        }
    }
    Ok(measured)
}

async fn between_guests(toolstack: &Rc<Toolstack>, name: &str, bytes: u32) -> Result<(), BenchError> {
    let sender = Subject::make(toolstack, "bench-a", &SENDER).await?;
    let sent = match Subject::make(toolstack, "bench-b", &RECEIVER).await {
        Ok(receiver) => {
            let sent = between(&sender, &receiver, name, bytes).await;
            receiver.end().await;
            sent
        }
        Err(error) => Err(error),
    };
    sender.end().await;
    sent
}

async fn between(sender: &Subject, receiver: &Subject, name: &str, bytes: u32) -> Result<(), BenchError> {
    // The switch sends to one only when it has seen where that one is.
    let service = receiver.offer()?;
    receiver.run(&format!("bench net {} {bytes} 1 1", address(sender)), |_| {}).await?;
    drop(service);
    packets(sender, &address(receiver), name, bytes).await
}

async fn to_network(toolstack: &Rc<Toolstack>, name: &str, bytes: u32) -> Result<(), BenchError> {
    let sender = Subject::make(toolstack, "bench-a", &SENDER).await?;
    let sent = packets(&sender, NOBODY, name, bytes).await;
    sender.end().await;
    sent
}

async fn packets(sender: &Subject, to: &str, name: &str, bytes: u32) -> Result<(), BenchError> {
    rounds(sender, name, (PACKETS, 1), &|count| format!("bench net {to} {bytes} {count} {ROUNDS}")).await
}

/// The address of a guest's first interface.
pub(super) fn address(subject: &Subject) -> String {
    let address = subject.guest().configuration().addresses().next();
    address.map(|address| format!("{address}")).unwrap_or_default()
}

async fn from_disk(toolstack: &Rc<Toolstack>, name: &str, depth: u32) -> Result<(), BenchError> {
    let reader = Subject::make(toolstack, "bench", &READER).await?;
    let read = rounds(&reader, name, (depth, 1), &|count| format!("bench disk {DISK_ROUNDS} {count}")).await;
    reader.end().await;
    read
}

/// Disk requests to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskRequests {
    /// The disk, or the PCI address of one that the guest is to drive itself. It is written to if the requests write.
    pub disk: String,
    /// What they are, as a guest's command `bench io` takes it: action, order, bytes.
    pub kind: [String; 3],
    /// How many are under way at once; at least one.
    pub depth: u32,
    /// Rounds.
    pub rounds: u32,
}

/// Measures one kind of disk request, with a guest made for it.
pub async fn disk_requests(toolstack: &Rc<Toolstack>, requests: &DiskRequests) -> Result<(), BenchError> {
    let DiskRequests { disk, kind, depth, rounds: times } = requests;
    // Who only reads may do so beside others.
    let access = if kind[0] == "read" { "r!" } else { "w" };
    let disk = match disk.contains(':') {
        true => format!("pci={disk},permissive=1"),
        false => format!("disk={disk},xvda,{access}"),
    };
    let guest = Subject::make(toolstack, "bench", &["memory=32", &disk, "cmdline=disk-timeout=0"]).await?;
    let kind = kind.join(" ");
    let name = format!("{kind} {depth}");
    let measured =
        rounds(&guest, &name, (*depth, 1), &|count| format!("bench io {kind} {count} {times}")).await;
    guest.end().await;
    measured
}

/// Has a guest do rounds with nothing in them and with `count`, each of so many parts, and prints the difference.
pub(super) async fn rounds(
    subject: &Subject,
    name: &str,
    (count, parts): (u32, usize),
    command: &dyn Fn(u32) -> String,
) -> Result<(), BenchError> {
    let empty = typical_round(subject, &command(0), parts).await?;
    let full = typical_round(subject, &command(count), parts).await?;
    print_difference(name, count, &[empty, full]);
    Ok(())
}

/// Prints what a round has that an empty one has not.
fn print_difference(name: &str, count: u32, [empty, full]: &[Counts; 2]) {
    for (what, total) in full.without(empty).named() {
        pv_runtime::println!("bench: {total}/{count} {name}: {what}");
    }
}

async fn typical_round(subject: &Subject, command: &str, parts: usize) -> Result<Counts, BenchError> {
    let service = subject.offer()?;
    subject.run_checked(command).await?;
    let rounds: Vec<_> = service.take_rounds().chunks(parts).map(Counts::sum).collect();
    log::debug!("{command}: {rounds:?}");
    Ok(Counts::typical(&rounds))
}
