//! Tables of values and of what becomes of them, beside the RFCs that define them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use passt_proto::responder::custom::{Advertised, Pref64, Route};
use passt_proto::wire::ndp::{Pref64Len, Preference};
use proptest::prelude::*;

use super::super::{Config, Outcome, parse};
use super::*;

fn outcome(args: &[&str]) -> Outcome {
    parse(["passt"].iter().chain(args).map(OsString::from).collect())
}

fn run(args: &[&str]) -> Config {
    match outcome(args) {
        Outcome::Run(config) => *config,
        other => panic!("{args:?}: {other:?}"),
    }
}

/// What is said of options with single blanks between them.
fn custom(line: &str) -> Custom {
    run(&line.split(' ').collect::<Vec<_>>()).custom
}

fn fail(args: &[&str]) -> String {
    match outcome(args) {
        Outcome::Fail(text) => text,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn bytes(options: &Options) -> Vec<(u16, Vec<u8>)> {
    options.iter().map(|(code, body)| (code, body.to_vec())).collect()
}

#[test]
fn values_of_dhcp() {
    let table: &[(&str, u16, &[u8])] = &[
        // RFC 2132, by its sections.
        ("router=192.0.2.1", 3, &[192, 0, 2, 1]),
        ("3=192.0.2.1,192.0.2.2", 3, &[192, 0, 2, 1, 192, 0, 2, 2]),
        ("subnet-mask=255.255.255.0", 1, &[255, 255, 255, 0]),
        ("time-offset=-3600", 2, &[0xff, 0xff, 0xf1, 0xf0]),
        ("time-offset=7200", 2, &[0, 0, 0x1c, 0x20]),
        ("domain-name=example.org", 15, b"example.org"),
        ("boot-file-size=300", 13, &[1, 44]),
        ("ip-forward-enable=yes", 19, &[1]),
        ("19=off", 19, &[0]),
        ("default-ttl=64", 23, &[64]),
        ("mtu-plateau=68,296", 25, &[0, 68, 1, 40]),
        ("mtu=0x5dc", 26, &[5, 220]),
        ("arp-timeout=65536", 35, &[0, 1, 0, 0]),
        ("static-route=203.0.113.1,192.0.2.9", 33, &[203, 0, 113, 1, 192, 0, 2, 9]),
        ("NTP-Server=192.0.2.9", 42, &[192, 0, 2, 9]),
        ("tftp-server-name=tftp", 66, b"tftp"),
        ("bootfile-name=pxe/linux.0", 67, b"pxe/linux.0"),
        // RFC 3397; RFC 3361, sections 3.1 and 3.2.
        ("domain-search=a.test,b.test.", 119, b"\x01a\x04test\0\x01b\x04test\0"),
        ("sip-servers=a.test", 120, b"\0\x01a\x04test\0"),
        ("sip-servers=192.0.2.7,192.0.2.8", 120, &[1, 192, 0, 2, 7, 192, 0, 2, 8]),
        // RFC 3442: its own examples of descriptors.
        ("121=0.0.0.0/0,10.0.0.1", 121, &[0, 10, 0, 0, 1]),
        ("121=10.0.0.0/8,10.0.0.1", 121, &[8, 10, 10, 0, 0, 1]),
        ("121=10.17.0.0/16,10.0.0.1", 121, &[16, 10, 17, 10, 0, 0, 1]),
        ("static-routes=10.27.129.0/24,10.0.0.1", 121, &[24, 10, 27, 129, 10, 0, 0, 1]),
        ("121=10.229.0.128/25,10.0.0.1", 121, &[25, 10, 229, 0, 128, 10, 0, 0, 1]),
        (
            "121=192.0.2.3,0.0.0.0,10.0.0.0/8,10.0.0.1",
            121,
            &[32, 192, 0, 2, 3, 0, 0, 0, 0, 8, 10, 10, 0, 0, 1],
        ),
        ("captive-portal=https://a.test/", 114, b"https://a.test/"),
        ("ipv6-only=1800", 108, &[0, 0, 7, 8]),
        ("wpad=http://wpad/a=b,c", 252, b"http://wpad/a=b,c"),
        // Bytes, whatever the type.
        ("43=0x01020a", 43, &[1, 2, 10]),
        ("43=hex:01:02:0A", 43, &[1, 2, 10]),
        ("router=hex:c0000201", 3, &[192, 0, 2, 1]),
        ("domain-name=0x6c616e", 15, b"lan"),
        ("224=0xfile", 224, b"0xfile"),
        ("224=0x01:ff", 224, &[1, 255]),
        ("bootfile-name=0xfile", 67, b"0xfile"),
        // A number without a name.
        ("224=some text", 224, b"some text"),
        ("224=0xff", 224, &[255]),
        // Nothing.
        ("6=", 6, &[]),
    ];
    for (option, code, body) in table {
        let Custom { dhcp, .. } = run(&["--dhcp-opt", option]).custom;
        assert_eq!(bytes(&dhcp), [(*code, body.to_vec())], "{option}");
    }
}

#[test]
fn values_of_dhcpv6() {
    let dns = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x35];
    let group = [0xff, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    let table: &[(&str, u16, Vec<u8>)] = &[
        ("dns-servers=2001:db8::35", 23, dns.to_vec()),
        ("24=a.test,b.test", 24, b"\x01a\x04test\0\x01b\x04test\0".to_vec()),
        ("sntp-servers=2001:db8::35,ff05::101", 31, [dns, group].concat()),
        ("information-refresh-time=3600", 32, vec![0, 0, 14, 16]),
        // RFC 5908, section 4.
        (
            "ntp-servers=2001:db8::35,ff05::101,a.test",
            56,
            [&[0, 1, 0, 16][..], &dns, &[0, 2, 0, 16], &group, b"\0\x03\0\x08\x01a\x04test\0"].concat(),
        ),
        ("bootfile-url=tftp://[2001:db8::1]/x", 59, b"tftp://[2001:db8::1]/x".to_vec()),
        // RFC 5970, section 3.2.
        ("bootfile-param=root=/dev/a,quiet", 60, b"\0\x0broot=/dev/a\0\x05quiet".to_vec()),
        ("v6-lost=a.test", 51, b"\x01a\x04test\0".to_vec()),
        ("65000=hex:00", 65000, vec![0]),
    ];
    for (option, code, body) in table {
        let Custom { dhcpv6, .. } = run(&["--dhcpv6-opt", option]).custom;
        assert_eq!(bytes(&dhcpv6), [(*code, body.clone())], "{option}");
    }
}

#[test]
fn refused() {
    let table = [
        ("--dhcp-opt", "x", "Invalid --dhcp-opt, not CODE=VALUE: x"),
        ("--dhcp-opt", "foo=1", "Unknown DHCP option: foo"),
        ("--dhcp-opt", "256=1", "Unknown DHCP option: 256"),
        ("--dhcp-opt", "-1=1", "Unknown DHCP option: -1"),
        ("--dhcp-opt", "=1", "Unknown DHCP option: "),
        (
            "--dhcp-opt",
            "53=1",
            "DHCP option dhcp-msg-type (53) can't be set: it is part of the exchange itself",
        ),
        (
            "--dhcp-opt",
            "server-id=192.0.2.1",
            "DHCP option dhcp-server-id (54) can't be set: it is part of the exchange itself",
        ),
        ("--dhcp-opt", "51=9", "DHCP option address-time (51) can't be set: --dhcp-lease sets it"),
        ("--dhcp-opt", "82=", "DHCP option relay-agent-information (82) can't be set: relays send it"),
        ("--dhcp-opt", "255=", "DHCP option end (255) can't be set: it belongs to the format of messages"),
        (
            "--dhcp-opt",
            "3=192.0.2.1,x",
            "Invalid value of DHCP option router (3): 192.0.2.1,x is not IPv4 addresses",
        ),
        (
            "--dhcp-opt",
            "router=0xc00002",
            "Invalid value of DHCP option router (3): 0xc00002 is not IPv4 addresses",
        ),
        (
            "--dhcp-opt",
            "23=256",
            "Invalid value of DHCP option default-ip-ttl (23): 256 is not a number up to 255",
        ),
        (
            "--dhcp-opt",
            "26=-1",
            "Invalid value of DHCP option mtu-interface (26): -1 is not a number up to 65535",
        ),
        (
            "--dhcp-opt",
            "121=10.0.0.1/8,10.0.0.1",
            "Invalid value of DHCP option classless-static-route (121): 10.0.0.1/8,10.0.0.1 is not \
             NETWORK/LENGTH,GATEWAY pairs",
        ),
        (
            "--dhcp-opt",
            "119=a..b",
            "Invalid value of DHCP option domain-search (119): a..b is not domain names",
        ),
        ("--dhcpv6-opt", "1=", "DHCPv6 option client-id (1) can't be set: it is part of the exchange itself"),
        ("--dhcpv6-opt", "oro=", "DHCPv6 option oro (6) can't be set: clients send it"),
        ("--dhcpv6-opt", "router=", "Unknown DHCPv6 option: router"),
        ("--dhcpv6-opt", "65536=", "Unknown DHCPv6 option: 65536"),
        (
            "--dhcpv6-opt",
            "23=192.0.2.1",
            "Invalid value of DHCPv6 option dns-servers (23): 192.0.2.1 is not IPv6 addresses",
        ),
        ("--dhcp-lease", "0", "Invalid --dhcp-lease: 0"),
        ("--dhcp-lease", "60,50,40", "Invalid --dhcp-lease: 60,50,40"),
        ("--dhcp-lease", "60,50,61", "Invalid --dhcp-lease: 60,50,61"),
        ("--dhcp-lease", "60,1,2,3", "Invalid --dhcp-lease: 60,1,2,3"),
        ("--dhcpv6-lease", "60,61", "Invalid --dhcpv6-lease: 60,61"),
        ("--dhcp-boot", ",192.0.2.1", "Invalid --dhcp-boot: ,192.0.2.1"),
        ("--dhcp-boot", "x,host", "Invalid --dhcp-boot: x,host"),
        ("--ntp", "pool", "Invalid time server: pool"),
        ("--domain", "a b", "Invalid domain name: a b"),
        ("--captive-portal", "portal", "Invalid captive portal URI: portal"),
        ("--ra-lifetime", "3", "Invalid --ra-lifetime: 3"),
        ("--ra-lifetime", "65536", "Invalid --ra-lifetime: 65536"),
        ("--ra-preference", "highest", "Invalid --ra-preference: highest"),
        ("--ra-dns-lifetime", "-1", "Invalid --ra-dns-lifetime: -1"),
        ("--ra-route", "2001:db8::1/64", "Invalid --ra-route: 2001:db8::1/64"),
        ("--ra-route", "2001:db8::", "Invalid --ra-route: 2001:db8::"),
        ("--ra-pref64", "64:ff9b::/95", "Invalid --ra-pref64: 64:ff9b::/95"),
        ("--ra-pref64", "64:ff9b::/96,65535", "Invalid --ra-pref64: 64:ff9b::/96,65535"),
    ];
    for (option, value, expected) in table {
        // What is advised follows.
        let told = fail(&[option, value]);
        assert_eq!(told.trim_end_matches('\n').split("; ").next(), Some(expected));
    }
}

#[test]
fn digits_that_are_no_pairs() {
    for (option, value, shown) in [
        ("--dhcp-opt", "43=hex:0", "DHCP option vendor-specific (43)"),
        ("--dhcp-opt", "43=hex:", "DHCP option vendor-specific (43)"),
        ("--dhcp-opt", "200=0xabc", "DHCP option 200"),
        ("--dhcp-opt", "200=0x", "DHCP option 200"),
        ("--dhcp-opt", "15=0x1:23", "DHCP option domain-name (15)"),
        ("--dhcp-opt", "router=0xc000020", "DHCP option router (3)"),
        ("--dhcpv6-opt", "65000=0xabc", "DHCPv6 option 65000"),
    ] {
        let (_, digits) = value.split_once('=').expect("a value");
        let expected = "is not pairs of hexadecimal digits, of that length";
        assert_eq!(fail(&[option, value]), format!("Invalid value of {shown}: {digits} {expected}\n"));
    }
}

/// What is no text of UTF-8 is called so, wherever it is.
#[test]
fn values_that_are_no_text() {
    for (option, start, expected) in [
        (
            "--dhcp-opt",
            &b"15=lan"[..],
            "Invalid value of DHCP option domain-name (15): lan\u{fffd}= is not UTF-8, hex: takes any bytes",
        ),
        (
            "--dhcpv6-opt",
            b"65000=",
            "Invalid value of DHCPv6 option 65000: \u{fffd}= is not UTF-8, hex: takes any bytes",
        ),
        (
            "--dhcp-opt",
            b"53=",
            "DHCP option dhcp-msg-type (53) can't be set: it is part of the exchange itself",
        ),
        ("--dhcp-opt", b"15", "Unknown DHCP option: 15\u{fffd}"),
    ] {
        let argument = OsString::from_vec([start, b"\xff="].concat());
        let found = parse(vec!["passt".into(), option.into(), argument]);
        let Outcome::Fail(line) = found else { panic!("{option}: {found:?}") };
        // Behind it may be what to write instead.
        assert!(line.starts_with(expected) && line.lines().count() == 1, "{line}");
    }
}

#[test]
fn who_mistakes_an_option_is_told_another() {
    for (option, name, advice) in [
        ("--dhcp-opt", "ruoter=10.0.0.1", "did you mean router?"),
        ("--dhcp-opt", "NTP-sever=10.0.0.1", "did you mean ntp-server?"),
        ("--dhcp-opt", "256=1", "numbers go to 254"),
        ("--dhcpv6-opt", "65536=", "numbers go to 65535"),
        ("--dhcp-opt", "frobnicate=1", "as in 42=192.0.2.1"),
        ("--dhcpv6-opt", "=1", "as in 31=2001:db8::1"),
    ] {
        let found = parse(["passt", option, name].map(OsString::from).to_vec());
        let Outcome::Fail(line) = found else { panic!("{name}: {found:?}") };
        assert!(line.trim_end().ends_with(advice), "{line}");
    }
}

#[test]
fn as_much_as_there_is_room_for() {
    let long = |len: usize| format!("224={}", "x".repeat(len));
    assert_eq!(run(&["--dhcp-opt", &long(MAX_OPTIONS - 4)]).custom.dhcp.iter().count(), 1);
    for option in ["--dhcp-opt", "--dhcpv6-opt"] {
        let protocol = option.trim_start_matches('-').trim_end_matches("-opt").replace("dhcp", "DHCP");
        let expected = format!("{protocol} options are too long, together they can have 1024 bytes\n");
        assert_eq!(fail(&[option, &long(MAX_OPTIONS - 3)]), expected);
    }
    let route = |n: u32| ["--ra-route".to_owned(), format!("2001:db8:{n}::/48")];
    let routes: Vec<_> = (0..9).flat_map(route).collect();
    let routes: Vec<_> = routes.iter().map(String::as_str).collect();
    assert_eq!(run(&routes[..16]).custom.ra.routes.len(), 8);
    assert_eq!(fail(&routes), "Too many --ra-route\n");
}

#[test]
fn the_last_of_a_code_counts() {
    let custom = custom("--dhcp-opt 3=192.0.2.1 --dhcp-opt=router=192.0.2.2 --dhcp-opt 42= --ntp 192.0.2.3");
    assert_eq!(bytes(&custom.dhcp), [(3, vec![192, 0, 2, 2]), (42, vec![])]);
}

#[test]
fn short_options_for_several_codes() {
    let ntp6 = custom("--ntp 192.0.2.3 --ntp 2001:db8::3 --ntp 192.0.2.4");
    let server = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
    assert_eq!(bytes(&ntp6.dhcp), [(42, vec![192, 0, 2, 3, 192, 0, 2, 4])]);
    let suboption = [&[0, 1, 0, 16][..], &server].concat();
    assert_eq!(bytes(&ntp6.dhcpv6), [(31, server.to_vec()), (56, suboption)]);

    let uri = b"https://a.test/".to_vec();
    let portal = custom("--captive-portal https://a.test/ --domain lan");
    assert_eq!(bytes(&portal.dhcp), [(15, b"lan".to_vec()), (114, uri.clone())]);
    assert_eq!(bytes(&portal.dhcpv6), [(103, uri)]);
    assert_eq!(portal.ra.captive_portal.as_deref(), Some("https://a.test/"));
}

#[test]
fn boot_files() {
    let long = "x".repeat(200);
    let table = [
        ("x.0", (None, "", "x.0"), vec![(67, "x.0")]),
        ("x.0,192.0.2.9", (Some("192.0.2.9"), "", "x.0"), vec![(66, "192.0.2.9"), (67, "x.0")]),
        ("x.0,192.0.2.9,tftp", (Some("192.0.2.9"), "tftp", "x.0"), vec![(66, "tftp"), (67, "x.0")]),
        ("x.0,,tftp", (None, "tftp", "x.0"), vec![(66, "tftp"), (67, "x.0")]),
        (&long, (None, "", ""), vec![(67, &long)]),
    ];
    for (value, (server, name, file), options) in table {
        let custom = run(&["--dhcp-boot", value]).custom;
        let boot = custom.boot.as_ref().expect("a file");
        let server = server.map(|server| server.parse().expect("an address"));
        assert_eq!((boot.server, &*boot.name, &*boot.file), (server, name, file));
        let sent = bytes(&custom.dhcp);
        let expected: Vec<_> = options.iter().map(|(code, text)| (*code, text.as_bytes().to_vec())).collect();
        assert_eq!(sent, expected, "{value}");
    }
}

#[test]
fn leases() {
    const NEVER: u32 = INFINITE;
    let table = [
        ("infinite", false, [NEVER, NEVER, NEVER, NEVER]),
        ("3600", false, [3600, 3600, 1800, 3150]),
        ("3600,60", false, [3600, 3600, 60, 3150]),
        ("3600,3500", false, [3600, 3600, 3500, 3500]),
        ("3600,60,90", false, [3600, 3600, 60, 90]),
        ("4294967294", false, [NEVER - 1, NEVER - 1, 0x7fff_ffff, 3_758_096_382]),
        ("infinite", true, [NEVER, NEVER, NEVER, NEVER]),
        ("7200", true, [7200, 7200, 3600, 5760]),
        ("infinite,3600", true, [NEVER, 3600, 1800, 2880]),
        ("7200,3600,60,90", true, [7200, 3600, 60, 90]),
    ];
    for (text, v6, [valid, preferred, renewal, rebinding]) in table {
        let expected = Lease { valid, preferred, renewal, rebinding };
        assert_eq!(lease(text, v6), Some(expected), "{text}");
    }
}

#[test]
fn router_advertisements() {
    let line = "--ra-lifetime 1800 --ra-preference low --ra-dns-lifetime 600 --ra-route ::/0 \
                --ra-route 2001:db8::/32,high,60 --ra-route ::/0,low --ra-pref64 64:ff9b::/96 \
                --ra-pref64 2001:db8:64::/48,600";
    let route = |prefix: &str, len, preference, lifetime| Route {
        prefix: prefix.parse().expect("a prefix"),
        len,
        preference,
        lifetime,
    };
    let pref64 =
        |prefix: &str, len, lifetime| Pref64 { prefix: prefix.parse().expect("a prefix"), len, lifetime };
    let expected = Advertised {
        unasked: true,
        lifetime: 1800,
        preference: Preference::Low,
        dns_lifetime: 600,
        routes: [route("2001:db8::", 32, Preference::High, 60), route("::", 0, Preference::Low, INFINITE)]
            .into_iter()
            .collect(),
        pref64: [pref64("64:ff9b::", Pref64Len::L96, 1800), pref64("2001:db8:64::", Pref64Len::L48, 600)]
            .into_iter()
            .collect(),
        captive_portal: None,
    };
    assert_eq!(custom(line).ra, expected);
}

#[test]
fn a_warning_where_nothing_is_advertised() {
    for (line, warned) in [
        ("--no-ra --ra-lifetime 9", true),
        ("--no-ndp --ra-route ::/0", true),
        ("--no-ra --captive-portal https://a.test/", false),
        ("--ra-lifetime 9", false),
    ] {
        let config = run(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(!config.warnings.is_empty(), warned, "{line}");
    }
}

/// Each name and each number means one option, and what belongs to the protocol is refused.
#[test]
fn tables_are_sound() {
    for protocol in [Protocol::Dhcp, Protocol::Dhcpv6] {
        let mut seen = BTreeSet::new();
        for code in protocol.codes() {
            assert!(protocol.may_set(code.number), "{}", code.shown());
            for name in code.names.split(' ').map(str::to_owned).chain([code.number.to_string()]) {
                assert_eq!(protocol.find(&name).map(|found| found.number), Ok(code.number), "{name}");
                assert!(seen.insert(name.clone()), "{name} is there twice");
            }
        }
        for number in (0..=u16::MAX).filter(|&number| !protocol.may_set(number)).take(300) {
            let found = protocol.find(&number.to_string());
            let refused = matches!(found, Err(AnnounceError::Refused { .. }));
            assert!(refused || protocol == Protocol::Dhcp && number > 255, "{number}: {found:?}");
        }
    }
}

proptest! {
    /// One line for whatever can't be set; what can has the length of its type.
    #[test]
    fn any_text(name in "[a-z0-9-]{0,8}|[0-9]{1,5}", value in "\\PC{0,40}|[0-9a-f.:,x/]{0,40}") {
        for option in ["--dhcp-opt", "--dhcpv6-opt"] {
            let text = format!("{name}={value}");
            match outcome(&[option, &text]) {
                Outcome::Fail(text) => prop_assert_eq!(text.matches('\n').count(), 1),
                Outcome::Run(_) => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
