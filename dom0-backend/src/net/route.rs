//! Where a sender's packets go: the last answer, for as long as it holds.
//!
//! Packets come in rows to the same receiver, and looking two addresses up for each of them costs more than
//! all else that the switch decides.

use super::ethernet::Addresses;
use super::mac_table::PortId;
use super::packet::Destination;
use super::switch::WIRE;

/// What an answer depends on beside the addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validity {
    /// The table's generation.
    pub generation: u32,
    /// The present second, since entries become old.
    pub second: u32,
}

/// A sender's last packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteCache(Option<(Addresses, Validity, Destination)>);

impl RouteCache {
    /// Where a packet goes, if one with the same addresses went there just now.
    #[inline]
    pub fn get(&self, addresses: &Addresses, validity: Validity) -> Option<Destination> {
        let (_, since, destination) = self.0.as_ref()?;
        (self.is_for(addresses) && *since == validity).then_some(*destination)
    }

    /// The guest's interface that the last packet went to, if that is still right.
    #[inline]
    pub fn guest(&self, validity: Validity) -> Option<PortId> {
        match self.0 {
            Some((_, since, Destination::One(port))) if since == validity && port != WIRE => Some(port),
            _ => None,
        }
    }

    /// Whether a packet has the same addresses as the last one.
    #[inline]
    pub fn is_for(&self, addresses: &Addresses) -> bool {
        self.0.as_ref().is_some_and(|(known, _, _)| known == addresses)
    }

    /// Notes where a packet goes.
    pub fn set(&mut self, addresses: Addresses, validity: Validity, destination: Destination) {
        self.0 = Some((addresses, validity, destination));
    }

    /// Whether the last packet went to the machine's network.
    #[inline]
    pub fn leads_out(&self) -> bool {
        matches!(self.0, Some((_, _, Destination::One(WIRE))))
    }

    /// Whether the last packet went to the machine's network, and that is still right.
    #[inline]
    pub fn leads_out_at(&self, validity: Validity) -> bool {
        matches!(self.0, Some((_, since, Destination::One(WIRE))) if since == validity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_for_the_same_addresses_and_as_long_as_nothing_changed() {
        let frame = |to, from, kind: [u8; 2]| {
            let words = [[2, 0, 0, 0], [0, to, 2, 0], [0, 0, 0, from], [kind[0], kind[1], 0, 0]];
            Addresses::from_words(words.map(u32::from_le_bytes))
        };
        let addresses = frame(1, 2, [8, 0]);
        let now = Validity { generation: 5, second: 9 };
        let mut cache = RouteCache::default();
        assert_eq!(cache.get(&addresses, now), None);
        cache.set(addresses, now, Destination::One(PortId(3)));
        assert_eq!(cache.get(&addresses, now), Some(Destination::One(PortId(3))));
        assert_eq!(cache.get(&frame(1, 7, [8, 0]), now), None);
        assert_eq!(cache.get(&frame(7, 2, [8, 0]), now), None);
        assert_eq!(cache.get(&frame(1, 2, [0x81, 0]), now), None, "with a tag it must be looked at");
        assert_eq!(cache.get(&addresses, Validity { generation: 6, ..now }), None);
        assert_eq!(cache.get(&addresses, Validity { second: 10, ..now }), None);
        assert_eq!(cache.guest(now), Some(PortId(3)));
        assert_eq!(cache.guest(Validity { second: 10, ..now }), None);
        assert!(!cache.leads_out());
        cache.set(addresses, now, Destination::One(WIRE));
        assert!(cache.leads_out() && cache.leads_out_at(now));
        assert!(!cache.leads_out_at(Validity { second: 10, ..now }));
        assert_eq!(cache.guest(now), None);
    }
}
