//! Hosts with several addresses, or with one family only: the guest is reached at all it has, by
//! both families, and what stands for somebody has a way.

use passt_tests::transfer::{at, exchange};
use passt_tests::{FAR4, FAR6, GATEWAY4, Guest, HOST4, HOST6, Net, Place, Process, User, eventually, have};

const SECOND4: &str = "203.0.113.130";
const SECOND6: &str = "2001:db8:7::2";
/// The peer's address in the second network.
const NEAR4: &str = "203.0.113.129";
const NEAR6: &str = "2001:db8:7::1";

/// Servers of both protocols in the guest, for both families.
fn serve(guest: &Guest) -> [Process; 2] {
    let udp = guest.listening("udp-serve [::]:5001");
    [guest.serve("[::]:5001"), udp]
}

fn start(net: &Net, options: &str) -> Guest {
    let options = format!("--config-net -T none -U none {options}");
    net.pasta(User::Normal).with(&options).start()
}

/// As whom the guest's servers see a client at `from` that asks for `to`.
fn seen(place: &impl Place, from: &str, to: &str) -> String {
    place.peer(&format!("seen {from} {}", at(to, 5001))).trim().to_owned()
}

/// The host's link-local address, by which the guest sees it in IPv6.
fn link_local(net: &Net) -> String {
    let shown = net.host.run("ip -o -6 addr show dev eth0 scope link");
    let (_, behind) = shown.split_once("inet6 ").expect("an address");
    behind.split('/').next().expect("an address").to_owned()
}

fn with_second_network(net: &Net) {
    for (place, v4, v6) in [(&net.host, SECOND4, SECOND6), (&net.peer, NEAR4, NEAR6)] {
        place.ip(&format!("addr add {v4}/25 dev eth0"));
        place.ip(&format!("addr add {v6}/64 dev eth0 nodad"));
    }
}

/// Clients on the host and beyond it, from every address to every address: each is served, and seen
/// as itself, or as us where it has an address of the guest's.
#[test]
fn all_addresses_are_the_guests() {
    let Some(net) = Net::new() else { return };
    with_second_network(&net);
    let guest = start(&net, "-t 5001 -u 5001");
    let _servers = serve(&guest);
    let ours = link_local(&net);
    for to in [HOST4, SECOND4] {
        for from in [HOST4, SECOND4] {
            assert_eq!(seen(&net.host, from, to), format!("{GATEWAY4} {GATEWAY4}"), "{from} {to}");
        }
        for from in [GATEWAY4, NEAR4, FAR4] {
            assert_eq!(seen(&net.peer, from, to), format!("{from} {from}"), "{from} {to}");
        }
    }
    for to in [HOST6, SECOND6] {
        for from in [HOST6, SECOND6] {
            assert_eq!(seen(&net.host, from, to), format!("{ours} {ours}"), "{from} {to}");
        }
        for from in [NEAR6, FAR6] {
            assert_eq!(seen(&net.peer, from, to), format!("{from} {from}"), "{from} {to}");
        }
    }
}

/// What comes to one of the guest's addresses arrives at that one: servers that listen at one alone.
#[test]
fn each_address_has_its_own_servers() {
    let Some(net) = Net::new() else { return };
    with_second_network(&net);
    let guest = start(&net, "-t 5001 -u 5001");
    let mut servers = Vec::new();
    for address in [SECOND4, SECOND6] {
        servers.push(guest.serve(&at(address, 5001)));
        let udp = guest.listening(&format!("udp-serve {}", at(address, 5001)));
        servers.push(udp);
    }
    for (from, own, first) in [(FAR4, SECOND4, HOST4), (FAR6, SECOND6, HOST6)] {
        assert_eq!(seen(&net.peer, from, own), format!("{from} {from}"));
        assert!(!seen(&net.peer, from, first).contains(from), "{first} has none");
    }
    for (loopback, own) in [("127.0.0.1", SECOND4), ("::1", SECOND6)] {
        let seen = seen(&net.host, loopback, own);
        assert!(seen.split(' ').all(|part| part.parse::<std::net::IpAddr>().is_ok()), "{seen}");
    }
}

/// A gateway that was named is who clients on the host are seen as.
#[test]
fn a_gateway_that_was_named() {
    let Some(net) = Net::new() else { return };
    let guest = start(&net, "-t 5001 -u 5001 --no-map-gw -g 192.0.2.99 -g 2001:db8::99");
    let _servers = serve(&guest);
    for (own, gateway) in [(HOST4, "192.0.2.99"), (HOST6, "2001:db8::99")] {
        assert_eq!(seen(&net.host, own, own), format!("{gateway} {gateway}"));
    }
}

/// With IPv4 and link-local IPv6 alone, and the other way round, the host's own programs and
/// neighbours are served by either.
#[test]
fn a_family_without_a_way_beyond() {
    for (flush, own) in [("-6 addr flush dev eth0 scope global", HOST4), ("-4 addr flush dev eth0", HOST6)] {
        let Some(net) = Net::new() else { return };
        net.host.ip(flush);
        let guest = start(&net, "-t 5001 -u 5001");
        let _servers = serve(&guest);
        for address in ["127.0.0.1", "::1", own] {
            let seen = seen(&net.host, address, address);
            assert!(seen.split(' ').all(|part| part.parse::<std::net::IpAddr>().is_ok()), "{flush}: {seen}");
        }
        let far = if own == HOST4 { FAR4 } else { FAR6 };
        assert_eq!(seen(&net.peer, far, own), format!("{far} {far}"));
    }
}

