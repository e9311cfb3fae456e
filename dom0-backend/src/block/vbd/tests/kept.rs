//! A front end that promised to use the same grants again, and keeps to that or does not.

use super::*;

/// Reads a page by each of these references, one after the other.
fn read_each(bench: &mut Bench<FakePath>, references: impl IntoIterator<Item = GrantReference>) {
    for (id, reference) in (0..).zip(references) {
        bench.push(request(BLKIF_OP_READ, id, id % 500 * 8, &[reference]));
        bench.finish();
        assert_eq!(bench.answers(), [(id, BLKIF_RSP_OKAY)], "{reference:?}");
    }
}

#[test]
fn a_page_that_is_used_again_is_mapped_once() {
    let mut bench = kept();
    let (page, reference) = bench.page(GrantAccess::ReadWrite);
    read_each(&mut bench, [reference; 5]);
    bench.push(request(BLKIF_OP_WRITE, 9, 800, &[reference; 3]));
    bench.finish();
    assert_eq!(bench.answers(), [(9, BLKIF_RSP_OKAY)]);
    assert_eq!(page.read::<u64>(0), 32);
    let hypervisor = &bench.hypervisor;
    assert_eq!((hypervisor.device_maps_made.get(), hypervisor.device_maps.get()), (1, 1));
    assert_eq!(hypervisor.map_calls.get(), 1);
    drop(bench.vbd);
    assert_eq!(hypervisor.device_maps.get(), 0, "the end of the connection is the end of the mapping");
}

#[test]
fn a_page_that_several_requests_need_at_once_is_kept_once() {
    let mut bench = kept();
    let (_page, reference) = bench.page(GrantAccess::ReadWrite);
    for id in 0..8 {
        bench.push(request(BLKIF_OP_READ, id, id * 8, &[reference]));
    }
    bench.finish();
    assert_eq!(bench.answers().len(), 8);
    assert_eq!(bench.hypervisor.device_maps.get(), 1);
}

#[test]
fn a_guest_that_gives_a_reference_another_page_reaches_its_old_one() {
    let mut bench = kept();
    let (old, reference) = bench.page(GrantAccess::ReadWrite);
    read_each(&mut bench, [reference]);
    let new = Page::new().expect("a host has memory");
    bench.hypervisor.replace(GUEST, reference, &new);
    bench.push(request(BLKIF_OP_READ, 1, 80, &[reference]));
    bench.finish();
    assert_eq!(bench.answers(), [(1, BLKIF_RSP_OKAY)]);
    assert_eq!((old.read::<u64>(0), new.read::<u64>(0)), (80, 0));
    bench.hypervisor.revoke_page(new.machine_frame());
    read_each(&mut bench, [reference]);
}

#[test]
fn what_is_kept_stays_within_bounds_and_what_is_not_kept_works() {
    let mut bench = kept();
    let pages: Vec<_> = (0..1500).map(|_| bench.page(GrantAccess::ReadWrite)).collect();
    let beyond = GrantReference(1 << 20);
    bench.hypervisor.replace(GUEST, beyond, &pages[0].0);
    for _ in 0..2 {
        read_each(&mut bench, pages.iter().map(|(_, reference)| *reference));
        assert!((900..=1056).contains(&bench.hypervisor.device_maps.get()));
    }
    let before = bench.hypervisor.device_maps.get();
    read_each(&mut bench, [beyond; 2]);
    assert_eq!(bench.hypervisor.device_maps.get(), before);
    drop(bench.vbd);
    assert_eq!(bench.hypervisor.device_maps.get(), 0);
}

#[test]
fn many_tables_are_read_though_few_are_kept() {
    let mut bench = kept();
    let (_page, reference) = bench.page(GrantAccess::ReadWrite);
    let tables: Vec<_> = (0..100).map(|_| bench.page(GrantAccess::ReadOnly)).collect();
    for (id, (table, table_reference)) in (0..).zip(&tables) {
        // The last sector differs, so that another table's would be noticed by the disk.
        let segment = BlkifRequestSegment { gref: reference, last_sect: id as u8 % 8, ..Default::default() };
        table.write(0, &segment);
        let indirect = BlkifRequestIndirect {
            operation: BLKIF_OP_INDIRECT,
            indirect_op: BLKIF_OP_READ,
            nr_segments: 1,
            id,
            indirect_grefs: [*table_reference; 8],
            ..Default::default()
        };
        bench.push(indirect.into());
        bench.finish();
        assert_eq!(bench.answers(), [(id, BLKIF_RSP_OKAY)]);
        assert_eq!(bench.counters.bytes_read.replace(0), (id % 8 + 1) * 512);
    }
    assert!(bench.hypervisor.page_maps.get() <= 64);
    drop(bench.vbd);
    assert_eq!(bench.hypervisor.page_maps.get(), 0);
}

#[test]
fn a_page_that_is_to_be_kept_must_be_writable() {
    let mut bench = kept();
    let (_page, reference) = bench.page(GrantAccess::ReadOnly);
    bench.push(request(BLKIF_OP_WRITE, 1, 0, &[reference]));
    bench.finish();
    assert_eq!(bench.answers(), [(1, BLKIF_RSP_ERROR)]);
    assert_eq!(bench.hypervisor.device_maps.get(), 0);
}
