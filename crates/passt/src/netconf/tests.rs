//! Real namespaces: one is set up as a host with `ip`, read, and a second one is
//! configured after it. Without the privilege to make namespaces there is nothing to test.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::thread;

use passt_proto::addr::Mac;
use passt_testing::skip;

use super::Rtnl;
use super::guest::{self, FamilyConfig, GuestNetwork, Routes, TapConfig};
use super::host::{self, HostNetwork, Select, Template};

/// Runs `test` in a thread with a network namespace of its own.
fn in_namespace(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name(thread::current().name().unwrap_or_default().to_owned());
        let run = || match enter_new() {
            Ok(()) => test(),
            Err(error) => skip(&format!("no network namespace: {error}")),
        };
        let thread = builder.spawn_scoped(scope, run).expect("a thread");
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[expect(deprecated, reason = "sound for a network namespace: descriptors stay")]
fn enter_new() -> std::io::Result<()> {
    Ok(rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)?)
}

/// Runs commands of `ip` in the thread's namespace.
fn ip(batch: &str) {
    let mut child =
        Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip is installed");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(batch.as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success(), "ip refused: {batch}");
}

/// The output of one command of `ip`.
fn shown(args: &str) -> String {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {args}");
    String::from_utf8(output.stdout).unwrap()
}

/// Two Ethernet interfaces with carrier, `up0` and `up1`, and nothing on them.
const INTERFACES: &str = "link add up0 address 02:00:00:00:00:01 mtu 1400 type veth peer name x0
link add up1 type veth peer name x1
link set lo up
link set x0 up addrgenmode none
link set x1 up addrgenmode none
link set up0 up addrgenmode none
link set up1 up addrgenmode none
";

fn read(select: &Select<'_>) -> HostNetwork {
    host::read(&mut Rtnl::open().unwrap(), select).unwrap()
}

fn host_with(batch: &str) -> HostNetwork {
    ip(&format!("{INTERFACES}{batch}"));
    read(&COPIED)
}

/// All of the host's addresses are to be the guest's.
const COPIED: Select<'_> = Select { interface: None, v4: None, v6: None, copied: [true; 2] };

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Interface, first address, gateway, number of routes.
fn summary(template: Option<&Template>) -> Option<(&str, String, String, usize)> {
    let t = template?;
    let address = t.addresses.first();
    Some((
        &t.link.name,
        address.map_or(String::new(), |a| format!("{}/{}", a.addr, a.prefix_len)),
        t.gateway.map_or(String::new(), |g| g.to_string()),
        t.routes.len(),
    ))
}