/// Addresses that are asked for count on a host without their family.
#[test]
fn addresses_of_a_family_that_the_host_lacks() {
    let Some(net) = Net::new() else { return };
    net.host.ip("-6 addr flush dev eth0 scope global");
    net.host.ip("-6 route flush dev eth0");
    let _server = net.host.serve("[::1]:5002");
    let guest = start(&net, "-a fd00::100 -g fd00::2 --map-host-loopback fd00::3");
    assert!(guest.run("ip -o -6 addr").contains("fd00::100"));
    exchange(&guest, "[fd00::3]:5002");
}

/// A resolver of either family, on loopback or not, is behind a name of the other.
#[test]
fn resolvers_of_the_other_family() {
    let Some(net) = Net::new() else { return };
    if !have(&["dnsmasq", "dig"]) {
        return;
    }
    let dnsmasq = |listen: &str| {
        let mut server = net.host.start(&format!(
            "dnsmasq --keep-in-foreground --log-facility=- --conf-file=/dev/null --no-resolv --no-hosts \
             --bind-interfaces --user=root --pid-file= --listen-address={listen} --address=/example.test/203.0.113.7"
        ));
        server.wait_for("started");
        server
    };
    let _servers = dnsmasq("127.0.0.1,::1");
    for (resolv, options, name) in [
        ("nameserver ::1\n", "--dns-forward 10.9.9.9", "10.9.9.9"),
        ("nameserver 127.0.0.1\n", "--dns-forward fd00::53", "fd00::53"),
        ("", "--dns-forward 10.9.9.9", "10.9.9.9"),
        ("nameserver 0.0.0.0\n", "--dns-forward 10.9.9.9", "10.9.9.9"),
        ("nameserver ::1\n", "-4", GATEWAY4),
    ] {
        net.host.resolv_conf(resolv);
        let guest = start(&net, options);
        let out = guest.run(&format!("dig +short +tries=1 +time=3 @{name} example.test"));
        assert_eq!(out.trim(), "203.0.113.7", "{resolv} {options}");
    }
}

/// Names that no route of the host leads to are reached on a host without a default route.
#[test]
fn names_have_a_way() {
    let Some(net) = Net::new() else { return };
    net.host.ip("route del default");
    net.host.ip("-6 route del default");
    let _servers = [net.host.serve("127.0.0.1:5001"), net.host.serve("[::1]:5001")];
    let guest = start(&net, "-i eth0 --map-host-loopback 10.9.9.9 --map-host-loopback fd00::9");
    exchange(&guest, "10.9.9.9:5001");
    exchange(&guest, "[fd00::9]:5001");
}

/// `localhost` is served by whichever family its service has, both ways.
#[test]
fn localhost_by_either_family() {
    let Some(net) = Net::new() else { return };
    let options = "--config-net -t 5001 -T 5002 -u none -U none --host-lo-to-ns-lo";
    let guest = net.pasta(User::Normal).with(options).start();
    let _inside = guest.serve("127.0.0.1:5001");
    let _outside = net.host.serve("[::1]:5002");
    exchange(&net.host, "[::1]:5001");
    exchange(&net.host, "127.0.0.1:5001");
    exchange(&guest, "127.0.0.1:5002");
    exchange(&guest, "[::1]:5002");
}

/// What debugging shows of a start, of the guest's questions, and of connections.
#[test]
fn debugging_tells_what_happened() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    let options = "--config-net --debug -t 5001 -u none -T none -U none --dns-forward 192.0.2.53";
    let guest = net.pasta(User::Normal).with(options).start();
    exchange(&guest, &at(FAR4, 5001));
    guest.run("ip neigh flush dev eth0");
    exchange(&guest, &at(FAR4, 5001));
    let text = eventually("everything is told", || {
        let text = guest.pasta.stderr();
        text.contains("ended").then_some(text)
    });
    for part in [
        "Rule: HOST TCP */5001 to port 5001",
        "Name: 192.0.2.53 is the resolver 192.0.2.53",
        "Name: 192.0.2.1 is the host's loopback",
        "who has 192.0.2.1: answered",
        &format!("{FAR4}:5001: begun, on the host {HOST4}:"),
    ] {
        assert!(text.contains(part), "no {part}: {text}");
    }
    assert!(guest.stop().status.success());
}

/// An address that is looked for elsewhere on the link counts.
#[test]
fn a_tentative_address_counts() {
    let Some(net) = Net::new() else { return };
    net.host.ip("-6 addr flush dev eth0 scope global");
    net.host.ip("addr add 2001:db8::2/64 dev eth0");
    let guest = start(&net, "");
    assert!(guest.run("ip -o -6 addr").contains("2001:db8::2"));
}
