//! Names that resolve in a command's namespace, where the host's resolver is on its loopback, and a
//! resolv.conf that is the command's own.

use std::fs;
use std::path::PathBuf;

use passt_tests::{Finished, Net, Place as _, Process, User, eventually, have};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A resolver on the host like systemd's, and a resolv.conf that names it.
const STUB: &str = "# The host's\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch example.test\n";

/// A host with a resolver on these addresses that knows one name.
fn host(address: &str) -> Option<(Net, Process)> {
    let net = Net::new()?;
    if !have(&["dnsmasq", "dig", "getent"]) {
        return None;
    }
    let line = "--keep-in-foreground --no-resolv --no-hosts --bind-interfaces --conf-file=/dev/null \
                --address=/name.example.test/203.0.113.7";
    let resolver = net.host.start(&format!("dnsmasq {line} --listen-address={address}"));
    let asked = address.split(',').next().unwrap_or_default();
    let ask = format!("dig +short +tries=1 +time=1 @{asked} name.example.test");
    eventually("dnsmasq", || net.host.start(&ask).finish().stdout.contains("203.0.113.7").then_some(()));
    Some((net, resolver))
}

/// What a command finds in its resolv.conf, and whether it finds a name by it.
fn look(net: &Net, user: User, options: &str) -> (String, Finished) {
    let script = net.dir().join("look");
    let text = "#!/bin/sh\ncat /etc/resolv.conf >&2\ngetent hosts name\ndig +short +tries=1 +time=2 name.example.test\n";
    fs::write(&script, text).expect("script");
    let launch = net.pasta(user).with("--config-net -t none -u none -T none -U none").with(options);
    let finished = launch.run(&format!("sh {}", script.display()));
    (finished.stderr.replace("Started as root, will change to nobody.\n", ""), finished)
}

fn host_file(net: &Net) -> PathBuf {
    PathBuf::from("/etc/netns").join(net.host.name()).join("resolv.conf")
}

#[test]
fn a_resolver_on_loopback() {
    let Some((net, _resolver)) = host("127.0.0.53") else { return };
    net.host.resolv_conf(STUB);
    let kept = "search example.test\noptions edns0 trust-ad\n";
    for user in User::BOTH {
        for (options, server) in [
            ("", Some("192.0.2.1")),
            ("--no-pidns", Some("192.0.2.1")),
            ("--resolv-conf", Some("192.0.2.1")),
            ("--resolv-conf --no-map-gw", Some("169.254.1.1")),
            ("--resolv-conf --gateway 192.0.2.1 --no-map-gw", Some("169.254.1.1")),
            ("--resolv-conf --subnet 10.0.2.0/24 -4", Some("10.0.2.3")),
            ("--no-map-gw --dns-forward 10.9.9.9", Some("10.9.9.9")),
            ("--no-map-gw", None),
            ("--keep-resolv-conf", None),
        ] {
            let (seen, finished) = look(&net, user, options);
            let expected = server.map(|server| format!("nameserver {server}\n{kept}"));
            let own = expected.map(|text| format!("# By pasta, for this mount namespace alone\n{text}"));
            assert_eq!(seen, own.as_deref().unwrap_or(STUB), "{options} as {user:?}");
            let found = finished.stdout.matches("203.0.113.7").count();
            assert_eq!(found, if server.is_some() { 2 } else { 0 }, "{options} as {user:?}: {finished:?}");
        }
    }
    assert_eq!(fs::read_to_string(host_file(&net)).expect("the host's file"), STUB);
}

#[test]
fn a_resolver_on_loopback_of_ipv6() {
    let Some((net, _resolver)) = host("::1") else { return };
    net.host.resolv_conf("nameserver ::1\nsearch example.test\n");
    for options in [
        "",
        "--resolv-conf --no-map-gw",
        "-6 --resolv-conf",
        "-4 --resolv-conf",
        "-4 --resolv-conf --isolate-host",
    ] {
        let (_, finished) = look(&net, User::Normal, options);
        assert_eq!(finished.stdout.matches("203.0.113.7").count(), 2, "{options}: {finished:?}");
    }
}

