//! What all back ends share: finding devices in the store, and keeping step with front ends.
//!
//! The toolstack makes a directory for each half of a device; that is all there is to creating one. A back end
//! watches its kind's directory, gives each device a task, and the task takes the device through its life:
//!
//! ```text
//!   Initialising ─ offer ─► InitWait ─ connect ─► Connected ─ disconnect ─► Closing ─► Closed ─┐
//!                              ▲                                                               │
//!                              └────────────── the front end starts over ──────────────────────┘
//! ```

mod copy;
mod cost;
mod device_task;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod life;
mod manager;
mod maps;

pub use copy::GrantCopy;
pub use cost::{Amounts, Cost};
pub use device_task::{BackEnd, Connection};
pub use error::ConnectError;
pub use life::{Step, View, next_step};
pub use manager::serve;
pub use maps::GrantMap;
