use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::classify::from_station;
use crate::wire::build::{MAX_HEADERS, Path};
use crate::wire::decode::{Decoded, decode};
use crate::wire::ip::protocol;

mod custom;

pub(crate) const OURS: Mac = Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]);
pub(crate) const GUEST: Mac = Mac([2, 0, 0, 0, 0, 2]);
pub(crate) const GUEST_LL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x22);
pub(crate) const OUR_LL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const OTHER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x99);

/// Everything on, documentation addresses.
pub(crate) fn config() -> Config {
    let name = |text: &str| Name::from(text).unwrap();
    Config {
        our_mac: OURS,
        mtu: 1500,
        v4: Some(V4 {
            addr: Ipv4Addr::new(192, 0, 2, 15),
            prefix_len: 24,
            gateway: Ipv4Addr::new(192, 0, 2, 1),
            our_addr: Ipv4Addr::new(192, 0, 2, 1),
            dns: [Ipv4Addr::new(198, 51, 100, 53)].into_iter().collect(),
        }),
        v6: Some(V6 {
            addr: Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x15),
            prefix_len: 64,
            our_ll: OUR_LL,
            dns: [Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53)].into_iter().collect(),
        }),
        search: [name("example.org"), name("lab.example.org")].into_iter().collect(),
        hostname: Some(name("guest")),
        fqdn: Some(name("guest.example.org")),
        services: Services::all(),
        custom: Custom::default(),
    }
}

/// The reply to a frame, or why there is none.
fn reply(cfg: &Config, frame: &[u8]) -> Result<Vec<u8>, DropReason> {
    let (source, class) = from_station(frame)?;
    let mut out = [0xee; 1600];
    let len = respond(cfg, None, source, &class, frame, |_| Holder::Unknown, &mut out).unwrap().reply?;
    Ok(out[..len].to_vec())
}

