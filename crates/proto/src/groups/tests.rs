use core::net::IpAddr;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::wire::membership::tests::{igmp_v3, mld_v2, report};

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().expect("an address").into()
}

const G: &str = "239.1.2.3";

fn at(seconds: u64) -> Instant {
    Instant::from_millis(seconds * 1000)
}

fn source(last: u8) -> Addr {
    core::net::Ipv4Addr::new(192, 0, 2, last).into()
}

fn sources(numbers: &[u8]) -> Sources {
    numbers.iter().map(|&last| source(last)).collect()
}

/// A record of version 3 about [`G`].
fn say(members: &mut Membership, kind: u8, named: &[u8], now: Instant) -> usize {
    let named: Vec<Addr> = named.iter().map(|&last| source(last)).collect();
    let message = igmp_v3(&[(kind, addr(G), &named)]);
    members.report(report(&message).expect("a report"), now)
}

fn elder(members: &mut Membership, kind: u8, now: Instant) {
    let mut message = [&[kind, 0, 0, 0][..], &[239, 1, 2, 3]].concat();
    let sum = crate::wire::checksum::Sum::new().bytes(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    members.report(report(&message).expect("a report"), now);
}

fn questions(members: &mut Membership, now: Instant) -> Vec<Question> {
    core::iter::from_fn(|| members.question(now)).collect()
}

const IS_IN: u8 = 1;
const IS_EX: u8 = 2;
const TO_IN: u8 = 3;
const TO_EX: u8 = 4;
const ALLOW: u8 = 5;
const BLOCK: u8 = 6;

/// A state is wanted sources, and unwanted ones if all others are wanted.
type State = (&'static [u8], Option<&'static [u8]>);

/// State, kind and sources of a record, state, sources asked about, whether the group is.
type Row = (State, u8, &'static [u8], State, &'static [u8], bool);

fn state(members: &Membership) -> (Vec<Addr>, Option<Vec<Addr>>) {
    let all = (1..=9).map(source);
    let wants = |source: &Addr| members.wants(addr(G), *source);
    match members.filter(addr(G)) {
        None => (Vec::new(), None),
        Some(Filter::Include(named)) => {
            assert!(all.clone().all(|s| wants(&s) == named.contains(&s)));
            (named.into_iter().collect(), None)
        }
        Some(Filter::Exclude(not)) => {
            assert!(all.clone().all(|s| wants(&s) != not.contains(&s)));
            let known = members.groups[0].known().filter(|s| !not.contains(s)).collect();
            (known, Some(not.into_iter().collect()))
        }
    }
}

/// RFC 3376, sections 6.4.1 and 6.4.2, row by row: the state before, a record, the state after, and
/// the sources that are asked about, with a last row for the group itself.
#[test]
fn tables_of_rfc_3376() {
    let before_in: State = (&[1, 2], None);
    let before_ex: State = (&[1, 2], Some(&[3, 4]));
    let rows: [Row; 14] = [
        (before_in, IS_IN, &[2, 5], (&[1, 2, 5], None), &[], false),
        (before_in, IS_EX, &[2, 5], (&[2], Some(&[5])), &[], false),
        (before_ex, IS_IN, &[3, 5], (&[1, 2, 3, 5], Some(&[4])), &[], false),
        (before_ex, IS_EX, &[2, 3, 5], (&[2, 5], Some(&[3])), &[], false),
        (before_in, ALLOW, &[2, 5], (&[1, 2, 5], None), &[], false),
        (before_in, BLOCK, &[2, 5], (&[1, 2], None), &[2], false),
        (before_in, TO_EX, &[2, 5], (&[2], Some(&[5])), &[2], false),
        (before_in, TO_IN, &[2, 5], (&[1, 2, 5], None), &[1], false),
        (before_ex, ALLOW, &[3, 5], (&[1, 2, 3, 5], Some(&[4])), &[], false),
        (before_ex, BLOCK, &[2, 3, 5], (&[1, 2, 5], Some(&[3, 4])), &[2, 5], false),
        (before_ex, TO_EX, &[2, 3, 5], (&[2, 5], Some(&[3])), &[2, 5], false),
        (before_ex, TO_IN, &[2, 3], (&[1, 2, 3], Some(&[4])), &[1], true),
        (before_ex, TO_IN, &[], (&[1, 2], Some(&[3, 4])), &[1, 2], true),
        (before_in, TO_IN, &[], (&[1, 2], None), &[1, 2], false),
    ];
    for (number, ((wanted, not), kind, named, (after, after_not), asked, group)) in
        rows.into_iter().enumerate()
    {
        let mut members = Membership::default();
        if let Some(not) = not {
            say(&mut members, IS_EX, not, at(0));
            // What is excluded first, is wanted by nobody: told again, it was so before.
            members.groups[0].forget(&sources(not));
            say(&mut members, IS_IN, wanted, at(0));
        } else {
            say(&mut members, IS_IN, wanted, at(0));
        }
        assert_eq!(questions(&mut members, at(1)), [], "row {number}");
        say(&mut members, kind, named, at(1));
        let sorted = |(mut a, b): (Vec<Addr>, Option<Vec<Addr>>)| {
            a.sort_unstable();
            (
                a,
                b.map(|mut b| {
                    b.sort_unstable();
                    b
                }),
            )
        };
        let of = |numbers: &[u8]| numbers.iter().map(|&n| source(n)).collect::<Vec<_>>();
        assert_eq!(sorted(state(&members)), (of(after), after_not.map(of)), "row {number}");
        for round in 0..2 {
            let mut expected = Vec::new();
            if group {
                // Members answer with all sources: no other question at the same time.
                expected.push(Question::Group(addr(G), Sources::new()));
            } else if !asked.is_empty() {
                expected.push(Question::Group(addr(G), sources(asked)));
            }
            let mut found = questions(&mut members, at(1 + round));
            for question in &mut found {
                if let Question::Group(_, named) = question {
                    named.sort_unstable();
                }
            }
            assert_eq!(found, expected, "row {number}");
        }
        assert_eq!(questions(&mut members, at(3)), [], "asked twice");
        // Nobody answered.
        members.expire(at(3));
        for &gone in asked {
            assert!(!members.wants(addr(G), source(gone)), "row {number}: {gone}");
        }
        assert!(!group || !matches!(members.filter(addr(G)), Some(Filter::Exclude(_))), "row {number}");
    }
}

#[test]
fn a_membership_that_is_not_renewed_ends() {
    let mut members = Membership::default();
    say(&mut members, TO_EX, &[], at(0));
    assert!(!members.expire(at(259)) && members.wants(addr(G), source(1)));
    say(&mut members, IS_EX, &[], at(200));
    assert!(!members.expire(at(459)));
    assert!(members.expire(at(460)) && members.groups().count() == 0);
    assert_eq!(members.due(), Some(at(125)), "the question that was to come");
    assert_eq!(questions(&mut members, at(460)), [Question::General]);
    assert_eq!(members.due(), None, "and no other");
}

/// Who leaves last is missed after two seconds; others have time to say that they stay.
#[test]
fn the_last_member_leaves() {
    for stays in [false, true] {
        let mut members = Membership::default();
        say(&mut members, TO_EX, &[], at(0));
        say(&mut members, TO_IN, &[], at(10));
        assert_eq!(questions(&mut members, at(10)), [Question::Group(addr(G), Sources::new())]);
        assert_eq!(members.due(), Some(at(11)));
        if stays {
            say(&mut members, IS_EX, &[], at(11));
        }
        assert_eq!(questions(&mut members, at(11)).len(), 1);
        members.expire(at(12));
        assert_eq!(members.wants(addr(G), source(1)), stays);
    }
}

/// Another guest isn't in the groups of the one before, nor speaks its version.
#[test]
fn a_new_guest_is_asked() {
    for is_there in [false, true] {
        let mut members = Membership::default();
        elder(&mut members, 0x12, at(0));
        say(&mut members, IS_EX, &[], at(0));
        let other = igmp_v3(&[(IS_IN, addr("239.4.5.6"), &[source(1)])]);
        members.report(report(&other).expect("a report"), at(0));
        members.greet(at(10));
        assert_eq!(questions(&mut members, at(10)), [Question::General]);
        if is_there {
            say(&mut members, IS_EX, &[], at(20));
            members.report(report(&other).expect("a report"), at(20));
        }
        assert_eq!(questions(&mut members, at(41)), [Question::General]);
        assert!(!members.expire(at(50)) && members.groups().count() == 2, "it may answer still");
        assert_eq!(members.expire(at(51)), !is_there);
        assert_eq!(members.groups().count(), if is_there { 2 } else { 0 });
        // Elder versions don't leave.
        say(&mut members, TO_IN, &[], at(51));
        assert_eq!(questions(&mut members, at(51)).len(), usize::from(is_there));
    }
}

/// Reports that call for a question, as many as a station can send.
#[test]
fn reports_make_no_storm_of_questions() {
    let mut members = Membership::default();
    let mut asked = Vec::new();
    for step in 0..3000 {
        let now = Instant::from_millis(step);
        say(&mut members, TO_EX, &[], now);
        say(&mut members, ALLOW, &[1, 2], now);
        say(&mut members, if step % 2 == 0 { TO_IN } else { BLOCK }, &[1], now);
        asked.extend(questions(&mut members, now).into_iter().map(|question| (step, question)));
    }
    assert_eq!(asked.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [0, 1000, 2000]);
    // What came in between, of sources and the group, is asked in time to be answered.
    say(&mut members, TO_IN, &[], at(3));
    assert_eq!(questions(&mut members, at(3)), [Question::Group(addr(G), Sources::new())]);
    say(&mut members, TO_EX, &[], Instant::from_millis(3500));
    say(&mut members, TO_IN, &[], Instant::from_millis(3500));
    assert_eq!(questions(&mut members, at(4)).len(), 1);
    assert_eq!(questions(&mut members, at(5)).len(), 1);
    assert!(!members.expire(Instant::from_millis(5999)) && members.groups().count() == 1);
    assert!(members.expire(at(6)) && members.groups().count() == 0);
}

/// RFC 3376, section 7.3.2.
#[test]
fn older_versions() {
    const V1: u8 = 0x12;
    const V2: u8 = 0x16;
    const LEAVE: u8 = 0x17;
    let mut members = Membership::default();
    elder(&mut members, V2, at(0));
    say(&mut members, BLOCK, &[1], at(1));
    say(&mut members, TO_EX, &[1], at(1));
    assert_eq!(questions(&mut members, at(1)), []);
    assert!(members.wants(addr(G), source(1)));
    elder(&mut members, LEAVE, at(2));
    assert_eq!(questions(&mut members, at(2)).len(), 1);
    members.expire(at(4));
    assert_eq!(members.groups().count(), 0);
    elder(&mut members, V1, at(10));
    elder(&mut members, LEAVE, at(11));
    say(&mut members, TO_IN, &[], at(11));
    assert_eq!(questions(&mut members, at(11)), []);
    members.expire(at(269));
    assert_eq!(members.groups().count(), 1);
    members.expire(at(270));
    assert_eq!(members.groups().count(), 0);
}

#[test]
fn questions_about_all_groups() {
    let mut members = Membership::default();
    assert_eq!(members.due(), None);
    members.greet(at(0));
    assert_eq!(questions(&mut members, at(0)), [Question::General]);
    assert_eq!(members.due(), Some(at(31)));
    assert_eq!(questions(&mut members, at(31)), [Question::General]);
    assert_eq!(members.due(), None, "nobody is in a group");
    say(&mut members, IS_EX, &[], at(100));
    for round in 1..9 {
        let now = at(100 + 125 * round);
        assert_eq!(members.due(), Some(now));
        assert_eq!(questions(&mut members, now), [Question::General]);
        say(&mut members, IS_EX, &[], now);
    }
}

#[test]
fn there_are_bounds() {
    let mut members = Membership::default();
    let groups: Vec<Addr> = (0..200).map(|last| core::net::Ipv4Addr::new(239, 0, 0, last).into()).collect();
    let named: Vec<Addr> = (0..40).map(source).collect();
    let records: Vec<(u8, Addr, &[Addr])> = groups.iter().map(|&g| (IS_IN, g, &named[..])).collect();
    let over: usize = records
        .chunks(5)
        .map(|records| members.report(report(&igmp_v3(records)).expect("a report"), at(0)))
        .sum();
    let room = MAX_GROUPS - RESERVED;
    assert_eq!(members.groups().count(), room);
    assert_eq!(over, 200 * (40 - MAX_SOURCES) + 200 - room);
    assert!(
        members.filter(groups[0]) == Some(Filter::Include(named[..MAX_SOURCES].iter().copied().collect()))
    );
    // Groups that everybody is in are not kept.
    for group in ["224.0.0.1", "192.0.2.1", "255.255.255.255"] {
        let mut members = Membership::default();
        let over = members.report(report(&igmp_v3(&[(IS_EX, addr(group), &[])])).expect("a report"), at(0));
        assert_eq!((over, members.groups().count()), (0, 0), "{group}");
    }
}

/// All groups of a family that have a place of their own.
fn with_own_place(v4: bool) -> Vec<Addr> {
    let v4_groups =
        (0..=0xff_ffff_u32).filter(|low| [0, 1, 0xff].contains(&(low >> 8 & 0xff))).flat_map(|low| {
            [224, 239].map(|first| Addr::from(core::net::Ipv4Addr::from_bits(first << 24 | low)))
        });
    let v6_groups = (0xff00..=0xffff).flat_map(|first| {
        let low = (0..0x400).map(|id| (0, id)).chain((0..0x10).map(|id| (1, id)));
        low.map(move |(high, id)| core::net::Ipv6Addr::new(first, 0, 0, 0, 0, 0, high, id).into())
    });
    let all: Vec<Addr> = if v4 { v4_groups.collect() } else { v6_groups.collect() };
    all.into_iter().filter(|&group| is_kept(group) && has_own_place(group)).collect()
}

fn join(members: &mut Membership, groups: &[Addr]) -> usize {
    let records: Vec<(u8, Addr, &[Addr])> = groups.iter().map(|&group| (IS_EX, group, &[][..])).collect();
    let is_v4 = groups.first().is_none_or(|group| group.is_v4());
    let message = if is_v4 { igmp_v3(&records) } else { mld_v2(&records) };
    members.report(report(&message).expect("a report"), at(0))
}

/// Whatever one station joins, and be it all variants of a well-known group.
#[test]
fn well_known_groups_have_places() {
    let mut flood: Vec<Addr> = (0..64).map(|last| core::net::Ipv4Addr::new(239, 0, 0, last).into()).collect();
    let v6 = |first, last| Addr::from(core::net::Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last));
    flood.extend((0..64).map(|last| v6(0xff02, 0x1000 + last)));
    flood.extend((0xff02..=0xfffe).map(|first| v6(first, 0xfb)));
    for is_v4 in [true, false] {
        let own = with_own_place(is_v4);
        assert!(own.len() <= RESERVED && own.len() > 10, "{own:?}");
        let mut members = Membership::default();
        let flood: Vec<Addr> = flood.iter().copied().filter(|group| group.is_v4() == is_v4).collect();
        assert!(join(&mut members, &flood) > 0);
        assert_eq!(join(&mut members, &own), 0);
        assert!(own.iter().all(|&group| members.wants(group, source(1))));
    }
}

