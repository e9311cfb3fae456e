//! Where a command's data is (section 4.1.1): the address of the first byte, and the pages behind the first.
//!
//! Every piece but the first must begin with a page, and every one but the last end with one. A request whose memory is
//! not like that is cut into runs that are, and each run is a command of its own.

use hypercall_abi::PAGE_SIZE;

use crate::disk::Segment;

const IN_PAGE: u64 = PAGE_SIZE as u64 - 1;

/// Segments that one command can describe, and their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<'a> {
    /// The segments.
    pub segments: &'a [Segment],
    /// Bytes in all.
    pub bytes: u32,
}

/// Cuts segments into runs of at most `most` bytes each, which is at least a page.
pub fn runs(segments: &[Segment], most: u32) -> impl Iterator<Item = Run<'_>> {
    let mut rest = segments;
    core::iter::from_fn(move || {
        let run = first_run(rest, most)?;
        rest = &rest[run.segments.len()..];
        Some(run)
    })
}

#[inline]
fn first_run(segments: &[Segment], most: u32) -> Option<Run<'_>> {
    let first = segments.first()?;
    let mut end = first.address + u64::from(first.length);
    let (mut count, mut bytes) = (1, first.length);
    for segment in &segments[1..] {
        let goes_on = end & IN_PAGE == 0 && segment.address & IN_PAGE == 0;
        if !(goes_on || end == segment.address) || bytes + segment.length > most {
            break;
        }
        end = segment.address + u64::from(segment.length);
        bytes += segment.length;
        count += 1;
    }
    Some(Run { segments: &segments[..count], bytes })
}

impl Run<'_> {
    /// The address of the first byte.
    #[inline]
    pub fn first(&self) -> u64 {
        self.segments.first().map_or(0, |segment| segment.address)
    }

    /// The addresses of the pages behind that of the first byte.
    #[inline]
    pub fn others(&self) -> impl Iterator<Item = u64> + '_ {
        self.segments.iter().skip(1).map(|segment| segment.address).filter(|address| address & IN_PAGE == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn segments(list: &[(u64, u32)]) -> Vec<Segment> {
        list.iter().map(|&(address, length)| Segment { address, length }).collect()
    }

    fn cut(list: &[(u64, u32)], most: u32) -> Vec<(usize, u32, Vec<u64>)> {
        let segments = segments(list);
        runs(&segments, most).map(|run| (run.segments.len(), run.bytes, run.others().collect())).collect()
    }

    #[test]
    fn whole_pages_are_one_run_wherever_they_lie() {
        let pages = [(0x9000, 4096), (0x3000, 4096), (0x7000, 4096)];
        assert_eq!(cut(&pages, 1 << 20), [(3, 12288, [0x3000, 0x7000].into())]);
        assert_eq!(cut(&pages, 8192), [(2, 8192, [0x3000].into()), (1, 4096, [].into())]);
    }

    #[test]
    fn a_run_may_begin_and_end_within_a_page() {
        let pieces = [(0x9e00, 512), (0x3000, 4096), (0x7000, 512)];
        assert_eq!(cut(&pieces, 1 << 20), [(3, 5120, [0x3000, 0x7000].into())]);
    }

    #[test]
    fn gaps_end_a_run() {
        let gap_behind = [(0x9000, 512), (0x3000, 4096)];
        assert_eq!(cut(&gap_behind, 1 << 20), [(1, 512, [].into()), (1, 4096, [].into())]);
        let gap_before = [(0x9000, 4096), (0x3200, 512)];
        assert_eq!(cut(&gap_before, 1 << 20), [(1, 4096, [].into()), (1, 512, [].into())]);
    }

    #[test]
    fn what_follows_in_the_same_page_is_no_other_page() {
        let halves = [(0x9000, 512), (0x9200, 3584), (0x4000, 1024), (0x4400, 512)];
        assert_eq!(cut(&halves, 1 << 20), [(4, 5632, [0x4000].into())]);
    }

    #[test]
    fn nothing_is_no_run() {
        assert_eq!(cut(&[], 4096), []);
    }
}
