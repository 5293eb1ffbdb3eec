use core::net::{Ipv4Addr, Ipv6Addr};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::wire::ip::Marks;

fn part(offset: usize, len: usize, more: bool, id: u32) -> Part {
    Part::new(u16::try_from(offset).unwrap(), len, more, id).unwrap()
}

/// Which parts a packet can have: RFC 791, section 3.2; RFC 8200, section 4.5.
#[test]
fn parts_that_there_can_be() {
    for (offset, len, more, is_possible) in [
        (0, 8, true, true),
        (0, 7, true, false),
        (0, 7, false, true),
        (8, 0, true, false),
        (8, 0, false, false),
        (8, 1, false, true),
        (65_528, 7, false, true),
        (65_528, 8, false, false),
        (65_520, 8, true, true),
        (65_528, 8, true, false),
        (0, 65_528, true, true),
        (0, 65_535, false, true),
        (0, 65_536, false, false),
        (8, usize::MAX, false, false),
    ] {
        assert_eq!(Part::new(offset, len, more, 0).is_ok(), is_possible, "{offset} {len} {more}");
    }
}

/// Fragments one after the other, and what each of them is.
#[test]
fn what_fragments_are_to_each_other() {
    use Addition::*;
    let cases: &[&[(usize, usize, bool, Addition)]] = &[
        // In order, in reverse, the last in the middle.
        &[(0, 16, true, Added), (16, 16, true, Added), (32, 5, false, Completed)],
        &[(32, 5, false, Added), (16, 16, true, Added), (0, 16, true, Completed)],
        &[(0, 16, true, Added), (32, 5, false, Added), (16, 16, true, Completed)],
        // Exact duplicates, of any.
        &[(0, 16, true, Added), (0, 16, true, Duplicate), (16, 1, false, Completed)],
        &[(16, 3, false, Added), (16, 3, false, Duplicate), (0, 16, true, Completed)],
        &[(0, 8, true, Added), (16, 8, true, Added), (8, 8, true, Added), (8, 8, true, Duplicate)],
        // RFC 5722: at either side, inside, around, by a single unit.
        &[(8, 16, true, Added), (16, 16, true, Contradiction)],
        &[(8, 16, true, Added), (0, 16, true, Contradiction)],
        &[(8, 24, true, Added), (16, 8, true, Contradiction)],
        &[(8, 8, true, Added), (0, 24, true, Contradiction)],
        &[(0, 8, true, Added), (8, 8, true, Added), (0, 16, true, Contradiction)],
        &[(0, 16, true, Added), (0, 8, true, Contradiction)],
        &[(0, 16, true, Added), (8, 8, true, Contradiction)],
        &[(0, 64, true, Added), (56, 8, false, Contradiction)],
        // RFC 1858, section 3: what would replace a header.
        &[(0, 24, true, Added), (8, 16, false, Contradiction)],
        // The end is elsewhere: beyond, before, twice, or no end after all.
        &[(16, 8, false, Added), (24, 8, true, Contradiction)],
        &[(16, 8, true, Added), (8, 3, false, Contradiction)],
        &[(16, 8, false, Added), (24, 8, false, Contradiction)],
        &[(16, 7, false, Added), (16, 6, false, Contradiction)],
        &[(16, 8, false, Added), (16, 8, true, Contradiction)],
        &[(16, 8, true, Added), (16, 8, false, Contradiction)],
        &[(16, 8, false, Added), (8, 8, false, Contradiction)],
        // The longest.
        &[(0, 65_528, true, Added), (65_528, 7, false, Completed)],
        &[(0, 65_528, true, Added), (65_520, 15, false, Contradiction)],
    ];
    for case in cases {
        let mut map = Map::default();
        for &(offset, len, more, expected) in *case {
            assert_eq!(map.add(&part(offset, len, more, 0)), expected, "{offset} of {case:?}");
        }
    }
}

/// What [`Map`] does, as simple as can be.
#[derive(Clone, Default)]
struct Model(Vec<(usize, usize, bool)>);

impl Model {
    fn add(&mut self, part: &Part) -> Addition {
        let range = part.range();
        let new = (range.start, range.end, part.more);
        if self.0.contains(&new) {
            return Addition::Duplicate;
        }
        let last = self.0.iter().find(|(_, _, more)| !more).map(|&(_, end, _)| end);
        let overlaps = |&(start, end, _): &(usize, usize, bool)| start < new.1 && new.0 < end;
        let is_beyond = match (last, part.more) {
            (Some(end), true) => new.1 >= end,
            (Some(_), false) => true,
            (None, true) => false,
            (None, false) => self.0.iter().any(|&(_, end, _)| end > new.1),
        };
        // Ends are compared by eight bytes: what overlaps does so by that much.
        if is_beyond || self.0.iter().any(overlaps) {
            return Addition::Contradiction;
        }
        self.0.push(new);
        self.0.sort_unstable();
        let covered = self.0.iter().try_fold(0, |at, &(start, end, _)| (start == at).then_some(end));
        let is_whole = covered.is_some() && self.0.iter().any(|(_, _, more)| !more);
        if is_whole { Addition::Completed } else { Addition::Added }
    }