/// More ports than the command may have descriptors are no reason for it to do without.
#[test]
fn beside_more_ports_than_descriptors() {
    let Some((net, _resolver)) = host("127.0.0.53") else { return };
    net.host.resolv_conf(STUB);
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(256), ..before }).expect("a lower limit");
    let script = net.dir().join("limits");
    fs::write(&script, "getent hosts name; cat /proc/sys/net/ipv4/ping_group_range; ulimit -n")
        .expect("script");
    for user in User::BOTH {
        let launch = net.pasta(user).with("--config-net -u none -T none -U none -t 3000-3400");
        let finished = launch.run(&format!("sh {}", script.display()));
        let words: Vec<_> = finished.stdout.split_whitespace().collect();
        assert!(words.first() == Some(&"203.0.113.7") && words.ends_with(&["0", "0", "256"]), "{finished:?}");
        assert!(!finished.stderr.contains("Too many open files"), "{finished:?}");
    }
    setrlimit(Resource::Nofile, before).expect("the old limit");
}

/// One that the command reaches is left as it is, unless a file of its own is asked for.
#[test]
fn a_resolver_on_the_network() {
    let Some(net) = Net::new() else { return };
    let text = "nameserver 192.0.2.53\nsearch a.test\n";
    net.host.resolv_conf(text);
    for (options, expected) in [
        ("", text.to_owned()),
        ("--dns 192.0.2.54", text.to_owned()),
        ("--resolv-conf", format!("# By pasta, for this mount namespace alone\n{text}")),
    ] {
        let finished = net.pasta(User::Normal).with("--config-net").with(options).run("cat /etc/resolv.conf");
        assert_eq!((finished.stdout, finished.stderr), (expected, String::new()), "{options}");
    }
}

/// The file may be a symbolic link, also one to nowhere: what it points to is not touched. Where there
/// is none, the command runs without, and is told so if it was asked for.
#[test]
fn files_that_are_links() {
    let Some((net, _resolver)) = host("127.0.0.53,127.0.0.1") else { return };
    let dir = net.dir().display().to_string();
    let script = net.dir().join("in-etc");
    fs::write(net.dir().join("stub"), STUB).expect("file");
    for (make, is_there) in [
        (format!("ln -s {dir}/stub etc/resolv.conf"), true),
        (format!("ln -s {dir}/nowhere etc/resolv.conf"), true),
        (format!("ln -s ../stub etc/resolv.conf; cp {dir}/stub etc/stub"), true),
        (format!("cp {dir}/stub etc/resolv.conf"), true),
        ("true".to_owned(), false),
    ] {
        let lines = [
            "set -e",
            &format!("cd {dir}"),
            "umount /etc/resolv.conf || true",
            "rm -rf etc; mkdir -m 755 etc",
            "cp /etc/passwd /etc/group /etc/nsswitch.conf etc || true",
            &make,
            "mount --bind etc /etc",
            "exec \"$@\"\n",
        ];
        fs::write(&script, lines.join("\n")).expect("script");
        for user in User::BOTH {
            let text = "cat /etc/resolv.conf; dig +short +tries=1 +time=2 name.example.test";
            fs::write(net.dir().join("look"), text).expect("script");
            let launch = net
                .pasta(user)
                .with("--config-net --resolv-conf")
                .under(&format!("unshare --mount sh {}", script.display()));
            let finished = launch.run(&format!("sh {dir}/look"));
            let found =
                finished.stdout.contains("nameserver 192.0.2.1\n") && finished.stdout.contains("203.0.113.7");
            assert_eq!(found, is_there, "{make} as {user:?}: {finished:?}");
            let told = "Couldn't give the command a resolv.conf of its own: ";
            assert_eq!(finished.stderr.contains(told), !is_there, "{make} as {user:?}: {finished:?}");
        }
        assert_eq!(fs::read_to_string(net.dir().join("stub")).expect("file"), STUB);
        assert!(!net.dir().join("nowhere").exists());
    }
}
