//! What help and manual tell of defaults and limits is what the programs do: both are made from the
//! same table.

use super::*;

/// The long name of an option, and the default that its help tells, in one line.
fn defaults() -> impl Iterator<Item = (&'static str, String)> {
    let options = GROUPS.iter().flat_map(|(_, group)| group.iter());
    options.filter_map(|option| {
        let (_, told) = option.help.split_once("\ndefault: ")?;
        let names = option.names.split_once("--").expect("a long name").1;
        Some((names.split(' ').next().expect("a name"), told.replace('\n', " ")))
    })
}

/// Defaults that depend on the host, or on another option: what is tested where.
const ELSEWHERE: &[(&str, &str)] = &[
    ("runas", "looked up among the host's users: life::identity"),
    ("repair-path", "by the socket's path: setup"),
    ("socket", "free ones are looked for: life::socket"),
    ("ns-ifname", "the host's interface: setup"),
    ("address", "the host's interface: setup"),
    ("netmask", "the host's interface: setup"),
    ("gateway", "the host's route: setup"),
    ("interface", "the host's route: netconf"),
    ("map-host-loopback", "the gateway: setup"),
    ("dns", "resolv.conf: setup"),
    ("dns-host", "resolv.conf: setup"),
    ("search", "resolv.conf: setup"),
    ("resolv-conf", "resolv.conf: setup"),
    ("dhcp-boot", "our own address: setup"),
];

/// Options whose last parts have defaults: without them, and with what is told.
const PARTS: &[(&str, &str, &str)] = &[
    ("dhcp-lease", "infinite", ""),
    ("dhcp-lease", "8000", "8000,4000,7000"),
    ("dhcpv6-lease", "infinite", ""),
    ("dhcpv6-lease", "8000", "8000,8000,4000,6400"),
    ("dhcpv6-lease", "8000,1000", "8000,1000,500,800"),
    ("ra-route", "2001:db8::/32", "2001:db8::/32,medium,infinite"),
    ("ra-pref64", "2001:db8::/32", "2001:db8::/32,1800"),
];

/// An option with the default that is told means the same as none. What can't be written so is
/// listed, and nothing else is.
#[test]
fn defaults_are_what_is_told() {
    for (name, told) in defaults() {
        let of = |program: &str| {
            let part = told.split(", ").find_map(|part| part.strip_suffix(&format!(" for {program}")));
            part.unwrap_or(&told).to_owned()
        };
        let is_same = |program: &str, rest: &str| {
            let with = outcome(&format!("{program} --{name} {}{rest}", of(program)));
            let without = run(&format!("{program}{rest}"));
            matches!(with, Outcome::Run(config) if *config == without)
        };
        let same = [is_same("passt", ""), is_same("pasta", " 1"), is_same("passt --vhost-user", "")];
        let elsewhere = ELSEWHERE.iter().any(|(listed, _)| *listed == name);
        let in_parts = PARTS.iter().any(|(listed, ..)| *listed == name);
        assert_eq!(!elsewhere && !in_parts, same.contains(&true), "--{name}: default {told}: {same:?}");
    }
    let listed = ELSEWHERE.iter().map(|(name, _)| name).chain(PARTS.iter().map(|(name, ..)| name));
    for name in listed {
        assert!(defaults().any(|(there, _)| there == *name), "--{name} tells no default");
    }
    for (name, without, with) in PARTS {
        let option =
            |value: &str| if value.is_empty() { String::new() } else { format!(" --{name} {value}") };
        assert_eq!(
            run(&format!("passt{}", option(without))),
            run(&format!("passt{}", option(with))),
            "--{name}"
        );
    }
}

/// The largest and smallest values that are told are taken, and the next ones are not.
#[test]
fn limits_are_what_is_told() {
    for (program, option, taken, refused) in [
        // What others take, 65521, is 65520 here.
        ("passt", "--mtu", &["0", "65520", "65521"][..], &["65522", "-1"][..]),
        ("passt", "--log-size", &["40960"], &["40959"]),
        ("pasta -f", "--stats", &["1"], &["0"]),
        ("passt", "--dhcp-opt", &["23=255", "26=65535", "22=576"], &["23=256", "26=65536", "22=-1"]),
        ("passt", "--ra-lifetime", &["0", "65535"], &["65536"]),
        ("passt", "--hostname", &[&"a".repeat(63)], &[&"a".repeat(64)]),
        ("pasta", "--subnet", &["10.0.0.0/25"], &["10.0.0.0/26"]),
        ("pasta", "--ns-ifname", &[&"a".repeat(15)], &[&"a".repeat(16)]),
        ("passt", "--tcp-ports", &["1", "65535", "1-65535"], &["0", "65536", "1-65536"]),
        ("passt", "--socket", &[&"a".repeat(107)], &[&"a".repeat(108)]),
        ("passt", "--pid", &[&"a".repeat(4095)], &[&"a".repeat(4096)]),
    ] {
        let parses = |value: &&str| match outcome(&format!("{program} {option} {value}")) {
            Outcome::Run(_) => true,
            Outcome::Fail(_) => false,
            other => panic!("{option} {value}: {other:?}"),
        };
        let wrong: Vec<_> = taken
            .iter()
            .filter(|value| !parses(value))
            .chain(refused.iter().filter(|value| parses(value)))
            .collect();
        assert!(wrong.is_empty(), "{program} {option}: {wrong:?}");
    }
}
