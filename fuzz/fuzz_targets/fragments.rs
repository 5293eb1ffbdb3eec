//! Fragments of a few packets, from a few stations, in any order: what is kept never overlaps, a
//! packet is whole if and only if all of it is kept, and there are never more than there may be.
#![no_main]

use core::net::{Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use passt_proto::addr::{Addr, Mac};
use passt_proto::drop::DropReason;
use passt_proto::reassembly::{Map, PACKETS, Place, Reassembly, Verdict};
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::fragment::Part;
use passt_proto::wire::ip::{Marks, Packet};

/// What is kept in a place.
#[derive(Default)]
struct Kept {
    parts: Vec<(usize, usize)>,
    total: Option<usize>,
}

impl Kept {
    fn add(&mut self, part: &Part) {
        let range = part.range();
        let overlaps = |&(start, end): &(usize, usize)| start < range.end && range.start < end;
        assert!(!self.parts.iter().any(overlaps));
        self.parts.push((range.start, range.end));
        self.parts.sort_unstable();
        if !part.more {
            assert!(self.total.replace(range.end).is_none());
        }
        let end = self.parts.last().map(|&(_, end)| end);
        assert!(self.total.is_none() || self.total == end || end < self.total);
    }

    fn is_whole(&self) -> bool {
        let covered = self.parts.iter().try_fold(0, |at, &(start, end)| (start == at).then_some(end));
        covered.is_some() && covered == self.total
    }
}

fuzz_target!(|data: &[u8]| {
    let mut table = Reassembly::new(vec![Map::default(); PACKETS]);
    let mut kept: Vec<Kept> = (0..PACKETS).map(|_| Kept::default()).collect();
    let mut now = Instant::from_millis(1);
    for bytes in data.chunks_exact(8) {
        let &[kind, id, o1, o2, l1, l2, time, flags] = bytes else { return };
        now = now + Duration::from_millis(u64::from(time) * 40);
        while let Some(removed) = table.expire(now) {
            kept[removed.index] = Kept::default();
        }
        let packet = packet(kind);
        let offset = u16::from_be_bytes([o1, o2]) << 3;
        let (len, more) = (usize::from(u16::from_be_bytes([l1, l2])), flags & 1 != 0);
        let len = if more { len & !7 } else { len };
        let Ok(part) = Part::new(offset, len, more, id.into()) else { continue };
        let station = Mac([2, 0, 0, 0, 0, kind >> 6]);
        let mut keep = |Place { index, displaces }| {
            if displaces {
                kept[index] = Kept::default();
            }
            kept[index].add(&part);
            (index, kept[index].is_whole())
        };
        match table.add(now, station, &packet, &part) {
            Verdict::Keep(place) => assert!(!keep(place).1),
            Verdict::Complete(place) => {
                let (index, is_whole) = keep(place);
                let removed = table.remove(index).expect("it is there");
                assert!(is_whole && removed.total == kept[index].total);
                assert_eq!(Some(&(0, removed.first)), kept[index].parts.first());
                kept[index] = Kept::default();
            }
            Verdict::Drop(DropReason::FragmentOverlap, place) => {
                place.into_iter().for_each(|index| kept[index] = Kept::default());
            }
            Verdict::Drop(reason, place) => {
                assert_eq!((reason, place), (DropReason::FragmentDuplicate, None));
            }
        }
        assert!(table.count() <= PACKETS && table.due().is_none_or(|due| due > now));
    }
});

fn packet(kind: u8) -> Packet {
    let last = u16::from(kind >> 2 & 7);
    let (src, dst): (Addr, Addr) = if kind & 1 == 0 {
        (Ipv4Addr::from(0xc000_0200 + u32::from(last)).into(), Ipv4Addr::new(192, 0, 2, 99).into())
    } else {
        (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into(), Ipv6Addr::LOCALHOST.into())
    };
    let is_atomic = kind & 1 != 0;
    let protocol = if kind & 2 == 0 { 17 } else { 1 };
    Packet { src, dst, protocol, marks: Marks::USUAL, offset: 20, len: 0, is_atomic }
}
