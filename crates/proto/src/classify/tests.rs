use core::net::{Ipv4Addr, Ipv6Addr};
use std::format;
use std::string::ToString;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::wire::build::{MAX_HEADERS, Path};
use crate::wire::checksum::Sum;

const GUEST: Mac = Mac([2, 0, 0, 0, 0, 2]);
const V4: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(192, 0, 2, 1));
const V6: (Ipv6Addr, Ipv6Addr) =
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

fn path(src: impl Into<Addr>, dst: impl Into<Addr>) -> Path {
    Path {
        src_mac: GUEST,
        dst_mac: Mac([2, 0, 0, 0, 0, 1]),
        src: src.into(),
        dst: dst.into(),
        ttl: 63,
        traffic_class: 0,
    }
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
            marks: Marks { ttl: 63, traffic_class: 0, dont_fragment: true },
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
    let expected = Class::Echo {
        src: V4.0.into(),
        dst: V4.1.into(),
        id: 0x1234,
        seq: 9,
        marks: Marks { ttl: 63, traffic_class: 0, dont_fragment: true },
        payload: 34..43,
    };
    assert_eq!(classify_all(&frame), Ok(expected));
    let reply = raw_frame(&path(V4.0, V4.1), protocol::ICMP, &[0; 9]);
    assert_eq!(classify_all(&reply), Err(DropReason::IcmpType));
    // That of a listener has options for routers in front of it.
    let listener_report = raw_frame(&path(V6.0, V6.1), protocol::ICMPV6, &[143; 8]);
    assert_eq!(classify_all(&listener_report), Err(DropReason::GroupInvalid));
}

/// An error of the guest's about a datagram that it got, and what follows it in the frame.
fn complaint(padding: &[u8]) -> Vec<u8> {
    let got = udp_frame(&path(V4.1, V4.0), (53, 1000), b"answer");
    let mut message = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &got[14..]].concat();
    let sum = Sum::new().bytes(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    [&raw_frame(&path(V4.0, V4.1), protocol::ICMP, &message)[..], padding].concat()
}

