//! Segments of no connection, and connections that can't be had, through the whole engine.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod guest;

use std::io::Write as _;
use std::net::TcpListener;

use common::{addr, ip, own_addresses, own_network, pattern};
use guest::{Connected, Guest, PLAIN, names};
use passt_engine::core::Outbound;
use passt_engine::dispatch::Protocols;
use passt_proto::drop::DropReason;
use passt_proto::guest::Configured;
use passt_proto::seq::Seq;
use passt_proto::wire::build::MAX_HEADERS;
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::icmp;
use passt_proto::wire::ip::protocol;
use passt_proto::wire::tcp::{Flags, Segment};
use passt_testing::skip;

fn segment(flags: Flags, port: u16) -> Segment {
    Segment {
        src_port: 40_000,
        dst_port: port,
        seq: Seq(1000),
        ack: Seq(7000),
        flags,
        window: 1000,
        ..Segment::default()
    }
}

/// RFC 9293, section 3.10.7.1: what arrives where no connection is gets a reset that it accepts,
/// but for a reset.
#[test]
fn segments_of_no_connection() {
    const ACK: Flags = Flags::ACK;
    const RST: Flags = Flags::RST;
    // What is sent, with so many bytes; sequence number, acknowledgement and flags of the answer.
    let table = [
        (RST, 0, None),
        (RST | ACK, 0, None),
        (RST | Flags::SYN, 0, None),
        (ACK, 0, Some((7000, 0, RST))),
        (ACK | Flags::FIN, 100, Some((7000, 0, RST))),
        (ACK | Flags::SYN, 0, Some((7000, 0, RST))),
        (Flags::empty(), 0, Some((0, 1000, RST | ACK))),
        (Flags::empty(), 100, Some((0, 1100, RST | ACK))),
        (Flags::FIN, 0, Some((0, 1001, RST | ACK))),
        (Flags::FIN, 100, Some((0, 1101, RST | ACK))),
    ];
    for v4 in [true, false] {
        for (flags, len, answer) in table {
            let mut guest = Guest::new(PLAIN, 1500);
            guest.segment(names(v4).1, &segment(flags, 80), &pattern(len));
            let received = guest.receive();
            let found = received.first().map(|packet| {
                assert_eq!(
                    (packet.src, packet.dst, packet.ports()),
                    (names(v4).1, names(v4).0, (80, 40_000))
                );
                let (reset, _) = Segment::parse(&packet.bytes).unwrap();
                (reset.seq.0, reset.ack.0, reset.flags)
            });
            assert_eq!((found, received.len()), (answer, usize::from(answer.is_some())), "{flags:?} {len}");
            assert_eq!((guest.worker.drops(DropReason::NoFlow), guest.worker.flow_count()), (1, 0));
        }
    }
}

#[test]
fn a_closed_port_refuses() {
    for v4 in [true, false] {
        let mut guest = Guest::new(PLAIN, 1500);
        let host = if v4 { "127.0.0.1" } else { "::1" };
        let port = TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port();
        guest.segment(names(v4).1, &segment(Flags::SYN, port), &[]);
        guest.turn();
        let packet = guest.one();
        let (reset, _) = Segment::parse(&packet.bytes).unwrap();
        assert_eq!((reset.ack, reset.flags), (Seq(1001), Flags::RST | Flags::ACK));
        assert_eq!((packet.src, packet.ports(), guest.worker.flow_count()), (names(v4).1, (port, 40_000), 0));
    }
}

/// What the host says of a destination that can't be reached comes as an ICMP error that quotes the
/// guest's SYN.
#[test]
fn a_destination_without_a_route() {
    if let Err(error) = own_network() {
        return skip(&format!("no network of its own: {error}"));
    }
    for v4 in [true, false] {
        let remote = addr(if v4 { "198.51.100.1" } else { "2001:db8:ffff::1" });
        let mut guest = Guest::new(PLAIN, 1500);
        guest.segment(remote, &segment(Flags::SYN, 80), &[]);
        let error = guest.one();
        let (own, icmp, kind, skipped) = if v4 {
            (names(v4).0, protocol::ICMP, [3, 0], 12)
        } else {
            (names(v4).0, protocol::ICMPV6, [1, 0], 8)
        };
        assert_eq!((error.dst, error.protocol), (own, icmp));
        assert_eq!(error.bytes[..2], kind);
        let quoted = &error.bytes[8 + skipped..];
        let len = if v4 { 4 } else { 16 };
        assert_eq!(guest::ip_addr(&quoted[..len]), own);
        assert_eq!(guest::ip_addr(&quoted[len..2 * len]), remote);
        assert_eq!(quoted[2 * len..][..8], [156, 64, 0, 80, 0, 0, 3, 232]);
        assert_eq!(guest.worker.flow_count(), 0);
    }
}

