use std::string::ToString as _;
use std::vec::Vec;

use proptest::prelude::*;
use zerocopy::IntoBytes as _;

use super::*;
use crate::addr::Mac;
use crate::wire::build::{MAX_HEADERS, Path};
use crate::wire::fragment::Fragment;
use crate::wire::{ethernet, tcp};

fn addrs(v4: bool) -> (Addr, Addr) {
    if v4 {
        (Ipv4Addr::new(198, 51, 100, 7).into(), Ipv4Addr::new(192, 0, 2, 2).into())
    } else {
        (
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2).into(),
        )
    }
}

/// The path of what we send.
fn path(v4: bool) -> Path {
    let (src, dst) = addrs(v4);
    Path { src_mac: Mac([2; 6]), dst_mac: Mac([4; 6]), src, dst, ttl: 64, traffic_class: 0 }
}

/// A segment or a datagram as it is on the link, from the network header on.
fn packet(v4: bool, protocol: u8) -> Vec<u8> {
    let mut out = [0; MAX_HEADERS];
    let len = if protocol == protocol::TCP {
        let segment =
            tcp::Segment { src_port: 443, dst_port: 40_000, seq: Seq(0x0102_0304), ..Default::default() };
        path(v4).emit_tcp(&mut out, &segment, 0, 0).unwrap().0
    } else {
        path(v4).emit_udp(&mut out, (443, 40_000), 0, 0).unwrap().0
    };
    out[ethernet::LEN..len].to_vec()
}

/// A message about a packet.
fn message(v4: bool, kind: u8, code: u8, rest: u32, packet: &[u8]) -> Vec<u8> {
    let mut header = icmp::Error::TooBig { mtu: rest }.header(v4);
    (header.kind, header.code) = (kind, code);
    summed(v4, &[header.as_bytes(), packet].concat())
}

