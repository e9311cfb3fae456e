//! The list of capabilities in a function's configuration space, and the one for MSI-X.

use super::base_address::{MemoryRange, memory_range};
use super::config_space::*;

/// Capability: the maker's own; virtio describes its registers with these.
pub const CAPABILITY_VENDOR: u8 = 0x09;
/// Capability: interrupts as messages, one for the whole function.
pub const CAPABILITY_MSI: u8 = 0x05;
/// Capability: interrupts as messages, with a table of them in the device's memory.
pub const CAPABILITY_MSIX: u8 = 0x11;

/// Capabilities lie in 192 bytes and take at least four each, so a longer list goes round in a circle.
const MOST_CAPABILITIES: usize = 48;

/// In the control word of [`CAPABILITY_MSIX`]: messages are in use, and the interrupt line is not.
const MSIX_ENABLE: u16 = 1 << 15;
/// In the control word of [`CAPABILITY_MSIX`]: send none of them for now.
const MSIX_MASK_ALL: u16 = 1 << 14;
/// In the control word of [`CAPABILITY_MSIX`]: entries in the table, less one.
const MSIX_SIZE: u16 = (1 << 11) - 1;
/// Bytes of an entry of the table.
const ENTRY_BYTES: u64 = 16;
/// In the table's place: which base address register; the rest is an offset.
const MSIX_REGISTER: u32 = 0b111;

/// A capability: which, and the register it starts at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// `CAPABILITY_*`.
    pub id: u8,
    /// Its first register, at least 0x40 and a multiple of four.
    pub register: u8,
}

/// The capabilities of a function, in the order of its list.
pub fn capabilities(config: &impl ConfigSpace, function: Address) -> impl Iterator<Item = Capability> {
    let has_list = config.read_u16(function, STATUS) & STATUS_CAPABILITIES != 0;
    let first = if has_list { link(config, function, CAPABILITIES) } else { None };
    let follow = move |register: &u8| link(config, function, register + 1);
    core::iter::successors(first, follow)
        .take(MOST_CAPABILITIES)
        .map(move |register| Capability { id: config.read_u8(function, register), register })
}

/// The register that a link at `register` points to; `None` at the list's end.
fn link(config: &impl ConfigSpace, function: Address, register: u8) -> Option<u8> {
    let target = config.read_u8(function, register) & !0b11;
    (target >= 0x40).then_some(target)
}

/// A function's MSI-X capability.
///
/// The table itself belongs to the hypervisor, which alone writes messages into it. What is ours is to say
/// which interrupt goes to which event channel, and to switch the function over to messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msix {
    function: Address,
    register: u8,
    /// Entries in the table.
    pub entries: u16,
    /// The memory of the base address register that the table is in.
    pub table_memory: MemoryRange,
    /// Where in that memory the table starts, in bytes.
    pub table_offset: u32,
}

impl Msix {
    /// Finds the capability, if the function has it and its table lies in memory.
    pub fn find(config: &impl ConfigSpace, function: Address) -> Option<Self> {
        let register = capabilities(config, function).find(|found| found.id == CAPABILITY_MSIX)?.register;
        // Control word and place of the table take eight bytes.
        if register > 0xf8 {
            return None;
        }
        let control = config.read_u16(function, register + 2);
        let place = config.read_u32(function, register + 4);
        Some(Self {
            function,
            register,
            entries: (control & MSIX_SIZE) + 1,
            table_memory: memory_range(config, function, (place & MSIX_REGISTER) as u8)?,
            table_offset: place & !MSIX_REGISTER,
        })
    }

    /// The physical addresses of the table, in bytes.
    pub fn table(&self) -> core::ops::Range<u64> {
        let start = self.table_memory.address + u64::from(self.table_offset);
        start..start + u64::from(self.entries) * ENTRY_BYTES
    }

