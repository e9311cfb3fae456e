//! Reads, writes and flushes.

use super::*;
use crate::block::Geometry;

#[test]
fn what_was_written_is_read_whatever_its_size() {
    for limits in [DIRECT, INDIRECT] {
        let (mut queue, mut back_end) = connected(limits);
        for (start, length) in
            [(0, 512), (1, 4096), (7, 4608), (8, 11 * 4096), (3, 12 * 4096), (100, 2 << 20)]
        {
            let data = noise(length);
            let written = push(&mut queue, Action::Write, start, &data);
            assert_eq!(finish(&mut queue, &mut back_end, &written).result, Ok(()));
            let offset = start as usize * SECTOR_SIZE;
            assert_eq!(back_end.disk[offset..offset + length], data);
            let read = push(&mut queue, Action::Read, start, &vec![0; length]);
            let outcome = finish(&mut queue, &mut back_end, &read);
            assert_eq!(outcome.result, Ok(()));
            assert_eq!(content(outcome, length), data);
        }
        drop(queue);
        assert_eq!(back_end.grants.count(), 0);
    }
}

#[test]
fn a_request_is_cut_as_the_back_end_can_take_it() {
    let pages = |limits, pages: usize| {
        let (mut queue, mut back_end) = connected(limits);
        push(&mut queue, Action::Write, 0, &noise(pages * PAGE_SIZE));
        let _ = queue.submit();
        let served = back_end.serve();
        served.iter().map(|found| (found.is_indirect, found.sector, found.segments.len())).collect::<Vec<_>>()
    };
    assert_eq!(pages(DIRECT, 11), [(false, 0, 11)]);
    assert_eq!(pages(DIRECT, 25), [(false, 0, 11), (false, 88, 11), (false, 176, 3)]);
    assert_eq!(pages(INDIRECT, 11), [(false, 0, 11)]);
    assert_eq!(pages(INDIRECT, 12), [(true, 0, 12)]);
    assert_eq!(pages(INDIRECT, 260), [(true, 0, 256), (false, 2048, 4)]);
    let modest = Limits { indirect_segments: 16, ..INDIRECT };
    assert_eq!(pages(modest, 40), [(true, 0, 16), (true, 128, 16), (false, 256, 8)]);
    let nonsense = Limits { indirect_segments: 3, ..INDIRECT };
    assert_eq!(pages(nonsense, 12), [(false, 0, 11), (false, 88, 1)]);
    let boast = Limits { indirect_segments: 1 << 40, ..INDIRECT };
    assert_eq!(pages(boast, 513), [(true, 0, 512), (false, 4096, 1)]);
}

#[test]
fn more_requests_than_the_ring_has_slots_are_all_done() {
    let (mut queue, mut back_end) = connected(DIRECT);
    let pending: Vec<_> = (0..500)
        .map(|number| push(&mut queue, Action::Write, number, &[number as u8; SECTOR_SIZE]))
        .collect();
    while pending.iter().any(|completion| completion.try_take().is_none()) {
        let _ = queue.submit();
        if back_end.serve().is_empty() {
            break;
        }
        queue.reap().unwrap();
    }
    assert!(queue.is_answered());
    for number in 0..500 {
        assert_eq!(back_end.disk[number * SECTOR_SIZE..][..SECTOR_SIZE], [number as u8; SECTOR_SIZE]);
    }
}

#[test]
fn a_batch_is_one_notification_and_answers_may_come_in_any_order() {
    let (mut queue, mut back_end) = connected(DIRECT);
    assert!(back_end.ring.final_check_for_requests().unwrap().may_wait());
    let pending: Vec<_> =
        (0..32).map(|number| push(&mut queue, Action::Read, number, &[0; SECTOR_SIZE])).collect();
    assert!(queue.submit().needed());
    assert_eq!(queue.counters().notifications, 1);
    let mut found: Vec<_> = core::iter::from_fn(|| back_end.find()).collect();
    assert_eq!(found.len(), 32);
    assert!(queue.ask_for_event().unwrap().may_wait());
    found.reverse();
    let events: Vec<_> = found.iter().map(|found| back_end.answer(found, BLKIF_RSP_OKAY)).collect();
    assert_eq!(events.iter().filter(|event| **event).count(), 1, "one event for all answers");
    queue.reap().unwrap();
    assert!(pending.iter().all(|completion| completion.try_take().is_some_and(|o| o.result == Ok(()))));
}

#[test]
fn flushes_are_done_in_the_back_end_s_way() {
    for (flush_by, operation) in
        [(FlushBy::Flush, BLKIF_OP_FLUSH_DISKCACHE), (FlushBy::Barrier, BLKIF_OP_WRITE_BARRIER)]
    {
        let (mut queue, mut back_end) = connected(Limits { flush: flush_by, ..DIRECT });
        let (request, completion) = flush();
        queue.push(request);
        let _ = queue.submit();
        let served = back_end.serve();
        assert_eq!((served.len(), served[0].operation, served[0].segments.len()), (1, operation, 0));
        queue.reap().unwrap();
        assert_eq!(completion.try_take().unwrap().result, Ok(()));
    }
    let (mut queue, mut back_end) = connected(Limits { flush: FlushBy::Nothing, ..DIRECT });
    let (request, completion) = flush();
    queue.push(request);
    let _ = queue.submit();
    assert!(back_end.serve().is_empty());
    assert_eq!(completion.try_take().unwrap().result, Ok(()));
}

