use core::net::{Ipv4Addr, Ipv6Addr};
use std::format;
use std::string::ToString;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::wire::build::{MAX_HEADERS, Path};

const GUEST: Mac = Mac([2, 0, 0, 0, 0, 2]);
const V4: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(192, 0, 2, 1));
const V6: (Ipv6Addr, Ipv6Addr) =
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

fn path(src: impl Into<Addr>, dst: impl Into<Addr>) -> Path {
    Path { src_mac: GUEST, dst_mac: Mac([2, 0, 0, 0, 0, 1]), src: src.into(), dst: dst.into(), ttl: 63 }
}

fn udp_frame(path: &Path, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut header = [0; MAX_HEADERS];
    let (len, _) = path.emit_udp(&mut header, ports, payload.len(), 0).unwrap();
    [&header[..len], payload].concat()
}

fn tcp_frame(path: &Path, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; MAX_HEADERS];
    let segment =
        tcp::Segment { src_port: 40000, dst_port: 80, flags: tcp::Flags::ACK, ..Default::default() };
    let (len, _) = path.emit_tcp(&mut header, &segment, payload.len(), 0).unwrap();
    [&header[..len], payload].concat()
}

/// A packet of `protocol` with `body` behind its network header.
fn raw_frame(path: &Path, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut header = [0; MAX_HEADERS];
    let len = path.emit(&mut header, protocol, body.len()).unwrap();
    [&header[..len], body].concat()
}

fn classify_all(frame: &[u8]) -> Result<Class, DropReason> {
    from_station(frame).map(|(source, class)| {
        assert_eq!(source, GUEST);
        class
    })
}

#[test]
fn udp_of_both_families() {
    for path in [path(V4.0, V4.1), path(V6.0, V6.1)] {
        let mut frame = udp_frame(&path, (1000, 53), b"query");
        let end = frame.len();
        // Padding is no payload.
        frame.extend([0; 20]);
        let expected = Datagram {
            src: Endpoint { addr: path.src, port: 1000 },
            dst: Endpoint { addr: path.dst, port: 53 },
            ttl: 63,
            payload: end - 5..end,
        };
        assert_eq!(classify_all(&frame), Ok(Class::Udp(expected)));
    }
}

#[test]
fn tcp_payload_behind_the_head() {
    let frame = tcp_frame(&path(V6.0, V6.1), &[7; 3000]);
    let class = classify(&frame[..128], frame.len()).unwrap();
    let Class::Tcp { segment, payload, .. } = class else {
        panic!("{class:?}");
    };
    assert_eq!((segment.src_port, segment.dst_port), (40000, 80));
    assert_eq!(payload, 74..3074);
}

#[test]
fn echo_requests() {
    let message = [8, 0, 0, 0, 0x12, 0x34, 0, 9, 0xaa];
    let frame = raw_frame(&path(V4.0, V4.1), protocol::ICMP, &message);
    let expected =
        Class::Echo { src: V4.0.into(), dst: V4.1.into(), id: 0x1234, seq: 9, ttl: 63, payload: 34..43 };
    assert_eq!(classify_all(&frame), Ok(expected));
    let reply = raw_frame(&path(V4.0, V4.1), protocol::ICMP, &[0; 9]);
    assert_eq!(classify_all(&reply), Err(DropReason::IcmpType));
    // That of a listener has options for routers in front of it.
    let listener_report = raw_frame(&path(V6.0, V6.1), protocol::ICMPV6, &[143; 8]);
    assert_eq!(classify_all(&listener_report), Err(DropReason::GroupInvalid));
}

#[test]
fn services() {
    let anyone = Ipv4Addr::UNSPECIFIED;
    let discover = udp_frame(&path(anyone, Ipv4Addr::BROADCAST), (68, 67), b"d");
    assert!(matches!(classify_all(&discover), Ok(Class::Dhcp(_))));
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
    let servers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
    let solicit = udp_frame(&path(link_local, servers), (546, 547), b"s");
    assert!(matches!(classify_all(&solicit), Ok(Class::Dhcpv6(_))));
    let elsewhere = udp_frame(&path(V6.0, V6.1), (546, 547), b"s");
    assert!(matches!(classify_all(&elsewhere), Ok(Class::Udp(_))));
    let detection = raw_frame(&path(Ipv6Addr::UNSPECIFIED, servers), protocol::ICMPV6, &[135; 24]);
    assert!(matches!(classify_all(&detection), Ok(Class::Ndp { .. })));
}

