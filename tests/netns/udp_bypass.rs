//! Local datagrams: from the host's loopback into the namespace (`-u`), and from the namespace's
//! loopback to the host (`-U`).

use std::net::SocketAddr;
use std::time::Duration;

use passt_tests::transfer::at;
use passt_tests::{
    GATEWAY4, GATEWAY6, Guest, HOST4, HOST6, Net, Place, Process, User, eventually_within, have,
};

const LOOPBACKS: [&str; 2] = ["127.0.0.1", "::1"];
/// Sockets of the namespace that are in stock at most: of four kinds, one less than what has more
/// ordered, and the order.
const STOCK: usize = 4 * (31 + 16);
/// Forwarded into the namespace, and out of it.
const IN: u16 = 6001;
const OUT: u16 = 6002;

fn started(options: &str) -> Option<(Guest, Net)> {
    let net = Net::new()?;
    let ports = format!("--config-net -t none -u {IN} -T none -U {OUT} {options}");
    Some((net.pasta(User::Normal).with(&ports).start(), net))
}

/// Where clients are, where servers are, and the port in between, for both directions.
fn ways<'a>(guest: &'a Guest, net: &'a Net) -> [(&'a dyn Place, &'a dyn Place, u16); 2] {
    [(&net.host, guest, IN), (guest, &net.host, OUT)]
}

fn serve(place: &dyn Place, address: &str) -> Process {
    place.listening(&format!("udp-serve {address}"))
}

#[test]
fn every_size_both_ways() {
    let Some((guest, net)) = started("") else { return };
    for (client, server, port) in ways(&guest, &net) {
        let _server = serve(server, &format!("[::]:{port}"));
        for address in LOOPBACKS {
            client.peer(&format!("udp-sweep {} 65507", at(address, port)));
        }
    }
}

/// A thousand clients on one port each get what is theirs. When they are gone, so are their
/// descriptors.
#[test]
fn a_thousand_clients() {
    let Some(net) = Net::new() else { return };
    // Where connection tracking is there to be asked; else flows live for half a minute.
    let timeouts = ["timeout", "timeout_stream"]
        .map(|name| format!("sysctl -qw net.netfilter.nf_conntrack_udp_{name}=2"));
    let short = timeouts.map(|line| net.host.start(&line).finish().status.success()) == [true; 2];
    let ports = format!("--config-net -t none -u {IN} -T none -U {OUT}");
    let guest = net.pasta(User::Normal).with(&ports).start();
    for (client, server, port) in ways(&guest, &net) {
        let _server = serve(server, &format!("[::]:{port}"));
        let before = guest.descriptors();
        client.peer(&format!("udp-many {} 1000", at("127.0.0.1", port)));
        assert!(guest.descriptors() >= before + if short { 1 } else { 1000 });
        let wait = Duration::from_secs(if short { 30 } else { 150 });
        let ended = || (guest.descriptors() <= before + STOCK).then_some(());
        eventually_within(wait, "the end of all flows", ended);
    }
}

/// Who the server sees, and that the client's port is kept.
#[test]
fn addresses_seen() {
    for (options, inside) in [("", [HOST4, HOST6]), ("--host-lo-to-ns-lo", LOOPBACKS)] {
        let Some((guest, net)) = started(options) else { return };
        for ((client, server, port), seen) in ways(&guest, &net).into_iter().zip([inside, LOOPBACKS]) {
            // One for each way: the sockets of earlier flows have theirs still.
            let from = 41_000 + port;
            client.sysctl(&format!("net.ipv4.ip_local_port_range={from} {from}"));
            let _server = serve(server, &format!("[::]:{port}"));
            for (address, seen) in LOOPBACKS.into_iter().zip(seen) {
                let who = client.peer(&format!("udp-ask {} who", at(address, port)));
                assert_eq!(canonical(&who), at(seen, from), "{options} to {address}:{port}");
            }
        }
    }
}

