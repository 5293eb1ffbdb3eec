//! ICMP errors from the guest, and the marks and keep-alives of its connections, through the whole
//! engine.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod guest;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use common::{free_port, guest_port, ip, own_socket, pattern, rule};
use guest::{Connected, Guest, OFFLOAD, PLAIN, names, server};
use passt_engine::flow::Protocol;
use passt_engine::link::channel::Packet;
use passt_proto::drop::DropReason;
use passt_proto::seq::Seq;
use passt_proto::wire::build::{MAX_HEADERS, Path};
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::icmp;
use passt_proto::wire::tcp::{Flags, Segment};
use rustix::net::sockopt;

/// An error's type, code and MTU.
type Kind = (u8, u8, u32);

/// A port that the guest does not take, as Linux says it.
fn closed(v4: bool) -> Kind {
    if v4 { (3, 3, 0) } else { (1, 4, 0) }
}

/// A packet that does not fit.
fn too_big(v4: bool, mtu: u32) -> Kind {
    if v4 { (3, 4, mtu) } else { (2, 0, mtu) }
}

impl Guest {
    /// Frames for the guest, once there are any.
    fn frames(&mut self) -> Vec<Packet> {
        for round in 0..2000 {
            self.turn();
            let frames: Vec<Packet> = self.worker.context().core.link.to_guest.drain(..).collect();
            if !frames.is_empty() {
                return frames;
            }
            std::thread::sleep(Duration::from_millis(u64::from(round > 10)));
        }
        panic!("no frame");
    }

    /// Puts an error about a frame on the link, from whom it was for.
    fn complain(&mut self, about: &[u8], (kind, code, info): Kind) {
        let quoted = &about[14..about.len().min(14 + 48)];
        let v4 = quoted[0] >> 4 == 4;
        let (from, to) = if v4 { (12..16, 16..20) } else { (8..24, 24..40) };
        let path =
            Path { src: guest::ip_addr(&quoted[to]), dst: guest::ip_addr(&quoted[from]), ..Self::path(v4) };
        let mut header = icmp::Error::TooBig { mtu: info }.header(v4);
        (header.kind, header.code) = (kind, code);
        let mut out = [0; MAX_HEADERS];
        let end = path.emit_icmp(&mut out, header, Sum::new().bytes(quoted), quoted.len()).unwrap();
        let bytes = [&out[..end], quoted].concat();
        self.worker.context().core.link.from_guest.push_back(bytes.into());
    }

    fn drops(&self, reasons: [DropReason; 4]) -> [u64; 4] {
        reasons.map(|reason| self.worker.drops(reason))
    }

    fn forward(&mut self, protocol: Protocol) -> u16 {
        let port = free_port();
        self.worker.listen(common::open(protocol, vec![rule(None, port, 7)]).unwrap()).unwrap();
        port
    }
}

const ERRORS: [DropReason; 4] =
    [DropReason::IcmpInvalid, DropReason::IcmpIgnored, DropReason::IcmpLimit, DropReason::NoFlow];

/// A client whose SYN the guest's firewall rejects is reset at once, whatever the code.
#[test]
fn a_rejected_client_is_reset() {
    for (v4, kind) in (0..=15)
        .filter(|&code| code != 4)
        .map(|code| (true, (3, code, 0)))
        .chain((0..=6).map(|code| (false, (1, code, 0))))
        .chain([(true, (11, 0, 0)), (true, (12, 0, 0)), (false, (3, 0, 0)), (false, (4, 1, 0))])
    {
        let mut guest = Guest::new(PLAIN, 1500);
        let port = guest.forward(Protocol::Tcp);
        let mut client = TcpStream::connect((ip(if v4 { "127.0.0.1" } else { "::1" }), port)).unwrap();
        let syn = guest.frames().remove(0).bytes;
        guest.complain(&syn, kind);
        guest.turn();
        assert_eq!(guest.worker.flow_count(), 0, "{kind:?}");
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(guest.receive().is_empty(), "the guest is told nothing");
        assert_eq!(guest.drops(ERRORS), [0; 4]);
    }
}

