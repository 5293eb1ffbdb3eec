use core::net::IpAddr;
use std::collections::BTreeMap;
use std::vec::Vec;

use crate::responder::tests::{GUEST, OURS, config};
use crate::responder::{Name, Services};
use crate::wire::build::MAX_HEADERS;
use crate::wire::decode::{Decoded, decode};

use super::*;

pub(crate) mod custom;

const XID: [u8; 4] = [0xde, 0xad, 0xbe, 0xef];

/// A message of a client with the given options and no end.
pub(crate) fn message(options: &[u8]) -> Vec<u8> {
    let mut bytes = std::vec![1, 1, 6, 0];
    bytes.extend(XID);
    bytes.resize(28, 0);
    bytes.extend(GUEST.0);
    bytes.resize(236, 0);
    bytes.extend([0x63, 0x82, 0x53, 0x63]);
    bytes.extend(options);
    bytes
}

pub(crate) fn frame(path: &Path, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut header = [0; MAX_HEADERS];
    let (len, _) = path.emit_udp(&mut header, ports, payload.len(), 0).unwrap();
    [&header[..len], payload].concat()
}

/// A reply as an independent reader of RFC 2131 sees it.
struct Seen {
    frame: Decoded,
    options: BTreeMap<u8, Vec<u8>>,
    order: Vec<u8>,
}

impl Seen {
    fn kind(&self) -> Option<u8> {
        self.options.get(&53).map(|body| body[0])
    }

    fn yiaddr(&self) -> &[u8] {
        &self.frame.payload[16..20]
    }
}

fn ask(cfg: &Config, request: &[u8]) -> Result<Seen, DropReason> {
    let mut out = [0xee; 1600];
    let len = respond(cfg, None, GUEST, request, &mut out)?;
    let frame = decode(&out[..len]);
    let bytes = &frame.payload;
    assert_eq!(frame.ports, (67, 68));
    assert_eq!(frame.src_mac, OURS.0);
    assert!(bytes.len() >= 300);
    assert_eq!(bytes[..8], [&[2, 1, 6, 0][..], &XID].concat());
    assert_eq!(bytes[28..34], GUEST.0);
    assert_eq!(bytes[236..240], [0x63, 0x82, 0x53, 0x63]);
    let (mut options, mut order) = (BTreeMap::new(), Vec::new());
    let mut at = 240;
    while bytes[at] != 255 {
        let end = at + 2 + usize::from(bytes[at + 1]);
        assert!(options.insert(bytes[at], bytes[at + 2..end].to_vec()).is_none());
        order.push(bytes[at]);
        at = end;
    }
    Ok(Seen { frame, options, order })
}

#[test]
fn offer_to_a_discover() {
    // What udhcpc sends: type, client identifier, parameters, size, vendor class.
    let options = [
        &[53, 1, 1, 61, 7, 1, 2, 0, 0, 0, 0, 2][..],
        &[55, 8, 1, 3, 6, 12, 15, 28, 42, 119, 57, 2, 2, 0x40, 60, 4],
        b"udhc\xff",
    ]
    .concat();
    let offer = ask(&config(), &message(&options)).unwrap();
    assert_eq!(offer.kind(), Some(2));
    assert_eq!(offer.yiaddr(), [192, 0, 2, 15]);
    assert_eq!(offer.frame.src, IpAddr::from([192, 0, 2, 1]));
    assert_eq!(offer.frame.dst, IpAddr::from([192, 0, 2, 15]));
    assert_eq!(offer.frame.dst_mac, GUEST.0);
    let expected: [(u8, &[u8]); 11] = [
        (1, &[255, 255, 255, 0]),
        (3, &[192, 0, 2, 1]),
        (6, &[198, 51, 100, 53]),
        (12, b"guest"),
        (26, &[5, 0xdc]),
        (51, &[0xff; 4]),
        (53, &[2]),
        (54, &[192, 0, 2, 1]),
        (61, &[1, 2, 0, 0, 0, 0, 2]),
        (81, b"\x04\xff\xff\x05guest\x07example\x03org\0"),
        (119, b"\x07example\x03org\0\x03lab\xc0\0"),
    ];
    let options: Vec<_> = offer.options.iter().map(|(c, b)| (*c, b.as_slice())).collect();
    assert_eq!(options, expected);
    assert_eq!(offer.order, [53, 54, 61, 51, 1, 3, 6, 12, 119, 26, 81]);
}