/// Interface, address, gateway, number of routes.
type Want = Option<(&'static str, &'static str, &'static str, usize)>;

/// Configurations of a host, with what is found for IPv4 and IPv6.
const HOSTS: &[(&str, &str, Want, Want)] = &[
    ("nothing but lo", "", None, None),
    (
        "default by a gateway",
        "addr add 192.0.2.2/24 dev up0\nroute add default via 192.0.2.1",
        Some(("up0", "192.0.2.2/24", "192.0.2.1", 2)),
        None,
    ),
    (
        "gateway off the link, declared to be on it",
        "addr add 192.0.2.2/32 dev up0\nroute add default via 198.51.100.1 dev up0 onlink",
        Some(("up0", "192.0.2.2/32", "198.51.100.1", 1)),
        None,
    ),
    (
        "gateway off the link, with a route to it",
        "addr add 192.0.2.2/32 dev up0\nroute add 198.51.100.1 dev up0
route add default via 198.51.100.1",
        Some(("up0", "192.0.2.2/32", "198.51.100.1", 2)),
        None,
    ),
    (
        "two defaults",
        "addr add 192.0.2.2/24 dev up0\naddr add 198.51.100.2/24 dev up1
route add default via 192.0.2.1 metric 200\nroute add default via 198.51.100.1 metric 100",
        Some(("up1", "198.51.100.2/24", "198.51.100.1", 2)),
        None,
    ),
    (
        "multipath",
        "addr add 192.0.2.2/24 dev up0\naddr add 198.51.100.2/24 dev up1
route add default nexthop via 198.51.100.1 nexthop via 192.0.2.1",
        Some(("up1", "198.51.100.2/24", "198.51.100.1", 2)),
        None,
    ),
    (
        "next hop object",
        "addr add 192.0.2.2/24 dev up0\nnexthop add id 7 via 192.0.2.1 dev up0
route add default nhid 7",
        Some(("up0", "192.0.2.2/24", "192.0.2.1", 2)),
        None,
    ),
    (
        "multipath, the second hop heavier",
        "addr add 192.0.2.2/24 dev up0\naddr add 198.51.100.2/24 dev up1
route add default nexthop via 198.51.100.1 nexthop via 192.0.2.1 weight 3",
        Some(("up0", "192.0.2.2/24", "192.0.2.1", 2)),
        None,
    ),
    (
        "group of next hop objects, the second heavier",
        "addr add 192.0.2.2/24 dev up0\nnexthop add id 7 via 192.0.2.9 dev up0
nexthop add id 8 via 192.0.2.1 dev up0\nnexthop add id 9 group 7/8,200\nroute add default nhid 9",
        Some(("up0", "192.0.2.2/24", "192.0.2.1", 2)),
        None,
    ),
    (
        "an address that a host gives itself",
        "addr add 169.254.7.7/16 dev up0\naddr add 192.0.2.2/24 dev up0\nroute add default dev up0",
        Some(("up0", "192.0.2.2/24", "", 3)),
        None,
    ),
    (
        "an interface with such an address alone, and another",
        "addr add 169.254.7.7/16 dev up0\naddr add 192.0.2.2/24 dev up1",
        Some(("up1", "192.0.2.2/24", "", 1)),
        None,
    ),
    (
        "such an address alone",
        "addr add 169.254.7.7/16 dev up0",
        Some(("up0", "169.254.7.7/16", "", 1)),
        None,
    ),
    (
        "multicast",
        "addr add 192.0.2.2/24 dev up1\nroute add 239.0.0.0/8 dev up0
route add 224.0.0.0/4 dev up1\nroute add multicast 232.0.0.0/8 dev up1
addr add 2001:db8::2/64 dev up1 nodad\nroute add ff05::/16 dev up1 table main",
        Some(("up1", "192.0.2.2/24", "", 3)),
        Some(("up1", "2001:db8::2/64", "", 2)),
    ),
    (
        "unique local, temporary and global",
        "addr add fd00::2/64 dev up0 nodad\naddr add 2001:db8::2/64 dev up0 nodad
route add default via 2001:db8::1",
        None,
        Some(("up0", "2001:db8::2/64", "2001:db8::1", 3)),
    ),
    (
        "deprecated alone",
        "addr add 2001:db8::3/64 dev up0 nodad preferred_lft 0\nroute add default via 2001:db8::1",
        None,
        Some(("up0", "2001:db8::3/64", "2001:db8::1", 2)),
    ),
    (
        "gateway of the other family",
        "addr add 192.0.2.2/32 dev up0\nroute add 0.0.0.0/0 via inet6 fe80::1 dev up0",
        Some(("up0", "192.0.2.2/32", "", 1)),
        None,
    ),
    (
        "default without a gateway",
        "addr add 192.0.2.2/32 dev up0\nroute add default dev up0",
        Some(("up0", "192.0.2.2/32", "", 1)),
        None,
    ),
    ("no default", "addr add 192.0.2.2/24 dev up1", Some(("up1", "192.0.2.2/24", "", 1)), None),
    (
        "unnumbered, with an address of loopback",
        "addr add 192.0.2.2/32 dev lo\nroute add default dev up0 src 192.0.2.2",
        Some(("up0", "192.0.2.2/32", "", 1)),
        None,
    ),
    (
        "preferred source, link scope and secondary addresses",
        "addr add 169.254.1.2/16 dev up0 scope link\naddr add 192.0.2.2/24 dev up0
addr add 192.0.2.3/24 dev up0\nroute add default via 192.0.2.1 src 192.0.2.3",
        Some(("up0", "192.0.2.3/24", "192.0.2.1", 3)),
        None,
    ),
    (
        "other tables and kinds",
        "addr add 192.0.2.2/24 dev up1\nroute add default dev up0 table 99
route add unreachable default metric 5",
        Some(("up1", "192.0.2.2/24", "", 1)),
        None,
    ),
    (
        "IPv6 only",
        "addr add 2001:db8::2/64 dev up0 nodad\naddr add fe80::2/64 dev up0 nodad
route add default via fe80::1 dev up0\nroute add 2001:db8:1::/48 via 2001:db8::9",
        None,
        Some(("up0", "2001:db8::2/64", "fe80::1", 3)),
    ),
    (
        "IPv6 on another interface, multipath",
        "addr add 192.0.2.2/24 dev up0\nroute add default via 192.0.2.1
addr add 2001:db8::2/64 dev up1 nodad\naddr add 2001:db8::3/64 dev up1 nodad preferred_lft 0
route add default nexthop via 2001:db8::1 dev up1 nexthop via fe80::1 dev up0",
        Some(("up0", "192.0.2.2/24", "192.0.2.1", 2)),
        Some(("up1", "2001:db8::2/64", "2001:db8::1", 2)),
    ),
];

#[test]
fn templates() {
    for (name, batch, v4, v6) in HOSTS {
        in_namespace(|| {
            let host = host_with(batch);
            let want = |w: &Want| w.map(|(l, a, g, n)| (l, a.to_owned(), g.to_owned(), n));
            assert_eq!(summary(host.v4.as_ref()), want(v4), "IPv4, {name}");
            assert_eq!(summary(host.v6.as_ref()), want(v6), "IPv6, {name}");
        });
    }
}

/// Next hop objects as kernels report them that leave out what older readers need.
#[test]
fn next_hop_objects_without_compatibility() {
    in_namespace(|| {
        let written = std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", "0");
        if let Err(error) = written {
            return skip(&format!("nexthop_compat_mode: {error}"));
        }
        let host = host_with(
            "addr add 192.0.2.2/24 dev up0\nnexthop add id 7 via 192.0.2.1 dev up0
nexthop add id 8 via 192.0.2.9 dev up0\nnexthop add id 9 group 7/8\nroute add default nhid 9",
        );
        let got = summary(host.v4.as_ref()).expect("a template");
        assert_eq!((got.0, got.2.as_str()), ("up0", "192.0.2.1"));
    });
}

/// What is looked for elsewhere on the link is waited for where there is nothing else, and counts
/// in any case, but not if somebody else has it.
#[test]
fn tentative_addresses() {
    in_namespace(|| {
        let host = host_with("addr add 2001:db8::2/64 dev up0");
        assert_eq!(summary(host.v6.as_ref()).expect("a template").1, "2001:db8::2/64");
        let left = shown("-6 addr show dev up0 tentative");
        assert!(!left.contains("2001:db8::2"), "it was waited for: {left}");

        ip("addr add 2001:db8::3/64 dev up0");
        let host = read(&Select::default());
        let addresses = host.v6.expect("a template").addresses;
        let found: Vec<_> = addresses.iter().map(|own| own.addr).collect();
        assert_eq!(found, [addr("2001:db8::2"), addr("2001:db8::3")]);
        assert!(shown("-6 addr show dev up0 tentative").contains("2001:db8::3"), "nobody waited");
    });
    // Where nobody waits for it, or nobody is there to have it.
    for (batch, copied) in [("", [true, false]), ("link set x0 down", [true; 2])] {
        in_namespace(|| {
            ip(&format!("{INTERFACES}{batch}"));
            ip("addr add 2001:db8::2/64 dev up0\nroute add default via 2001:db8::1 dev up0");
            let host = read(&Select { copied, ..COPIED });
            assert_eq!(summary(host.v6.as_ref()).expect("a template").1, "2001:db8::2/64");
            assert!(shown("-6 addr show dev up0 tentative").contains("2001:db8::2"), "nobody waited");
        });
    }
    in_namespace(|| {
        ip(&format!("{INTERFACES}addr add 2001:db8::2/64 dev x0 nodad\naddr add 2001:db8::2/64 dev up0"));
        let host = read(&Select::default());
        let found = host.v6.map(|template| (template.link.name, template.addresses.len()));
        assert_ne!(found, Some(("up0".to_owned(), 1)), "somebody else has it");
    });
}

/// A zone is the name of an interface, or its number.
#[test]
fn zones() {
    in_namespace(|| {
        let host = host_with("");
        let up0 = host.index("up0").expect("it is there");
        assert_eq!(["up0", &up0.to_string()].map(|zone| host.index(zone)), [Some(up0); 2]);
        for zone in ["nowhere", "0", "", "4294967295", &format!("+{up0}"), &format!("0{up0}")] {
            assert_eq!(host.index(zone), None, "{zone}");
        }
    });
}

#[test]
fn chosen_interfaces() {
    in_namespace(|| {
        host_with(
            "addr add 192.0.2.2/24 dev up0\nroute add default via 192.0.2.1
addr add 198.51.100.2/24 dev up1",
        );
        let name = |select| read(&select).v4.map(|t| t.link.name);
        let up1 = Some("up1");
        let (interface, v4) = (up1, up1);
        assert_eq!(name(Select { interface, ..Select::default() }).as_deref(), up1);
        assert_eq!(name(Select { v4, ..Select::default() }).as_deref(), up1);
        let v4 = Some("nowhere");
        assert_eq!(name(Select { v4, ..Select::default() }), None);

        let select = Select { interface: Some("nowhere"), ..Select::default() };
        let error = host::read(&mut Rtnl::open().unwrap(), &select).unwrap_err();
        let want = "Invalid interface name nowhere: No such device";
        assert_eq!(error.to_string(), want);
    });
}

#[test]
fn link_is_described() {
    in_namespace(|| {
        let host = host_with("addr add 192.0.2.2/24 dev up0");
        let link = host.v4.expect("a template").link;
        assert_eq!(link.mtu, 1400);
        assert_eq!(link.mac, Some(Mac([2, 0, 0, 0, 0, 1])));
        assert_eq!(host.v6, None);
    });
}

/// Configures `tap0` in a new namespace. The kernel cannot tell a veth from a tap.
fn guest_like(network: GuestNetwork) -> super::host::Interface {
    enter_new().unwrap();
    ip("link add tap0 type veth peer name y0\nlink set y0 up");
    let mut nl = Rtnl::open().unwrap();
    guest::loopback_up(&mut nl).unwrap();
    let config = TapConfig { mac: Some(Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x01])), network: Some(network) };
    guest::configure(&mut nl, "tap0", &config).unwrap()
}

