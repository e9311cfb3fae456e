//! Where bytes are and where they shall go: turning packets into copies by the hypervisor.
//!
//! A copy may not cross the end of a page on either side. A source that is cut at one set of places and a
//! destination that is cut at another become as many copies as there are stretches without a cut.

use pv_runtime::grant::CopyEnd;

use crate::backend::GrantCopy;

/// Bytes in one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: CopyEnd,
    /// How many.
    pub length: u16,
}

/// The place `bytes` further on in the same page.
#[inline]
pub fn advance(place: CopyEnd, bytes: u16) -> CopyEnd {
    match place {
        CopyEnd::Granted { domain, reference, offset } => {
            CopyEnd::Granted { domain, reference, offset: offset + bytes }
        }
        CopyEnd::Own { frame, offset } => CopyEnd::Own { frame, offset: offset + bytes },
    }
}

/// Reads on through spans, from the first byte to the last.
#[derive(Debug)]
pub struct Cursor<'a> {
    spans: &'a [Span],
    /// Bytes of the first span that were used.
    used: u16,
}

impl<'a> Cursor<'a> {
    /// At the first byte.
    #[inline]
    pub fn new(spans: &'a [Span]) -> Self {
        Self { spans, used: 0 }
    }

    /// Uses up to `wanted` bytes of one span. Gives their place and number, or nothing at the end.
    #[inline]
    fn next_stretch(&mut self, wanted: u16) -> Option<(CopyEnd, u16)> {
        while let Some((first, rest)) = self.spans.split_first() {
            let left = first.length - self.used;
            if left == 0 {
                (self.spans, self.used) = (rest, 0);
                continue;
            }
            let place = advance(first.start, self.used);
            let taken = left.min(wanted);
            self.used += taken;
            return Some((place, taken));
        }
        None
    }

    /// Passes over bytes.
    pub fn skip(&mut self, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            let wanted = left.min(usize::from(u16::MAX)) as u16;
            let Some((_, taken)) = self.next_stretch(wanted) else { return };
            left -= usize::from(taken);
        }
    }

    /// Has the next bytes copied into `destination`, as many as it holds or are left.
    #[inline]
    pub fn copy_to(&mut self, copies: &mut impl GrantCopy, destination: Span) {
        let (mut place, mut left) = (destination.start, destination.length);
        while left > 0 {
            let Some((source, taken)) = self.next_stretch(left) else { return };
            copies.push(source, place, taken);
            left -= taken;
            place = advance(place, taken);
        }
    }
}

/// Has all bytes of `sources` copied into `destinations`, as far as those reach.
#[inline]
pub fn copy_all(copies: &mut impl GrantCopy, sources: &[Span], destinations: impl Iterator<Item = Span>) {
    let mut cursor = Cursor::new(sources);
    for destination in destinations {
        cursor.copy_to(copies, destination);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::fake::{FakeCopy, FakeHypervisor};
    use alloc::vec::Vec;
    use hypercall_abi::MachineFrame;
    use proptest::prelude::*;
    use pv_runtime::memory::{PageRun, SharedMemory};

    fn span(frame: MachineFrame, offset: u16, length: u16) -> Span {
        Span { start: CopyEnd::Own { frame, offset }, length }
    }

    fn lay_out(pages: &PageRun, shape: &[(u16, u16)]) -> Vec<Span> {
        let place = |(page, (offset, length)): (usize, &(u16, u16))| {
            span(pages.machine_frame(page), *offset, *length)
        };
        shape.iter().enumerate().map(place).collect()
    }

    fn fill(pages: &PageRun, spans: &[(u16, u16)]) -> Vec<u8> {
        let mut all = Vec::new();
        for (page, (offset, length)) in spans.iter().enumerate() {
            let bytes: Vec<_> =
                (0..*length).map(|byte| (usize::from(byte) * 13 + page * 101) as u8).collect();
            SharedMemory::copy_in(pages, page * 4096 + usize::from(*offset), &bytes);
            all.extend(bytes);
        }
        all
    }

    fn gather(pages: &PageRun, spans: &[(u16, u16)]) -> Vec<u8> {
        let mut all = Vec::new();
        for (page, (offset, length)) in spans.iter().enumerate() {
            let mut bytes = alloc::vec![0; usize::from(*length)];
            SharedMemory::copy_out(pages, page * 4096 + usize::from(*offset), &mut bytes);
            all.extend(bytes);
        }
        all
    }

    fn shape() -> impl Strategy<Value = Vec<(u16, u16)>> {
        proptest::collection::vec((0_u16..2000, 0_u16..2000), 1..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Bytes arrive in their order, however both sides are cut, and only where they belong.
        #[test]
        fn bytes_keep_their_order(from in shape(), into in shape(), skipped in 0_usize..3000) {
            let pages = |count| PageRun::new(count).expect("a host has memory");
            let (sources, targets) = (pages(from.len()), pages(into.len()));
            let sent = fill(&sources, &from);
            let hypervisor = FakeHypervisor::new();
            let mut copies = FakeCopy::new(&hypervisor);
            let source_spans = lay_out(&sources, &from);
            let mut cursor = Cursor::new(&source_spans);
            cursor.skip(skipped);
            for target in lay_out(&targets, &into) {
                cursor.copy_to(&mut copies, target);
            }
            copies.submit();
            prop_assert!((0..copies.len()).all(|copy| copies.status(copy).is_ok()));
            prop_assert!(copies.len() <= from.len() + into.len());
            let received = gather(&targets, &into);
            let expected = &sent[skipped.min(sent.len())..];
            let arrived = expected.len().min(received.len());
            prop_assert_eq!(&received[..arrived], &expected[..arrived]);
            prop_assert!(received[arrived..].iter().all(|byte| *byte == 0));
        }
    }
}
