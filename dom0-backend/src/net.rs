//! Networks: guests' interfaces, the machine's own, and the switch between them.

mod back_end;
mod checksum;
mod counters;
#[cfg(test)]
pub(crate) mod fake;
mod mac_table;
mod moderation;
mod own;
mod packet;
mod pool;
mod route;
mod segmentation;
mod spans;
mod switch;
mod tx;
mod vif;

#[cfg(test)]
use device_drivers::net::frames;
use device_drivers::net::{buffers, ethernet, headers, interface, offload};

pub use back_end::{CardReport, NetworkBackEnd, VifReport};
pub use buffers::{BufferId, Buffers, FRAME_START, Piece};
pub use counters::{SwitchCounters, VifCounters};
pub use ethernet::{MacAddress, Vlan};
pub use headers::{Headers, IpVersion};
pub use interface::{Interface, Outgoing, Received};
pub use mac_table::PortId;
pub use moderation::{Moderation, Wish};
pub use offload::{Capabilities, Checksum, Offload, Segmentation};
pub use switch::{Platform, Round, Switch, WIRE};
pub use tx::TxFault;
pub use vif::{Admission, Channel, Connection, FrontEnd};
