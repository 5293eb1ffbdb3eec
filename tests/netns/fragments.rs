//! What exceeds the path's MTU, both ways: fragments of the guest's kernel, and what that learns of
//! a path with a narrow hop behind a router.

use passt_tests::transfer::at;
use passt_tests::{HOST4, HOST6, Net, Ns, Place as _, User, have, skip};

/// The MTU of the hop behind the router.
const NARROW: usize = 1280;
/// A host behind it.
const BEHIND4: &str = "203.0.113.2";
const BEHIND6: &str = "2001:db8:e::2";

/// A host behind a hop with a small MTU, beyond the peer, which is a router.
fn behind(net: &Net) -> Ns {
    let (router, far) = (&net.peer, net.empty_guest());
    router.ip(&format!("link add far0 type veth peer name eth0 netns {}", far.name()));
    for (ns, device, v4, v6) in
        [(router, "far0", "203.0.113.1", "2001:db8:e::1"), (&far, "eth0", BEHIND4, BEHIND6)]
    {
        ns.ip(&format!("link set {device} mtu {NARROW} up"));
        ns.ip(&format!("addr add {v4}/24 dev {device}"));
        ns.ip(&format!("addr add {v6}/64 dev {device} nodad"));
    }
    router.sysctl("net.ipv4.ip_forward=1");
    router.sysctl("net.ipv6.conf.all.forwarding=1");
    far.ip("route add default via 203.0.113.1");
    far.ip("route add default via 2001:db8:e::1");
    far
}

fn udp_server(place: &impl passt_tests::Place, address: &str) -> passt_tests::Process {
    place.listening(&format!("udp-serve {}", at(address, 6001)))
}

/// Datagrams of every size are echoed, whatever the guest's MTU: its kernel learns the path's by
/// the first that is too big, and cuts those that come then.
#[test]
fn datagrams_learn_the_path() {
    let Some(net) = Net::new() else { return };
    let far = behind(&net);
    let _servers = [BEHIND4, BEHIND6].map(|address| udp_server(&far, address));
    for mtu in [65_520, 1500, 1280] {
        let guest = net.pasta(User::Normal).with(&format!("--config-net --mtu {mtu}")).start();
        for address in [BEHIND4, BEHIND6] {
            guest.peer(&format!("udp-sweep {} 65507", at(address, 6001)));
            let route = guest.run(&format!("ip route get {address}"));
            let learnt = mtu == NARROW || route.contains(&format!("mtu {NARROW}"));
            assert!(learnt, "{mtu}: {route}");
        }
    }
}

/// The same through a forwarded port, where it is the answers that are too big.
#[test]
fn answers_learn_the_path() {
    let Some(net) = Net::new() else { return };
    let far = behind(&net);
    let guest = net.pasta(User::Normal).with("--config-net --mtu 1500 -u 6001").start();
    let _servers = [HOST4, HOST6].map(|address| udp_server(&guest, address));
    for address in [HOST4, HOST6] {
        far.peer(&format!("udp-sweep {} 65507", at(address, 6001)));
    }
}

/// Pings of any size are answered, and one that may not be cut is told what fits.
#[test]
fn pings_learn_the_path() {
    let Some(net) = Net::new() else { return };
    if !have(&["ping"]) {
        return;
    }
    let _far = behind(&net);
    for mtu in [1500, 65_520] {
        let guest = net.pasta(User::Normal).with(&format!("--config-net --mtu {mtu}")).start();
        for address in [BEHIND4, BEHIND6] {
            let finished = guest.start(&format!("ping -c 1 -W 2 -M do -s 1400 {address}")).finish();
            let out = finished.stdout + &finished.stderr;
            assert!(out.contains("mtu = 1280") || out.contains("mtu=1280"), "{address}: {out}");
            let out = guest.run(&format!("ping -c 2 -i 0.2 -W 2 -M do -s 1200 {address}"));
            assert!(out.contains("2 received"), "{address}: {out}");
            for size in [1400, 4000, 65_000] {
                let out = guest.run(&format!("ping -c 2 -i 0.2 -W 2 -s {size} {address}"));
                assert!(out.contains("2 received"), "{address} {size}: {out}");
            }
        }
    }
}

/// Programs that look for the path's MTU find it.
#[test]
fn the_path_mtu_is_found() {
    let Some(net) = Net::new() else { return };
    let _far = behind(&net);
    let guest = net.pasta(User::Normal).with("--config-net --mtu 1500").start();
    if have(&["traceroute"]) {
        for address in [BEHIND4, BEHIND6] {
            let out = guest.run(&format!("traceroute --mtu -n -w 2 -q 1 {address}"));
            assert!(out.contains("F=1280") && out.contains(&format!("  {address} ")), "{out}");
        }
    }
    if have(&["tracepath"]) {
        for address in [BEHIND4, BEHIND6] {
            let out = guest.run(&format!("tracepath -n {address}"));
            assert!(out.contains("pmtu 1280") && out.contains("reached"), "{out}");
        }
    }
}

/// A stream of datagrams that may not be cut arrives if they fit, and does not otherwise.
#[test]
fn streams_that_may_not_be_cut() {
    let Some(net) = Net::new() else { return };
    if !have(&["iperf3"]) {
        return;
    }
    let far = behind(&net);
    let guest = net.pasta(User::Normal).with("--config-net --mtu 1500").start();
    if !guest.run("iperf3 --help").contains("--dont-fragment") {
        return skip("this iperf3 can't forbid fragments");
    }
    let mut server = far.start("iperf3 -s --forceflush");
    server.wait_for("Server listening");
    let run = |size| {
        let line = format!("iperf3 -c {BEHIND4} -4 -u --dont-fragment -l {size} -b 2M -t 1");
        let finished = guest.start(&line).finish();
        finished.stdout + &finished.stderr
    };
    let out = run(1200);
    assert!(out.contains("(0%)") && out.contains("iperf Done"), "{out}");
    let out = run(1400);
    assert!(out.contains("Message too long") || out.contains("(100%)"), "{out}");
}

/// A resolver's answer of 4 KiB arrives in one datagram.
#[test]
fn a_long_answer_of_a_resolver() {
    let Some(net) = Net::new() else { return };
    if !have(&["dig", "dnsmasq"]) {
        return;
    }
    let far = behind(&net);
    let texts = vec!["x".repeat(250); 15].join(",");
    let _server = far.start(&format!(
        "dnsmasq --no-daemon --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces \
         --listen-address={BEHIND4},{BEHIND6} --edns-packet-max=4096 --user=root \
         --txt-record=long.test,{texts}"
    ));
    let guest = net.pasta(User::Normal).with("--config-net --mtu 1500").start();
    for address in [BEHIND4, BEHIND6] {
        let out = guest.run(&format!("dig +bufsize=4096 +ignore +tries=5 @{address} long.test TXT"));
        assert!(!out.contains(" tc ") && out.contains(&"x".repeat(250)), "{out}");
        assert!(out.contains("MSG SIZE  rcvd: 38"), "{out}");
    }
}