/// Records about groups that nobody is in take no place from those behind them.
#[test]
fn groups_that_are_left_take_no_place() {
    let groups: Vec<Addr> = (0..65).map(|last| core::net::Ipv4Addr::new(239, 0, 0, last).into()).collect();
    let kind = |n| if n < 64 { TO_IN } else { TO_EX };
    let records: Vec<(u8, Addr, &[Addr])> =
        groups.iter().enumerate().map(|(n, &group)| (kind(n), group, &[][..])).collect();
    let mut members = Membership::default();
    assert_eq!(members.report(report(&igmp_v3(&records)).expect("a report"), at(0)), 0);
    assert!(members.groups().eq([groups[64]]));
}

#[test]
fn kinds_of_groups() {
    for (group, kept, ports) in [
        ("224.0.0.251", true, &[5353][..]),
        ("239.255.255.250", true, &[1900, 3702]),
        ("224.0.0.252", true, &[5355]),
        ("239.1.1.1", true, &[]),
        ("224.0.0.1", false, &[]),
        ("255.255.255.255", false, &[]),
        ("ff02::fb", true, &[5353]),
        ("ff05::c", true, &[1900, 3702]),
        ("ff02::1:3", true, &[5355]),
        ("ff0e::1234", true, &[]),
        ("ff02::1", false, &[]),
        ("ff02::1:ff00:1", false, &[]),
        ("ff01::fb", false, &[5353]),
        ("2001:db8::1", false, &[]),
    ] {
        assert_eq!((is_kept(addr(group)), well_known(addr(group))), (kept, ports), "{group}");
    }
}

