//! Address mapping: what of the host the guest reaches under which address,
//! name servers, source addresses.

use passt_tests::transfer::{at, exchange};
use passt_tests::{
    FAR4, FAR6, GATEWAY4, GATEWAY6, Guest, HOST4, HOST6, Net, Place as _, User, eventually, have,
};

fn start(net: &Net, options: &str) -> Guest {
    net.pasta(User::Normal).with("--config-net -t none -u none -T none -U none").with(options).start()
}

#[test]
fn the_gateway_is_the_hosts_loopback() {
    let Some(net) = Net::new() else { return };
    let _servers = [net.host.serve("127.0.0.1:5001"), net.host.serve("[::1]:5001")];
    let guest = start(&net, "");
    exchange(&guest, &at(GATEWAY4, 5001));
    exchange(&guest, &at(GATEWAY6, 5001));
}

#[test]
fn no_map_gw_leaves_the_gateway_alone() {
    let Some(net) = Net::new() else { return };
    let _loopback = net.host.serve("127.0.0.1:5001");
    let _gateway = net.peer.serve(&at(GATEWAY4, 5002));
    let guest = start(&net, "--no-map-gw");
    exchange(&guest, &at(GATEWAY4, 5002));
    let outcome = guest.peer(&format!("connect {}", at(GATEWAY4, 5001)));
    assert!(outcome.starts_with("ConnectionRefused"), "{outcome}");
}

/// What a guest reaches of the host without `--isolate-host`, and with it. Ports that are given are
/// forwarded all the same, and a resolver has a name if it is asked for.
#[test]
fn isolate_host() {
    let Some(net) = Net::new() else { return };
    net.host.resolv_conf("nameserver 127.0.0.53\n");
    let _servers =
        [net.host.serve("127.0.0.1:5001"), net.host.serve("[::1]:5001"), net.host.serve("127.0.0.53:53")];
    let _udp =
        [("127.0.0.1:6001"), ("[::1]:6001")].map(|addr| net.host.listening(&format!("udp-serve {addr}")));
    let _far = net.peer.serve(&at(FAR4, 5001));
    let loopbacks = ["127.0.0.1", "::1", GATEWAY4, GATEWAY6];
    for user in User::BOTH {
        for (options, in_reach) in [
            ("--config-net", &loopbacks[..]),
            ("--config-net --isolate-host", &[]),
            ("--config-net --isolate-host --resolv-conf", &[]),
        ] {
            let guest = net.pasta(user).with(options).start();
            exchange(&guest, &at(FAR4, 5001));
            for address in loopbacks {
                let what = format!("{address} {options} as {user:?}");
                let reached = in_reach.contains(&address);
                let connects =
                    || guest.peer(&format!("connect {}", at(address, 5001))).starts_with("connected");
                let answers = || {
                    guest
                        .start_peer(&format!("udp-ask {} hello", at(address, 6001)))
                        .finish()
                        .stdout
                        .contains("hello")
                };
                if reached {
                    // Ports are looked for in intervals.
                    eventually(&what, || connects().then_some(()));
                }
                assert_eq!((connects(), answers()), (reached, reached), "{what}");
            }
            if options.contains("--resolv-conf") {
                let resolver = guest.peer("connect 169.254.1.1:53");
                assert!(resolver.starts_with("connected"), "{resolver}");
            }
        }
        let guest = net.pasta(user).with("--config-net --isolate-host -t 8080:80").start();
        let _servers = [guest.serve("[::]:80"), guest.serve("[::]:81")];
        exchange(&net.peer, &at(HOST4, 8080));
        exchange(&net.host, "127.0.0.1:8080");
        let outcome = net.peer.peer(&format!("connect {}", at(HOST4, 81)));
        assert!(outcome.starts_with("ConnectionRefused"), "{outcome}");
    }
}

#[test]
fn map_host_loopback() {
    let Some(net) = Net::new() else { return };
    let _servers = [net.host.serve("127.0.0.1:5001"), net.host.serve("[::1]:5001")];
    let _udp = net.host.listening("udp-serve 127.0.0.1:6001");
    let guest = start(&net, "--map-host-loopback 203.0.113.9 --map-host-loopback 2001:db8:9::9");
    exchange(&guest, "203.0.113.9:5001");
    exchange(&guest, "[2001:db8:9::9]:5001");
    assert_eq!(guest.peer("udp-ask 203.0.113.9:6001 hello").trim(), "hello");
}

