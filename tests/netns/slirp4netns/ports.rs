//! Ports of the host that the API socket was asked for: what comes there reaches the guest.

use passt_tests::transfer::{at, exchange};
use passt_tests::{GATEWAY4, HOST4, Net, Ns, Place as _, Process};

use crate::api::{Served, serve};
use crate::rig::{original, udp_server};

/// The guest's servers at a port of any of its addresses.
fn servers(served: &Served, port: u16) -> [Process; 2] {
    let address = at("0.0.0.0", port);
    [served.rig.guest.serve(&address), udp_server(&served.rig.guest, &address)]
}

/// The host's port leads to the same of the guest.
fn rule(proto: &str, address: &str, port: u16) -> String {
    rule_to(proto, address, port, port)
}

fn rule_to(proto: &str, address: &str, port: u16, to: u16) -> String {
    format!(r#""proto":"{proto}","host_addr":"{address}","host_port":{port},"guest_port":{to}"#)
}

/// Requires that both protocols reach the guest, which sees this client.
fn reaches(from: &Ns, to: &str, client: &str) {
    tcp_reaches(from, to, client);
    assert_eq!(from.peer(&format!("udp-ask {to} hello")).trim(), "hello", "{to}");
    let seen = from.peer(&format!("udp-ask {to} who"));
    assert!(seen.starts_with(&format!("{client}:")), "{to}: {seen}");
}

fn tcp_reaches(from: &Ns, to: &str, client: &str) {
    exchange(from, to);
    assert_eq!(from.peer(&format!("who {to}")).trim(), client, "{to}");
}

fn is_refused(from: &Ns, to: &str) {
    let outcome = from.peer(&format!("connect {to}"));
    assert!(outcome.starts_with("ConnectionRefused"), "{to}: {outcome}");
    assert_eq!(from.peer(&format!("udp-ask {to} hello")).trim(), "ConnectionRefused", "{to}");
}

#[test]
fn they_carry_data() {
    for options in ["", "--enable-sandbox --enable-seccomp --disable-host-loopback", "--mtu=65520"] {
        let Some(served) = serve(options) else { return };
        let Net { host, peer, .. } = &served.rig.net;
        let mut id = 0;
        let mut running = Vec::new();
        for (address, port) in [("127.0.0.1", 8080), ("0.0.0.0", 8081), (HOST4, 8082), ("127.0.0.1", 81)] {
            running.push(servers(&served, port));
            for proto in ["tcp", "udp"] {
                id += 1;
                served.added(&rule(proto, address, port), id);
            }
        }
        // The original loses answers to the host itself where the guest may not reach that.
        let check = if original() && options.contains("loopback") { tcp_reaches } else { reaches };
        // The host itself is the gateway to the guest.
        for port in [8080, 8081, 81] {
            check(host, &at("127.0.0.1", port), "10.0.2.2");
        }
        for port in [8081, 8082] {
            reaches(peer, &at(HOST4, port), GATEWAY4);
        }
        is_refused(peer, &at(HOST4, 8080));
        is_refused(host, &at("127.0.0.1", 8082));
    }
}

/// Ours only: of UDP the original answers one of them, and of many connections at once it has some
/// wait for seconds.
#[test]
fn several_lead_to_one() {
    if original() {
        return;
    }
    let Some(served) = serve("") else { return };
    let _servers = servers(&served, 80);
    for (id, port) in [(1, 8080), (3, 8081)] {
        served.added(&rule_to("tcp", "0.0.0.0", port, 80), id);
        served.added(&rule_to("udp", "0.0.0.0", port, 80), id + 1);
    }
    for port in [8080, 8081, 8080] {
        reaches(&served.rig.net.host, &at("127.0.0.1", port), "10.0.2.2");
        reaches(&served.rig.net.peer, &at(HOST4, port), GATEWAY4);
        served.rig.net.peer.peer(&format!("many {} 50", at(HOST4, port)));
    }
}

/// To the address that was named, where the guest has several.
#[test]
fn they_lead_to_the_named_address() {
    let Some(served) = serve("") else { return };
    served.rig.guest.ip("addr add 10.0.2.15/24 dev tap0");
    let _servers = [served.rig.guest.serve("10.0.2.15:90"), udp_server(&served.rig.guest, "10.0.2.15:90")];
    for (id, proto) in [(1, "tcp"), (2, "udp")] {
        let to = r#""host_port":8080,"guest_addr":"10.0.2.15","guest_port":90"#;
        served.added(&format!(r#""proto":"{proto}",{to}"#), id);
    }
    reaches(&served.rig.net.host, "127.0.0.1:8080", "10.0.2.2");
    reaches(&served.rig.net.peer, &at(HOST4, 8080), GATEWAY4);
}

/// Nobody new comes in then, and who is in stays.
#[test]
fn they_end_with_their_removal() {
    let Some(served) = serve("") else { return };
    let _servers = servers(&served, 8080);
    let host = &served.rig.net.host;
    served.added(&rule("tcp", "127.0.0.1", 8080), 1);
    served.added(&rule("udp", "127.0.0.1", 8080), 2);
    reaches(host, "127.0.0.1:8080", "10.0.2.2");
    let mut steady = host.start_peer("steady 127.0.0.1:8080");
    steady.wait_for("STEADY");
    served.removed(1);
    served.removed(2);
    is_refused(host, "127.0.0.1:8080");
    // It compares all that is echoed until now.
    steady.succeed();
    // The port is free for the next.
    served.added(&rule("tcp", "127.0.0.1", 8080), 3);
    served.added(&rule("udp", "127.0.0.1", 8080), 4);
    reaches(host, "127.0.0.1:8080", "10.0.2.2");
}

/// Ports that are taken, by itself or by others, and addresses that are not the host's.
#[test]
fn ports_that_cannot_be_had() {
    let Some(served) = serve("") else { return };
    let host = &served.rig.net.host;
    let _taken = [host.serve("127.0.0.1:8090"), udp_server(host, "127.0.0.1:8090")];
    let mut id = 0;
    for proto in ["tcp", "udp"] {
        id += 1;
        served.added(&rule(proto, "127.0.0.1", 8080), id);
        for (address, port) in [("127.0.0.1", 8080), ("127.0.0.1", 8090), ("203.0.113.1", 8091)] {
            let reply = served.add(&rule(proto, address, port));
            let failed = r#"{"error":{"desc":"bad request: add_hostfwd: slirp_add_hostfwd failed"}}"#;
            assert_eq!(reply, failed, "{proto} {address}:{port}");
        }
    }
    // No number was used up.
    id += 1;
    served.added(&rule("tcp", HOST4, 8080), id);
}

/// Nobody listens inside: the client outside is not left waiting.
#[test]
fn nobody_listens_inside() {
    let Some(served) = serve("") else { return };
    served.added(&rule("tcp", "127.0.0.1", 8080), 1);
    let finished = served.rig.net.host.start_peer("who 127.0.0.1:8080").finish();
    let reason = finished.stderr.to_lowercase();
    let told = reason.contains("reset") || reason.contains("refused");
    assert!(told || finished.status.success() && finished.stdout.trim().is_empty(), "{finished:?}");
}

/// The ports are free once the program has ended.
#[test]
fn they_end_with_the_program() {
    let Some(served) = serve("") else { return };
    served.added(&rule("tcp", "127.0.0.1", 8080), 1);
    served.added(&rule("udp", "127.0.0.1", 8080), 2);
    let Served { slirp, rig, .. } = served;
    slirp.stop();
    is_refused(&rig.net.host, "127.0.0.1:8080");
}
