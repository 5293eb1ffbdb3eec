//! What the guest is given of the host's network, and hosts that have little.

use passt_tests::transfer::{at, exchange};
use passt_tests::{FAR4, FAR6, GATEWAY4, GATEWAY6, HOST4, HOST6, Net, Place as _, User};

#[test]
fn config_net_copies_the_template() {
    let Some(net) = Net::new() else { return };
    net.host.ip("addr add 192.0.2.130/25 dev eth0");
    net.host.ip(&format!("route add 203.0.113.0/24 via {GATEWAY4} metric 50"));
    for user in User::BOTH {
        let guest = net.pasta(user).with("--config-net").start();
        let (addresses, routes) = (guest.run("ip -o addr show dev eth0"), guest.run("ip route"));
        for part in [&format!("inet {HOST4}/24"), "inet 192.0.2.130/25", &format!("inet6 {HOST6}/64")] {
            assert!(addresses.contains(part), "{part}: {addresses}");
        }
        assert!(!addresses.contains("tentative"), "{addresses}");
        assert!(routes.contains(&format!("default via {GATEWAY4} dev eth0")), "{routes}");
        let route = format!("203.0.113.0/24 via {GATEWAY4} dev eth0");
        assert!(routes.lines().any(|line| line.contains(&route) && line.contains("metric 50")), "{routes}");
        assert!(guest.run("ip -6 route").contains(&format!("default via {GATEWAY6} dev eth0")));
        assert!(guest.run("ip link show lo").contains("LOWER_UP"));
    }
}

/// In a network of its own the guest forms an IPv6 address, which is usable when a command starts.
#[test]
fn a_formed_address_is_not_tentative() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR6, 5001));
    let guest = net.pasta(User::Normal).with("--config-net --subnet 10.9.8.0/24").start();
    let addresses = guest.run("ip -o -6 addr show dev tap0 scope global");
    assert!(addresses.contains("inet6 fd00::") && !addresses.contains("tentative"), "{addresses}");
    exchange(&guest, &at(FAR6, 5001));
    let addresses = guest.run("ip -o -6 addr show dev tap0 scope global");
    assert_eq!(addresses.matches("inet6 fd00::").count(), 1, "{addresses}");
}

#[test]
fn the_mtu_is_65520_or_what_is_asked() {
    let Some(net) = Net::new() else { return };
    for (option, mtu) in [("", "mtu 65520 "), ("--mtu 1280", "mtu 1280 ")] {
        let guest = net.pasta(User::Normal).with("--config-net").with(option).start();
        let link = guest.run("ip link show eth0");
        assert!(link.contains(mtu), "{link}");
    }
}

#[test]
fn options_override_the_template() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    let options =
        "--address 10.9.8.7 --netmask 24 --gateway 10.9.8.1 --ns-ifname tap9 --ns-mac-addr 02:00:00:00:00:09";
    let guest = net.pasta(User::Normal).with("--config-net").with(options).start();
    let (addresses, link) = (guest.run("ip -o -4 addr show dev tap9"), guest.run("ip link show tap9"));
    assert!(addresses.contains("inet 10.9.8.7/24") && !addresses.contains(HOST4), "{addresses}");
    assert!(link.contains("02:00:00:00:00:09"), "{link}");
    assert!(guest.run("ip route").contains("default via 10.9.8.1 dev tap9"));
    exchange(&guest, &at(FAR4, 5001));
}

/// As cloud hosts have it: a /32 address, and a gateway outside of it.
#[test]
fn a_gateway_off_the_link() {
    let Some(net) = Net::new() else { return };
    net.host.ip("-4 addr flush dev eth0");
    net.host.ip(&format!("addr add {HOST4}/32 dev eth0"));
    net.host.ip("route add default via 203.0.113.1 dev eth0 onlink");
    net.peer.ip("addr add 203.0.113.1/32 dev eth0");
    let _server = net.peer.serve(&at(FAR4, 5001));
    let guest = net.pasta(User::Normal).with("--config-net").start();
    let routes = guest.run("ip route");
    assert!(routes.contains("default via 203.0.113.1 dev eth0"), "{routes}");
    assert!(guest.run("ip -o -4 addr").contains(&format!("inet {HOST4}/32")));
    exchange(&guest, &at(FAR4, 5001));
}

