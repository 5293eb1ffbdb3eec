//! What routers and firewalls say about connections: beyond the host to the guest, and in the guest
//! to whoever connects to it.

use passt_tests::transfer::at;
use passt_tests::{FAR4, FAR6, Guest, HOST4, HOST6, Net, Ns, Place, User, eventually, have};

/// Addresses of the routers towards the host.
const FIRST: [&str; 2] = ["10.1.0.1", "2001:db8:1::1"];
const SECOND: [&str; 2] = ["10.2.0.2", "2001:db8:2::2"];

/// What makes a router of a namespace, one that says as much as it is asked.
const FORWARDING: [&str; 4] = [
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv4.icmp_ratelimit=0",
    "net.ipv6.icmp.ratelimit=0",
];

/// The host, two routers, and the peer behind them.
struct Path {
    net: Net,
    _routers: [Ns; 2],
}

impl Path {
    fn new() -> Option<Self> {
        let net = Net::isolated()?;
        let routers = ["first", "second"].map(|role| net.another(role));
        let [first, second] = &routers;
        for router in &routers {
            for setting in FORWARDING {
                router.sysctl(setting);
            }
        }
        let links: [(&Ns, &str, &Ns, &str); 3] = [
            (&net.host, "eth0", first, "left"),
            (first, "right", second, "left"),
            (second, "right", &net.peer, "eth0"),
        ];
        for (number, (left, from, right, to)) in (1..).zip(links) {
            left.ip(&format!("link add {from} type veth peer name {to} netns {}", right.name()));
            // The router nearer to the host has the lower number, and is the gateway of the host.
            let hosts = if number == 1 { [2, 1] } else { [1, 2] };
            for ((ns, interface), host) in [(left, from), (right, to)].into_iter().zip(hosts) {
                ns.ip(&format!("addr add 10.{number}.0.{host}/24 dev {interface}"));
                ns.ip(&format!("addr add 2001:db8:{number}::{host}/64 dev {interface} nodad"));
                ns.ip(&format!("link set {interface} up"));
            }
        }
        net.peer.ip(&format!("addr add {FAR4}/32 dev lo"));
        net.peer.ip(&format!("addr add {FAR6}/128 dev lo nodad"));
        let via = |ns: &Ns, host: [u8; 2]| {
            let [number, host] = host;
            ns.ip(&format!("route add default via 10.{number}.0.{host}"));
            ns.ip(&format!("route add default via 2001:db8:{number}::{host}"));
        };
        via(&net.host, [1, 1]);
        via(first, [2, 2]);
        via(second, [3, 2]);
        via(&net.peer, [3, 1]);
        second.ip("route add 10.1.0.0/24 via 10.2.0.1");
        second.ip("route add 2001:db8:1::/64 via 2001:db8:2::1");
        for address in [FAR4, FAR6] {
            eventually("the path is up", || {
                let outcome = net.host.peer(&format!("connect {}", at(address, 9)));
                outcome.starts_with("ConnectionRefused").then_some(())
            });
        }
        Some(Self { net, _routers: routers })
    }
}

/// Lines of a traceroute by the number of the hop.
fn hops(out: &str) -> Vec<&str> {
    out.lines().map(str::trim_start).filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).collect()
}

/// Traceroute by echo, TCP and UDP, to a port that is open and to one that is not, sees each router
/// under its own address.
#[test]
fn traceroutes_see_the_routers() {
    let Some(Path { net, _routers }) = Path::new() else { return };
    if !have(&["traceroute", "mtr"]) {
        return;
    }
    let guest = net.pasta(User::Normal).with("--config-net").start();
    let _servers = [FAR4, FAR6].map(|address| net.peer.serve(&at(address, 5009)));
    for (family, far) in [FAR4, FAR6].into_iter().enumerate() {
        for kind in ["-I", "-U -p 33000", "-T -p 5009", "-T -p 5010"] {
            let out = guest.run(&format!("traceroute -n {kind} -q 1 -w 3 -N 1 -m 6 {far}"));
            let hops = hops(&out);
            for (hop, address) in hops.iter().zip([FIRST[family], SECOND[family], far]) {
                assert!(hop.split_whitespace().nth(1) == Some(address), "{kind}: {out}");
            }
            assert_eq!(hops.len(), 3, "{kind}: {out}");
        }
        let out = guest.run(&format!("mtr -n -T -P 5009 -r -c 2 {far}"));
        for address in [FIRST[family], SECOND[family], far] {
            let line = out.lines().find(|line| line.contains(&format!(" {address} ")));
            assert!(line.is_some_and(|line| line.contains(" 0.0%")), "{out}");
        }
    }
}

