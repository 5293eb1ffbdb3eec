use super::*;

fn ephemeral() -> PortRange {
    PortRange::new(32768, 60999).expect("a range")
}

fn context(outbound: bool, pasta: bool, families: Families) -> PortContext {
    PortContext { option: if outbound { "-T" } else { "-t" }, outbound, pasta, families }
}

fn ports(specs: &[&str], context: PortContext) -> Result<Ports, PortError> {
    let specs: Vec<OsString> = specs.iter().map(OsString::from).collect();
    Ports::parse(&specs, context)
}

/// Rules as text: `listen/ports>to@target`, with `?` for weak, `!` for scanned.
fn shown(specs: &[&str], context: PortContext) -> Vec<String> {
    let rules = ports(specs, context).and_then(|ports| ports.rules(ephemeral()));
    let rule = |rule: &Rule| {
        let to = (rule.to != rule.ports.first()).then(|| format!(">{}", rule.to));
        let target = rule.target.map(|addr| format!("@{addr}"));
        let text = [Some(rule.to_string()), to, target].into_iter().flatten();
        let text: String = text.collect();
        text + if rule.weak { "?" } else { "" } + if rule.scan { "!" } else { "" }
    };
    rules.unwrap_or_else(|e| panic!("{specs:?}: {e}")).iter().map(rule).collect()
}

#[test]
fn accepted() {
    let table: &[(&str, &[&str])] = &[
        ("none", &[]),
        ("22", &["*/22"]),
        ("022", &["*/22"]),
        (" 22", &["*/22"]),
        ("+22, 80-+81,~ 5", &["*/22", "*/80-81"]),
        ("1-65535", &["*/1-65535"]),
        ("22:2222", &["*/22>2222"]),
        ("80-90:180-190", &["*/80-90>180"]),
        ("22,80-90,100:200", &["*/22", "*/80-90", "*/100>200"]),
        ("80-90:180-190,~85", &["*/80-84>180", "*/86-90>186"]),
        ("~85,80-90,~80,~89-95", &["*/81-84", "*/86-88"]),
        ("80,~80", &[]),
        ("all", &["*/1-32767?", "*/61000-65535?"]),
        ("~1-1023", &["*/1024-32767?", "*/61000-65535?"]),
        ("~1000-65535", &["*/1-999?"]),
        ("auto", &["*/1-32767?!", "*/61000-65535?!"]),
        ("auto,~1-32767", &["*/61000-65535?!"]),
        ("auto,8000-8010", &["*/8000-8010?!"]),
        ("127.0.0.1/22", &["127.0.0.1/22"]),
        ("[127.0.0.1]/22", &["127.0.0.1/22"]),
        ("::1/22", &["[::1]/22"]),
        ("[::1]/22:23", &["[::1]/22>23"]),
        ("1:2:3:4:5:6:7:8/80", &["[1:2:3:4:5:6:7:8]/80"]),
        ("*/22", &["*/22"]),
        ("%eth0/22", &["*%eth0/22"]),
        ("*%eth0/all", &["*%eth0/1-32767?", "*%eth0/61000-65535?"]),
        ("10.0.0.1%eth0/22,23", &["10.0.0.1%eth0/22", "10.0.0.1%eth0/23"]),
        ("0.0.0.0/80:10.0.0.2", &["0.0.0.0/80@10.0.0.2"]),
        ("0.0.0.0/80:10.0.0.2/8080", &["0.0.0.0/80>8080@10.0.0.2"]),
        ("[::]/80:fd00::2/8080", &["[::]/80>8080@fd00::2"]),
        ("[::]/80-81:[fd00::2]/8080-8081", &["[::]/80-81>8080@fd00::2"]),
        ("[::]/80-81:[fd00::2]", &["[::]/80-81@fd00::2"]),
        ("0.0.0.0/all:10.0.0.2", &["0.0.0.0/1-32767@10.0.0.2?", "0.0.0.0/61000-65535@10.0.0.2?"]),
    ];
    for (spec, rules) in table {
        assert_eq!(shown(&[spec], context(false, true, Families::Both)), *rules, "{spec}");
    }
}

