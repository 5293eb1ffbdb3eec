//! Connections into the namespace: `-t` and `-u` in their plain forms.

use passt_tests::transfer::{at, exchange};
use passt_tests::{GATEWAY4, GATEWAY6, Guest, HOST4, HOST6, Net, Place as _, User};

const OTHER4: &str = "192.0.2.3";

fn start(options: &str) -> Option<(Guest, Net)> {
    let net = Net::new()?;
    net.host.ip(&format!("addr add {OTHER4}/24 dev eth0"));
    let guest = net.pasta(User::Normal).with("--config-net -T none -U none").with(options).start();
    Some((guest, net))
}

fn udp_server(guest: &Guest, address: &str) -> passt_tests::Process {
    let mut server = guest.start_peer(&format!("udp-serve {address}"));
    server.wait_for("LISTENING");
    server
}

#[test]
fn tcp_port() {
    let Some((guest, net)) = start("-t 5001 -u none") else { return };
    let _server = guest.serve("[::]:5001");
    for address in [HOST4, OTHER4, HOST6] {
        exchange(&net.peer, &at(address, 5001));
    }
}

#[test]
fn the_server_sees_who_connects() {
    let Some((guest, net)) = start("-t 5001 -u 6001") else { return };
    let _servers = [guest.serve("[::]:5001"), udp_server(&guest, "[::]:6001")];
    for (address, client) in [(HOST4, GATEWAY4), (HOST6, GATEWAY6)] {
        assert_eq!(net.peer.peer(&format!("who {}", at(address, 5001))).trim(), client);
        let seen = net.peer.peer(&format!("udp-ask {} who", at(address, 6001)));
        assert!(seen.contains(client), "{seen}");
    }
}

#[test]
fn tcp_port_to_another() {
    let Some((guest, net)) = start("-t 5001:7001 -u none") else { return };
    let _server = guest.serve("[::]:7001");
    for address in [HOST4, HOST6] {
        exchange(&net.peer, &at(address, 5001));
    }
}

#[test]
fn tcp_address_and_port() {
    let Some((guest, net)) = start(&format!("-t {HOST4}/5001,5002:7002 -u none")) else { return };
    let _servers = [guest.serve("[::]:5001"), guest.serve("[::]:7002")];
    exchange(&net.peer, &at(HOST4, 5001));
    exchange(&net.peer, &at(HOST4, 5002));
    for address in [OTHER4, HOST6] {
        let outcome = net.peer.peer(&format!("connect {}", at(address, 5001)));
        assert!(outcome.starts_with("ConnectionRefused"), "{address}: {outcome}");
    }
}

/// Nobody listens inside: the client outside is refused or reset, not left waiting.
#[test]
fn a_closed_port_inside_is_seen_outside() {
    let Some((_guest, net)) = start("-t 5001 -u none") else { return };
    let finished = net.peer.start_peer(&format!("who {}", at(HOST4, 5001))).finish();
    let reset = finished.stdout.trim().is_empty() || finished.stderr.contains("reset");
    assert!(reset, "{finished:?}");
}

#[test]
fn a_port_not_given_is_closed() {
    let Some((guest, net)) = start("-t 5001 -u none") else { return };
    let _server = guest.serve("[::]:5002");
    let outcome = net.peer.peer(&format!("connect {}", at(HOST4, 5002)));
    assert!(outcome.starts_with("ConnectionRefused"), "{outcome}");
}

#[test]
fn udp_port_to_the_same_and_another() {
    let Some((guest, net)) = start(&format!("-t none -u 6001 -u 6002:7002 -u {OTHER4}/6003")) else { return };
    let _servers = ["[::]:6001", "[::]:7002", "[::]:6003"].map(|address| udp_server(&guest, address));
    for to in [at(HOST4, 6001), at(HOST6, 6001), at(HOST4, 6002), at(HOST6, 6002), at(OTHER4, 6003)] {
        assert_eq!(net.peer.peer(&format!("udp-ask {to} hello")).trim(), "hello", "{to}");
    }
    assert_eq!(net.peer.peer(&format!("udp-ask {} hello", at(HOST4, 6003))).trim(), "ConnectionRefused");
}

/// Podman asks for ports like this; the second start must fail and say why.
#[test]
fn a_port_in_use_is_an_error() {
    let Some((_guest, net)) = start("-t 5001 -u none") else { return };
    let second = net.pasta(User::Normal).with("--config-net -t 5001 -u none").run("true");
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(second.stderr.contains("5001"), "{}", second.stderr);
}
