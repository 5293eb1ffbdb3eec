//! The log of pages that the device writes to, by which a guest is moved while it runs.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, AsRawFd as _};

use passt_sys::iovec::Scatter;
use passt_sys::shared::{LOG_PAGE, Region};
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::*;
use crate::link::virtio::Layout;
use crate::link::virtio::driver::ARENA;

/// Bytes of a log that has a bit for each page up to the end of a machine's memory.
fn size(machine: &Machine) -> u64 {
    (GUEST + machine.region().size() as u64).div_ceil(8 * LOG_PAGE as u64)
}

/// A log as the front end has it.
struct Log {
    file: OwnedFd,
    region: Region,
}

impl Log {
    /// A file of so many bytes.
    fn new(size: u64) -> Self {
        let file = memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, size).unwrap();
        let region = Region::map(file.as_fd(), 0, usize::try_from(size).unwrap()).unwrap();
        Self { file, region }
    }

    /// Pages that are marked, by where they are in the guest's memory. They are marked no more.
    fn take(&self) -> BTreeSet<usize> {
        let mut bytes = vec![0; self.region.size()];
        assert!(self.region.copy_out(0, &mut bytes) && self.region.copy_in(0, &vec![0; bytes.len()]));
        let first = usize::try_from(GUEST).unwrap() / LOG_PAGE;
        let marked = (0..8 * bytes.len()).filter(|page| bytes[page / 8] >> (page % 8) & 1 != 0);
        marked.map(|page| page.checked_sub(first).expect("a page of the guest's")).collect()
    }
}

/// A machine whose written pages are noted.
fn logged(shape: Shape) -> (Machine, VhostUserLink, Log) {
    let (machine, mut link) = started(shape);
    let log = Log::new(size(&machine));
    machine.log_base(log.file.as_fd(), size(&machine), 0);
    machine.log(true);
    listen(&mut link);
    assert_eq!(machine.number(), Some((6, 0)));
    log.take();
    (machine, link, log)
}

fn snapshot(machine: &Machine) -> Vec<u8> {
    let mut bytes = vec![0; machine.region().size()];
    assert!(machine.region().copy_out(0, &mut bytes));
    bytes
}

/// Pages that are not as they were.
fn changed(machine: &Machine, before: &[u8]) -> BTreeSet<usize> {
    let now = snapshot(machine);
    let pages = before.chunks(LOG_PAGE).zip(now.chunks(LOG_PAGE)).enumerate();
    pages.filter(|(_, (before, now))| before != now).map(|(page, _)| page).collect()
}

/// Pages with parts of a range.
fn pages(range: std::ops::Range<usize>) -> BTreeSet<usize> {
    (range.start / LOG_PAGE..range.end.div_ceil(LOG_PAGE)).collect()
}

/// Pages of a queue's used ring.
fn used(layout: Layout) -> BTreeSet<usize> {
    let end = layout.used + Layout::used_len(layout.size);
    pages(layout.used..end)
}

/// Sends payload as the kernel fills buffers that were reserved for it.
fn deliver(link: &mut VhostUserLink, payload: usize) -> Result<(), DropReason> {
    deliver_in(link, payload, payload)
}

/// The same where more was reserved.
fn deliver_in(link: &mut VhostUserLink, reserved: usize, payload: usize) -> Result<(), DropReason> {
    let mut room = Scatter::new();
    if !link.reserve(54, reserved, reserved, &mut room) {
        return Err(DropReason::LinkBusy);
    }
    assert_eq!(room.copy_in(0, &pattern(payload)), payload);
    link.commit(&[1; 54], &Offload::default(), payload)
}

