//! UDP, pings and forwarded ports through the whole engine: a guest in memory on one side, real
//! sockets on the loopback interface on the other. What is sent there has arrived when the call
//! returns, so nothing here waits, and the engine's clock is the test's.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "../src/skip.rs"]
mod skip;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use common::{ENGINE, addr, options, pattern, rule};
use passt::cli::{PortRange, Rule};
use passt::flow::{Protocol, Side};
use passt::forward::{Error, Forward, Listener};
use passt::link::Caps;
use passt::link::channel::{Channel, Packet};
use passt::worker::Worker;
use passt_proto::addr::{Addr, Mac};
use passt_proto::drop::DropReason;
use passt_proto::rules::{AddressMap, FamilyMap};
use passt_proto::time::Instant;
use passt_proto::wire::build::{MAX_HEADERS, Path};
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::offload::{Gso, Offload};
use passt_proto::wire::{icmp, ip::protocol};
use passt_sys::dgram::{self, Outgoing};
use passt_sys::iovec::Gather;
use rustix::net::{AddressFamily, SocketType, ipproto};
use skip::skip;

const OFFLOAD: Caps =
    Caps { checksum: true, tcp_segmentation: true, udp_segmentation: true, queue_limit: None };
const PLAIN: Caps =
    Caps { checksum: false, tcp_segmentation: false, udp_segmentation: false, queue_limit: None };

/// The guest's addresses, and what it calls the host's loopback.
fn names(v4: bool) -> (Addr, Addr) {
    if v4 { (addr("192.0.2.2"), addr("192.0.2.1")) } else { (addr("2001:db8::2"), addr("2001:db8::1")) }
}

/// An IP packet as the guest's stack would pass it on: datagrams reassembled and cut.
#[derive(Debug, PartialEq, Eq)]
struct Received {
    src: Addr,
    dst: Addr,
    protocol: u8,
    /// From the transport header on.
    bytes: Vec<u8>,
}

impl Received {
    fn ports(&self) -> (u16, u16) {
        let port = |i| u16::from_be_bytes([self.bytes[i], self.bytes[i + 1]]);
        (port(0), port(2))
    }

    fn payload(&self) -> &[u8] {
        &self.bytes[8..]
    }
}

struct Guest {
    worker: Worker<Channel>,
    now: Instant,
    fragments: BTreeMap<u32, Vec<u8>>,
    /// Frames received.
    frames: usize,
}

impl Guest {
    fn new(caps: Caps, mtu: u16) -> Self {
        let family = |v4| {
            let (guest, host) = names(v4);
            let ours = Some(if v4 { addr("192.0.2.254") } else { addr("fe80::1") });
            FamilyMap { host_loopback: Some(host), assigned: Some(guest), ours, ..FamilyMap::default() }
        };
        let map = AddressMap { v4: family(true), v6: family(false), ..AddressMap::default() };
        let options = options(mtu, &map, 64);
        let now = Instant::from_millis(1000);
        let worker = Worker::new(Channel::new(caps), &options, now).unwrap();
        Self { worker, now, fragments: BTreeMap::new(), frames: 0 }
    }

    fn path(v4: bool) -> Path {
        let (src, dst) = names(v4);
        Path { src_mac: Mac([4; 6]), dst_mac: ENGINE, src, dst, ttl: 64 }
    }

    /// Puts a datagram, or a super-frame of some, on the link.
    fn queue(&mut self, v4: bool, ports: (u16, u16), payload: &[u8], segment: u16) {
        let mut header = [0; MAX_HEADERS];
        let (len, offload) = Self::path(v4).emit_udp(&mut header, ports, payload.len(), segment).unwrap();
        let bytes = [&header[..len], payload].concat();
        self.worker.context().link.from_guest.push_back(Packet { bytes, offload });
    }

    fn turn(&mut self) {
        self.worker.turn(self.now).unwrap();
    }

