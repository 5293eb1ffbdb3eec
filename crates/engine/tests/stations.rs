//! Which of the guest's stations has an address, and which addresses it can't have.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod guest;

use std::io::Write as _;
use std::net::{Ipv6Addr, TcpListener};
use std::time::Duration;

use arrayvec::ArrayVec;
use common::{addr, guest_port, options, usual_limits};
use guest::{Connected, Guest, OFFLOAD, PLAIN, names, server};
use passt_engine::link::channel::{Channel, Packet};
use passt_engine::worker::Worker;
use passt_proto::addr::{Addr, Mac};
use passt_proto::guest::Configured;
use passt_proto::responder::{Services, V4};
use passt_proto::time::Instant;
use passt_proto::wire::build::{MAX_HEADERS, Path};
use passt_proto::wire::checksum::Sum;

const OTHER: Mac = Mac([6; 6]);

/// A datagram from `src` at a station, to a port of the host.
fn send(guest: &mut Guest, station: Mac, src: Addr, port: u16) {
    let mut header = [0; MAX_HEADERS];
    let path = Path { src_mac: station, src, ..Guest::path(src.is_v4()) };
    let (len, offload) = path.emit_udp(&mut header, (guest_port(), port), 1, 0).unwrap();
    let bytes = [&header[..len], b"?"].concat();
    guest.worker.context().core.link.from_guest.push_back(Packet { bytes, offload });
    guest.turn();
}

fn station(guest: &mut Guest, at: Addr) -> Option<Mac> {
    guest.worker.context().core.guest.learnt.station_of(at)
}

/// A card that replaces another may say nothing but that it looks whether others have its address.
#[test]
fn an_address_moves_with_duplicate_address_detection() {
    let _limits = usual_limits();
    let mut guest = Guest::new(PLAIN, 1500);
    let v6 = names(false).0;
    send(&mut guest, Mac([4; 6]), v6, 9);
    assert_eq!(station(&mut guest, v6), Some(Mac([4; 6])));
    let (src, dst) = (Ipv6Addr::UNSPECIFIED, addr("ff02::1:ff00:2"));
    let mut message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &v6.octets()].concat();
    let sum = Sum::pseudo(src.into(), dst, 58, message.len()).bytes(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [0x60, 0, 0, 0, 0, 24, 58, 255];
    let frame =
        [&[0x33, 0x33, 0, 0, 0, 1], &OTHER.0[..], &[0x86, 0xdd], &header, &src.octets(), &dst.octets()];
    let frame = [frame.concat(), message].concat();
    guest.worker.context().core.link.from_guest.push_back(frame.into());
    guest.turn();
    assert_eq!(station(&mut guest, v6), Some(OTHER));
}

/// A guest has more addresses than are kept in mind: those that talk to us have their own station
/// nevertheless.
#[test]
fn a_connection_keeps_its_station_among_many() {
    let _limits = usual_limits();
    let mut guest = Guest::new(OFFLOAD, 1500);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let Connected { mut peer, .. } = guest.connect(&listener, 40_000);
    let (_server, port) = server(true);
    for host in 100..=140 {
        send(&mut guest, OTHER, addr(&format!("192.0.2.{host}")), port);
    }
    guest.worker.context().core.link.to_guest.clear();
    peer.write_all(b"hello").unwrap();
    guest.turn();
    let segments: Vec<_> = guest.worker.context().core.link.to_guest.drain(..).collect();
    let stations: Vec<_> = segments.iter().filter(|p| p.bytes[23] == 6).map(|p| &p.bytes[..6]).collect();
    assert_eq!(stations, [&[4; 6]]);
}

