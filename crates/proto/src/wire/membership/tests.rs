use core::net::IpAddr;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::classify::{Class, classify};

fn address(text: &str) -> Addr {
    text.parse::<IpAddr>().expect("an address").into()
}

/// A report of `IGMPv3` with these records.
pub(crate) fn igmp_v3(records: &[(u8, Addr, &[Addr])]) -> Vec<u8> {
    let message = with_records(IGMP_V3_REPORT, records, |addr| addr.v4().expect("IPv4").octets());
    with_sum(&message, address("192.0.2.2"), address("224.0.0.22"))
}

/// One of `MLDv2`.
pub(crate) fn mld_v2(records: &[(u8, Addr, &[Addr])]) -> Vec<u8> {
    let message = with_records(MLD_V2_REPORT, records, Addr::octets);
    with_sum(&message, address("fe80::2"), address("ff02::16"))
}

fn with_records<const N: usize>(
    kind: u8,
    records: &[(u8, Addr, &[Addr])],
    octets: fn(Addr) -> [u8; N],
) -> Vec<u8> {
    let [high, low] = u16::try_from(records.len()).expect("few").to_be_bytes();
    let mut message = std::vec![kind, 0, 0, 0, 0, 0, high, low];
    for &(kind, group, sources) in records {
        let [high, low] = u16::try_from(sources.len()).expect("few").to_be_bytes();
        message.extend([kind, 0, high, low]);
        message.extend([group].iter().chain(sources).flat_map(|&addr| octets(addr)));
    }
    message
}

/// A message of IGMP or MLD as a station sends it.
pub(crate) fn report(message: &[u8]) -> Result<Report<'_>, DropReason> {
    let is_v6 = message.first().is_some_and(|&kind| kind >= MLD_V1_REPORT);
    let (src, dst) = if is_v6 { ("fe80::2", "ff02::16") } else { ("192.0.2.2", "224.0.0.22") };
    Report::parse(message, address(src), address(dst), 1)
}

