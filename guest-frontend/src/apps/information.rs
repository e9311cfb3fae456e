//! What there is: memory, devices, and what went through them.

use alloc::format;
use alloc::string::String;

use ip_stack::Stack;
use pv_runtime::event_channel;
use pv_runtime::grant::grants_in_use;
use pv_runtime::memory::page_count;
use pv_runtime::println;

use super::machine::{Machine, NamedDisk};
use crate::net::NetPort;

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
        print_network(machine, stack);
    }
    machine.disks().iter().enumerate().for_each(|(index, disk)| print_disk(index, disk));
}

fn print_network(machine: &Machine, stack: &Stack) {
    let ethernet = colons(machine.interface().address().0);
    match stack.address() {
        Some(address) => println!("network: {ethernet}, {address}"),
        None => println!("network: {ethernet}, no address"),
    }
    if machine.is_network_own() {
        return println!("  driven by this kernel");
    }
    print_vif(machine.port());
}

fn print_vif(port: &NetPort) {
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
    let Some(counters) = counters else { return println!("  driven by this kernel") };
    println!(
        "  {} requests, {} pages, {} notifications",
        counters.requests, counters.pages, counters.notifications
    );
}

/// An Ethernet address as toolstacks write it.
fn colons(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ethernet_address_has_colons() {
        assert_eq!(colons([0, 0x16, 0x3e, 0, 0xab, 1]), "00:16:3e:00:ab:01");
    }
}