/// Whoever sends from an address that stands for us, or for the host, does not have it.
#[test]
fn names_are_nobodys_addresses() {
    let _limits = usual_limits();
    for name in ["192.0.2.1", "192.0.2.254", "2001:db8::1"] {
        let mut guest = Guest::new(PLAIN, 1500);
        let (_server, port) = server(name.len() < 12);
        send(&mut guest, Mac([4; 6]), addr(name), port);
        let learnt = &guest.worker.context().core.guest.learnt;
        assert_eq!(learnt.used(addr(name)), None, "{name}");
    }
}

/// A station that was never heard before may have an address of another: whoever has it is asked,
/// but no more than once a second.
#[test]
fn who_has_the_address_is_asked_when_strangers_come() {
    let mut options = options(1500, &Configured::default(), 64);
    let (ours, theirs) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
    let v4 = V4 { addr: theirs, prefix_len: 24, gateway: ours, our_addr: ours, dns: ArrayVec::default() };
    options.services.v4 = Some(v4);
    options.services.services = Services::empty();
    let mut now = Instant::from_millis(1000);
    let mut worker = Worker::new(Channel::plain(), &options, now).unwrap();
    let mut requests = |worker: &mut Worker<Channel>, ms, stations: &[u8]| {
        now = now + Duration::from_millis(ms);
        let link = &mut worker.context().core.link;
        for &last in stations {
            // Something that is not served: RARP.
            let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, last], &[0x80, 0x35], &[0; 46]].concat();
            link.from_guest.push_back(frame.into());
        }
        worker.turn(now).unwrap();
        let link = &mut worker.context().core.link;
        link.to_guest.drain(..).filter(|packet| packet.bytes[12..14] == [8, 6]).count()
    };
    for (ms, stations, asked) in [
        (0, &[][..], 1),
        (5000, &[1], 0),
        (0, &[1, 1], 0),
        (0, &[2], 1),
        (100, &[3, 4], 0),
        (899, &[5], 0),
        (1, &[], 1),
        (5000, &[], 0),
        (0, &[1, 6], 1),
    ] {
        assert_eq!(requests(&mut worker, ms, stations), asked, "{ms} {stations:?}");
    }
}

/// Who takes an address from another is believed, and whoever has it is asked, however long both
/// are known.
#[test]
fn who_has_the_address_is_asked_when_it_moves() {
    let _limits = usual_limits();
    for v4 in [true, false] {
        let mut guest = Guest::served(PLAIN, 1500);
        let (_server, port) = server(v4);
        let (own, second) = (names(v4).0, addr(if v4 { "192.0.2.77" } else { "2001:db8::77" }));
        let mut asked = |mac: u8, from, ms| {
            guest.now = guest.now + Duration::from_millis(ms);
            guest.worker.context().core.link.to_guest.clear();
            send(&mut guest, Mac([mac; 6]), from, port);
            let sent = guest.worker.context().core.link.to_guest.drain(..);
            let is_arp = |p: &Packet| p.bytes[12..14] == [8, 6] && p.bytes[21] == 1;
            let is_ndp = |p: &Packet| p.bytes[20] == 58 && p.bytes[54] == 135;
            sent.filter(if v4 { is_arp } else { is_ndp }).count()
        };
        asked(4, own, 5000);
        asked(6, second, 5000);
        for (mac, from, ms, times) in
            [(4, own, 5000, 0), (6, second, 0, 0), (6, own, 0, 1), (6, own, 2000, 0), (4, own, 0, 1)]
        {
            assert_eq!(asked(mac, from, ms), times, "{v4} {mac} {from} {ms}");
        }
    }
}

/// What has our own station as its source is nobody's.
#[test]
fn our_own_station_is_not_the_guests() {
    let _limits = usual_limits();
    let mut guest = Guest::new(PLAIN, 1500);
    let (_server, port) = server(true);
    let (own, ours) = (names(true).0, Guest::path(true).dst_mac);
    send(&mut guest, Mac([4; 6]), own, port);
    send(&mut guest, ours, own, port);
    assert_eq!(station(&mut guest, own), Some(Mac([4; 6])));
}