#[test]
fn bad_addresses() {
    let (any4, any6) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
    let group = Ipv4Addr::new(224, 0, 0, 1);
    let cases = [
        (path(any4, V4.1), DropReason::IpSource),
        (path(any6, V6.1), DropReason::IpSource),
        (path(group, V4.1), DropReason::IpSource),
        (path(Ipv4Addr::BROADCAST, V4.1), DropReason::IpSource),
        (path(V4.0, any4), DropReason::IpDestination),
        (path(V4.0, group), DropReason::IpDestination),
        (path(Ipv4Addr::LOCALHOST, V4.1), DropReason::Loopback),
        (path(V6.0, Ipv6Addr::LOCALHOST), DropReason::Loopback),
    ];
    for (path, reason) in cases {
        assert_eq!(classify_all(&tcp_frame(&path, b"")), Err(reason), "{path:?}");
    }
    // An IPv4-mapped address in an IPv6 packet would be taken for IPv4.
    let mapped = V4.0.to_ipv6_mapped().octets();
    for (at, reason) in [(22, DropReason::IpSource), (38, DropReason::IpDestination)] {
        let mut frame = tcp_frame(&path(V6.0, V6.1), b"");
        frame[at..at + 16].copy_from_slice(&mapped);
        assert_eq!(classify_all(&frame), Err(reason));
    }
}

#[test]
fn bad_headers() {
    let v4 = udp_frame(&path(V4.0, V4.1), (1, 2), b"four");
    let v6 = udp_frame(&path(V6.0, V6.1), (1, 2), b"four");
    // Frame, offset of a byte, its new value, what becomes of it.
    let cases = [
        (&v4, 6, 3, DropReason::MacSource),
        (&v4, 13, 1, DropReason::EtherType),
        (&v4, 14, 0x65, DropReason::IpHeader),
        (&v4, 14, 0x44, DropReason::IpHeader),
        (&v4, 14, 0x4f, DropReason::Truncated),
        (&v4, 16, 1, DropReason::IpLength),
        (&v4, 17, 19, DropReason::IpLength),
        (&v4, 20, 0x20, DropReason::Fragment),
        (&v4, 21, 1, DropReason::Fragment),
        (&v4, 23, 132, DropReason::IpProtocol),
        (&v4, 23, 58, DropReason::IpProtocol),
        (&v4, 39, 13, DropReason::UdpLength),
        (&v4, 39, 7, DropReason::UdpLength),
        (&v4, 37, 0, DropReason::PortZero),
        (&v6, 14, 0x40, DropReason::IpHeader),
        (&v6, 19, 13, DropReason::IpLength),
        (&v6, 20, 59, DropReason::IpProtocol),
        (&v6, 20, 1, DropReason::IpProtocol),
    ];
    for (frame, at, byte, reason) in cases {
        let mut frame = frame.clone();
        set_byte(&mut frame, at, byte);
        assert_eq!(classify_all(&frame), Err(reason), "byte {at} = {byte:#x}");
    }
    let mut frame = v4;
    frame[24] ^= 1;
    assert_eq!(classify_all(&frame), Err(DropReason::IpChecksum));
}

/// A packet that is its only fragment is none (RFC 6946), but for neighbour discovery (RFC 6980).
#[test]
fn atomic_fragments() {
    let udp = [0, 9, 0, 53, 0, 9, 0, 0, b'x'];
    let fragment = |next, offset_more: u16| {
        let [a, b] = offset_more.to_be_bytes();
        [next, 9, a, b, 1, 2, 3, 4]
    };
    let v6 = path(V6.0, V6.1);
    for (offset_more, is_whole) in [(0, true), (6, true), (1, false), (8, false), (0x8000, false)] {
        let body = [&fragment(17, offset_more)[..], &udp].concat();
        let frame = raw_frame(&v6, 44, &body);
        match classify_all(&frame) {
            Ok(Class::Udp(datagram)) => assert!(is_whole && frame[datagram.payload] == *b"x"),
            other => assert!(!is_whole && other == Err(DropReason::Fragment), "{offset_more}: {other:?}"),
        }
    }
    let behind = [&[44, 0, 1, 4, 0, 0, 0, 0][..], &fragment(17, 0), &udp].concat();
    assert!(matches!(classify_all(&raw_frame(&v6, 60, &behind)), Ok(Class::Udp(_))));
    let discovery = [&fragment(58, 0)[..], &[135; 24]].concat();
    assert_eq!(classify_all(&raw_frame(&v6, 44, &discovery)), Err(DropReason::Fragment));
    let echo = [&fragment(58, 0)[..], &[128, 0, 0, 0, 0, 1, 0, 1]].concat();
    assert!(matches!(classify_all(&raw_frame(&v6, 44, &echo)), Ok(Class::Echo { .. })));
    assert_eq!(classify_all(&raw_frame(&v6, 44, &[17, 0])), Err(DropReason::Truncated));
}

/// A tag in front of the type of a frame.
fn tag(frame: &[u8], tag: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &tag.to_be_bytes(), &frame[12..]].concat()
}

