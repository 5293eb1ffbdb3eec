//! Packets that the guest sends in fragments, through the whole engine: what arrives at sockets of
//! the host, what a flood costs others, and what the guest is told. Nothing here waits, and the
//! engine's clock is the test's.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod guest;

use std::io::Read as _;
use std::net::TcpListener;
use std::time::Duration;

use common::{addr, guest_port, may_ping, pattern};
use guest::{Guest, OFFLOAD, PLAIN, names, server};
use passt_engine::link::Caps;
use passt_engine::link::channel::Packet;
use passt_proto::addr::{Addr, Mac};
use passt_proto::drop::DropReason;
use passt_proto::reassembly::PACKETS;
use passt_proto::wire::build::{MAX_HEADERS, Path};
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::fragment::Fragment;
use passt_proto::wire::icmp;
use passt_proto::wire::ip::protocol;
use passt_proto::wire::tcp::{Flags, Segment};
use passt_testing::skip;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};

/// The frame of a part of a packet's payload.
fn frame(path: &Path, protocol: u8, id: u32, part: &Fragment, body: &[u8]) -> Vec<u8> {
    let mut header = [0; MAX_HEADERS];
    let len = path.emit_fragment(&mut header, protocol, id, part).unwrap();
    [&header[..len], &body[part.offset..part.offset + part.len]].concat()
}

/// All frames of a packet for a link of an MTU.
fn frames(path: &Path, protocol: u8, id: u32, body: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    path.fragments(body.len(), mtu).map(|part| frame(path, protocol, id, &part, body)).collect()
}

/// A datagram with its header, checksum included.
fn datagram(path: &Path, (from, to): (u16, u16), payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len() + 8).unwrap();
    let mut body = [from, to, len, 0].map(u16::to_be_bytes).concat();
    body.extend(payload);
    let sum = Sum::pseudo(path.src, path.dst, protocol::UDP, body.len()).bytes(&body);
    body[6..8].copy_from_slice(&sum.finish_nonzero().to_be_bytes());
    body
}

/// An echo request, checksum included.
fn ping(path: &Path, id: u16, payload: &[u8]) -> Vec<u8> {
    let kind = if path.dst.is_v4() { icmp::ECHO_REQUEST_V4 } else { icmp::ECHO_REQUEST_V6 };
    let mut header = icmp::Header { kind, code: 0, checksum: 0.into(), id: id.into(), seq: 1.into() };
    path.complete_icmp(&mut header, Sum::new().bytes(payload), payload.len());
    [zerocopy::IntoBytes::as_bytes(&header), payload].concat()
}

fn queue(guest: &mut Guest, frames: impl IntoIterator<Item = Vec<u8>>) {
    let link = &mut guest.worker.context().core.link;
    link.from_guest.extend(frames.into_iter().map(Packet::from));
}

fn send(guest: &mut Guest, frames: impl IntoIterator<Item = Vec<u8>>) {
    queue(guest, frames);
    guest.turn();
}

/// A first fragment of a packet that never comes whole.
fn first(path: &Path, id: u32) -> Vec<u8> {
    frame(path, protocol::UDP, id, &Fragment { offset: 0, len: 16, more: true }, &[0; 16])
}

const KINDS: [(bool, Caps); 4] = [(true, PLAIN), (true, OFFLOAD), (false, PLAIN), (false, OFFLOAD)];