/// What a router's firewall says of a connection is what it was, and from that router.
#[test]
fn a_router_that_forbids() {
    let Some(Path { net, _routers: [_first, second] }) = Path::new() else { return };
    if !have(&["nft", "tcpdump"]) {
        return;
    }
    filter(&second, "forward", "tcp dport 5010 reject with icmp type admin-prohibited");
    let capture = net.dir().join("capture");
    let options = format!("--config-net --pcap {}", capture.display());
    let guest = net.pasta(User::Normal).with(&options).start();
    let outcome = guest.peer(&format!("connect {}", at(FAR4, 5010)));
    let message = net.host.run(&format!("tcpdump -nvr {} icmp", capture.display()));
    let from = format!("{} > ", SECOND[0]);
    assert!(message.contains(&from) && message.contains("admin prohibited"), "{message}");
    assert!(message.contains(".5010:"), "the guest's own segment: {message}");
    assert!(outcome.starts_with("HostUnreachable"), "{outcome}");
}

/// A rule of a firewall of its own.
fn filter(place: &impl Place, hook: &str, rule: &str) {
    place.run("nft flush ruleset");
    place.run("nft add table inet test");
    let mut chain = place.command("nft");
    chain.args(["add", "chain", "inet", "test", "rules"]);
    chain.arg(format!("{{ type filter hook {hook} priority 0 ; }}"));
    passt_tests::Process::start(&mut chain).succeed();
    place.run(&format!("nft add rule inet test rules {rule}"));
}

/// A client outside of a port that the guest's firewall rejects, in whatever way, hears so at once;
/// without, that its SYNs are dropped can't be told from a slow server.
#[test]
fn a_guest_that_rejects() {
    let Some(net) = Net::new() else { return };
    if !have(&["nft"]) {
        return;
    }
    let guest = net.pasta(User::Normal).with("--config-net -t 5001 -u none").start();
    guest.sysctl("net.ipv4.icmp_ratelimit=0");
    guest.sysctl("net.ipv6.icmp.ratelimit=0");
    let reset = |guest: &Guest, host: &str, rule: &str| {
        filter(guest, "input", &format!("tcp dport 5001 reject with {rule}"));
        let outcome = net.peer.peer(&format!("keep {} 0 0 0 0", at(host, 5001)));
        let ended = outcome.lines().last().expect("an outcome");
        let (kind, time) = ended.split_once(' ').expect("two words");
        assert_eq!(kind, "ConnectionReset", "{rule}");
        assert!(time.parse::<u64>().expect("milliseconds") < 900, "{rule}: before a second SYN: {outcome}");
    };
    for kind in [
        "net-unreachable",
        "host-unreachable",
        "prot-unreachable",
        "port-unreachable",
        "net-prohibited",
        "host-prohibited",
        "admin-prohibited",
    ] {
        reset(&guest, HOST4, &format!("icmp type {kind}"));
    }
    for kind in [
        "no-route",
        "admin-prohibited",
        "addr-unreachable",
        "port-unreachable",
        "policy-fail",
        "reject-route",
    ] {
        reset(&guest, HOST6, &format!("icmpv6 type {kind}"));
    }
    for host in [HOST4, HOST6] {
        reset(&guest, host, "tcp reset");
    }
}

/// A machine behind the guest, on a link that takes less than the guest's own and than that machine
/// says: what the guest, a router to it, says so of is sent again in smaller segments, and datagrams
/// are fragmented from then on.
#[test]
fn a_smaller_link_behind_the_guest() {
    let Some(net) = Net::new() else { return };
    let _servers = [FAR4, FAR6].map(|address| net.peer.serve(&at(address, 5009)));
    let _answering =
        [FAR4, FAR6].map(|address| net.peer.listening(&format!("udp-serve {}", at(address, 6009))));
    let guest = net.pasta(User::Normal).with("--config-net --mtu 9000").start();
    let inner = Inner::new(&guest);
    for (address, headers) in [(FAR4, 28), (FAR6, 48)] {
        passt_tests::transfer::download(&inner, &at(address, 5009), 4 << 20);
        // The last that fits its own link: the first answer is lost, as on any network.
        let text = "x".repeat(1500 - headers);
        let ask = || inner.peer(&format!("udp-ask {} {text}", at(address, 6009)));
        eventually("an answer in fragments", || (ask().trim() == text).then_some(()));
    }
}