/// Frames that have a priority, and are of no VLAN, are what they are without.
#[test]
fn priority_tags() {
    let arp = [&[2; 6][..], &GUEST.0, &[8, 6], &[0; 28]].concat();
    let frames = [
        udp_frame(&path(V4.0, V4.1), (1, 2), b"four"),
        udp_frame(&path(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST), (68, 67), b"d"),
        udp_frame(&path("fe80::2".parse::<Ipv6Addr>().unwrap(), V6.1), (546, 547), b"s"),
        tcp_frame(&path(V6.0, V6.1), b"six"),
        raw_frame(&path(V4.0, V4.1), protocol::ICMP, &[8, 0, 0, 0, 0, 1, 0, 1]),
        raw_frame(&path(V6.0, V6.1), protocol::ICMPV6, &[135; 24]),
        arp,
    ];
    let content = |frame: &[u8]| match classify_all(frame).unwrap() {
        Class::Arp { offset } => frame[offset..].to_vec(),
        Class::Ndp { message: range, .. }
        | Class::Tcp { payload: range, .. }
        | Class::Echo { payload: range, .. }
        | Class::Dhcp(Datagram { payload: range, .. })
        | Class::Dhcpv6(Datagram { payload: range, .. })
        | Class::Membership { message: range, .. }
        | Class::Udp(Datagram { payload: range, .. }) => frame[range].to_vec(),
    };
    for frame in &frames {
        for priority in [0, 0xe000, 0x1000] {
            assert_eq!(content(&tag(frame, priority)), content(frame), "{frame:?}");
        }
        assert_eq!(classify_all(&tag(frame, 0xe001)), Err(DropReason::Vlan));
        assert_eq!(classify_all(&tag(&tag(frame, 0), 0)), Err(DropReason::Vlan), "twice");
        assert_eq!(classify_all(&tag(frame, 0)[..17]), Err(DropReason::Truncated));
    }
    let short = tag(&udp_frame(&path(V4.0, V4.1), (1, 2), b"four"), 0);
    assert_eq!(classify_all(&short[..short.len() - 1]), Err(DropReason::IpLength));
}

/// Changes a byte and, if it is part of an IPv4 header, the checksum with it.
fn set_byte(frame: &mut [u8], at: usize, byte: u8) {
    let word = |frame: &[u8], at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let even = at & !1;
    let old = word(frame, even);
    frame[at] = byte;
    if frame[12..14] == [8, 0] && (14..34).contains(&at) {
        // RFC 1624, equation 3.
        let sum = u32::from(!word(frame, 24)) + u32::from(!old) + u32::from(word(frame, even));
        let sum = (sum & 0xffff) + (sum >> 16);
        let check = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    }
}

#[test]
fn extension_headers_are_skipped() {
    let udp = [0, 9, 0, 53, 0, 9, 0, 0, b'x'];
    let hop_by_hop = |next| [next, 0, 1, 4, 0, 0, 0, 0];
    let body = [&hop_by_hop(60)[..], &[17, 1, 1, 12], &[0; 12], &udp].concat();
    let frame = raw_frame(&path(V6.0, V6.1), 0, &body);
    let Ok(Class::Udp(datagram)) = classify_all(&frame) else {
        panic!("{:?}", classify_all(&frame));
    };
    assert_eq!(frame[datagram.payload], *b"x");

    let endless = [hop_by_hop(0); 20].concat();
    let frame = raw_frame(&path(V6.0, V6.1), 0, &endless);
    assert_eq!(classify_all(&frame), Err(DropReason::IpExtension));
    let source_route = [&[17, 0, 0, 1, 0, 0, 0, 0][..], &udp].concat();
    let frame = raw_frame(&path(V6.0, V6.1), 43, &source_route);
    assert_eq!(classify_all(&frame), Err(DropReason::IpExtension));
    let beyond = raw_frame(&path(V6.0, V6.1), 0, &[17, 9, 0, 0, 0, 0, 0, 0]);
    assert_eq!(classify_all(&beyond), Err(DropReason::IpLength));
}

proptest! {
    #[test]
    fn ranges_lie_in_the_frame(
        v4: bool,
        protocol in prop_oneof![Just(0u8), Just(1), Just(6), Just(17), Just(43), Just(58), Just(60)],
        body in prop::collection::vec(any::<u8>(), 0..80),
        cut in 0usize..140,
    ) {
        let path = if v4 { path(V4.0, V4.1) } else { path(V6.0, V6.1) };
        let frame = raw_frame(&path, protocol, &body);
        let head = &frame[..cut.min(frame.len())];
        let range = match classify(head, frame.len()) {
            Ok(Class::Tcp { payload, .. } | Class::Echo { payload, .. }) => payload,
            Ok(Class::Udp(d) | Class::Dhcp(d) | Class::Dhcpv6(d)) => d.payload,
            Ok(Class::Ndp { message, .. } | Class::Membership { message, .. }) => message,
            Ok(Class::Arp { offset }) => offset..offset,
            Err(_) => 0..0,
        };
        prop_assert!(frame.get(range).is_some());
    }
}

/// Addresses are shown as users write them.
#[test]
fn frames_in_a_trace() {
    let udp = classify_all(&udp_frame(&path(V4.0, V4.1), (1000, 53), b"query")).unwrap();
    assert_eq!(udp.to_string(), format!("UDP {}:1000 to {}:53, 5 bytes", V4.0, V4.1));
    let tcp = classify_all(&tcp_frame(&path(V6.0, V6.1), &[7; 30])).unwrap().to_string();
    assert!(tcp.starts_with(&format!("TCP [{}]:40000 to [{}]:80, ", V6.0, V6.1)), "{tcp}");
    assert!(tcp.contains("ACK") && tcp.ends_with(", 30 bytes"), "{tcp}");
}