/// An error about another SYN, or about what there is no connection for, ends nothing.
#[test]
fn errors_about_what_was_not_sent() {
    let mut guest = Guest::new(PLAIN, 1500);
    let port = guest.forward(Protocol::Tcp);
    let _client = TcpStream::connect((ip("127.0.0.1"), port)).unwrap();
    let syn = guest.frames().remove(0).bytes;
    // Offset in the frame of the last byte of: the ports, the sequence number.
    for (at, reason) in [(35, 3), (37, 3), (41, 0)] {
        let mut other = syn.clone();
        other[at] ^= 1;
        let before = guest.drops(ERRORS);
        guest.complain(&other, closed(true));
        guest.turn();
        let mut expected = before;
        expected[reason] += 1;
        assert_eq!((guest.drops(ERRORS), guest.worker.flow_count()), (expected, 1), "byte {at}");
    }
    // To another address than the packet came from.
    let mut frame = [0; MAX_HEADERS];
    let header = icmp::Error::PortUnreachable.header(true);
    let sum = Sum::new().bytes(&syn[14..42]);
    let path = Path { dst: common::addr("192.0.2.77"), ..Guest::path(true) };
    let end = path.emit_icmp(&mut frame, header, sum, 28).unwrap();
    let bytes = [&frame[..end], &syn[14..42]].concat();
    guest.worker.context().core.link.from_guest.push_back(bytes.into());
    guest.turn();
    assert_eq!((guest.worker.drops(DropReason::IcmpInvalid), guest.worker.flow_count()), (2, 1));
}

/// An open connection goes on whatever is said (RFC 1122, section 4.2.3.9).
#[test]
fn an_open_connection_goes_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(PLAIN, 1500);
    let Connected { mut peer, .. } = guest.connect(&listener, 40_000);
    guest.receive();
    peer.write_all(b"still there").unwrap();
    let sent = guest.frames().remove(0).bytes;
    for kind in [(3, 1, 0), (3, 3, 0), (3, 13, 0), (11, 0, 0), (12, 0, 0)] {
        guest.complain(&sent, kind);
    }
    guest.turn();
    assert_eq!((guest.worker.flow_count(), guest.drops(ERRORS)), (1, [0, 5, 0, 0]));
}

/// Segments of a connection keep to what a path behind the guest takes, and what was lost is sent
/// again without waiting; by links that cut and by those that have the guest do so.
#[test]
fn a_path_that_takes_less() {
    for (v4, caps) in [(true, PLAIN), (true, OFFLOAD), (false, PLAIN), (false, OFFLOAD)] {
        let listener = TcpListener::bind((ip(if v4 { "127.0.0.1" } else { "::1" }), 0)).unwrap();
        let mut guest = Guest::new(caps, 1500);
        let connected = guest.connect_with(&listener, 40_000, Some(1400));
        let mut peer = connected.peer;
        guest.receive();
        peer.write_all(&pattern(10_000)).unwrap();
        let first = guest.frames().remove(0);
        let headers = if v4 { 40 } else { 60 };
        // The size of a segment, of those that a frame is made of.
        let size = |packet: &Packet| match packet.offload.gso_size {
            0 => packet.bytes.len() - 14 - headers,
            size => size.into(),
        };
        let payload = |packets: &[Packet]| -> Vec<u8> {
            packets.iter().flat_map(|packet| packet.bytes[14 + headers..].to_vec()).collect()
        };
        assert!(size(&first) == 1400, "{}", size(&first));
        for (mtu, most) in
            [(1300, 1300), (600, if v4 { 600 } else { 1300 }), (68, if v4 { 552 } else { 1300 })]
        {
            guest.complain(&first.bytes, too_big(v4, mtu));
            let again = if most == 1300 && mtu != 1300 {
                guest.turn();
                assert!(guest.worker.drops(DropReason::IcmpInvalid) > 0);
                continue;
            } else {
                guest.frames()
            };
            assert!(again.iter().all(|packet| size(packet) <= most - headers), "{v4} {mtu}");
            assert_eq!(size(&again[0]), most - headers);
            assert!(payload(&again) == pattern(10_000), "all of it, in order");
        }
        assert!(guest.worker.context().core.counters.retransmitted > 0);
        assert_eq!(guest.worker.drops(DropReason::IcmpIgnored), 0);
    }
}

/// A datagram that nobody in the guest takes ends its flow, and the peer of a flow with a socket of
/// its own hears so of the next one.
#[test]
fn a_datagram_that_nobody_takes() {
    for v4 in [true, false] {
        let mut guest = Guest::new(PLAIN, 1500);
        let (peer, port) = server(v4);
        guest.send(v4, (guest_port(), port), b"?");
        let (_, from) = peer.recv_from(&mut [0; 9]).unwrap();
        peer.connect(from).unwrap();
        peer.send(b"!").unwrap();
        let answer = guest.frames().remove(0).bytes;
        for kind in if v4 { [(3, 0, 0), (11, 0, 0)] } else { [(1, 0, 0), (3, 0, 0)] } {
            guest.complain(&answer, kind);
        }
        guest.turn();
        assert_eq!((guest.worker.flow_count(), guest.drops(ERRORS)), (1, [0, 2, 0, 0]), "these may pass");
        guest.complain(&answer, closed(v4));
        guest.turn();
        assert_eq!(guest.worker.flow_count(), 0);
        let refused = || peer.send(b"!").is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        assert!((0..3).any(|_| refused()), "the port is gone");
        guest.complain(&answer, closed(v4));
        guest.turn();
        assert_eq!(guest.worker.drops(DropReason::NoFlow), 1);
    }
}

