//! A link that does more by itself, or less, from one batch to the next: what there is goes on as
//! if nothing had happened.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod guest;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use common::{free_port, guest_port, open, pattern, rule, send_joined};
use guest::{Connected, Guest, OFFLOAD, PLAIN, server};
use passt_engine::flow::Protocol;
use passt_engine::link::Caps;
use passt_proto::classify::{Class, classify};
use passt_proto::seq::Seq;
use passt_proto::wire::tcp::Segment;

fn set(guest: &mut Guest, caps: Caps) {
    guest.worker.context().core.link.caps = caps;
}

/// Two messages of three datagrams each, which their kernel keeps joined.
fn send_twice(from: &UdpSocket) {
    for _ in 0..2 {
        send_joined(from, &pattern(3000), 1000, None);
    }
}

/// How many frames the guest gets for these.
fn frames_of_two(guest: &mut Guest) -> usize {
    guest.frames = 0;
    let mut all = guest.receive();
    all.append(&mut guest.receive());
    let whole: Vec<u8> = all.iter().flat_map(|packet| packet.payload().iter().copied()).collect();
    assert!(whole == pattern(3000).repeat(2));
    assert_eq!(all.iter().map(|packet| packet.payload().len()).collect::<Vec<_>>(), [1000; 6]);
    guest.frames
}

/// A flow with a socket of its own, or that of a forwarded port, and who sends to the guest there.
fn flow(guest: &mut Guest, forwarded: bool) -> UdpSocket {
    let (peer, port) = server(true);
    if forwarded {
        let port = free_port();
        let rules = vec![rule(None, port, 7)];
        let listeners = open(Protocol::Udp, rules).unwrap();
        guest.worker.listen(listeners).unwrap();
        peer.connect(("127.0.0.1", port)).unwrap();
    } else {
        guest.send(true, (guest_port(), port), b"?");
        let (_, from) = peer.recv_from(&mut [0; 9]).unwrap();
        peer.connect(from).unwrap();
    }
    peer
}

/// Sockets that are there already have datagrams joined as soon as that is of use. Those that are
/// joined when it is not any more arrive one by one.
#[test]
fn datagrams_are_joined_once_the_link_takes_that() {
    for forwarded in [false, true] {
        let mut guest = Guest::new(PLAIN, 1500);
        let peer = flow(&mut guest, forwarded);
        send_twice(&peer);
        assert_eq!(frames_of_two(&mut guest), 6);
        for _ in 0..2 {
            set(&mut guest, OFFLOAD);
            guest.turn();
            send_twice(&peer);
            assert_eq!(frames_of_two(&mut guest), 2, "joined by the sender's kernel, and by no other");
            send_twice(&peer);
            set(&mut guest, PLAIN);
            assert_eq!(frames_of_two(&mut guest), 6);
        }
    }
}

/// What the guest left to us before the link changed is done afterwards.
#[test]
fn super_frames_of_the_guest_that_are_older() {
    let mut guest = Guest::new(OFFLOAD, 1500);
    let (peer, port) = server(true);
    guest.queue(true, (guest_port(), port), &pattern(5000), 1400);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut conn = guest.connect(&listener, 40_001);
    guest.queue(true, (guest_port(), port), &pattern(5000), 1400);
    guest.segment(conn.remote, &conn.next, &pattern(20_000));
    set(&mut guest, PLAIN);
    guest.turn();
    for len in [1400, 1400, 1400, 800].repeat(2) {
        assert_eq!(peer.recv(&mut [0; 5000]).unwrap(), len);
    }
    let mut bytes = vec![0; 20_000];
    conn.peer.read_exact(&mut bytes).unwrap();
    assert!(bytes == pattern(20_000));
}

/// Segments that the guest gets next, each with its bytes.
fn segments(guest: &mut Guest) -> Vec<(Segment, usize)> {
    for _ in 0..1000 {
        guest.turn();
        let packets: Vec<_> = guest.worker.context().core.link.to_guest.drain(..).collect();
        if !packets.is_empty() {
            return packets.iter().map(|packet| segment(&packet.bytes)).collect();
        }
    }
    panic!("no answer");
}

fn segment(frame: &[u8]) -> (Segment, usize) {
    match classify(frame, frame.len()).unwrap() {
        Class::Tcp { segment, payload, .. } => (segment, payload.len()),
        other => panic!("{other:?}"),
    }
}

