//! Options that mean something for one family alone, or for one service.

use super::super::option::Family;
use super::super::options::all;
use super::*;

/// A family that is off, and what is given for it.
#[test]
fn options_of_a_family_that_is_off() {
    for (off, option, value) in [
        ("IPv4", "-a", "10.0.0.1/24"),
        ("IPv4", "-n", "24"),
        ("IPv4", "-g", "10.0.0.1"),
        ("IPv4", "-o", "10.0.0.1"),
        ("IPv4", "--outbound-if4", "x"),
        ("IPv4", "--map-host-loopback", "10.0.0.1"),
        ("IPv4", "--map-guest-addr", "::ffff:10.0.0.1"),
        ("IPv4", "-D", "10.0.0.1"),
        ("IPv4", "--dns-forward", "10.0.0.1"),
        ("IPv4", "--dhcp-opt", "6="),
        ("IPv4", "--dhcp-lease", "600"),
        ("IPv4", "--dhcp-boot", "file"),
        ("IPv4", "--domain", "a.test"),
        ("IPv4", "--hostname", "a"),
        ("IPv4", "--ntp", "10.0.0.1"),
        ("IPv6", "-a", "fd00::1/64"),
        ("IPv6", "-g", "fd00::1"),
        ("IPv6", "-o", "fd00::1"),
        ("IPv6", "--outbound-if6", "x"),
        ("IPv6", "--map-host-loopback", "fd00::1"),
        ("IPv6", "--map-guest-addr", "fd00::1"),
        ("IPv6", "-D", "fd00::1"),
        ("IPv6", "--dns-forward", "fd00::1"),
        ("IPv6", "--dhcpv6-opt", "23="),
        ("IPv6", "--dhcpv6-lease", "600"),
        ("IPv6", "--ntp", "fd00::1"),
        ("IPv6", "--ra-lifetime", "9"),
        ("IPv6", "--ra-preference", "low"),
        ("IPv6", "--ra-dns-lifetime", "9"),
        ("IPv6", "--ra-route", "fd00::/16"),
        ("IPv6", "--ra-pref64", "64:ff9b::/96"),
    ] {
        let (on, other) = if off == "IPv4" { ("-6", "-4") } else { ("-4", "-6") };
        let warnings = |line: &str| run(&format!("passt {line}")).warnings;
        for line in [format!("{on} {option} {value} {option} {value}"), format!("{option} {value} {on}")] {
            let told = warnings(&line);
            assert_eq!(told.len(), 1, "{line}: {told:?}");
            let start = format!("{off} is off: --");
            assert!(told[0].starts_with(&start) && told[0].ends_with(" has no effect"), "{told:?}");
        }
        assert_eq!(warnings(&format!("{option} {value}")), [""; 0], "{option}");
        assert_eq!(warnings(&format!("{other} {option} {value}")), [""; 0], "{option}");
    }
    // Name servers of a family that is off do not replace those of the host.
    assert_eq!(run("passt -6 -D 10.0.0.1").dns.servers, run("passt").dns.servers);
    assert_eq!(run("passt -6 -D none -D 10.0.0.1").dns.servers, Source::None);
    let one = Source::Given(vec!["fd00::1".parse().expect("an address")]);
    assert_eq!(run("passt -6 -D 10.0.0.1 -D fd00::1").dns.servers, one);
    // What has an effect all the same, or was taken back.
    for line in ["-4 --dns-host ::1", "-4 -D fd00::1 -D none", "-6 -4 -a 10.0.0.1", "-6 --captive-portal a:b"]
    {
        assert_eq!(run(&format!("passt {line}")).warnings, [""; 0], "{line}");
    }
}

/// Whatever takes an address, or is named after a protocol of one family, has its family told.
#[test]
fn options_have_their_families() {
    for option in GROUPS.iter().flat_map(|(_, group)| group.iter()) {
        let (_, argument) =
            option.names.split_once("--").and_then(|(_, long)| long.split_once(' ')).unwrap_or_default();
        let is_value = matches!(option.action, Action::Value(_));
        let expected = match option.long() {
            "dns-host" => Family::Any,
            name if is_value && (name.starts_with("ra-") || name.starts_with("dhcpv6-")) => Family::V6,
            name if is_value && name.starts_with("dhcp-") => Family::V4,
            "netmask" | "domain" | "hostname" | "outbound-if4" => Family::V4,
            "outbound-if6" => Family::V6,
            _ if argument.starts_with("ADDR") => Family::OfAddress,
            _ => Family::Any,
        };
        assert_eq!(option.family, expected, "{}", option.names);
    }
}

