//! Which port an Ethernet address was last heard from, in each virtual network.
//!
//! The table is bounded as a whole and for each port, so that a guest that invents addresses fills its own
//! share and nobody else's. Entries age without a timer: an old one is simply no answer any more, and goes
//! when its port needs room.

use hashbrown::HashMap;

use super::ethernet::{MacAddress, Vlan};

/// A place where frames come from and go to: the machine's interface or a guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// Seconds after which an address that was not heard from is forgotten.
const LIFETIME: u32 = 300;

/// An address's place.
#[derive(Clone, Copy, Debug)]
struct Entry {
    port: PortId,
    /// When it was last heard from, in seconds.
    heard: u32,
}

impl Entry {
    const fn is_fresh(&self, now: u32) -> bool {
        now.wrapping_sub(self.heard) < LIFETIME
    }
}

/// How much of the table a port has used.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    entries: u16,
    /// When it last ran out and old entries were looked for, in seconds.
    swept: Option<u32>,
}

/// The table.
#[derive(Debug, Default)]
pub struct MacTable {
    entries: HashMap<(Vlan, MacAddress), Entry>,
    shares: HashMap<PortId, Share>,
    /// Changes whenever an answer may have changed, but for entries that have become old.
    generation: u32,
}

impl MacTable {
    /// Notes that `station` was heard from at `port`, which may have `limit` entries. `now` is in seconds.
    #[inline]
    pub fn learn(&mut self, station: (Vlan, MacAddress), port: PortId, limit: u16, now: u32) {
        match self.entries.get_mut(&station) {
            Some(entry) if entry.port == port => entry.heard = now,
            _ => self.learn_anew(station, port, limit, now),
        }
    }

    fn learn_anew(&mut self, station: (Vlan, MacAddress), port: PortId, limit: u16, now: u32) {
        if !station.1.is_valid_source() || !self.has_room(port, limit, now) {
            return;
        }
        self.shares.entry(port).or_default().entries += 1;
        self.generation = self.generation.wrapping_add(1);
        if let Some(before) = self.entries.insert(station, Entry { port, heard: now }) {
            self.give_back(before.port);
        }
    }

    /// Whether the port may have another entry. Looks for old ones at most once a second.
    fn has_room(&mut self, port: PortId, limit: u16, now: u32) -> bool {
        let share = self.shares.entry(port).or_default();
        if share.entries < limit {
            return true;
        }
        if share.swept.replace(now) == Some(now) {
            return false;
        }
        self.entries.retain(|_, entry| entry.port != port || entry.is_fresh(now));
        let left = self.entries.values().filter(|entry| entry.port == port).count() as u16;
        self.shares.entry(port).or_default().entries = left;
        left < limit
    }

    fn give_back(&mut self, port: PortId) {
        if let Some(share) = self.shares.get_mut(&port) {
            share.entries = share.entries.saturating_sub(1);
        }
    }

    /// Where `station` was heard from lately.
    #[inline]
    pub fn look_up(&self, station: (Vlan, MacAddress), now: u32) -> Option<PortId> {
        let entry = self.entries.get(&station)?;
        entry.is_fresh(now).then_some(entry.port)
    }

    /// A number that is another one whenever [`look_up`](Self::look_up) may answer differently than before
    /// within the same second.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Notes that ports have come or gone.
    pub fn ports_changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Forgets everything about a port.
    pub fn forget(&mut self, port: PortId) {
        self.generation = self.generation.wrapping_add(1);
        self.entries.retain(|_, entry| entry.port != port);
        self.shares.remove(&port);
    }

    /// All addresses, with their ports and how many seconds ago they were heard from.
    pub fn iter(&self, now: u32) -> impl Iterator<Item = (MacAddress, PortId, u32)> {
        let age = move |entry: &Entry| now.wrapping_sub(entry.heard);
        self.entries.iter().map(move |((_, address), entry)| (*address, entry.port, age(entry)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PortId = PortId(1);
    const B: PortId = PortId(2);

    fn mac(number: u8) -> (Vlan, MacAddress) {
        (Vlan::UNTAGGED, MacAddress::new([2, 0, 0, 0, 0, number]))
    }

    #[test]
    fn an_address_is_where_it_was_last_heard() {
        let mut table = MacTable::default();
        assert_eq!(table.look_up(mac(1), 0), None);
        table.learn(mac(1), A, 8, 0);
        assert_eq!(table.look_up(mac(1), 1), Some(A));
        table.learn(mac(1), B, 8, 2);
        assert_eq!(table.look_up(mac(1), 3), Some(B));
    }

    #[test]
    fn networks_know_nothing_of_each_other() {
        let mut table = MacTable::default();
        let elsewhere = (Vlan::new(7).expect("a network"), mac(1).1);
        table.learn(mac(1), A, 8, 0);
        assert_eq!(table.look_up(elsewhere, 0), None);
        table.learn(elsewhere, B, 8, 0);
        assert_eq!((table.look_up(mac(1), 0), table.look_up(elsewhere, 0)), (Some(A), Some(B)));
    }

    #[test]
    fn an_address_not_heard_for_long_is_forgotten() {
        let mut table = MacTable::default();
        table.learn(mac(1), A, 8, 10);
        assert_eq!(table.look_up(mac(1), 10 + LIFETIME - 1), Some(A));
        assert_eq!(table.look_up(mac(1), 10 + LIFETIME), None);
        table.learn(mac(1), A, 8, 10 + LIFETIME);
        assert_eq!(table.look_up(mac(1), 11 + LIFETIME), Some(A));
    }

    #[test]
    fn a_port_fills_only_its_own_share() {
        let mut table = MacTable::default();
        for number in 0..100 {
            table.learn(mac(number), A, 4, 0);
        }
        table.learn(mac(200), B, 4, 0);
        assert_eq!(table.look_up(mac(3), 0), Some(A));
        assert_eq!(table.look_up(mac(4), 0), None);
        assert_eq!(table.look_up(mac(200), 0), Some(B));
        assert_eq!(table.iter(0).count(), 5);
    }

    #[test]
    fn old_entries_make_room() {
        let mut table = MacTable::default();
        for number in 0..4 {
            table.learn(mac(number), A, 4, 0);
        }
        table.learn(mac(9), A, 4, LIFETIME);
        assert_eq!(table.look_up(mac(9), LIFETIME), Some(A));
        assert_eq!(table.iter(0).count(), 1);
    }

    #[test]
    fn an_address_that_moves_leaves_its_share_behind() {
        let mut table = MacTable::default();
        for number in 0..4 {
            table.learn(mac(number), A, 4, 0);
        }
        table.learn(mac(0), B, 4, 0);
        table.learn(mac(8), A, 4, 0);
        assert_eq!(table.look_up(mac(8), 0), Some(A));
    }

    #[test]
    fn groups_are_never_learnt() {
        let mut table = MacTable::default();
        table.learn((Vlan::UNTAGGED, MacAddress::BROADCAST), A, 4, 0);
        table.learn((Vlan::UNTAGGED, MacAddress::default()), A, 4, 0);
        assert_eq!(table.iter(0).count(), 0);
    }

    #[test]
    fn a_port_that_goes_takes_its_addresses_along() {
        let mut table = MacTable::default();
        table.learn(mac(1), A, 4, 0);
        table.learn(mac(2), B, 4, 0);
        table.forget(A);
        assert_eq!((table.look_up(mac(1), 0), table.look_up(mac(2), 0)), (None, Some(B)));
    }
}
