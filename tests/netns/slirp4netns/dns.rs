//! The name server at the guest's own address for it, which is the host's of the moment.

use std::path::Path;

use passt_tests::{Place as _, have};

use crate::net::{name_server, resolves};
use crate::rig::{Rig, before_tapfd, original};

const ONE: &str = "203.0.113.77";
const TWO: &str = "203.0.113.78";

/// The name server is the first of `resolv.conf`, of whichever address.
#[test]
fn dns() {
    let Some(rig) = ready() else { return };
    let _servers = [name_server(&rig, "127.0.0.1", ONE), name_server(&rig, "192.0.2.2", TWO)];
    for (text, options, server, answer) in [
        ("nameserver 127.0.0.1\nnameserver 192.0.2.2\n", "", "10.0.2.3", ONE),
        ("# ours\nsearch example.test\nnameserver 192.0.2.2\nnameserver 127.0.0.1\n", "", "10.0.2.3", TWO),
        ("nameserver 127.0.0.1\n", "--disable-host-loopback", "10.0.2.3", ONE),
        ("nameserver 127.0.0.1\n", "--enable-sandbox --enable-seccomp", "10.0.2.3", ONE),
        // The first that can be one, of this family.
        ("nameserver ::1\nnameserver 127.0.0.1\n", "", "10.0.2.3", ONE),
        ("options rotate\nnameserver bad\nnameserver\t127.0.0.1\n", "", "10.0.2.3", ONE),
        ("nameserver 127.0.0.1 # ours\nnameserver 192.0.2.2\n", "", "10.0.2.3", ONE),
        ("nameserver 127.0.0.1\n", "--cidr=10.0.135.128/25", "10.0.135.131", ONE),
    ] {
        rig.net.host.resolv_conf(text);
        let slirp = rig.start(options);
        for transport in ["+notcp", "+tcp"] {
            resolves(&rig, server, transport, answer);
        }
        slirp.stop();
    }
}

#[test]
fn dns_of_ipv6() {
    let Some(rig) = ready() else { return };
    rig.net.host.resolv_conf("nameserver 127.0.0.1\nnameserver ::1\n");
    let _servers = [name_server(&rig, "127.0.0.1", ONE), name_server(&rig, "::1", TWO)];
    let _slirp = rig.start("--enable-ipv6");
    for transport in ["+notcp", "+tcp"] {
        resolves(&rig, "fd00::3", transport, TWO);
        resolves(&rig, "10.0.2.3", transport, ONE);
    }
}

/// Written anew in place, or another file put in its place: what is asked later goes to the new
/// server.
#[test]
fn the_host_changes_its_name_server() {
    let Some(rig) = ready() else { return };
    let _servers = [name_server(&rig, "127.0.0.1", ONE), name_server(&rig, "127.0.0.2", TWO)];
    let etc = rig.net.dir().join("etc");
    std::fs::create_dir(&etc).expect("a directory");
    let (file, new) = (etc.join("resolv.conf"), etc.join("new"));
    let mounts = mounting(&rig, &etc);
    for options in ["", "--enable-sandbox --enable-seccomp"] {
        std::fs::write(&file, "nameserver 127.0.0.1\n").expect("a file");
        let slirp = rig.launch_through(&mounts, &format!("-c {options} {}", rig.by_path()));
        resolves(&rig, "10.0.2.3", "+notcp", ONE);
        std::fs::write(&file, "# now\nnameserver 127.0.0.2\n").expect("a file");
        resolves(&rig, "10.0.2.3", "+notcp", TWO);
        std::fs::write(&new, "# now another\nnameserver 127.0.0.1\n").expect("a file");
        std::fs::rename(&new, &file).expect("a file");
        resolves(&rig, "10.0.2.3", "+notcp", ONE);
        std::fs::write(&file, "nameserver 127.0.0.2\n").expect("a file");
        resolves(&rig, "10.0.2.3", "+tcp", TWO);
        slirp.stop();
    }
}

/// The words that start a program with another `/etc`.
fn mounting(rig: &Rig, etc: &Path) -> String {
    let script = rig.net.dir().join("mounting");
    let text = format!("mount --bind {} /etc && exec \"$@\"\n", etc.display());
    std::fs::write(&script, text).expect("a script");
    format!("unshare --mount sh {}", script.display())
}

/// Where the host names none, it is the one at its loopback address, as `resolv.conf(5)` has it and
/// older originals do not. Where it names one of the other family only, TCP is told that there is
/// none.
#[test]
fn the_host_has_no_name_server() {
    let Some(rig) = ready() else { return };
    let _server = name_server(&rig, "127.0.0.1", ONE);
    for (text, loopback) in
        [("", true), ("options rotate\n", true), ("#nameserver ::1\n", true), ("nameserver ::1\n", false)]
    {
        rig.net.host.resolv_conf(text);
        let slirp = rig.start("");
        if loopback && !before_tapfd() {
            resolves(&rig, "10.0.2.3", "+tcp", ONE);
        } else if !original() {
            // Ours asks the one that there is, whatever its family; nobody is there.
            let outcome = rig.guest.peer("connect 10.0.2.3:53");
            assert!(outcome.starts_with("ConnectionRefused"), "{text:?}: {outcome}");
        } else {
            let outcome = rig.guest.peer("connect 10.0.2.3:53");
            assert!(outcome.starts_with("NetworkUnreachable"), "{text:?}: {outcome}");
            assert_eq!(rig.guest.peer("udp-ask 10.0.2.3:53 what").trim(), "WouldBlock", "{text:?}");
        }
        // One that comes later is used.
        rig.net.host.resolv_conf("nameserver 127.0.0.1\n");
        resolves(&rig, "10.0.2.3", "+notcp", ONE);
        slirp.stop();
    }
}

/// Nothing answers then, by either transport, not even that nobody is there.
#[test]
fn no_dns_when_asked() {
    let Some(rig) = ready() else { return };
    rig.net.host.resolv_conf("nameserver 127.0.0.1\n");
    let _server = name_server(&rig, "127.0.0.1", ONE);
    // Otherwise giving up takes two minutes.
    rig.guest.sysctl("net.ipv4.tcp_syn_retries=1");
    let _slirp = rig.start("--disable-dns");
    let outcome = rig.guest.peer("connect 10.0.2.3:53");
    assert!(outcome.starts_with("TimedOut"), "{outcome}");
    assert_eq!(rig.guest.peer("udp-ask 10.0.2.3:53 what").trim(), "WouldBlock");
    // The gateway is there all the same, and the host's own server behind it.
    assert!(rig.guest.start("ping -n -c 1 -W 3 10.0.2.2").finish().status.success());
    for transport in ["+notcp", "+tcp"] {
        resolves(&rig, "10.0.2.2", transport, ONE);
    }
}

fn ready() -> Option<Rig> {
    have(&["dig", "dnsmasq"]).then(Rig::new)?
}