/// A default route with no gateway, and one over two of them.
#[test]
fn unusual_default_routes() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    net.host.ip("route replace default dev eth0");
    // Nobody answers ARP for the far server on the link but the peer itself.
    let guest = net.pasta(User::Normal).with("--config-net").start();
    assert!(guest.run("ip route").contains("default dev eth0"));
    exchange(&guest, &at(FAR4, 5001));
    net.peer.ip("addr add 192.0.2.9/24 dev eth0");
    net.host.ip(&format!("route replace default nexthop via {GATEWAY4} nexthop via 192.0.2.9"));
    let guest = net.pasta(User::Normal).with("--config-net").start();
    assert!(guest.run("ip route").contains(GATEWAY4));
    exchange(&guest, &at(FAR4, 5001));
}

#[test]
fn no_network_means_local_mode() {
    let Some(net) = Net::isolated() else { return };
    let _server = net.host.serve("127.0.0.1:5001");
    let guest = net.pasta(User::Normal).with("--config-net").start();
    let (addresses, routes) = (guest.run("ip -o addr"), guest.run("ip route"));
    assert!(addresses.contains("tap0") && addresses.contains("inet 169.254.2.1/16"), "{addresses}");
    assert!(routes.contains("default via 169.254.2.2 dev tap0"), "{routes}");
    exchange(&guest, "169.254.2.2:5001");
}

#[test]
fn a_host_without_ipv6() {
    let Some(net) = Net::new() else { return };
    net.host.sysctl("net.ipv6.conf.all.disable_ipv6=1");
    let _server = net.peer.serve(&at(FAR4, 5001));
    let guest = net.pasta(User::Normal).with("--config-net").start();
    assert!(!guest.run("ip -o -6 addr").contains("2001:"));
    exchange(&guest, &at(FAR4, 5001));
}

#[test]
fn a_host_with_only_ipv6() {
    let Some(net) = Net::new() else { return };
    net.host.ip("-4 addr flush dev eth0");
    let _server = net.peer.serve(&at(FAR6, 5001));
    let guest = net.pasta(User::Normal).with("--config-net").start();
    let addresses = guest.run("ip -o addr show dev eth0");
    assert!(addresses.contains(HOST6) && !addresses.contains("inet 192"), "{addresses}");
    exchange(&guest, &at(FAR6, 5001));
}

#[test]
fn one_family_when_asked() {
    let Some(net) = Net::new() else { return };
    for (option, present, absent) in [("--ipv4-only", HOST4, HOST6), ("--ipv6-only", HOST6, HOST4)] {
        let guest = net.pasta(User::Normal).with("--config-net").with(option).start();
        let addresses = guest.run("ip -o addr show dev eth0");
        assert!(addresses.contains(present) && !addresses.contains(absent), "{option}: {addresses}");
    }
}

/// Podman's and rootless Docker's command lines are accepted and do what they say.
#[test]
fn rootlesskit_options() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    let options = "--stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 \
                   --gateway=10.0.2.2 --dns-forward=10.0.2.3 --no-map-gw --ipv4-only --tcp-ports=none --udp-ports=none";
    let guest = net.pasta(User::Normal).with(options).start();
    let addresses = guest.run("ip -o addr show dev tap0");
    assert!(addresses.contains("inet 10.0.2.100/24"), "{addresses}");
    exchange(&guest, &at(FAR4, 5001));
}

/// What frames can't be recorded in is named, and the guest has its network.
#[test]
fn a_capture_file_that_cannot_be_had() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    for (path, reason) in [
        ("/no/such/directory/frames", "No such file or directory"),
        ("/dev/full", "No space left on device"),
        ("/etc/frames", "Permission denied"),
    ] {
        let guest = net.pasta(User::Normal).with("--config-net --pcap").with(path).start();
        exchange(&guest, &at(FAR4, 5001));
        let told = guest.stop().stderr;
        let starts = told.starts_with(&format!("Couldn't record frames in {path}: {reason}"));
        assert!(starts && told.lines().count() == 1, "{told}");
    }
}

/// An interface that can't be had for outgoing connections is named, and they go by another.
#[test]
fn an_outbound_interface_that_is_not_there() {
    let Some(net) = Net::new() else { return };
    let _servers = [FAR4, FAR6].map(|server| net.peer.serve(&at(server, 5001)));
    let options = "--config-net --outbound-if4 missing0 --outbound-if6 eth0";
    let guest = net.pasta(User::Normal).with(options).start();
    for server in [FAR4, FAR6] {
        exchange(&guest, &at(server, 5001));
    }
    assert!(guest.run("ip -4 route").contains(&format!("default via {GATEWAY4} dev eth0")));
    assert_eq!(
        guest.stop().stderr,
        "Outgoing IPv4 connections can't be bound to interface missing0, and go by any: No such device\n"
    );
}
