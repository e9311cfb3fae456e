//! What both halves of a vif can do, as the store has it.

use hypercall_abi::PAGE_SIZE;
use hypercall_abi::io::netif::key;
use pv_runtime::xenbus::{Device, StoreView};

use super::ETHERNET_HEADER;
use crate::lifecycle::ConnectError;

/// The MTU if the store names none.
const DEFAULT_MTU: usize = 1500;
/// The least that every IPv4 host must take.
const LEAST_MTU: usize = 576;
/// The largest that smoltcp is made for.
const LARGEST_MTU: usize = 9216;

/// What is used of the features that the back end offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Packets of several slots may be sent.
    pub scatter_gather: bool,
    /// TCP checksums may be left blank.
    pub blank_checksums: bool,
    /// Large TCP packets may be sent, for the back end to cut. Only with both of the above.
    pub segmentation: bool,
    /// The largest packet in bytes, without its Ethernet header.
    pub mtu: usize,
}

impl Default for Features {
    fn default() -> Self {
        Self { scatter_gather: false, blank_checksums: false, segmentation: false, mtu: DEFAULT_MTU }
    }
}

impl Features {
    /// Reads what the back end offers.
    ///
    /// # Errors
    ///
    /// If the store cannot be read, or the back end cannot copy into our pages.
    pub async fn offered_by(device: &Device) -> Result<Self, ConnectError> {
        let is_set = async |key| device.read_peer::<u32>(key).await.map(|value| value.unwrap_or(0) != 0);
        if !is_set(key::FEATURE_RX_COPY).await? {
            return Err(ConnectError::Unsuitable(key::FEATURE_RX_COPY));
        }
        let scatter_gather = is_set(key::FEATURE_SG).await?;
        let blank_checksums = !is_set(key::FEATURE_NO_CSUM_OFFLOAD).await?;
        let segmentation = is_set(key::FEATURE_GSO_TCPV4).await?;
        let mtu = match device.read_own(key::MTU).await? {
            None => device.read_peer(key::MTU).await?,
            mtu => mtu,
        };
        Ok(Self::usable(scatter_gather, blank_checksums, segmentation, mtu))
    }

    /// What can be used of what is offered.
    fn usable(scatter_gather: bool, blank_checksums: bool, segmentation: bool, mtu: Option<usize>) -> Self {
        let largest = if scatter_gather { LARGEST_MTU } else { LARGEST_MTU.min(PAGE_SIZE - ETHERNET_HEADER) };
        Self {
            scatter_gather,
            blank_checksums,
            segmentation: segmentation && scatter_gather && blank_checksums,
            mtu: mtu.unwrap_or(DEFAULT_MTU).clamp(LEAST_MTU, largest),
        }
    }

    /// Writes what this front end can do. Blank IPv4 checksums need no key.
    ///
    /// # Errors
    ///
    /// If the store refuses.
    pub(super) async fn offer(
        device: &Device,
        view: &StoreView,
    ) -> Result<(), pv_runtime::xenbus::StoreError> {
        let offered = [key::REQUEST_RX_COPY, key::FEATURE_RX_NOTIFY, key::FEATURE_SG, key::FEATURE_GSO_TCPV4];
        for feature in offered {
            view.write(&device.key(feature), "1").await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_packets_need_chains_and_blank_checksums() {
        assert!(Features::usable(true, true, true, None).segmentation);
        assert!(!Features::usable(false, true, true, None).segmentation);
        assert!(!Features::usable(true, false, true, None).segmentation);
        assert!(!Features::usable(true, true, false, None).segmentation);
    }

    #[test]
    fn the_mtu_is_kept_within_what_can_be_sent() {
        assert_eq!(Features::usable(true, true, true, None).mtu, 1500);
        assert_eq!(Features::usable(true, true, true, Some(9000)).mtu, 9000);
        assert_eq!(Features::usable(true, true, true, Some(1 << 20)).mtu, LARGEST_MTU);
        assert_eq!(Features::usable(false, true, true, Some(9000)).mtu, PAGE_SIZE - ETHERNET_HEADER);
        assert_eq!(Features::usable(true, true, true, Some(0)).mtu, LEAST_MTU);
    }
}
