//! Who appears as whom: the tables of `docs/addresses.md`, row by row.

use passt_tests::transfer::at;
use passt_tests::{FAR4, FAR6, GATEWAY4, GATEWAY6, HOST4, HOST6, Net, Place, User, eventually};

/// Ports are forwarded where a row says so.
const CLOSED: &str = "--config-net -t none -u none -T none -U none";

/// The address that the server sees, once it can be reached.
fn seen(from: &dyn Fn(&str) -> String, server: &str) -> String {
    eventually(&format!("an answer of {server}"), || {
        let text = from(&format!("who {server}"));
        (!text.is_empty()).then(|| text.trim().trim_start_matches("::ffff:").to_owned())
    })
}

#[test]
fn from_the_guest() {
    let Some(net) = Net::new() else { return };
    let _peer = [FAR4, FAR6, GATEWAY4].map(|address| net.peer.serve(&at(address, 5001)));
    let _host = ["127.0.0.1", "::1", HOST4, HOST6].map(|address| net.host.serve(&at(address, 5002)));
    let other = "-a 10.0.2.100/24 -g 10.0.2.2";
    for (options, server, port, sees) in [
        ("", FAR4, 5001, HOST4),
        ("", FAR6, 5001, HOST6),
        ("", GATEWAY4, 5002, "127.0.0.1"),
        ("", GATEWAY6, 5002, "::1"),
        ("--no-map-gw", GATEWAY4, 5001, HOST4),
        ("--map-host-loopback 169.254.1.3", "169.254.1.3", 5002, "127.0.0.1"),
        ("--map-host-loopback 169.254.1.3", GATEWAY4, 5001, HOST4),
        ("-T 5002", "127.0.0.1", 5002, "127.0.0.1"),
        ("-T 5002", "::1", 5002, "::1"),
        ("--map-guest-addr 169.254.1.2", "169.254.1.2", 5002, HOST4),
        (other, HOST4, 5002, HOST4),
        (other, "10.0.2.2", 5002, "127.0.0.1"),
        (other, FAR4, 5001, HOST4),
    ] {
        // A later option takes the place of `none`.
        let closed = if options.starts_with("-T") { CLOSED.replace("-T none ", "") } else { CLOSED.into() };
        let guest = net.pasta(User::Normal).with(&closed).with(options).start();
        let from = |line: &str| guest.peer(line);
        assert_eq!(seen(&from, &at(server, port)), sees, "{options}: {server}");
    }
    let guest = net.pasta(User::Normal).with(CLOSED).start();
    let own = guest.peer(&format!("connect {}", at(HOST4, 5002)));
    assert!(own.starts_with("ConnectionRefused"), "its own address: {own}");
}

#[test]
fn to_a_forwarded_port() {
    let Some(net) = Net::new() else { return };
    let own = "the guest's own";
    let shown = net.host.run("ip -6 -br address show dev eth0 scope link");
    let shown = shown.split_whitespace().find_map(|word| word.strip_suffix("/64")).expect("an address");
    let other = "-4 -a 10.0.2.100/24 -g 10.0.2.2";
    for (options, loopback4, loopback6, host4, host6) in [
        ("", HOST4, HOST6, GATEWAY4, shown),
        ("--host-lo-to-ns-lo", "127.0.0.1", "::1", GATEWAY4, shown),
        ("--no-splice", GATEWAY4, GATEWAY6, GATEWAY4, shown),
        ("--no-splice --map-host-loopback 169.254.1.3", "169.254.1.3", GATEWAY6, GATEWAY4, shown),
        (other, "10.0.2.100", own, HOST4, own),
    ] {
        let closed = CLOSED.replace("-t none", "-t 5003");
        let guest = net.pasta(User::Normal).with(&closed).with(options).start();
        let _server = guest.serve("[::]:5003");
        let from_peer = |line: &str| net.peer.peer(line);
        assert_eq!(seen(&from_peer, &at(HOST4, 5003)), GATEWAY4, "{options}: another host");
        let from_host = |line: &str| net.host.peer(line);
        for (server, sees) in [("127.0.0.1", loopback4), ("::1", loopback6), (HOST4, host4), (HOST6, host6)] {
            if sees != own {
                assert_eq!(seen(&from_host, &at(server, 5003)), sees, "{options}: {server}");
            }
        }
        // Another guest comes as a program of the host does, whatever way it takes.
        let second = net.pasta(User::Normal).with(CLOSED).start();
        let from_second = |line: &str| second.peer(line);
        assert_eq!(seen(&from_second, &at(GATEWAY4, 5003)), loopback4, "{options}: another guest");
    }
}
