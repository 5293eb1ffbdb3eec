//! The program `slirp4netns` for `RootlessKit` and Podman: what they and those inside notice is the
//! same with Debian's and with ours.

use passt_tests::{GATEWAY4, HOST4, Net, Place as _, eventually};

use crate::kit::{Kit, ask_by_udp, fetch, fetch_bulk, pairs};
use crate::{Site, assert_in_use, blocks, options_of, steps_of_buildah, wait_for_end};

const THEIRS: &str = "/usr/bin/slirp4netns";
const OURS: &str = "/usr/local/bin/slirp4netns";

/// Options of `RootlessKit`, and what somebody inside sees then.
const KITS: [(&str, &[(&str, &str)]); 9] = [
    (
        "",
        &[
            ("mtu", "mtu 65520"),
            ("address", "inet 10.0.2.100/24"),
            ("own", "of the host"),
            ("resolver", "10.0.2.3"),
        ],
    ),
    ("--slirp4netns-sandbox=true --slirp4netns-seccomp=true", &[("page", "from the peer")]),
    ("--slirp4netns-sandbox=auto --slirp4netns-seccomp=auto", &[("page", "from the peer")]),
    ("--slirp4netns-sandbox=false --slirp4netns-seccomp=false", &[("page", "from the peer")]),
    (
        "--disable-host-loopback",
        &[("own", "wget: can't connect to remote host (10.0.2.2): Network is unreachable")],
    ),
    ("--cidr=10.0.99.0/24", &[("address", "inet 10.0.99.100/24"), ("resolver", "10.0.99.3")]),
    ("--mtu=1500", &[("mtu", "mtu 1500")]),
    ("--ipv6", &[("page6", "from the peer")]),
    ("--detach-netns", &[("page", "from the peer"), ("mtu", "mtu 65520")]),
];

/// By the path that is given, with each way to have ports.
#[test]
fn rootlesskit() {
    let Some(net) = Net::new() else { return };
    let Some(site) = Site::new(&net) else { return };
    let _servers = site.serve_all(&net);
    let bulk = site.bulk(&net);
    let [_, _, line, see, ..] = &blocks("slirp4netns")[..] else { panic!("blocks") };
    let options = options_of(line).to_owned();
    let untold = options.replace(&format!(" --slirp4netns-binary={OURS}"), "");
    assert_ne!(options, untold);
    for (more, expected) in KITS {
        let own = if more.contains("10.0.99") { "10.0.99.2" } else { "10.0.2.2" };
        for driver in ["builtin", "slirp4netns"] {
            let ports = format!("--port-driver={driver} -p 0.0.0.0:8080:8080/tcp -p 0.0.0.0:8080:8080/udp");
            let mut before = None;
            for (options, program) in [(&untold, THEIRS), (&options, OURS)] {
                let kit = Kit::start(&site, "slirp4netns", &format!("{options} {ports} {more}"), own);
                assert_in_use(&site.starters, program);
                if program == OURS {
                    let seen = site.starters.sh_as_root(see.trim().trim_start_matches("sudo "));
                    assert!(seen.trim().ends_with(&format!("-> {OURS}")), "{seen}");
                }
                for (what, text) in expected {
                    assert_eq!(kit.seen[*what], *text, "{program} {driver} {more}: {:?}", kit.seen);
                }
                assert_eq!(kit.seen["bulk"], bulk, "{program} {driver} {more}");
                assert_eq!(fetch(&site, &net, ""), "from inside", "{program} {driver} {more}");
                fetch_bulk(&site, &net, &bulk);
                let found = (kit.seen.clone(), fetch(&site, &net, "cgi-bin/source"), ask_by_udp(&net));
                assert_eq!(*before.get_or_insert_with(|| found.clone()), found, "{driver} {more}");
                kit.stop();
            }
        }
    }
}

/// Without a path it is the first one of `PATH`, and it ends where `RootlessKit` is killed.
#[test]
fn rootlesskit_by_search_path() {
    let Some(net) = Net::new() else { return };
    let Some(site) = Site::new(&net) else { return };
    for (path, program) in [("/usr/local/bin:/usr/bin", OURS), ("/usr/bin:/usr/local/bin", THEIRS)] {
        let line =
            format!("PATH={path} exec rootlesskit --net=slirp4netns sh -c 'echo READY; exec sleep 1000'");
        let mut kit = site.starters.start_sh(&line);
        kit.wait_for("READY");
        assert_in_use(&site.starters, program);
        site.starters.sh("pkill -KILL -x rootlesskit");
        drop(kit);
        wait_for_end(&site.starters, "slirp4netns");
    }
}

/// Options of Podman's network, and what somebody inside sees then.
const NETWORKS: [(&str, &[(&str, &str)]); 6] = [
    (
        "",
        &[
            ("mtu", "mtu 65520"),
            ("address", "inet 10.0.2.100/24"),
            ("resolver", "10.0.2.3 198.51.100.1"),
            ("own", "wget: can't connect to remote host (10.0.2.2): Network is unreachable"),
            ("page6", "from the peer"),
            ("source", HOST4),
            // Ports are by a program of Podman's own.
            ("seen", "10.0.2.100"),
        ],
    ),
    ("port_handler=slirp4netns", &[("seen", GATEWAY4)]),
    ("port_handler=rootlesskit,mtu=1500", &[("mtu", "mtu 1500"), ("seen", "10.0.2.100")]),
    ("cidr=10.0.99.0/24", &[("address", "inet 10.0.99.100/24"), ("resolver", "10.0.99.3 198.51.100.1")]),
    (
        "allow_host_loopback=true,outbound_addr=192.0.2.77",
        &[("own", "of the host"), ("source", "192.0.2.77")],
    ),
    (
        "enable_ipv6=false,allow_host_loopback=false",
        &[
            ("own", "wget: can't connect to remote host (10.0.2.2): Network is unreachable"),
            ("page6", "wget: can't connect to remote host: Network is unreachable"),
        ],
    ),
];

