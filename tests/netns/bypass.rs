//! Local TCP connections: from the host's loopback into the namespace (`-t`), and from the
//! namespace's loopback to the host (`-T`).

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use passt_tests::transfer::{GIB, MIB, at, download, exchange, upload};
use passt_tests::{
    DEADLINE, GATEWAY4, GATEWAY6, Guest, HOST4, HOST6, Net, Place, Process, User, eventually,
    eventually_within, find_program, stream,
};

const LOOPBACKS: [&str; 2] = ["127.0.0.1", "::1"];
/// Forwarded into the namespace, and out of it.
const IN: u16 = 5001;
const OUT: u16 = 5002;

fn started(options: &str) -> Option<(Guest, Net)> {
    let net = Net::new()?;
    let ports = format!("--config-net -t {IN} -u none -T {OUT} -U none {options}");
    Some((net.pasta(User::Normal).with(&ports).start(), net))
}

/// Where clients are, where servers are, and the port in between, for both directions.
fn ways<'a>(guest: &'a Guest, net: &'a Net) -> [(&'a dyn Place, &'a dyn Place, u16); 2] {
    [(&net.host, guest, IN), (guest, &net.host, OUT)]
}

#[test]
fn both_families_both_ways() {
    let Some((guest, net)) = started("") else { return };
    for (client, server, port) in ways(&guest, &net) {
        let _server = server.serve(&format!("[::]:{port}"));
        for address in LOOPBACKS {
            exchange(client, &at(address, port));
        }
    }
}

#[test]
fn a_gibibyte_each_way() {
    let Some((guest, net)) = started("") else { return };
    for (client, server, port) in ways(&guest, &net) {
        let _server = server.serve(&format!("[::]:{port}"));
        upload(client, &at("127.0.0.1", port), GIB);
        download(client, &at("::1", port), GIB);
    }
}

/// Who the server sees, and at which of its addresses.
#[test]
fn addresses_seen() {
    let cases = [
        ("", [HOST4, HOST6], ["127.0.0.1", "::1"]),
        ("--host-lo-to-ns-lo", ["127.0.0.1", "::1"], ["127.0.0.1", "::1"]),
    ];
    for (options, inside, outside) in cases {
        let Some((guest, net)) = started(options) else { return };
        for ((client, server, port), seen) in ways(&guest, &net).into_iter().zip([inside, outside]) {
            let _server = server.serve(&format!("[::]:{port}"));
            for (address, seen) in LOOPBACKS.into_iter().zip(seen) {
                let who = client.peer(&format!("who {}", at(address, port)));
                assert_eq!(who.trim(), seen, "{options} to {address}:{port}");
            }
        }
    }
}

/// What listens on loopback alone is reached with `--host-lo-to-ns-lo` only, and at the loopback
/// address that the client used.
#[test]
fn loopback_is_not_exposed() {
    for (options, seen) in [("", "nobody"), ("--host-lo-to-ns-lo", "127.0.0.1")] {
        let Some((guest, net)) = started(options) else { return };
        let _server = guest.serve(&at("127.0.0.7", IN));
        let to = at("127.0.0.7", IN);
        if options.is_empty() {
            let refused = net.host.start_peer(&format!("down {to} 9 1")).finish();
            assert_ne!(refused.stdout.trim(), stream::expected(9, 1), "{options}: {seen}");
        } else {
            assert_eq!(net.host.peer(&format!("who {to}")).trim(), seen);
        }
    }
}

/// Without the bypass the host's loopback appears as the gateway, as every other host
/// that the guest could not answer.
#[test]
fn without_the_bypass() {
    let Some(net) = Net::new() else { return };
    let options = format!("--config-net --no-splice -t {IN} -u none");
    let guest = net.pasta(User::Normal).with(&options).start();
    let _server = guest.serve(&format!("[::]:{IN}"));
    for (address, gateway) in LOOPBACKS.into_iter().zip([GATEWAY4, GATEWAY6]) {
        assert_eq!(net.host.peer(&format!("who {}", at(address, IN))).trim(), gateway);
    }
}