    /// Lets the function send messages instead of using its interrupt line.
    pub fn enable(&self, config: &impl ConfigSpace) {
        change_command(config, self.function, COMMAND_NO_INTERRUPT_LINE, 0);
        let control = config.read_u16(self.function, self.register + 2);
        config.write_u16(self.function, self.register + 2, (control | MSIX_ENABLE) & !MSIX_MASK_ALL);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeConfigSpace;
    use super::*;
    use alloc::vec::Vec;

    const FUNCTION: Address = Address::new(0, 4, 0);

    fn device() -> FakeConfigSpace {
        let mut config = FakeConfigSpace::default();
        config.add_device(FUNCTION, 0x1af4, 0x1042);
        config
    }

    #[test]
    fn the_list_is_followed_from_link_to_link() {
        let mut config = device();
        config.add_capability(FUNCTION, 0x40, CAPABILITY_VENDOR, &[]);
        config.add_capability(FUNCTION, 0x98, CAPABILITY_MSIX, &[]);
        let ids: Vec<_> = capabilities(&config, FUNCTION).map(|found| (found.id, found.register)).collect();
        assert_eq!(ids, [(CAPABILITY_MSIX, 0x98), (CAPABILITY_VENDOR, 0x40)]);
    }

    #[test]
    fn without_the_status_bit_there_is_no_list() {
        let mut config = device();
        config.add_capability(FUNCTION, 0x40, CAPABILITY_VENDOR, &[]);
        config.set(FUNCTION, STATUS, &[0, 0]);
        assert_eq!(capabilities(&config, FUNCTION).count(), 0);
    }

    #[test]
    fn a_list_in_a_circle_ends() {
        let mut config = device();
        config.add_capability(FUNCTION, 0x40, CAPABILITY_VENDOR, &[]);
        config.set(FUNCTION, 0x41, &[0x40]);
        assert_eq!(capabilities(&config, FUNCTION).count(), MOST_CAPABILITIES);
    }

    #[test]
    fn a_link_into_the_header_ends_the_list() {
        let mut config = device();
        config.add_capability(FUNCTION, 0x40, CAPABILITY_VENDOR, &[]);
        config.set(FUNCTION, 0x41, &[0x3f]);
        assert_eq!(capabilities(&config, FUNCTION).count(), 1);
    }

    fn with_msix(register: u8) -> FakeConfigSpace {
        let mut config = device();
        // Three entries, at offset 0x800 of base address register 1.
        config.add_capability(FUNCTION, register, CAPABILITY_MSIX, &[0x02, 0x40, 0x01, 0x08, 0, 0]);
        config.set(FUNCTION, BASE_ADDRESS + 4, &0xfebd_1000_u32.to_le_bytes());
        config.set_writable(FUNCTION, BASE_ADDRESS + 4, 0xffff_f000);
        config
    }

    #[test]
    fn msix_says_how_many_entries_and_where() {
        let config = with_msix(0x98);
        let msix = Msix::find(&config, FUNCTION).expect("has the capability");
        assert_eq!((msix.entries, msix.table_offset), (3, 0x800));
        assert_eq!(msix.table_memory, MemoryRange { address: 0xfebd_1000, size: 0x1000 });
    }

    #[test]
    fn enabling_msix_unmasks_and_gives_up_the_line() {
        let config = with_msix(0x98);
        Msix::find(&config, FUNCTION).expect("has the capability").enable(&config);
        assert_eq!(config.read_u16(FUNCTION, 0x9a), MSIX_ENABLE | 2);
        assert_eq!(config.read_u16(FUNCTION, COMMAND) & COMMAND_NO_INTERRUPT_LINE, COMMAND_NO_INTERRUPT_LINE);
    }

    #[test]
    fn msix_at_the_very_end_of_the_space_is_refused() {
        let mut config = device();
        config.add_capability(FUNCTION, 0xfc, CAPABILITY_MSIX, &[0, 0]);
        assert_eq!(Msix::find(&config, FUNCTION), None);
    }
}