/// Connections leave by the interface asked for, but for those to the host itself.
#[test]
fn an_interface_that_is_not_there() {
    for v4 in [true, false] {
        let mut guest = Guest::new(PLAIN, 1500);
        let missing = || Some(Outbound { interface: "missing0".to_owned(), strict: true });
        guest.worker.context().core.outbound = if v4 { [missing(), None] } else { [None, missing()] };
        let host = if v4 { "127.0.0.1" } else { "::1" };
        let listener = TcpListener::bind((host, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        guest.segment(names(v4).1, &segment(Flags::SYN, port), &[]);
        guest.turn();
        assert_eq!((guest.worker.flow_count(), guest.worker.drops(DropReason::Socket)), (1, 0));
        let remote = addr(if v4 { "198.51.100.1" } else { "2001:db8:ffff::1" });
        guest.segment(remote, &segment(Flags::SYN, 80), &[]);
        guest.turn();
        assert_eq!((guest.worker.flow_count(), guest.worker.drops(DropReason::Socket)), (1, 1));
    }
}

/// Where going without the interface is right, it is tried first, and then done without.
#[test]
fn an_interface_that_may_be_missing() {
    if let Err(error) = own_network() {
        return skip(&format!("no network of its own: {error}"));
    }
    for (strict, drops) in [(true, 1), (false, 0)] {
        let mut guest = Guest::new(PLAIN, 1500);
        let missing = || Some(Outbound { interface: "missing0".to_owned(), strict });
        guest.worker.context().core.outbound = [missing(), missing()];
        for remote in ["198.51.100.1", "2001:db8:ffff::1"].map(addr) {
            guest.segment(remote, &segment(Flags::SYN, 80), &[]);
            guest.turn();
        }
        assert_eq!(guest.worker.drops(DropReason::Socket), 2 * drops, "{strict}");
    }
}

/// What is switched off reaches nobody.
#[test]
fn protocols_that_are_off() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for (tcp, udp) in [(true, false), (false, true)] {
        let mut guest = Guest::new(PLAIN, 1500);
        guest.worker.engine().protocols = Protocols { tcp, udp, icmp: false };
        guest.segment(names(true).1, &segment(Flags::SYN, port), &[]);
        guest.turn();
        assert_eq!(
            (guest.worker.flow_count(), guest.worker.drops(DropReason::Disabled)),
            (usize::from(tcp), u64::from(!tcp))
        );
        guest.send(true, (9, port), b"?");
        assert_eq!((guest.worker.flow_count(), guest.worker.drops(DropReason::Disabled)), (1, 1));
        let header = icmp::Header {
            kind: icmp::ECHO_REQUEST_V4,
            code: 0,
            checksum: 0.into(),
            id: 1.into(),
            seq: 1.into(),
        };
        let mut out = [0; MAX_HEADERS];
        let end = Guest::path(true).emit_icmp(&mut out, header, Sum::new(), 0).unwrap();
        guest.worker.context().core.link.from_guest.push_back(out[..end].to_vec().into());
        guest.turn();
        assert_eq!((guest.worker.flow_count(), guest.worker.drops(DropReason::Disabled)), (1, 2));
    }
}

/// Data after a long silence is sent again as soon as any other, not when the guest would be asked
/// whether it is there.
#[test]
fn a_timer_that_comes_before_another() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(PLAIN, 1500);
    let Connected { mut peer, next, .. } = guest.connect(&listener, 40_000);
    guest.now = guest.now + std::time::Duration::from_secs(10);
    assert!(guest.receive().is_empty());
    peer.write_all(b"late").unwrap();
    let first = guest.one();
    assert_eq!((&first.bytes[20..], Segment::parse(&first.bytes).unwrap().0.seq), (&b"late"[..], next.ack));
    let due = guest.worker.next_timeout().unwrap();
    assert!(due <= guest.now + std::time::Duration::from_secs(1), "{due:?}");
    guest.now = due;
    assert_eq!(guest.one().bytes[20..], *b"late");
    let mut again = Vec::new();
    while again.is_empty() {
        guest.now = guest.worker.next_timeout().unwrap();
        again = guest.receive();
    }
    assert_eq!(again[0].bytes[20..], *b"late");
    assert_eq!(guest.worker.context().core.counters.retransmitted, 2);
}

