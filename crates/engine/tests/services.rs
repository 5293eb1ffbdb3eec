//! Which frames are for us, and which requests are answered.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod guest;

use std::net::Ipv6Addr;

use common::{ENGINE, addr, usual_limits};
use guest::{Guest, PLAIN};
use passt_engine::link::channel::Packet;
use passt_proto::drop::DropReason;
use passt_proto::wire::checksum::Sum;

const STATION: [u8; 6] = [4; 6];
const BROADCAST: [u8; 6] = [0xff; 6];

fn frame(dst: [u8; 6], src: [u8; 6], packet: &[u8]) -> Vec<u8> {
    [&dst[..], &src, packet].concat()
}

fn arp(src: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let packet = [&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1][..], &src, &sender, &[0; 6], &target].concat();
    frame(BROADCAST, src, &packet)
}

/// A neighbour solicitation; without a source that of duplicate address detection.
fn solicitation(src: [u8; 6], sender: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let group = addr("ff02::1:ff00:1");
    let mut message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat();
    let sum = Sum::pseudo(sender.into(), group, 58, message.len()).bytes(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255];
    let packet = [&header[..], &sender.octets(), &group.octets(), &message].concat();
    frame([0x33, 0x33, 0xff, 0, 0, 1], src, &packet)
}

/// What the guest gets for a frame.
fn answers(guest: &mut Guest, frame: Vec<u8>) -> Vec<Packet> {
    guest.worker.context().core.link.from_guest.push_back(frame.into());
    guest.turn();
    guest.worker.context().core.link.to_guest.drain(..).collect()
}

fn drops(guest: &mut Guest, reason: DropReason) -> u64 {
    guest.worker.context().core.counters.drops(reason)
}

/// A guest may take any address but those that we have, or that stand for somebody.
#[test]
fn probes_find_those_that_are_there() {
    let _limits = usual_limits();
    let mut guest = Guest::served(PLAIN, 1500);
    let any = [0; 4];
    for (target, is_there) in [
        ([192, 0, 2, 254], true),
        ([192, 0, 2, 1], true),
        ([192, 0, 2, 2], false),
        ([192, 0, 2, 77], false),
        ([169, 254, 3, 4], false),
    ] {
        let found = answers(&mut guest, arp(STATION, any, target));
        assert_eq!(found.len(), usize::from(is_there), "{target:?}");
        assert!(found.iter().all(|reply| reply.bytes[22..28] == ENGINE.0), "{target:?}");
    }
    let any = Ipv6Addr::UNSPECIFIED;
    for (target, is_there) in
        [("fe80::1", true), ("2001:db8::1", true), ("2001:db8::2", false), ("fe80::77", false)]
    {
        let found = answers(&mut guest, solicitation(STATION, any, target.parse().unwrap()));
        assert_eq!(found.len(), usize::from(is_there), "{target}");
        assert!(found.iter().all(|reply| reply.bytes[..6] == [0x33, 0x33, 0, 0, 0, 1]), "{target}");
    }
    let learnt = &guest.worker.context().core.guest.learnt;
    assert_eq!(learnt.link_local(), Some(addr("fe80::77")), "and not ours");
}

/// A station that asks for another one of the guest's is answered by that one.
#[test]
fn stations_of_the_guest_answer_for_themselves() {
    let _limits = usual_limits();
    let mut guest = Guest::served(PLAIN, 1500);
    let (one, other) = ([192, 0, 2, 50], [192, 0, 2, 51]);
    assert_eq!(answers(&mut guest, arp([6; 6], other, [192, 0, 2, 254])).len(), 1);
    assert_eq!(answers(&mut guest, arp(STATION, one, other)).len(), 0);
    assert_eq!(answers(&mut guest, arp(STATION, one, [192, 0, 2, 52])).len(), 1);
    let [one, other] = ["2001:db8::50", "2001:db8::51"].map(|a| a.parse::<Ipv6Addr>().unwrap());
    answers(&mut guest, solicitation([6; 6], other, "fe80::1".parse().unwrap()));
    assert_eq!(answers(&mut guest, solicitation(STATION, one, other)).len(), 0);
    assert_eq!(answers(&mut guest, solicitation([6; 6], one, other)).len(), 1, "it has moved");
    assert_eq!(drops(&mut guest, DropReason::NdpUnanswered), 1);
}

