//! What TCP does besides moving data: the guest sees each end of a connection
//! as a program on the host would.

use std::time::Duration;

use passt_tests::transfer::{MIB, at};
use passt_tests::{DEADLINE, FAR4, FAR6, Guest, Net, Place as _, User, eventually, stream};

const BOTH: [&str; 2] = [FAR4, FAR6];

/// A guest and what it is connected to.
fn connected() -> Option<(Guest, Net)> {
    let net = Net::new()?;
    Some((net.pasta(User::Normal).with("--config-net").start(), net))
}

/// How a connection attempt from the guest ends, and after how many milliseconds.
fn connect(guest: &Guest, to: &str) -> (String, u64) {
    let out = guest.peer(&format!("connect {to}"));
    let (outcome, millis) = out.trim().split_once(' ').expect("outcome and time");
    (outcome.to_owned(), millis.parse().expect("a number"))
}

#[test]
fn refused() {
    let Some((guest, _net)) = connected() else { return };
    for address in BOTH {
        let (outcome, millis) = connect(&guest, &at(address, 9));
        assert_eq!(outcome, "ConnectionRefused", "{address}");
        assert!(millis < 1000, "{address}: at once, not after {millis} ms");
    }
}

/// Addresses behind the peer that swallow everything.
fn blackhole(net: &Net) {
    net.peer.ip("route add blackhole 198.51.100.66/32");
    net.peer.ip("route add blackhole 2001:db8:f::66/128");
}

/// The guest gives up by its own timer; nothing may answer before.
#[test]
fn blackholed_the_guest_gives_up_first() {
    let Some((guest, net)) = connected() else { return };
    blackhole(&net);
    guest.sysctl("net.ipv4.tcp_syn_retries=1");
    for address in ["198.51.100.66", "2001:db8:f::66"] {
        let (outcome, millis) = connect(&guest, &at(address, 80));
        assert_eq!(outcome, "TimedOut", "{address}");
        assert!(millis > 2500, "{address}: after {millis} ms");
    }
}

/// The host gives up before the guest does. A refusal would tell the guest
/// that there is such a host and that it answered.
#[test]
fn blackholed_the_host_gives_up_first() {
    let Some((guest, net)) = connected() else { return };
    blackhole(&net);
    net.host.sysctl("net.ipv4.tcp_syn_retries=1");
    guest.sysctl("net.ipv4.tcp_syn_retries=2");
    for address in ["198.51.100.66", "2001:db8:f::66"] {
        let (outcome, _) = connect(&guest, &at(address, 80));
        assert!(["TimedOut", "HostUnreachable"].contains(&outcome.as_str()), "{address}: {outcome}");
    }
}

/// The peer's router says that there is no such host.
#[test]
fn unreachable() {
    let Some((guest, net)) = connected() else { return };
    net.peer.sysctl("net.ipv4.ip_forward=1");
    net.peer.ip("route add unreachable 198.51.100.77/32");
    net.peer.sysctl("net.ipv6.conf.all.forwarding=1");
    net.peer.ip("route add unreachable 2001:db8:f::77/128");
    for address in ["198.51.100.77", "2001:db8:f::77"] {
        let (outcome, millis) = connect(&guest, &at(address, 80));
        // A refusal would tell the guest that there is such a host.
        assert!(
            ["HostUnreachable", "NetworkUnreachable"].contains(&outcome.as_str()),
            "{address}: {outcome}"
        );
        // The host's kernel may miss the first answer, and asks again after a second.
        assert!(millis < 5000, "{address}: after {millis} ms");
    }
}

#[test]
fn reset_by_the_server() {
    let Some((guest, net)) = connected() else { return };
    for address in BOTH {
        let _server = net.peer.serve(&at(address, 5001));
        assert_eq!(
            guest.peer(&format!("reset {}", at(address, 5001))).trim(),
            "ConnectionReset",
            "{address}"
        );
    }
}

#[test]
fn reset_by_the_guest() {
    let Some((guest, net)) = connected() else { return };
    for address in BOTH {
        let mut server = net.peer.serve(&at(address, 5001));
        guest.peer(&format!("abort {}", at(address, 5001)));
        let line = server.wait_for("ERROR");
        assert!(line.contains("ConnectionReset"), "{address}: {line}");
    }
}

/// The guest ends its direction, the server goes on: every upload of the tests
/// does so. Here the other way: the server ends first, the guest goes on.
#[test]
fn half_closed_by_either_side() {
    let Some((guest, net)) = connected() else { return };
    for address in BOTH {
        let mut server = net.peer.serve(&at(address, 5001));
        let sent = guest.peer(&format!("up {} {} 1", at(address, 5001), 3 * MIB));
        assert_eq!(sent.trim(), stream::expected(3 * MIB, 1));
        let received = guest.peer(&format!("late {} {} {}", at(address, 5001), 3 * MIB, 2 * MIB));
        assert_eq!(received.trim(), stream::expected(3 * MIB, 1));
        let late = server.wait_for("LATE");
        assert_eq!(late, format!("LATE {}", stream::expected(2 * MIB, 2)), "{address}");
    }
}

/// A receiver that stops for 10 s: the window closes, and opens again.
#[test]
fn slow_readers_on_either_side() {
    let Some((guest, net)) = connected() else { return };
    let length = 200 * MIB;
    let _servers = BOTH.map(|address| net.peer.serve(&at(address, 5001)));
    let clients: Vec<_> = BOTH
        .iter()
        .flat_map(|address| {
            ["up-slow", "down-slow"].map(|kind| format!("{kind} {} {length} 10", at(address, 5001)))
        })
        .map(|line| guest.start_peer(&line))
        .collect();
    for client in clients {
        assert_eq!(client.succeed_within(Duration::from_secs(90)).trim(), stream::expected(length, 1));
    }
}

/// A receiver that stops for longer than the guest's kernel repeats what is not acknowledged: three
/// times here, which takes 3 s; a window that is closed it probes for ever.
#[test]
fn readers_that_pause_for_long() {
    let Some((guest, net)) = connected() else { return };
    guest.sysctl("net.ipv4.tcp_retries2=3");
    let length = 50 * MIB;
    let _servers = BOTH.map(|address| net.peer.serve(&at(address, 5001)));
    let clients = BOTH.map(|address| guest.start_peer(&format!("up-slow {} {length} 20", at(address, 5001))));
    for client in clients {
        assert_eq!(client.succeed_within(Duration::from_secs(90)).trim(), stream::expected(length, 1));
    }
}

/// The guest's kernel probes an idle connection, and would reset it if two
/// probes were not answered.
#[test]
fn keepalive_probes_are_answered() {
    let Some((guest, net)) = connected() else { return };
    let _servers = BOTH.map(|address| net.peer.serve(&at(address, 5001)));
    let clients = BOTH.map(|address| guest.start_peer(&format!("idle {} 6", at(address, 5001))));
    for client in clients {
        client.succeed_within(DEADLINE);
    }
}

/// A connection whose server process dies ends for the guest.
#[test]
fn a_server_that_dies_ends_the_connection() {
    let Some((guest, net)) = connected() else { return };
    let server = net.peer.serve(&at(FAR4, 5001));
    let client = guest.start_peer(&format!("pump down {} 60", at(FAR4, 5001)));
    eventually("the connection", || net.host.run("ss -tn state established").contains(FAR4).then_some(()));
    drop(server);
    client.finish();
}