/// Datagrams of every size, cut for every MTU, in order, in reverse, and each fragment twice; many
/// in one batch with others between them.
#[test]
fn datagrams_in_fragments() {
    for (v4, caps) in KINDS {
        let mut guest = Guest::new(caps, 1500);
        let (server, port) = server(v4);
        let path = Guest::path(v4);
        let mut buffer = vec![0; 65_536];
        let (mut id, mut twice) = (0, 0);
        for len in [9, 1473, 3000, 9000, 20_000, 65_507] {
            for mtu in [68, 576, 1280, 1500].into_iter().filter(|&mtu| v4 || mtu >= 1280) {
                let payload = pattern(len);
                for order in 0..3 {
                    id += 1;
                    let body = datagram(&path, (guest_port(), port), &payload);
                    let mut all = frames(&path, protocol::UDP, id, &body, mtu);
                    if all.len() == 1 {
                        continue;
                    }
                    match order {
                        0 => {}
                        1 => all.reverse(),
                        _ => {
                            let last = all.pop().unwrap();
                            twice += all.len();
                            all = all.iter().flat_map(|frame| [frame.clone(), frame.clone()]).collect();
                            all.push(last);
                        }
                    }
                    guest.queue(v4, (guest_port(), port), b"before", 0);
                    queue(&mut guest, all);
                    guest.queue(v4, (guest_port(), port), b"behind", 0);
                    guest.turn();
                    for expected in [b"before", payload.as_slice(), b"behind"] {
                        let n = server.recv(&mut buffer).unwrap();
                        assert!(buffer[..n] == *expected, "{len} at {mtu}, {order}: {n}");
                    }
                }
            }
        }
        assert_eq!(guest.worker.drops(DropReason::FragmentDuplicate), twice as u64);
        assert_eq!((guest.worker.flow_count(), guest.worker.next_timeout().is_some()), (1, true));
    }
}

/// Fragments of many packets, mixed.
#[test]
fn packets_whose_fragments_are_mixed() {
    for (v4, caps) in KINDS {
        let mut guest = Guest::new(caps, 1500);
        let (server, port) = server(v4);
        let path = Guest::path(v4);
        let packets: Vec<_> = (0..u8::try_from(PACKETS).unwrap())
            .map(|id| {
                let body = datagram(&path, (guest_port(), port), &[id; 1400]);
                frames(&path, protocol::UDP, id.into(), &body, 600)
            })
            .collect();
        for part in 0..3 {
            send(&mut guest, packets.iter().map(|all| all[part].clone()));
        }
        for id in 0..u8::try_from(PACKETS).unwrap() {
            let mut buffer = [0; 4000];
            assert_eq!(server.recv(&mut buffer).unwrap(), 1400);
            assert!(buffer[..1400] == [id; 1400]);
        }
    }
}

/// Pings of every size are answered, in fragments again.
#[test]
fn pings_in_fragments() {
    if let Err(error) = may_ping() {
        return skip(&format!("no ping sockets: {error}"));
    }
    for (v4, caps) in KINDS {
        let mut guest = Guest::new(caps, 1500);
        let path = Guest::path(v4);
        for (id, len) in (1..).zip([1400, 1472, 1473, 4000, 65_000, 65_507]) {
            let payload = pattern(len);
            let body = ping(&path, 0x1234, &payload);
            let kind = path.icmp();
            let sent = frames(&path, kind, id, &body, 1500);
            // What fits is no fragment, and its header has all to say.
            let sent = if sent.len() > 1 {
                sent
            } else {
                let mut header = [0; MAX_HEADERS];
                let end = path.emit(&mut header, kind, body.len()).unwrap();
                vec![[&header[..end], &body].concat()]
            };
            guest.frames = 0;
            send(&mut guest, sent.clone());
            let reply = guest.one();
            assert_eq!((reply.src, reply.dst), (names(v4).1, names(v4).0));
            assert!(reply.payload() == payload, "{len}: {}", reply.payload().len());
            assert_eq!(guest.frames, sent.len(), "{len}");
        }
    }
}

/// A connection whose segments come in fragments.
#[test]
fn segments_in_fragments() {
    for (v4, caps) in KINDS {
        let mut guest = Guest::new(caps, 1500);
        let listener = TcpListener::bind((if v4 { "127.0.0.1" } else { "::1" }, 0)).unwrap();
        let connected = guest.connect(&listener, 40_000);
        let path = Guest::path(v4);
        let mut peer = connected.peer;
        let mut next = connected.next;
        for id in 0..20 {
            let payload = pattern(1400 + id);
            let segment = Segment { flags: Flags::ACK | Flags::PSH, ..next };
            let mut header = [0; 60];
            let len = segment.emit(&mut header).unwrap();
            let mut body = [&header[..len], &payload].concat();
            body[16..18].fill(0);
            let sum = Sum::pseudo(path.src, path.dst, protocol::TCP, body.len()).bytes(&body).finish();
            body[16..18].copy_from_slice(&sum.to_be_bytes());
            let id = u32::try_from(id).unwrap();
            send(&mut guest, frames(&path, protocol::TCP, id, &body, 600));
            let mut received = vec![0; payload.len()];
            peer.read_exact(&mut received).unwrap();
            assert!(received == payload);
            next.seq += u32::try_from(payload.len()).unwrap();
        }
        let acknowledged = guest.receive();
        let (last, _) = Segment::parse(&acknowledged.last().unwrap().bytes).unwrap();
        assert_eq!(last.ack, next.seq);
    }
}