/// `--no-splice` is about the host's loopback: the namespace's is connected to it all the same.
#[test]
fn the_way_out_without_the_bypass() {
    let Some(net) = Net::new() else { return };
    let options = "--config-net --no-splice -t none -u none -T 5001,5002:7002 -U 5001,5002:7002";
    let guest = net.pasta(User::Normal).with(options).start();
    for (to, server) in [(5001, 5001), (5002, 7002)] {
        let _udp = net.host.listening(&format!("udp-serve [::]:{server}"));
        let _tcp = net.host.serve(&format!("[::]:{server}"));
        for loopback in LOOPBACKS {
            exchange(&guest, &at(loopback, to));
            assert_eq!(guest.peer(&format!("udp-ask {} hello", at(loopback, to))).trim(), "hello");
        }
    }
}

/// Nobody listens on the other side: the client, accepted already, is reset.
#[test]
fn nobody_there() {
    let Some((guest, net)) = started("") else { return };
    for (client, _, port) in ways(&guest, &net) {
        for address in LOOPBACKS {
            let outcome = client.start_peer(&format!("reset {}", at(address, port))).finish();
            let told = outcome.stdout.contains("ConnectionReset") || outcome.stderr.contains("reset by peer");
            assert!(told, "{address}:{port}: {outcome:?}");
        }
    }
}

#[test]
fn resets_pass_both_ways() {
    let Some((guest, net)) = started("") else { return };
    for (client, server, port) in ways(&guest, &net) {
        let mut server = server.serve(&format!("[::]:{port}"));
        for address in LOOPBACKS {
            let to = at(address, port);
            assert_eq!(client.peer(&format!("reset {to}")).trim(), "ConnectionReset", "{to}");
            client.peer(&format!("abort {to}"));
            let line = server.wait_for("ERROR");
            assert!(line.contains("ConnectionReset"), "{to}: {line}");
        }
    }
}

/// The client ends its direction first in every upload; here the server does.
#[test]
fn half_closed_by_the_server() {
    let Some((guest, net)) = started("") else { return };
    for (client, server, port) in ways(&guest, &net) {
        let mut server = server.serve(&format!("[::]:{port}"));
        let got = client.peer(&format!("late {} {} {}", at("127.0.0.1", port), 3 * MIB, 2 * MIB));
        assert_eq!(got.trim(), stream::expected(3 * MIB, 1));
        let line = server.wait_for("LATE");
        assert!(line.contains(stream::expected(2 * MIB, 2).as_str()), "{line}");
    }
}

/// A receiver that stops for ten seconds and goes on, in either direction at once.
#[test]
fn slow_receivers() {
    let Some((guest, net)) = started("") else { return };
    let length = 64 * MIB;
    let running: Vec<(Process, Process)> = ways(&guest, &net)
        .into_iter()
        .flat_map(|(client, server, port)| {
            let to = at("127.0.0.1", port);
            let server = server.serve(&format!("[::]:{port}"));
            let up = client.start_peer(&format!("up-slow {to} {length} 10"));
            let down = client.start_peer(&format!("down-slow {to} {length} 10"));
            [Some((up, server)), Some((down, client.start("true")))]
        })
        .flatten()
        .collect();
    for (client, _server) in running {
        let got = client.succeed_within(Duration::from_secs(40));
        assert_eq!(got.trim(), stream::expected(length, 1));
    }
}

#[test]
fn a_thousand_at_once() {
    let Some((guest, net)) = started("") else { return };
    for (client, server, port) in ways(&guest, &net) {
        let _server = server.serve(&format!("[::]:{port}"));
        for address in LOOPBACKS {
            assert_eq!(client.peer(&format!("many {} 1000", at(address, port))).trim(), "1000");
        }
    }
}