#[test]
fn invalid() {
    for spec in [
        "",
        "0",
        "65536",
        "-1",
        "1-",
        "22-21",
        "0-5",
        "x",
        "22,",
        ",22",
        "22 ",
        "~",
        "~0",
        "80-90:180-191",
        "80-81:90",
        "80:",
        "80:x",
        "80:0",
        "all:80",
        "all:",
        "auto:1",
        "none,22",
        "127.0.0.1/",
        "1.2.3/22",
        "[::1/22",
        "::1]/22",
        "127.0.0.1/none",
        "127.0.0.1/%eth0/22",
        "%/22",
        "%aaaaaaaaaaaaaaaa/22",
        "127.0.0.1",
        "127.0.0.1:22",
        "[*]/22",
        "0.0.0.0/80:10.0.0.2/",
    ] {
        let both = context(false, true, Families::Both);
        assert_eq!(ports(&[spec], both), Err(PortError::Invalid(spec.to_owned(), both)));
    }
}

/// Targets need one family, the same, and a host. The error says what would be right.
#[test]
fn addresses_that_do_not_go_together() {
    let both = context(false, true, Families::Both);
    let v4_only = context(false, true, Families::V4Only);
    let outbound = context(true, true, Families::Both);
    let v4 = "10.0.0.2 needs a listening address of IPv4, such as 0.0.0.0/";
    let v6 = "fd00::2 needs a listening address of IPv6, such as [::]/";
    for (spec, context, reason) in [
        ("80:10.0.0.2", both, v4),
        ("*/80:10.0.0.2/80", both, v4),
        ("%eth0/80:10.0.0.2/80", both, v4),
        ("all:10.0.0.2", both, v4),
        ("80:[fd00::2]/81", both, v6),
        ("0.0.0.0/80:fd00::2", both, "0.0.0.0 can't forward to fd00::2, of the other family"),
        ("[::]/80:10.0.0.2", both, ":: can't forward to 10.0.0.2, of the other family"),
        ("0.0.0.0/80:224.0.0.1", both, "224.0.0.1 is not the address of a host"),
        ("0.0.0.0/80:0.0.0.0", both, "0.0.0.0 is not the address of a host"),
        ("0.0.0.0/80:255.255.255.255/80", both, "255.255.255.255 is not the address of a host"),
        ("224.0.0.1/80", both, "224.0.0.1 is of a group or for all hosts, and TCP is between two"),
        (
            "255.255.255.255/80",
            both,
            "255.255.255.255 is of a group or for all hosts, and TCP is between two",
        ),
        ("ff02::1%eth0/all", both, "ff02::1 is of a group or for all hosts, and TCP is between two"),
        ("2001:db8::1", both, "an address needs ports behind it, as in [2001:db8::1]/8080"),
        ("2001:db8::1:80:80", both, "an address needs ports behind it, as in [2001:db8::1:80:80]/8080"),
        ("fe80::1/80", both, "fe80::1 needs an interface, as in fe80::1%eth0/"),
        ("::1/8080", v4_only, "::1 is of IPv6, which --ipv4-only switches off"),
        ("8080:fd00::2", v4_only, "fd00::2 is of IPv6, which --ipv4-only switches off"),
        ("80:10.0.0.2", outbound, "10.0.0.2 needs -4, or clients of the other family could not be served"),
    ] {
        let error = ports(&[spec], context).expect_err(spec);
        assert_eq!(error.to_string(), format!("Invalid port specifier {spec}: {reason}"));
    }
    let udp = PortContext { option: "-u", ..both };
    assert!(ports(&["224.0.0.1/5353"], udp).is_ok(), "whoever on the host is a member has it received");
}

