//! Tables of command lines and what they must mean.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use passt_engine::forward::rule::Families;
use passt_proto::addr::Mac;
use proptest::prelude::*;

use super::options::GROUPS;
use super::*;

mod families;
mod told;

/// Words with single blanks between them.
fn outcome(line: &str) -> Outcome {
    parse(line.split(' ').map(OsString::from).collect())
}

fn run(line: &str) -> Config {
    match outcome(line) {
        Outcome::Run(config) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

fn pasta(line: &str) -> PastaOptions {
    run(line).pasta().cloned().expect("pasta mode")
}

fn passt(line: &str) -> PasstOptions {
    match run(line).mode {
        Mode::Passt(passt) => passt,
        Mode::Pasta(_) => panic!("{line}: pasta mode"),
    }
}

/// The error, which is one line.
fn whole(line: &str) -> String {
    match outcome(line) {
        Outcome::Fail(text) => {
            assert!(text.ends_with('\n') && text.lines().count() == 1, "{line}: {text}");
            text.trim_end().to_owned()
        }
        other => panic!("{line}: {other:?}"),
    }
}

/// The error without advice.
fn fail(line: &str) -> String {
    // A list of possibilities has one, too.
    let text = whole(line).replace("; possibilities", "\0possibilities");
    text.split("; ").next().unwrap_or_default().replace('\0', "; ")
}

fn printed(line: &str) -> String {
    match outcome(line) {
        Outcome::Print(text) => text,
        other => panic!("{line}: {other:?}"),
    }
}

fn v4(text: &str) -> Option<Ipv4Addr> {
    text.parse().ok()
}

fn v6(text: &str) -> Option<Ipv6Addr> {
    text.parse().ok()
}

#[test]
fn refused() {
    let table = [
        // The program.
        ("foo", "Cannot determine mode, invoke as \"passt\" or \"pasta\""),
        ("/opt/pasta/foo", "Cannot determine mode, invoke as \"passt\" or \"pasta\""),
        // What getopt_long says.
        ("pasta --foo", "pasta: unrecognized option '--foo'"),
        ("/usr/bin/pasta --foo=bar", "/usr/bin/pasta: unrecognized option '--foo=bar'"),
        ("passt --no-r=x --foo", "passt: option '--no-ra' doesn't allow an argument"),
        ("pasta -x", "pasta: invalid option -- 'x'"),
        ("pasta -fx", "pasta: invalid option -- 'x'"),
        ("pasta --mtu", "pasta: option '--mtu' requires an argument"),
        ("pasta --mt", "pasta: option '--mtu' requires an argument"),
        ("pasta -m", "pasta: option requires an argument -- 'm'"),
        ("pasta -fm", "pasta: option requires an argument -- 'm'"),
        ("pasta --config-net=1", "pasta: option '--config-net' doesn't allow an argument"),
        ("passt --lo=1", "passt: option '--lo=1' is ambiguous; possibilities: '--log-file' '--log-size'"),
        ("pasta --vers --foo -x", ""),
        // The wrong mode.
        ("passt --config-net", "--config-net is for pasta mode only"),
        ("passt -T none", "-T is for pasta mode only"),
        ("passt --netns foo", "--netns is for pasta mode only"),
        ("passt --dhcp-dns", "--dhcp-dns is for pasta mode only"),
        ("pasta -s /tmp/x", "-s is for passt mode only"),
        ("pasta --fd 3", "--fd is for passt mode only"),
        ("pasta -F 3", "-F is for passt mode only"),
        ("pasta --one", "--one-off is for passt mode only"),
        ("pasta --no-dhcp-dns", "--no-dhcp-dns is for passt mode only"),
        ("passt --migrate-exit", "--migrate-exit is for vhost-user mode only"),
        ("passt --repair-path /x", "--repair-path is for vhost-user mode only"),
        // Values.
        ("pasta -m x", "Invalid MTU: x"),
        ("pasta -m -1", "Invalid MTU: -1"),
        ("pasta -m 65522", "MTU 65522 too large (max 65520)"),
        ("pasta -m 0x10000", "MTU 65536 too large (max 65520)"),
        ("pasta --log-size 40959", "Invalid --log-size: 40959"),
        ("passt -F x", "Invalid --fd: x"),
        ("passt -F -1", "Invalid --fd: -1"),
        ("passt -F 2147483648", "Invalid --fd: 2147483648"),
        ("passt --runas :x", "Invalid --runas option: :x"),
        ("passt --runas x:", "Invalid --runas option: x:"),
        ("passt --stats 1", "Can't display statistics if not running in foreground"),
        ("passt --stats 1 -f", "Can't display statistics if not running in foreground"),
        ("passt -f --stats 0", "Invalid --stats interval: 0"),
        ("pasta -a 127.0.0.1", "Invalid guest address: 127.0.0.1"),
        ("pasta -a 0.0.0.0", "Invalid guest address: 0.0.0.0"),
        ("pasta -a 224.0.0.1", "Invalid guest address: 224.0.0.1"),
        ("pasta -a ::1", "Invalid guest address: ::1"),
        ("pasta -a ff02::1", "Invalid guest address: ff02::1"),
        ("pasta -a 10.0.0.1/33", "Invalid guest address: 10.0.0.1/33"),
        ("pasta -a 10.0.0.1/", "Invalid guest address: 10.0.0.1/"),
        ("pasta -a fd00::1/129", "Invalid guest address: fd00::1/129"),
        ("pasta -a 10.0.0.1/24 -n 24", "Redundant prefix length specification"),
        ("pasta -n 24 -a 10.0.0.1/24", "Redundant prefix length specification"),
        ("pasta -n 33", "Invalid netmask: 33"),
        ("pasta -n 0", "Invalid netmask: 0"),
        ("pasta -n 255.0.255.0", "Invalid netmask: 255.0.255.0"),
        ("pasta -M 01:00:00:00:00:00", "Invalid MAC address: 01:00:00:00:00:00"),
        ("pasta -M 02:00:00:00:00", "Invalid MAC address: 02:00:00:00:00"),
        ("pasta -M 02:00:00:00:00:00:00", "Invalid MAC address: 02:00:00:00:00:00:00"),
        ("pasta -M 2:00:00:00:00:00", "Invalid MAC address: 2:00:00:00:00:00"),
        ("pasta -M +2:00:00:00:00:00", "Invalid MAC address: +2:00:00:00:00:00"),
        ("pasta -g 0.0.0.0", "Invalid gateway address: 0.0.0.0"),
        ("pasta -o x", "Invalid outbound address: x"),
        ("pasta -D x", "Cannot use DNS address x"),
        ("pasta -D 0.0.0.0", "Cannot use DNS address 0.0.0.0"),
        ("pasta -S a..b", "Cannot use DNS search domain a..b"),
        ("pasta --dns-forward 127.0.0.1", "Invalid DNS forwarding address: 127.0.0.1"),
        ("pasta --dns-forward 255.255.255.255", "Invalid DNS forwarding address: 255.255.255.255"),
        ("pasta --dns-host ::", "Invalid DNS host address: ::"),
        ("pasta --map-host-loopback ::1", "Invalid address to map to the host's loopback: ::1"),
        ("pasta --map-guest-addr x", "Invalid address to map to the guest's address: x"),
        ("pasta -H a..b", "Invalid hostname: a..b"),
    ];
    for (line, expected) in table {
        if expected.is_empty() {
            printed(line);
        } else {
            assert_eq!(fail(line), expected, "{line}");
        }
    }
    let long = format!("pasta -i {}", "x".repeat(16));
    assert!(fail(&long).starts_with("Invalid interface name xxxxxxxxxxxxxxxx: "));
    assert_eq!(
        fail(&format!("passt -s /{}", "x".repeat(107))).split(':').next(),
        Some("Invalid socket path")
    );
}

#[test]
fn refused_together() {
    let table = [
        ("passt foo", "Extra non-option argument: foo"),
        ("passt -f -- -f", "Extra non-option argument: -f"),
        ("pasta --netns foo 1", "Both --netns and PID or command given"),
        ("pasta --netns foo ip a", "Both --netns and PID or command given"),
        ("pasta 0", "Invalid PID: 0"),
        ("pasta 2147483648", "Invalid PID: 2147483648"),
        ("pasta --no-copy-routes", "--no-copy-routes needs --config-net"),
        ("pasta --no-copy-addrs", "--no-copy-addrs needs --config-net"),
        (
            "pasta --ns-mac-addr 9a:55:9a:55:9a:55",
            "--ns-mac-addr is the address of the host's side (--mac-addr)",
        ),
        ("pasta --no-pidns 1", "--no-pidns is incompatible with PID or --netns"),
        ("pasta --no-pidns --netns x", "--no-pidns is incompatible with PID or --netns"),
        ("passt --no-pidns", "--no-pidns is for pasta mode only"),
        ("pasta --no-splice --splice-only", "--no-splice and --splice-only exclude each other"),
        ("pasta --host-lo-to-ns-lo --no-splice", "--no-splice and --host-lo-to-ns-lo exclude each other"),
        (
            "pasta --isolate-host -T 80",
            "-T 80 and --isolate-host exclude each other: that leaves nothing of the host's loopback in reach",
        ),
        (
            "pasta -U auto --isolate-host",
            "-U auto and --isolate-host exclude each other: that leaves nothing of the host's loopback in reach",
        ),
        (
            "pasta -t 80 -t 127.0.0.1/8000-8080,auto --isolate-host",
            "-t 127.0.0.1/8000-8080,auto and --isolate-host exclude each other: the guest would choose which ports of the host are open",
        ),
        (
            "pasta --isolate-host -t 0.0.0.0/auto,1-9:198.51.100.5/1-9 1",
            "-t 0.0.0.0/auto,1-9:198.51.100.5/1-9 and --isolate-host exclude each other: the guest would choose which ports of the host are open",
        ),
        (
            "passt --map-host-loopback ::9 --isolate-host",
            "--map-host-loopback ::9 and --isolate-host exclude each other: that leaves nothing of the host's loopback in reach",
        ),
        ("pasta --resolv-conf 1", "--resolv-conf is for a command or shell that pasta starts"),
        ("pasta --resolv-conf --netns x", "--resolv-conf is for a command or shell that pasta starts"),
        ("pasta --resolv-conf -D none true", "--resolv-conf and --dns none exclude each other"),
        ("pasta --resolv-conf --splice-only true", "--resolv-conf and --splice-only exclude each other"),
        ("passt --resolv-conf", "--resolv-conf is for pasta mode only"),
        // Ports are read last.
        ("pasta -t 0 --no-copy-addrs", "Invalid port specifier 0"),
        ("passt -t auto", "-t auto is for pasta mode only"),
        (
            "pasta -4 -t ::1/8080",
            "Invalid port specifier ::1/8080: ::1 is of IPv6, which --ipv4-only switches off",
        ),
        (
            "passt -u 8080:10.0.0.1/80",
            "Invalid port specifier 8080:10.0.0.1/80: 10.0.0.1 needs a listening address of IPv4, such as 0.0.0.0/",
        ),
    ];
    for (line, expected) in table {
        assert_eq!(fail(line), expected, "{line}");
    }
}

#[test]
fn targets_that_nothing_arrives_at() {
    let told = |line: &str| run(line).warnings;
    let line =
        "-t 0.0.0.0/8080:127.0.0.1/80: nothing arrives at 127.0.0.1 of the guest; without an address it does";
    assert_eq!(told("passt -t 0.0.0.0/8080:127.0.0.1/80"), [line]);
    assert_eq!(told("pasta -u [::]/53:[::1]/53 -t [::]/80:[::1]/80 true").len(), 2);
    for line in
        ["passt -t 0.0.0.0/8080:10.0.0.2/80", "passt -t 127.0.0.1/8080:80", "pasta -4 -T 80:127.0.0.1 true"]
    {
        assert_eq!(told(line), [""; 0], "{line}");
    }
}

/// What to do follows what is wrong, on the same line.
#[test]
fn advice_follows() {
    for (line, advice) in [
        ("pasta --foo", "try 'pasta --help' for a list of options"),
        ("pasta --confg-net", "did you mean '--config-net'? Try 'pasta --help' for a list of options"),
        ("pasta --confg-net=1", "did you mean '--config-net'? Try 'pasta --help' for a list of options"),
        ("passt -p 1 --publish 80", "did you mean '--tcp-ports'? Try 'passt --help' for a list of options"),
        ("pasta -m x", "it is a number of bytes up to 65520, or 0 for none"),
        ("pasta --log-size 9", "it is a number of bytes, 40960 or more"),
        ("pasta -t 127.0.0.1:8080:80", "write 127.0.0.1/8080:80"),
        ("pasta -t 80 -t 80:8080", "-t 80 and -t 80:8080 name the same port"),
        ("pasta -D x", "write the address of a resolver, as in 192.0.2.53, or none"),
    ] {
        let text = whole(line);
        assert_eq!(text.split_once("; ").map(|(_, advice)| advice), Some(advice), "{line}");
    }
    // Whatever its letters would mean, also where they would do: a long option with one dash.
    for (_, options) in described(true).into_iter().chain(described(false)) {
        for option in options {
            let (_, long) = option.names.split_once("--").expect("a long name");
            let long = long.split([' ', '=', ',']).next().expect("a name");
            // Two flags; and what means the same.
            if ["fd", "help"].contains(&long) {
                continue;
            }
            for program in ["pasta", "passt"] {
                let text = whole(&format!("{program} -{long} 80 true"));
                assert!(text.contains(&format!("the long one is --{long}, with two dashes")), "{text}");
            }
        }
    }
    for line in ["pasta -mtu1 --foo", "pasta -fd -t 99999", "pasta -fd --foo"] {
        assert!(!whole(line).contains("two dashes"), "{line}");
    }
    // A terminal shows what an argument is, and obeys none of it.
    assert!(whole("pasta --\u{1b}[2J\r\u{9b}x").contains(r"--\u{1b}[2J\r\u{9b}x'"));
    let letters = "f".repeat(100_000);
    assert!(whole(&format!("pasta -{letters} --{letters}")).contains("unrecognized option"));
    assert!(whole("passt --no").starts_with("passt: option '--no' is ambiguous; possibilities: '--no-"));
    assert!(whole("passt --no").contains(" '--no-tcp'"));
}

/// What goes together with `--isolate-host`: what says the same, and ports that are given.
#[test]
fn isolation_leaves_ports_that_are_given() {
    for (line, forwards) in [
        ("pasta --isolate-host true", false),
        ("pasta --isolate-host -T none -U none -t none -u none --no-map-gw true", false),
        ("pasta --isolate-host --map-host-loopback none 1", false),
        ("pasta -t 8080:80 --isolate-host 1", true),
        ("passt --isolate-host -t all", true),
    ] {
        let config = run(line);
        assert!(!config.mapping.gateway && config.mapping.host_loopback == Addresses::default(), "{line}");
        assert_eq!(config.ports.tcp_in != Ports::None, forwards, "{line}");
        assert!(config.ports.tcp_out == Ports::None && config.ports.udp_out == Ports::None, "{line}");
    }
}

/// A command has the files of its user, so also a control socket.
#[test]
fn isolation_and_a_control_socket() {
    for (line, warns) in [
        ("pasta --isolate-host -c x true", true),
        ("pasta --isolate-host -c x", true),
        ("pasta -c x true", false),
        ("pasta --isolate-host true", false),
        ("pasta --isolate-host -c x 1", false),
        ("passt --isolate-host -c x", false),
    ] {
        let warned = run(line).warnings.iter().any(|warning| warning.contains("may add ports"));
        assert_eq!(warned, warns, "{line}");
    }
}

/// What is no mistake, but looks like one.
#[test]
fn what_looks_like_a_mistake() {
    for (line, warning) in [
        ("pasta -p 8080:80", Some("-p is --pcap: ")),
        ("pasta --pcap 8080", Some("-p is --pcap: ")),
        ("passt -pframes", None),
        ("pasta -fd true", None),
        ("pasta -f -- ip -stats link", None),
        ("pasta -f ip -stats link", None),
        ("pasta -fm1500", None),
    ] {
        let config = run(line);
        let hints = config.hints.into_iter().filter(|hint| !hint.contains("--config-net"));
        let warnings: Vec<_> = config.warnings.into_iter().chain(hints).collect();
        assert_eq!(warnings.is_empty(), warning.is_none(), "{line}: {warnings:?}");
        assert!(
            warnings.iter().all(|told| told.starts_with(warning.unwrap_or_default())),
            "{line}: {warnings:?}"
        );
    }
}

#[test]
fn options_that_print() {
    let version = format!("pasta {}\n", crate::VERSION);
    assert!(printed("/usr/bin/pasta.avx2 --host-lo-to-ns-lo --version").starts_with(&version));
    assert!(printed("passt --version --foo").starts_with("passt "));
    assert!(fail("passt --foo --version").contains("unrecognized"));
    // What needs all options isn't an error before.
    assert!(printed("pasta -t none -t 22 --no-copy-addrs --version").starts_with("pasta "));
    assert_eq!(printed("passt --vhost-user --print-capabilities"), "{\n  \"type\": \"net\"\n}\n");
    let help = printed("pasta -h");
    assert!(help.contains("--config-net") && !help.contains("--one-off"));
    let help = printed("passt --help");
    assert!(help.contains("-1, --one-off") && !help.contains("--config-net"));
    assert!(!help.contains("--migrate-exit"));
    assert!(printed("passt --vhost-user -h").contains("--migrate-exit"));
    assert!(help.lines().all(|line| line.len() <= 100 && line.trim_end() == line), "{help}");
}

#[test]
fn the_table_is_consistent() {
    let all: Vec<_> = GROUPS.iter().flat_map(|(_, group)| group.iter()).collect();
    for (i, option) in all.iter().enumerate() {
        for other in &all[..i] {
            assert_ne!(option.long(), other.long());
            let alias = option.long().starts_with(other.long());
            assert!(option.short().is_none() || option.short() != other.short() || alias);
        }
    }
    // Every letter that getopt_long was given in the C program.
    for letter in "dqfel:hs:c:F:I:p:P:m:a:n:M:g:i:o:D:S:H:461t:u:T:U:".chars() {
        let is_there = all.iter().any(|option| option.short() == Some(letter));
        assert!(letter == ':' || is_there, "-{letter}");
    }
}

#[test]
fn the_mode() {
    for (line, is_pasta, vhost_user) in [
        ("pasta", true, false),
        ("/usr/local/bin/pasta.avx2 -f", true, false),
        ("passt", false, false),
        ("./my-passt-1", false, false),
        ("passt -f --vhost-user", false, true),
        ("pasta -f --vhost", false, true),
        ("foo --vhost-user", false, true),
        ("pasta -f x --vhost-user", true, false),
        ("pasta -I --vhost-user", true, false),
    ] {
        let found = match run(line).mode {
            Mode::Passt(passt) => (false, passt.vhost_user),
            Mode::Pasta(_) => (true, false),
        };
        assert_eq!(found, (is_pasta, vhost_user), "{line}");
    }
}

#[test]
fn spellings_of_an_option() {
    for line in [
        "passt -m 1500",
        "passt -m1500",
        "passt -fm1500",
        "passt -fm 1500",
        "passt --mtu 1500",
        "passt --mtu=1500",
        "passt --mt=1500",
        "passt --mtu 0x5dc",
        "passt --mtu 02734",
        "passt -m 9000 -m 1500",
        "passt -m 1500 --",
    ] {
        assert_eq!(run(line).mtu, Some(1500), "{line}");
    }
    assert_eq!(run("passt").mtu, Some(65520));
    assert_eq!(run("passt -m 0").mtu, None);
    assert_eq!(fail("passt -m=1500"), "Invalid MTU: =1500");
    assert_eq!(passt("passt --sock /x").socket, GuestSocket::Path("/x".into()));
}

#[test]
fn warnings() {
    for (line, expected) in [
        ("pasta -e", &["--stderr will be dropped soon"][..]),
        (
            "pasta --config-net --no-copy-routes --no-copy-addrs",
            &["--no-copy-routes will be dropped soon", "--no-copy-addrs will be dropped soon"],
        ),
        ("passt --vhost-user --migrate-exit", &["--migrate-exit will be dropped soon"]),
        ("pasta -m 1280", &[]),
        ("pasta -m 1279", &["MTU 1279 is too small for IPv6 (min 1280)"]),
        ("pasta -4 -m 68", &[]),
        ("pasta -4 -m 67", &["MTU 67 is too small for IPv4 (min 68)"]),
        ("pasta -6 -m 67", &["MTU 67 is too small for IPv6 (min 1280)"]),
        ("pasta -m 10", &["MTU 10 is too small for IPv4 (min 68) and IPv6 (min 1280)"]),
        ("pasta -m 0", &[]),
        (
            "pasta -4 -a 2001:db8::1 -a 10.0.0.1 --dns-forward fd00::53",
            &[
                "IPv6 is off: --address of that family has no effect",
                "IPv6 is off: --dns-forward of that family has no effect",
            ],
        ),
        ("pasta -6 --outbound-if4 eth0", &["IPv4 is off: --outbound-if4 has no effect"]),
        ("pasta -6 -a 2001:db8::1", &[]),
        (
            "pasta -D 10.0.0.1 -D 10.0.0.2 -D 10.0.0.3 -D fd00::1 -D 10.0.0.4",
            &["Too many DNS servers, 10.0.0.4 is ignored"],
        ),
        ("pasta -S a -S b -S c -S d -S e -S f -S g", &["Too many DNS search domains, g is ignored"]),
    ] {
        assert_eq!(run(line).warnings, expected, "{line}");
    }
}

#[test]
fn verbosity_and_foreground() {
    for (line, verbosity, foreground) in [
        ("passt", Verbosity::Normal, false),
        ("passt -q", Verbosity::Quiet, false),
        ("passt -q -d", Verbosity::Debug, false),
        ("passt -d -q", Verbosity::Quiet, false),
        ("passt --trace -d", Verbosity::Trace, false),
        ("passt -f", Verbosity::Normal, true),
        ("pasta 1", Verbosity::Normal, false),
        ("pasta --netns x", Verbosity::Normal, false),
        ("pasta", Verbosity::Quiet, true),
        ("pasta true", Verbosity::Quiet, true),
        ("pasta -d true", Verbosity::Debug, true),
    ] {
        let config = run(line);
        assert_eq!((config.log.verbosity, config.foreground), (verbosity, foreground), "{line}");
    }
    assert_eq!(run("passt -f --stats 5").stats, Some(Duration::from_secs(5)));
}

#[test]
fn targets() {
    let command = |words: &[&str]| Target::Command(words.iter().map(OsString::from).collect());
    let join = |path: &str| Userns::Join(PathBuf::from(path));
    for (line, target, userns) in [
        ("pasta", Target::Shell, Userns::New),
        ("pasta --netns-only", Target::Shell, Userns::Current),
        ("pasta ip -6 a", command(&["ip", "-6", "a"]), Userns::New),
        ("pasta -f ip --foo", command(&["ip", "--foo"]), Userns::New),
        ("pasta -- -x", command(&["-x"]), Userns::New),
        ("pasta 10 x", command(&["10", "x"]), Userns::New),
        ("pasta --userns /u true", command(&["true"]), join("/u")),
        ("pasta 10", Target::Pid(10), join("/proc/10/ns/user")),
        ("pasta --netns-only 10", Target::Pid(10), Userns::Current),
        ("pasta --userns /u 10", Target::Pid(10), join("/u")),
        ("pasta --netns foo", Target::Netns("/run/netns/foo".into()), Userns::Current),
        ("pasta --netns ./foo", Target::Netns("./foo".into()), Userns::Current),
        ("pasta --netns /n --userns /u", Target::Netns("/n".into()), join("/u")),
        ("pasta --netns-only --netns /n --userns /u", Target::Netns("/n".into()), join("/u")),
        ("pasta --userns /u --netns-only 5", Target::Pid(5), Userns::Current),
    ] {
        let options = pasta(line);
        assert_eq!((options.target, options.userns), (target, userns), "{line}");
    }
    assert_eq!(pasta("pasta 7").target.netns_path(), Some("/proc/7/ns/net".into()));
    assert_eq!(pasta("pasta").target.netns_path(), None);
}

#[test]
fn pid_namespaces() {
    for (line, expected) in [("pasta", true), ("pasta --no-pidns", false), ("pasta --no-pidns ip a", false)] {
        assert_eq!(pasta(line).pid_namespace, expected, "{line}");
    }
}

/// What scripts and other programs write, which the C program takes.
#[test]
fn what_else_is_accepted() {
    for line in [
        "pasta -t none -t 8080",
        "pasta -t none -t none",
        "pasta -o 192.0.2.1 -o 192.0.2.2",
        "pasta -m 65521",
        "pasta --hostname= --fqdn=",
        "passt --no-splice -t 22",
        "pasta --netns-only 1",
    ] {
        run(line);
    }
    let spaces = ["pasta", "-t", " 80, +81"].map(OsString::from).to_vec();
    assert!(matches!(parse(spaces), Outcome::Run(_)));
    let single = (1..=2000).flat_map(|port: u16| ["-t".into(), OsString::from(port.to_string())]);
    assert!(matches!(parse([OsString::from("pasta")].into_iter().chain(single).collect()), Outcome::Run(_)));
}

#[test]
fn bytes_that_are_no_text() {
    let word = OsString::from_vec(vec![b'/', 0xff]);
    let words = ["pasta", "-P"].map(OsString::from).into_iter();
    let Outcome::Run(config) = parse(words.chain([word.clone(), word.clone()]).collect()) else {
        panic!("refused");
    };
    assert_eq!(config.pid_file, Some(PathBuf::from(&word)));
    assert_eq!(config.pasta().unwrap().target, Target::Command(vec![word.clone()]));
    let words = ["pasta", "-i"].map(OsString::from).into_iter();
    assert!(matches!(parse(words.chain([word]).collect()), Outcome::Fail(_)));
    assert!(matches!(parse(Vec::new()), Outcome::Fail(_)));
}

#[test]
fn the_guest() {
    let config = run("pasta --config-net -a 10.0.2.100 -n 24 -g 10.0.2.2 -a fd00::100 -g fd00::2");
    assert_eq!(config.guest.addr, PerFamily { v4: v4("10.0.2.100"), v6: v6("fd00::100") });
    assert_eq!(config.guest.gateway, PerFamily { v4: v4("10.0.2.2"), v6: v6("fd00::2") });
    assert_eq!(config.guest.prefix_len, Some(24));
    assert!(!config.services.ra && config.services.ndp);
    assert_eq!(config.pasta().unwrap().copy_routes, PerFamily { v4: false, v6: false });

    assert_eq!(run("pasta -n 24 -a fd00::1/64").guest.prefix_len, Some(24));
    assert_eq!(run("pasta -a 10.0.0.1/8").guest.prefix_len, Some(8));
    assert_eq!(run("pasta -n 255.255.0.0").guest.prefix_len, Some(16));
    assert_eq!(run("pasta -a fd00::1/80").guest.prefix_len, None);
    assert_eq!(run("pasta -a ::ffff:10.0.0.1").guest.addr.v4, v4("10.0.0.1"));
    assert_eq!(run("pasta -a 10.0.0.1 -a 10.0.0.2").guest.addr.v4, v4("10.0.0.2"));

    let options = pasta("pasta -a 10.0.0.1 -g fd00::2");
    assert_eq!(options.copy_addrs, PerFamily { v4: false, v6: true });
    assert_eq!(options.copy_routes, PerFamily { v4: true, v6: false });
    let options = pasta("pasta --config-net --no-copy-addrs");
    assert_eq!(options.copy_addrs, PerFamily { v4: false, v6: false });

    assert_eq!(run("pasta").mac, DEFAULT_MAC);
    assert_eq!(run("pasta -M 02:00:00:00:00:aB").mac, Mac([2, 0, 0, 0, 0, 0xab]));
    assert_eq!(pasta("pasta --ns-mac-addr 02:00:00:00:00:01").mac, Some(Mac([2, 0, 0, 0, 0, 1])));
    assert_eq!(run("pasta -H box --fqdn box.test.").guest.fqdn, Some("box.test.".into()));
    assert_eq!(run("pasta -H box --hostname= --fqdn=").guest.hostname, None);
    let outbound = run("pasta -o 10.0.0.1 -o fd00::1 -o 10.0.0.2").host.outbound;
    assert_eq!(outbound, PerFamily { v4: v4("10.0.0.2"), v6: v6("fd00::1") });
    assert_eq!((run("pasta -m 65521").mtu, run("pasta -m 65520").mtu), (Some(65520), Some(65520)));
}

#[test]
fn families_and_services() {
    assert_eq!(run("pasta -4 -6").families, Families::V6Only);
    assert_eq!(run("pasta -64").families, Families::V4Only);
    let services = run("pasta --no-icmp").services;
    assert!(!services.icmp && !services.ndp && services.dhcp && services.multicast);
    assert!(
        !run("passt --no-multicast").services.multicast && !run("pasta --no-multicast").services.multicast
    );

    let config = run("pasta --splice-only -D 10.0.0.1");
    let options = config.pasta().unwrap();
    assert_eq!((options.splice, options.host_lo_to_ns_lo), (Splice::Only, true));
    assert_eq!(config.dns.servers, Source::None);
    assert!(config.services.tcp && !config.services.icmp && !config.services.dhcp);
    assert_eq!(pasta("pasta --no-splice").splice, Splice::Never);
    // What concerns the host's loopback alone changes nothing for the namespace's.
    for options in ["", " -T 5555", " -U 53,54 -T none", " -T none -U none", " -T auto"] {
        let (with, without) = (run(&format!("pasta --no-splice{options}")), run(&format!("pasta{options}")));
        assert_eq!(with.ports, without.ports, "{options}");
    }
    assert_eq!(run("passt --no-splice"), run("passt"));
    assert!(!printed("passt --help").contains("--no-splice") && printed("pasta -h").contains("--no-splice"));
}

#[test]
fn names() {
    let addr = |text: &str| text.parse::<IpAddr>().unwrap();
    let servers = |line: &str| run(line).dns.servers;
    assert_eq!(servers("pasta"), Source::Host);
    assert_eq!(servers("pasta -D 10.0.0.1 -D none"), Source::None);
    assert_eq!(
        servers("pasta -D none -D 10.0.0.1 -D fd00::1"),
        Source::Given(vec![addr("10.0.0.1"), addr("fd00::1")])
    );
    assert_eq!(run("pasta -S none").dns.search, Source::None);
    let list = Source::Given(vec!["a.test".to_owned(), "b.test".to_owned()]);
    assert_eq!(run("pasta -S a.test -S b.test").dns.search, list);
    let words = ["pasta", "-S", "a.test b.test"].map(OsString::from).to_vec();
    assert!(matches!(parse(words), Outcome::Run(config) if config.dns.search == list));

    let dns = run("pasta --dns-forward 169.254.1.1 --dns-host 127.0.0.53 --dns-forward fd00::3").dns;
    assert_eq!(dns.forward, PerFamily { v4: v4("169.254.1.1"), v6: v6("fd00::3") });
    assert_eq!(dns.host.v4, v4("127.0.0.53"));
    assert!(!dns.announce_servers && !dns.announce_search);
    assert!(run("pasta --dhcp-dns").dns.announce_servers);
    let dns = run("passt --no-dhcp-search").dns;
    assert!(dns.announce_servers && !dns.announce_search);
}

#[test]
fn mapped_addresses() {
    for (line, host_loopback, gateway) in [
        ("pasta", None, true),
        ("pasta --no-map-gw", None, false),
        ("pasta --map-host-loopback none", None, false),
        ("pasta --map-host-loopback 10.0.0.9", v4("10.0.0.9"), true),
        ("pasta --no-map-gw --map-host-loopback 10.0.0.9", v4("10.0.0.9"), false),
        ("pasta --map-host-loopback 10.0.0.9 --map-host-loopback none", None, false),
    ] {
        let map = run(line).mapping;
        assert_eq!((map.host_loopback.v4, map.gateway), (host_loopback, gateway), "{line}");
    }
    let map = |line| run(line).mapping.guest_addr.v4;
    assert_eq!(map("pasta --map-guest-addr 169.254.1.2"), v4("169.254.1.2"));
    assert_eq!(map("pasta --map-guest-addr 169.254.1.2 --map-guest-addr none"), None);
}

#[test]
fn sockets() {
    assert_eq!(passt("passt").socket, GuestSocket::FirstFree);
    let options = passt("passt -F 5 -s /x");
    assert_eq!((options.socket, options.one_off), (GuestSocket::Fd(5), true));
    assert_eq!(passt("passt --socket-path /x").socket, GuestSocket::Path("/x".into()));
    assert_eq!(passt("passt --repair-path none").repair, RepairSocket::None);
    assert_eq!(passt("passt --vhost-user").repair, RepairSocket::Default);
    let repair = passt("passt --repair-path /x --vhost-user").repair;
    assert_eq!(repair, RepairSocket::Path("/x".into()));
    pasta("pasta --repair-path none");
    let user = run("passt --runas 100:wheel").run_as.unwrap();
    assert_eq!((user.user.as_str(), user.group.as_deref()), ("100", Some("wheel")));
}

/// Command lines of programs that start us.
#[test]
fn integrators() {
    for line in [
        "pasta --config-net -t 127.0.0.1/8080-8081:80-81 -u 53:53 --dns-forward 169.254.1.1 -T none -U none --no-map-gw --quiet --netns /run/user/1000/netns/netns-1 --map-guest-addr 169.254.1.2",
        "pasta --config-net --dns-forward 169.254.1.1 -t none -u none -T none -U none --no-map-gw --quiet --netns /proc/1/ns/net --map-guest-addr 169.254.1.2",
        "pasta --stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 --gateway=10.0.2.2 --dns-forward=10.0.2.3 --no-map-gw --ipv4-only --tcp-ports=auto --udp-ports=auto 77",
        "pasta --stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 --gateway=10.0.2.2 --dns-forward=10.0.2.3 --tcp-ports=none --udp-ports=none --address=fd00::100 --gateway=fd00::2 --dns-forward=fd00::3 --userns=/proc/7/ns/user --netns=/run/n",
        "pasta --config-net -t [::]/80:80 -t 0.0.0.0/80:80 1",
        "passt --one-off --socket /run/x.socket --pid /run/x.pid --mtu 1500 --interface eth0 --log-file /var/log/x --hostname h --fqdn f.test --address 10.0.0.2 --netmask 24 --tcp-ports 10.0.0.1%eth0/22,8000-8100:9000-9100,~8050 --udp-ports %eth0/all",
        "passt -q -f --fd 7 -t 0.0.0.0/1-2:3-4 -u 0.0.0.0/1-2:3-4",
        "passt --vhost-user --quiet --pid /tmp/x --fd 3",
        "passt --vhost-user --foreground -s /tmp/s --repair-path none -4 -a 192.168.97.2 -n 30 -g 192.168.97.1 --map-host-loopback 192.168.97.1 -D 8.8.8.8",
    ] {
        run(line);
    }
}

proptest! {
    #[test]
    fn any_words_have_an_outcome(words in proptest::collection::vec(word(), 0..12)) {
        let argv = [OsString::from("pasta")].into_iter().chain(words);
        let argv: Vec<_> = argv.collect();
        if let Outcome::Fail(text) = parse(argv) {
            prop_assert!(text.ends_with('\n') && text.len() > 1);
        }
    }

    #[test]
    fn any_bytes_have_an_outcome(
        name in proptest::collection::vec(any::<u8>(), 0..8),
        words in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..16), 0..6),
    ) {
        let name = OsString::from_vec([b"passt", &name[..]].concat());
        parse([name].into_iter().chain(words.into_iter().map(OsString::from_vec)).collect());
    }
}

/// Options, whole, shortened and with arguments, and values that some take.
fn word() -> impl Strategy<Value = OsString> {
    let all: Vec<_> = GROUPS.iter().flat_map(|(_, group)| group.iter()).collect();
    let longs: Vec<_> = all.iter().map(|option| option.long()).collect();
    let shorts: Vec<_> = all.iter().filter_map(|option| option.short()).collect();
    let value = "none|auto|all|[0-9~:,%/*.-]{0,12}|fd00::[0-9]{1,3}|10\\.0\\.0\\.[0-9]{1,3}(/[0-9]{1,2})?";
    prop_oneof![
        (proptest::sample::select(longs.clone()), 1..20usize).prop_map(|(long, len)| format!(
            "--{}",
            long.get(..len).unwrap_or(long)
        )
        .into()),
        (proptest::sample::select(longs), value).prop_map(|(long, v)| format!("--{long}={v}").into()),
        (proptest::sample::select(shorts), value).prop_map(|(c, v)| format!("-{c}{v}").into()),
        value.prop_map(OsString::from),
    ]
}
