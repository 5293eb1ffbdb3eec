//! Multicast groups in virtual time: a guest in memory on one side, the loopback interface of a
//! network of the test's own on the other.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod guest;

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use common::{ENGINE, guest_port, own_network};
use guest::{Guest, PLAIN};
use passt_engine::link::channel::Packet;
use passt_proto::addr::Mac;
use passt_proto::drop::DropReason;
use passt_proto::wire::build::{MAX_HEADERS, Path};
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::ethernet;
use passt_testing::skip;

const LOOPBACK: u32 = 1;
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
const SSDP: u16 = 1900;
const IS_EX: u8 = 2;
const TO_IN: u8 = 3;
const TO_EX: u8 = 4;

/// A guest whose groups are joined on loopback, and a socket of the host that sends there.
fn started() -> Option<(Guest, UdpSocket)> {
    if own_network().is_err() {
        skip("a network of its own needs root");
        return None;
    }
    let mut guest = Guest::served(PLAIN, 1500);
    guest.worker.context().core.guest.change(|guest| guest.configured.v4.groups = Some(LOOPBACK));
    let host = UdpSocket::bind("127.0.0.1:0").unwrap();
    passt_sys::groups::leave_by(host.as_fd(), false, LOOPBACK).unwrap();
    Some((guest, host))
}

/// Reports what records say of groups: kind, group, sources.
fn report(guest: &mut Guest, records: &[(u8, Ipv4Addr, &[Ipv4Addr])]) {
    let [high, low] = u16::try_from(records.len()).unwrap().to_be_bytes();
    let mut message = vec![0x22, 0, 0, 0, 0, 0, high, low];
    for (kind, group, sources) in records {
        message.extend([*kind, 0, 0, u8::try_from(sources.len()).unwrap()]);
        message.extend([group].into_iter().chain(*sources).flat_map(Ipv4Addr::octets));
    }
    let sum = Sum::new().bytes(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut header = [0; MAX_HEADERS];
    let to = Ipv4Addr::new(224, 0, 0, 22);
    let path = Path { dst: to.into(), ttl: 1, ..Guest::path(true) };
    let len = path.emit(&mut header, 2, message.len()).unwrap();
    guest.worker.context().core.link.from_guest.push_back([&header[..len], &message].concat().into());
    guest.turn();
}

/// Frames that the guest got since, of this protocol.
fn frames(guest: &mut Guest, protocol: u8) -> Vec<Packet> {
    guest.turn();
    let all = guest.worker.context().core.link.to_guest.drain(..);
    all.filter(|p| p.bytes[12..14] == [8, 0] && p.bytes[ethernet::LEN + 9] == protocol).collect()
}

fn datagrams(guest: &mut Guest) -> usize {
    frames(guest, 17).len()
}

fn drops(guest: &Guest, reason: DropReason) -> u64 {
    guest.worker.drops(reason)
}

#[test]
fn join_hear_and_leave() {
    let Some((mut guest, host)) = started() else { return };
    let say = |ttl| {
        host.set_multicast_ttl_v4(ttl).unwrap();
        host.send_to(b"hello", (GROUP, SSDP)).unwrap();
    };
    say(1);
    assert_eq!(datagrams(&mut guest), 0);
    report(&mut guest, &[(TO_EX, GROUP, &[])]);
    for ttl in [1, 4, 255] {
        say(ttl);
        let found = frames(&mut guest, 17);
        assert_eq!(found.len(), 1);
        let frame = &found[0].bytes;
        assert_eq!(frame[..12], [[1, 0, 0x5e, 0x7f, 0xff, 0xfa], ENGINE.0].concat());
        assert_eq!((u32::from(frame[22]), &frame[30..34]), (ttl, &GROUP.octets()[..]));
    }
    // Who leaves is asked whether others stay, twice.
    report(&mut guest, &[(TO_IN, GROUP, &[])]);
    for (after, asked, heard) in [(0, 1, 1), (1, 1, 1), (1, 0, 0)] {
        guest.now = guest.now + Duration::from_secs(after);
        assert_eq!(frames(&mut guest, 2).len(), asked);
        say(1);
        assert_eq!(datagrams(&mut guest), heard);
    }
}

#[test]
fn what_is_not_renewed_ends_and_is_asked_for_before() {
    let Some((mut guest, host)) = started() else { return };
    report(&mut guest, &[(IS_EX, GROUP, &[])]);
    let mut asked = 0;
    for _ in 0..260 {
        host.send_to(b"hello", (GROUP, SSDP)).unwrap();
        guest.turn();
        asked += frames(&mut guest, 2).len();
        guest.now = guest.now + Duration::from_secs(1);
    }
    assert_eq!(asked, 2, "every 125 seconds");
    guest.turn();
    frames(&mut guest, 17);
    host.send_to(b"hello", (GROUP, SSDP)).unwrap();
    assert_eq!(datagrams(&mut guest), 0);
    guest.now = guest.now + Duration::from_secs(1000);
    frames(&mut guest, 2);
    guest.now = guest.now + Duration::from_secs(1000);
    assert_eq!(frames(&mut guest, 2).len(), 0, "nobody is in a group");
}

#[test]
fn sources_that_are_wanted() {
    let Some((mut guest, host)) = started() else { return };
    let (own, other) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2));
    for (kind, sources, heard) in
        [(1, &[own][..], 1), (TO_EX, &[own], 0), (TO_EX, &[other], 1), (5, &[own], 1)]
    {
        report(&mut guest, &[(kind, GROUP, sources)]);
        // Until those who may still want a source have had time to say so.
        guest.now = guest.now + Duration::from_secs(3);
        guest.turn();
        datagrams(&mut guest);
        host.send_to(b"hello", (GROUP, SSDP)).unwrap();
        assert_eq!(datagrams(&mut guest), heard, "{kind} {sources:?}");
    }
}