fn with_sum(message: &[u8], src: Addr, dst: Addr) -> Vec<u8> {
    let mut message = message.to_vec();
    let start = if dst.is_v4() { Sum::new() } else { Sum::pseudo(src, dst, protocol::ICMPV6, message.len()) };
    let sum = start.bytes(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

const MDNS: [u8; 4] = [224, 0, 0, 251];

fn mdns_v6() -> [u8; 16] {
    address("ff02::fb").octets()
}

/// Each message, and what it says.
#[test]
fn messages_of_every_version() {
    use Change::{Allow, IsExclude, ToInclude};
    let (v4, v6) = (("192.0.2.2", "224.0.0.251"), ("fe80::2", "ff02::16"));
    let igmp = |kind: u8| [&[kind, 0, 0, 0][..], &MDNS].concat();
    let mld = |kind: u8| [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &mdns_v6()].concat();
    let v2 = [
        &[143, 0, 0, 0, 0, 0, 0, 2, 4, 1, 0, 0][..],
        &mdns_v6(),
        &[9; 4],
        &[5, 0, 0, 1],
        &mdns_v6(),
        &address("fe80::7").octets(),
    ]
    .concat();
    for ((src, dst), message, version, records) in [
        (v4, igmp(0x12), Version::One, &[(IsExclude, 0)][..]),
        (v4, igmp(0x16), Version::Two, &[(IsExclude, 0)]),
        (("0.0.0.0", "224.0.0.2"), igmp(0x17), Version::Two, &[(ToInclude, 0)]),
        (v6, mld(131), Version::Two, &[(IsExclude, 0)]),
        (v6, mld(132), Version::Two, &[(ToInclude, 0)]),
        (v6, v2, Version::Three, &[(Change::ToExclude, 0), (Allow, 1)]),
    ] {
        let (src, dst) = (address(src), address(dst));
        let message = with_sum(&message, src, dst);
        let report = Report::parse(&message, src, dst, 1).expect("a report");
        assert_eq!(report.version, version);
        let group = if dst.is_v4() { address("224.0.0.251") } else { address("ff02::fb") };
        let found: Vec<_> = report
            .map(|r| {
                assert_eq!(r.group, group);
                (r.change, r.sources().count())
            })
            .collect();
        assert_eq!(found, records);
        // Nothing of it is optional.
        for (ttl, from, to) in [(2, src, dst), (1, src, address("192.0.2.9")), (1, src, src)] {
            assert_eq!(Report::parse(&message, from, to, ttl).map(|_| ()), Err(DropReason::GroupInvalid));
        }
        let mut wrong = message.clone();
        *wrong.last_mut().expect("bytes") ^= 1;
        assert!(Report::parse(&wrong, src, dst, 1).is_err());
        assert!(Report::parse(&[], src, dst, 1).is_err());
    }
    let (src, dst) = (address("2001:db8::2"), address("ff02::16"));
    let message = with_sum(&mld(131), src, dst);
    assert_eq!(Report::parse(&message, src, dst, 1).map(|_| ()), Err(DropReason::GroupInvalid));
    for (kind, reason) in [(0x11, DropReason::GroupQuery), (0x13, DropReason::GroupInvalid)] {
        assert_eq!(report(&with_sum(&igmp(kind), address(v4.0), address(v4.1))).map(|_| ()), Err(reason));
    }
}

/// Records as far as they go: one that is cut, or has more than is there, ends them.
#[test]
fn records_that_end_early() {
    let (group, sources) = (address("239.1.1.1"), [address("192.0.2.7"), address("192.0.2.8")]);
    let whole = igmp_v3(&[(1, group, &sources), (9, group, &[]), (2, group, &sources)]);
    assert_eq!(
        report(&whole).expect("a report").map(|r| r.change).collect::<Vec<_>>(),
        [Change::IsInclude, Change::IsExclude],
        "and an unknown one"
    );
    for len in 8..whole.len() {
        let mut cut = whole[..len].to_vec();
        cut[2..4].fill(0);
        let cut = with_sum(&cut, group, group);
        let count = report(&cut).expect("a report").count();
        assert_eq!(count, usize::from(len >= 24), "{len}");
    }
}

/// Queries are what classification, and RFC 3376, section 4.1, take them for.
#[test]
fn queries() {
    let sources = [address("192.0.2.7"), address("192.0.2.8")];
    let sources_v6 = [address("fe80::7")];
    let group = |text: &str| Some(address(text));
    for (src, group, sources, mac, len) in [
        ("192.0.2.1", None, &[][..], [1, 0, 0x5e, 0, 0, 1], 12),
        ("192.0.2.1", group("239.255.255.250"), &sources, [1, 0, 0x5e, 0x7f, 0xff, 0xfa], 20),
        ("fe80::1", None, &[], [0x33, 0x33, 0, 0, 0, 1], 28),
        ("fe80::1", group("ff02::fb"), &sources_v6, [0x33, 0x33, 0, 0, 0, 0xfb], 44),
    ] {
        let src = address(src);
        let query = Query {
            group,
            sources,
            response: Duration::from_secs(10),
            interval: Duration::from_secs(125),
            robustness: 2,
        };
        let mut out = [0xee; 200];
        let end = query.emit(Mac([2; 6]), src, &mut out).expect("room");
        let frame = &out[..end];
        assert_eq!((&frame[..6], &frame[6..12]), (&mac[..], &[2; 6][..]));
        let class = classify(frame, frame.len()).expect("a message");
        let Class::Membership { src: from, dst, ttl, message } = class else { panic!("{class}") };
        assert_eq!((from, ttl, message.len()), (src, 1, len), "{group:?}");
        assert_eq!(dst.group_mac(), Some(Mac(mac)));
        let parsed = Report::parse(&frame[message.clone()], src, dst, ttl).map(|_| ());
        assert_eq!(parsed, Err(DropReason::GroupQuery), "with a right checksum");
        let message = &frame[message];
        let max =
            if src.is_v4() { u16::from(message[1]) } else { u16::from_be_bytes([message[4], message[5]]) };
        assert_eq!(max, if src.is_v4() { 100 } else { 10_000 });
        let rest = if src.is_v4() { &message[8..] } else { &message[24..] };
        assert_eq!(rest[..4], [2, 125, 0, u8::try_from(sources.len()).expect("few")]);
        for room in 0..len {
            assert_eq!(query.emit(Mac([2; 6]), src, &mut out[..room]), Err(DropReason::NoRoom));
        }
    }
}

/// RFC 2711 and RFC 8200, section 4.2.
#[test]
fn alerts() {
    let packet = |next: u8, options: &[u8]| [&[0x60, 0, 0, 0, 0, 0, next, 1][..], &[0; 32], options].concat();
    for (packet, expected) in [
        (packet(0, &[58, 0, 5, 2, 0, 0, 1, 0]), true),
        (packet(0, &[58, 0, 1, 0, 5, 2, 0, 0]), true),
        (packet(0, &[58, 0, 0, 0, 5, 2, 0, 0]), true),
        (packet(0, &[58, 0, 5, 2, 0, 1, 1, 0]), false),
        (packet(0, &[58, 0, 1, 4, 5, 2, 0, 0]), false),
        (packet(0, &[58, 1, 5, 2, 0, 0, 1, 0]), false),
        (packet(0, &[58, 0, 1]), false),
        (packet(60, &[58, 0, 5, 2, 0, 0, 1, 0]), false),
        (packet(0, &[]), false),
    ] {
        assert_eq!(has_alert(&packet), expected, "{:?}", &packet[40..]);
    }
}

#[test]
fn numbers_in_a_byte() {
    for (value, byte) in [
        (0, 0),
        (127, 127),
        (128, 0x80),
        (135, 0x80),
        (136, 0x81),
        (255, 0x8f),
        (256, 0x90),
        (31_744, 0xff),
        (u64::MAX, 0xff),
    ] {
        assert_eq!(floating(value), byte, "{value}");
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), v4: bool) {
        let (src, dst) = if v4 { ("192.0.2.2", "224.0.0.22") } else { ("fe80::2", "ff02::16") };
        let (src, dst) = (address(src), address(dst));
        if let Ok(report) = Report::parse(&bytes, src, dst, 1) {
            prop_assert!(report.map(|record| record.sources().count()).sum::<usize>() <= bytes.len());
        }
        has_alert(&bytes);
    }
}