/// A peer that resets has not finished: the guest sees what was sent before, and a reset.
#[test]
fn a_reset_is_no_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for text in [&b""[..], b"last words"] {
        let mut guest = Guest::new(PLAIN, 1500);
        let Connected { mut peer, .. } = guest.connect(&listener, 40_000);
        // One that paces would not have sent it yet.
        rustix::net::sockopt::set_tcp_congestion(&peer, "reno").unwrap();
        peer.write_all(text).unwrap();
        rustix::net::sockopt::set_socket_linger(&peer, Some(std::time::Duration::ZERO)).unwrap();
        drop(peer);
        let mut flags = Flags::empty();
        let mut payload = Vec::new();
        for packet in guest.receive().into_iter().chain(guest.receive()) {
            let (segment, _) = Segment::parse(&packet.bytes).unwrap();
            flags |= segment.flags;
            payload.extend_from_slice(&packet.bytes[20..]);
        }
        assert!(flags.contains(Flags::RST) && !flags.contains(Flags::FIN), "{flags:?}");
        assert!(payload == text && guest.worker.flow_count() == 0);
    }
}

/// The kernel tells of a reset once. Whoever is told first, the guest sees no end in order: a read that
/// comes before the event, as the link has room again, or as the guest's window was opened.
#[test]
fn a_reset_that_a_read_finds() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for (text, by_window) in [(&b""[..], false), (b"all", false), (b"last words", true)] {
        let mut guest = Guest::new(PLAIN, 1500);
        let window = if by_window { u16::try_from(text.len()).unwrap() } else { 65_535 };
        let Connected { mut peer, remote, next, .. } = guest.connect(&listener, 40_000);
        rustix::net::sockopt::set_tcp_congestion(&peer, "reno").unwrap();
        guest.segment(remote, &Segment { window, ..next }, &[]);
        guest.turn();
        let mut seen = Vec::new();
        if by_window {
            // All that the window takes, so that there may be more.
            peer.write_all(text).unwrap();
            seen.extend(guest.answers());
        } else {
            guest.worker.context().core.link.congested = true;
            peer.write_all(text).unwrap();
            assert!(guest.receive().is_empty());
        }
        rustix::net::sockopt::set_socket_linger(&peer, Some(std::time::Duration::ZERO)).unwrap();
        drop(peer);
        guest.worker.context().core.link.congested = false;
        let ack = next.ack + u32::try_from(seen.len() * text.len()).unwrap();
        guest.segment(remote, &Segment { ack, ..next }, &[]);
        seen.extend((0..3).flat_map(|_| guest.receive()));
        let flags = seen
            .iter()
            .fold(Flags::empty(), |all, packet| all | Segment::parse(&packet.bytes).unwrap().0.flags);
        let payload: Vec<u8> = seen.iter().flat_map(|packet| packet.bytes[20..].to_vec()).collect();
        assert!(flags.contains(Flags::RST) && !flags.contains(Flags::FIN), "{text:?}: {flags:?}");
        assert!(payload == text && guest.worker.flow_count() == 0, "{payload:?}");
    }
}

