//! Requests as honest and dishonest guests write them.

use proptest::prelude::*;
use zerocopy::FromBytes;

use super::*;

const RULES: Rules = Rules {
    geometry: Geometry {
        sectors: 10_000,
        logical_block_size: 512,
        physical_block_size: 512,
        is_read_only: false,
        has_cache: true,
        segments_max: 64,
    },
    indirect_segments_max: 64,
};

fn with_geometry(change: impl FnOnce(&mut Geometry)) -> Rules {
    let mut rules = RULES;
    change(&mut rules.geometry);
    rules
}

fn segment(first_sect: u8, last_sect: u8) -> BlkifRequestSegment {
    BlkifRequestSegment { gref: GrantReference(9), first_sect, last_sect, ..Default::default() }
}

fn raw(operation: u8, nr_segments: u8) -> BlkifRequest {
    let seg = [segment(0, 7); BLKIF_MAX_SEGMENTS_PER_REQUEST];
    BlkifRequest { operation, nr_segments, id: 0x1234, sector_number: 100, seg, ..Default::default() }
}

fn indirect(indirect_op: u8, nr_segments: u16) -> BlkifRequest {
    let raw = BlkifRequestIndirect {
        operation: BLKIF_OP_INDIRECT,
        indirect_op,
        nr_segments,
        id: 77,
        sector_number: 100,
        indirect_grefs: [GrantReference(5); 8],
        ..Default::default()
    };
    raw.into()
}

fn load(raw: &BlkifRequest, rules: &Rules) -> (Request<()>, Result<Need, Rejection>) {
    let mut request = Request::default();
    let outcome = request.load(raw, rules);
    (request, outcome)
}

fn steps_of(raw: &BlkifRequest) -> Vec<Operation> {
    let (mut request, outcome) = load(raw, &RULES);
    outcome.expect("sound");
    let mut steps = Vec::new();
    while let Some(step) = request.next_step() {
        steps.push(step);
        request.step_done();
    }
    steps
}

#[test]
fn a_read_becomes_pages_and_sectors() {
    let mut read = raw(BLKIF_OP_READ, 2);
    read.seg[0] = segment(3, 7);
    let (request, outcome) = load(&read, &RULES);
    assert_eq!(outcome, Ok(Need::Pages));
    let [first, second] = request.grants[..] else { panic!("two segments") };
    assert_eq!((first.offset, first.length), (3 * 512, 5 * 512));
    assert_eq!((second.offset, second.length), (0, 4096));
    assert_eq!((request.first_sector, request.length), (100, 13 * 512));
    let response = request.response();
    assert_eq!((response.id, response.operation, response.status), (0x1234, BLKIF_OP_READ, BLKIF_RSP_OKAY));
}

#[test]
fn operations_come_down_to_steps() {
    use Operation::{Flush, Read, Write};
    assert_eq!(steps_of(&raw(BLKIF_OP_READ, 1)), [Read]);
    assert_eq!(steps_of(&raw(BLKIF_OP_WRITE, 1)), [Write]);
    assert_eq!(steps_of(&raw(BLKIF_OP_FLUSH_DISKCACHE, 0)), [Flush]);
    assert_eq!(steps_of(&raw(BLKIF_OP_FLUSH_DISKCACHE, 1)), [Flush, Write]);
    assert_eq!(steps_of(&raw(BLKIF_OP_WRITE_BARRIER, 0)), [Flush]);
    assert_eq!(steps_of(&raw(BLKIF_OP_WRITE_BARRIER, 1)), [Flush, Write, Flush]);
}

#[test]
fn a_failed_request_has_no_further_steps() {
    let (mut request, _) = load(&raw(BLKIF_OP_WRITE, 1), &RULES);
    request.fail(Rejection::NoGrant.status());
    assert_eq!(request.next_step(), None);
    assert_eq!(request.response().status, BLKIF_RSP_ERROR);
}

#[test]
fn a_request_keeps_nothing_of_an_earlier_one() {
    let (mut request, _) = load(&raw(BLKIF_OP_READ, 11), &RULES);
    request.fail(Rejection::NoGrant.status());
    request.load(&raw(BLKIF_OP_FLUSH_DISKCACHE, 0), &RULES).expect("sound");
    assert!(request.grants.is_empty());
    assert_eq!(request.response().status, BLKIF_RSP_OKAY);
}

#[test]
fn operations_that_were_not_offered_are_unsupported() {
    let no_cache = with_geometry(|geometry| geometry.has_cache = false);
    let no_indirect = Rules { indirect_segments_max: 0, ..RULES };
    let cases = [
        (raw(BLKIF_OP_DISCARD, 1), RULES),
        (raw(BLKIF_OP_RESERVED_1, 1), RULES),
        (raw(7, 1), RULES),
        (raw(255, 1), RULES),
        (raw(BLKIF_OP_FLUSH_DISKCACHE, 0), no_cache),
        (raw(BLKIF_OP_WRITE_BARRIER, 1), no_cache),
        (indirect(BLKIF_OP_READ, 1), no_indirect),
    ];
    for (raw, rules) in cases {
        let (_, outcome) = load(&raw, &rules);
        let rejection = outcome.expect_err("was not offered");
        assert_eq!(rejection.status(), BLKIF_RSP_EOPNOTSUPP, "{rejection}");
    }
}

