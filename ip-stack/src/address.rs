//! Where the interface's address comes from.

use core::error::Error;
use core::fmt;
use core::str::FromStr;

use smoltcp::wire::{Ipv4Address, Ipv4Cidr};

/// Where the interface's IPv4 address comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressPlan {
    /// From a DHCP server.
    #[default]
    Dhcp,
    /// From the command line.
    Fixed {
        /// The address and its network.
        address: Ipv4Cidr,
        /// Who leads to all other networks.
        gateway: Option<Ipv4Address>,
    },
}

/// The text is not `ADDRESS/PREFIX` or `ADDRESS/PREFIX,GATEWAY`, nor `dhcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAddress;

impl fmt::Display for BadAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an address has the form 10.0.0.2/24 or 10.0.0.2/24,10.0.0.1, or is dhcp")
    }
}

impl Error for BadAddress {}

impl FromStr for AddressPlan {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if text == "dhcp" {
            return Ok(Self::Dhcp);
        }
        let (address, gateway) = match text.split_once(',') {
            Some((address, gateway)) => (address, Some(gateway.parse().map_err(|_| BadAddress)?)),
            None => (text, None),
        };
        let (address, prefix) = address.split_once('/').ok_or(BadAddress)?;
        let address = address.parse().map_err(|_| BadAddress)?;
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32).ok_or(BadAddress)?;
        Ok(Self::Fixed { address: Ipv4Cidr::new(address, prefix), gateway })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_gateway() {
        let address = Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, 2), 24);
        let gateway = Some(Ipv4Address::new(10, 0, 0, 1));
        assert_eq!("10.0.0.2/24".parse(), Ok(AddressPlan::Fixed { address, gateway: None }));
        assert_eq!("10.0.0.2/24,10.0.0.1".parse(), Ok(AddressPlan::Fixed { address, gateway }));
        assert_eq!("dhcp".parse(), Ok(AddressPlan::Dhcp));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "10.0.0.2", "10.0.0.2/33", "10.0.0/24", "10.0.0.2/24,", "10.0.0.2/24,x", "a/b"] {
            assert_eq!(text.parse::<AddressPlan>(), Err(BadAddress), "{text}");
        }
    }
}