#[test]
fn errors_about_what_the_guest_got() {
    for padding in [&[][..], &[1; 9]] {
        let class = classify_all(&complaint(padding)).unwrap();
        let Class::Complaint { src, complaint } = &class else { panic!("{class:?}") };
        assert_eq!((*src, complaint.from, complaint.to.port), (V4.0.into(), Endpoint::new(V4.1, 53), 1000));
        assert_eq!(class.sender(), Some(&V4.0.into()));
        assert_eq!(
            class.to_string(),
            "ICMP error from 10.0.0.2: UDP 192.0.2.1:53 to 10.0.0.2:1000 is refused"
        );
    }
    let frame = complaint(&[]);
    // A message that is not all there has no checksum that could be verified.
    assert_eq!(classify(&frame[..frame.len() - 1], frame.len()), Err(DropReason::Truncated));
    // Groups send no errors, and none are about what is sent to groups.
    for path in [path(Ipv4Addr::UNSPECIFIED, V4.1), path(V4.0, Ipv4Addr::new(224, 0, 0, 1))] {
        assert!(classify_all(&raw_frame(&path, protocol::ICMP, &frame[34..])).is_err());
    }
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
        complaint(&[]),
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
        Class::Complaint { complaint, .. } => complaint.to_string().into_bytes(),
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
            Ok(Class::Complaint { .. }) |
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

/// The fragments of a packet with `body`, each in a frame.
fn fragments(path: &Path, protocol: u8, body: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for part in path.fragments(body.len(), mtu) {
        let mut header = [0; MAX_HEADERS];
        let len = path.emit_fragment(&mut header, protocol, 7, &part).unwrap();
        frames.push([&header[..len], &body[part.offset..part.offset + part.len]].concat());
    }
    frames
}

/// The payload of a UDP datagram or an echo request, its checksum complete.
fn complete(path: &Path, udp: bool, len: usize) -> (u8, Vec<u8>) {
    let kind = if udp { protocol::UDP } else { path.icmp() };
    let total = u16::try_from(len + 8).unwrap().to_be_bytes();
    let echo = if path.dst.is_v4() { icmp::ECHO_REQUEST_V4 } else { icmp::ECHO_REQUEST_V6 };
    let mut body = if udp {
        Vec::from([0, 9, 0, 53, total[0], total[1], 0, 0])
    } else {
        Vec::from([echo, 0, 0, 0, 0, 7, 0, 1])
    };
    body.resize(len + 8, 0xa5);
    let pseudo = crate::wire::checksum::Sum::pseudo(path.src, path.dst, kind, len + 8);
    let sum = if kind == protocol::ICMP { crate::wire::checksum::Sum::new() } else { pseudo };
    let sum = sum.bytes(&body).finish().to_be_bytes();
    let at = if udp { 6 } else { 2 };
    body[at..at + 2].copy_from_slice(&sum);
    (kind, body)
}

/// What comes in fragments is found in frames, behind a tag too, and is the same as if it had come
/// whole but that routers may cut it.
#[test]
fn fragments_and_what_is_made_of_them() {
    for (path, udp, tag) in [
        (path(V4.0, V4.1), true, false),
        (path(V4.0, V4.1), false, true),
        (path(V6.0, V6.1), true, true),
        (path(V6.0, V6.1), false, false),
    ] {
        let (kind, body) = complete(&path, udp, 3001);
        let (mut whole, mut first) = (std::vec![0; body.len()], None);
        for frame in fragments(&path, kind, &body, 1280) {
            let mut frame = frame;
            if tag {
                frame.splice(12..12, [0x81, 0, 0xe0, 0]);
            }
            frame.extend([0; 9]);
            assert_eq!(classify_all(&frame), Err(DropReason::Fragment));
            let found = fragment(&frame[..128], frame.len()).unwrap();
            assert_eq!((found.packet.protocol, found.part.id), (kind, 7));
            whole[found.part.range()].copy_from_slice(&frame[found.payload()]);
            first.get_or_insert(found.packet);
        }
        assert!(whole == body);
        let first = first.unwrap();
        let (src, dst) = (path.src, path.dst);
        let marks = Marks { ttl: 63, traffic_class: 0, dont_fragment: false };
        let expected = if udp {
            let (src, dst) = (Endpoint { addr: src, port: 9 }, Endpoint { addr: dst, port: 53 });
            Class::Udp(Datagram { src, dst, marks, payload: 8..3009 })
        } else {
            Class::Echo { src, dst, id: 7, seq: 1, marks, payload: 0..3009 }
        };
        assert_eq!(reassembled(&first, &whole), Ok(expected));
        // Of another packet with the same identification.
        whole[2000] ^= 1;
        assert_eq!(reassembled(&first, &whole), Err(DropReason::FragmentChecksum));
        if udp {
            // IPv4 can do without a checksum (RFC 768), IPv6 can't (RFC 8200, section 8.1).
            whole[6..8].fill(0);
            let outcome = reassembled(&first, &whole);
            assert_eq!(outcome.is_ok(), first.src.is_v4(), "{outcome:?}");
        }
    }
}

/// What is answered or kept inside is refused in fragments, however well it is made.
#[test]
fn what_has_to_come_in_one_piece() {
    let link: (Ipv6Addr, Ipv6Addr) = ("fe80::2".parse().unwrap(), "fe80::1".parse().unwrap());
    let (v4, v6) = (path(V4.0, V4.1), Path { ttl: 255, ..path(link.0, link.1) });
    let datagram =
        |port: u16| [&(port + 1).to_be_bytes(), &port.to_be_bytes(), &[1, 52][..], &[0; 302]].concat();
    let solicitation = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &link.1.octets(), &[0; 280]].concat();
    let report = [&[0x22, 0, 0, 0, 0, 0, 0, 35][..], &[4, 0, 0, 0, 239, 1, 2, 3].repeat(35)].concat();
    let listeners = [&[143, 0, 0, 0, 0, 0, 0, 14][..], &[4; 20].repeat(14)].concat();
    for (path, kind, at, mut body, expected) in [
        (&v4, protocol::UDP, 6, datagram(DHCP_SERVER), DropReason::Fragment),
        (&v6, protocol::UDP, 6, datagram(DHCPV6_SERVER), DropReason::Fragment),
        (&v4, protocol::IGMP, 2, report, DropReason::Fragment),
        (&v6, protocol::ICMPV6, 2, solicitation, DropReason::Fragment),
        (&v6, protocol::ICMPV6, 2, listeners, DropReason::GroupInvalid),
    ] {
        let pseudo = Sum::pseudo(path.src, path.dst, kind, body.len());
        let sum = if kind == protocol::IGMP { Sum::new() } else { pseudo };
        let sum = sum.bytes(&body).finish().to_be_bytes();
        body[at..at + 2].copy_from_slice(&sum);
        let first = fragments(path, kind, &body, 200).remove(0);
        let found = fragment(&first, first.len()).unwrap();
        assert_eq!(reassembled(&found.packet, &body), Err(expected), "{kind}");
    }
}

