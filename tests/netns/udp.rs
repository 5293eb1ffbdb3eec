//! UDP from the guest: every size, errors, source ports.

use passt_tests::transfer::at;
use passt_tests::{FAR4, FAR6, GATEWAY4, HOST4, HOST6, Net, Place as _, User};

/// Datagrams of 1 byte up to what fits a frame are echoed whole.
#[test]
fn every_size_is_echoed() {
    let Some(net) = Net::new() else { return };
    let _servers = [FAR4, FAR6].map(|address| udp_server(&net, address));
    for mtu in [65_520, 1500, 1280] {
        let guest = net.pasta(User::Normal).with(&format!("--config-net --mtu {mtu}")).start();
        for (address, headers) in [(FAR4, 28), (FAR6, 48)] {
            guest.peer(&format!("udp-sweep {} {}", at(address, 6001), mtu - headers));
        }
    }
}

/// The host's ICMP error reaches the guest's socket.
#[test]
fn a_closed_port_is_refused() {
    let Some(net) = Net::new() else { return };
    let guest = net.pasta(User::Normal).with("--config-net").start();
    for address in [FAR4, FAR6] {
        let outcome = guest.peer(&format!("udp-ask {} hello", at(address, 9)));
        assert_eq!(outcome.trim(), "ConnectionRefused", "{address}");
    }
}

/// The server sees the host's address, and the guest's own port where it is free:
/// that the other family uses the same number makes it no less so.
#[test]
fn the_source_port_is_kept() {
    let Some(net) = Net::new() else { return };
    let _servers = [FAR4, FAR6].map(|address| udp_server(&net, address));
    let guest = net.pasta(User::Normal).with("--config-net").start();
    guest.sysctl("net.ipv4.ip_local_port_range=41000 41000");
    for (address, host) in [(FAR4, HOST4), (FAR6, HOST6)] {
        let seen = guest.peer(&format!("udp-ask {} who", at(address, 6001)));
        assert_eq!(seen.trim(), at(host, 41_000));
    }
}

/// One port of the guest is one socket, however many it sends to, and has the same number for all.
#[test]
fn ten_thousand_destinations() {
    let Some(net) = Net::new() else { return };
    // All of these are the peer's.
    net.peer.ip("route add local 10.9.0.0/16 dev lo");
    net.host.ip(&format!("route add 10.9.0.0/16 via {GATEWAY4}"));
    let all = net.peer.listening("udp-gather 0.0.0.0:6001 10000");
    let guest = net.pasta(User::Normal).with("--config-net").start();
    let before = guest.descriptors();
    let _scatter = guest.start_peer("udp-scatter 10.9.0.1 10000 6001 41000");
    let seen = all.succeed();
    assert_eq!(seen.lines().last(), Some(at(HOST4, 41_000).as_str()));
    let now = guest.descriptors();
    assert!(now <= before + 1, "{before} descriptors before, now {now}");
}

fn udp_server(net: &Net, address: &str) -> passt_tests::Process {
    net.peer.listening(&format!("udp-serve {}", at(address, 6001)))
}