proptest! {
    /// Whatever was joined before, in whatever order.
    #[test]
    fn well_known_groups_find_places(groups in prop::collection::vec((0xff02u16..=0xfffe, prop::sample::select(&[0xfb, 0xc, 0x101, 0x1234][..]), any::<u8>()), 0..200)) {
        let groups = groups.into_iter();
        let groups: Vec<Addr> = groups.map(|(first, last, n)| core::net::Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last + u16::from(n & 0xf)).into()).collect();
        let mut members = Membership::default();
        for groups in groups.chunks(7) {
            join(&mut members, groups);
        }
        prop_assert!(members.groups().count() <= MAX_GROUPS);
        for group in ["ff02::fb", "ff02::1:3", "ff02::c", "ff05::c"] {
            prop_assert_eq!(join(&mut members, &[addr(group)]), 0);
            prop_assert!(members.wants(addr(group), source(1)));
        }
    }

    /// Whatever is reported, members of a group are asked at most once in a second.
    #[test]
    fn questions_are_few(steps in prop::collection::vec((1u8..7, 0u8..3, prop::collection::vec(0u8..4, 0..3), 0u64..300), 0..200)) {
        let mut members = Membership::default();
        let mut last: [Option<Instant>; 3] = [None; 3];
        let mut now = Instant::ZERO;
        for (kind, group, named, wait) in steps {
            let end = now + Duration::from_millis(wait);
            while now <= end {
                members.expire(now);
                for question in questions(&mut members, now) {
                    let Question::Group(group, _) = question else { continue };
                    let [.., number] = group.octets();
                    let before = last[usize::from(number)].replace(now);
                    prop_assert!(before.is_none_or(|before| now.since(before) >= LAST_MEMBER), "{group} at {now:?}");
                }
                now = members.due().unwrap_or(end).min(end).max(now + Duration::from_millis(1));
            }
            let named: Vec<Addr> = named.into_iter().map(source).collect();
            let message = igmp_v3(&[(kind, core::net::Ipv4Addr::new(239, 0, 0, group).into(), &named)]);
            members.report(report(&message).expect("a report"), now);
        }
    }

    /// Whatever is said and asked: bounds hold, time passes, and all ends where nobody says
    /// anything.
    #[test]
    fn any_reports(steps in prop::collection::vec((1u8..8, 0u8..9, prop::collection::vec(0u8..30, 0..20), 0u64..200), 0..60)) {
        let mut members = Membership::default();
        let mut now = 0;
        members.greet(at(0));
        for (kind, group, named, wait) in steps {
            now += wait;
            let named: Vec<Addr> = named.into_iter().map(source).collect();
            let group = core::net::Ipv4Addr::new(239, 0, 0, group).into();
            let message = igmp_v3(&[(kind, group, &named)]);
            members.report(report(&message).expect("a report"), at(now));
            members.expire(at(now));
            let asked = questions(&mut members, at(now));
            prop_assert!(asked.len() <= 1 + MAX_GROUPS);
            prop_assert!(members.due().is_none_or(|due| due > at(now)), "nothing is left for now");
            for question in asked {
                let mut out = [0; 1514];
                let from = addr("192.0.2.1");
                prop_assert!(question.query().emit(crate::addr::Mac([2; 6]), from, &mut out).is_ok());
            }
        }
        for _ in 0..200 {
            let Some(due) = members.due() else { break };
            members.expire(due);
            questions(&mut members, due);
        }
        prop_assert_eq!((members.groups().count(), members.due()), (0, None));
    }
}