#[test]
fn map_guest_addr() {
    let Some(net) = Net::new() else { return };
    let _servers = [net.host.serve(&at(HOST4, 5001)), net.host.serve(&at(HOST6, 5001))];
    let guest = start(&net, "--map-guest-addr 203.0.113.9 --map-guest-addr 2001:db8:9::9");
    exchange(&guest, "203.0.113.9:5001");
    exchange(&guest, "[2001:db8:9::9]:5001");
}

#[test]
fn dns_forward_and_dns_host() {
    let Some(net) = Net::new() else { return };
    if !have(&["dnsmasq", "dig"]) {
        return;
    }
    let listen = format!("--listen-address={FAR4},{FAR6} --address=/example.test/203.0.113.7");
    let mut server = net.peer.start(&format!(
        "dnsmasq --keep-in-foreground --log-facility=- --conf-file=/dev/null --no-resolv --no-hosts \
         --bind-interfaces --user=root --pid-file= {listen}"
    ));
    server.wait_for("started");
    let guest = start(
        &net,
        &format!("--dns-forward 192.0.2.53 --dns-host {FAR4} --dns-forward 2001:db8::53 --dns-host {FAR6}"),
    );
    for resolver in ["192.0.2.53", "2001:db8::53"] {
        for transport in ["+notcp", "+tcp"] {
            let out = guest.run(&format!("dig +short +tries=1 +time=3 {transport} @{resolver} example.test"));
            assert_eq!(out.trim(), "203.0.113.7", "{resolver} {transport}");
        }
    }
}

#[test]
fn outbound_sets_the_source_address() {
    let Some(net) = Net::new() else { return };
    net.host.ip("addr add 192.0.2.3/24 dev eth0");
    net.host.ip("addr add 2001:db8::3/64 dev eth0 nodad");
    let _servers = [net.peer.serve(&at(FAR4, 5001)), net.peer.serve(&at(FAR6, 5001))];
    let guest = start(&net, "--outbound 192.0.2.3 --outbound 2001:db8::3");
    for (server, source) in [(FAR4, "192.0.2.3"), (FAR6, "2001:db8::3")] {
        assert_eq!(guest.peer(&format!("who {}", at(server, 5001))).trim(), source);
    }
}

/// An address that the host lacks is told, and what would leave from there fails at once, of either
/// family; the other one is not concerned.
#[test]
fn an_outbound_address_that_is_not_there() {
    let Some(net) = Net::new() else { return };
    let _servers = [FAR4, FAR6].map(|server| net.peer.serve(&at(server, 5001)));
    for (addr, lost, other) in [("192.0.2.77", FAR4, FAR6), ("2001:db8::77", FAR6, FAR4)] {
        let mut guest = start(&net, &format!("--outbound {addr}"));
        let told = || {
            let table = guest.run("nstat -asz IcmpInDestUnreachs Icmp6InDestUnreachs");
            table.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).sum::<u64>()
        };
        let outcome = guest.peer(&format!("connect {}", at(lost, 5001)));
        assert!(outcome.contains("NetworkUnreachable"), "{addr}: {outcome}");
        // A socket is not told of that error; its kernel is.
        let before = told();
        let _asking = guest.start_peer(&format!("udp-ask {} hello", at(lost, 9)));
        eventually("an ICMP error", || (told() > before).then_some(()));
        exchange(&guest, &at(other, 5001));
        guest.assert_alive();
        let told = format!(
            "The host doesn't have the address {addr}, or not yet: nothing leaves from there until it does\n"
        );
        assert_eq!(guest.stop().stderr, told);
    }
}