/// 100 000 short connections leave no descriptor behind, pipes included.
#[test]
fn churn_leaks_nothing() {
    let Some((mut guest, net)) = started("") else { return };
    let servers: Vec<Process> =
        ways(&guest, &net).map(|(_, server, port)| server.serve(&format!("[::]:{port}"))).into();
    for (client, _, port) in ways(&guest, &net) {
        // Sockets made in advance, and spare pipes, are no leak.
        exchange(client, &at("127.0.0.1", port));
        client.peer(&format!("churn {} 50", at("::1", port)));
    }
    let idle = guest.descriptors();
    let clients: Vec<Process> = ways(&guest, &net)
        .into_iter()
        .flat_map(|(client, _, port)| {
            LOOPBACKS.map(|address| client.start_peer(&format!("churn {} 25000", at(address, port))))
        })
        .collect();
    for client in clients {
        client.succeed_within(Duration::from_secs(150));
    }
    // Sockets made in advance vary in number.
    let limit = idle + 48;
    eventually_within(DEADLINE, &format!("{limit} descriptors"), || {
        (guest.descriptors() <= limit).then_some(())
    });
    guest.assert_alive();
    drop(servers);
}

#[test]
fn iperf3_both_ways() {
    if find_program("iperf3").is_none() {
        return passt_tests::skip("no iperf3");
    }
    let Some((guest, net)) = started("") else { return };
    for (client, server, port) in ways(&guest, &net) {
        for reverse in ["", "-R"] {
            let mut server = server.start(&format!("iperf3 -s -1 -p {port} --forceflush"));
            server.wait_for("Server listening");
            let report = client.run(&format!("iperf3 -c 127.0.0.1 -p {port} -t 1 -f m {reverse}"));
            let received = report.lines().find(|line| line.contains("receiver")).expect("a summary");
            let words: Vec<&str> = received.split_whitespace().collect();
            let rate = words.iter().position(|word| *word == "Mbits/sec").expect("a rate") - 1;
            assert!(words[rate].parse::<f64>().expect("a number") > 1.0, "{received}");
            eventually("the server's end", || server.try_wait());
        }
    }
}

/// An end that stops with megabytes under way and everything full, and is reset by the other:
/// whichever resets, whichever way the data goes, and on whichever side the client is.
#[test]
fn resets_in_mid_transfer() {
    let Some((guest, net)) = started("") else { return };
    for (client, server, port) in ways(&guest, &net) {
        let mut server = server.serve(&format!("[::]:{port}"));
        for (address, role) in
            LOOPBACKS.into_iter().flat_map(|address| ["reading", "writing"].map(|r| (address, r)))
        {
            let to = at(address, port);
            let seen = client.peer(&format!("reset-within server {role} {to}"));
            assert_eq!(seen.trim(), "ConnectionReset", "by the server, {role}, {to}");
            let before = server.stdout().matches("BORNE").count();
            client.peer(&format!("reset-within client {role} {to}"));
            let seen = eventually("the server's end", || {
                let lines = server.stdout();
                lines.lines().filter(|line| line.contains("BORNE")).nth(before).map(str::to_owned)
            });
            assert_eq!(seen, "BORNE ConnectionReset", "by the client, {role}, {to}");
            assert!(server.try_wait().is_none());
        }
    }
}