#[test]
fn one_failed_part_fails_the_request() {
    for (status, error) in [
        (BLKIF_RSP_ERROR, BlockError::Failed),
        (BLKIF_RSP_EOPNOTSUPP, BlockError::NotSupported),
        (77, BlockError::Failed),
    ] {
        let (mut queue, mut back_end) = connected(DIRECT);
        let completion = push(&mut queue, Action::Read, 0, &noise(30 * PAGE_SIZE));
        let _ = queue.submit();
        let found: Vec<_> = core::iter::from_fn(|| back_end.find()).collect();
        for (index, found) in found.iter().enumerate() {
            back_end.answer(found, if index == 1 { status } else { BLKIF_RSP_OKAY });
        }
        queue.reap().unwrap();
        let outcome = completion.try_take().expect("all parts are answered");
        assert_eq!(outcome.result, Err(error));
        assert!(outcome.buffer.is_some());
    }
}

#[test]
fn a_full_grant_table_fails_the_request_or_makes_it_direct() {
    let (mut queue, mut back_end) = connected(INDIRECT);
    back_end.grants.limit(back_end.grants.count() + 20);
    let completion = push(&mut queue, Action::Write, 0, &noise(21 * PAGE_SIZE));
    let _ = queue.submit();
    let outcome = completion.try_take().expect("the request is answered at once");
    assert_eq!(outcome.result, Err(BlockError::NoMemory));
    assert!(outcome.buffer.is_some());
    let completion = push(&mut queue, Action::Write, 0, &noise(20 * PAGE_SIZE));
    let _ = queue.submit();
    let served = back_end.serve();
    assert_eq!(served.iter().map(|found| found.segments.len()).collect::<Vec<_>>(), [11, 9]);
    queue.reap().unwrap();
    assert_eq!(completion.try_take().unwrap().result, Ok(()));
}

#[test]
fn unanswered_requests_are_asked_of_the_next_back_end() {
    let (mut queue, mut back_end) = connected(DIRECT);
    let pending: Vec<_> = (0..50)
        .map(|number| {
            push(
                &mut queue,
                Action::Write,
                number * 200,
                &noise((number as usize % 5 + 1) * 20000 / 512 * 512),
            )
        })
        .collect();
    let _ = queue.submit();
    let found: Vec<_> = core::iter::from_fn(|| back_end.find()).collect();
    for found in &found[..10] {
        back_end.carry_out(found);
        back_end.answer(found, BLKIF_RSP_OKAY);
    }
    queue.reap().unwrap();
    let done = pending.iter().filter(|completion| completion.try_take().is_some()).count();
    assert!((1..10).contains(&done), "{done}");

    let (mut next_queue, mut next_back_end) = connected(INDIRECT);
    let requests: Vec<_> = queue.into_requests().collect();
    assert_eq!(requests.len(), 50 - done);
    requests.into_iter().for_each(|request| next_queue.push(request));
    next_back_end.disk = back_end.disk;
    while !{
        let _ = next_queue.submit();
        next_back_end.serve()
    }
    .is_empty()
    {
        next_queue.reap().unwrap();
    }
    let outcomes: Vec<_> = pending.iter().filter_map(|completion| completion.try_take()).collect();
    assert_eq!(outcomes.len(), 50 - done);
    for number in 0..50 {
        let data = noise((number % 5 + 1) * 20000 / 512 * 512);
        assert_eq!(back_end.grants.count(), 0, "the old back end has lost all access");
        assert_eq!(next_back_end.disk[number * 200 * SECTOR_SIZE..][..data.len()], data, "request {number}");
    }
}

#[test]
fn what_is_not_on_the_disk_is_refused() {
    let geometry = Geometry { sectors: 100, sector_size: 512, read_only: false };
    let check = |start, length| geometry.check(Action::Read, Sector(start), length);
    assert_eq!(check(0, 51200), Ok(()));
    assert_eq!(check(99, 512), Ok(()));
    assert_eq!(check(100, 512), Err(BlockError::OutOfRange));
    assert_eq!(check(1, 51200), Err(BlockError::OutOfRange));
    assert_eq!(check(u64::MAX, 512), Err(BlockError::OutOfRange));
    assert_eq!(check(0, 0), Err(BlockError::Unaligned));
    assert_eq!(check(0, 513), Err(BlockError::Unaligned));
    let large_blocks = Geometry { sector_size: 4096, ..geometry };
    assert_eq!(large_blocks.check(Action::Read, Sector(8), 4096), Ok(()));
    assert_eq!(large_blocks.check(Action::Read, Sector(1), 4096), Err(BlockError::Unaligned));
    assert_eq!(large_blocks.check(Action::Read, Sector(8), 512), Err(BlockError::Unaligned));
    let read_only = Geometry { read_only: true, ..geometry };
    assert_eq!(read_only.check(Action::Write, Sector(0), 512), Err(BlockError::ReadOnly));
    assert_eq!(read_only.check(Action::Read, Sector(0), 512), Ok(()));
}