/// With each feature of queues, whatever is sent: no page changes that is not marked, and none is
/// marked but those and the used rings.
#[test]
fn pages_that_change_are_marked() {
    let all = [
        Features::MRG_RXBUF,
        Features::INDIRECT_DESC,
        Features::EVENT_IDX,
        Features::GUEST_CSUM | Features::GUEST_TSO4 | Features::GUEST_TSO6,
    ];
    for bits in 0..1 << all.len() {
        let chosen = (0..all.len()).filter(|bit| bits & 1 << bit != 0).map(|bit| all[bit]);
        let features = chosen.fold(Features::empty(), Features::union);
        let (mut machine, mut link, log) = logged(Shape { buffer: 3000, ..with(features) });
        let rings = &used(machine.transmit()) | &used(machine.receive());
        let buffers = machine.receive().end() + ARENA;
        for round in 0..40 {
            // No byte of what is written is like that.
            assert!(machine.region().copy_in(buffers, &vec![0xff; 64 * 3000]));
            machine.post();
            assert!(machine.send(&packet(60 + round * 30), &[12, 30]));
            let before = snapshot(&machine);
            assert_eq!(listen(&mut link), 1);
            assert_eq!(link.send(&pattern(60 + round)), Ok(()));
            assert_eq!(deliver(&mut link, 1 + 61 * round), Ok(()), "{features:?}");
            // What nobody sends is written nevertheless.
            let mut room = Scatter::new();
            assert!(link.reserve(54, 2000, 1000, &mut room));
            room.copy_in(0, &[7; 2000]);
            link.flush();
            let (changed, marked) = (changed(&machine, &before), log.take());
            assert!(changed.is_subset(&marked), "{features:?} {round}: {:?}", &changed - &marked);
            let more = &marked - &(&changed | &rings);
            assert!(more.is_empty(), "{features:?} {round}: {more:?}");
            assert!(!changed.is_empty());
            machine.take();
        }
    }
}

/// Indices, entries and what asks for kicks are in pages of their own where queues are long. Some front
/// ends say for each queue where its used ring is to be noted, others do not.
#[test]
fn pages_of_long_queues() {
    let features = Features::MRG_RXBUF | Features::EVENT_IDX;
    for is_said in [true, false] {
        let (mut machine, mut link, log) = logged(Shape { transmit: 1024, receive: 1024, ..with(features) });
        if !is_said {
            for index in [RECEIVE, TRANSMIT] {
                machine.address(index, None);
            }
            listen(&mut link);
        }
        let (transmit, receive) = (machine.transmit(), machine.receive());
        assert!(transmit.used_index() / LOG_PAGE < transmit.available_event() / LOG_PAGE);
        for _ in 0..30 {
            machine.post();
            (0..50).for_each(|_| assert!(machine.send(&packet(60), &[])));
            let before = snapshot(&machine);
            assert_eq!(listen(&mut link), 50);
            (0..50).for_each(|_| assert_eq!(link.send(&pattern(60)), Ok(())));
            link.flush();
            let (changed, marked) = (changed(&machine, &before), log.take());
            assert!(changed.is_subset(&marked), "{:?}", &changed - &marked);
            for at in [transmit.used_index(), receive.used_index(), transmit.available_event()] {
                assert!(marked.contains(&(at / LOG_PAGE)), "{is_said} {at}");
            }
            assert_eq!(machine.take().len(), 50);
        }
    }
}

/// A log is not written to before that is wanted, and not after.
#[test]
fn nothing_is_marked_otherwise() {
    let (mut machine, mut link) = started(everything());
    let log = Log::new(size(&machine));
    machine.log_base(log.file.as_fd(), size(&machine), 0);
    for wanted in [false, true, false, true, false] {
        machine.log(wanted);
        listen(&mut link);
        machine.post();
        assert!(machine.send(&packet(100), &[]));
        assert_eq!((listen(&mut link), deliver(&mut link, 900)), (1, Ok(())));
        link.flush();
        assert_eq!(machine.take().len(), 1);
        assert_eq!(log.take().is_empty(), !wanted);
    }
}

