//! A network interface with its event channel: what the driver connects and the stack uses.

use alloc::rc::Rc;
use core::cell::{Cell, RefCell, RefMut};
use core::task::{Context, Poll};

use ip_stack::{Port, Turn};
use pv_runtime::event_channel::EventChannel;
use pv_runtime::executor::Notify;
use ring::NotifyPeer;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::time::Instant;
use smoltcp::wire::EthernetAddress;

use super::{Features, NetDevice, Queues};
use crate::buffer::GrantsTo;
use crate::fault::Fault;

/// A network interface that comes and goes with its back end.
pub struct NetPort {
    device: RefCell<NetDevice<GrantsTo>>,
    channel: RefCell<Option<Rc<EventChannel>>>,
    address: Cell<EthernetAddress>,
    /// How often a back end was connected.
    connections: Cell<u32>,
    /// For whoever waits for an event: the interface came or went.
    changed: Notify,
    /// For whoever serves the interface: the back end broke the rules.
    faulty: Notify,
}

impl NetPort {
    /// An interface without a back end.
    pub fn new() -> Self {
        Self {
            device: RefCell::new(NetDevice::new()),
            channel: RefCell::new(None),
            address: Cell::new(EthernetAddress([0; 6])),
            connections: Cell::new(0),
            changed: Notify::new(),
            faulty: Notify::new(),
        }
    }

    /// Connects the interface to a back end.
    pub(super) fn attach(
        &self,
        queues: Queues<GrantsTo>,
        features: Features,
        channel: EventChannel,
        address: EthernetAddress,
    ) {
        self.device.borrow_mut().attach(queues, features);
        self.channel.replace(Some(Rc::new(channel)));
        self.address.set(address);
        self.connections.set(self.connections.get() + 1);
        self.changed.ring();
    }

    /// Gives up the rings and the event channel.
    pub(super) fn detach(&self) {
        let queues = self.device.borrow_mut().detach();
        drop(queues);
        self.channel.replace(None);
        self.changed.ring();
    }

    /// Waits until the back end broke the rules.
    pub(super) async fn fault(&self) -> Fault {
        loop {
            if let Some(fault) = self.device.borrow().fault() {
                return fault;
            }
            self.faulty.wait().await;
        }
    }

    /// The interface, to be polled. It must be given back before the next await.
    pub fn device(&self) -> RefMut<'_, NetDevice<GrantsTo>> {
        self.device.borrow_mut()
    }

    /// Wakes the back end if it waits.
    fn notify(&self, needed: NotifyPeer) {
        if needed.needed()
            && let Some(channel) = &*self.channel.borrow()
            && let Err(errno) = channel.notify()
        {
            log::debug!("the network back end cannot be notified: {errno}");
        }
    }
}

impl Port for NetPort {
    /// The Ethernet address that the toolstack has given the interface.
    fn address(&self) -> EthernetAddress {
        self.address.get()
    }

    /// How often a back end was connected; a new one may have other features.
    fn connections(&self) -> u32 {
        self.connections.get()
    }

    /// Whether there is a back end.
    fn is_connected(&self) -> bool {
        self.channel.borrow().is_some()
    }

    fn make_interface(&self, config: Config, now: Instant) -> Interface {
        Interface::new(config, &mut *self.device(), now)
    }

    fn poll(&self, interface: &mut Interface, sockets: &mut SocketSet<'static>, now: Instant) {
        let mut device = self.device();
        device.begin();
        interface.poll(now, &mut *device, sockets);
    }

    fn put_frames(&self, length: usize, count: u32, fill: &mut dyn FnMut(u32, &mut [u8])) -> u32 {
        let mut device = self.device();
        device.begin();
        ip_stack::put_frames(&mut *device, length, count, fill)
    }

    fn take_frames(&self, take: &mut dyn FnMut(&[u8])) {
        let mut device = self.device();
        device.begin();
        ip_stack::take_frames(&mut *device, take);
    }

    fn hand_over(&self) {
        let needed = self.device().flush();
        self.notify(needed);
    }

    fn ask_for_event(&self) -> Turn {
        let mut device = self.device();
        let turn = Turn { may_wait: device.may_wait(), is_starved: device.is_starved() };
        if device.fault().is_some() {
            self.faulty.ring();
        }
        turn
    }

    /// Waits for an event from the back end, or for a change of back end.
    fn poll_event(&self, context: &mut Context<'_>) -> Poll<()> {
        let changed = self.changed.poll_wait(context);
        match &*self.channel.borrow() {
            Some(channel) if changed.is_pending() => channel.poll_wait(context),
            _ => changed,
        }
    }
}

impl Default for NetPort {
    fn default() -> Self {
        Self::new()
    }
}
