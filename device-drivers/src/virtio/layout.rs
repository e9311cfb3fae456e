//! Where a virtio device's registers are: what its vendor capabilities in configuration space say.

use crate::pci::{Address, CAPABILITY_VENDOR, Capability, ConfigSpace, Function, capabilities, memory_range};
use crate::setup_error::SetupError;

const VENDOR: u16 = 0x1af4;
/// Device identifiers from here on are this plus the kind.
const MODERN_DEVICES: core::ops::Range<u16> = 0x1040..0x1080;
/// Devices that speak the old specification too; their kind is the subsystem identifier.
const TRANSITIONAL_DEVICES: core::ops::Range<u16> = 0x1000..0x1040;

/// Capability types: the common registers, the doorbells, and those of the kind of device.
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;

/// Bytes of the common registers.
const COMMON_LENGTH: u32 = 56;
/// Places in a vendor capability.
const TYPE: u8 = 3;
const BAR: u8 = 4;
const OFFSET: u8 = 8;
const LENGTH: u8 = 12;
const NOTIFY_MULTIPLIER: u8 = 16;

/// Kinds of virtio device, by their number. An open set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceKind(pub u16);

impl DeviceKind {
    /// A network interface.
    pub const NETWORK: Self = Self(1);
    /// A disk.
    pub const BLOCK: Self = Self(2);

    /// The kind of a function, if it is a virtio device.
    pub fn of(function: &Function) -> Option<Self> {
        if function.vendor != VENDOR {
            return None;
        }
        if MODERN_DEVICES.contains(&function.device) {
            return Some(Self(function.device - MODERN_DEVICES.start));
        }
        TRANSITIONAL_DEVICES.contains(&function.device).then_some(Self(function.subsystem))
    }
}

/// A piece of physical address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Physical address of the first byte.
    pub address: u64,
    /// Bytes.
    pub length: u32,
}

/// Where a device's registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The registers that all virtio devices have.
    pub common: Region,
    /// The doorbells.
    pub notify: Region,
    /// Bytes from one doorbell to the next.
    pub notify_multiplier: u32,
    /// The registers of this kind of device; a kind may have none.
    pub device: Option<Region>,
}

impl Layout {
    /// Reads the capabilities. Of several of one type the first usable one counts, as the specification says.
    ///
    /// # Errors
    ///
    /// [`SetupError::NotModern`] if there are no such capabilities, [`SetupError::BadRegion`] if they lead
    /// outside the device's memory.
    pub fn find(config: &impl ConfigSpace, function: Address) -> Result<Self, SetupError> {
        let (mut common, mut notify, mut device) = (None, None, None);
        for capability in capabilities(config, function).filter(|found| found.id == CAPABILITY_VENDOR) {
            match Self::kind(config, function, capability) {
                Some(COMMON) => common = common.or(Some(capability)),
                Some(NOTIFY) => notify = notify.or(Some(capability)),
                Some(DEVICE) => device = device.or(Some(capability)),
                _ => {}
            }
        }
        let (Some(common), Some(notify)) = (common, notify) else { return Err(SetupError::NotModern) };
        let region = |capability| Self::region(config, function, capability);
        let layout = Self {
            common: region(common)?,
            notify: region(notify)?,
            notify_multiplier: config.read_u32(function, register(notify, NOTIFY_MULTIPLIER)?),
            device: device.map(region).transpose()?,
        };
        if layout.common.length < COMMON_LENGTH {
            return Err(SetupError::BadRegion);
        }
        Ok(layout)
    }

    /// The capability's type, unless it uses a base address register that the specification reserves.
    fn kind(config: &impl ConfigSpace, function: Address, capability: Capability) -> Option<u8> {
        let bar = config.read_u8(function, register(capability, BAR).ok()?);
        (bar < 6).then(|| config.read_u8(function, capability.register + TYPE))
    }

    fn region(
        config: &impl ConfigSpace,
        function: Address,
        capability: Capability,
    ) -> Result<Region, SetupError> {
        let bar = config.read_u8(function, register(capability, BAR)?);
        let offset = config.read_u32(function, register(capability, OFFSET)?);
        let length = config.read_u32(function, register(capability, LENGTH)?);
        let memory = memory_range(config, function, bar).ok_or(SetupError::BadRegion)?;
        let address = memory.part(u64::from(offset), u64::from(length)).ok_or(SetupError::BadRegion)?;
        Ok(Region { address, length })
    }
}

