//! The services that configure a guest which is left to configure itself.

use std::time::Duration;

use passt_tests::transfer::{at, exchange};
use passt_tests::{
    FAR4, FAR6, GATEWAY4, GATEWAY6, Guest, HOST4, HOST6, Net, Place as _, User, dhcp, eventually, have,
};

/// A guest whose interface is up, and nothing else.
fn unconfigured(net: &Net, options: &str) -> Guest {
    let guest = net.pasta(User::Normal).with(options).start();
    guest.run("ip link set eth0 up");
    guest
}

#[test]
fn udhcpc() {
    let Some(net) = Net::new() else { return };
    if !have(&["udhcpc"]) {
        return;
    }
    let _server = net.peer.serve(&at(FAR4, 5001));
    let guest = unconfigured(&net, "--mtu 1400 --dhcp-dns -D 192.0.2.53 --dhcp-search -S example.test");
    let out = dhcp::udhcpc(&net, &guest);
    let expected = format!("LEASE {HOST4}/24 {GATEWAY4} 192.0.2.53 1400 example.test");
    assert!(out.contains(&expected), "{out}");
    exchange(&guest, &at(FAR4, 5001));
}

#[test]
fn dhclient_ipv4() {
    let Some(net) = Net::new() else { return };
    if !have(&["dhclient"]) {
        return;
    }
    let _server = net.peer.serve(&at(FAR4, 5001));
    let guest = unconfigured(&net, "--dhcp-dns -D 192.0.2.53");
    let (lease, _) = dhcp::dhclient(&net, &guest, "-4");
    assert_eq!(lease, format!("LEASE {HOST4} 255.255.255.0 {GATEWAY4} 192.0.2.53"));
    exchange(&guest, &at(FAR4, 5001));
}

#[test]
fn dhclient_ipv6() {
    let Some(net) = Net::new() else { return };
    if !have(&["dhclient"]) {
        return;
    }
    let _server = net.peer.serve(&at(FAR6, 5001));
    let guest = unconfigured(&net, "--dhcp-dns -D 2001:db8::53");
    dhcp::wait_for_address(&guest, "scope link");
    let (lease, _) = dhcp::dhclient(&net, &guest, "-6");
    assert_eq!(lease, format!("LEASE {HOST6} 2001:db8::53"));
    exchange(&guest, &at(FAR6, 5001));
}

#[test]
fn slaac_by_the_kernel() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR6, 5001));
    let guest = unconfigured(&net, "--mtu 1400");
    let address = dhcp::wait_for_address(&guest, "scope global");
    assert!(address.contains("inet6 2001:db8:") && address.contains("/64"), "{address}");
    let routes = guest.run("ip -6 route show default");
    assert!(routes.contains("via fe80:") && routes.contains("proto ra"), "{routes}");
    exchange(&guest, &at(FAR6, 5001));
}

/// The kernel inside resolves its gateways, and anything else on the link.
#[test]
fn neighbours_are_resolved() {
    let Some(net) = Net::new() else { return };
    let guest = net.pasta(User::Normal).with("--config-net").start();
    for address in [GATEWAY4, "192.0.2.77", GATEWAY6, "2001:db8::77"] {
        guest.peer(&format!("udp-ask {} x", at(address, 9)));
        eventually(&format!("the MAC of {address}"), || {
            guest.run(&format!("ip neigh show {address}")).contains("lladdr").then_some(())
        });
    }
}

#[test]
fn services_can_be_switched_off() {
    let Some(net) = Net::new() else { return };
    if !have(&["udhcpc"]) {
        return;
    }
    for (options, lease, address) in [
        ("", true, true),
        ("--no-dhcp", false, true),
        ("--no-ra", true, false),
        ("--no-ndp", true, false),
        ("--no-dhcp --no-ndp", false, false),
    ] {
        let guest = unconfigured(&net, options);
        let finished = guest.start("udhcpc -i eth0 -f -q -n -t 2 -T 1 -s /bin/true").finish();
        assert_eq!(finished.status.success(), lease, "{options}: {finished:?}");
        if address {
            let made = dhcp::wait_for_address(&guest, "scope global");
            assert!(made.contains("inet6 2001:db8:"), "{options}: {made}");
        } else {
            // The kernel asks three times, the last time 8 s after the first; udhcpc took 2 of
            // them.
            std::thread::sleep(Duration::from_secs(8));
            let made = guest.run("ip -o -6 addr show dev eth0 scope global");
            assert_eq!(made, "", "{options}");
        }
    }
}

/// The guest's kernel may have any address that nobody has, and hears that ours is taken.
#[test]
fn duplicate_addresses_are_detected() {
    let Some(net) = Net::new() else { return };
    let guest = unconfigured(&net, "");
    dhcp::wait_for_address(&guest, "scope global");
    let routes = guest.run("ip -6 route show default");
    let ours = routes.split_whitespace().nth(2).expect("a router").to_owned();
    for (address, is_taken) in [("2001:db8::77", false), (ours.as_str(), true)] {
        guest.run(&format!("ip addr add {address}/64 dev eth0"));
        let state = eventually("the end of duplicate address detection", || {
            let state = guest.run(&format!("ip -o -6 addr show dev eth0 to {address}"));
            (!state.contains("tentative") || state.contains("dadfailed")).then_some(state)
        });
        assert_eq!(state.contains("dadfailed"), is_taken, "{state}");
    }
}

/// Neighbours of the host have their own link-layer addresses in the guest, which follow.
#[test]
fn neighbours_of_the_host_are_followed() {
    let Some(net) = Net::new() else { return };
    let addresses = ["192.0.2.77", "2001:db8::77"];
    let replace = |mac: &str| {
        for address in addresses {
            net.host.ip(&format!("neigh replace {address} lladdr {mac} nud permanent dev eth0"));
        }
    };
    let _server = net.peer.serve(&at(GATEWAY4, 5001));
    replace("02:00:00:00:00:77");
    let guest = net.pasta(User::Normal).with("--config-net --no-map-gw").start();
    let knows = |address: &str, mac: &str| {
        eventually(&format!("{mac} of {address}"), || {
            let known = guest.run(&format!("ip neigh show {address}"));
            known.contains(&format!("lladdr {mac}")).then_some(())
        });
    };
    for address in addresses {
        guest.peer(&format!("udp-ask {} x", at(address, 9)));
        knows(address, "02:00:00:00:00:77");
    }
    // While the program runs: the guest is told.
    replace("02:00:00:00:00:78");
    for address in addresses {
        knows(address, "02:00:00:00:00:78");
    }
    // The router: what the host's kernel found out, and what goes there arrives.
    exchange(&guest, &at(GATEWAY4, 5001));
    let router = net.host.run(&format!("ip neigh show {GATEWAY4}"));
    let mac = router.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
    let mac = mac.expect("the router's").to_owned();
    guest.run("ip neigh flush dev eth0");
    exchange(&guest, &at(GATEWAY4, 5001));
    knows(GATEWAY4, &mac);
}