    fn first(&self) -> usize {
        self.0.first().filter(|(start, ..)| *start == 0).map_or(0, |&(_, end, _)| end)
    }
}

fn compare(map: &mut Map, model: &mut Model, part: &Part) -> Addition {
    let addition = map.add(part);
    assert_eq!(addition, model.add(part), "{part:?} after {:?}", model.0);
    assert_eq!(map.first(), model.first(), "{part:?}: {:?}", model.0);
    addition
}

/// All sequences of four fragments of a packet with up to four units, across a word's border.
#[test]
fn every_sequence_of_a_few() {
    let base = 62 * 8;
    let ends = [8, 16, 24, 25, 32];
    let parts: Vec<Part> = [0, 8, 16, 24]
        .into_iter()
        .flat_map(|start| ends.into_iter().filter(move |&end| end > start).map(move |end| (start, end)))
        .flat_map(|(start, end)| [(start, end, true), (start, end, false)])
        .filter_map(|(start, end, more)| Part::new(base + start, usize::from(end - start), more, 0).ok())
        .collect();
    let mut first = (Map::default(), Model::default());
    compare(&mut first.0, &mut first.1, &part(0, base.into(), true, 0));
    let (mut level, mut seen) = (std::vec![first], 0);
    for _ in 0..3 {
        let mut next = Vec::new();
        for (map, model) in level {
            for part in &parts {
                let (mut map, mut model) = (map.clone(), model.clone());
                seen += 1;
                if compare(&mut map, &mut model, part) == Addition::Added {
                    next.push((map, model));
                }
            }
        }
        level = next;
    }
    assert!(seen > 1000, "{seen}");
}

proptest! {
    /// Whatever comes, in whatever order.
    #[test]
    fn arbitrary_fragments(
        parts in prop::collection::vec((0u16..20, 1usize..60, any::<bool>(), 0u16..400), 1..60),
    ) {
        let (mut map, mut model) = (Map::default(), Model::default());
        for (offset, len, more, far) in parts {
            let offset = (offset + if far < 40 { far * 200 } else { 0 }) * 8;
            if let Ok(part) = Part::new(offset, if more { len * 8 } else { len }, more, 0) {
                compare(&mut map, &mut model, &part);
            }
        }
    }

    /// A packet is whole with its last missing fragment, in any order, with duplicates, whatever it
    /// is cut into.
    #[test]
    fn any_order(
        total in 1usize..=65_535,
        cuts in prop::collection::vec(1usize..8191, 0..90),
        order in any::<u64>(),
    ) {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut * 8).filter(|&cut| cut < total).collect();
        at.extend([0, total]);
        at.sort_unstable();
        at.dedup();
        let mut parts: Vec<Part> = at
            .windows(2)
            .map(|ends| part(ends[0], ends[1] - ends[0], ends[1] < total, 0))
            .collect();
        let mut state = order | 1;
        for i in (1..parts.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            parts.swap(i, usize::try_from(state >> 33).unwrap() % (i + 1));
        }
        let mut map = Map::default();
        for (number, part) in parts.iter().enumerate() {
            let is_last = number + 1 == parts.len();
            let expected = if is_last { Addition::Completed } else { Addition::Added };
            prop_assert_eq!(map.add(part), expected);
            prop_assert_eq!(map.add(part), Addition::Duplicate);
        }
        prop_assert_eq!(map.total(), Some(total));
    }
}

const A: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
const B: Mac = Mac([2, 0, 0, 0, 0, 0xb]);

fn packet(v4: bool, host: u8) -> Packet {
    let (src, dst): (Addr, Addr) = if v4 {
        (Ipv4Addr::new(192, 0, 2, host).into(), Ipv4Addr::new(198, 51, 100, 1).into())
    } else {
        let six = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into();
        (six(host.into()), six(0x100))
    };
    Packet { src, dst, protocol: 17, marks: Marks::USUAL, offset: 20, len: 16, is_atomic: !v4 }
}

fn table() -> Reassembly<Vec<Map>> {
    Reassembly::new(std::vec![Map::default(); PACKETS])
}

/// What tells packets from each other, and what does not.
#[test]
fn names_of_packets() {
    let v4 = packet(true, 2);
    let v6 = packet(false, 2);
    for (station, other, id, is_same) in [
        (A, v4, 7, true),
        (A, Packet { marks: Marks { ttl: 3, ..Marks::USUAL }, offset: 24, ..v4 }, 7, true),
        (B, v4, 7, false),
        (A, v4, 8, false),
        (A, Packet { protocol: 1, ..v4 }, 7, false),
        (A, packet(true, 3), 7, false),
        (A, Packet { dst: packet(true, 9).src, ..v4 }, 7, false),
        (A, v6, 7, true),
        // RFC 8200: only that of the first fragment counts.
        (A, Packet { protocol: 60, ..v6 }, 7, true),
    ] {
        let first = if other.src.is_v4() { v4 } else { v6 };
        let mut table = table();
        let now = Instant::from_millis(1);
        let Verdict::Keep(place) = table.add(now, A, &first, &part(0, 16, true, 7)) else { panic!() };
        let verdict = table.add(now, station, &other, &part(16, 1, false, id));
        let expected = Verdict::Complete(place);
        assert_eq!(verdict == expected, is_same, "{other:?} {id}");
    }
}