    fn send(&mut self, v4: bool, ports: (u16, u16), payload: &[u8]) {
        self.queue(v4, ports, payload, 0);
        self.turn();
    }

    /// What the guest got since.
    fn receive(&mut self) -> Vec<Received> {
        self.turn();
        let packets: Vec<Packet> = self.worker.context().link.to_guest.drain(..).collect();
        self.frames += packets.len();
        packets.into_iter().flat_map(|packet| self.packet(&packet)).collect()
    }

    fn packet(&mut self, packet: &Packet) -> Vec<Received> {
        let ip = &packet.bytes[14..];
        let v4 = ip[0] >> 4 == 4;
        let (start, len) = if v4 {
            assert_eq!(Sum::new().bytes(&ip[..20]).finish(), 0, "header checksum");
            (20, usize::from(u16::from_be_bytes([ip[2], ip[3]])))
        } else {
            (40, 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]])))
        };
        let (src, dst) = if v4 { (&ip[12..16], &ip[16..20]) } else { (&ip[8..24], &ip[24..40]) };
        let mut protocol = if v4 { ip[9] } else { ip[6] };
        let mut bytes = ip[start..len].to_vec();
        let mut fragment = None;
        if v4 {
            let flags = u16::from_be_bytes([ip[6], ip[7]]);
            fragment = Some((u32::from(ip[5]), usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0));
        } else if protocol == 44 {
            let flags = u16::from_be_bytes([bytes[2], bytes[3]]);
            fragment = Some((u32::from(bytes[7]), usize::from(flags & 0xfff8), flags & 1 != 0));
            protocol = bytes[0];
            bytes.drain(..8);
        }
        if let Some((id, offset, more)) = fragment.filter(|&(_, offset, more)| more || offset > 0) {
            assert!(len <= usize::from(self.worker.context().services.mtu), "fragment of {len}");
            let whole = self.fragments.entry(id).or_default();
            assert_eq!(whole.len(), offset);
            whole.append(&mut bytes);
            if more {
                return Vec::new();
            }
            bytes = self.fragments.remove(&id).unwrap();
        }
        let received = Received { src: ip_addr(src), dst: ip_addr(dst), protocol, bytes };
        cut(received, &packet.offload)
    }

    /// Lets time pass, from one timer to the next; returns how much did.
    fn sleep_until_flows_end(&mut self) -> Duration {
        let begun = self.now;
        while self.worker.flow_count() > 0 {
            self.now = self.worker.next_timeout().unwrap();
            self.turn();
        }
        self.now.since(begun)
    }

    /// The only packet since.
    fn one(&mut self) -> Received {
        let mut all = self.receive();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }
}

fn ip_addr(bytes: &[u8]) -> Addr {
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => IpAddr::from(v4).into(),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()).into(),
    }
}

/// The datagrams of a super-frame; verifies checksums unless that is left to the guest.
fn cut(packet: Received, offload: &Offload) -> Vec<Received> {
    let pseudo = Sum::pseudo(packet.src, packet.dst, packet.protocol, packet.bytes.len());
    if !offload.needs_csum {
        let start = if packet.protocol == protocol::ICMP { Sum::new() } else { pseudo };
        assert_eq!(start.bytes(&packet.bytes).finish(), 0, "checksum of {packet:?}");
    }
    if offload.gso == Gso::None {
        return vec![packet];
    }
    let (src, dst, protocol) = (packet.src, packet.dst, packet.protocol);
    let header = packet.bytes[..8].to_vec();
    let pieces = packet.bytes[8..].chunks(offload.gso_size.into());
    pieces.map(|p| Received { src, dst, protocol, bytes: [&header, p].concat() }).collect()
}

fn server(v4: bool) -> (UdpSocket, u16) {
    let server = UdpSocket::bind((if v4 { "127.0.0.1" } else { "::1" }, 0)).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let port = server.local_addr().unwrap().port();
    (server, port)
}