#[test]
fn counts_of_segments_are_bounded() {
    for (operation, count) in
        [(BLKIF_OP_READ, 0), (BLKIF_OP_WRITE, 0), (BLKIF_OP_READ, 12), (BLKIF_OP_WRITE_BARRIER, 255)]
    {
        let (_, outcome) = load(&raw(operation, count), &RULES);
        assert_eq!(outcome, Err(Rejection::SegmentCount { count: count.into() }));
    }
    for count in [0, 65, u16::MAX] {
        let (_, outcome) = load(&indirect(BLKIF_OP_READ, count), &RULES);
        assert_eq!(outcome, Err(Rejection::SegmentCount { count }));
    }
}

#[test]
fn segments_must_lie_in_a_page() {
    for (first, last) in [(1, 0), (0, 8), (8, 8), (255, 255), (7, 255)] {
        let mut read = raw(BLKIF_OP_READ, 2);
        read.seg[1] = segment(first, last);
        assert_eq!(load(&read, &RULES).1, Err(Rejection::BadSegment { first, last }));
    }
}

#[test]
fn sectors_must_lie_on_the_disk() {
    for sector in [9_993, 10_000, u64::MAX, u64::MAX - 7, 1 << 63] {
        let read = BlkifRequest { sector_number: sector, ..raw(BLKIF_OP_READ, 1) };
        assert_eq!(load(&read, &RULES).1, Err(Rejection::NotOnDisk { sector, count: 8 }));
    }
    let last = BlkifRequest { sector_number: 9_992, ..raw(BLKIF_OP_READ, 1) };
    assert_eq!(load(&last, &RULES).1, Ok(Need::Pages));
}

#[test]
fn a_disk_of_large_blocks_wants_whole_ones() {
    let large = with_geometry(|geometry| geometry.logical_block_size = 4096);
    let at = |sector_number| BlkifRequest { sector_number, ..raw(BLKIF_OP_READ, 1) };
    assert_eq!(load(&at(104), &large).1, Ok(Need::Pages));
    assert!(load(&at(100), &large).1.is_err());
    let mut short = at(104);
    short.seg[0] = segment(0, 6);
    assert!(load(&short, &large).1.is_err());
}

#[test]
fn a_read_only_disk_takes_reads_and_empty_flushes() {
    let read_only = with_geometry(|geometry| geometry.is_read_only = true);
    assert!(load(&raw(BLKIF_OP_READ, 1), &read_only).1.is_ok());
    assert!(load(&raw(BLKIF_OP_FLUSH_DISKCACHE, 0), &read_only).1.is_ok());
    for operation in [BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BLKIF_OP_FLUSH_DISKCACHE] {
        assert_eq!(load(&raw(operation, 1), &read_only).1, Err(Rejection::ReadOnly));
    }
    let (mut request, outcome) = load(&indirect(BLKIF_OP_WRITE, 1), &read_only);
    assert!(outcome.is_ok());
    assert_eq!(request.load_table(&[segment(0, 7)], &read_only), Err(Rejection::ReadOnly));
}

#[test]
fn an_indirect_request_answers_for_its_real_operation() {
    let (mut request, outcome) = load(&indirect(BLKIF_OP_WRITE, 40), &RULES);
    assert_eq!(outcome, Ok(Need::Table(Table { reference: GrantReference(5), count: 40 })));
    assert_eq!(request.next_step(), None, "nothing may begin before the table is read");
    request.load_table(&[segment(0, 7); 40], &RULES).expect("sound");
    assert_eq!(request.next_step(), Some(Operation::Write));
    let response = request.response();
    assert_eq!((response.id, response.operation), (77, BLKIF_OP_WRITE));
}

#[test]
fn an_indirect_table_is_checked_like_segments() {
    let (mut request, _) = load(&indirect(BLKIF_OP_READ, 2), &RULES);
    let table = [segment(0, 7), segment(0, 8)];
    assert_eq!(request.load_table(&table, &RULES), Err(Rejection::BadSegment { first: 0, last: 8 }));
}

#[test]
fn only_reads_and_writes_can_be_indirect() {
    for operation in [BLKIF_OP_WRITE_BARRIER, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_INDIRECT, 255] {
        let (request, outcome) = load(&indirect(operation, 1), &RULES);
        assert_eq!(outcome, Err(Rejection::BadIndirect { operation }));
        assert_eq!(request.response().operation, operation);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever bytes a slot holds: what is accepted lies on the disk and within its pages.
    #[test]
    fn nothing_accepted_is_out_of_bounds(bytes in proptest::collection::vec(any::<u8>(), 112), operation in 0_u8..8, sector in 0_u64..12_000) {
        let mut raw = BlkifRequest::read_from_bytes(&bytes).expect("any bytes are a request");
        raw.operation = operation;
        raw.sector_number = sector;
        raw.nr_segments %= 13;
        for segment in &mut raw.seg {
            segment.first_sect %= 10;
            segment.last_sect %= 10;
        }
        let (request, outcome) = load(&raw, &RULES);
        if outcome.is_ok() {
            for grant in &request.grants {
                prop_assert!(grant.length > 0);
                prop_assert!(usize::from(grant.offset) + usize::from(grant.length) <= 4096);
            }
            let end = request.first_sector + request.length / 512;
            prop_assert!(request.grants.is_empty() || end <= RULES.geometry.sectors);
        } else {
            prop_assert_eq!(request.next_step(), None);
        }
    }
}