/// Stations of the frames that the guest gets for datagrams that `server` got and answers.
fn answered(guest: &mut Guest, server: &std::net::UdpSocket, count: usize) -> Vec<(u16, u8)> {
    let mut buffer = [0; 10];
    for _ in 0..count {
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(b"!", from).unwrap();
    }
    let mut found = Vec::new();
    while found.len() < count {
        guest.turn();
        let sent = guest.worker.context().core.link.to_guest.drain(..);
        let sent = sent.filter(|p| p.bytes[12..14] == [8, 0] && p.bytes[23] == 17);
        found.extend(sent.map(|p| (u16::from_be_bytes([p.bytes[36], p.bytes[37]]), p.bytes[0])));
    }
    found.sort_unstable();
    found
}

/// A datagram from `station`, at the guest's address and `port`.
fn send_from(guest: &mut Guest, station: u8, port: u16, to: u16) {
    let mut header = [0; MAX_HEADERS];
    let path = Path { src_mac: Mac([station; 6]), ..Guest::path(true) };
    let (len, offload) = path.emit_udp(&mut header, (port, to), 1, 0).unwrap();
    let bytes = [&header[..len], b"?"].concat();
    guest.worker.context().core.link.from_guest.push_back(Packet { bytes, offload });
    guest.turn();
}

/// ARP that claims the guest's address for `station`.
fn claim(guest: &mut Guest, station: u8) {
    let (mac, at) = ([station; 6], [192, 0, 2, 2]);
    let packet = [&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1][..], &mac, &at, &[0; 6], &at].concat();
    let frame = [&[0xff; 6][..], &mac, &packet].concat();
    guest.worker.context().core.link.from_guest.push_back(frame.into());
    guest.turn();
}

/// Two stations with one address have flows of their own, until one of them claims the address.
#[test]
fn flows_stay_with_their_station() {
    let _limits = usual_limits();
    let mut guest = Guest::served(PLAIN, 1500);
    let (server, port) = server(true);
    claim(&mut guest, 4);
    send_from(&mut guest, 4, 41_004, port);
    send_from(&mut guest, 6, 41_006, port);
    assert_eq!(answered(&mut guest, &server, 2), [(41_004, 4), (41_006, 6)]);
    send_from(&mut guest, 6, 41_006, port);
    send_from(&mut guest, 4, 41_004, port);
    assert_eq!(answered(&mut guest, &server, 2), [(41_004, 4), (41_006, 6)]);
    // A flow moves with its frames.
    send_from(&mut guest, 6, 41_004, port);
    assert_eq!(answered(&mut guest, &server, 1), [(41_004, 6)]);
    // Another card: flows go there, whatever they sent before.
    send_from(&mut guest, 4, 41_004, port);
    send_from(&mut guest, 6, 41_006, port);
    claim(&mut guest, 8);
    assert_eq!(answered(&mut guest, &server, 2), [(41_004, 8), (41_006, 8)]);
}

/// The same of connections.
#[test]
fn connections_stay_with_their_station() {
    let _limits = usual_limits();
    let mut guest = Guest::served(OFFLOAD, 1500);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let Connected { mut peer, remote, next, .. } = guest.connect(&listener, 40_000);
    let mut hello = |guest: &mut Guest| {
        guest.worker.context().core.link.to_guest.clear();
        peer.write_all(b"hello").unwrap();
        guest.turn();
        let sent = guest.worker.context().core.link.to_guest.drain(..);
        sent.filter(|p| p.bytes[12..14] == [8, 0] && p.bytes[23] == 6).map(|p| p.bytes[0]).collect::<Vec<_>>()
    };
    send_from(&mut guest, 6, 41_006, 9);
    assert_eq!(hello(&mut guest), [4]);
    claim(&mut guest, 6);
    assert_eq!(hello(&mut guest), [6]);
    guest.segment(remote, &next, &[]);
    guest.turn();
    assert_eq!(hello(&mut guest), [4]);
}