/// What comes behind a reset in the same batch is for no connection, unless it opens one.
#[test]
fn what_comes_behind_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // The flags, those of the answer, and whether it is for no connection.
    for (flags, answer, stray) in [
        (Flags::ACK, Some(Flags::RST), true),
        (Flags::ACK | Flags::FIN, Some(Flags::RST), true),
        (Flags::SYN | Flags::ACK, Some(Flags::RST), true),
        (Flags::SYN | Flags::RST, None, true),
        (Flags::SYN, Some(Flags::SYN | Flags::ACK), false),
    ] {
        let mut guest = Guest::new(PLAIN, 1500);
        let Connected { peer: _peer, next, .. } = guest.connect(&listener, 40_000);
        guest.segment(names(true).1, &next, b"some");
        guest.turn();
        assert_eq!(guest.worker.flow_count(), 1);
        guest.receive();
        let reset = Segment { seq: Seq(1005), flags: Flags::RST, ..next };
        guest.segment(names(true).1, &reset, &[]);
        guest.segment(names(true).1, &Segment { seq: Seq(1005), flags, ..next }, &[]);
        guest.turn();
        assert_eq!(guest.worker.flow_count(), usize::from(!stray), "{flags:?}");
        let answers = guest.receive();
        let found: Vec<Flags> =
            answers.iter().map(|packet| Segment::parse(&packet.bytes).unwrap().0.flags).collect();
        assert_eq!(found, Vec::from_iter(answer), "{flags:?}");
        assert_eq!(guest.worker.drops(DropReason::NoFlow), u64::from(stray));
    }
}

/// Connections leave from the address asked for (`--outbound`), whatever others the host has.
#[test]
fn the_address_that_connections_come_from() {
    if let Err(error) = own_network() {
        return skip(&format!("no network of its own: {error}"));
    }
    for addresses in [["10.9.9.1", "10.9.9.2"], ["2001:db8:9::1", "2001:db8:9::2"]] {
        own_addresses(&addresses);
        let [server, own] = addresses.map(ip);
        for outbound in [server, own] {
            let mut guest = Guest::new(PLAIN, 1500);
            guest.worker.context().core.guest.change(|guest| {
                let Configured { v4, v6, .. } = &mut guest.configured;
                (v4.outbound, v6.outbound) = (Some(outbound.into()), Some(outbound.into()));
            });
            let listener = TcpListener::bind((server, 0)).unwrap();
            let connected = guest.connect(&listener, 40_000);
            assert_eq!(connected.peer.peer_addr().unwrap().ip(), outbound);
        }
    }
}

/// A connection that could not be served because others fill the link has its turn once they do
/// not, whoever else is silent.
#[test]
fn data_that_waits_for_the_link() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(PLAIN, 1500);
    let Connected { mut peer, .. } = guest.connect(&listener, 40_000);
    guest.worker.context().core.link.congested = true;
    peer.write_all(b"wait").unwrap();
    for _ in 0..10 {
        assert!(guest.receive().is_empty());
    }
    guest.worker.context().core.link.congested = false;
    assert_eq!(guest.one().bytes[20..], *b"wait");
}

/// While frames keep coming an acknowledgement waits, but not behind a batch that was the last one,
/// though it was full.
#[test]
fn the_last_batch_is_full() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for quiet in [false, true] {
        let mut guest = Guest::new(PLAIN, 1500);
        let Connected { peer: _peer, remote, next, .. } = guest.connect(&listener, 40_000);
        guest.receive();
        guest.worker.context().core.link.batch_limit = 1;
        guest.segment(remote, &next, &pattern(1400));
        guest.segment(remote, &Segment { seq: next.seq + 1400, ..next }, &pattern(1400));
        guest.turn();
        guest.turn();
        let told: Vec<_> = guest.worker.context().core.link.to_guest.drain(..).collect();
        assert!(told.is_empty(), "more may come: {told:?}");
        assert_eq!(guest.worker.next_timeout(), Some(guest.now), "nobody sleeps over it");
        if quiet {
            guest.worker.quiet_turn(guest.now).unwrap();
        } else {
            guest.turn();
        }
        let told: Vec<_> = guest.worker.context().core.link.to_guest.drain(..).collect();
        let [told] = &*told else { panic!("{told:?}") };
        let (told, _) = Segment::parse(&told.bytes[34..]).unwrap();
        assert_eq!(told.ack, next.seq + 2800);
    }
}