/// By the configuration's lines, with the options that Podman has for it.
#[test]
fn podman() {
    let Some(net) = Net::new() else { return };
    let Some(site) = Site::new(&net) else { return };
    let _servers = site.serve_all(&net);
    let bulk = site.bulk(&net);
    net.host.ip("addr add 192.0.2.77/24 dev eth0");
    let [configuration, see, ..] = &blocks("slirp4netns")[..] else { panic!("blocks") };
    site.make_image();
    // For the helper by which UDP is served.
    let peer = site.starters.peer_path();
    let libraries = format!(
        "-v /usr/lib64:/lib64 -v /usr/lib/x86_64-linux-gnu:/lib/x86_64-linux-gnu -v {0}:{0}",
        peer.display()
    );
    for (more, expected) in NETWORKS {
        let mut before = None;
        for (text, program) in [("", THEIRS), (configuration, OURS)] {
            site.configure(text);
            assert_eq!(site.starters.sh(see).trim(), program);
            // What is configured is taken where nothing else is said.
            let network = match more {
                "" if program == OURS => String::new(),
                "" => "--network slirp4netns".to_owned(),
                more => format!("--network slirp4netns:{more}"),
            };
            let own = if more.contains("10.0.99") { "10.0.99.2" } else { "10.0.2.2" };
            let v6 = if more.contains("enable_ipv6=false") { "" } else { "6" };
            site.starters.sh(&format!(
                "podman run -d --cgroups=disabled --name web -p 8080:8080 -p 8080:8080/udp {network} {libraries} -v /home/user:/home/user \
                 -w /home/user box sh look.sh {own} {v6}"
            ));
            assert_in_use(&site.starters, program);
            let mut seen = eventually("what is found out inside", || {
                let logs = site.starters.sh("podman logs web 2>&1");
                logs.contains("looked=around").then(|| pairs(&logs))
            });
            assert_eq!(fetch(&site, &net, ""), "from inside", "{program} {more}");
            fetch_bulk(&site, &net, &bulk);
            seen.insert("seen".to_owned(), fetch(&site, &net, "cgi-bin/source"));
            seen.insert("seen by UDP".to_owned(), ask_by_udp(&net));
            for (what, text) in expected {
                assert_eq!(seen[*what], *text, "{program} {more}: {seen:?}");
            }
            assert_eq!(seen["page"], "from the peer");
            assert_eq!(seen["bulk"], bulk);
            assert_eq!(*before.get_or_insert_with(|| seen.clone()), seen, "{program} {more}");
            // It ends with the container, which nobody has to remove for that.
            site.starters.sh("podman kill web");
            wait_for_end(&site.starters, "slirp4netns");
            site.starters.sh("podman rm web");
        }
    }
}

/// Buildah takes what is configured for a step that has a network of its own.
#[test]
fn buildah() {
    let Some(net) = Net::new() else { return };
    let Some(site) = Site::new(&net) else { return };
    let ours = &blocks("slirp4netns")[0];
    let theirs = ours.replace(OURS, THEIRS);
    steps_of_buildah(&site, "slirp4netns", &[(&theirs, THEIRS), (ours, OURS)]);
}

/// Networks and ports that can't be had: Podman shows what it is told.
#[test]
fn podman_is_refused() {
    let Some(net) = Net::new() else { return };
    let Some(site) = Site::new(&net) else { return };
    let _servers = site.serve_all(&net);
    let configuration = &blocks("slirp4netns")[0];
    site.make_image();
    for (options, expected) in [
        ("cidr=10.0.2.0/30", "prefix length needs to be 1-25"),
        ("cidr=10.0.2.7/24", "CIDR needs to be a network address like 10.0.2.0/24"),
        ("mtu=70000", "MTU must be a positive integer (< 65522)"),
        // Somebody listens there, and a user may not.
        ("port_handler=slirp4netns -p 127.0.0.1:8000:80", "slirp_add_hostfwd failed"),
        ("port_handler=slirp4netns -p 80:80", "slirp_add_hostfwd failed"),
    ] {
        let [theirs, ours] = [("", THEIRS), (configuration, OURS)].map(|(text, program)| {
            site.configure(text);
            let run = format!("podman run --rm --cgroups=disabled --network slirp4netns:{options} box true");
            let run = site.starters.start_sh(&run).finish();
            wait_for_end(&site.starters, "slirp4netns");
            let (said, _usage) = run.stderr.split_once("Usage:").unwrap_or((&run.stderr, ""));
            (run.status.code(), said.replace(program, ""))
        });
        assert!(theirs.1.contains(expected), "{options}: {theirs:?}");
        assert_eq!(theirs, ours, "{options}");
    }
}
