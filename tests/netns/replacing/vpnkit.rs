//! The program `vpnkit` for `RootlessKit`, whose own code is the other end. Debian has none to
//! compare with, and builds `RootlessKit` without it.

use passt_tests::{Net, skip};

use crate::kit::{Kit, ask_by_udp, fetch, fetch_bulk};
use crate::{Site, assert_in_use, blocks, options_of};

const OURS: &str = "/usr/local/bin/vpnkit";

/// Options of `RootlessKit`, and what somebody inside sees then.
const KITS: [(&str, &[(&str, &str)]); 4] = [
    ("", &[("mtu", "mtu 1500"), ("resolver", "192.168.65.1"), ("own", "of the host")]),
    ("--disable-host-loopback", &[("page", "from the peer")]),
    ("--mtu=65520", &[("mtu", "mtu 65520")]),
    ("--detach-netns", &[("page", "from the peer")]),
];

#[test]
fn rootlesskit() {
    let Some(net) = Net::new() else { return };
    let Some(site) = Site::new(&net) else { return };
    let _servers = site.serve_all(&net);
    let bulk = site.bulk(&net);
    let [line, see] = &blocks("VPNKit")[..2] else { panic!("two blocks") };
    let options = options_of(line);
    let tried = site.starters.start_sh(&format!("rootlesskit {options} true")).finish();
    if tried.stderr.contains("not supported in this Debian package") {
        skip("RootlessKit is built without VPNKit");
        return;
    }
    for (more, expected) in KITS {
        let ports = "--port-driver=builtin -p 0.0.0.0:8080:8080/tcp -p 0.0.0.0:8080:8080/udp";
        let kit = Kit::start(&site, "vpnkit", &format!("{options} {ports} {more}"), "192.168.65.2");
        assert_in_use(&site.starters, OURS);
        let seen = site.starters.sh_as_root(see.trim().trim_start_matches("sudo "));
        assert!(seen.trim().ends_with(&format!("-> {OURS}")), "{seen}");
        for (what, text) in expected {
            assert_eq!(kit.seen[*what], *text, "{more}: {:?}", kit.seen);
        }
        if more.contains("loopback") {
            assert_ne!(kit.seen["own"], "of the host");
        }
        assert_eq!(kit.seen["bulk"], bulk, "{more}");
        assert_eq!(fetch(&site, &net, ""), "from inside", "{more}");
        fetch_bulk(&site, &net, &bulk);
        ask_by_udp(&net);
        kit.stop();
    }
}