/// What a connection sends is what the link takes at that moment, sent for the first time or again.
#[test]
fn segments_are_cut_as_the_link_says_now() {
    // No other was agreed on.
    const MSS: usize = 536;
    let mut guest = Guest::new(PLAIN, 1500);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let Connected { mut peer, mut next, remote, .. } = guest.connect(&listener, 40_000);
    for caps in [PLAIN, OFFLOAD, PLAIN, OFFLOAD] {
        set(&mut guest, caps);
        peer.write_all(&pattern(10_000)).unwrap();
        let mut lens = Vec::new();
        while lens.iter().sum::<usize>() < 10_000 {
            for (segment, len) in segments(&mut guest) {
                assert_eq!(segment.seq, next.ack);
                next.ack = segment.seq + u32::try_from(len).unwrap();
                lens.push(len);
            }
        }
        assert_eq!(lens.iter().all(|&len| len <= MSS), caps == PLAIN, "{lens:?}");
        guest.segment(remote, &next, &[]);
        guest.turn();
    }
    // A super-frame that is lost, on a link that takes no more of them.
    peer.write_all(&pattern(10_000)).unwrap();
    let (first, len) = segments(&mut guest)[0];
    assert!(len > MSS);
    set(&mut guest, PLAIN);
    guest.now = guest.now + Duration::from_secs(3);
    let again = segments(&mut guest);
    assert_eq!(again[0].0.seq, first.seq);
    assert!(again.iter().all(|&(_, len)| (1..=MSS).contains(&len)));
}

/// Reads what there is.
fn drain(peer: &mut TcpStream) {
    let error = peer.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

/// A device with a short queue is promised less, but for what it was promised before.
#[test]
fn the_right_edge_of_a_window_never_moves_back() {
    const LIMIT: u32 = 10_000;
    let limited = Caps { queue_limit: Some(LIMIT as usize), ..PLAIN };
    let mut guest = Guest::new(OFFLOAD, 1500);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let Connected { mut peer, mut next, remote, window } = guest.connect(&listener, 40_000);
    peer.set_nonblocking(true).unwrap();
    let (mut acked, mut edge) = (next.seq, next.seq + window);
    for (caps, promised) in [(limited, 0..=LIMIT), (OFFLOAD, 60_000..=65_535), (limited, 0..=LIMIT)] {
        set(&mut guest, caps);
        for _ in 0..200 {
            if edge.distance(next.seq) >= 1000 {
                guest.segment(remote, &next, &pattern(1000));
                next.seq += 1000;
            }
            for packet in guest.receive() {
                let (segment, _) = Segment::parse(&packet.bytes).unwrap();
                let right = segment.ack + u32::from(segment.window);
                assert_eq!(right.max(edge), right, "it was promised");
                (acked, edge) = (segment.ack, right);
            }
            drain(&mut peer);
            guest.now = guest.now + Duration::from_millis(1);
        }
        assert!(promised.contains(&edge.distance(acked)), "{} promised", edge.distance(acked));
    }
    assert!(acked.distance(Seq(1001)) > 200_000);
}

/// What is longer than a link has room for comes in fragments, whatever the guest's MTU may be.
#[test]
fn packets_that_have_no_room() {
    for v4 in [true, false] {
        for (limit, frames) in [(None, 1), (Some(1500), 3)] {
            let mut guest = Guest::new(Caps { packet_limit: limit, ..PLAIN }, 65_520);
            let (server, port) = server(v4);
            guest.send(v4, (guest_port(), port), b"?");
            let (_, from) = server.recv_from(&mut [0; 9]).unwrap();
            let payload: Vec<u8> = (0..4000u32).map(|i| i.to_le_bytes()[0]).collect();
            server.send_to(&payload, from).unwrap();
            guest.turn();
            let got: Vec<_> = guest.worker.context().core.link.to_guest.drain(..).collect();
            let lens: Vec<_> = got.iter().map(|packet| packet.bytes.len() - 14).collect();
            assert_eq!(lens.len(), frames, "{lens:?}");
            assert!(lens.iter().all(|len| *len <= limit.unwrap_or(65_520)), "{lens:?}");
        }
    }
}
