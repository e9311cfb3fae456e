//! A guest's network interface as its configuration says.
//!
//! Written as `mac=00:16:3e:01:02:03,vlan=7`, each part optional. Without an address one is made up from the guest's
//! name, so that it is the same each time. What the guest sends from another address is dropped, unless
//! `antispoof=0` says that it may.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use crate::net::Vlan;

/// The first half of addresses that may be given to virtual interfaces without asking anybody.
const VENDOR: [u8; 3] = [0x00, 0x16, 0x3e];

/// What the one switch is called.
pub const SWITCH: &str = "switch0";

/// What else `xl` knows of interfaces.
const NOT_YET: [&str; 13] = [
    "backend",
    "colo_checkpoint_host",
    "devid",
    "forwarddev",
    "gatewaydev",
    "ip",
    "model",
    "mtu",
    "rate",
    "script",
    "trusted",
    "type",
    "vifname",
];

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

/// A guest's network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestNic {
    /// Its number in the guest.
    pub number: u32,
    /// Its address, if it was said.
    pub mac: Option<MacAddress>,
    /// The virtual network that it is in.
    pub vlan: Vlan,
    /// Whether the guest may only send from its address.
    pub is_strict: bool,
}

impl Default for GuestNic {
    fn default() -> Self {
        Self { number: 0, mac: None, vlan: Vlan::UNTAGGED, is_strict: true }
    }
}

/// What is wrong with an interface's setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NicError {
    /// Not six pairs of hexadecimal digits, or a group address.
    Mac(String),
    /// No virtual network has this number.
    Vlan(String),
    /// Neither yes nor no.
    AntiSpoofing(String),
    /// No setting is called so.
    Unknown(String),
    /// There is one switch, and it is called otherwise.
    NoBridge(String),
    /// Something that `xl` knows of interfaces and Weir does not have.
    Unsupported(String),
}

impl fmt::Display for NicError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(text) => {
                write!(formatter, "{text:?} is no address for an interface, such as 00:16:3e:12:34:56")
            }
            Self::Vlan(text) => write!(formatter, "vif: vlan={text}: a number from 1 to 4094 is expected"),
            Self::AntiSpoofing(text) => write!(formatter, "vif: antispoof={text}: 0 or 1 is expected"),
            Self::Unknown(text) => {
                write!(
                    formatter,
                    "vif={text}: mac=, vlan=, bridge= and antispoof= can be said of an interface"
                )
            }
            Self::NoBridge(name) => write!(
                formatter,
                "vif: there is no bridge {name:?}: the one there is is called {SWITCH}, and need not be named"
            ),
            Self::Unsupported(part) => write!(formatter, "vif: {part:?} is not there yet"),
        }
    }
}

impl core::error::Error for NicError {}

impl GuestNic {
    /// The address of the interface of the guest called so.
    pub fn address(&self, guest: &str) -> MacAddress {
        self.mac.unwrap_or_else(|| MacAddress::made_up(guest, self.number))
    }
}

impl FromStr for GuestNic {
    type Err = NicError;

    fn from_str(text: &str) -> Result<Self, NicError> {
        let mut nic = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some(("mac", address)) => nic.mac = Some(address.parse()?),
                Some(("vlan", number)) => nic.vlan = parse_vlan(number)?,
                Some(("antispoof", word)) => {
                    nic.is_strict = match word {
                        "0" => false,
                        "1" => true,
                        _ => return Err(NicError::AntiSpoofing(word.to_owned())),
                    };
                }
                Some(("bridge", SWITCH)) | Some(("type", "vif")) => {}
                Some(("bridge", other)) => return Err(NicError::NoBridge(other.to_owned())),
                Some((key, _)) if NOT_YET.contains(&key) => {
                    return Err(NicError::Unsupported(part.to_owned()));
                }
                _ => return Err(NicError::Unknown(part.to_owned())),
            }
        }
        Ok(nic)
    }
}

impl MacAddress {
    /// An address that follows from a name: FNV-1a, whose low bits are well mixed.
    fn made_up(guest: &str, number: u32) -> Self {
        let bytes = guest.bytes().chain(u64::from(number).to_le_bytes());
        let hash =
            bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let [a, b, c, _] = hash.to_le_bytes();
        // Made-up addresses have the top bit of the fourth byte clear, as those of other toolstacks do.
        Self([VENDOR[0], VENDOR[1], VENDOR[2], a & 0x7f, b, c])
    }
}

impl FromStr for MacAddress {
    type Err = NicError;

    fn from_str(text: &str) -> Result<Self, NicError> {
        parse_mac(text).ok_or_else(|| NicError::Mac(text.to_owned()))
    }
}

fn parse_vlan(text: &str) -> Result<Vlan, NicError> {
    text.parse().ok().and_then(Vlan::new).ok_or_else(|| NicError::Vlan(text.to_owned()))
}

fn parse_mac(text: &str) -> Option<MacAddress> {
    let mut bytes = [0; 6];
    let mut pairs = text.split(':');
    for byte in &mut bytes {
        let pair = pairs
            .next()
            .filter(|pair| pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    let is_one_interface = bytes[0] & 1 == 0 && bytes != [0; 6];
    (pairs.next().is_none() && is_one_interface).then_some(MacAddress(bytes))
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_address_reads_back_as_written() {
        assert_eq!("00:16:3E:0a:ff:01".parse::<MacAddress>().unwrap().to_string(), "00:16:3e:0a:ff:01");
    }

    #[test]
    fn what_is_no_address_of_one_interface_is_refused() {
        for text in [
            "",
            "00:16:3e:0a:ff",
            "00:16:3e:0a:ff:01:02",
            "0:16:3e:0a:ff:01",
            "00:16:3e:0a:ff:0g",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "+0:16:3e:0a:ff:01",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn made_up_addresses_stay_and_differ() {
        let nic = GuestNic::default();
        let second = GuestNic { number: 1, ..nic.clone() };
        assert_eq!(nic.address("a"), nic.address("a"));
        assert_ne!(nic.address("a"), second.address("a"));
        assert_ne!(nic.address("a"), nic.address("b"));
        assert_eq!(nic.address("a").0[..3], VENDOR);
    }

    #[test]
    fn settings_are_taken_or_named() {
        assert_eq!("".parse(), Ok(GuestNic::default()));
        assert!("mac=00:16:3e:00:00:01".parse::<GuestNic>().unwrap().mac.is_some());
        let nic: GuestNic = "vlan=7,antispoof=0".parse().unwrap();
        assert_eq!((nic.vlan.number(), nic.is_strict), (7, false));
        assert!("antispoof=1".parse::<GuestNic>().unwrap().is_strict);
        assert!("mac=00:16:3e:00:00:01, bridge=switch0".parse::<GuestNic>().is_ok());
        let message = |text: &str| text.parse::<GuestNic>().unwrap_err().to_string();
        assert_eq!(
            message("colour=red"),
            "vif=colour=red: mac=, vlan=, bridge= and antispoof= can be said of an interface"
        );
        assert_eq!(message("rate=5Mb/s"), "vif: \"rate=5Mb/s\" is not there yet");
        for number in ["0", "4095", "x", ""] {
            assert_eq!(
                message(&alloc::format!("vlan={number}")),
                alloc::format!("vif: vlan={number}: a number from 1 to 4094 is expected")
            );
        }
        assert_eq!(message("antispoof=no"), "vif: antispoof=no: 0 or 1 is expected");
        assert_eq!(
            message("bridge=xenbr0"),
            "vif: there is no bridge \"xenbr0\": the one there is is called switch0, and need not be named"
        );
    }
}
