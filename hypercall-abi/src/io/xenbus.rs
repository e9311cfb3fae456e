//! How far one half of a split driver has come (`public/io/xenbus.h`).
//!
//! Each half writes its state, in decimal, to the key `state` of its own directory in the store and watches
//! the other's.

/// The state of a front end or back end (`enum xenbus_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum XenbusState {
    /// Not there, or gone.
    Unknown = 0,
    /// Made by the toolstack; nothing has been done yet.
    Initialising = 1,
    /// Has said what it can do, and waits for the peer or the toolstack.
    InitWait = 2,
    /// Has published its rings, and waits for the peer to connect.
    Initialised = 3,
    /// In use.
    Connected = 4,
    /// On its way out, by request or after an error.
    Closing = 5,
    /// Done; the rings are given up.
    Closed = 6,
    /// Being changed while in use.
    Reconfiguring = 7,
    /// Changed; waits for the peer to take note.
    Reconfigured = 8,
}

impl XenbusState {
    /// The state with this number, if it is one.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Unknown,
            1 => Self::Initialising,
            2 => Self::InitWait,
            3 => Self::Initialised,
            4 => Self::Connected,
            5 => Self::Closing,
            6 => Self::Closed,
            7 => Self::Reconfiguring,
            8 => Self::Reconfigured,
            _ => return None,
        })
    }

    /// The state's number, as the store has it.
    pub const fn number(self) -> u32 {
        self as u32
    }
}

/// The key, in either half's directory, that holds its state.
pub const STATE_KEY: &str = "state";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_comes_back_from_its_number_and_no_other_number_does() {
        let states: [_; 9] = core::array::from_fn(|number| XenbusState::from_number(number as u32));
        for (number, state) in states.into_iter().enumerate() {
            assert_eq!(state.map(XenbusState::number), Some(number as u32));
        }
        assert_eq!(XenbusState::from_number(9), None);
    }
}