/// A port that nobody has.
fn free_port() -> u16 {
    let (socket, port) = server(true);
    let also = UdpSocket::bind(("::1", port));
    drop((socket, also.unwrap()));
    port
}

#[test]
fn datagrams_of_every_size_both_ways() {
    for (v4, caps, mtu) in [
        (true, PLAIN, 1500),
        (true, OFFLOAD, 1500),
        (true, PLAIN, 65520),
        (false, PLAIN, 1500),
        (false, OFFLOAD, 1500),
        (false, OFFLOAD, 65520),
    ] {
        let mut guest = Guest::new(caps, mtu);
        let (server, port) = server(v4);
        let mut buffer = vec![0; 65536];
        for len in [0, 1, 2, 1451, 1452, 1453, 1472, 1473, 9000, 32768, 65471, 65492, 65493, 65506, 65507] {
            let payload = pattern(len);
            guest.send(v4, (40_000, port), &payload);
            let (n, from) = server.recv_from(&mut buffer).unwrap();
            assert!(buffer[..n] == payload, "{len} bytes arrived as {n}");
            server.send_to(&payload, from).unwrap();
            let reply = guest.one();
            let (own, host) = names(v4);
            assert_eq!((reply.src, reply.dst, reply.ports()), (host, own, (port, 40_000)));
            assert!(reply.payload() == payload, "{len} bytes came back as {}", reply.payload().len());
        }
        assert_eq!(guest.worker.flow_count(), 1);
    }
}

#[test]
fn the_guests_port_is_kept() {
    let mut guest = Guest::new(PLAIN, 1500);
    let own = free_port();
    let (first, port) = server(true);
    guest.send(true, (own, port), b"?");
    let (_, from) = first.recv_from(&mut [0; 9]).unwrap();
    assert_eq!(from.port(), own);
    // A port that is taken does not keep the guest from being served.
    let (second, other) = server(true);
    guest.send(true, (port, other), b"?");
    let (_, from) = second.recv_from(&mut [0; 9]).unwrap();
    assert_ne!(from.port(), port);
    second.send_to(b"!", from).unwrap();
    assert_eq!(guest.one().ports(), (other, port));
}

/// Only the peer that the guest sent to can answer.
#[test]
fn strangers_are_not_heard() {
    let mut guest = Guest::new(PLAIN, 1500);
    let (peer, port) = server(true);
    guest.send(true, (40_001, port), b"?");
    let (_, from) = peer.recv_from(&mut [0; 9]).unwrap();
    let (stranger, _) = server(true);
    // The kernel says to some that nobody is there.
    let _ = stranger.send_to(b"let me in", from);
    assert!(guest.receive().is_empty());
    peer.send_to(b"!", from).unwrap();
    assert_eq!(guest.one().payload(), b"!");
}

#[test]
fn a_closed_port_is_reported_with_the_datagram() {
    for v4 in [true, false] {
        let mut guest = Guest::new(PLAIN, 1500);
        let port = free_port();
        guest.send(v4, (40_002, port), b"anybody there?");
        let error = guest.one();
        let (own, host) = names(v4);
        let kind = if v4 { (protocol::ICMP, [3, 3]) } else { (protocol::ICMPV6, [1, 4]) };
        assert_eq!((error.src, error.dst, error.protocol), (host, own, kind.0));
        assert_eq!(error.bytes[..2], kind.1);
        let quoted = &error.bytes[8..];
        let (inner, rest) = quoted.split_at(if v4 { 20 } else { 40 });
        let addresses = if v4 { &inner[12..] } else { &inner[8..] };
        let (src, dst) = addresses.split_at(addresses.len() / 2);
        assert_eq!((ip_addr(src), ip_addr(dst)), (own, host));
        let ports = [40_002u16.to_be_bytes(), port.to_be_bytes()].concat();
        assert_eq!(rest[..4], ports);
        assert_eq!(&rest[8..], b"anybody there?");
        // The flow goes on.
        let again = UdpSocket::bind((if v4 { "127.0.0.1" } else { "::1" }, port)).unwrap();
        guest.send(v4, (40_002, port), b"now?");
        assert_eq!(again.recv(&mut [0; 9]).unwrap(), 4);
    }
}