fn arp_frame(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = [[0xff; 6], GUEST.0].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(GUEST.0);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

#[test]
fn arp_answers_for_everybody_else() {
    let (guest, gateway, other) = ([192, 0, 2, 15], [192, 0, 2, 1], [192, 0, 2, 77]);
    for (sender, target) in [(guest, gateway), (guest, other), ([0; 4], gateway)] {
        let answer = reply(&config(), &arp_frame(1, sender, target)).unwrap();
        let mut expected = [GUEST.0, OURS.0].concat();
        expected.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        expected.extend(OURS.0);
        expected.extend(target);
        expected.extend(GUEST.0);
        expected.extend(sender);
        expected.resize(60, 0);
        assert_eq!(answer, expected);
    }
}

#[test]
fn arp_without_answer() {
    let (guest, gateway) = ([192, 0, 2, 15], [192, 0, 2, 1]);
    let frames = [
        arp_frame(2, guest, gateway),
        arp_frame(1, gateway, gateway),
        arp_frame(1, [0; 4], guest),
        arp_frame(1, [0; 4], [192, 0, 2, 77]),
        arp_frame(1, [0; 4], [169, 254, 7, 7]),
        arp_frame(1, gateway, guest),
        arp_frame(1, guest, [255; 4]),
        arp_frame(1, guest, [0; 4]),
    ];
    for frame in frames {
        assert_eq!(reply(&config(), &frame), Err(DropReason::ArpUnanswered));
    }
    let mut token_ring = arp_frame(1, guest, gateway);
    token_ring[15] = 6;
    assert_eq!(reply(&config(), &token_ring), Err(DropReason::ArpFormat));
    let off = Config { v4: None, ..config() };
    assert_eq!(reply(&off, &arp_frame(1, guest, gateway)), Err(DropReason::ServiceOff));
}

/// Who has an address decides whether a request for it, or a probe, is answered, and with which
/// link-layer address.
#[test]
fn who_has_an_address() {
    let known = Mac([2, 7, 7, 7, 7, 7]);
    let (guest, other, gateway) = ([192, 0, 2, 15], [192, 0, 2, 77], [192, 0, 2, 1]);
    let none = Ipv6Addr::UNSPECIFIED;
    let v6 = |src, target| ndp_frame(src, 255, &solicitation(target, &[]));
    let cases = [
        (arp_frame(1, guest, other), Holder::Unknown, Some(OURS)),
        (arp_frame(1, guest, other), Holder::Known(known), Some(known)),
        (arp_frame(1, guest, other), Holder::Guest, None),
        (arp_frame(1, [0; 4], other), Holder::Unknown, None),
        (arp_frame(1, [0; 4], other), Holder::Known(known), Some(known)),
        (arp_frame(1, [0; 4], gateway), Holder::Unknown, Some(OURS)),
        (arp_frame(1, [0; 4], gateway), Holder::Known(known), Some(known)),
        (arp_frame(1, guest, gateway), Holder::Guest, Some(OURS)),
        (v6(GUEST_LL, OTHER), Holder::Unknown, Some(OURS)),
        (v6(GUEST_LL, OTHER), Holder::Known(known), Some(known)),
        (v6(GUEST_LL, OTHER), Holder::Guest, None),
        (v6(none, OTHER), Holder::Unknown, None),
        (v6(none, OTHER), Holder::Known(known), Some(known)),
        (v6(none, OUR_LL), Holder::Guest, Some(OURS)),
        (v6(GUEST_LL, OUR_LL), Holder::Known(known), Some(OURS)),
    ];
    for (number, (frame, holder, expected)) in cases.into_iter().enumerate() {
        let (source, class) = from_station(&frame).unwrap();
        let mut out = [0; 100];
        let reply = respond(&config(), None, source, &class, &frame, |_| holder, &mut out).unwrap().reply;
        let told = reply.ok().map(|len| if out[13] == 6 { &out[22..28] } else { &out[len - 6..len] });
        assert_eq!(told, expected.as_ref().map(|mac| &mac.0[..]), "{number}");
        assert_eq!(told.map(|_| &out[6..12]), told, "{number}");
    }
}

/// What looks whether our address is taken is told so, and everybody with it (RFC 4862, section
/// 5.4.3).
#[test]
fn our_address_is_defended() {
    let detection = ndp_frame(Ipv6Addr::UNSPECIFIED, 255, &solicitation(OUR_LL, &[]));
    let answer = decode(&reply(&config(), &detection).unwrap());
    assert_eq!(answer.dst, "ff02::1".parse::<Ipv6Addr>().unwrap());
    assert_eq!((answer.dst_mac, answer.src), ([0x33, 0x33, 0, 0, 0, 1], OUR_LL.into()));
    assert_eq!((answer.payload[0], answer.payload[4]), (136, 0xa0), "not solicited");
    assert_eq!(answer.payload[8..24], OUR_LL.octets());
}

#[test]
fn arp_of_our_own() {
    let mut out = [0; 60];
    assert_eq!(arp::request(&config(), &mut out), Ok(60));
    assert_eq!(out[..6], [0xff; 6]);
    assert_eq!(out[28..32], [192, 0, 2, 1]);
    assert_eq!(out[38..42], [192, 0, 2, 15]);
    assert_eq!(arp::request(&config(), &mut out[..59]), Err(DropReason::NoRoom));
}

/// A frame with a message of neighbour discovery, its checksum right.
fn ndp_frame(src: Ipv6Addr, hop_limit: u8, message: &[u8]) -> Vec<u8> {
    let path = Path {
        src_mac: GUEST,
        dst_mac: OURS,
        src: src.into(),
        dst: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2).into(),
        ttl: hop_limit,
        traffic_class: 0,
    };
    let sum = crate::wire::checksum::Sum::pseudo(path.src, path.dst, protocol::ICMPV6, message.len());
    let check = sum.bytes(message).finish().to_be_bytes();
    let mut header = [0; MAX_HEADERS];
    let len = path.emit(&mut header, protocol::ICMPV6, message.len()).unwrap();
    let mut frame = [&header[..len], message].concat();
    frame[len + 2..len + 4].copy_from_slice(&check);
    frame
}