/// What a client or a relay wrote into the fixed part is not what a server says there (RFC 2131,
/// table 3).
#[test]
fn fixed_fields_are_our_own() {
    let request = |options: &[u8]| {
        let mut request = message(options);
        // All but what has to be as it is: kinds, transaction, addresses, hardware address.
        (request[3], request[8], request[9]) = (7, 7, 7);
        request[12..16].copy_from_slice(&[192, 0, 2, 15]);
        request[20..24].fill(7);
        request[44..236].fill(7);
        request
    };
    for (options, ciaddr) in [
        (&[53, 1, 1][..], [192, 0, 2, 15]),
        (&[53, 1, 3], [192, 0, 2, 15]),
        (&[53, 1, 3, 50, 4, 192, 0, 2, 99], [0; 4]),
    ] {
        let answer = ask(&config(), &request(options)).unwrap();
        let bytes = &answer.frame.payload;
        assert_eq!(answer.kind() == Some(6), ciaddr == [0; 4], "a NAK has no address of the client");
        assert_eq!((bytes[3], &bytes[8..10]), (0, &[0, 0][..]), "hops, seconds");
        assert_eq!(bytes[12..16], ciaddr, "{options:?}");
        assert_eq!(bytes[20..24], [0; 4], "next server");
        assert!(bytes[44..236].iter().all(|&byte| byte == 0), "names");
    }
}

/// The type of an answer, which one to BOOTP has not.
type Answered = Result<Option<u8>, DropReason>;

#[test]
fn answers_by_type_and_address() {
    let (ours, other) = ([192, 0, 2, 15], [192, 0, 2, 16]);
    let option = |code: u8, body: [u8; 4]| [&[code, 4][..], &body].concat();
    let server = option(54, [192, 0, 2, 1]);
    // Options, address of the client, type of the answer.
    let cases: [(&[u8], [u8; 4], Answered); 12] = [
        (&[53, 1, 1], [0; 4], Ok(Some(2))),
        (&[53, 1, 1, 80, 0], [0; 4], Ok(Some(5))),
        (&[&[53, 1, 3][..], &server, &option(50, ours)].concat(), [0; 4], Ok(Some(5))),
        (&[&[53, 1, 3][..], &server, &option(50, other)].concat(), [0; 4], Ok(Some(6))),
        (&[&[53, 1, 3][..], &option(54, other)].concat(), [0; 4], Err(DropReason::DhcpUnanswered)),
        (&[&[53, 1, 3][..], &option(50, other)].concat(), [0; 4], Ok(Some(6))),
        (&[53, 1, 3], ours, Ok(Some(5))),
        (&[53, 1, 3], other, Ok(Some(6))),
        (&[53, 1, 4], [0; 4], Err(DropReason::DhcpUnanswered)),
        (&[53, 1, 7], ours, Err(DropReason::DhcpUnanswered)),
        (&[53, 2, 1, 1], [0; 4], Err(DropReason::DhcpFormat)),
        (&[255], [0; 4], Ok(None)),
    ];
    for (options, ciaddr, expected) in cases {
        let mut request = message(options);
        request[12..16].copy_from_slice(&ciaddr);
        let seen = ask(&config(), &request);
        assert_eq!(seen.as_ref().map(Seen::kind).map_err(|e| *e), expected, "{options:?}");
        let Ok(seen) = seen else { continue };
        let nak = seen.kind() == Some(6);
        assert_eq!(seen.yiaddr(), if nak { [0; 4] } else { ours });
        assert_eq!(seen.options.contains_key(&51), matches!(seen.kind(), Some(2 | 5)));
        assert_eq!(seen.options.contains_key(&80), options.contains(&80));
        assert_eq!(seen.frame.dst_mac == [0xff; 6], nak);
        if nak {
            assert_eq!(seen.order, [53, 54]);
        }
    }
}

#[test]
fn information_without_a_lease() {
    let mut request = message(&[53, 1, 8, 55, 1, 6]);
    request[12..16].copy_from_slice(&[192, 0, 2, 200]);
    let ack = ask(&config(), &request).unwrap();
    assert_eq!((ack.kind(), ack.yiaddr()), (Some(5), &[0; 4][..]));
    assert_eq!(ack.frame.dst, IpAddr::from([192, 0, 2, 200]));
    assert_eq!(ack.options[&6], [198, 51, 100, 53]);
    assert!(!ack.options.contains_key(&51));
}