fn copied(template: &Template) -> FamilyConfig {
    FamilyConfig { addresses: template.addresses.clone(), routes: Routes::Copied(template.routes.clone()) }
}

/// Routes of an interface without what differs between host and guest.
fn routes_of(family: &str, dev: &str) -> Vec<String> {
    let text = shown(&format!("{family} route show dev {dev}"));
    let strip = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let end = words.iter().position(|w| matches!(*w, "src" | "nhid" | "onlink"));
        words.get(..end.unwrap_or(words.len())).unwrap().join(" ")
    };
    text.lines().map(strip).filter(|l| !l.starts_with("fe80::")).collect()
}

#[test]
fn configurations_are_copied() {
    let cases = [
        "addr add 192.0.2.2/24 dev up0\nroute add default via 192.0.2.1 metric 77",
        "addr add 192.0.2.2/32 dev up0\nroute add default via 198.51.100.1 dev up0 onlink",
        "addr add 192.0.2.2/32 dev up0\nroute add 198.51.100.1 dev up0
route add default via 198.51.100.1\nroute add 203.0.113.0/24 via 198.51.100.1 mtu 1300",
        "addr add 192.0.2.2 peer 192.0.2.1/32 dev up0\nroute add default via 192.0.2.1",
        "addr add 192.0.2.2/24 dev up0 noprefixroute\nroute add 192.0.2.0/24 dev up0 metric 100
route add default via 192.0.2.1 src 192.0.2.2",
        "addr add 192.0.2.2/24 dev up0\nroute add default via 192.0.2.1
addr add 2001:db8::2/64 dev up0 nodad\nroute add default via fe80::1 dev up0 pref high
route add 2001:db8:1::/48 via 2001:db8:2::1 dev up0 onlink\nroute add 2001:db8:2::/64 dev up0",
        "addr add 192.0.2.2/24 dev up0\nroute add 203.0.113.0/24 dev up0
route add 0.0.0.0/1 via 203.0.113.1\nroute append 203.0.113.0/24 dev up0 metric 5",
    ];
    for case in cases {
        in_namespace(|| {
            let host = host_with(case);
            let families = ["-4", "-6"];
            let before = families.map(|f| routes_of(f, "up0"));
            guest_like(GuestNetwork {
                mtu: Some(65520),
                v4: host.v4.as_ref().map(copied),
                v6: host.v6.as_ref().map(copied),
            });
            assert_eq!(families.map(|f| routes_of(f, "tap0")), before, "{case}");
            assert_eq!(read(&Select::default()).v4.unwrap().addresses, host.v4.unwrap().addresses);
        });
    }
}

