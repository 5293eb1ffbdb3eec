//! What a guest may write into its queues: chains, tables and indices that make no sense, and those
//! that do.

use passt_sys::shared::Region;

use super::*;
use crate::link::virtio::Layout;

/// `VIRTQ_DESC_F_*`.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Overwrites descriptor 0 of a queue.
fn describe(region: &Region, at: usize, (start, len, flags, next): (u64, u32, u16, u16)) {
    assert!(region.copy_in(at, &start.to_le_bytes()) && region.copy_in(at + 8, &len.to_le_bytes()));
    assert!(region.copy_in(at + 12, [flags.to_le_bytes(), next.to_le_bytes()].as_flattened()));
}

/// What a queue is spoilt with.
type Spoil = Box<dyn Fn(&Region, Layout)>;

/// All that makes no sense in a queue whose first chain is to be taken, and whose buffers are
/// `good`.
fn spoilt(size: u64, good: u16) -> Vec<(&'static str, Spoil)> {
    let first = |what: (u64, u32, u16, u16)| -> Spoil {
        Box::new(move |region: &Region, layout: Layout| describe(region, layout.descriptor(0), what))
    };
    // A table in the middle of memory.
    let at = GUEST + size / 4;
    let table = move |len: u32, entries: Vec<(u64, u32, u16, u16)>| -> Spoil {
        Box::new(move |region: &Region, layout: Layout| {
            let start = usize::try_from(size / 4).unwrap();
            for (number, entry) in entries.iter().enumerate() {
                describe(region, start + 16 * number, *entry);
            }
            describe(region, layout.descriptor(0), (at, len, INDIRECT, 0));
        })
    };
    let index = |index: u16| -> Spoil {
        Box::new(move |region: &Region, layout: Layout| {
            assert!(region.store(layout.available_index(), index.to_le()));
        })
    };
    let head = |head: u16| -> Spoil {
        Box::new(move |region: &Region, layout: Layout| {
            assert!(region.store(layout.available_entry(0), head.to_le()));
        })
    };
    vec![
        ("an index too far", index(2000)),
        ("an index that went back", index(u16::MAX)),
        ("a head that there is not", head(1024)),
        ("another", head(u16::MAX)),
        ("behind memory", first((GUEST + size, 1, good, 0))),
        ("over its end", first((GUEST + size - 10, 11, good, 0))),
        ("before it", first((GUEST - 1, 2, good, 0))),
        ("a range that wraps", first((u64::MAX - 5, 100, good, 0))),
        ("as much as can be", first((GUEST, u32::MAX, good, 0))),
        ("the wrong direction", first((GUEST, 100, good ^ WRITE, 0))),
        ("a chain of itself", first((GUEST, 100, good | NEXT, 0))),
        ("a chain of itself without buffers", first((GUEST, 0, good | NEXT, 0))),
        ("a successor that there is not", first((GUEST, 100, good | NEXT, 1024))),
        ("a table with a successor", first((at, 32, INDIRECT | NEXT, 1))),
        ("an empty table", first((at, 0, INDIRECT, 0))),
        ("a table that is cut", first((at, 24, INDIRECT, 0))),
        ("a table behind memory", first((GUEST + size - 16, 32, INDIRECT, 0))),
        ("a table in a table", table(32, vec![(GUEST, 10, good | NEXT, 1), (at, 16, INDIRECT, 0)])),
        ("a table that goes round", table(32, vec![(GUEST, 10, good | NEXT, 1), (GUEST, 1, good | NEXT, 0)])),
        ("a table that goes on", table(16, vec![(GUEST, 10, good | NEXT, 1)])),
    ]
}

fn big(features: Features) -> Shape {
    Shape { transmit: 1024, receive: 1024, ..with(features) }
}