/// A flow with answers lives longer than one without, and both end.
#[test]
fn unused_flows_end() {
    let mut guest = Guest::new(PLAIN, 1500);
    let (server, port) = server(true);
    let mut buffer = [0; 9];
    guest.send(true, (40_003, port), b"1");
    assert_eq!(guest.worker.flow_count(), 1);
    let single = guest.sleep_until_flows_end();
    server.recv_from(&mut buffer).unwrap();
    for _ in 0..2 {
        guest.send(true, (40_003, port), b"2");
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(b"3", from).unwrap();
        guest.one();
    }
    let stream = guest.sleep_until_flows_end();
    assert!(single >= Duration::from_secs(1) && stream > single, "{single:?} {stream:?}");
}

#[test]
fn a_full_table_refuses_and_counts() {
    let mut guest = Guest::new(PLAIN, 1500);
    let (server, port) = server(true);
    for own in 0..65 {
        guest.send(true, (41_000 + own, port), b"?");
    }
    assert_eq!(guest.worker.flow_count(), 64);
    assert_eq!(guest.worker.drops(DropReason::TableFull), 1);
    drop(server);
}

/// What the guest's kernel left joined, and what comes in one batch, arrives as it was sent.
#[test]
fn batches_and_super_frames_from_the_guest() {
    let mut guest = Guest::new(OFFLOAD, 1500);
    let (server, port) = server(true);
    let mut expected = Vec::new();
    let whole = pattern(1050);
    guest.queue(true, (40_004, port), &whole, 100);
    expected.extend(whole.chunks(100).map(<[u8]>::to_vec));
    for len in [500, 500, 500, 20, 500, 0, 0, 700, 600] {
        guest.queue(true, (40_004, port), &pattern(len), 0);
        expected.push(pattern(len));
    }
    // More than the kernel takes at once.
    for i in 0..150u8 {
        guest.queue(true, (40_004, port), &[i; 30], 0);
        expected.push(vec![i; 30]);
    }
    // Between them another flow.
    let (other, other_port) = crate::server(false);
    guest.queue(false, (40_004, other_port), b"other", 0);
    guest.queue(true, (40_004, port), b"last", 0);
    expected.push(b"last".to_vec());
    guest.turn();
    let mut buffer = [0; 2000];
    for payload in expected {
        let n = server.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], payload);
    }
    assert_eq!(other.recv(&mut buffer).unwrap(), 5);
}

#[test]
fn batches_for_the_guest_are_joined_where_the_link_can() {
    for (caps, expected) in [(OFFLOAD, 3), (PLAIN, 7)] {
        let mut guest = Guest::new(caps, 1500);
        let (server, port) = server(true);
        guest.send(true, (40_005, port), b"?");
        let (_, from) = server.recv_from(&mut [0; 9]).unwrap();
        let sizes = [1000, 1000, 1000, 400, 1200, 1200, 1300];
        for (i, len) in (0u8..).zip(sizes) {
            server.send_to(&vec![i; len], from).unwrap();
        }
        let all = guest.receive();
        for ((i, len), packet) in (0u8..).zip(sizes).zip(&all) {
            assert_eq!(packet.payload(), vec![i; len]);
        }
        assert_eq!((all.len(), guest.frames), (sizes.len(), expected));
    }
}