/// What a bridge floods, and priority tags.
#[test]
fn frames_for_us() {
    let _limits = usual_limits();
    let mut guest = Guest::served(PLAIN, 1500);
    let request = arp(STATION, [192, 0, 2, 50], [192, 0, 2, 254]);
    let to = |dst: [u8; 6]| [&dst[..], &request[6..]].concat();
    let tagged = |tag: u8| [&request[..12], &[0x81, 0, 0xe0, tag], &request[12..]].concat();
    for (frame, dropped) in [
        (to(ENGINE.0), None),
        (to(BROADCAST), None),
        (to([0x33, 0x33, 0, 0, 0, 1]), None),
        (to([6; 6]), Some(DropReason::MacDestination)),
        (to([0; 6]), Some(DropReason::MacDestination)),
        (tagged(0), None),
        (tagged(7), Some(DropReason::Vlan)),
    ] {
        let found = answers(&mut guest, frame.clone());
        assert_eq!(found.len(), usize::from(dropped.is_none()), "{frame:?}");
        assert!(found.iter().all(|reply| reply.bytes[12..14] == [8, 6]), "without a tag");
        let counted = dropped.map(|reason| drops(&mut guest, reason));
        assert!(counted != Some(0), "{dropped:?}");
    }
    assert_eq!(drops(&mut guest, DropReason::MacDestination), 2);
    let elsewhere = [&[6; 6][..], &arp([8; 6], [192, 0, 2, 60], [192, 0, 2, 254])[6..]].concat();
    answers(&mut guest, elsewhere);
    let learnt = &guest.worker.context().core.guest.learnt;
    assert_eq!(learnt.used(addr("192.0.2.60")), Some(addr("192.0.2.50")));
    assert!(!learnt.has_met(passt_proto::addr::Mac([8; 6])));
}

/// What the host knows of its neighbours is what the guest is told, and frames for them are for us.
#[test]
fn neighbours_of_the_host() {
    let _limits = usual_limits();
    let mut guest = Guest::served(PLAIN, 1500);
    let [one, other] = [[8; 6], [10; 6]].map(passt_proto::addr::Mac);
    let (asker, neighbour, v6) = ([192, 0, 2, 50], [192, 0, 2, 60], addr("2001:db8::60"));
    let told = |guest: &mut Guest, sender, target| {
        answers(guest, arp(STATION, sender, target)).first().map(|reply| reply.bytes[22..28].to_vec())
    };
    let to = |mac: [u8; 6]| [&mac[..], &arp(STATION, asker, [192, 0, 2, 254])[6..]].concat();
    assert_eq!(told(&mut guest, asker, neighbour), Some(ENGINE.0.to_vec()));
    assert_eq!(told(&mut guest, [0; 4], neighbour), None);
    assert!(answers(&mut guest, to(one.0)).is_empty());
    for at in [addr("192.0.2.60"), v6, addr("192.0.2.1"), addr("192.0.2.254"), addr("192.0.2.2")] {
        guest.worker.context().core.neighbour(at, Some(one));
    }
    assert_eq!(told(&mut guest, asker, neighbour), Some(one.0.to_vec()));
    assert_eq!(told(&mut guest, [0; 4], neighbour), Some(one.0.to_vec()), "a conflict");
    assert_eq!(told(&mut guest, asker, [192, 0, 2, 254]), Some(one.0.to_vec()), "the router");
    assert_eq!(told(&mut guest, asker, [192, 0, 2, 1]), Some(ENGINE.0.to_vec()), "it stands for the host");
    assert_eq!(told(&mut guest, [0; 4], [192, 0, 2, 2]), None, "the guest's own");
    assert_eq!(answers(&mut guest, to(one.0)).len(), 1);
    // They are announced when they change.
    for (at, mac, kind) in [(addr("192.0.2.60"), Some(other), 8), (v6, Some(other), 0x86), (v6, None, 0)] {
        guest.worker.context().core.neighbour(at, mac);
        let found: Vec<_> = guest.worker.context().core.link.to_guest.drain(..).collect();
        assert_eq!(found.len(), usize::from(mac.is_some()), "{at}");
        assert!(found.iter().all(|p| p.bytes[6..12] == other.0 && p.bytes[12] == kind), "{at}");
    }
    guest.worker.context().core.neighbour(addr("192.0.2.1"), Some(other));
    assert!(guest.worker.context().core.link.to_guest.is_empty(), "not for us to say");
}