/// Logs come, are replaced, wanted or not, tables of memory are replaced, and queues are said to be
/// where they are: frames go on, each once.
#[test]
fn queues_go_on() {
    let (mut machine, mut link, mut log) = logged(everything());
    for round in 0..60 {
        match round % 6 {
            0 => machine.log(false),
            1 => {
                machine.log_base(log.file.as_fd(), size(&machine), 0);
                machine.log(true);
            }
            2 => {
                let next = Log::new(size(&machine) + 5000);
                machine.log_base(next.file.as_fd(), size(&machine), 4097);
                log = next;
            }
            3 => machine.table(),
            4 => machine.address(TRANSMIT, None),
            _ => machine.features(),
        }
        // Either is how the log begins.
        let is_marked = matches!(round % 6, 1..=4);
        listen(&mut link);
        while let Some((request, outcome)) = machine.number() {
            assert_eq!((request, outcome), (6, 0));
        }
        machine.post();
        assert!(machine.send(&packet(100 + round), &[]));
        assert_eq!(listen(&mut link), 1, "{round}");
        assert_eq!(link.frame(0).map(|frame| frame.len), Some(100 + round));
        assert_eq!(link.send(&pattern(200 + round)), Ok(()), "{round}");
        link.flush();
        assert!(machine.take() == [packet(200 + round)], "{round}");
        let mut bytes = vec![0; log.region.size()];
        assert!(log.region.copy_out(0, &mut bytes) && log.region.copy_in(0, &vec![0; bytes.len()]));
        assert_eq!(bytes.iter().any(|byte| *byte != 0), is_marked, "{round}");
    }
    assert!(!machine.is_broken(RECEIVE) && !machine.is_broken(TRANSMIT));
}

/// QEMU starts queues, and brings the log behind that: nothing is written until it is there.
#[test]
fn a_log_that_comes_late() {
    let (mut machine, mut link) = silent(everything());
    let log = Log::new(size(&machine));
    machine.greet();
    machine.log(true);
    machine.table();
    machine.queue(RECEIVE, 0);
    machine.queue(TRANSMIT, 0);
    machine.post();
    assert!(machine.send(&packet(100), &[]));
    machine.kick(RECEIVE);
    let before = snapshot(&machine);
    assert_eq!(listen(&mut link), 0);
    assert_eq!(link.receive(kick(&link, TRANSMIT)).unwrap(), 0);
    assert_eq!(link.send(&pattern(60)), Err(DropReason::LinkWrite));
    assert!(link.is_congested() && link.is_blocked() && link.lendable(54, 1000) == 0);
    link.flush();
    assert!(changed(&machine, &before).is_empty());
    machine.log_base(log.file.as_fd(), size(&machine), 0);
    assert_eq!((listen(&mut link), link.send(&pattern(60))), (1, Ok(())));
    link.flush();
    assert!(changed(&machine, &before).is_subset(&log.take()));
    assert_eq!(machine.take().len(), 1);
    // A device that is reset wants another one.
    machine.numbers(39, false, &[0]);
    machine.log(true);
    machine.queue(RECEIVE, 0);
    listen(&mut link);
    assert_eq!(link.send(&pattern(60)), Err(DropReason::LinkWrite));
    assert!(link.is_connected());
}

/// The used ring is noted where the front end says, too.
#[test]
fn the_used_ring_under_another_address() {
    let (mut machine, mut link, log) = logged(everything());
    let ring = used(machine.receive());
    // In the middle of memory that nobody uses, right before a page's end.
    let at = GUEST + machine.region().size() as u64 / 2 / LOG_PAGE as u64 * LOG_PAGE as u64;
    machine.address(RECEIVE, Some(at - 6));
    listen(&mut link);
    log.take();
    machine.post();
    assert_eq!(link.send(&pattern(60)), Ok(()));
    let page = usize::try_from(at - GUEST).unwrap() / LOG_PAGE;
    let marked = log.take();
    assert!(marked.contains(&(page - 1)) && marked.contains(&page), "index and entry: {marked:?}");
    assert!(marked.intersection(&ring).count() > 0, "and where it is");
}