/// Where the host's routes to the servers lead nowhere, naming the interface takes others.
#[test]
fn outbound_interface() {
    let Some(net) = Net::new() else { return };
    let _servers = [net.peer.serve(&at(FAR4, 5001)), net.peer.serve(&at(FAR6, 5001))];
    net.host.ip("link add nowhere type veth peer name end");
    for name in ["nowhere", "end"] {
        net.host.ip(&format!("link set {name} up"));
    }
    for server in [FAR4, FAR6] {
        net.host.ip(&format!("route add {server} dev nowhere"));
    }
    net.host.sysctl("net.ipv4.tcp_syn_retries=1");
    for (options, reached) in [
        ("", &[][..]),
        ("--outbound-if4 eth0", &[FAR4]),
        ("--outbound-if6 eth0", &[FAR6]),
        ("--outbound-if4 eth0 --outbound-if6 eth0", &[FAR4, FAR6]),
    ] {
        let guest = start(&net, options);
        guest.sysctl("net.ipv4.tcp_syn_retries=1");
        for server in [FAR4, FAR6] {
            let outcome = guest.peer(&format!("connect {}", at(server, 5001)));
            let expected = reached.contains(&server);
            assert_eq!(outcome.starts_with("connected"), expected, "{options}: {server}: {outcome}");
        }
        for server in reached {
            exchange(&guest, &at(server, 5001));
        }
    }
}

/// README's example for a program that is not trusted, as it stands there, leaves no way to what
/// listens on the host's loopback alone. Another guest shows that each way is one.
#[test]
fn the_example_for_an_untrusted_program() {
    let Some(net) = Net::new() else { return };
    let readme = include_str!("../../README.md");
    let example =
        readme.lines().find_map(|line| line.trim().strip_prefix("pasta ")?.strip_suffix(" ./untrusted"));
    let options = example.expect("the example");
    let mut servers = vec![net.host.serve("127.0.0.1:5001"), net.host.serve("[::1]:5001")];
    for address in ["127.0.0.1:6001", "[::1]:6001"] {
        let server = net.host.listening(&format!("udp-serve {address}"));
        servers.push(server);
    }
    servers.push(net.host.serve("0.0.0.0:5002"));
    let untrusted = net.pasta(User::Normal).with(options).start();
    let open = net.pasta(User::Normal).with("--config-net -t none -u none").start();
    let ways = ["127.0.0.1", "::1", GATEWAY4, GATEWAY6];
    // Ports have been followed for the one guest, and would have been for the other, which came
    // first.
    for way in ways {
        eventually(&format!("the host by {way}"), || reaches(&open, way).then_some(()));
        assert!(!reaches(&untrusted, way), "the host's loopback by {way}");
    }
    // Nor by an address of the host, once it is none of the guest any more; what listens on all of
    // them is there, as the documentation says.
    let link_local = net.host.run("ip -6 -br address show dev eth0 scope link");
    let link_local = link_local.split_whitespace().find_map(|word| word.strip_suffix("/64"));
    assert!(link_local.is_some_and(|address| address.starts_with("fe80:")));
    for (family, own, host) in [("-4", "192.0.2.77/32", HOST4), ("-6", "2001:db8::77/128", HOST6)] {
        untrusted.run(&format!("ip {family} address flush dev eth0 scope global"));
        untrusted.run(&format!("ip {family} address add {own} dev eth0"));
        let gateway = if family == "-4" { GATEWAY4 } else { GATEWAY6 };
        untrusted.run(&format!("ip {family} route replace default via {gateway} dev eth0 onlink"));
        eventually(&format!("a refusal by {host}"), || {
            let outcome = untrusted.peer(&format!("connect {}", at(host, 5001)));
            assert!(!outcome.starts_with("connected"), "{host}: {outcome}");
            outcome.starts_with("ConnectionRefused").then_some(())
        });
        assert!(!reaches(&untrusted, host), "the host's loopback by {host}");
    }
    exchange(&untrusted, &at(HOST4, 5002));
}

/// Whether a guest gets through to the host's loopback by `address`, with TCP or UDP.
fn reaches(guest: &Guest, address: &str) -> bool {
    let tcp = guest.peer(&format!("connect {}", at(address, 5001)));
    let udp = guest.peer(&format!("udp-ask {} hello", at(address, 6001)));
    tcp.starts_with("connected") || udp.trim() == "hello"
}