/// What waits of the guest's own is sent, though an error behind it ends the flow.
#[test]
fn what_was_sent_before_the_error() {
    let mut guest = Guest::new(PLAIN, 1500);
    let (peer, port) = server(true);
    guest.send(true, (guest_port(), port), b"?");
    let (_, from) = peer.recv_from(&mut [0; 9]).unwrap();
    peer.send_to(b"!", from).unwrap();
    let answer = guest.frames().remove(0).bytes;
    guest.queue(true, (guest_port(), port), b"last", 0);
    guest.complain(&answer, closed(true));
    guest.turn();
    assert_eq!((peer.recv(&mut [0; 9]).unwrap(), guest.worker.flow_count()), (4, 0));
}

/// Datagrams for an address are fragmented as the path there wants it, for ten minutes.
#[test]
fn datagrams_on_a_path_that_takes_less() {
    for (v4, caps) in [(true, PLAIN), (true, OFFLOAD), (false, PLAIN), (false, OFFLOAD)] {
        let mut guest = Guest::new(caps, 1500);
        let (peer, port) = server(v4);
        guest.send(v4, (guest_port(), port), b"?");
        let (_, from) = peer.recv_from(&mut [0; 9]).unwrap();
        let send = |guest: &mut Guest| {
            peer.send_to(&pattern(1400), from).unwrap();
            let frames = guest.frames();
            let whole: Vec<_> = frames.iter().flat_map(|frame| guest.packet(frame)).collect();
            assert!(whole.len() == 1 && whole[0].payload() == pattern(1400));
            frames
        };
        let first = send(&mut guest).remove(0).bytes;
        guest.complain(&first, too_big(v4, 1300));
        guest.turn();
        let longest = |frames: &[Packet]| frames.iter().map(|frame| frame.bytes.len() - 14).max().unwrap();
        let cut = send(&mut guest);
        assert_eq!(cut.len(), 2);
        assert!(longest(&cut) <= 1300 && longest(&cut) > 1290, "{}", longest(&cut));
        guest.complain(&first, too_big(v4, 1400));
        guest.turn();
        assert_eq!((send(&mut guest).len(), guest.drops(ERRORS)), (2, [0, 1, 0, 0]), "not more again");
        // The flow is used, so that it lives as long.
        for minute in 1..=10 {
            guest.now = guest.now + Duration::from_secs(60);
            guest.send(v4, (guest_port(), port), b"?");
            let frames = send(&mut guest);
            assert_eq!(frames.len(), if minute < 10 { 2 } else { 1 }, "after {minute} minutes");
        }
    }
}

/// A datagram that the guest did not get from us yet is none to complain about.
#[test]
fn a_flow_that_sent_nothing() {
    let mut guest = Guest::new(PLAIN, 1500);
    let (_peer, port) = server(true);
    guest.send(true, (guest_port(), port), b"?");
    let (own, host) = names(true);
    let mut frame = [0; MAX_HEADERS];
    let path = Path { src: host, dst: own, ..Guest::path(true) };
    let (len, _) = path.emit_udp(&mut frame, (port, guest_port()), 4, 0).unwrap();
    guest.complain(&frame[..len], closed(true));
    guest.turn();
    assert_eq!((guest.worker.flow_count(), guest.drops(ERRORS)), (1, [1, 0, 0, 0]));
}

#[test]
fn too_many_errors() {
    let mut guest = Guest::new(PLAIN, 1500);
    let mut frame = [0; MAX_HEADERS];
    let path = Path { src: names(true).1, dst: names(true).0, ..Guest::path(true) };
    let (len, _) = path.emit_udp(&mut frame, (9, 9), 0, 0).unwrap();
    for _ in 0..1500 {
        guest.complain(&frame[..len], closed(true));
    }
    guest.turn();
    assert_eq!(guest.drops(ERRORS), [0, 0, 500, 1000]);
}