/// The sender's kernel keeps datagrams joined, and so do we, whatever comes between; except
/// where each alone is too large for the guest.
#[test]
fn joined_datagrams_stay_joined() {
    let mut guest = Guest::new(OFFLOAD, 1500);
    let (server, port) = server(true);
    guest.send(true, (40_006, port), b"?");
    let (_, from) = server.recv_from(&mut [0; 9]).unwrap();
    server.connect(from).unwrap();
    let cases =
        [(3000, 1000), (60_000, 1400), (50, 0), (5000, 1200), (9000, 4000), (65_490, 1250), (65_507, 1250)];
    for (len, segment) in cases {
        let payload = pattern(len);
        let mut data = Gather::new();
        data.push(&payload);
        dgram::send(server.as_fd(), &data, &[Outgoing { first: 0, buffers: 1, segment }], None, None)
            .unwrap();
        guest.frames = 0;
        let mut all = guest.receive();
        // What is too long for the loopback device is cut there.
        all.append(&mut guest.receive());
        let sizes: Vec<usize> = all.iter().map(|p| p.payload().len()).collect();
        let whole: Vec<u8> = all.iter().flat_map(|p| p.payload().iter().copied()).collect();
        assert!(whole == payload, "{len} by {segment}: {sizes:?}");
        let step = if segment == 0 { len } else { segment.into() };
        assert_eq!(sizes, payload.chunks(step).map(<[u8]>::len).collect::<Vec<_>>());
        let frames = if step > 1472 { 3 + 3 + 1 } else { 1 + usize::from(len > 65_495) };
        assert_eq!(guest.frames, frames, "{len} by {segment}");
    }
}

/// A flow is in use while datagrams come, joined by the kernel or not.
#[test]
fn joined_datagrams_keep_their_flow() {
    let mut guest = Guest::new(OFFLOAD, 1500);
    let (server, port) = server(true);
    guest.send(true, (40_007, port), b"?");
    let (_, from) = server.recv_from(&mut [0; 9]).unwrap();
    server.connect(from).unwrap();
    let payload = pattern(1000);
    for second in 0..200 {
        let mut data = Gather::new();
        data.push(&payload);
        let joined = [Outgoing { first: 0, buffers: 1, segment: 500 }];
        dgram::send(server.as_fd(), &data, &joined, None, None).unwrap();
        assert_eq!(guest.receive().len(), 2, "after {second} s");
        guest.now = guest.now + Duration::from_secs(1);
        guest.turn();
    }
}

/// Joined datagrams for which there is no room are as many as they would be one by one.
#[test]
fn each_datagram_without_a_flow_is_counted() {
    let mut guest = Guest::new(OFFLOAD, 1500);
    let (_server, port) = server(true);
    for own in 0..64 {
        guest.send(true, (41_000 + own, port), b"?");
    }
    let port = free_port();
    guest.worker.listen(open(Protocol::Udp, rule(None, port, 7)).unwrap()).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(("127.0.0.1", port)).unwrap();
    let payload = pattern(9_500);
    let mut data = Gather::new();
    data.push(&payload);
    dgram::send(client.as_fd(), &data, &[Outgoing { first: 0, buffers: 1, segment: 1000 }], None, None)
        .unwrap();
    client.send(b"one more").unwrap();
    assert!(guest.receive().is_empty());
    assert_eq!(guest.worker.drops(DropReason::TableFull), 11);
}

fn open(protocol: Protocol, rule: Rule) -> Result<Vec<Listener>, Error> {
    Forward::default().open(Side::Host, protocol, vec![rule])
}