fn solicitation(target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), options].concat()
}

#[test]
fn neighbour_is_advertised() {
    let link = [&[1, 1][..], &GUEST.0].concat();
    let mut frame = ndp_frame(GUEST_LL, 255, &solicitation(OTHER, &link));
    // Ethernet padding changes nothing.
    frame.extend([0; 4]);
    let answer = decode(&reply(&config(), &frame).unwrap());
    assert_eq!((answer.src, answer.dst), (OTHER.into(), GUEST_LL.into()));
    assert_eq!((answer.src_mac, answer.dst_mac, answer.ttl), (OURS.0, GUEST.0, 255));
    assert_eq!((answer.payload[0], answer.payload[4]), (136, 0xe0));
    assert_eq!(answer.payload[8..24], OTHER.octets());
    assert_eq!(answer.payload[24..], [&[2, 1][..], &OURS.0].concat());
}

#[test]
fn neighbour_discovery_without_answer() {
    let cfg = config();
    let own = cfg.v6.as_ref().unwrap().addr;
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let plain = solicitation(OTHER, &[]);
    let cases = [
        (ndp_frame(GUEST_LL, 254, &plain), DropReason::NdpInvalid),
        (ndp_frame(Ipv6Addr::UNSPECIFIED, 255, &plain), DropReason::NdpUnanswered),
        (ndp_frame(GUEST_LL, 255, &solicitation(own, &[])), DropReason::NdpUnanswered),
        (ndp_frame(GUEST_LL, 255, &solicitation(group, &[])), DropReason::NdpInvalid),
        (ndp_frame(GUEST_LL, 255, &solicitation(Ipv6Addr::UNSPECIFIED, &[])), DropReason::NdpUnanswered),
        (ndp_frame(GUEST_LL, 255, &solicitation(Ipv6Addr::LOCALHOST, &[])), DropReason::NdpUnanswered),
        (ndp_frame(GUEST_LL, 255, &plain[..20]), DropReason::NdpInvalid),
        (ndp_frame(GUEST_LL, 255, &solicitation(OTHER, &[1, 0, 0, 0, 0, 0, 0, 0])), DropReason::NdpInvalid),
        (ndp_frame(GUEST_LL, 255, &solicitation(OTHER, &[1, 2, 0, 0, 0, 0, 0, 0])), DropReason::NdpInvalid),
        (
            ndp_frame(Ipv6Addr::UNSPECIFIED, 255, &[133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]),
            DropReason::NdpInvalid,
        ),
        (ndp_frame(GUEST_LL, 255, &[&[136, 0, 0, 0][..], &[0; 20]].concat()), DropReason::NdpUnanswered),
    ];
    for (i, (frame, reason)) in cases.into_iter().enumerate() {
        assert_eq!(reply(&cfg, &frame), Err(reason), "case {i}");
    }
    let mut damaged = ndp_frame(GUEST_LL, 255, &plain);
    damaged[70] ^= 1;
    assert_eq!(reply(&cfg, &damaged), Err(DropReason::IcmpChecksum));
    let off = Config { services: Services::all() - Services::NDP, ..cfg };
    assert_eq!(reply(&off, &ndp_frame(GUEST_LL, 255, &plain)), Err(DropReason::ServiceOff));
}