/// A namespace behind the guest, which routes to it.
struct Inner {
    holder: passt_tests::Process,
    peer: std::path::PathBuf,
}

impl Inner {
    fn new(guest: &Guest) -> Self {
        let peer = guest.peer_path();
        let mut holder = guest.start(&format!("unshare -n -- {} hold", peer.display()));
        holder.wait_for("READY");
        let inner = Self { holder, peer };
        for setting in FORWARDING {
            guest.sysctl(setting);
        }
        guest.run(&format!("ip link add inner type veth peer name eth0 netns {}", inner.holder.pid()));
        let pair: [(&dyn Place, &str, u8); 2] = [(guest, "inner", 1), (&inner, "eth0", 2)];
        for (place, interface, host) in pair {
            place.run(&format!("ip addr add 10.9.0.{host}/24 dev {interface}"));
            place.run(&format!("ip addr add 2001:db8:9::{host}/64 dev {interface} nodad"));
            place.run(&format!("ip link set {interface} up"));
        }
        // The way there alone: what comes from it may have all that the link takes.
        guest.run("ip route replace 10.9.0.0/24 dev inner mtu lock 1300");
        guest.run("ip route add 2001:db8:9::2 dev inner mtu lock 1300");
        inner.run("ip route add default via 10.9.0.1");
        inner.run("ip route add default via 2001:db8:9::1");
        inner
    }
}

impl Place for Inner {
    fn command(&self, program: &str) -> std::process::Command {
        let mut command = std::process::Command::new("nsenter");
        command.args(["-t", &self.holder.pid().to_string(), "-U", "-n", "--", program]);
        command
    }

    fn peer_path(&self) -> std::path::PathBuf {
        self.peer.clone()
    }
}

/// A type of service that the guest asks for is on the host's packets.
#[test]
fn differentiated_services() {
    let Some(net) = Net::new() else { return };
    if !have(&["tcpdump"]) {
        return;
    }
    let guest = net.pasta(User::Normal).with("--config-net").start();
    for (far, tos, shown) in [(FAR4, 184, "tos 0xb8,"), (FAR6, 72, "class 0x48,"), (FAR4, 0, "tos 0x0,")] {
        let filter = format!("dst host {far} and dst port 5010");
        let mut command = net.peer.command("tcpdump");
        command.args(["-lnvi", "eth0", "-c", "1", &filter]);
        let seen = passt_tests::Process::start(&mut command);
        eventually("tcpdump listens", || seen.stderr().contains("listening on").then_some(()));
        guest.peer(&format!("keep {} {tos} 0 0 0", at(far, 5010)));
        let syn = seen.succeed();
        assert!(syn.contains(shown), "{syn}");
    }
}

/// A guest's keep-alives are the host's, and while the far end does not answer those, the guest's
/// are not answered either: the guest decides how long it waits.
#[test]
fn keep_alives_reach_the_far_end() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5009));
    let guest = net.pasta(User::Normal).with("--config-net").start();
    let kept = |guest: &Guest| {
        let mut kept = guest.start_peer(&format!("keep {} 0 1 1 3", at(FAR4, 5009)));
        kept.wait_for("CONNECTED");
        eventually("the host asks as well", || {
            let sockets = net.host.run("ss -Htno state established");
            sockets
                .lines()
                .any(|line| {
                    // Of what the guest doesn't ask for the kernel has hours.
                    line.contains(":5009") && line.contains("timer:(keepalive,") && !line.contains("min,")
                })
                .then_some(())
        });
        kept
    };
    let kept = kept(&guest);
    net.peer.ip("link set eth0 down");
    let outcome = kept.succeed_within(std::time::Duration::from_mins(1));
    let (kind, time) = outcome.lines().last().and_then(|line| line.split_once(' ')).expect("an outcome");
    assert_eq!(kind, "TimedOut", "{outcome}");
    assert!(time.parse::<u64>().expect("milliseconds") < 40_000, "{outcome}");
}
