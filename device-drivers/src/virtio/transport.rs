//! The registers that every virtio device has: reset, features, queues, doorbells.
//!
//! The order of a start-up is the specification's (section 3.1.1), and [`Transport`] takes it step by step:
//! [`begin`](Transport::begin), [`negotiate`](Transport::negotiate), [`start_queue`](Transport::start_queue)
//! for each queue, [`finish`](Transport::finish).

use super::queue::QUEUE_SIZE_MAX;
use crate::registers::Registers;
use crate::setup_error::SetupError;

/// Feature bits that concern the transport.
pub mod feature {
    /// A descriptor may point to a table of descriptors.
    pub const INDIRECT_DESCRIPTORS: u64 = 1 << 28;
    /// Each side says after which message it wants to be woken.
    pub const EVENT_INDEX: u64 = 1 << 29;
    /// The device follows version 1 of the specification.
    pub const VERSION_1: u64 = 1 << 32;
    /// The device must be told addresses that an IOMMU translates.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
}

/// For "no interrupt" where a vector is asked for.
pub const NO_VECTOR: u16 = 0xffff;

/// The common registers (section 4.1.4.3), by offset.
mod common {
    pub const DEVICE_FEATURE_SELECT: usize = 0x00;
    pub const DEVICE_FEATURE: usize = 0x04;
    pub const DRIVER_FEATURE_SELECT: usize = 0x08;
    pub const DRIVER_FEATURE: usize = 0x0c;
    pub const CONFIG_MSIX_VECTOR: usize = 0x10;
    pub const NUM_QUEUES: usize = 0x12;
    pub const DEVICE_STATUS: usize = 0x14;
    pub const CONFIG_GENERATION: usize = 0x15;
    pub const QUEUE_SELECT: usize = 0x16;
    pub const QUEUE_SIZE: usize = 0x18;
    pub const QUEUE_MSIX_VECTOR: usize = 0x1a;
    pub const QUEUE_ENABLE: usize = 0x1c;
    pub const QUEUE_NOTIFY_OFF: usize = 0x1e;
    pub const QUEUE_DESC: usize = 0x20;
    pub const QUEUE_DRIVER: usize = 0x28;
    pub const QUEUE_DEVICE: usize = 0x30;
}

/// Bits of the status register.
mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
    pub const FAILED: u8 = 128;
}

/// How often the status register is read before a device counts as stuck.
const RESET_PATIENCE: u32 = 1_000_000;
/// How often a value is read anew because the device changed its configuration meanwhile.
const CONFIGURATION_PATIENCE: u32 = 100;

/// Machine addresses of a queue's three parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueAddresses {
    /// The descriptor table.
    pub descriptors: u64,
    /// What the driver writes.
    pub available: u64,
    /// What the device writes.
    pub used: u64,
}

/// A queue's doorbell: where to write, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    offset: usize,
    queue: u16,
}

/// A device's registers.
#[derive(Debug)]
pub struct Transport<R> {
    common: R,
    notify: R,
    notify_multiplier: u32,
    device: Option<R>,
}

impl<R: Registers> Transport<R> {
    /// Resets the device and tells it that it has a driver.
    ///
    /// # Errors
    ///
    /// [`SetupError::Stuck`] if the reset does not end.
    pub fn begin(
        common: R,
        notify: R,
        notify_multiplier: u32,
        device: Option<R>,
    ) -> Result<Self, SetupError> {
        let transport = Self { common, notify, notify_multiplier, device };
        transport.begin_anew()?;
        Ok(transport)
    }

    /// The same with a device that was used before; it knows nothing of that afterwards.
    ///
    /// # Errors
    ///
    /// [`SetupError::Stuck`] if the reset does not end.
    pub fn begin_anew(&self) -> Result<(), SetupError> {
        self.reset()?;
        self.add_status(status::ACKNOWLEDGE);
        self.add_status(status::DRIVER);
        Ok(())
    }

