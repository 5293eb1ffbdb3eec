//! Options that mean something for one family alone.

use super::super::option::Family;
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
            "netmask" | "domain" | "outbound-if4" => Family::V4,
            "outbound-if6" => Family::V6,
            _ if argument.starts_with("ADDR") => Family::OfAddress,
            _ => Family::Any,
        };
        assert_eq!(option.family, expected, "{}", option.names);
    }
}
