//! Connecting a vif: what is written to the store, and in which order.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;

use hypercall_abi::io::netif::key;
use hypercall_abi::{GrantReference, PAGE_SIZE};
use pv_runtime::event_channel::EventChannel;
use pv_runtime::xenbus::{Device, StoreError, Transaction, XenbusState};
use smoltcp::wire::EthernetAddress;

use super::port::NetPort;
use super::{Features, Queues, RxQueue, TxQueue};
use crate::buffer::{BackEndMay, GrantTable, GrantsTo, PrivateBuffer, SharedBuffer};
use crate::fault::Fault;
use crate::lifecycle::{ConnectError, Driver, wait_until_connected};

/// Connects a [`NetPort`] to the back ends of a vif, one after the other.
pub struct VifDriver {
    port: Rc<NetPort>,
}

impl VifDriver {
    /// A driver for an interface.
    pub fn new(port: Rc<NetPort>) -> Self {
        Self { port }
    }
}

/// What the back end must know.
struct Published {
    tx_ring: GrantReference,
    rx_ring: GrantReference,
    channel: EventChannel,
}

impl Published {
    async fn write(&self, device: &Device, transaction: &Transaction) -> Result<(), StoreError> {
        let numbers = [
            (key::TX_RING_REF, self.tx_ring.0),
            (key::RX_RING_REF, self.rx_ring.0),
            (key::EVENT_CHANNEL, self.channel.port().0),
        ];
        for (key, number) in numbers {
            transaction.write(&device.key(key), format!("{number}")).await?;
        }
        Features::offer(device, transaction).await
    }
}

impl Driver for VifDriver {
    async fn connect(&mut self, device: &Device) -> Result<(), ConnectError> {
        let features = Features::offered_by(device).await?;
        let address = ethernet_address(device).await?;
        let table = GrantsTo(device.peer());
        let (tx_page, rx_page) = (ring_page(&table)?, ring_page(&table)?);
        let published = Published {
            tx_ring: tx_page.reference(0),
            rx_ring: rx_page.reference(0),
            channel: EventChannel::alloc_unbound(device.peer())?,
        };
        let mut queues = Queues { tx: TxQueue::new(tx_page, table)?, rx: RxQueue::new(rx_page, table)? };
        // No event can be sent yet; the back end looks for pages when it connects.
        let _ = queues.rx.post();
        device.store().transaction(async |transaction| published.write(device, transaction).await).await?;
        device.switch_state(XenbusState::Connected).await?;
        wait_until_connected(device).await?;
        self.port.attach(queues, features, published.channel, address);
        Ok(())
    }

    async fn serve(&mut self) -> Fault {
        self.port.fault().await
    }

    async fn drain(&mut self) {}

    fn disconnect(&mut self) {
        self.port.detach();
    }

    fn give_up(&mut self) {}
}

/// A page for a ring.
fn ring_page(table: &GrantsTo) -> Result<SharedBuffer<<GrantsTo as GrantTable>::Grant>, ConnectError> {
    Ok(PrivateBuffer::new(1)?.share(table, BackEndMay::Write, PAGE_SIZE)?)
}

/// The address that the toolstack has given the interface.
async fn ethernet_address(device: &Device) -> Result<EthernetAddress, ConnectError> {
    let text: Option<String> = device.read_own(key::MAC).await?;
    let address = text.and_then(|text| text.parse().ok());
    address.ok_or(ConnectError::Unsuitable("an Ethernet address"))
}
