//! Router advertisements as the user wants them.

use super::*;
use crate::responder::custom::{Advertised, Pref64, Route};
use crate::wire::ndp::{Pref64Len, Preference};

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn advertised(ra: Advertised) -> Decoded {
    solicited_ra(&Config { custom: Custom { ra, ..Custom::default() }, ..config() })
}

#[test]
fn lifetime_and_preference() {
    let cases = [
        (0xffff, Preference::Medium, 0xc0),
        (1800, Preference::High, 0xc8),
        (1800, Preference::Low, 0xd8),
        // RFC 4191, section 2.2: a router that is no default router has none.
        (0, Preference::High, 0xc0),
    ];
    for (lifetime, preference, flags) in cases {
        let ra = advertised(Advertised { lifetime, preference, ..Advertised::default() });
        let expected = [&[64, flags][..], &lifetime.to_be_bytes()].concat();
        assert_eq!(ra.payload[4..8], expected, "{lifetime} {preference:?}");
    }
}

/// DHCPv6 has more than addresses if the user says so.
#[test]
fn other_configuration() {
    let mut cfg = config();
    cfg.services -= Services::DNS | Services::SEARCH;
    for (body, flags) in [(&b"x"[..], 0xc0), (b"", 0x80)] {
        cfg.custom = Custom::default();
        cfg.custom.dhcpv6.push(59, body).unwrap();
        assert_eq!(solicited_ra(&cfg).payload[5], flags);
    }
}

#[test]
fn options() {
    let route =
        |prefix: &str, len, preference, lifetime| Route { prefix: v6(prefix), len, preference, lifetime };
    let ra = Advertised {
        dns_lifetime: 600,
        routes: [
            route("::", 0, Preference::High, 0x0102_0304),
            route("2001:db8::", 32, Preference::Low, u32::MAX),
            route("2001:db8:1:2:8000::", 65, Preference::Medium, 0),
        ]
        .into_iter()
        .collect(),
        pref64: [
            Pref64 { prefix: v6("64:ff9b::"), len: Pref64Len::L96, lifetime: 1800 },
            Pref64 { prefix: v6("2001:db8:64::"), len: Pref64Len::L48, lifetime: 65_535 },
        ]
        .into_iter()
        .collect(),
        captive_portal: Some(Name::from("https://a.test/x").unwrap()),
        ..Advertised::default()
    };
    let sent = ra_options(&advertised(ra));
    let of =
        |kind: u8| sent.iter().filter(|(k, _)| *k == kind).map(|(_, body)| &body[..]).collect::<Vec<_>>();
    // RFC 4191, section 2.3.
    let routes: [&[u8]; 3] = [
        &[24, 1, 0, 0x08, 1, 2, 3, 4],
        &[24, 2, 32, 0x18, 255, 255, 255, 255, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0],
        &[24, 3, 65, 0, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 1, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 0],
    ];
    assert_eq!(of(24), routes);
    // RFC 8781, section 4: 1800 s are 225 units, in the upper 13 bits; codes 0 and 3.
    let prefixes: [&[u8]; 2] = [
        &[38, 2, 0x07, 0x08, 0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0],
        &[38, 2, 0xff, 0xfb, 0x20, 1, 0xd, 0xb8, 0, 0x64, 0, 0, 0, 0, 0, 0],
    ];
    assert_eq!(of(38), prefixes);
    // RFC 8910, section 2.3: padded with zeroes.
    assert_eq!(of(37), [[&[37, 3][..], b"https://a.test/x", &[0; 6]].concat()]);
    for kind in [25, 31] {
        assert_eq!(of(kind)[0][4..8], [0, 0, 2, 0x58], "lifetime of names, {kind}");
    }
}

/// The most that can be said fits the smallest link, and domains take what is left.
#[test]
fn everything_fits_the_smallest_link() {
    let mut cfg = config();
    let label = "x".repeat(60);
    let long = Name::from(&[label.as_str(); 4].join(".")).unwrap();
    cfg.mtu = 1280;
    cfg.search = core::iter::repeat_n(long, 6).collect();
    let v6_net = cfg.v6.as_mut().unwrap();
    v6_net.prefix_len = 48;
    v6_net.dns = core::iter::repeat_n(OTHER, 3).collect();
    let route = Route { prefix: OTHER, len: 128, preference: Preference::Medium, lifetime: 1 };
    let pref64 = Pref64 { prefix: OTHER, len: Pref64Len::L96, lifetime: 1 };
    cfg.custom.ra.routes = core::iter::repeat_n(route, 8).collect();
    cfg.custom.ra.pref64 = core::iter::repeat_n(pref64, 2).collect();
    cfg.custom.ra.captive_portal = Some(Name::from(&"x".repeat(255)).unwrap());
    let ra = solicited_ra(&cfg);
    assert!(ra.payload.len() + 40 <= 1280, "{}", ra.payload.len());
    let options = ra_options(&ra);
    assert_eq!(options.last().unwrap().0, 31);
    assert_eq!(options.iter().filter(|(kind, _)| [24, 37, 38].contains(kind)).count(), 11);
}

/// Three advertisements before the first thing ends, where that is allowed (RFC 4861, 6.2.1).
#[test]
fn repeated_in_time() {
    let route = Route { prefix: OTHER, len: 64, preference: Preference::Medium, lifetime: 90 };
    let cases = [
        (0, u32::MAX, false, (200, 600)),
        (u16::MAX, u32::MAX, false, (200, 600)),
        (1800, u32::MAX, false, (200, 600)),
        (900, u32::MAX, false, (100, 300)),
        (1800, 60, false, (7, 20)),
        (1800, 900, true, (10, 30)),
        (5, u32::MAX, false, (3, 4)),
    ];
    for (lifetime, dns_lifetime, routed, expected) in cases {
        let routes = routed.then_some(route).into_iter().collect();
        let ra = Advertised { lifetime, dns_lifetime, routes, ..Advertised::default() };
        assert_eq!(ra.interval(), expected, "{lifetime} {dns_lifetime}");
    }
}