/// What is no log is refused, which is told whether that is asked or not, and the one before stays.
#[test]
fn logs_that_make_no_sense() {
    let (mut machine, mut link, log) = logged(everything());
    let (file, len) = (log.file.as_fd(), size(&machine));
    let (pipe, _writer) = rustix::pipe::pipe().unwrap();
    let event = passt_sys::event::Event::new().unwrap();
    let read_only = std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    for (numbers, files) in [
        (vec![len, 0], vec![]),
        (vec![len, 0], vec![file, file]),
        (vec![len, 0], vec![pipe.as_fd()]),
        (vec![len, 0], vec![event.as_fd()]),
        (vec![len, 0], vec![read_only.as_fd()]),
        (vec![0, 0], vec![file]),
        (vec![len + 1, 0], vec![file]),
        (vec![len, 1], vec![file]),
        (vec![1, len], vec![file]),
        (vec![1, u64::MAX], vec![file]),
        (vec![u64::MAX, 1], vec![file]),
        (vec![u64::MAX, u64::MAX], vec![file]),
        (vec![len], vec![file]),
        (vec![], vec![file]),
    ] {
        for need_reply in [false, true] {
            machine.request(6, need_reply, &words(&numbers), &files);
            listen(&mut link);
            assert_eq!(machine.number(), Some((6, 1)), "{numbers:x?}");
            assert_eq!(machine.answer(), None);
        }
        machine.post();
        assert_eq!(link.send(&pattern(60)), Ok(()), "{numbers:x?}");
        assert!(!log.take().is_empty(), "{numbers:x?}");
        machine.take();
    }
    // Who is told of writes.
    assert_eq!(ask(&machine, &mut link, 7, &[], &[event.as_fd()]), Some((7, 0)));
    // Without a shared log nobody waits for an answer.
    let (machine, mut link) = silent(everything());
    machine.log_base(file, len, 0);
    listen(&mut link);
    assert_eq!(machine.answer(), None);
}

/// Each has a bit that is wanted and that there is not: that costs the front end its connection, and
/// nothing else is written to.
#[test]
fn bits_that_there_are_not() {
    let all = size(&Machine::pair(everything()).unwrap().0);
    for (what, len, address) in [
        ("no page of the guest's", 1, None),
        ("all but the guest's pages", GUEST / (8 * LOG_PAGE as u64), None),
        ("an address behind the log", all, Some(GUEST << 2)),
        ("an address at the end of all", all, Some(u64::MAX)),
        ("one that wraps", all, Some(u64::MAX - 5)),
    ] {
        let (mut machine, mut link) = started(everything());
        let log = Log::new(all + 2 * LOG_PAGE as u64);
        machine.log_base(log.file.as_fd(), len, LOG_PAGE as u64);
        machine.log(true);
        if let Some(address) = address {
            machine.address(RECEIVE, Some(address));
        }
        machine.post();
        let outcome = link.receive(CONTROL).and_then(|_| {
            let _ = deliver(&mut link, 900);
            link.flush();
            link.receive(CONTROL)
        });
        let error = outcome.unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof), "{what}");
        assert!(!link.is_connected() && link.device.memory.regions() == 0, "{what}");
        let mut bytes = vec![0; log.region.size()];
        assert!(log.region.copy_out(0, &mut bytes));
        let (before, rest) = bytes.split_at(LOG_PAGE);
        let behind = rest.iter().skip(usize::try_from(len).unwrap());
        assert!(before.iter().chain(behind).all(|byte| *byte == 0), "{what}");
    }
}

/// A log that becomes shorter costs the front end its connection, and the next one is served.
#[test]
fn a_log_that_becomes_shorter() {
    passt_sys::shared::survive_faults().unwrap();
    let (mut machine, mut link, log) = logged(everything());
    machine.post();
    assert_eq!(link.send(&pattern(60)), Ok(()));
    ftruncate(&log.file, 0).unwrap();
    let _ = link.send(&pattern(60));
    link.flush();
    let error = link.receive(CONTROL).unwrap_err();
    assert!(matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof));
    assert!(!link.is_connected());
    let mut machine = next(&mut link);
    assert_eq!(link.send(&pattern(60)), Ok(()));
    assert_eq!(machine.take().len(), 1);
}