/// Requests to a server that is off are datagrams like others.
#[test]
fn servers_that_are_off() {
    let path =
        |src: Addr, dst: Addr| Path { src_mac: GUEST, dst_mac: OURS, src, dst, ttl: 1, traffic_class: 0 };
    let v4 = path(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into());
    let v6 = path(GUEST_LL.into(), OUR_LL.into());
    let information = [11, 1, 2, 3];
    let requests = [
        (Services::DHCP, super::dhcp::tests::frame(&v4, (68, 67), &super::dhcp::tests::message(&[53, 1, 1]))),
        (Services::DHCPV6, super::dhcp::tests::frame(&v6, (546, 547), &information)),
    ];
    for (service, frame) in requests {
        let (source, class) = from_station(&frame).unwrap();
        for (services, served) in
            [(Services::all(), true), (Services::all() - service, false), (service, true)]
        {
            let cfg = Config { services, ..config() };
            let mut out = [0; 1600];
            let reply = respond(&cfg, None, source, &class, &frame, |_| Holder::Unknown, &mut out)
                .map(|response| response.reply);
            assert_eq!(matches!(reply, Some(Ok(_))), served, "{service:?}: {reply:?}");
            assert_eq!(reply.is_none(), !served, "{service:?}: {reply:?}");
        }
    }
}

/// Whom a client of DHCP asks decides whether that is for us, with the service on and off.
#[test]
fn other_servers() {
    let client = Ipv4Addr::new(192, 0, 2, 15);
    let (served, silent, passed) = (Some(true), Some(false), None);
    for (dst, on, off) in [
        ([255; 4], served, passed),
        ([192, 0, 2, 255], served, passed),
        ([192, 0, 2, 1], served, silent),
        ([192, 0, 2, 7], passed, passed),
        ([198, 51, 100, 67], passed, passed),
    ] {
        let path = Path {
            src_mac: GUEST,
            dst_mac: OURS,
            src: client.into(),
            dst: Ipv4Addr::from(dst).into(),
            ttl: 64,
            traffic_class: 0,
        };
        let mut renewal = super::dhcp::tests::message(&[53, 1, 3]);
        renewal[12..16].copy_from_slice(&client.octets());
        let frame = super::dhcp::tests::frame(&path, (68, 67), &renewal);
        let (source, class) = from_station(&frame).unwrap();
        for (services, expected) in [(Services::all(), on), (Services::all() - Services::DHCP, off)] {
            let (cfg, mut out) = (Config { services, ..config() }, [0; 1600]);
            let response = respond(&cfg, None, source, &class, &frame, |_| Holder::Unknown, &mut out);
            assert_eq!(response.map(|response| response.reply.is_ok()), expected, "{dst:?} {services:?}");
        }
    }
}

#[test]
fn addresses_are_claimed() {
    let claim = |frame: &[u8]| {
        let (source, class) = from_station(frame).ok()?;
        respond(&config(), None, source, &class, frame, |_| Holder::Unknown, &mut [0; 1600])?.claimed
    };
    let (v4, none) = ([192, 0, 2, 77], Ipv6Addr::UNSPECIFIED);
    let (link, advertised) = (
        [[1, 1].as_slice(), &GUEST.0].concat(),
        [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &OTHER.octets()].concat(),
    );
    let router = [&[133, 0, 0, 0, 0, 0, 0, 0][..], &link].concat();
    let cases = [
        (arp_frame(1, v4, [192, 0, 2, 1]), Some(Addr::from(Ipv4Addr::from(v4)))),
        (arp_frame(2, v4, v4), Some(Ipv4Addr::from(v4).into())),
        (arp_frame(1, [0; 4], v4), None),
        (arp_frame(1, [224, 0, 0, 1], v4), None),
        (arp_frame(1, [255; 4], v4), None),
        (arp_frame(1, [127, 0, 0, 1], v4), None),
        (ndp_frame(GUEST_LL, 255, &solicitation(OTHER, &link)), Some(GUEST_LL.into())),
        (ndp_frame(OTHER, 255, &advertised), Some(OTHER.into())),
        (ndp_frame(GUEST_LL, 255, &router), Some(GUEST_LL.into())),
        // Duplicate address detection.
        (ndp_frame(none, 255, &solicitation(OTHER, &[])), Some(OTHER.into())),
        (ndp_frame(none, 255, &solicitation(OTHER, &link)), None),
        (ndp_frame(none, 255, &solicitation(Ipv6Addr::LOCALHOST, &[])), None),
        (ndp_frame(none, 255, &solicitation(none, &[])), None),
        (ndp_frame(none, 255, &solicitation(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), &[])), None),
        (ndp_frame(none, 255, &advertised), None),
        (ndp_frame(none, 255, &[133, 0, 0, 0, 0, 0, 0, 0]), None),
        // Forwarded, cut off, of no known code.
        (ndp_frame(GUEST_LL, 254, &solicitation(OTHER, &link)), None),
        (ndp_frame(GUEST_LL, 255, &solicitation(OTHER, &link[..5])), None),
        (ndp_frame(GUEST_LL, 255, &[135, 1, 0, 0, 0, 0, 0, 0]), None),
    ];
    for (number, (frame, expected)) in cases.into_iter().enumerate() {
        assert_eq!(claim(&frame), expected, "{number}");
        let mut damaged = frame;
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        let v6 = damaged[12] == 0x86;
        assert!(!v6 || claim(&damaged).is_none(), "{number}");
    }
}