/// What overlaps never arrives, nor what comes of the packet afterwards; others do.
#[test]
fn overlapping_fragments() {
    for (v4, caps) in KINDS {
        let mut guest = Guest::new(caps, 1500);
        let (server, port) = server(v4);
        server.set_nonblocking(true).unwrap();
        let path = Guest::path(v4);
        let body = datagram(&path, (guest_port(), port), &pattern(3000));
        let part = |offset, len, more| Fragment { offset, len, more };
        for (id, parts) in (1..).zip([
            [part(0, 1600, true), part(1592, 1400, true), part(1600, 1408, false)],
            [part(1600, 1408, false), part(0, 1608, true), part(0, 1600, true)],
            [part(0, 1600, true), part(800, 8, true), part(1600, 1408, false)],
            [part(1600, 1400, false), part(1600, 1408, false), part(0, 1600, true)],
            [part(1600, 1000, false), part(2600, 408, true), part(0, 1600, true)],
        ]) {
            let frames = parts.map(|part| frame(&path, protocol::UDP, id, &part, &body));
            send(&mut guest, frames);
            assert!(server.recv(&mut [0; 9000]).is_err(), "{parts:?}");
            assert_eq!(guest.worker.drops(DropReason::FragmentOverlap), u64::from(2 * id), "{parts:?}");
        }
        send(&mut guest, frames(&path, protocol::UDP, 99, &body, 1280));
        assert_eq!(server.recv(&mut [0; 9000]).unwrap(), 3000);
        // Nobody is told anything of those when their time is over.
        guest.now = guest.now + Duration::from_secs(61);
        assert!(guest.receive().is_empty());
        assert_eq!(guest.worker.drops(DropReason::FragmentTimeout), 0);
    }
}

/// Fragments of two packets that have one name by chance are not taken for a packet.
#[test]
fn fragments_of_two_packets() {
    let mut guest = Guest::new(PLAIN, 1500);
    let (server, port) = server(true);
    server.set_nonblocking(true).unwrap();
    let path = Guest::path(true);
    let [one, other] = [1, 2].map(|byte| datagram(&path, (guest_port(), port), &[byte; 2000]));
    let [one, other] = [one, other].map(|body| frames(&path, protocol::UDP, 7, &body, 1500));
    send(&mut guest, [one[0].clone(), other[1].clone()]);
    assert!(server.recv(&mut [0; 9000]).is_err());
    assert_eq!(guest.worker.drops(DropReason::FragmentChecksum), 1);
}