/// Without ICMP errors are none that anybody sent (`--no-icmp`).
#[test]
fn errors_that_are_off() {
    let mut guest = Guest::new(PLAIN, 1500);
    guest.worker.engine().protocols.icmp = false;
    let port = guest.forward(Protocol::Tcp);
    let _client = TcpStream::connect((ip("127.0.0.1"), port)).unwrap();
    let syn = guest.frames().remove(0).bytes;
    guest.complain(&syn, closed(true));
    guest.turn();
    assert_eq!((guest.worker.flow_count(), guest.worker.drops(DropReason::Disabled)), (1, 1));
}

/// The socket of a connection of the guest's to a port.
fn socket_to(port: u16) -> OwnedFd {
    own_socket(|fd, _| {
        let peer = rustix::net::getpeername(fd).ok().flatten();
        let peer = peer.and_then(|at| std::net::SocketAddr::try_from(at).ok());
        peer.is_some_and(|at| at.port() == port)
    })
}

/// Sends a SYN with these marks.
fn marked_syn(guest: &mut Guest, v4: bool, port: u16, ttl: u8, tos: u8) {
    let syn = Segment {
        src_port: 40_000,
        dst_port: port,
        seq: Seq(1000),
        flags: Flags::SYN,
        window: 9000,
        ..Segment::default()
    };
    let mut header = [0; MAX_HEADERS];
    let path = Path { dst: names(v4).1, ttl, ..Guest::path(v4) };
    let (len, offload) = path.emit_tcp(&mut header, &syn, 0, 0).unwrap();
    let mut bytes = header[..len].to_vec();
    if v4 {
        bytes[15] = tos;
        bytes[24..26].fill(0);
        let sum = Sum::new().bytes(&bytes[14..34]).finish();
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        bytes[14] |= tos >> 4;
        bytes[15] = tos << 4;
    }
    guest.worker.context().core.link.from_guest.push_back(Packet { bytes, offload });
    guest.turn();
}

/// A SYN's marks are those of the host's; once it is answered, a small number of hops is no more.
#[test]
fn marks_of_a_connection() {
    for v4 in [true, false] {
        let listener = TcpListener::bind((ip(if v4 { "127.0.0.1" } else { "::1" }), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        for (ttl, tos, hops, class) in [
            (64, 0, 64, 0),
            (64, 3, 64, 0),
            (5, 0xb8, 64, 0xb8),
            (63, 0x22, 64, 0x20),
            (255, 0, 255, 0),
            (128, 1, 128, 0),
        ] {
            let mut guest = Guest::new(PLAIN, 1500);
            marked_syn(&mut guest, v4, port, ttl, tos);
            let fd = socket_to(port);
            let marks = || {
                if v4 {
                    (sockopt::ip_ttl(&fd).unwrap(), u32::from(sockopt::ip_tos(&fd).unwrap()))
                } else {
                    (sockopt::ipv6_unicast_hops(&fd).unwrap().into(), sockopt::ipv6_tclass(&fd).unwrap())
                }
            };
            let answer = guest.frames().remove(0);
            assert_eq!(
                Segment::parse(&answer.bytes[if v4 { 34 } else { 54 }..]).unwrap().0.flags,
                Flags::SYN | Flags::ACK
            );
            assert_eq!(marks(), (hops, class), "{ttl} {tos}");
        }
    }
}

/// A guest's keep-alives are the host's, as often; also on a connection from outside.
#[test]
fn keep_alives_go_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(PLAIN, 1500);
    let Connected { peer: _peer, remote, next, .. } = guest.connect(&listener, 40_000);
    guest.receive();
    let fd = socket_to(next.dst_port);
    let probe = Segment { seq: next.seq - 1, ..next };
    let times = || {
        let [idle, pause] = [sockopt::tcp_keepidle(&fd).unwrap(), sockopt::tcp_keepintvl(&fd).unwrap()];
        (idle.as_secs(), pause.as_secs(), sockopt::tcp_keepcnt(&fd).unwrap())
    };
    let usual = times();
    for (silence, expected) in [
        (0, usual),
        (60, (60, 15, 127)),
        (63, (60, 15, 127)),
        (90, (90, 22, 127)),
        (2, (10, 2, 127)),
        (1000, (1000, 75, 127)),
    ] {
        guest.now = guest.now + Duration::from_secs(silence);
        let frames = guest.receive();
        assert!(frames.len() <= 1, "its own question");
        guest.segment(remote, &probe, &[]);
        let answer = Segment::parse(&guest.one().bytes).unwrap().0;
        assert_eq!((answer.flags, answer.ack), (Flags::ACK, next.seq));
        assert_eq!(times(), expected, "after {silence} s");
    }
    assert!(sockopt::socket_keepalive(&fd).unwrap());
}