/// Each costs the guest this queue until it is set up again; the front end is told, once; the other
/// queue goes on.
#[test]
fn queues_that_make_no_sense() {
    let features = Features::INDIRECT_DESC | Features::MRG_RXBUF;
    let size = Machine::pair(big(features)).unwrap().0.region().size() as u64;
    for (what, spoil) in spoilt(size, 0) {
        let (mut machine, mut link) =
            started(Shape { features: with(Features::MRG_RXBUF).features, ..big(features) });
        drop(machine);
        let (fresh, socket) = Machine::pair(big(features)).unwrap();
        machine = fresh;
        link.connect(socket);
        link.renew_fds();
        machine.start();
        listen(&mut link);
        machine.post();
        assert!(machine.send(&packet(60), &[]) && !machine.is_broken(TRANSMIT));
        spoil(machine.region(), machine.transmit());
        assert_eq!(listen(&mut link), 1, "{what}: it is counted");
        assert!(link.frame(0).is_none() && machine.is_broken(TRANSMIT), "{what}");
        assert!(!machine.is_broken(RECEIVE));
        assert_eq!((listen(&mut link), machine.is_broken(TRANSMIT)), (0, false), "{what}: once");
        assert_eq!(link.send(&pattern(60)), Ok(()), "{what}");
    }
    for (what, spoil) in spoilt(size, WRITE) {
        let (mut machine, mut link) = started(big(features));
        machine.post_some(1);
        spoil(machine.region(), machine.receive());
        assert_eq!(link.send(&pattern(60)), Err(DropReason::LinkWrite), "{what}");
        assert!(machine.is_broken(RECEIVE) && !machine.is_broken(TRANSMIT), "{what}");
        assert!(link.is_congested() && link.lendable(54, 1000) == 0);
        assert!(machine.send(&packet(60), &[]));
        assert_eq!(listen(&mut link), 2, "{what}: a frame, and what was spoilt");
        assert_eq!((listen(&mut link), machine.is_broken(RECEIVE)), (0, false), "{what}: once");
    }
}

/// Tables are for those who agreed on them.
#[test]
fn tables_that_nobody_agreed_on() {
    let (mut machine, mut link) = started(with(Features::MRG_RXBUF));
    assert!(machine.send(&packet(60), &[]));
    describe(machine.region(), machine.transmit().descriptor(0), (GUEST, 16, INDIRECT, 0));
    assert_eq!((listen(&mut link), machine.is_broken(TRANSMIT)), (1, true));
}

/// A table may follow descriptors of the queue's own (virtio 1.2, section 2.7.5.3.2).
#[test]
fn a_table_at_the_end_of_a_chain() {
    let (machine, mut link) = started(big(Features::INDIRECT_DESC));
    let (region, layout) = (machine.region(), machine.transmit());
    let data = GUEST + 0x1_0000;
    assert!(region.copy_in(0x1_0000, &[[0; 12].as_slice(), &pattern(100)].concat()));
    describe(region, layout.descriptor(7), (data, 12, NEXT, 9));
    describe(region, layout.descriptor(9), (data + 0x1000, 32, INDIRECT, 0));
    describe(region, 0x1_1000, (data + 12, 60, NEXT, 1));
    describe(region, 0x1_1010, (data + 72, 40, 0, 0));
    assert!(
        region.store(layout.available_entry(0), 7_u16.to_le())
            && region.store(layout.available_index(), 1_u16.to_le())
    );
    assert_eq!(listen(&mut link), 1);
    assert!(content(&link, 0) == pattern(100));
}

/// Chains of all descriptors, offered again and again, take no more memory than there was: a sealed
/// process gets none.
#[test]
fn chains_of_all_descriptors() {
    let shape = Shape { transmit: 1024, receive: 1024, ..with(Features::MRG_RXBUF) };
    let (machine, mut link) = started(shape);
    let (region, before) = (machine.region(), link.device.capacity());
    for (layout, access) in [(machine.transmit(), 0), (machine.receive(), WRITE)] {
        for number in 0..layout.size {
            let next = if number + 1 < layout.size { NEXT } else { 0 };
            let buffer = (GUEST + 0x1_0000, 4, access | next, number + 1);
            describe(region, layout.descriptor(number), buffer);
            assert!(region.store(layout.available_entry(number), 0_u16));
        }
        assert!(region.store(layout.available_index(), layout.size.to_le()));
    }
    let mut taken = 0;
    for round in 2..20_u16 {
        taken += listen(&mut link);
        link.flush();
        assert!(region.store(machine.transmit().available_index(), 1024_u16.wrapping_mul(round).to_le()));
    }
    assert_eq!(taken, 18 * 1024);
    assert!(!machine.is_broken(TRANSMIT) && !machine.is_broken(RECEIVE));
    assert_eq!(link.device.capacity(), before);
    assert_eq!(link.send(&pattern(60)), Ok(()), "the first buffers of a chain are enough");
}