/// It is the first fragment that says what the packet is, whenever it comes.
#[test]
fn the_first_fragment_counts() {
    let mut table = table();
    let now = Instant::from_millis(1);
    let later = Packet { protocol: 60, marks: Marks { ttl: 1, ..Marks::USUAL }, ..packet(false, 2) };
    table.add(now, A, &later, &part(16, 1, false, 7));
    let first = packet(false, 2);
    let Verdict::Complete(place) = table.add(now, A, &first, &part(0, 16, true, 7)) else { panic!() };
    let removed = table.remove(place.index).unwrap();
    let expected =
        Removed { index: place.index, packet: first, station: A, first: 16, total: Some(17), spoilt: false };
    assert_eq!(removed, expected);
    assert_eq!((table.count(), table.due()), (0, None));
}

/// After a contradiction all of the packet is dropped until its time is over (RFC 5722), and a
/// packet with its name can come then.
#[test]
fn spoilt_packets() {
    let mut table = table();
    let (now, packet) = (Instant::from_millis(1000), packet(false, 2));
    assert!(matches!(table.add(now, A, &packet, &part(0, 16, true, 7)), Verdict::Keep(_)));
    let verdict = table.add(now, A, &packet, &part(8, 16, true, 7));
    assert_eq!(verdict, Verdict::Drop(DropReason::FragmentOverlap, Some(0)));
    for (offset, more) in [(0, true), (16, true), (32, false)] {
        let verdict = table.add(now, A, &packet, &part(offset, 16, more, 7));
        assert_eq!(verdict, Verdict::Drop(DropReason::FragmentOverlap, None));
    }
    let end = now + Duration::from_secs(60);
    assert_eq!(table.due(), Some(end));
    assert!(table.expire(Instant::from_millis(60_999)).is_none());
    assert!(table.expire(end).is_some_and(|removed| removed.spoilt));
    assert!(matches!(table.add(end, A, &packet, &part(0, 16, true, 7)), Verdict::Keep(_)));
}

/// The time begins with what came first, and nothing extends it: 30 seconds for IPv4, 60 for IPv6.
#[test]
fn timeouts() {
    let mut table = table();
    let at = |seconds: u64| Instant::from_millis(seconds * 1000);
    for (begin, v4) in [(0, false), (1, true), (2, true), (3, false)] {
        let id = u32::try_from(begin).unwrap();
        table.add(at(begin), A, &packet(v4, 2), &part(0, 16, true, id));
        table.add(at(begin + 20), A, &packet(v4, 2), &part(32, 16, true, id));
    }
    let mut ended = Vec::new();
    while let Some(due) = table.due() {
        while let Some(removed) = table.expire(due) {
            ended.push((due.as_millis() / 1000, removed.packet.src.is_v4(), removed.first));
        }
    }
    assert_eq!(ended, [(31, true, 16), (32, true, 16), (60, false, 16), (63, false, 16)]);
}

/// A flood from one station, under as many addresses as it likes, or one address, is at its own
/// cost, whatever else there is.
#[test]
fn a_flood_is_at_the_cost_of_its_source() {
    for addresses in [1, 200] {
        let mut table = table();
        let now = |ms| Instant::from_millis(1000 + ms);
        let quiet = packet(true, 99);
        table.add(now(0), B, &quiet, &part(0, 16, true, 1));
        // An address of the flooding station that sends little.
        let modest = packet(true, 98);
        if addresses == 1 {
            table.add(now(0), A, &modest, &part(0, 16, true, 1));
        }
        let mut displaced = 0;
        for id in 0..1000 {
            let source = packet(true, u8::try_from(id % addresses).unwrap());
            match table.add(now(u64::from(id)), A, &source, &part(0, 16, true, id)) {
                Verdict::Keep(place) => displaced += usize::from(place.displaces),
                verdict => panic!("{verdict:?}"),
            }
            assert!(table.count() <= PACKETS);
        }
        let kept = if addresses == 1 { 2 } else { 1 };
        assert_eq!(displaced, 1000 - (PACKETS - kept));
        let verdict = table.add(now(2000), B, &quiet, &part(16, 1, false, 1));
        assert!(matches!(verdict, Verdict::Complete(_)));
        if addresses == 1 {
            let verdict = table.add(now(2000), A, &modest, &part(16, 1, false, 1));
            assert!(matches!(verdict, Verdict::Complete(_)));
        }
        // The newest of the flood is there, the oldest is not.
        let newest = packet(true, u8::try_from(999 % addresses).unwrap());
        let verdict = table.add(now(2000), A, &newest, &part(16, 1, false, 999));
        assert!(matches!(verdict, Verdict::Complete(_)));
        let oldest = packet(true, 0);
        let verdict = table.add(now(2000), A, &oldest, &part(16, 1, false, 0));
        assert!(matches!(verdict, Verdict::Keep(_)));
    }
}
