//! Work on a packet that its sender left to others, and who can take it as it is.

use hypercall_abi::io::netif::{
    NETRXF_CSUM_BLANK, NETRXF_DATA_VALIDATED, NETTXF_CSUM_BLANK, NETTXF_DATA_VALIDATED, NetifExtraGso,
    XEN_NETIF_EXTRA_TYPE_GSO, XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6,
};

use super::headers::IpVersion;

/// What is known of the checksum of the protocol above IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// It is in the packet; nobody has checked it.
    #[default]
    InPacket,
    /// It is in the packet or was; it need not be checked.
    Validated,
    /// It still has to be computed. In its place stands the sum of the pseudo header, if the sender did it
    /// well. The packet has never left this machine, so nobody need check it.
    Blank,
}

/// A large TCP packet that is to be cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// Over which IP.
    pub version: IpVersion,
    /// Bytes of payload in each segment but the last; not 0.
    pub size: u16,
}

/// Everything that was left to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The checksum.
    pub checksum: Checksum,
    /// Segmentation, if wanted.
    pub segmentation: Option<Segmentation>,
}

impl Offload {
    /// What the flags of a tx request say about the checksum.
    #[inline]
    pub const fn checksum_of(tx_flags: u16) -> Checksum {
        if tx_flags & NETTXF_CSUM_BLANK != 0 {
            Checksum::Blank
        } else if tx_flags & NETTXF_DATA_VALIDATED != 0 {
            Checksum::Validated
        } else {
            Checksum::InPacket
        }
    }

    /// What to tell a guest in the flags of an rx response.
    #[inline]
    pub const fn rx_flags(&self) -> u16 {
        match self.checksum {
            Checksum::InPacket => 0,
            Checksum::Validated => NETRXF_DATA_VALIDATED,
            Checksum::Blank => NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED,
        }
    }
}

impl Segmentation {
    /// Reads a guest's extra info; `None` if it makes no sense.
    pub const fn from_extra(extra: &NetifExtraGso) -> Option<Self> {
        let version = match extra.gso_type {
            XEN_NETIF_GSO_TYPE_TCPV4 => IpVersion::V4,
            XEN_NETIF_GSO_TYPE_TCPV6 => IpVersion::V6,
            _ => return None,
        };
        if extra.size == 0 { None } else { Some(Self { version, size: extra.size }) }
    }

    /// The same as extra info for a guest.
    pub const fn to_extra(self) -> NetifExtraGso {
        let gso_type = match self.version {
            IpVersion::V4 => XEN_NETIF_GSO_TYPE_TCPV4,
            IpVersion::V6 => XEN_NETIF_GSO_TYPE_TCPV6,
        };
        NetifExtraGso {
            kind: XEN_NETIF_EXTRA_TYPE_GSO,
            flags: 0,
            size: self.size,
            gso_type,
            pad: 0,
            features: 0,
        }
    }
}

/// What a receiver of packets can do by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Take packets in several pieces.
    pub scatter: bool,
    /// Fill in blank checksums over IPv4.
    pub checksum_v4: bool,
    /// Fill in blank checksums over IPv6.
    pub checksum_v6: bool,
    /// Cut TCP packets over IPv4.
    pub segmentation_v4: bool,
    /// Cut TCP packets over IPv6.
    pub segmentation_v6: bool,
}

impl Capabilities {
    /// Without those that make sense only together with others that are missing: whoever cuts packets also
    /// fills in checksums and takes packets in pieces.
    pub const fn consistent(self) -> Self {
        Self {
            segmentation_v4: self.segmentation_v4 && self.checksum_v4 && self.scatter,
            segmentation_v6: self.segmentation_v6 && self.checksum_v6 && self.scatter,
            ..self
        }
    }

    /// Whether blank checksums are fine whatever the packet is.
    #[inline]
    pub const fn any_checksum(&self) -> bool {
        self.checksum_v4 && self.checksum_v6
    }

    /// Whether a blank checksum over this IP is fine.
    pub const fn checksum(&self, version: IpVersion) -> bool {
        match version {
            IpVersion::V4 => self.checksum_v4,
            IpVersion::V6 => self.checksum_v6,
        }
    }

    /// Whether a packet may come uncut.
    #[inline]
    pub const fn segmentation(&self, wanted: Segmentation) -> bool {
        match wanted.version {
            IpVersion::V4 => self.segmentation_v4,
            IpVersion::V6 => self.segmentation_v6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_what_is_known_of_the_checksum() {
        let both = NETTXF_CSUM_BLANK | NETTXF_DATA_VALIDATED;
        let cases = [
            (0, Checksum::InPacket, 0),
            (NETTXF_DATA_VALIDATED, Checksum::Validated, NETRXF_DATA_VALIDATED),
            (both, Checksum::Blank, NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED),
            (NETTXF_CSUM_BLANK, Checksum::Blank, NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED),
        ];
        for (tx, checksum, rx) in cases {
            assert_eq!(Offload::checksum_of(tx), checksum);
            assert_eq!(Offload { checksum, segmentation: None }.rx_flags(), rx);
        }
    }

    #[test]
    fn segmentation_goes_through_extra_info_unchanged() {
        for version in [IpVersion::V4, IpVersion::V6] {
            let wanted = Segmentation { version, size: 1448 };
            assert_eq!(Segmentation::from_extra(&wanted.to_extra()), Some(wanted));
        }
    }

    #[test]
    fn senseless_extra_info_is_refused() {
        let sound = Segmentation { version: IpVersion::V4, size: 1448 }.to_extra();
        assert_eq!(Segmentation::from_extra(&NetifExtraGso { size: 0, ..sound }), None);
        for gso_type in [0, 3, 255] {
            assert_eq!(Segmentation::from_extra(&NetifExtraGso { gso_type, ..sound }), None);
        }
    }
}