/// The options of a router advertisement, by kind.
fn ra_options(ra: &Decoded) -> Vec<(u8, Vec<u8>)> {
    assert_eq!((ra.payload[0], ra.payload[1], ra.ttl), (134, 0, 255));
    let mut rest = &ra.payload[16..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (option, tail) = rest.split_at(usize::from(rest[1]) * 8);
        found.push((option[0], option.to_vec()));
        rest = tail;
    }
    found
}

fn solicited_ra(cfg: &Config) -> Decoded {
    let solicitation = ndp_frame(GUEST_LL, 255, &[133, 0, 0, 0, 0, 0, 0, 0]);
    decode(&reply(cfg, &solicitation).unwrap())
}

#[test]
fn router_is_advertised() {
    let ra = solicited_ra(&config());
    assert_eq!((ra.src, ra.dst), (OUR_LL.into(), GUEST_LL.into()));
    // Hop limit 64, addresses and more from DHCPv6, a router for as long as can be.
    assert_eq!(ra.payload[4..8], [64, 0xc0, 0xff, 0xff]);
    let options = ra_options(&ra);
    let kinds: Vec<_> = options.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [3, 5, 1, 25, 31]);
    let prefix = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let infinite = [0xff; 8];
    assert_eq!(options[0].1, [&[3, 4, 64, 0xc0][..], &infinite, &[0; 4], &prefix].concat());
    assert_eq!(options[1].1, [5, 1, 0, 0, 0, 0, 5, 0xdc]);
    assert_eq!(options[3].1[8..], config().v6.unwrap().dns[0].octets());
    let names = b"\x07example\x03org\0\x03lab\x07example\x03org\0";
    assert_eq!(options[4].1[8..8 + names.len()], *names);
}

