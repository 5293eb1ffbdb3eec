//! The services that configure a guest which is left to configure itself.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use passt_tests::transfer::{at, exchange};
use passt_tests::{
    FAR4, FAR6, GATEWAY4, GATEWAY6, Guest, HOST4, HOST6, Net, Place as _, User, eventually, have,
};

/// A guest whose interface is up, and nothing else.
fn unconfigured(net: &Net, options: &str) -> Guest {
    let guest = net.pasta(User::Normal).with(options).start();
    guest.run("ip link set eth0 up");
    guest
}

/// A script for DHCP clients that configures the interface and says `LEASE`.
fn script(net: &Net, text: &str) -> PathBuf {
    let path = net.dir().join("script");
    std::fs::write(&path, format!("#!/bin/sh\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin\n{text}"))
        .expect("script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("script");
    path
}

#[test]
fn udhcpc() {
    let Some(net) = Net::new() else { return };
    if !have(&["udhcpc"]) {
        return;
    }
    let _server = net.peer.serve(&at(FAR4, 5001));
    let guest = unconfigured(&net, "--mtu 1400 --dhcp-dns -D 192.0.2.53 --dhcp-search -S example.test");
    let script = script(
        &net,
        "[ \"$1\" = bound ] || exit 0\n\
         ip addr add $ip/$mask dev $interface\n\
         ip route add default via $router dev $interface\n\
         echo LEASE $ip/$mask $router $dns $mtu $search\n",
    );
    let options = "-i eth0 -f -q -n -t 5 -T 1 -O mtu -O search";
    let out = guest.run(&format!("udhcpc {options} -s {}", script.display()));
    let expected = format!("LEASE {HOST4}/24 {GATEWAY4} 192.0.2.53 1400 example.test");
    assert!(out.contains(&expected), "{out}");
    exchange(&guest, &at(FAR4, 5001));
}

const DHCLIENT_SCRIPT: &str = "case $reason in\n\
    BOUND)\n\
    ip addr add $new_ip_address/$new_subnet_mask dev $interface\n\
    ip route add default via $new_routers dev $interface\n\
    echo LEASE $new_ip_address $new_subnet_mask $new_routers $new_domain_name_servers;;\n\
    BOUND6)\n\
    ip -6 addr add $new_ip6_address/$new_ip6_prefixlen dev $interface nodad\n\
    echo LEASE $new_ip6_address $new_dhcp6_name_servers;;\n\
    esac\nexit 0\n";

/// Runs dhclient until it has a lease, and returns what the script said.
fn dhclient(net: &Net, guest: &Guest, family: &str) -> String {
    let script = script(net, DHCLIENT_SCRIPT);
    let dir = net.dir().display();
    let files = format!("-sf {} -lf {dir}/leases -pf {dir}/dhclient.pid -cf /dev/null", script.display());
    guest.start(&format!("dhclient {family} -d {files} eth0")).wait_for("LEASE")
}

#[test]
fn dhclient_ipv4() {
    let Some(net) = Net::new() else { return };
    if !have(&["dhclient"]) {
        return;
    }
    let _server = net.peer.serve(&at(FAR4, 5001));
    let guest = unconfigured(&net, "--dhcp-dns -D 192.0.2.53");
    let lease = dhclient(&net, &guest, "-4");
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
    wait_for_address(&guest, "scope link");
    let lease = dhclient(&net, &guest, "-6");
    assert_eq!(lease, format!("LEASE {HOST6} 2001:db8::53"));
    exchange(&guest, &at(FAR6, 5001));
}

/// An IPv6 address with this property that may be used already.
fn wait_for_address(guest: &Guest, property: &str) -> String {
    eventually(property, || {
        let addresses = guest.run("ip -o -6 addr show dev eth0");
        let usable = |line: &&str| line.contains(property) && !line.contains("tentative");
        addresses.lines().find(usable).map(str::to_owned)
    })
}

#[test]
fn slaac_by_the_kernel() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR6, 5001));
    let guest = unconfigured(&net, "--mtu 1400");
    let address = wait_for_address(&guest, "scope global");
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
    let guest = unconfigured(&net, "--no-dhcp");
    let finished = guest.start("udhcpc -i eth0 -f -q -n -t 2 -T 1 -s /bin/true").finish();
    assert!(!finished.status.success(), "{finished:?}");
}