/// The register of a field of a capability, which must not lie beyond configuration space.
fn register(capability: Capability, field: u8) -> Result<u8, SetupError> {
    capability.register.checked_add(field).ok_or(SetupError::BadRegion)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::fake::FakeConfigSpace;
    use crate::pci::scan;

    const FUNCTION: Address = Address::new(0, 4, 0);

    fn body(kind: u8, bar: u8, offset: u32, length: u32) -> [u8; 18] {
        let mut body = [0; 18];
        body[0] = 20;
        body[1] = kind;
        body[2] = bar;
        body[6..10].copy_from_slice(&offset.to_le_bytes());
        body[10..14].copy_from_slice(&length.to_le_bytes());
        body[14..18].copy_from_slice(&4_u32.to_le_bytes());
        body
    }

    /// A disk as QEMU makes it: everything in base address register 4, 16 KiB of memory.
    fn disk() -> FakeConfigSpace {
        let mut config = FakeConfigSpace::default();
        config.add_device(FUNCTION, VENDOR, 0x1042);
        config.set(FUNCTION, 0x20, &0xfe00_0000_u32.to_le_bytes());
        config.set_writable(FUNCTION, 0x20, 0xffff_c000);
        config.add_capability(FUNCTION, 0x40, CAPABILITY_VENDOR, &body(COMMON, 4, 0, 0x1000));
        config.add_capability(FUNCTION, 0x54, CAPABILITY_VENDOR, &body(DEVICE, 4, 0x2000, 0x1000));
        config.add_capability(FUNCTION, 0x68, CAPABILITY_VENDOR, &body(NOTIFY, 4, 0x3000, 0x1000));
        config
    }

    #[test]
    fn the_regions_are_found() {
        let layout = Layout::find(&disk(), FUNCTION).expect("a sound device");
        assert_eq!(layout.common, Region { address: 0xfe00_0000, length: 0x1000 });
        assert_eq!(layout.device, Some(Region { address: 0xfe00_2000, length: 0x1000 }));
        assert_eq!(layout.notify, Region { address: 0xfe00_3000, length: 0x1000 });
        assert_eq!(layout.notify_multiplier, 4);
    }

    #[test]
    fn a_region_outside_the_memory_is_refused() {
        for (offset, length) in [(0x3000, 0x1001), (0x4000, 1), (u32::MAX, u32::MAX)] {
            let mut config = disk();
            config.set(FUNCTION, 0x6a, &body(NOTIFY, 4, offset, length));
            assert_eq!(Layout::find(&config, FUNCTION), Err(SetupError::BadRegion));
        }
    }

    #[test]
    fn common_registers_must_all_be_there() {
        let mut config = disk();
        config.set(FUNCTION, 0x42, &body(COMMON, 4, 0, COMMON_LENGTH - 1));
        assert_eq!(Layout::find(&config, FUNCTION), Err(SetupError::BadRegion));
    }

    #[test]
    fn capabilities_in_reserved_base_addresses_are_passed_over() {
        let mut config = disk();
        config.set(FUNCTION, 0x42, &body(COMMON, 6, 0, 0x1000));
        assert_eq!(Layout::find(&config, FUNCTION), Err(SetupError::NotModern));
    }

    #[test]
    fn a_capability_at_the_end_of_the_space_is_refused() {
        let mut config = disk();
        config.add_capability(FUNCTION, 0xf8, CAPABILITY_VENDOR, &[20, NOTIFY, 4, 0, 0, 0]);
        assert_eq!(Layout::find(&config, FUNCTION), Err(SetupError::BadRegion));
    }

    #[test]
    fn kinds_of_modern_transitional_and_other_devices() {
        let mut config = FakeConfigSpace::default();
        for (device, id) in [(1, 0x1041), (2, 0x1042), (3, 0x1001)] {
            config.add_device(Address::new(0, device, 0), VENDOR, id);
        }
        config.set(Address::new(0, 3, 0), 0x2e, &2_u16.to_le_bytes());
        config.add_device(Address::new(0, 4, 0), 0x8086, 0x1041);
        let kinds: alloc::vec::Vec<_> = scan(&config).iter().map(DeviceKind::of).collect();
        let (net, block) = (Some(DeviceKind::NETWORK), Some(DeviceKind::BLOCK));
        assert_eq!(kinds, [net, block, block, None]);
    }
}