/// A log is mapped once, its file is closed at once, and nothing is left of it when it is replaced,
/// the device reset, or the front end gone.
#[test]
fn logs_are_unmapped() {
    let file = memfd_create("log-that-is-unmapped", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, 1 << 20).unwrap();
    let mappings = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains("log-that-is-unmapped")).count()
    };
    let descriptors = || {
        let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let names = all.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        names.filter(|name| name.to_string_lossy().contains("log-that-is-unmapped")).count()
    };
    let (machine, mut link) = started(everything());
    for round in 0..200 {
        machine.log_base(file.as_fd(), 1 << 20, 0);
        machine.log(round % 2 == 0);
        listen(&mut link);
        assert_eq!((machine.number(), mappings(), descriptors()), (Some((6, 0)), 1, 1));
    }
    for end in [34, 39] {
        machine.log_base(file.as_fd(), 1 << 20, 0);
        listen(&mut link);
        assert_eq!((mappings(), descriptors()), (1, 1));
        machine.numbers(end, false, &[0]);
        listen(&mut link);
        assert_eq!((mappings(), descriptors()), (0, 1), "{end}");
    }
    machine.log_base(file.as_fd(), 1 << 20, 0);
    listen(&mut link);
    drop(machine);
    assert!(link.receive(CONTROL).is_err());
    assert_eq!((mappings(), descriptors()), (0, 1));
}

/// A buffer: where it begins in memory that is for them, and how long it is.
type Piece = (usize, usize);

/// Chains of buffers, and frames with how much of each was filled without being sent.
fn layouts() -> impl Strategy<Value = (Vec<Vec<Piece>>, Vec<(usize, usize)>)> {
    let piece = (0usize..60 * LOG_PAGE, prop_oneof![0usize..20, 0usize..3 * LOG_PAGE, Just(LOG_PAGE)]);
    let chains = prop::collection::vec(prop::collection::vec(piece, 1..4), 1..20);
    (chains, prop::collection::vec((0usize..9000, 0usize..9000), 1..12))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever buffers are: exactly the pages that are written are marked.
    #[test]
    fn any_buffers((chains, frames) in layouts(), mergeable in any::<bool>()) {
        // Chains of at most three of 64 descriptors each.
        let merge = if mergeable { Features::MRG_RXBUF } else { Features::empty() };
        let features = Features::EVENT_IDX | Features::GUEST_CSUM | merge;
        let (machine, mut link, log) = logged(Shape { receive: 64, ..with(features) });
        let (region, layout) = (machine.region(), machine.receive());
        let data = layout.end().next_multiple_of(LOG_PAGE);
        let mut number = 0_u16;
        for (entry, chain) in (0..).zip(&chains) {
            prop_assert!(region.store(layout.available_entry(entry), number.to_le()));
            for (left, (start, len)) in (0..chain.len()).rev().zip(chain) {
                let place = GUEST + (data + start) as u64;
                let len = u32::try_from(*len).unwrap();
                let [a, b] = if left > 0 { 3u16 } else { 2 }.to_le_bytes();
                number += 1;
                let [c, d] = number.to_le_bytes();
                let at = layout.descriptor(number - 1);
                prop_assert!(region.copy_in(at, &place.to_le_bytes()));
                prop_assert!(region.copy_in(at + 8, &len.to_le_bytes()) && region.copy_in(at + 12, &[a, b, c, d]));
            }
        }
        prop_assert!(region.store(layout.available_index(), u16::try_from(chains.len()).unwrap().to_le()));
        let rings = &used(machine.transmit()) | &used(layout);
        for (sent, dropped) in frames {
            // No byte of what is written is like that.
            prop_assert!(region.copy_in(data, &vec![0xff; 64 * LOG_PAGE]));
            let before = snapshot(&machine);
            let mut room = Scatter::new();
            if link.reserve(54, dropped, dropped, &mut room) {
                room.copy_in(0, &vec![0xee; dropped]);
            }
            let _ = link.send(&pattern(sent % 1500));
            let _ = deliver_in(&mut link, sent + dropped / 2, sent);
            link.flush();
            let (changed, marked) = (changed(&machine, &before), log.take());
            prop_assert!(changed.is_subset(&marked), "unmarked: {:?}", &changed - &marked);
            let more = &marked - &(&changed | &rings);
            prop_assert!(more.is_empty(), "not written: {more:?}");
        }
        prop_assert!(link.is_connected());
    }
}