#[test]
fn everything_is_usable_at_once() {
    in_namespace(|| {
        let host = host_with(
            "addr add 192.0.2.2/24 dev up0\nroute add default via 192.0.2.1
addr add 2001:db8::2/64 dev up0 nodad\nroute add default via fe80::1 dev up0",
        );
        let link = guest_like(GuestNetwork {
            mtu: Some(65520),
            v4: host.v4.as_ref().map(copied),
            v6: host.v6.as_ref().map(copied),
        });
        assert_eq!(link.mac, Some(Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x01])));
        let text = shown("addr show");
        for want in [
            "LOOPBACK,UP",
            "mtu 65520",
            "9a:55:9a:55:9a:01",
            "inet 192.0.2.2/24 brd 192.0.2.255 scope global",
            "inet6 2001:db8::2/64 scope global nodad",
            "inet6 fe80::9855:9aff:fe55:9a01/64 scope link nodad",
        ] {
            assert!(text.contains(want), "{want} in {text}");
        }
        let tap = shown("addr show dev tap0");
        assert!(!tap.contains("tentative"), "{tap}");
    });
}

#[test]
fn three_hundred_routes() {
    in_namespace(|| {
        let mut batch = String::from("addr add 192.0.2.2/24 dev up0\n");
        for i in 0..300 {
            let net = i / 256;
            writeln!(batch, "route add 10.{net}.{}.0/24 via 192.0.2.1", i % 256).unwrap();
        }
        let host = host_with(&batch);
        let v4 = host.v4.as_ref().map(copied);
        guest_like(GuestNetwork { v4, ..GuestNetwork::default() });
        assert_eq!(routes_of("-4", "tap0").len(), 301);
    });
}