/// A flood of fragments, under many names, harms no other flow: what comes whole passes, what
/// comes in fragments from another station too, and from the same one if it comes at once. There
/// are never more blocks in use than there are packets.
#[test]
fn floods_of_fragments() {
    for (v4, caps) in KINDS {
        let mut guest = Guest::new(caps, 1500);
        let (server, port) = server(v4);
        let path = Guest::path(v4);
        let quiet = Path { src_mac: Mac([6; 6]), ..path };
        let payload = pattern(4000);
        let body = datagram(&path, (guest_port(), port), &payload);
        let slow = frames(&quiet, protocol::UDP, 1, &body, 1280);
        send(&mut guest, [slow[0].clone()]);
        let flood = |number: u32| {
            let last = u8::try_from(number % 200 + 10).unwrap();
            let src: Addr =
                if v4 { addr(&format!("192.0.2.{last}")) } else { addr(&format!("2001:db8::{last:x}")) };
            first(&Path { src, ..path }, number)
        };
        let mut buffer = [0; 9000];
        for round in 0..20 {
            queue(&mut guest, (round * 500..(round + 1) * 500).map(flood));
            guest.queue(v4, (guest_port(), port), b"whole", 0);
            queue(&mut guest, frames(&path, protocol::UDP, 1_000_000 + round, &body, 1280));
            guest.turn();
            assert_eq!(server.recv(&mut buffer).unwrap(), 5);
            assert_eq!(server.recv(&mut buffer).unwrap(), payload.len());
        }
        let displaced = guest.worker.drops(DropReason::FragmentRoom);
        assert!(displaced >= 10_000 - PACKETS as u64, "{displaced}");
        // Packets that are given up tell how many there were.
        send(&mut guest, slow[1..].iter().cloned());
        assert_eq!(server.recv(&mut buffer).unwrap(), payload.len());
        guest.now = guest.now + Duration::from_secs(61);
        guest.receive();
        let given_up = guest.worker.drops(DropReason::FragmentTimeout);
        assert!((1..=PACKETS as u64).contains(&given_up), "{given_up}");
        assert_eq!(displaced + given_up, 10_000);
    }
}

/// A packet that stays incomplete is given up in time, which wakes the loop, and the guest is told
/// if it can know what that was.
#[test]
fn incomplete_packets_end() {
    for (v4, caps) in KINDS {
        for has_first in [true, false] {
            let mut guest = Guest::new(caps, 1500);
            let path = Path { ttl: 33, ..Guest::path(v4) };
            let body = datagram(&path, (guest_port(), 9), &pattern(3000));
            let mut all = frames(&path, protocol::UDP, 7, &body, 1500);
            all.remove(usize::from(has_first));
            let begun = guest.now;
            send(&mut guest, all);
            guest.now = guest.worker.next_timeout().unwrap();
            let waited = guest.now.since(begun);
            assert_eq!(waited, Duration::from_secs(if v4 { 30 } else { 60 }));
            let told = guest.receive();
            assert_eq!(guest.worker.drops(DropReason::FragmentTimeout), 1);
            assert_eq!(told.len(), usize::from(has_first));
            assert_eq!(guest.worker.next_timeout(), None);
            if let [told] = told.as_slice() {
                let (own, host) = names(v4);
                assert_eq!((told.src, told.dst), (host, own));
                assert_eq!(told.bytes[..2], if v4 { [11, 1] } else { [3, 1] });
                let quoted = &told.bytes[8..];
                let (header, rest) = quoted.split_at(if v4 { 20 } else { 40 });
                assert_eq!(header[if v4 { 8 } else { 7 }], 33);
                assert!(body.starts_with(rest) && rest.len() > 400);
            }
        }
    }
}

/// Nobody is told of what went to a group, nor by whom there is none.
#[test]
fn incomplete_packets_for_groups() {
    let mut guest = Guest::new(PLAIN, 1500);
    let path = Path { dst: addr("224.0.0.251"), ..Guest::path(true) };
    send(&mut guest, [first(&path, 7)]);
    guest.now = guest.now + Duration::from_secs(31);
    assert!(guest.receive().is_empty());
    assert_eq!(guest.worker.drops(DropReason::FragmentTimeout), 1);
}

/// Requests that are answered inside, and metadata of a device, do not come with fragments.
#[test]
fn what_may_not_come_in_fragments() {
    let mut guest = Guest::served(PLAIN, 1500);
    let path = Path { dst: addr("255.255.255.255"), ..Guest::path(true) };
    let body = datagram(&path, (68, 67), &pattern(2000));
    send(&mut guest, frames(&path, protocol::UDP, 7, &body, 1500));
    assert_eq!((guest.worker.drops(DropReason::Fragment), guest.worker.flow_count()), (1, 0));
    let mut packet = Packet::from(first(&Guest::path(true), 8));
    packet.offload.needs_csum = true;
    guest.worker.context().core.link.from_guest.push_back(packet);
    guest.turn();
    assert_eq!(guest.worker.drops(DropReason::Offload), 1);
}