/// What the guest sends to a group does not come back, from the group's port and from others; a
/// program of the host that sends the same is heard.
#[test]
fn no_echo() {
    let Some((mut guest, _host)) = started() else { return };
    report(&mut guest, &[(TO_EX, GROUP, &[])]);
    let send = |guest: &mut Guest, from: u16| {
        let mut header = [0; MAX_HEADERS];
        let path =
            Path { dst: GROUP.into(), dst_mac: Mac([1, 0, 0x5e, 0x7f, 0xff, 0xfa]), ..Guest::path(true) };
        let (len, offload) = path.emit_udp(&mut header, (from, SSDP), 5, 0).unwrap();
        let bytes = [&header[..len], b"hello"].concat();
        guest.worker.context().core.link.from_guest.push_back(Packet { bytes, offload });
    };
    for (round, from) in [(1, SSDP), (2, 40_000)] {
        for _ in 0..300 {
            send(&mut guest, from);
        }
        for _ in 0..20 {
            assert_eq!(datagrams(&mut guest), 0, "{from}");
        }
        assert_eq!(drops(&guest, DropReason::GroupEcho), 300 * round);
    }
    assert_eq!(drops(&guest, DropReason::GroupLimit), 0);
}

/// However much the guest reports, so much is kept and no more.
#[test]
fn floods_of_reports() {
    let Some((mut guest, host)) = started() else { return };
    for round in 0..200_u8 {
        let groups: Vec<Ipv4Addr> = (0..100).map(|last| Ipv4Addr::new(239, round, 0, last)).collect();
        let records: Vec<(u8, Ipv4Addr, &[Ipv4Addr])> =
            groups.iter().map(|&group| (TO_EX, group, &[][..])).collect();
        report(&mut guest, &records);
    }
    assert!(drops(&guest, DropReason::GroupLimit) >= 200 * 100 - 64);
    guest.now = guest.now + Duration::from_secs(261);
    guest.turn();
    report(&mut guest, &[(TO_EX, GROUP, &[])]);
    datagrams(&mut guest);
    host.send_to(b"hello", (GROUP, SSDP)).unwrap();
    assert_eq!(datagrams(&mut guest), 1);
}

/// However many groups and ports of them the guest has, multicast DNS is heard.
#[test]
fn floods_leave_room_for_well_known_groups() {
    let Some((mut guest, host)) = started() else { return };
    let groups: Vec<Ipv4Addr> = (0..100).map(|last| Ipv4Addr::new(239, 0, 0, last)).collect();
    let records: Vec<(u8, Ipv4Addr, &[Ipv4Addr])> =
        groups.iter().map(|&group| (TO_EX, group, &[][..])).collect();
    report(&mut guest, &records);
    let mdns = Ipv4Addr::new(224, 0, 0, 251);
    let send = |guest: &mut Guest, group: Ipv4Addr, port: u16| {
        let mut header = [0; MAX_HEADERS];
        let path = Path { dst: group.into(), ..Guest::path(true) };
        let (len, offload) = path.emit_udp(&mut header, (guest_port(), port), 5, 0).unwrap();
        let bytes = [&header[..len], b"hello"].concat();
        guest.worker.context().core.link.from_guest.push_back(Packet { bytes, offload });
        guest.turn();
    };
    for group in groups {
        for port in 1000..1008 {
            send(&mut guest, group, port);
        }
    }
    assert!(drops(&guest, DropReason::GroupLimit) > 0);
    report(&mut guest, &[(TO_EX, mdns, &[])]);
    datagrams(&mut guest);
    host.send_to(b"hello", (mdns, 5353)).unwrap();
    assert_eq!(datagrams(&mut guest), 1);
    // Other ports of such a group are no well-known ones.
    for port in 1000..1008 {
        send(&mut guest, mdns, port);
    }
    report(&mut guest, &[(TO_EX, GROUP, &[])]);
    datagrams(&mut guest);
    host.send_to(b"hello", (GROUP, SSDP)).unwrap();
    assert_eq!(datagrams(&mut guest), 1);
}