#[test]
fn forwarded_datagrams_and_their_answers() {
    for caps in [PLAIN, OFFLOAD] {
        for (listen, client) in [
            (None, "127.0.0.1:0"),
            (None, "127.0.0.9:0"),
            (None, "[::1]:0"),
            (Some("127.0.0.1"), "127.0.0.1:0"),
            (Some("::1"), "[::1]:0"),
        ] {
            let port = free_port();
            let mut guest = Guest::new(caps, 1500);
            let listeners = open(Protocol::Udp, rule(listen, port, 7)).unwrap();
            guest.worker.listen(listeners).unwrap();
            let client = UdpSocket::bind(client).unwrap();
            let ip = client.local_addr().unwrap().ip();
            client.connect((ip, port)).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            for len in [1, 1472, 3000] {
                client.send(&pattern(len)).unwrap();
                let packet = guest.one();
                let (own, host) = names(ip.is_ipv4());
                let host = if ip.to_string() == "127.0.0.9" { addr("192.0.2.254") } else { host };
                let from = client.local_addr().unwrap().port();
                assert_eq!((packet.src, packet.dst, packet.ports()), (host, own, (from, 7)));
                assert!(packet.payload() == pattern(len));
                if packet.src == names(ip.is_ipv4()).1 {
                    guest.send(ip.is_ipv4(), (7, from), &pattern(len));
                    // From elsewhere it would not reach a connected socket.
                    assert_eq!(client.recv(&mut [0; 4000]).unwrap(), len);
                }
            }
            assert_eq!(guest.worker.flow_count(), 1);
        }
    }
}

/// A process that waits for a CPU hears later what came meanwhile: more than the kernel keeps by itself, even where
/// it allows no more than twice that.
#[test]
fn a_burst_is_not_lost_while_nothing_reads() {
    const BURST: usize = 150;
    let datagram = pattern(1400);
    let arrive = |guest: &mut Guest, from: &UdpSocket, to: SocketAddr| {
        for _ in 0..BURST {
            assert_eq!(from.send_to(&datagram, to).unwrap(), datagram.len());
        }
        let mut received = Vec::new();
        while received.len() < BURST {
            let more = guest.receive();
            assert!(!more.is_empty(), "{} of {BURST}", received.len());
            received.extend(more);
        }
        assert!(received.iter().all(|packet| packet.payload() == datagram));
    };
    for (caps, v4) in [(PLAIN, true), (OFFLOAD, true), (PLAIN, false), (OFFLOAD, false)] {
        let mut guest = Guest::new(caps, 1500);
        let (server, port) = server(v4);
        guest.send(v4, (40_000, port), b"?");
        let (_, from) = server.recv_from(&mut [0; 9]).unwrap();
        arrive(&mut guest, &server, from);

        let port = free_port();
        guest.worker.listen(open(Protocol::Udp, rule(None, port, 7)).unwrap()).unwrap();
        let listener = SocketAddr::new(from.ip(), port);
        arrive(&mut guest, &server, listener);
    }
}

/// A server in the guest that speaks first does so from its forwarded port.
#[test]
fn the_guest_speaks_first_from_a_forwarded_port() {
    let port = free_port();
    let mut guest = Guest::new(PLAIN, 1500);
    guest.worker.listen(open(Protocol::Udp, rule(None, port, port)).unwrap()).unwrap();
    let (peer, peer_port) = server(true);
    guest.send(true, (port, peer_port), b"hello");
    let (_, from) = peer.recv_from(&mut [0; 9]).unwrap();
    assert_eq!(from.port(), port);
    peer.send_to(b"welcome", from).unwrap();
    assert_eq!(guest.one().payload(), b"welcome");
    assert_eq!(guest.worker.flow_count(), 1);
    drop(peer);
    guest.send(true, (port, peer_port), b"still there?");
    let error = guest.one();
    assert_eq!((error.protocol, &error.bytes[..2]), (protocol::ICMP, &[3, 3][..]));
}

#[test]
fn forwarded_connections_arrive_at_the_target_port() {
    for ip in ["127.0.0.1", "::1"] {
        let mut guest = Guest::new(PLAIN, 1500);
        let (port, listeners) = loop {
            let port = free_port();
            if let Ok(listeners) = open(Protocol::Tcp, rule(None, port, 80)) {
                break (port, listeners);
            }
        };
        guest.worker.listen(listeners).unwrap();
        let clients: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect((ip, port)).unwrap()).collect();
        let mut seen: Vec<u16> = Vec::new();
        for _ in 0..2 {
            for syn in guest.receive() {
                let (own, host) = names(ip == "127.0.0.1");
                assert_eq!((syn.src, syn.dst, syn.ports().1, syn.bytes[13]), (host, own, 80, 0x02));
                seen.push(syn.ports().0);
            }
        }
        let expected: Vec<u16> = clients.iter().map(|c| c.local_addr().unwrap().port()).collect();
        assert_eq!(seen, expected, "more than one turn's worth, in order");
    }
}

