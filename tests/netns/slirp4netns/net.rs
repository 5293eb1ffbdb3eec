//! What network the guest has: the world, the host behind the gateway's address, and what options
//! change in that.

use passt_tests::dhcp::{udhcpc, wait_for_address};
use passt_tests::transfer::{MIB, at, download, exchange, upload};
use passt_tests::{FAR4, FAR6, GATEWAY4, HOST4, HOST6, Place as _, Process, eventually, have};

use crate::rig::{Rig, Slirp, original, udp_server};

/// The gateway, which is the host.
const GW: &str = "10.0.2.2";
/// The name server.
const DNS: &str = "10.0.2.3";
/// Second addresses of the host.
const OTHER4: &str = "192.0.2.3";
const OTHER6: &str = "2001:db8::3";

/// What the guest's server sees as the client at the gateway, or what connecting fails with.
fn who(rig: &Rig, to: &str) -> String {
    rig.guest.peer(&format!("who {to}")).trim().to_owned()
}

/// The same of a datagram, or why there is no answer.
fn asked(rig: &Rig, to: &str) -> String {
    let address = rig.guest.peer(&format!("udp-ask {to} who"));
    address.trim().rsplit_once(':').map_or(address.trim(), |(address, _)| address).to_owned()
}

/// How connecting ends, without the time that it takes.
fn connect(rig: &Rig, to: &str) -> String {
    let outcome = rig.guest.peer(&format!("connect {to}"));
    outcome.split_whitespace().next().expect("an outcome").to_owned()
}

/// Whether the guest gets an answer to a ping.
fn ping(rig: &Rig, to: &str) -> bool {
    rig.guest.start(&format!("ping -n -c 1 -W 3 {to}")).finish().status.success()
}

#[test]
fn tcp_and_udp_to_the_world() {
    let Some(rig) = Rig::new() else { return };
    let _tcp = [FAR4, GATEWAY4].map(|address| rig.net.peer.serve(&at(address, 5001)));
    let _udp = [FAR4, GATEWAY4].map(|address| udp_server(&rig.net.peer, &at(address, 6001)));
    let _slirp = rig.start("");
    for address in [FAR4, GATEWAY4] {
        exchange(&rig.guest, &at(address, 5001));
        assert_eq!(who(&rig, &at(address, 5001)), HOST4);
        assert_eq!(asked(&rig, &at(address, 6001)), HOST4);
        assert_eq!(connect(&rig, &at(address, 5009)), "ConnectionRefused");
        assert_eq!(asked(&rig, &at(address, 6009)), "ConnectionRefused");
        assert!(ping(&rig, address), "{address}");
    }
    rig.guest.peer(&format!("many {} 50", at(FAR4, 5001)));
    rig.guest.peer(&format!("udp-many {} 50", at(FAR4, 6001)));
}

#[test]
fn the_gateway_is_the_host() {
    let Some(rig) = Rig::new() else { return };
    let _servers = [rig.net.host.serve("127.0.0.1:5001"), udp_server(&rig.net.host, "127.0.0.1:6001")];
    for (options, gateway) in [("", GW), ("--cidr=10.0.135.128/25", "10.0.135.130"), ("--disable-dns", GW)] {
        let slirp = rig.start(options);
        exchange(&rig.guest, &at(gateway, 5001));
        assert_eq!(who(&rig, &at(gateway, 5001)), "127.0.0.1");
        assert_eq!(asked(&rig, &at(gateway, 6001)), "127.0.0.1");
        assert_eq!(connect(&rig, &at(gateway, 5009)), "ConnectionRefused");
        assert!(ping(&rig, gateway));
        slirp.stop();
    }
}

#[test]
fn the_host_is_out_of_reach_when_asked() {
    let Some(rig) = Rig::new() else { return };
    let _far = rig.net.peer.serve(&at(FAR4, 5001));
    let _servers = [rig.net.host.serve("127.0.0.1:5001"), udp_server(&rig.net.host, "127.0.0.1:6001")];
    for option in ["--disable-host-loopback", "--no-host-loopback"] {
        let slirp = rig.start(option);
        for port in [5001, 5009] {
            assert_eq!(connect(&rig, &at(GW, port)), "NetworkUnreachable", "{option}");
        }
        // Nothing comes back.
        assert_eq!(asked(&rig, &at(GW, 6001)), "WouldBlock", "{option}");
        assert!(ping(&rig, GW), "{option}");
        exchange(&rig.guest, &at(FAR4, 5001));
        slirp.stop();
    }
}