/// A message with its checksum.
fn summed(v4: bool, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let (src, dst) = addrs(v4);
    let start = if v4 { Sum::new() } else { Sum::pseudo(dst, src, protocol::ICMPV6, message.len()) };
    let sum = start.bytes(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// What the guest sends, to where the packet came from.
fn parse(v4: bool, message: &[u8]) -> Result<Complaint, DropReason> {
    let (from, to) = addrs(v4);
    Complaint::parse(to, from, message)
}

#[test]
fn what_is_quoted() {
    for v4 in [true, false] {
        let (from, to) = addrs(v4);
        for (protocol, quoted) in
            [(protocol::TCP, Quoted::Tcp { seq: Seq(0x0102_0304) }), (protocol::UDP, Quoted::Udp)]
        {
            let kind = if v4 { 3 } else { 1 };
            let whole = packet(v4, protocol);
            let header = if v4 { 20 } else { 40 };
            // Eight bytes of it are enough.
            for len in [header + 8, whole.len()] {
                let complaint = parse(v4, &message(v4, kind, 1, 0, &whole[..len])).unwrap();
                let expected = (Endpoint::new(from, 443), Endpoint::new(to, 40_000), quoted);
                assert_eq!((complaint.from, complaint.to, complaint.packet), expected);
            }
            for len in 0..header + 8 {
                let cut = message(v4, kind, 1, 0, &whole[..len]);
                assert_eq!(parse(v4, &cut), Err(DropReason::IcmpInvalid), "{len}");
            }
        }
    }
}

/// All types and codes: what Linux makes of them for a socket.
#[test]
fn what_each_code_means() {
    use Trouble::{Lost, Refused};
    let table_v4: [(u8, &[u8], &[u8]); 3] = [
        (3, &[2, 3, 6, 7, 8, 9, 10, 13, 14, 15], &[0, 1, 5, 11, 12]),
        (11, &[], &[0, 1, 2, 255]),
        (12, &[0, 1, 2, 255], &[]),
    ];
    let table_v6: [(u8, &[u8], &[u8]); 3] =
        [(1, &[1, 4, 5, 6], &[0, 2, 3, 7, 8, 255]), (3, &[], &[0, 1, 255]), (4, &[0, 1, 2, 255], &[])];
    for (v4, table) in [(true, table_v4), (false, table_v6)] {
        for (kind, refused, lost) in table {
            for (codes, trouble) in [(refused, Refused), (lost, Lost)] {
                for &code in codes {
                    let complaint = parse(v4, &message(v4, kind, code, 1300, &packet(v4, protocol::UDP)));
                    assert_eq!(complaint.map(|c| c.trouble), Ok(trouble), "{v4} {kind} {code}");
                }
            }
        }
    }
    for code in 16..=u8::MAX {
        let unknown = message(true, 3, code, 0, &packet(true, protocol::UDP));
        assert_eq!(parse(true, &unknown), Err(DropReason::IcmpInvalid));
    }
    for kind in 0..=u8::MAX {
        assert_eq!(Complaint::has_type(true, kind), [3, 11, 12].contains(&kind));
        assert_eq!(Complaint::has_type(false, kind), (1..=4).contains(&kind));
    }
}

#[test]
fn path_mtu() {
    for (v4, told, mtu) in [
        (true, 1400, Some(1400)),
        (true, 552, Some(552)),
        (true, 551, Some(552)),
        (true, 68, Some(552)),
        (true, 0, Some(552)),
        // The upper half is for something else (RFC 4884).
        (true, 0x1234_0578, Some(1400)),
        (false, 1400, Some(1400)),
        (false, 1280, Some(1280)),
        (false, 1279, None),
        (false, 0, None),
        (false, 0x1_0000, Some(u16::MAX)),
        (false, u32::MAX, Some(u16::MAX)),
    ] {
        let (kind, code) = if v4 { (3, 4) } else { (2, 0) };
        let parsed = parse(v4, &message(v4, kind, code, told, &packet(v4, protocol::TCP)));
        let expected = mtu.map(|mtu| Trouble::TooBig { mtu }).ok_or(DropReason::IcmpInvalid);
        assert_eq!(parsed.map(|c| c.trouble), expected, "{v4} {told}");
    }
}

/// A message about what we did not send, at any byte that tells.
#[test]
fn what_is_none_of_ours() {
    for v4 in [true, false] {
        let kind = if v4 { 3 } else { 1 };
        let sent = packet(v4, protocol::UDP);
        // Offset in the quotation, and the byte there.
        let wrong: &[(usize, u8)] = if v4 {
            &[(0, 0x65), (0, 0x44), (0, 0x4f), (7, 1), (6, 0x1f), (9, 1), (9, 132), (15, 1)]
        } else {
            &[(0, 0x40), (6, 0), (6, 43), (6, 44), (6, 58), (6, 60), (23, 1)]
        };
        for &(at, byte) in wrong {
            let mut other = sent.clone();
            other[at] = byte;
            let other = message(v4, kind, 1, 0, &other);
            assert_eq!(parse(v4, &other), Err(DropReason::IcmpInvalid), "byte {at} = {byte:#x}");
        }
        let good = message(v4, kind, 1, 0, &sent);
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert_eq!(parse(v4, &changed), Err(DropReason::IcmpChecksum), "byte {at}");
        }
        assert_eq!(parse(v4, &good[..7]), Err(DropReason::Truncated));
    }
}

/// The first fragment has the ports; the others say nothing.
#[test]
fn fragments() {
    for v4 in [true, false] {
        let kind = if v4 { 11 } else { 3 };
        for (offset, is_first) in [(0, true), (1480, false)] {
            let fragment = Fragment { offset, len: 1480, more: true };
            let mut out = [0; MAX_HEADERS];
            let len = path(v4).emit_fragment(&mut out, protocol::UDP, 7, &fragment).unwrap();
            let quoted = [&out[ethernet::LEN..len], &[1, 187, 156, 64, 5, 208, 0, 0]].concat();
            let parsed = parse(v4, &message(v4, kind, 1, 0, &quoted));
            assert_eq!(parsed.map(|c| (c.from.port, c.to.port)).ok(), is_first.then_some((443, 40_000)));
        }
        if !v4 {
            let mut out = [0; MAX_HEADERS];
            let fragment = Fragment { offset: 0, len: 8, more: true };
            let len = path(v4).emit_fragment(&mut out, protocol::UDP, 7, &fragment).unwrap();
            let cut = message(v4, kind, 1, 0, &out[ethernet::LEN..len - 1]);
            assert_eq!(parse(v4, &cut), Err(DropReason::IcmpInvalid));
        }
    }
}

#[test]
fn in_a_trace() {
    let complaint = parse(true, &message(true, 3, 4, 1400, &packet(true, protocol::TCP))).unwrap();
    assert_eq!(complaint.to_string(), "TCP 198.51.100.7:443 to 192.0.2.2:40000 has to fit 1400 bytes");
    let complaint = parse(false, &message(false, 1, 4, 0, &packet(false, protocol::UDP))).unwrap();
    assert!(complaint.to_string().starts_with("UDP [2001:db8::7]:443"), "{complaint}");
    assert!(complaint.to_string().ends_with(" is refused"), "{complaint}");
}

proptest! {
    /// Whatever is believed quotes the addresses, is summed, and bounds no flow below the least.
    #[test]
    fn arbitrary_messages(v4: bool, kind in 0u8..13, code: u8, rest: u32, body in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(Complaint { trouble, from, .. }) = parse(v4, &message(v4, kind, code, rest, &body)) {
            prop_assert_eq!(from.addr, addrs(v4).0);
            let least = if v4 { MIN_MTU_V4 } else { MIN_MTU_V6 };
            let is_bounded = matches!(trouble, Trouble::TooBig { mtu } if mtu < least);
            prop_assert!(!is_bounded);
        }
    }

    /// A quotation of ours that is changed anywhere is of the same flow, of another, or of none.
    #[test]
    fn changed_quotations(v4: bool, tcp: bool, at in 0usize..60, byte: u8) {
        let mut quoted = packet(v4, if tcp { protocol::TCP } else { protocol::UDP });
        let at = at % quoted.len();
        quoted[at] = byte;
        if let Ok(complaint) = parse(v4, &message(v4, if v4 { 3 } else { 1 }, 1, 0, &quoted)) {
            prop_assert_eq!(complaint.from.addr, addrs(v4).0);
        }
    }
}