    /// Stops the device: afterwards it uses no memory of ours.
    ///
    /// # Errors
    ///
    /// [`SetupError::Stuck`] if the reset does not end. The device may still use its queues then.
    pub fn reset(&self) -> Result<(), SetupError> {
        self.common.write_u8(common::DEVICE_STATUS, 0);
        let is_reset = |_: &u32| self.status() == 0;
        (0..RESET_PATIENCE).find(is_reset).map(drop).ok_or(SetupError::Stuck)
    }

    /// Agrees on those features of `wanted` that the device offers; version 1 is always among them.
    ///
    /// # Errors
    ///
    /// [`SetupError::FeaturesRefused`] if the device is of an older version or does not agree.
    pub fn negotiate(&self, wanted: u64) -> Result<u64, SetupError> {
        let offered = self.offered_features();
        if offered & feature::VERSION_1 == 0 {
            return Err(SetupError::FeaturesRefused);
        }
        // A device behind an IOMMU insists on being told so; the addresses we use are right for it too.
        let agreed = offered & (wanted | feature::VERSION_1 | feature::ACCESS_PLATFORM);
        for (select, half) in [(0, agreed as u32), (1, (agreed >> 32) as u32)] {
            self.common.write_u32(common::DRIVER_FEATURE_SELECT, select);
            self.common.write_u32(common::DRIVER_FEATURE, half);
        }
        self.add_status(status::FEATURES_OK);
        if self.status() & status::FEATURES_OK == 0 {
            self.add_status(status::FAILED);
            return Err(SetupError::FeaturesRefused);
        }
        Ok(agreed)
    }

