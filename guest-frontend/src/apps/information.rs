//! What there is: memory, devices, and what went through them.

use pv_runtime::event_channel;
use pv_runtime::grant::grants_in_use;
use pv_runtime::memory::page_count;
use pv_runtime::println;

use super::machine::{Machine, NamedDisk};
use crate::stack::Stack;

/// Prints what there is.
pub(super) fn print(machine: &Machine) {
    let (major, minor) = machine.info.hypervisor_version;
    println!("domain {}, hypervisor interface {major}.{minor}", machine.info.domain_id);
    let pages = page_count();
    println!("memory: {} pages, {} free", pages.total, pages.free);
    let events = event_channel::counters();
    println!(
        "events: {} notifications sent, {} events taken, {} upcalls; {} grants",
        events.notifications,
        events.events,
        events.upcalls,
        grants_in_use()
    );
    if let Some(stack) = machine.stack() {
        print_network(stack);
    }
    machine.disks().iter().enumerate().for_each(|(index, disk)| print_disk(index, disk));
}

fn print_network(stack: &Stack) {
    let port = stack.port();
    match stack.address() {
        Some(address) => println!("network: {}, {address}", port.address()),
        None => println!("network: {}, no address", port.address()),
    }
    let device = port.device();
    let features = device.features();
    println!(
        "  mtu {}, chains {}, blank checksums {}, segmentation {}",
        features.mtu, features.scatter_gather, features.blank_checksums, features.segmentation
    );
    let Some(queues) = device.queues() else { return println!("  not connected") };
    let (tx, rx) = (queues.tx.counters(), queues.rx.counters());
    println!(
        "  sent {} packets, {} bytes, {} dropped, {} notifications",
        tx.packets, tx.bytes, tx.dropped, tx.notifications
    );
    println!(
        "  received {} packets, {} bytes, {} dropped, {} notifications",
        rx.packets, rx.bytes, rx.dropped, rx.notifications
    );
}

fn print_disk(index: usize, named: &NamedDisk) {
    let Some(info) = named.disk.info() else {
        return println!("disk {index}: {}, not connected", named.number);
    };
    let (geometry, counters) = (info.geometry, info.counters);
    let access = if geometry.read_only { ", read-only" } else { "" };
    println!(
        "disk {index}: {}, {} sectors, {} bytes a block{access}",
        named.number, geometry.sectors, geometry.sector_size
    );
    println!(
        "  {} requests, {} pages, {} notifications",
        counters.requests, counters.pages, counters.notifications
    );
}