/// Nobody else is in the guest's network.
#[test]
fn other_addresses_of_the_network() {
    let Some(rig) = Rig::new() else { return };
    let _slirp = rig.start("");
    for address in ["10.0.2.1", "10.0.2.15", "10.0.2.50"] {
        assert_eq!(connect(&rig, &at(address, 5001)), "HostUnreachable", "{address}");
    }
    assert_eq!(connect(&rig, &at(DNS, 5001)), "NetworkUnreachable");
    let neighbours = rig.guest.run("ip neigh");
    // Ours is one station by both addresses.
    let station = if original() { "52:55:0a:00:02:03" } else { "52:55:0a:00:02:02" };
    assert!(neighbours.contains(&format!("10.0.2.3 dev tap0 lladdr {station}")), "{neighbours}");
    assert!(ping(&rig, GW) && ping(&rig, DNS));
    let neighbours = rig.guest.run("ip neigh");
    assert!(neighbours.contains("10.0.2.2 dev tap0 lladdr 52:55:0a:00:02:02"), "{neighbours}");
}

/// What a client of DHCP gets where the caller configures nothing.
#[test]
fn dhcp() {
    if !have(&["udhcpc"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    rig.net.host.resolv_conf("nameserver 192.0.2.53\n");
    for (options, lease) in [
        ("", "10.0.2.15/24 10.0.2.2 10.0.2.3"),
        ("--cidr=10.0.135.128/25", "10.0.135.143/25 10.0.135.130 10.0.135.131"),
        ("--cidr=172.16.0.0/12", "172.16.0.15/12 172.16.0.2 172.16.0.3"),
        ("--mtu=65520", "10.0.2.15/24 10.0.2.2 10.0.2.3"),
    ] {
        let words = rig.by_path().replace("tap0", "eth0");
        let slirp = rig.launch(&format!("{options} {words}"));
        rig.guest.ip("link set eth0 up");
        let said = udhcpc(&rig.net, &rig.guest);
        // Ours tells the MTU as well.
        let lease = format!("LEASE {lease}");
        assert!(said.lines().any(|line| line.starts_with(&lease)), "{options}: {said}");
        exchange(&rig.guest, &at(FAR4, 5001));
        slirp.stop();
    }
}

/// One after the other gets the next address, again what it had, or what it asks for.
#[test]
fn dhcp_for_several() {
    if !have(&["udhcpc"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let _slirp = rig.launch(&rig.by_path());
    for (client, options, lease) in
        [(1, "", 15), (2, "", 16), (1, "", 15), (3, "-r 10.0.2.20", 20), (4, "-r 10.0.2.99", 17), (2, "", 16)]
    {
        rig.guest.ip(&format!("link set tap0 down address 02:00:00:00:00:0{client}"));
        rig.guest.ip("link set tap0 up");
        let udhcpc = format!("udhcpc -i tap0 -f -q -n -t 5 -T 1 -s /bin/true {options}");
        let said = rig.guest.start(&udhcpc).finish().stderr;
        let line = format!("lease of 10.0.2.{lease} obtained from 10.0.2.2, lease time 86400");
        assert!(said.contains(&line), "{client}: {said}");
    }
}

/// The guest finds its address and route by itself.
#[test]
fn ipv6() {
    let Some(rig) = Rig::new() else { return };
    let _far = [FAR4, FAR6].map(|address| rig.net.peer.serve(&at(address, 5001)));
    let _udp = udp_server(&rig.net.peer, &at(FAR6, 6001));
    let _host = [rig.net.host.serve("[::1]:5001"), udp_server(&rig.net.host, "[::1]:6001")];
    let slirp = start_ipv6(&rig, "");
    let routes = rig.guest.run("ip -6 route");
    assert!(routes.contains("default via fe80::2 dev eth0 proto ra"), "{routes}");
    exchange(&rig.guest, &at(FAR6, 5001));
    exchange(&rig.guest, &at(FAR4, 5001));
    exchange(&rig.guest, "[fd00::2]:5001");
    assert_eq!(who(&rig, "[fd00::2]:5001"), "::1");
    assert_eq!(asked(&rig, "[fd00::2]:6001"), "[::1]");
    assert_eq!(asked(&rig, &at(FAR6, 6001)), format!("[{HOST6}]"));
    assert_eq!(connect(&rig, &at(FAR6, 5009)), "ConnectionRefused");
    assert!(ping(&rig, "fd00::2") && ping(&rig, "fd00::3"));
    slirp.stop();
    // Another network for IPv4 leaves this one as it is.
    let _slirp = start_ipv6(&rig, "--cidr=10.0.135.128/25 --disable-host-loopback");
    exchange(&rig.guest, &at(FAR6, 5001));
    assert_eq!(connect(&rig, "[fd00::2]:5001"), "NetworkUnreachable");
}

/// Starts it with IPv6 and waits for the guest's address, on a device of the name that the helper
/// for this knows.
fn start_ipv6(rig: &Rig, options: &str) -> Slirp {
    let words = rig.by_path().replace("tap0", "eth0");
    let slirp = rig.launch(&format!("-c -6 {options} {words}"));
    wait_for_address(&rig.guest, "inet6 fd00::");
    slirp
}

#[test]
fn no_ipv6_unless_asked() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    let _slirp = rig.start("");
    exchange(&rig.guest, &at(FAR4, 5001));
    assert_eq!(connect(&rig, &at(FAR6, 5001)), "NetworkUnreachable");
    assert!(!rig.guest.run("ip -6 addr show dev tap0").contains("fd00:"));
}

/// Where connections come from, by address or by an interface's first one; to the host as well.
#[test]
fn outbound_address() {
    let Some(rig) = Rig::new() else { return };
    rig.net.host.ip(&format!("addr add {OTHER4}/24 dev eth0"));
    let _tcp = [rig.net.peer.serve(&at(FAR4, 5001)), rig.net.host.serve("0.0.0.0:5001")];
    // One that listens at any address would answer from another than was asked.
    let _udp = [udp_server(&rig.net.peer, &at(FAR4, 6001)), udp_server(&rig.net.host, "127.0.0.1:6001")];
    for (option, seen) in [(HOST4, HOST4), (OTHER4, OTHER4), ("eth0", HOST4)] {
        let slirp = rig.start(&format!("--outbound-addr={option}"));
        for address in [FAR4, GW] {
            assert_eq!(who(&rig, &at(address, 5001)), seen, "{option} {address}");
            assert_eq!(asked(&rig, &at(address, 6001)), seen, "{option} {address}");
        }
        exchange(&rig.guest, &at(FAR4, 5001));
        slirp.stop();
    }
    let _slirp = rig.start("--outbound-addr=127.0.0.1");
    assert_eq!(who(&rig, &at(GW, 5001)), "127.0.0.1");
    assert_eq!(connect(&rig, &at(FAR4, 5001)), "NetworkUnreachable");
}

#[test]
fn outbound_address_of_ipv6() {
    let Some(rig) = Rig::new() else { return };
    rig.net.host.ip(&format!("addr add {OTHER6}/64 dev eth0 nodad"));
    let _tcp = rig.net.peer.serve(&at(FAR6, 5001));
    let _udp = udp_server(&rig.net.peer, &at(FAR6, 6001));
    for (option, seen) in [(HOST6, &[HOST6][..]), (OTHER6, &[OTHER6]), ("eth0", &[HOST6, OTHER6])] {
        // The original looks up another option's value here, and never finds the interface.
        if option == "eth0" && original() {
            continue;
        }
        let slirp = start_ipv6(&rig, &format!("--outbound-addr6={option}"));
        assert!(seen.contains(&who(&rig, &at(FAR6, 5001)).as_str()), "{option}");
        let address = asked(&rig, &at(FAR6, 6001));
        assert!(seen.iter().any(|seen| address == format!("[{seen}]")), "{option}: {address}");
        slirp.stop();
    }
}

#[test]
fn bulk_of_each_size() {
    let Some(rig) = Rig::new() else { return };
    let _tcp = [rig.net.peer.serve(&at(FAR4, 5001)), rig.net.host.serve("127.0.0.1:5001")];
    let _udp = udp_server(&rig.net.peer, &at(FAR4, 6001));
    for mtu in [1500, 65520] {
        let slirp = rig.start(&format!("--mtu={mtu}"));
        for address in [FAR4, GW] {
            upload(&rig.guest, &at(address, 5001), 64 * MIB);
            download(&rig.guest, &at(address, 5001), 64 * MIB);
        }
        // What fits the path to the peer whole.
        rig.guest.peer(&format!("udp-sweep {} 1472", at(FAR4, 6001)));
        slirp.stop();
    }
}

/// Starts dnsmasq on the host, which knows one name, with another answer at each address.
pub(crate) fn name_server(rig: &Rig, listen: &str, answer: &str) -> Process {
    let mut server = rig.net.host.start(&format!(
        "dnsmasq --keep-in-foreground --log-facility=- --conf-file=/dev/null --no-resolv --no-hosts \
         --bind-interfaces --listen-address={listen} --address=/name.test/{answer} --pid-file="
    ));
    server.wait_for("started");
    server
}

/// Waits until the name's address, asked for at the guest's name server, is this.
pub(crate) fn resolves(rig: &Rig, server: &str, transport: &str, answer: &str) {
    eventually(&format!("{server} {transport}: {answer}"), || {
        let dig = format!("dig {transport} +short +tries=1 +time=1 @{server} name.test");
        (rig.guest.start(&dig).finish().stdout.trim() == answer).then_some(())
    });
}
