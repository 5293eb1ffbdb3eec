//! Command lines on hosts, and what the guest gets.

use std::ffi::OsString;

use netlink_packet_route::route::RouteAttribute;

use super::*;
use crate::cli::{self, Outcome};
use crate::netconf::host::Interface;

fn config(args: &str) -> Config {
    let argv = args.split_whitespace().map(OsString::from).collect();
    match cli::parse(argv) {
        Outcome::Run(config) => *config,
        other => panic!("{args}: {other:?}"),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An interface with addresses `ADDR/LEN ...` and perhaps a gateway.
fn template(name: &str, addresses: &str, gateway: &str) -> Template {
    let parsed = |a: &str| {
        let (addr, len) = a.split_once('/').unwrap();
        IfAddr { no_prefix_route: true, ..IfAddr::new(ip(addr), len.parse().unwrap()) }
    };
    Template {
        link: Interface { index: 7, name: name.into(), mtu: 1500, ..Interface::default() },
        addresses: addresses.split_whitespace().map(parsed).collect(),
        gateway: Some(gateway).filter(|g| !g.is_empty()).map(ip),
        ..Template::default()
    }
}

/// Hosts by a letter for each family that works.
fn host(kind: &str) -> HostNetwork {
    let v4 = template("eth0", "192.0.2.2/24 198.51.100.9/24", "192.0.2.1");
    let v6 = template("eth1", "2001:db8::2/64", "fe80::99");
    let link = |index, name: &str| Interface { index, name: name.into(), ..Interface::default() };
    let links = vec![link(1, "lo"), link(7, "eth1"), link(9, "wlan0")];
    HostNetwork { v4: kind.contains('4').then_some(v4), v6: kind.contains('6').then_some(v6), links }
}

fn resolv(servers: &str) -> Resolv {
    let lines = servers.split_whitespace().map(|server| format!("nameserver {server}\n"));
    let lines: String = lines.collect();
    let servers = if lines.is_empty() { Vec::new() } else { Resolv::parse(lines.as_bytes()).servers };
    Resolv { servers, search: vec!["example.org".into()], others: Vec::new() }
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map_or("-".into(), |v| v.to_string())
}

/// Address, gateway, host's loopback as seen by the guest, our address: of a family each.
fn network(setup: &Setup) -> [String; 2] {
    let v4 = setup.responder.v4.as_ref().map(|n| format!("{}/{} {}", n.addr, n.prefix_len, n.gateway));
    let v6 = setup.responder.v6.as_ref().map(|n| format!("{}/{} {}", n.addr, n.prefix_len, n.our_ll));
    [(v4, &setup.guest.v4), (v6, &setup.guest.v6)].map(|(net, map)| match net {
        None => "off".into(),
        Some(net) => format!("{net} {} {}", text(map.host_loopback), text(map.ours)),
    })
}

#[test]
fn networks() {
    let like_v4 = "192.0.2.2/24 192.0.2.1 192.0.2.1 192.0.2.1";
    let like_v6 = "2001:db8::2/64 fe80::99 fe80::99 fe80::99";
    let local_v4 = "169.254.2.1/16 169.254.2.2 169.254.2.2 169.254.2.2";
    let local_v6 = "::/64 fe80::1 fe80::1 fe80::1";
    let cases = [
        ("passt", "46", like_v4, like_v6),
        ("passt", "4", like_v4, local_v6),
        ("passt", "6", local_v4, like_v6),
        ("passt", "", local_v4, local_v6),
        ("passt -4", "46", like_v4, "off"),
        ("passt -4", "6", local_v4, "off"),
        ("passt -6", "46", "off", like_v6),
        ("passt -6", "4", "off", local_v6),
        ("passt -6", "", "off", local_v6),
        ("passt -a fd00::100 -g fd00::2", "4", like_v4, "fd00::100/64 fe80::1 fd00::2 fe80::1"),
        ("passt -a 10.0.2.100 -n 24", "6", "10.0.2.100/24 169.254.2.2 169.254.2.2 169.254.2.2", like_v6),
        (
            "passt --map-host-loopback 169.254.1.1 --no-map-gw",
            "6",
            "169.254.2.1/16 169.254.2.2 169.254.1.1 169.254.2.2",
            "2001:db8::2/64 fe80::99 - fe80::99",
        ),
        ("passt -a 2001:db8::9", "", local_v4, "2001:db8::9/64 fe80::1 fe80::1 fe80::1"),
        ("passt -a 10.0.2.100", "4", "10.0.2.100/8 192.0.2.1 192.0.2.1 192.0.2.1", local_v6),
        ("passt -a 172.16.0.9", "4", "172.16.0.9/16 192.0.2.1 192.0.2.1 192.0.2.1", local_v6),
        ("passt -a 10.0.2.100 -n 24 -g 10.0.2.2", "4", "10.0.2.100/24 10.0.2.2 10.0.2.2 10.0.2.2", local_v6),
        ("passt -n 16", "4", "192.0.2.2/16 192.0.2.1 192.0.2.1 192.0.2.1", local_v6),
        ("passt -a fd00::100 -g fd00::2", "46", like_v4, "fd00::100/64 fe80::1 fd00::2 fe80::1"),
        (
            "passt --no-map-gw",
            "46",
            "192.0.2.2/24 192.0.2.1 - 192.0.2.1",
            "2001:db8::2/64 fe80::99 - fe80::99",
        ),
        (
            "passt --map-host-loopback 192.0.2.77 --no-map-gw",
            "46",
            "192.0.2.2/24 192.0.2.1 192.0.2.77 192.0.2.1",
            "2001:db8::2/64 fe80::99 - fe80::99",
        ),
    ];
    for (args, kind, v4, v6) in cases {
        let (setup, _) = Setup::new(&config(args), &host(kind), &resolv("192.0.2.53 2001:db8::53")).unwrap();
        assert_eq!(network(&setup), [v4, v6], "{args}, host {kind}");
        let local = setup.summary().iter().any(|line| line.contains("No usable network"));
        let none = !(kind.contains('4') && v4 != "off" || kind.contains('6') && v6 != "off");
        assert_eq!(local, none, "{args}, host {kind}");
    }
}

/// A gateway that does not exist, and an interface without addresses.
#[test]
fn odd_templates() {
    let host = HostNetwork {
        v4: Some(template("ppp0", "192.0.2.2/32", "")),
        v6: Some(template("eth0", "", "fe80::1")),
        links: Vec::new(),
    };
    let (setup, _) = Setup::new(&config("passt"), &host, &resolv("")).unwrap();
    let local = "::/64 fe80::1 fe80::1 fe80::1";
    assert_eq!(network(&setup), ["192.0.2.2/32 169.254.2.2 - 169.254.2.2", local]);
    let args = config("passt -a 2001:db8::9");
    let (setup, _) = Setup::new(&args, &host, &resolv("")).unwrap();
    assert_eq!(network(&setup)[1], "2001:db8::9/64 fe80::1 fe80::1 fe80::1");

    let mut linked = host.clone();
    linked.v6 = Some(Template {
        link_local: Some("fe80::7".parse().unwrap()),
        ..template("eth0", "2001:db8::2/64", "2001:db8::1")
    });
    let (setup, _) = Setup::new(&config("passt"), &linked, &resolv("")).unwrap();
    assert_eq!(network(&setup)[1], "2001:db8::2/64 fe80::7 2001:db8::1 fe80::7");
    assert_eq!(setup.guest.scope, 7);
    assert_eq!((setup.guest.v4.groups, setup.guest.v6.groups), (Some(7), Some(7)));
    for args in ["passt --no-multicast", "passt --no-udp"] {
        let (setup, _) = Setup::new(&config(args), &linked, &resolv("")).unwrap();
        assert_eq!((setup.guest.v4.groups, setup.guest.v6.groups), (None, None), "{args}");
    }
    let (setup, _) = Setup::new(&config("passt -4"), &linked, &resolv("")).unwrap();
    assert_eq!((setup.guest.v4.groups, setup.guest.v6.groups), (Some(7), None));
}

#[test]
fn refusals() {
    let cases = [
        ("passt -i eth9", "", SetupError::Interface),
        ("passt --outbound-if4 eth9", "6", SetupError::Interface),
        ("passt --outbound-if6 eth9", "4", SetupError::Interface),
    ];
    for (args, kind, error) in cases {
        let got = Setup::new(&config(args), &host(kind), &Resolv::default());
        assert_eq!(got.err(), Some(error), "{args}, host {kind}");
    }
    assert!(Setup::new(&config("passt -i eth0"), &host("4"), &Resolv::default()).is_ok());
}

/// Servers told to the guest, `dns_forward` and `dns_host` of IPv4, and of IPv6.
#[test]
fn name_servers() {
    let gateway6 = "fe80::99";
    let cases = [
        ("passt", "192.0.2.53", "192.0.2.53", ["-", "192.0.2.53"], ["-", "-"]),
        ("passt", "2001:db8::53", "2001:db8::53", ["-", "-"], ["-", "2001:db8::53"]),
        ("passt -4", "2001:db8::53", "192.0.2.1", ["192.0.2.1", "2001:db8::53"], ["-", "-"]),
        ("passt -6", "127.0.0.1", gateway6, ["-", "-"], [gateway6, "127.0.0.1"]),
        ("passt", "127.0.0.53 127.0.0.54", "192.0.2.1", ["192.0.2.1", "127.0.0.53"], ["-", "-"]),
        ("passt", "0.0.0.0", "192.0.2.1", ["192.0.2.1", "127.0.0.1"], ["-", "-"]),
        ("passt", "::", gateway6, ["-", "-"], [gateway6, "::1"]),
        ("passt --no-map-gw", "127.0.0.53", "", ["-", "127.0.0.53"], ["-", "-"]),
        (
            "passt --no-map-gw --dns-forward 169.254.1.1",
            "127.0.0.53",
            "169.254.1.1",
            ["169.254.1.1", "127.0.0.53"],
            ["-", "-"],
        ),
        (
            "passt --dns-forward 10.0.2.3 --dns-host 127.0.0.1",
            "192.0.2.53",
            "192.0.2.53",
            ["10.0.2.3", "127.0.0.1"],
            ["-", "-"],
        ),
        (
            "passt --dns-forward 10.0.2.3",
            "2001:db8::53",
            "10.0.2.3 2001:db8::53",
            ["10.0.2.3", "2001:db8::53"],
            ["-", "2001:db8::53"],
        ),
        (
            "passt --dns-forward 10.0.2.3 --dns-host ::1",
            "192.0.2.53",
            "192.0.2.53",
            ["10.0.2.3", "::1"],
            [gateway6, "::1"],
        ),
        (
            "passt --dns-host 198.51.100.5",
            "127.0.0.53",
            "192.0.2.1",
            ["192.0.2.1", "198.51.100.5"],
            ["-", "-"],
        ),
        ("passt", "fe80::5%eth1", "fe80::5", ["-", "-"], ["-", "fe80::5"]),
        ("passt", "fe80::5%wlan0", gateway6, ["-", "-"], [gateway6, "fe80::5"]),
        (
            "passt --dns-forward 10.0.2.3",
            "fe80::5%9",
            "10.0.2.3 fe80::99",
            ["10.0.2.3", "fe80::5"],
            [gateway6, "fe80::5"],
        ),
        ("passt", "fe80::5%gone", "", ["-", "-"], ["-", "-"]),
        ("passt", "fe80::5%4294967295", "", ["-", "-"], ["-", "-"]),
        ("passt", "fe80::5%eth1 fe80::5%wlan0", "fe80::5", ["-", "-"], ["-", "fe80::5"]),
        ("passt", "192.0.2.2", "192.0.2.1", ["192.0.2.1", "192.0.2.2"], ["-", "-"]),
        ("passt -a 192.0.2.7", "192.0.2.2", "192.0.2.2", ["-", "192.0.2.2"], ["-", "-"]),
        ("passt -D none", "192.0.2.53", "", ["-", "192.0.2.53"], ["-", "-"]),
        ("passt -D 10.1.1.1 -D fd00::1", "192.0.2.53", "10.1.1.1 fd00::1", ["-", "192.0.2.53"], ["-", "-"]),
        (
            "passt",
            "192.0.2.5 192.0.2.2 192.0.2.3 192.0.2.4",
            "192.0.2.5 192.0.2.3 192.0.2.4",
            ["-", "192.0.2.5"],
            ["-", "-"],
        ),
        ("pasta 1", "9.9.9.9 192.0.2.1", "9.9.9.9 192.0.2.1", ["192.0.2.1", "192.0.2.1"], ["-", "-"]),
        ("pasta --no-map-gw 1", "192.0.2.1", "192.0.2.1", ["-", "192.0.2.1"], ["-", "-"]),
        ("pasta --splice-only 1", "", "", ["-", "-"], ["-", "-"]),
    ];
    for (args, servers, shown, v4, v6) in cases {
        let (setup, warnings) = Setup::new(&config(args), &host("46"), &resolv(servers)).unwrap();
        let told4 = setup.responder.v4.iter().flat_map(|n| n.dns.iter().map(ToString::to_string));
        let told6 = setup.responder.v6.iter().flat_map(|n| n.dns.iter().map(ToString::to_string));
        assert_eq!(told4.chain(told6).collect::<Vec<_>>().join(" "), shown, "{args}, {servers}");
        let behind = |family: &guest::FamilyConfig| [text(family.dns_forward), text(family.dns_host)];
        assert_eq!(behind(&setup.guest.v4), v4, "{args}, {servers}");
        assert_eq!(behind(&setup.guest.v6), v6, "{args}, {servers}");
        let elsewhere = ["fe80::5%wlan0", "fe80::5%9"].contains(&servers);
        assert_eq!(setup.guest.v6.dns_scope, elsewhere.then_some(9), "{args}, {servers}");
        assert!(warnings.is_empty(), "{args}, {servers}: {warnings:?}");
    }
    let args = config("passt --dns-forward 10.0.2.3");
    let (_, warnings) = Setup::new(&args, &host("46"), &resolv("fe80::5%gone")).unwrap();
    assert_eq!(warnings, ["No name server on the host for --dns-forward"]);
}

/// Names that no copied route leads to are on the link.
#[test]
fn names_have_a_way() {
    let to = |text: &str, len, gateway: Option<&str>| {
        let mut route = route::on_link(text.contains(':'), Some(ip(text)));
        route.header.destination_prefix_length = len;
        route.attributes.extend(gateway.map(|gateway| RouteAttribute::Gateway(ip(gateway).into())));
        route
    };
    let names = "--dns-forward 169.254.1.1 --map-guest-addr 192.0.2.99 --map-host-loopback 10.9.0.1";
    let (dns, itself, loopback) = ("169.254.1.1/32", "192.0.2.99/32", "10.9.0.1/32");
    let ours = "169.254.2.2/32";
    let cases: [(_, Vec<_>, &[&str]); 6] = [
        ("", vec![], &[ours]),
        (names, vec![], &[dns, loopback, itself, ours]),
        (names, vec![to("192.0.2.0", 24, None)], &[dns, loopback, ours]),
        (names, vec![to("0.0.0.0", 0, Some("192.0.2.1"))], &[]),
        (names, vec![to("10.0.0.0", 8, Some("192.0.2.1")), to("192.0.2.99", 32, None)], &[dns, ours]),
        ("--no-copy-routes --dns-forward 169.254.1.1", vec![], &[]),
    ];
    for (args, routes, added) in cases {
        let mut host = host("4");
        let template = host.v4.as_mut().unwrap();
        (template.routes, template.gateway) = (routes.clone(), None);
        let config = config(&format!("pasta --config-net {args} 1"));
        let (setup, _) = Setup::new(&config, &host, &resolv("192.0.2.53")).unwrap();
        let family = setup.tap.unwrap().config.network.unwrap().v4.unwrap();
        let Routes::Copied(all) = family.routes else {
            assert!(added.is_empty(), "{args}");
            continue;
        };
        let shown: Vec<_> = all[routes.len()..].iter().map(|route| route::Shown(route).to_string()).collect();
        assert_eq!(shown, added, "{args} {}", routes.len());
    }
}

#[test]
fn addresses_that_stand_for_others() {
    let args = "passt --map-guest-addr 10.9.9.9 -o 198.51.100.9 -o 2001:db8::8 -a 192.0.2.7";
    let (setup, _) = Setup::new(&config(args), &host("46"), &Resolv::default()).unwrap();
    let (v4, v6) = (&setup.guest.v4, &setup.guest.v6);
    assert_eq!(text(v4.host_itself), "10.9.9.9");
    assert_eq!((text(v4.outbound), text(v6.outbound)), ("198.51.100.9".into(), "2001:db8::8".into()));
    assert_eq!(
        (text(v4.assigned.first()), text(v6.assigned.first())),
        ("192.0.2.7".into(), "2001:db8::2".into())
    );
    assert_eq!((v4.fixed, v6.fixed), (true, false));
}

/// Addresses and routes of IPv4 that a namespace gets; `*` marks a route to the network left to us.
fn given_to_namespace(args: &str) -> Option<String> {
    let (setup, _) = Setup::new(&config(args), &host("46"), &Resolv::default()).unwrap();
    let family = setup.tap.unwrap().config.network?.v4?;
    let mark = |a: &IfAddr| if a.no_prefix_route { "*" } else { "" };
    let addresses = family.addresses.iter().map(|a| format!("{}/{}{}", a.addr, a.prefix_len, mark(a)));
    let routes = match family.routes {
        Routes::Copied(_) => "copied".into(),
        Routes::Default(gateway) => text(gateway),
        Routes::Advertised(prefix) => format!("advertised {prefix:?}"),
    };
    Some(format!("{} {routes}", addresses.collect::<Vec<_>>().join(" ")))
}

#[test]
fn namespaces() {
    let cases = [
        ("pasta 1", None),
        ("pasta --config-net 1", Some("192.0.2.2/24* 198.51.100.9/24* copied")),
        ("pasta --config-net -n 16 1", Some("192.0.2.2/16* 198.51.100.9/24* copied")),
        ("pasta --config-net -g 192.0.2.254 1", Some("192.0.2.2/24 198.51.100.9/24 192.0.2.254")),
        ("pasta --config-net -a 10.0.2.100/24 1", Some("10.0.2.100/24 copied")),
        ("pasta --config-net -a 10.0.2.100 -n 24 -g 10.0.2.2 1", Some("10.0.2.100/24 10.0.2.2")),
        ("pasta --config-net --no-copy-addrs 1", Some("192.0.2.2/24* copied")),
        ("pasta --config-net --no-copy-routes 1", Some("192.0.2.2/24 198.51.100.9/24 192.0.2.1")),
    ];
    for (args, expected) in cases {
        assert_eq!(given_to_namespace(args).as_deref(), expected, "{args}");
    }
}

#[test]
fn names_of_the_tap_interface() {
    let cases = [
        ("pasta 1", "46", Some("eth0")),
        ("pasta 1", "6", Some("eth1")),
        ("pasta 1", "", Some("tap0")),
        ("pasta -I tun9 1", "46", Some("tun9")),
        ("pasta --splice-only 1", "46", None),
        ("passt", "46", None),
    ];
    for (args, kind, name) in cases {
        let (setup, _) = Setup::new(&config(args), &host(kind), &Resolv::default()).unwrap();
        assert_eq!(setup.tap.map(|t| t.name).as_deref(), name, "{args}, host {kind}");
    }
}

#[test]
fn services_and_names() {
    let told = |args: &str, kind: &str| {
        Setup::new(&config(args), &host(kind), &resolv("192.0.2.53")).unwrap().0.responder
    };
    assert_eq!(told("passt", "46").services, Services::all());
    let only = Services::all() - Services::DHCPV6;
    assert_eq!(told("passt", "").services, only, "no address to offer");
    let off = Services::all() - Services::DHCP - Services::RA;
    assert_eq!(told("passt --no-dhcp --no-ra", "46").services, off);
    let names = told("passt -H guest --fqdn guest.example.org -S a.example -S b.example", "46");
    assert_eq!(names.hostname.unwrap().as_str(), "guest");
    assert_eq!(names.fqdn.unwrap().as_str(), "guest.example.org");
    assert_eq!(names.search.iter().map(Name::as_str).collect::<Vec<_>>(), ["a.example", "b.example"]);
    assert_eq!(told("passt", "46").search[0].as_str(), "example.org");
    assert_eq!((told("passt -m 0", "46").mtu, told("passt", "46").mtu), (0, 65520));
}

#[test]
fn summary() {
    let (setup, _) = Setup::new(&config("pasta 1"), &host("46"), &resolv("192.0.2.53")).unwrap();
    let expected = [
        "Template interface for IPv4: eth0",
        "Template interface for IPv6: eth1",
        "Namespace interface: eth0",
        "MAC address of the host's side: 9a:55:9a:55:9a:55",
        "IPv4: assign 192.0.2.2/24, router 192.0.2.1, DNS 192.0.2.53",
        "IPv6: assign 2001:db8::2/64, router fe80::99",
        "DNS search list: example.org",
    ];
    assert_eq!(setup.summary(), expected);

    let (setup, _) = Setup::new(&config("passt"), &host(""), &resolv("")).unwrap();
    let last = setup.summary().into_iter().find(|l| l.starts_with("IPv6")).unwrap();
    assert_eq!(last, "IPv6: link-local addresses only, router fe80::1");
}

/// Types of the options in the router advertisement that the guest gets.
fn advertised(args: &str, kind: &str) -> Vec<u8> {
    let (setup, _) = Setup::new(&config(args), &host(kind), &Resolv::default()).unwrap();
    let mut frame = [0; 1500];
    let len = responder::ndp::unsolicited_ra(&setup.responder, &mut frame).unwrap();
    let mut options = &frame[14 + 40 + 16..len];
    let mut types = Vec::new();
    while let [kind, words, ..] = options {
        types.push(*kind);
        options = &options[usize::from(*words) * 8..];
    }
    types
}

/// Without a prefix there is a router nevertheless.
#[test]
fn prefixes_are_advertised_if_there_are_any() {
    assert!(advertised("passt", "6").contains(&3));
    assert!(!advertised("passt", "").contains(&3));
}

/// Where no router is advertised the guest forms no address, so it gets none.
#[test]
fn no_address_without_advertisements() {
    for (option, prefix) in [("", Some("fd00::")), ("--no-ra", None), ("--no-ndp", None)] {
        let args = format!("pasta --config-net --subnet 10.9.8.0/24 {option}");
        let (setup, _) = Setup::new(&config(args.trim()), &host("46"), &Resolv::default()).unwrap();
        let v6 = setup.tap.unwrap().config.network.unwrap().v6.unwrap();
        let prefix = prefix.and_then(|text| text.parse().ok());
        assert_eq!(v6.routes, Routes::Advertised(prefix), "{args}");
    }
}

/// Networks of the guest's own are like none of the host's, whatever that has.
#[test]
fn networks_apart() {
    for kind in ["46", "4", ""] {
        let on = |args: &str| {
            Setup::new(&config(args), &host(kind), &resolv("192.0.2.53 2001:db8::53")).expect("a network").0
        };
        let both = on("slirp4netns -c -6 1 tap0");
        assert_eq!(
            network(&both),
            ["10.0.2.100/24 10.0.2.2 10.0.2.2 10.0.2.2", "fd00::/64 fe80::2 fd00::2 fe80::2"]
        );
        assert_eq!(both.responder.our_mac.to_string(), "52:55:0a:00:02:02");
        let told = both.responder.v4.as_ref().expect("IPv4");
        assert_eq!((told.our_addr, told.dns.as_slice()), (told.gateway, &[Ipv4Addr::new(10, 0, 2, 3)][..]));
        assert!(!both.responder.services.intersects(Services::DHCPV6));
        let leases = both.leases.as_ref().expect("a range").ends();
        assert_eq!(leases, (Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 30)));
        let v4 = &both.guest.v4;
        let addr = |text| Some(Addr::from(ip(text)));
        assert_eq!((v4.host_loopback, v4.closed_host), (addr("10.0.2.2"), None));
        assert_eq!((v4.dns_forward, v4.dns_host), (addr("10.0.2.3"), addr("192.0.2.53")));
        assert_eq!(both.guest.v6.dns_host, addr("2001:db8::53"));
        assert_eq!(v4.echoing.as_slice(), [addr("10.0.2.2"), addr("10.0.2.3")].map(Option::unwrap));
        assert_eq!(v4.groups, None);
        let tap = both.tap.as_ref().expect("a device").config.network.clone().expect("configured");
        assert_eq!(tap.mtu, Some(1500));
        assert!(tap.v6.is_some_and(
            |v6| v6.addresses.is_empty() && v6.routes == Routes::Advertised("fd00::".parse().ok())
        ));
        assert!(both.guest.v6.assigned.is_empty(), "the guest forms its own");
        assert_eq!(both.summary().iter().find(|line| line.contains("No usable")), None);

        let closed = on("slirp4netns --disable-host-loopback --disable-dns --cidr 10.0.135.128/25 1 tap0");
        let v4 = &closed.guest.v4;
        assert_eq!((v4.host_loopback, v4.closed_host), (None, addr("10.0.135.130")));
        assert_eq!((v4.dns_forward, v4.dns_host), (addr("10.0.135.131"), None));
        assert_eq!(network(&closed), ["10.0.135.228/25 10.0.135.130 - 10.0.135.130", "off"]);
        assert!(closed.guest.v6.off && closed.tap.is_some_and(|tap| tap.config.network.is_none()));
    }
    assert_eq!(given_to_namespace("slirp4netns -c 1 tap0").as_deref(), Some("10.0.2.100/24 10.0.2.2"));
}

/// Passt and pasta can have what slirp4netns has, and other parts of it.
#[test]
fn networks_apart_by_options() {
    let on = |args: &str| Setup::new(&config(args), &host("46"), &resolv("192.0.2.53")).expect("a network").0;
    for args in ["passt --subnet 10.0.2.0/24", "pasta --config-net --subnet 10.0.2.0/24 1"] {
        let setup = on(args);
        assert_eq!(
            network(&setup),
            ["10.0.2.100/24 10.0.2.2 10.0.2.2 10.0.2.2", "fd00::/64 fe80::2 fd00::2 fe80::2"]
        );
        assert!(setup.leases.is_some() && setup.responder.services.contains(Services::RA), "{args}");
    }
    let setup =
        on("pasta --subnet 10.9.0.0/16 -a 10.9.1.1 -g 10.9.0.1 --no-map-gw --dns-forward 10.9.0.9 -4 1");
    assert_eq!(network(&setup), ["10.9.1.1/16 10.9.0.1 - 10.9.0.1", "off"]);
    assert!(setup.leases.is_none() && setup.guest.v4.fixed);
    assert_eq!(setup.responder.v4.expect("IPv4").dns.as_slice(), [Ipv4Addr::new(10, 9, 0, 9)]);
}

/// A command's own resolv.conf: where the host's is of no use there, or whenever it is asked for.
#[test]
fn a_resolv_conf_for_the_command() {
    let stub = "nameserver 127.0.0.53\noptions edns0\nsearch .\n";
    let kept = "search .\noptions edns0\n";
    let remote = "nameserver 192.0.2.53\n";
    let own = "nameserver 169.254.1.1\n";
    for (args, content, expected) in [
        // The gateway's address is the host's loopback.
        ("pasta true", stub, Some(format!("nameserver 192.0.2.1\n{kept}"))),
        ("pasta", stub, Some(format!("nameserver 192.0.2.1\n{kept}"))),
        ("pasta true", remote, None),
        ("pasta true", "nameserver 127.0.0.53\nnameserver 192.0.2.53\n", None),
        ("pasta --no-map-gw true", stub, None),
        ("pasta --isolate-host true", stub, None),
        ("pasta --no-map-gw --dns-forward 10.9.9.9 true", stub, Some(format!("nameserver 10.9.9.9\n{kept}"))),
        ("pasta -D 192.0.2.7 true", stub, Some(format!("nameserver 192.0.2.7\n{kept}"))),
        ("pasta -D 192.0.2.7 true", remote, None),
        ("pasta --keep-resolv-conf true", stub, None),
        ("pasta --dns none true", stub, None),
        ("pasta 1", stub, None),
        ("passt", stub, None),
        ("pasta --resolv-conf true", remote, Some(remote.into())),
        (
            "pasta --resolv-conf -D 192.0.2.7 -S a -S b true",
            remote,
            Some("nameserver 192.0.2.7\nsearch a b\n".into()),
        ),
        (
            "pasta --resolv-conf -S none true",
            stub,
            Some("nameserver 192.0.2.1\nsearch .\noptions edns0\n".into()),
        ),
        ("pasta --resolv-conf --isolate-host true", stub, Some(format!("{own}{kept}"))),
        (
            "pasta --resolv-conf --isolate-host -a 169.254.1.1 true",
            stub,
            Some(format!("nameserver 169.254.1.3\n{kept}")),
        ),
        (
            "pasta --resolv-conf --no-map-gw true",
            "nameserver ::1\n",
            Some("nameserver fd9d:6c1f:5e2a::53\n".into()),
        ),
        ("pasta --resolv-conf --no-map-gw true", "", Some(own.into())),
        ("pasta --resolv-conf -6 true", stub, Some(format!("nameserver fe80::99%eth1\n{kept}"))),
        (
            "pasta --resolv-conf -6 true",
            "nameserver fe80::5%eth1\n",
            Some("nameserver fe80::5%eth1\n".into()),
        ),
        (
            "pasta --resolv-conf --subnet 10.0.2.0/24 -4 true",
            stub,
            Some(format!("nameserver 10.0.2.3\n{kept}")),
        ),
    ] {
        let (setup, warnings) =
            Setup::new(&config(args), &host("46"), &Resolv::parse(content.as_bytes())).unwrap();
        let expected = expected.map(|text| format!("# By pasta, for this mount namespace alone\n{text}"));
        assert_eq!(setup.resolv_conf, expected, "{args}: {content}");
        // With the others -U leads to the host's loopback.
        let closed = args == "pasta --isolate-host true";
        let to_do = "out of the guest's reach; --resolv-conf leads to them, ports 53 and 853 there";
        let told = warnings.iter().filter(|warning| warning.ends_with(to_do)).count();
        assert_eq!((told, warnings.len()), if closed { (1, 1) } else { (0, 0) }, "{args}: {warnings:?}");
    }
}

/// Name servers that an isolated guest reaches: those elsewhere, and others where they are asked for.
#[test]
fn resolvers_of_an_isolated_host() {
    let at = |text: &str| Some(text.parse::<IpAddr>().unwrap().into());
    for (args, servers, expected) in [
        ("pasta --isolate-host --subnet 10.0.2.0/24 1", "127.0.0.53", None),
        ("pasta --isolate-host true", "127.0.0.53 127.0.0.1", None),
        ("pasta --isolate-host -D none 1", "127.0.0.53", None),
        ("pasta --isolate-host true", "::ffff:0.0.0.0", None),
        ("pasta --isolate-host --subnet 10.0.2.0/24 1", "fe80::5%1", None),
        ("pasta --isolate-host --subnet 10.0.2.0/24 1", "127.0.0.53 192.0.2.53", at("192.0.2.53")),
        ("pasta --isolate-host --subnet 10.0.2.0/24 --resolv-conf true", "127.0.0.53", at("127.0.0.53")),
        ("pasta --isolate-host --dns-forward 10.9.9.9 1", "127.0.0.53", at("127.0.0.53")),
        // Who asks for it in a family that is off has not asked.
        ("pasta -4 --isolate-host --subnet 10.0.2.0/24 --dns-forward fd00::3 1", "127.0.0.53", None),
        ("passt --isolate-host --subnet 10.0.2.0/24 --dns-host 127.0.0.2", "", at("127.0.0.2")),
        ("passt --subnet 10.0.2.0/24", "127.0.0.53", at("127.0.0.53")),
    ] {
        let (setup, warnings) = Setup::new(&config(args), &host("4"), &resolv(servers)).unwrap();
        assert_eq!(setup.guest.v4.dns_host, expected, "{args}: {servers}");
        let is_told = warnings.iter().any(|warning| warning.contains("out of the guest's reach"));
        assert_eq!(
            is_told,
            expected.is_none() && !args.contains("-D none"),
            "{args}: {servers}: {warnings:?}"
        );
    }
}

/// What is told of resolvers out of reach is so: there is no way, and these are the ports of the one there
/// may be.
#[test]
fn ways_to_resolvers_are_told_as_they_are() {
    for (args, ports) in [
        ("pasta --isolate-host true", Some("ports 53 and 853 there")),
        ("pasta --isolate-host --subnet 10.0.2.0/24 true", Some(" port 53 there")),
        ("pasta --isolate-host --dns-forward fd09::9 --dns-host ::1 true", None),
        ("pasta --isolate-host --dns-forward 10.9.9.9 --dns-host 127.0.0.1 true", None),
    ] {
        let (_, warnings) = Setup::new(&config(args), &host("46"), &resolv("127.0.0.53")).unwrap();
        let told: Vec<_> = warnings.iter().filter(|line| line.contains("out of the guest's reach")).collect();
        assert_eq!(told.len(), usize::from(ports.is_some()), "{args}: {warnings:?}");
        assert!(told.iter().all(|line| line.ends_with(ports.unwrap_or_default())), "{args}: {told:?}");
    }
}

/// Nothing of the host's loopback has a name, and no port is forwarded that was not given.
#[test]
fn an_isolated_host() {
    for program in
        ["pasta --isolate-host 1", "passt --isolate-host", "pasta --isolate-host --subnet 10.0.2.0/24 1"]
    {
        let config = config(program);
        let (setup, _) = Setup::new(&config, &host("46"), &resolv("127.0.0.53 ::1")).unwrap();
        for family in [&setup.guest.v4, &setup.guest.v6] {
            assert_eq!((family.host_loopback, family.host_itself), (None, None), "{program}");
            assert_eq!(family.dns_host, None, "{program}");
        }
        let ports = &config.ports;
        for ports in [&ports.tcp_in, &ports.udp_in, &ports.tcp_out, &ports.udp_out] {
            assert_eq!(*ports, cli::Ports::None, "{program}");
        }
    }
}

/// A name for others that is the guest's own address leads nowhere, which is told.
#[test]
fn names_that_are_the_guests_own() {
    for (args, told) in [
        ("passt --dns-forward 192.0.2.2", "192.0.2.2 is the guest's own address"),
        ("passt -a 10.9.9.9 --dns-forward 10.9.9.9", "the host's resolver (--dns-forward)"),
        ("passt --map-host-loopback 2001:db8::2", "2001:db8::2 is the guest's own address"),
        ("pasta --map-guest-addr 192.0.2.2 1", "the host (--map-guest-addr)"),
        ("pasta -a 10.9.9.9 -g 10.9.9.9 1", "the gateway (--gateway)"),
        ("passt --subnet 10.0.2.0/24 --dns-forward 10.0.2.15", "10.0.2.15 is an address that DHCP gives"),
        ("passt --subnet 10.0.2.0/24 --map-host-loopback 10.0.2.30", "10.0.2.30 is an address that DHCP"),
        ("passt --subnet 10.0.2.0/24 -g 10.0.2.31", ""),
        ("passt --subnet 10.0.2.0/24 -g 10.0.2.15 --no-dhcp", ""),
        ("pasta --isolate-host -D 127.0.0.53 true", "and --resolv-conf lead to the host's"),
        ("passt --isolate-host -D 127.0.0.53", "and --dns-forward with an address for it lead to"),
        ("passt -a 10.9.9.9 --dns-forward 192.0.2.2 --map-host-loopback 2001:db8::2 -a 2001:db8::9", ""),
        ("passt -D 127.0.0.53", ""),
        ("passt -g 192.0.2.77 --isolate-host -D 192.0.2.99", ""),
    ] {
        let (_, warnings) = Setup::new(&config(args), &host("46"), &resolv("192.0.2.53")).unwrap();
        assert_eq!(warnings.len(), usize::from(!told.is_empty()), "{args}: {warnings:?}");
        assert!(warnings.iter().all(|line| line.contains(told)), "{args}: {warnings:?}");
    }
}

/// A name for resolvers that are spared is not announced, as nothing answers there.
#[test]
fn what_leads_nowhere_is_not_announced() {
    for (args, servers, expected) in [
        ("pasta --isolate-host --subnet 10.0.2.0/24 1", "127.0.0.53", ""),
        ("passt --isolate-host --subnet 10.0.2.0/24", "127.0.0.53 ::1", ""),
        ("pasta --isolate-host --subnet 10.0.2.0/24 1", "127.0.0.53 192.0.2.53", "10.0.2.3 fd00::3"),
        ("pasta --isolate-host --subnet 10.0.2.0/24 --resolv-conf true", "127.0.0.53", "10.0.2.3 fd00::3"),
        ("pasta --isolate-host --subnet 10.0.2.0/24 -D 10.1.1.1 1", "127.0.0.53", "10.1.1.1"),
        ("passt --subnet 10.0.2.0/24", "127.0.0.53", "10.0.2.3 fd00::3"),
        // The host may have one later.
        ("pasta --isolate-host --subnet 10.0.2.0/24 1", "", "10.0.2.3 fd00::3"),
    ] {
        let (setup, _) = Setup::new(&config(args), &host("46"), &resolv(servers)).unwrap();
        let told = &setup.responder;
        let v4 = told.v4.iter().flat_map(|v4| v4.dns.iter().map(ToString::to_string));
        let v6 = told.v6.iter().flat_map(|v6| v6.dns.iter().map(ToString::to_string));
        assert_eq!(v4.chain(v6).collect::<Vec<_>>().join(" "), expected, "{args}: {servers}");
    }
}

/// What is told of the guest's address is what it gets.
#[test]
fn leases_are_told() {
    for (args, told) in [
        ("passt --subnet 10.0.2.0/24", "assign 10.0.2.15/24 to 10.0.2.30/24 by DHCP, router 10.0.2.2"),
        ("passt --subnet 10.0.2.0/24 --no-dhcp", "assign 10.0.2.100/24, router 10.0.2.2"),
        ("pasta --subnet 10.0.2.0/24 1", "assign 10.0.2.15/24 to 10.0.2.30/24 by DHCP, router 10.0.2.2"),
        ("pasta --config-net --subnet 10.0.2.0/24 1", "assign 10.0.2.100/24, router 10.0.2.2"),
        ("passt --subnet 10.0.2.0/24 -a 10.0.2.9", "assign 10.0.2.9/24, router 10.0.2.2"),
    ] {
        let (setup, _) = Setup::new(&config(args), &host("46"), &resolv("192.0.2.53")).unwrap();
        assert!(setup.summary().iter().any(|line| line.contains(told)), "{args}: {:?}", setup.summary());
    }
}