/// Whether routers may cut what a flow sends is what the guest said of its last packet.
#[test]
fn the_bit_that_forbids_fragments() {
    for v4 in [true, false] {
        let mut guest = Guest::new(PLAIN, 1500);
        let (server, port) = server(v4);
        let path = Guest::path(v4);
        let body = datagram(&path, (guest_port(), port), &pattern(2000));
        let mut buffer = [0; 9000];
        for (id, whole) in (1..).zip([true, false, false, true]) {
            if whole {
                guest.queue(v4, (guest_port(), port), b"whole", 0);
            } else {
                queue(&mut guest, frames(&path, protocol::UDP, id, &body, 1500));
            }
            guest.turn();
            let (_, from) = server.recv_from(&mut buffer).unwrap();
            let flow = common::own_socket(|_, at| at.port() == from.port() && at.is_ipv4() == v4);
            let told = if v4 {
                sockopt::ip_mtu_discover(&flow).unwrap() == Ipv4PathMtuDiscovery::PROBE
            } else {
                sockopt::ipv6_mtu_discover(&flow).unwrap() == Ipv6PathMtuDiscovery::PROBE
            };
            assert_eq!(told, whole);
        }
    }
}

/// What exceeds the MTU of the interface that it leaves through does not arrive if no router may
/// cut it, and the guest is told what would fit; in fragments it does. One datagram, several that
/// are cut by the kernel, and pings; through a flow's own socket.
#[test]
fn too_big_for_the_path() {
    if let Err(error) = common::own_network().and_then(|()| may_ping()) {
        return skip(&format!("no network of its own: {error}"));
    }
    common::loopback_mtu(1400);
    for (v4, caps) in KINDS {
        let mut guest = Guest::new(caps, 9000);
        let (server, port) = server(v4);
        server.set_nonblocking(true).unwrap();
        let path = Guest::path(v4);
        let fits = if v4 { 1372 } else { 1352 };
        let too_big = |guest: &mut Guest, first: [u8; 4]| {
            let told = guest.answers();
            assert_eq!(told.len(), 1, "{told:?}");
            let bytes = &told[0].bytes;
            assert_eq!(bytes[..2], if v4 { [3, 4] } else { [2, 0] });
            assert_eq!(bytes[4..8], [0, 0, 5, 120], "1400");
            let quoted = &bytes[8 + if v4 { 20 } else { 40 }..];
            assert_eq!(quoted[..4], first);
        };
        let ([a, b], [c, d]) = (guest_port().to_be_bytes(), port.to_be_bytes());
        let ports = [a, b, c, d];
        for len in [fits, fits + 1, 5000, fits] {
            guest.send(v4, (guest_port(), port), &pattern(len));
            let received = server.recv(&mut [0; 9000]).ok();
            assert_eq!(received, (len == fits).then_some(len));
            if len > fits {
                too_big(&mut guest, ports);
            } else {
                assert!(guest.receive().is_empty());
            }
        }
        let body = datagram(&path, (guest_port(), port), &pattern(5000));
        send(&mut guest, frames(&path, protocol::UDP, 7, &body, 1280));
        assert_eq!(server.recv(&mut [0; 9000]).ok(), Some(5000));
        assert!(guest.receive().is_empty());
        // Several at once, each too big or none of them.
        for segment in [fits, fits + 1] {
            let whole = pattern(segment * 4);
            guest.queue(v4, (guest_port(), port), &whole, u16::try_from(segment).unwrap());
            guest.turn();
            for _ in 0..4 {
                let received = server.recv(&mut [0; 9000]).ok();
                assert_eq!(received, (segment == fits).then_some(segment));
            }
            if segment > fits {
                too_big(&mut guest, ports);
            }
        }
        // Pings.
        let body = ping(&path, 0x1234, &pattern(5000));
        let mut header = [0; MAX_HEADERS];
        let end = path.emit(&mut header, path.icmp(), body.len()).unwrap();
        send(&mut guest, [[&header[..end], &body].concat()]);
        too_big(&mut guest, [body[0], 0, body[2], body[3]]);
        send(&mut guest, frames(&path, path.icmp(), 7, &body, 1280));
        assert!(guest.one().payload() == pattern(5000));
    }
}
