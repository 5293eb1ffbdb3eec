use core::net::IpAddr;
use std::vec::Vec;

use crate::responder::Services;
use crate::responder::tests::{GUEST, GUEST_LL, OUR_LL, OURS, config};
use crate::wire::decode::decode;

use super::*;

mod custom;

const CLIENT: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 2];
const SERVER: [u8; 10] = [0, 3, 0, 1, 0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55];

fn option(code: u8, body: &[u8]) -> Vec<u8> {
    let len = u8::try_from(body.len()).unwrap();
    [&[0, code, 0, len], body].concat()
}

fn ia_na(id: u8, addresses: &[&str]) -> Vec<u8> {
    let mut body = std::vec![0; 12];
    body[3] = id;
    for address in addresses {
        let address: Ipv6Addr = address.parse().unwrap();
        body.extend(option(5, &[&address.octets()[..], &[0, 0, 1, 0, 0, 0, 2, 0]].concat()));
    }
    option(3, &body)
}

fn message(kind: u8, options: &[Vec<u8>]) -> Vec<u8> {
    [&[kind, 1, 2, 3][..], &options.concat()].concat()
}

type Options = Vec<(u16, Vec<u8>)>;

/// The options of a message as an independent reader of RFC 8415 sees them.
fn read(mut bytes: &[u8]) -> Options {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let end = 4 + usize::from(word(2));
        found.push((word(0), bytes[4..end].to_vec()));
        bytes = &bytes[end..];
    }
    found
}

fn ask(cfg: &Config, request: &[u8]) -> Result<(u8, Options), DropReason> {
    let mut out = [0xee; 1600];
    let len = respond(cfg, GUEST, GUEST_LL.into(), request, &mut out)?;
    let frame = decode(&out[..len]);
    assert_eq!((frame.src, frame.dst), (IpAddr::V6(OUR_LL), IpAddr::V6(GUEST_LL)));
    assert_eq!((frame.src_mac, frame.dst_mac), (OURS.0, GUEST.0));
    assert_eq!(frame.ports, (547, 546));
    assert_eq!(frame.payload[1..4], [1, 2, 3]);
    Ok((frame.payload[0], read(&frame.payload[4..])))
}

/// Bodies of the options with a code.
fn all(options: &Options, code: u16) -> Vec<&[u8]> {
    let of_code = options.iter().filter(|(c, _)| *c == code);
    of_code.map(|(_, body)| body.as_slice()).collect()
}

/// Addresses and preferred lifetimes in an association.
fn leases(ia: &[u8]) -> Vec<(Ipv6Addr, u32)> {
    let options = read(&ia[12..]);
    let lease = |body: &[u8]| {
        let address: [u8; 16] = body[..16].try_into().unwrap();
        let lifetime = u32::from_be_bytes(body[16..20].try_into().unwrap());
        assert_eq!(body[16..20], body[20..24]);
        (address.into(), lifetime)
    };
    all(&options, 5).into_iter().map(lease).collect()
}

fn status(options: &Options) -> u16 {
    let body = all(options, 13)[0];
    u16::from_be_bytes([body[0], body[1]])
}

#[test]
fn advertise_and_reply() {
    let own = config().v6.unwrap().addr;
    let client = option(1, &CLIENT);
    let requested = option(6, &[0, 23, 0, 24, 0, 39]);
    let solicit = [client.clone(), requested.clone(), option(8, &[0, 0]), ia_na(7, &[])];
    let rapid = [&solicit[..], &[option(14, &[])]].concat();
    let request = [client, option(2, &SERVER), requested, ia_na(7, &["2001:db8:0:1::15"])];
    let cases = [(1, &solicit[..], 2, 1, 0), (1, &rapid, 7, 0, 1), (3, &request, 7, 0, 0)];
    for (kind, options, expected, preferences, rapids) in cases {
        let (kind, options) = ask(&config(), &message(kind, options)).unwrap();
        assert_eq!(kind, expected);
        assert_eq!(all(&options, 1), [CLIENT]);
        assert_eq!(all(&options, 2), [SERVER]);
        assert_eq!((all(&options, 7).len(), all(&options, 14).len()), (preferences, rapids));
        let ia = all(&options, 3)[0];
        assert_eq!(ia[..12], [0, 0, 0, 7, 255, 255, 255, 255, 255, 255, 255, 255]);
        assert_eq!(leases(ia), [(own, u32::MAX)]);
        assert_eq!(all(&options, 23), [config().v6.unwrap().dns[0].octets()]);
        assert_eq!(all(&options, 24), [b"\x07example\x03org\0\x03lab\x07example\x03org\0"]);
        assert_eq!(all(&options, 39), [b"\0\x05guest\x07example\x03org\0"]);
    }
}