/// An option is told to have no effect where what it is for is off, and only there.
#[test]
fn options_of_a_service_that_is_off() {
    let warnings = |line: &str| run(&format!("pasta {line} true")).warnings;
    for (off, what, options) in [
        (&["--no-tcp"][..], "TCP is", &["-t 80", "-T 80", "-t auto"][..]),
        (&["--no-udp"], "UDP is", &["-u 80", "-U 80", "-U all"]),
        (
            &["--no-dhcp"],
            "DHCP is",
            &["--dhcp-opt 6=", "--dhcp-lease 60", "--dhcp-boot a", "--domain a", "--ntp 10.0.0.1", "-H a"],
        ),
        (&["--no-dhcpv6"], "DHCPv6 is", &["--dhcpv6-opt 23=", "--dhcpv6-lease 60", "--ntp fd00::1"]),
        (&["--no-dhcp --no-dhcpv6"], "DHCP and DHCPv6 are", &["--fqdn a.test"]),
        (
            &["--no-ra", "--no-ndp", "--no-icmp"],
            "Router advertisements are",
            &["--ra-lifetime 9", "--ra-preference low", "--ra-dns-lifetime 9", "--ra-route fd00::/16"],
        ),
        (&["--config-net"], "With --config-net router advertisements are", &["--ra-lifetime 9"]),
        (&["--subnet 10.0.2.0/24"], "With --subnet DHCPv6 is", &["--dhcpv6-lease 60"]),
        (&["-4 --no-dhcp"], "DHCP is", &["--fqdn a.test"]),
        (&["-6 --no-dhcpv6", "-6 --splice-only"], "DHCPv6 is", &["--fqdn a.test"]),
        (
            &["--no-dhcp --no-dhcpv6 --no-ra", "-4 --no-dhcp", "--no-dhcp --no-dhcpv6 --config-net"],
            "DHCP, DHCPv6 and router advertisements are",
            &["--captive-portal a:b"],
        ),
    ] {
        for (off, option) in off.iter().flat_map(|off| options.iter().map(move |option| (off, option))) {
            let told = warnings(&format!("{option} {off}"));
            let first = option.split(' ').next().unwrap();
            let name = all().find(|known| first.starts_with("--") && first[2..] == *known.long());
            let name = name.or_else(|| all().find(|known| known.short() == first.chars().nth(1)));
            let name = name.expect("an option").long();
            assert_eq!(told, [format!("{what} off: --{name} has no effect")], "{option} {off}");
            assert_eq!(warnings(option), [""; 0], "{option}");
            for other in ["--no-multicast", "-f"] {
                assert_eq!(warnings(&format!("{other} {option}")), [""; 0], "{other} {option}");
            }
        }
    }
    for line in ["--no-tcp -t none", "--no-udp -u none -U none", "--no-tcp -t none -T none"] {
        assert_eq!(warnings(line), [""; 0], "{line}");
    }
    for option in [
        "-a 10.0.0.2",
        "-n 24",
        "-g 10.0.0.1",
        "-m 1500",
        "-M 02:00:00:00:00:01",
        "--ns-mac-addr 02:00:00:00:00:01",
        "--map-host-loopback 10.0.0.1",
        "--map-guest-addr 10.0.0.1",
        "-D 10.0.0.1",
        "-S a.test",
        "--dns-forward 10.0.0.9",
        "--dns-host 10.0.0.9",
    ] {
        let told = warnings(&format!("--splice-only {option}"));
        assert_eq!(told.len(), 1, "{option}: {told:?}");
        assert!(told[0].starts_with("--splice-only leaves the interface unused: --"), "{told:?}");
        assert_eq!(warnings(option), [""; 0], "{option}");
    }
    for line in ["--splice-only -D none -S none --map-guest-addr none -t 80", "-6 --fqdn a --no-dhcp"] {
        assert_eq!(warnings(line), [""; 0], "{line}");
    }
    let told = warnings("--no-tcp --no-udp --resolv-conf");
    assert_eq!(told, ["TCP and UDP are off: nothing answers where --resolv-conf leads to"]);
    let told = warnings("--no-udp --resolv-conf --dns-forward 10.0.0.9 --dns-host 10.0.0.10");
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told.iter().all(|line| line.contains("by TCP alone")), "{told:?}");
}