#[test]
fn given_configurations() {
    let config = |gateway: Option<&str>, addresses: &[(&str, u8)]| FamilyConfig {
        addresses: addresses.iter().map(|(a, l)| host::IfAddr::new(addr(a), *l)).collect(),
        routes: Routes::Default(gateway.map(addr)),
    };
    in_namespace(|| {
        guest_like(GuestNetwork {
            mtu: None,
            v4: Some(config(Some("10.0.2.2"), &[("10.0.2.100", 24)])),
            v6: Some(config(Some("fe80::1"), &[])),
        });
        assert!(routes_of("-4", "tap0").contains(&"default via 10.0.2.2".into()));
        let v6 = routes_of("-6", "tap0").join("\n");
        assert!(v6.starts_with("default via fe80::1 metric 1024"), "{v6}");
    });
    in_namespace(|| {
        guest_like(GuestNetwork {
            mtu: None,
            v4: Some(config(Some("198.51.100.1"), &[("10.0.2.100", 32)])),
            v6: Some(config(None, &[("2001:db8::2", 64)])),
        });
        assert_eq!(routes_of("-4", "tap0"), ["default via 198.51.100.1"]);
        let v6 = routes_of("-6", "tap0").join("\n");
        assert!(v6.contains("default metric 1024"), "{v6}");
    });
}

/// A namespace whose interface cannot have IPv6 gets the rest.
#[test]
fn without_ipv6() {
    in_namespace(|| {
        enter_new().unwrap();
        ip("link add tap0 type veth peer name y0\nlink set y0 up");
        if let Err(error) = std::fs::write("/proc/sys/net/ipv6/conf/tap0/disable_ipv6", "1") {
            return skip(&format!("disable_ipv6: {error}"));
        }
        let mut nl = Rtnl::open().unwrap();
        let family = |address: &str, len| FamilyConfig {
            addresses: vec![host::IfAddr::new(addr(address), len)],
            routes: Routes::Default(None),
        };
        let config = TapConfig {
            mac: None,
            network: Some(GuestNetwork {
                mtu: Some(1500),
                v4: Some(family("192.0.2.2", 24)),
                v6: Some(family("2001:db8::2", 64)),
            }),
        };
        let link = guest::configure(&mut nl, "tap0", &config).unwrap();
        assert!(link.mac.is_some());
        assert!(shown("-4 addr show dev tap0").contains("192.0.2.2/24"));
        assert_eq!(shown("-6 addr show dev tap0"), "");
        assert!(matches!(guest::configure(&mut nl, "tap1", &config), Err(guest::Error::NoInterface(_))));
    });
}