/// Without the bypass the host's loopback appears as the gateway.
#[test]
fn without_the_bypass() {
    let Some(net) = Net::new() else { return };
    let options = format!("--config-net --no-splice -t none -u {IN}");
    let guest = net.pasta(User::Normal).with(&options).start();
    let _server = serve(&guest, &format!("[::]:{IN}"));
    for (address, gateway) in LOOPBACKS.into_iter().zip([GATEWAY4, GATEWAY6]) {
        let who = net.host.peer(&format!("udp-ask {} who", at(address, IN)));
        let seen: SocketAddr = canonical(&who).parse().expect("an address");
        assert_eq!(seen.ip().to_string(), gateway);
    }
}

/// An address and port, IPv4 in its own form.
fn canonical(who: &str) -> String {
    let at: SocketAddr = who.trim().parse().expect("an address");
    SocketAddr::new(at.ip().to_canonical(), at.port()).to_string()
}

/// What listens on loopback alone is reached with `--host-lo-to-ns-lo` only, and at the loopback
/// address that the client used.
#[test]
fn loopback_is_not_exposed() {
    for (options, expected) in [("", "WouldBlock"), ("--host-lo-to-ns-lo", "hello")] {
        let Some((guest, net)) = started(options) else { return };
        let _server = serve(&guest, &at("127.0.0.7", IN));
        let outcome = net.host.peer(&format!("udp-ask {} hello", at("127.0.0.7", IN)));
        assert_eq!(outcome.trim(), expected, "{options}");
    }
}

/// A port that is forwarded both ways between loopbacks leads nowhere, and not round for ever.
#[test]
fn a_port_forwarded_both_ways() {
    let Some(net) = Net::new() else { return };
    let options = format!("--config-net --host-lo-to-ns-lo -t {IN} -u {IN} -T {IN} -U {IN}");
    let guest = net.pasta(User::Normal).with(&options).start();
    let before = guest.descriptors();
    let places: [&dyn Place; 2] = [&net.host, &guest];
    for place in places {
        assert_eq!(place.peer(&format!("udp-ask {} hello", at("127.0.0.1", IN))).trim(), "WouldBlock");
        place.start_peer(&format!("who {}", at("127.0.0.1", IN))).finish();
    }
    assert!(guest.descriptors() <= before + STOCK, "{} were {before}", guest.descriptors());
}

/// A resolver in the namespace answers on the host's loopback.
#[test]
fn a_resolver_inside() {
    let Some(net) = Net::new().filter(|_| have(&["dnsmasq", "dig"])) else { return };
    let options = format!("--config-net -t {IN}:53 -u {IN}:53 -T none -U none");
    let guest = net.pasta(User::Normal).with(&options).start();
    let _server = resolver(&guest, &format!("{HOST4},{HOST6}"));
    for address in LOOPBACKS {
        assert_eq!(ask(&net.host, &format!("@{address} -p {IN}")), "203.0.113.7");
        assert_eq!(ask(&net.host, &format!("@{address} -p {IN} +tcp")), "203.0.113.7");
    }
}

/// The host's own resolver, at its usual address, serves the namespace at the same.
#[test]
fn a_resolver_outside() {
    let Some(net) = Net::new().filter(|_| have(&["dnsmasq", "dig"])) else { return };
    let _server = resolver(&net.host, "127.0.0.1,::1");
    let guest = net.pasta(User::Normal).with("--config-net -t none -u none -T 53 -U 53").start();
    for address in LOOPBACKS {
        assert_eq!(ask(&guest, &format!("@{address}")), "203.0.113.7");
        assert_eq!(ask(&guest, &format!("@{address} +tcp")), "203.0.113.7");
    }
}

fn resolver(place: &dyn Place, listen: &str) -> Process {
    let mut server = place.start(&format!(
        "dnsmasq --no-daemon --conf-file=/dev/null --no-resolv --no-hosts \
         --bind-interfaces --listen-address={listen} \
         --address=/example.test/203.0.113.7"
    ));
    server.wait_for("started");
    server
}

fn ask(place: &dyn Place, question: &str) -> String {
    place.run(&format!("dig +short +tries=1 +time=3 {question} example.test")).trim().to_owned()
}