#[test]
fn no_client_has_such_an_address() {
    for address in [[127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
        let mut request = message(&[53, 1, 8]);
        request[12..16].copy_from_slice(&address);
        assert_eq!(ask(&config(), &request).unwrap().frame.dst, IpAddr::from([255; 4]));
    }
}

#[test]
fn broadcast_where_asked_for() {
    let mut request = message(&[53, 1, 1]);
    request[10] = 0x80;
    let offer = ask(&config(), &request).unwrap();
    assert_eq!(offer.frame.dst, IpAddr::from([255; 4]));
    assert_eq!(offer.frame.dst_mac, [0xff; 6]);
    assert_eq!(offer.frame.payload[10], 0x80);
}

#[test]
fn gateway_off_the_link() {
    let mut cfg = config();
    cfg.v4.as_mut().unwrap().gateway = Ipv4Addr::new(198, 51, 100, 1);
    let offer = ask(&cfg, &message(&[53, 1, 1])).unwrap();
    let gateway = [198, 51, 100, 1];
    assert_eq!(offer.options[&121], [&[32][..], &gateway, &[0; 5], &gateway].concat());
}

#[test]
fn options_that_are_off() {
    let mut cfg = config();
    cfg.services = Services::DHCP;
    (cfg.mtu, cfg.hostname, cfg.fqdn) = (0, None, None);
    let offer = ask(&cfg, &message(&[53, 1, 1])).unwrap();
    assert_eq!(offer.order, [53, 54, 51, 1, 3]);
}

#[test]
fn size_is_what_the_client_takes() {
    let mut cfg = config();
    let long = ["x".repeat(60).as_str(); 4].join(".");
    cfg.hostname = Some(Name::from(&long).unwrap());
    cfg.fqdn = cfg.hostname;
    let size = |seen: &Seen| seen.frame.payload.len() + 28;
    // Both do not fit into 576 bytes, so what is asked for comes first.
    let asked = ask(&cfg, &message(&[53, 1, 1, 55, 1, 81])).unwrap();
    assert!(asked.options.contains_key(&81) && !asked.options.contains_key(&12));
    assert!(size(&asked) <= 576);
    let roomy = ask(&cfg, &message(&[53, 1, 1, 57, 2, 5, 0xdc])).unwrap();
    assert!(roomy.options.contains_key(&81) && roomy.options.contains_key(&12));
    assert!(size(&roomy) <= 1500);
    // A link without a limit of its own leaves it to the client, one with a small MTU doesn't.
    for (mtu, both) in [(0, true), (600, false)] {
        cfg.mtu = mtu;
        let seen = ask(&cfg, &message(&[53, 1, 1, 57, 2, 5, 0xdc])).unwrap();
        assert_eq!(seen.options.contains_key(&81) && seen.options.contains_key(&12), both, "{mtu}");
    }
}

/// A request as RFC 951 has it: 300 bytes, of which the last 64 have no form of their own.
#[test]
fn bootp_without_options() {
    for (cookie, answered, options) in [
        ([0x63, 0x82, 0x53, 0x63], [0x63, 0x82, 0x53, 0x63], &[1, 3, 6, 26, 12, 81][..]),
        ([0; 4], [0x63, 0x82, 0x53, 0x63], &[1, 3, 6, 26, 12, 81]),
        (*b"CMU\0", [0; 4], &[]),
    ] {
        let mut request = message(&[]);
        request.resize(300, 0);
        request[236..240].copy_from_slice(&cookie);
        // What would be a DHCPDISCOVER in the other form.
        if cookie == *b"CMU\0" {
            request[240..243].copy_from_slice(&[53, 1, 1]);
        }
        let mut out = [0xee; 1600];
        let len = respond(&config(), None, GUEST, &request, &mut out).unwrap();
        let reply = decode(&out[..len]);
        assert_eq!((reply.payload.len(), reply.payload[0]), (300, 2));
        assert_eq!(reply.payload[16..20], [192, 0, 2, 15]);
        assert_eq!(reply.payload[236..240], answered);
        let codes: Vec<_> = dhcp::options(&reply.payload[240..]).map(|(code, _)| code).collect();
        assert_eq!(codes, options, "what fits");
        assert!(!options.is_empty() || reply.payload[236..].iter().all(|&byte| byte == 0));
    }
    // A client that takes more gets more.
    let mut request = message(&[255]);
    request.resize(400, 0);
    assert!(ask(&config(), &request).unwrap().options.contains_key(&119));
}

#[test]
fn malformed_messages() {
    let cases: [(usize, u8); 3] = [(0, 2), (1, 6), (2, 16)];
    for (at, byte) in cases {
        let mut request = message(&[53, 1, 1]);
        request[at] = byte;
        assert_eq!(ask(&config(), &request).err(), Some(DropReason::DhcpFormat));
    }
    assert_eq!(ask(&config(), &message(&[])[..239]).err(), Some(DropReason::DhcpFormat));
}