    /// The features that the device offers.
    pub fn offered_features(&self) -> u64 {
        let half = |select| {
            self.common.write_u32(common::DEVICE_FEATURE_SELECT, select);
            u64::from(self.common.read_u32(common::DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    /// How many queues the device has.
    pub fn queue_count(&self) -> u16 {
        self.common.read_u16(common::NUM_QUEUES)
    }

    /// The size to make queue `index`: a power of two, as large as the device and our pages allow.
    ///
    /// # Errors
    ///
    /// [`SetupError::NoQueue`] if it does not exist.
    pub fn queue_size(&self, index: u16) -> Result<u16, SetupError> {
        if index >= self.queue_count() {
            return Err(SetupError::NoQueue);
        }
        self.common.write_u16(common::QUEUE_SELECT, index);
        let most = self.common.read_u16(common::QUEUE_SIZE).min(QUEUE_SIZE_MAX);
        most.checked_ilog2().map(|log| 1 << log).ok_or(SetupError::NoQueue)
    }

    /// Gives the device queue `index` and lets it interrupt by MSI-X entry `vector`. The queue's memory must
    /// be in its initial state.
    ///
    /// # Errors
    ///
    /// [`SetupError::NoQueue`] if its doorbell lies outside the registers, [`SetupError::NoInterrupt`] if the
    /// device has no room for the vector.
    pub fn start_queue(
        &self,
        index: u16,
        size: u16,
        addresses: QueueAddresses,
        vector: u16,
    ) -> Result<Doorbell, SetupError> {
        let common = &self.common;
        common.write_u16(common::QUEUE_SELECT, index);
        let doorbell = self.doorbell(index, common.read_u16(common::QUEUE_NOTIFY_OFF))?;
        common.write_u16(common::QUEUE_SIZE, size);
        common.write_u16(common::QUEUE_MSIX_VECTOR, vector);
        if common.read_u16(common::QUEUE_MSIX_VECTOR) != vector {
            return Err(SetupError::NoInterrupt);
        }
        common.write_u64(common::QUEUE_DESC, addresses.descriptors);
        common.write_u64(common::QUEUE_DRIVER, addresses.available);
        common.write_u64(common::QUEUE_DEVICE, addresses.used);
        common.write_u16(common::QUEUE_ENABLE, 1);
        Ok(doorbell)
    }

    fn doorbell(&self, queue: u16, number: u16) -> Result<Doorbell, SetupError> {
        let offset = u64::from(number) * u64::from(self.notify_multiplier);
        let fits = offset.checked_add(2).is_some_and(|end| end <= self.notify.length() as u64);
        if !fits || !offset.is_multiple_of(2) {
            return Err(SetupError::NoQueue);
        }
        Ok(Doorbell { offset: offset as usize, queue })
    }

    /// Lets the device announce changes of its configuration by MSI-X entry `vector`.
    ///
    /// # Errors
    ///
    /// [`SetupError::NoInterrupt`] if the device has no room for it.
    pub fn set_configuration_vector(&self, vector: u16) -> Result<(), SetupError> {
        self.common.write_u16(common::CONFIG_MSIX_VECTOR, vector);
        let taken = self.common.read_u16(common::CONFIG_MSIX_VECTOR) == vector;
        if taken { Ok(()) } else { Err(SetupError::NoInterrupt) }
    }

    /// Lets the device run.
    pub fn finish(&self) {
        self.add_status(status::DRIVER_OK);
    }

    /// Whether the device has met an error that only a reset mends.
    pub fn needs_reset(&self) -> bool {
        self.status() & status::NEEDS_RESET != 0
    }

    /// Tells the device that there is something new in a queue.
    #[inline]
    pub fn ring(&self, doorbell: Doorbell) {
        self.notify.write_u16(doorbell.offset, doorbell.queue);
    }

    /// Bytes of registers that this kind of device has.
    pub fn configuration_length(&self) -> usize {
        self.device.as_ref().map_or(0, Registers::length)
    }

    /// Reads from the registers of this kind of device until they did not change during the reading; zeroes
    /// where there are none. `read` is given the registers and must stay within them.
    ///
    /// # Errors
    ///
    /// [`SetupError::BadConfiguration`] if there are less than `length` bytes of them, or they do not settle.
    pub fn read_configuration<T>(&self, length: usize, read: impl Fn(&R) -> T) -> Result<T, SetupError> {
        let Some(device) = self.device.as_ref().filter(|device| device.length() >= length) else {
            return Err(SetupError::BadConfiguration);
        };
        let generation = || self.common.read_u8(common::CONFIG_GENERATION);
        for _ in 0..CONFIGURATION_PATIENCE {
            let before = generation();
            let value = read(device);
            if generation() == before {
                return Ok(value);
            }
        }
        Err(SetupError::BadConfiguration)
    }

    fn status(&self) -> u8 {
        self.common.read_u8(common::DEVICE_STATUS)
    }

    fn add_status(&self, bits: u8) {
        self.common.write_u8(common::DEVICE_STATUS, self.status() | bits);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeRegisters;
    use super::*;
    use alloc::rc::Rc;

    fn device() -> (Transport<Rc<FakeRegisters>>, Rc<FakeRegisters>) {
        let (common, notify, config) =
            (FakeRegisters::new(56), FakeRegisters::new(16), FakeRegisters::new(8));
        let common = Rc::new(common.with_features(feature::VERSION_1 | feature::EVENT_INDEX | 1 << 9));
        common.set_u16(common::NUM_QUEUES, 2);
        common.set_u16(common::QUEUE_SIZE, 1024);
        let transport = Transport::begin(Rc::clone(&common), Rc::new(notify), 4, Some(Rc::new(config)));
        (transport.expect("the reset ends"), common)
    }

    #[test]
    fn features_are_those_both_know() {
        let (transport, common) = device();
        let wanted = feature::EVENT_INDEX | feature::INDIRECT_DESCRIPTORS | 1 << 9;
        let agreed = feature::VERSION_1 | feature::EVENT_INDEX | 1 << 9;
        assert_eq!(transport.negotiate(wanted), Ok(agreed));
        assert_eq!(common.driver_features(), agreed);
        transport.finish();
        let all = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        assert_eq!(common.read_u8(common::DEVICE_STATUS), all);
    }

    #[test]
    fn a_device_of_the_old_specification_is_refused() {
        let common = FakeRegisters::new(56).with_features(1);
        let transport = Transport::begin(common, FakeRegisters::new(16), 4, None).expect("the reset ends");
        assert_eq!(transport.negotiate(0), Err(SetupError::FeaturesRefused));
    }

    #[test]
    fn a_device_that_drops_the_agreement_is_refused() {
        let (transport, common) = device();
        common.refuse_status(status::FEATURES_OK);
        assert_eq!(transport.negotiate(0), Err(SetupError::FeaturesRefused));
    }

    #[test]
    fn a_device_that_stays_in_reset_is_stuck() {
        let common = FakeRegisters::new(56);
        common.force_status(1);
        let outcome = Transport::begin(common, FakeRegisters::new(16), 4, None);
        assert_eq!(outcome.err(), Some(SetupError::Stuck));
    }

    #[test]
    fn queues_are_as_large_as_our_pages_allow() {
        let (transport, common) = device();
        assert_eq!(transport.queue_size(0), Ok(QUEUE_SIZE_MAX));
        common.set_u16(common::QUEUE_SIZE, 100);
        assert_eq!(transport.queue_size(1), Ok(64));
        common.set_u16(common::QUEUE_SIZE, 0);
        assert_eq!(transport.queue_size(1), Err(SetupError::NoQueue));
        assert_eq!(transport.queue_size(2), Err(SetupError::NoQueue));
    }

    const ADDRESSES: QueueAddresses =
        QueueAddresses { descriptors: 0x1_2345_6000, available: 0x7000, used: 0x8000 };

    #[test]
    fn a_started_queue_is_known_to_the_device() {
        let (transport, common) = device();
        transport.start_queue(1, 64, ADDRESSES, 2).expect("there is such a queue");
        assert_eq!(common.read_u16(common::QUEUE_SELECT), 1);
        assert_eq!(common.read_u16(common::QUEUE_SIZE), 64);
        assert_eq!(common.read_u32(common::QUEUE_DESC), 0x2345_6000);
        assert_eq!(common.read_u32(common::QUEUE_DESC + 4), 1);
        assert_eq!(common.read_u16(common::QUEUE_ENABLE), 1);
    }

    #[test]
    fn a_doorbell_outside_the_registers_is_refused() {
        let (transport, common) = device();
        common.set_u16(common::QUEUE_NOTIFY_OFF, 3);
        assert!(transport.start_queue(0, 64, ADDRESSES, 0).is_ok());
        common.set_u16(common::QUEUE_NOTIFY_OFF, 4);
        assert_eq!(transport.start_queue(0, 64, ADDRESSES, 0), Err(SetupError::NoQueue));
    }

    #[test]
    fn a_vector_that_does_not_stick_is_refused() {
        let (transport, common) = device();
        common.freeze(common::QUEUE_MSIX_VECTOR);
        assert_eq!(transport.start_queue(0, 64, ADDRESSES, 1), Err(SetupError::NoInterrupt));
        common.freeze(common::CONFIG_MSIX_VECTOR);
        assert_eq!(transport.set_configuration_vector(1), Err(SetupError::NoInterrupt));
    }

    #[test]
    fn configuration_is_read_until_it_holds_still() {
        let (transport, common) = device();
        common.count_generations(3);
        assert_eq!(transport.read_configuration(8, |registers| registers.length()), Ok(8));
        common.count_generations(u32::MAX);
        let unsettled = transport.read_configuration(8, |registers| registers.length());
        assert_eq!(unsettled, Err(SetupError::BadConfiguration));
        let too_long = transport.read_configuration(9, |registers| registers.length());
        assert_eq!(too_long, Err(SetupError::BadConfiguration));
    }
}