#[test]
fn a_port_in_use_is_an_error_unless_any_will_do() {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let port = loop {
            let port = free_port();
            if port < u16::MAX && open(protocol, rule(None, port, port)).is_ok() {
                break port;
            }
        };
        let taken = open(protocol, rule(Some("127.0.0.1"), port, port)).unwrap();
        let strict = rule(Some("127.0.0.1"), port, port);
        assert!(matches!(open(protocol, strict.clone()), Err(Error::Listen)));
        let weak = Rule { weak: true, ..strict };
        assert!(open(protocol, weak.clone()).is_err(), "not a single one");
        let range = Rule { ports: PortRange::new(port, port.saturating_add(20)).unwrap(), ..weak };
        assert!(!open(protocol, range).unwrap().is_empty());
        drop(taken);
    }
}

/// Opens a ping socket; where that is not allowed, in a network of the thread's own.
fn may_ping() -> std::io::Result<()> {
    let socket = || rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP));
    if socket().is_ok() {
        return Ok(());
    }
    // SAFETY: descriptors stay shared; nothing of the thread depends on the network that it leaves.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
    Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")?;
    Ok(socket().map(drop)?)
}

/// Pings of the gateway are answered by the host with the guest's identifier.
#[test]
fn pings() {
    if let Err(error) = may_ping() {
        return skip(&format!("no ping sockets: {error}"));
    }
    for v4 in [true, false] {
        let mut guest = Guest::new(PLAIN, 1500);
        for (seq, len) in [(1, 0), (2, 56), (3, 1400)] {
            let kind = if v4 { icmp::ECHO_REQUEST_V4 } else { icmp::ECHO_REQUEST_V6 };
            let payload = pattern(len);
            let header =
                icmp::Header { kind, code: 0, checksum: 0.into(), id: 0x1234.into(), seq: seq.into() };
            let mut out = [0; MAX_HEADERS];
            let sum = Sum::new().bytes(&payload);
            let end = Guest::path(v4).emit_icmp(&mut out, header, sum, len).unwrap();
            guest.worker.context().link.from_guest.push_back([&out[..end], &payload].concat().into());
            guest.turn();
            let reply = guest.one();
            let (own, host) = names(v4);
            assert_eq!((reply.src, reply.dst), (host, own));
            let expected = if v4 { icmp::ECHO_REPLY_V4 } else { icmp::ECHO_REPLY_V6 };
            assert_eq!(reply.bytes[..2], [expected, 0]);
            assert_eq!(reply.bytes[4..8], [0x12, 0x34, 0, u8::try_from(seq).unwrap()]);
            assert!(reply.payload() == payload);
        }
        assert_eq!(guest.worker.flow_count(), 1);
        assert_eq!(guest.sleep_until_flows_end(), Duration::from_secs(60));
    }
}

/// Datagrams to loopback addresses, or without an address, never reach the host's services.
#[test]
fn the_hosts_loopback_has_no_address_on_the_link() {
    let mut guest = Guest::new(PLAIN, 1500);
    let (server, port) = server(true);
    server.set_nonblocking(true).unwrap();
    let path = Path { dst: addr("127.0.0.1"), ..Guest::path(true) };
    let mut header = [0; MAX_HEADERS];
    let (len, _) = path.emit_udp(&mut header, (9, port), 0, 0).unwrap();
    guest.worker.context().link.from_guest.push_back(header[..len].to_vec().into());
    guest.turn();
    assert!(server.recv(&mut [0; 9]).is_err());
    assert_eq!((guest.worker.flow_count(), guest.worker.drops(DropReason::Loopback)), (0, 1));
}