#[test]
fn identifiers_that_must_and_must_not_be_there() {
    let other = [0, 3, 0, 1, 9, 9, 9, 9, 9, 9];
    let (format, unanswered) = (DropReason::Dhcpv6Format, DropReason::Dhcpv6Unanswered);
    // Without a server, with ours, with another.
    let cases = [
        (1, [None, Some(format), Some(format)]),
        (3, [Some(format), None, Some(unanswered)]),
        (4, [None, Some(format), Some(format)]),
        (5, [Some(format), None, Some(unanswered)]),
        (6, [None, Some(format), Some(format)]),
        (8, [Some(format), None, Some(unanswered)]),
        (9, [Some(format), None, Some(unanswered)]),
        (2, [Some(unanswered); 3]),
        (12, [Some(unanswered); 3]),
    ];
    for (kind, expected) in cases {
        let ia = ia_na(1, &["2001:db8:0:1::15"]);
        let base = [option(1, &CLIENT), ia.clone()];
        let with = |id| message(kind, &[&base[..], &[option(2, id)]].concat());
        let asked = [message(kind, &base), with(&SERVER), with(&other)];
        for (request, expected) in asked.iter().zip(expected) {
            assert_eq!(ask(&config(), request).err(), expected, "{request:?}");
        }
        let anonymous = message(kind, &[ia]);
        assert!(ask(&config(), &anonymous).is_err());
    }
    for (len, expected) in [(130, None), (131, Some(format))] {
        let longest = message(1, &[option(1, &std::vec![0; len])]);
        assert_eq!(ask(&config(), &longest).err(), expected, "{len}");
    }
    assert_eq!(ask(&config(), &[1, 2, 3]).err(), Some(format));
}

#[test]
fn addresses_from_elsewhere() {
    let own = config().v6.unwrap().addr;
    let (near, far) = ("2001:db8:0:1::77", "2001:db8:f::1");
    let client = option(1, &CLIENT);
    let server = option(2, &SERVER);

    // A request for one off the link is refused, for one on the link corrected.
    let refused = message(3, &[client.clone(), server.clone(), ia_na(1, &[far])]);
    let (_, options) = ask(&config(), &refused).unwrap();
    assert_eq!(status(&read(&all(&options, 3)[0][12..])), 4);
    let corrected = message(3, &[client.clone(), server.clone(), ia_na(1, &[near])]);
    let (_, options) = ask(&config(), &corrected).unwrap();
    assert_eq!(leases(all(&options, 3)[0]), [(own, u32::MAX)]);

    // Renewing ends it.
    let renew = message(5, &[client.clone(), server, ia_na(1, &["2001:db8:0:1::15", far])]);
    let rebind = message(6, &[client.clone(), ia_na(1, &[far])]);
    for request in [renew, rebind] {
        let (kind, options) = ask(&config(), &request).unwrap();
        assert_eq!(kind, 7);
        let expected = [(own, u32::MAX), (far.parse().unwrap(), 0)];
        assert_eq!(leases(all(&options, 3)[0]), expected);
    }

    // Confirming asks about the link, not the address.
    for (address, expected) in [(near, 0), (far, 4)] {
        let confirm = message(4, &[client.clone(), ia_na(1, &[address])]);
        let (kind, options) = ask(&config(), &confirm).unwrap();
        assert_eq!((kind, status(&options)), (7, expected));
        assert!(all(&options, 3).is_empty());
    }
    // A temporary association has no times before its options.
    let address: Ipv6Addr = near.parse().unwrap();
    let body = [&[0, 0, 0, 9][..], &option(5, &[&address.octets()[..], &[0; 8]].concat())].concat();
    let confirm = message(4, &[client.clone(), option(4, &body)]);
    let (kind, options) = ask(&config(), &confirm).unwrap();
    assert_eq!((kind, status(&options)), (7, 0));

    let nothing = message(4, &[client, ia_na(1, &[])]);
    assert_eq!(ask(&config(), &nothing).err(), Some(DropReason::Dhcpv6Format));
}

#[test]
fn one_address_is_all_there_is() {
    let temporary = option(4, &[0, 0, 0, 9]);
    let delegation = option(25, &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    let asked = [option(1, &CLIENT), ia_na(1, &[]), ia_na(2, &[]), temporary, delegation];
    let (_, options) = ask(&config(), &message(1, &asked)).unwrap();
    let associations = all(&options, 3);
    assert_eq!(leases(associations[0]).len(), 1);
    assert_eq!(status(&read(&associations[1][12..])), 2);
    assert_eq!(status(&read(&all(&options, 4)[0][4..])), 2);
    assert_eq!(status(&read(&all(&options, 25)[0][12..])), 6);
}

#[test]
fn release_and_decline_are_done() {
    for kind in [8, 9] {
        let asked = [option(1, &CLIENT), option(2, &SERVER), ia_na(1, &["2001:db8:0:1::15"])];
        let (kind, options) = ask(&config(), &message(kind, &asked)).unwrap();
        assert_eq!((kind, status(&options)), (7, 0));
    }
}

#[test]
fn information_only() {
    let mut cfg = config();
    let (kind, options) = ask(&cfg, &message(11, &[])).unwrap();
    let codes: Vec<_> = options.iter().map(|(code, _)| *code).collect();
    assert_eq!((kind, codes.as_slice()), (7, &[2, 23, 39, 24][..]));
    cfg.services = Services::DHCPV6;
    cfg.fqdn = None;
    let (_, options) = ask(&cfg, &message(11, &[])).unwrap();
    assert_eq!(options.len(), 1);
    let with_association = message(11, &[ia_na(1, &[])]);
    assert_eq!(ask(&cfg, &with_association).err(), Some(DropReason::Dhcpv6Format));
}