/// Hundreds of transfers that stop with data in pipes, half of which are reset: no pipe stays but
/// the spare ones, and no socket.
#[test]
fn stalled_transfers_leak_nothing() {
    /// Both ends of the pipes that are kept.
    const SPARE: usize = 2 * 32;
    let Some((mut guest, net)) = started("") else { return };
    let servers: Vec<Process> =
        ways(&guest, &net).map(|(_, server, port)| server.serve(&format!("[::]:{port}"))).into();
    // Sockets that hold little, so that data is in pipes soon.
    small_buffers(&guest, &net);
    // Standard input and output are pipes, too.
    let limit = guest.pipe_ends() + SPARE;
    for (client, _, port) in ways(&guest, &net) {
        exchange(client, &at("127.0.0.1", port));
        client.peer(&format!("churn {} 50", at("::1", port)));
    }
    let sockets = guest.descriptors() - guest.pipe_ends();
    for _ in 0..3 {
        let mut clients: Vec<Process> = ways(&guest, &net)
            .into_iter()
            .flat_map(|(client, _, port)| {
                LOOPBACKS.map(|address| client.start_peer(&format!("stalled {} 32", at(address, port))))
            })
            .collect();
        for client in &mut clients {
            client.wait_for("STALLED");
        }
        let busy = guest.pipe_ends();
        assert!(busy > limit, "only {busy} ends of pipes while transfers are stalled");
        for client in &mut clients {
            client.write("go\n");
        }
        for client in clients {
            client.succeed();
        }
        eventually("as few pipes as are kept", || (guest.pipe_ends() <= limit).then_some(()));
        // Sockets made in advance vary in number.
        eventually("as few sockets as before", || {
            (guest.descriptors() - guest.pipe_ends() <= sockets + 48).then_some(())
        });
    }
    guest.assert_alive();
    drop(servers);
}

/// Where the system's congestion control paces, connections through which bulk data goes have
/// another one, and only on the side where it goes out.
#[test]
fn bulk_is_not_paced() {
    let Some((guest, net)) = started("") else { return };
    if !net.host.run("sysctl -n net.ipv4.tcp_available_congestion_control").contains("bbr") {
        return passt_tests::skip("this kernel has no bbr");
    }
    small_buffers(&guest, &net);
    for place in [&guest as &dyn Place, &net.host] {
        place.sysctl("net.ipv4.tcp_congestion_control=bbr");
    }
    for (client, server, port) in ways(&guest, &net) {
        let _server = server.serve(&format!("[::]:{port}"));
        // Two to the client, one that sends nothing yet, one to the server.
        let mut transfers = client.start_peer(&format!("stalled {} 4", at("127.0.0.1", port)));
        transfers.wait_for("STALLED");
        let unpaced = |place: &dyn Place, ours: &str| {
            let table = place.run(&format!("ss -tniHO {ours} = :{port}"));
            let count = |name| table.split_whitespace().filter(|word| *word == name).count();
            assert!(count("bbr") > 0, "{table}");
            count("reno")
        };
        eventually("two towards the client", || (unpaced(client, "sport") == 2).then_some(()));
        eventually("one towards the server", || (unpaced(server, "dport") == 1).then_some(()));
        transfers.write("go\n");
        transfers.succeed();
    }
}

/// Sockets that hold little, so that what finds no room has to wait in between.
fn small_buffers(guest: &Guest, net: &Net) {
    for place in [guest as &dyn Place, &net.host] {
        place.sysctl("net.ipv4.tcp_wmem=4096 16384 65536");
    }
}

/// With no descriptor left for a pipe, what finds no room waits in the receive queue, and arrives
/// whole.
#[test]
fn without_pipes() {
    const DESCRIPTORS: usize = 104;
    const CLIENTS: usize = 12;
    let Some(net) = Net::new() else { return };
    let limited = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS} {}", net.dir().join("pasta").display());
    let ports = format!("--config-net -t {IN} -u none -T {OUT} -U none");
    let launch = net.pasta(User::Normal).program(Path::new("/usr/bin/prlimit"));
    let mut guest = launch.with(&limited).with(&ports).start();
    small_buffers(&guest, &net);
    let _servers = ways(&guest, &net).map(|(_, server, port)| server.serve(&format!("[::]:{port}")));
    let others = guest.pipe_ends();
    let mut clients: Vec<Process> = ways(&guest, &net)
        .into_iter()
        .flat_map(|(client, _, port)| {
            let line = format!("later {} {} 3", at("127.0.0.1", port), 4 * MIB);
            [(); CLIENTS].map(|()| client.start_peer(&line))
        })
        .collect();
    for client in &mut clients {
        client.wait_for("READY");
    }
    for client in &mut clients {
        client.write("go\n");
    }
    eventually("no descriptor is left", || (guest.descriptors() >= DESCRIPTORS - 1).then_some(()));
    let pipes = (guest.pipe_ends() - others) / 2;
    assert!(pipes < 2 * CLIENTS, "{pipes} pipes");
    let expected = stream::expected(4 * MIB, 1);
    for client in clients {
        let got = client.succeed_within(Duration::from_mins(1));
        assert_eq!(got.lines().skip(1).collect::<Vec<_>>(), [&expected, &expected]);
    }
    guest.assert_alive();
}

