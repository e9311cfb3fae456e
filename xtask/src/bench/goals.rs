//! What the figures are to be, and what Xen's are.

/// Goal and comparison for a single figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    /// The most that it should be.
    pub goal: Option<u64>,
    /// What the same costs on Xen 4.17, measured in the same emulated machine.
    pub xen: Option<u64>,
}

const fn reference(goal: Option<u64>, xen: Option<u64>) -> Reference {
    Reference { goal, xen }
}

/// By the figure's name.
const REFERENCES: [(&str, Reference); 13] = [
    ("null hypercall (xen_version)", reference(Some(100), Some(279))),
    ("event to self, send and block until the upcall", reference(None, Some(1325))),
    ("event to a blocked peer, until its upcall", reference(Some(600), None)),
    ("update_va_mapping, to read-only", reference(None, Some(936))),
    ("update_va_mapping, to writable", reference(None, Some(911))),
    ("mmu_update, 32 in a batch", reference(None, Some(22_781))),
    ("pin an L1 empty", reference(None, Some(9_933))),
    ("pin an L1 of 512 entries", reference(None, Some(88_781))),
    ("unpin an L1 empty", reference(None, Some(8_930))),
    ("unpin an L1 of 512 entries", reference(None, Some(53_474))),
    ("grant map and unmap", reference(None, Some(2_767))),
    ("grant copy of 4 KiB", reference(None, Some(2_137))),
    ("domain create to first instruction, 4 MiB", reference(Some(500_000), None)),
];

/// What there is to compare a single figure with.
pub fn of_single(name: &str) -> Reference {
    let found = REFERENCES.iter().find(|(known, _)| *known == name);
    found.map_or(Reference::default(), |(_, reference)| *reference)
}

/// The most that dom0 and the hypervisor should need together for one request or packet, without the copy loop.
pub fn of_traffic(name: &str) -> Option<u64> {
    match name {
        "read of 4 KiB, 32 at a time" => Some(900),
        _ if name.starts_with("packet of 1,500 bytes") => Some(450),
        _ if name.starts_with("packet of 64 bytes") => Some(400),
        _ => None,
    }
}

/// Hypercalls for a packet of 1,500 bytes: the most that there should be are one for so many packets.
pub const PACKETS_PER_HYPERCALL: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_known_by_their_names() {
        assert_eq!(of_single("null hypercall (xen_version)").goal, Some(100));
        assert_eq!(of_single("pin an L1 empty").xen, Some(9933));
        assert_eq!(of_single("grant copy of 4 KiB, without the copy loop"), Reference::default());
        assert_eq!(of_single("something else"), Reference::default());
        assert_eq!(of_traffic("packet of 1,500 bytes, guest to guest"), Some(450));
        assert_eq!(of_traffic("packet of 64 bytes, guest to network"), Some(400));
        assert_eq!(of_traffic("read of 4 KiB, 1 at a time"), None);
    }
}