/// Fragments that are none, and first fragments without all headers (RFC 7112).
#[test]
fn bad_fragments() {
    let (v4, v6) = (path(V4.0, V4.1), path(V6.0, V6.1));
    let of_v6 = |next, offset_more: u16, rest: &[u8]| {
        let [a, b] = offset_more.to_be_bytes();
        let body = [&[next, 0, a, b, 0, 0, 0, 7], rest].concat();
        let frame = raw_frame(&v6, 44, &body);
        fragment(&frame, frame.len()).map(drop)
    };
    let of_v4 = |flags: u16, rest: &[u8]| {
        let mut frame = raw_frame(&v4, protocol::UDP, rest);
        frame[20..22].copy_from_slice(&flags.to_be_bytes());
        frame[24..26].fill(0);
        let sum = crate::wire::checksum::Sum::new().bytes(&frame[14..34]).finish();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        fragment(&frame, frame.len()).map(drop)
    };
    for (outcome, expected) in [
        (of_v4(0x2000, &[0; 8]), Ok(())),
        (of_v4(0x2000, &[0; 12]), Err(DropReason::Fragment)),
        (of_v4(0x6001, &[0; 16]), Ok(())),
        (of_v4(0x1fff, &[0; 7]), Ok(())),
        (of_v4(0x1fff, &[0; 8]), Err(DropReason::Fragment)),
        (of_v4(0x0001, &[]), Err(DropReason::Fragment)),
        (of_v6(17, 1, &[0; 8]), Ok(())),
        (of_v6(17, 8, &[0; 3]), Ok(())),
        (of_v6(6, 1, &[0; 16]), Err(DropReason::Fragment)),
        (of_v6(58, 1, &[128; 8]), Ok(())),
        (of_v6(60, 1, &[17, 0, 0, 0, 0, 0, 0, 0]), Err(DropReason::Fragment)),
        (of_v6(60, 1, &[17, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]), Ok(())),
        (of_v6(60, 9, &[17, 0, 0, 0, 0, 0, 0, 0]), Ok(())),
        (of_v6(44, 1, &[17, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]), Err(DropReason::Fragment)),
        (of_v6(132, 1, &[0; 16]), Err(DropReason::IpProtocol)),
    ] {
        assert_eq!(outcome, expected);
    }
    let loopback =
        raw_frame(&path(V6.0, Ipv6Addr::LOCALHOST), 44, &[17, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 8, 0, 0]);
    assert_eq!(fragment(&loopback, loopback.len()), Err(DropReason::Loopback));
    assert!(fragment(&[], 0).is_err());
    // Behind a hop-by-hop header, which each fragment has.
    let body = [&[44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 9, 0, 0, 0, 7][..], &[0; 8]].concat();
    let frame = raw_frame(&v6, 0, &body);
    let found = fragment(&frame, frame.len()).unwrap();
    assert_eq!((found.part.offset, found.part.len, found.payload()), (8, 8, 70..78));
}