/// What bypasses the tap device is not seen there.
#[test]
fn no_frames_pass_the_tap() {
    let Some((guest, net)) = started("") else { return };
    let _servers = ways(&guest, &net).map(|(_, server, port)| server.serve(&format!("[::]:{port}")));
    for (client, _, port) in ways(&guest, &net) {
        for address in LOOPBACKS {
            let before = guest.frames("eth0");
            upload(client, &at(address, port), 16 * MIB);
            download(client, &at(address, port), 16 * MIB);
            let passed = guest.frames("eth0") - before;
            // The namespace's kernel sends some of its own accord.
            assert!(passed <= 10, "{passed} frames for {address}:{port}");
        }
    }
    // As against what does not bypass it.
    let before = guest.frames("eth0");
    upload(&net.peer, &at(HOST4, IN), MIB);
    assert!(guest.frames("eth0") > before + 10);
}

/// With the bypass alone there is no tap device, whether the host has a network or not: loopbacks
/// are connected, TCP and UDP, and who comes from elsewhere is not served.
#[test]
fn the_bypass_alone() {
    for (net, connected) in [(Net::new(), true), (Net::isolated(), false)] {
        let Some(net) = net else { return };
        let ports = format!("--splice-only -t {IN} -u {IN} -T {OUT} -U {OUT}");
        let guest = net.pasta(User::Normal).with(&ports).start();
        let interfaces = guest.run("ip -o link");
        assert!(interfaces.lines().count() == 1 && interfaces.contains(": lo: "), "{interfaces}");
        assert_eq!(guest.run("ip route") + &guest.run("ip -6 route show default"), "");
        for (client, server, port) in ways(&guest, &net) {
            let _servers =
                [server.serve(&format!("[::]:{port}")), udp_server(server, &format!("[::]:{port}"))];
            for address in LOOPBACKS {
                let to = at(address, port);
                exchange(client, &to);
                assert_eq!(client.peer(&format!("who {to}")).trim(), address);
                let seen = client.peer(&format!("udp-ask {to} who"));
                let seen: SocketAddr = seen.trim().parse().expect("an address");
                assert_eq!(seen.ip().to_canonical().to_string(), address);
            }
            if connected && port == IN {
                for address in [HOST4, HOST6] {
                    not_served(&net.peer, &at(address, port));
                }
            }
            let gone = format!("connect {}", at(GATEWAY4, 80));
            assert!(guest.peer(&gone).starts_with("NetworkUnreachable"));
        }
    }
}

/// Whoever is at `place` gets no byte by TCP nor by UDP; a connection, if there is any, is reset.
fn not_served(place: &dyn Place, to: &str) {
    let outcome = place.start_peer(&format!("who {to}")).finish();
    assert_eq!(outcome.stdout.trim(), "", "{to}: {outcome:?}");
    let reason = outcome.stderr.to_lowercase();
    assert!(reason.contains("reset") || reason.contains("refused"), "{to}: {outcome:?}");
    let outcome = place.peer(&format!("udp-ask {to} who"));
    assert!(["ConnectionRefused", "WouldBlock"].contains(&outcome.trim()), "{to}: {outcome}");
}

fn udp_server(place: &dyn Place, address: &str) -> Process {
    place.listening(&format!("udp-serve {address}"))
}