#[test]
fn one_family_lets_any_address_have_targets() {
    let v4 = context(false, true, Families::V4Only);
    assert_eq!(shown(&["80:10.0.0.2/81"], v4), ["*/80>81@10.0.0.2"]);
    assert!(ports(&["80:fd00::1"], v4).is_err());
    assert!(ports(&["80:fd00::1"], context(false, true, Families::V6Only)).is_ok());
}

#[test]
fn addresses_are_of_a_family_in_use() {
    for (spec, families) in [("::1/22", Families::V4Only), ("127.0.0.1/auto", Families::V6Only)] {
        assert!(matches!(ports(&[spec], context(false, true, families)), Err(PortError::Addresses { .. })));
        assert!(ports(&[spec], context(false, true, Families::Both)).is_ok());
    }
}

#[test]
fn defaults() {
    let pasta = ports(&[], context(false, true, Families::Both)).unwrap();
    assert_eq!(pasta, ports(&["auto"], context(false, true, Families::Both)).unwrap());
    let passt = ports(&[], context(false, false, Families::Both));
    assert_eq!(passt, Ok(Ports::None));
    let auto = ports(&["auto,22"], context(false, false, Families::Both));
    assert_eq!(auto.unwrap_err().to_string(), "-t auto is for pasta mode only");
}

#[test]
fn outbound_has_no_address() {
    let out = context(true, true, Families::Both);
    assert_eq!(shown(&["5432:5433"], out), ["*/5432>5433"]);
    for spec in ["127.0.0.1/22", "*/22", "%lo/22"] {
        let error = ports(&[spec], out).unwrap_err().to_string();
        assert!(error.starts_with(&format!("Listening address not allowed for -T: {spec}; ")), "{error}");
    }
}

/// `none` takes nothing back, and what follows it counts.
#[test]
fn none_comes_first() {
    let pasta = context(false, true, Families::Both);
    for specs in [&["22", "none"][..], &["22", "80", "none"], &["none", "22", "none"], &["auto", "none"]] {
        let error = ports(specs, pasta).unwrap_err();
        assert_eq!(error.to_string(), "-t none conflicts with previous options");
    }
    assert_eq!(ports(&["none", "none"], pasta), Ok(Ports::None));
    for (specs, expected) in [(&["none", "22"][..], "*/22"), (&["none", "none", "80", "81"], "*/80 */81")] {
        assert_eq!(shown(specs, pasta).join(" "), expected);
    }
}

#[test]
fn overlaps() {
    let both = context(false, true, Families::Both);
    for specs in [
        &["22", "22"][..],
        &["22,22"],
        &["20-30", "25:80"],
        &["127.0.0.1/22", "22"],
        &["127.0.0.1/22", "0.0.0.0/22"],
        &["::1/22", "[::]/20-30"],
        &["%eth0/22", "22"],
        &["%eth0/22", "%eth0/22"],
    ] {
        let error = ports(specs, both).unwrap_err().to_string();
        assert!(error.starts_with("Forwarding configuration conflict"), "{error}");
        let named = match specs {
            [one] => format!("; -t {one} names a port twice"),
            _ if specs[0] == specs[1] => format!("; -t {} names a port twice", specs[0]),
            _ => format!("; -t {} and -t {} name the same port", specs[0], specs[1]),
        };
        assert!(error.ends_with(&named), "{error}");
    }
    for specs in [
        &["22", "23"][..],
        &["0.0.0.0/80", "[::]/80"],
        &["127.0.0.1/22", "127.0.0.2/22"],
        &["%eth0/22", "%eth1/22"],
        &["20-30,~25", "25"],
    ] {
        assert!(ports(specs, both).is_ok(), "{specs:?}");
    }
    // Known only with the ephemeral range.
    let late = ports(&["all", "22"], both).unwrap();
    assert!(late.rules(ephemeral()).is_err());
    assert!(late.rules(PortRange::ALL).is_ok());
    assert!(ports(&["all", "40000"], both).unwrap().rules(ephemeral()).is_ok());
}

#[test]
fn many() {
    let list = (0..2000).map(|i| (2 * i + 1).to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(shown(&[&list], context(false, false, Families::Both)).len(), 2000);
}