#[test]
fn router_advertisement_follows_the_configuration() {
    // DHCPv6 and name servers off: search domains all the same.
    let mut cfg = config();
    cfg.services = Services::NDP | Services::RA | Services::SEARCH;
    cfg.mtu = 0;
    let ra = solicited_ra(&cfg);
    assert_eq!(ra.payload[5], 0);
    let kinds: Vec<_> = ra_options(&ra).iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [3, 1, 31]);

    // DHCPv6 has more than addresses if there are name servers or domains.
    for (dns, search, flags) in
        [(true, true, 0xc0), (true, false, 0xc0), (false, true, 0xc0), (false, false, 0x80)]
    {
        let mut cfg = config();
        if !dns {
            cfg.v6.as_mut().unwrap().dns.clear();
        }
        if !search {
            cfg.search.clear();
        }
        assert_eq!(solicited_ra(&cfg).payload[5], flags, "{dns} {search}");
    }

    // A network of another size: addresses are formed from 64 bits still.
    let mut cfg = config();
    cfg.v6.as_mut().unwrap().prefix_len = 48;
    let prefixes: Vec<_> = ra_options(&solicited_ra(&cfg))
        .iter()
        .filter(|(kind, _)| *kind == 3)
        .map(|(_, option)| (option[2], option[3], option[23]))
        .collect();
    assert_eq!(prefixes, [(64, 0x40, 1), (48, 0x80, 0)]);

    let off = Config { services: Services::all() - Services::RA, ..config() };
    let solicitation = ndp_frame(GUEST_LL, 255, &[133, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(reply(&off, &solicitation), Err(DropReason::ServiceOff));
}

#[test]
fn frames_within_the_mtu() {
    for (mtu, len) in [(0, 1514), (68, 1294), (1280, 1294), (1281, 1295), (1500, 1514), (9000, 9014)] {
        assert_eq!(frame::within_mtu(mtu, &mut [0; 10_000]).len(), len, "{mtu}");
        assert_eq!(frame::within_mtu(mtu, &mut [0; 1000]).len(), 1000, "{mtu}");
    }
}

#[test]
fn router_advertisement_fits_the_link() {
    let mut cfg = config();
    let label = "x".repeat(60);
    let long = [label.as_str(); 4].join(".");
    cfg.search = core::iter::repeat_n(Name::from(&long).unwrap(), 6).collect();
    let mut out = [0; 3000];
    let len = ndp::unsolicited_ra(&cfg, &mut out).unwrap();
    assert!((1000..=1514).contains(&len), "{len}");
    let ra = decode(&out[..len]);
    assert_eq!(ra.dst_mac, [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(ra_options(&ra).last().unwrap().0, 31);
}

#[test]
fn neighbour_discovery_of_our_own() {
    let mut out = [0; 200];
    let len = ndp::solicit(&config(), &mut out).unwrap();
    let solicitation = decode(&out[..len]);
    assert_eq!(solicitation.dst_mac, [0x33, 0x33, 0xff, 0, 0, 0x15]);
    assert_eq!(solicitation.dst, "ff02::1:ff00:15".parse::<Ipv6Addr>().unwrap());
    assert_eq!(solicitation.payload[8..24], config().v6.unwrap().addr.octets());
}

/// Frames that reach each responder, with an arbitrary tail.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let tail = prop::collection::vec(any::<u8>(), 0..400);
    (0..4u8, 1..12u8, tail).prop_map(|(which, kind, tail)| {
        let path = |v4| Path {
            src_mac: GUEST,
            dst_mac: OURS,
            src: if v4 { Ipv4Addr::new(192, 0, 2, 15).into() } else { GUEST_LL.into() },
            dst: if v4 { Ipv4Addr::BROADCAST.into() } else { OUR_LL.into() },
            ttl: 1,
            traffic_class: 0,
        };
        match which {
            0 => [&arp_frame(1, [1; 4], [2; 4])[..20], &tail].concat(),
            1 => ndp_frame(GUEST_LL, 255, &[&[133 + kind % 4, 0, 0, 0, 0, 0, 0, 0][..], &tail].concat()),
            2 => {
                let mut message = super::dhcp::tests::message(&[53, 1, kind]);
                message.extend(tail);
                super::dhcp::tests::frame(&path(true), (68, 67), &message)
            }
            _ => {
                let client = [kind, 1, 2, 3, 0, 1, 0, 2, 7, 7];
                super::dhcp::tests::frame(&path(false), (546, 547), &[&client[..], &tail].concat())
            }
        }
    })
}

proptest! {
    #[test]
    fn replies_are_sound_whatever_is_asked(frame in frames(), room in 0usize..1600) {
        let Ok((source, class)) = from_station(&frame) else { return Ok(()) };
        let mut out = [0; 1600];
        let reply = respond(&config(), None, source, &class, &frame, |_| Holder::Unknown, &mut out[..room]);
        let reply = reply.map(|response| response.reply);
        if let Some(Ok(len)) = reply {
            prop_assert!((60..=room).contains(&len));
            if !matches!(class, Class::Arp { .. }) {
                prop_assert_eq!(decode(&out[..len]).src_mac, OURS.0);
            }
        }
    }
}
