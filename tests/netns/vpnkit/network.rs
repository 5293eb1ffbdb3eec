//! What network the guest has.

use passt_tests::transfer::{MIB, at, download, exchange, upload};
use passt_tests::{FAR4, GATEWAY4, HOST4, Place, Process, eventually, have};

use crate::client::uuid;
use crate::rig::{GW, HOST, Rig};

fn udp_server(place: &impl Place, address: &str) -> Process {
    place.listening(&format!("udp-serve {address}"))
}

fn connect(place: &impl Place, to: &str) -> String {
    let outcome = place.peer(&format!("connect {to}"));
    outcome.split_whitespace().next().expect("an outcome").to_owned()
}

fn ping(place: &impl Place, to: &str) {
    place.run(&format!("ping -n -c 2 -i 0.2 -W 3 {to}"));
}

#[test]
fn tcp_and_udp_to_the_world() {
    let Some(rig) = Rig::new() else { return };
    let _tcp = [FAR4, GATEWAY4].map(|address| rig.net.peer.serve(&at(address, 5001)));
    let _udp = [FAR4, GATEWAY4].map(|address| udp_server(&rig.net.peer, &at(address, 6001)));
    let _vpnkit = rig.start(1500, "");
    let vif = rig.vif(&uuid(1));
    let (guest, _attached) = rig.guest(&vif, 1500);
    for address in [FAR4, GATEWAY4] {
        exchange(&guest, &at(address, 5001));
        assert_eq!(guest.peer(&format!("who {}", at(address, 5001))).trim(), HOST4);
        assert_eq!(guest.peer(&format!("udp-ask {} hello", at(address, 6001))).trim(), "hello");
        assert_eq!(connect(&guest, &at(address, 5009)), "ConnectionRefused");
        assert_eq!(guest.peer(&format!("udp-ask {} hello", at(address, 6009))).trim(), "ConnectionRefused");
        ping(&guest, address);
    }
    for address in [GW, HOST] {
        ping(&guest, address);
    }
    assert_eq!(guest.peer(&format!("many {} 100", at(FAR4, 5001))).trim(), "100");
    guest.peer(&format!("udp-sweep {} 1472", at(FAR4, 6001)));
}

#[test]
fn the_hosts_loopback() {
    let Some(rig) = Rig::new() else { return };
    let _servers = [rig.net.host.serve("127.0.0.1:5001"), udp_server(&rig.net.host, "127.0.0.1:6001")];
    for (more, host) in [("", HOST), ("--host-ip=192.168.65.254 --highest-ip=192.168.65.9", "192.168.65.254")]
    {
        let _vpnkit = rig.start(1500, more);
        let vif = rig.vif(&uuid(1));
        let (guest, _attached) = rig.guest(&vif, 1500);
        exchange(&guest, &at(host, 5001));
        assert_eq!(guest.peer(&format!("who {}", at(host, 5001))).trim(), "127.0.0.1");
        assert!(guest.peer(&format!("udp-ask {} who", at(host, 6001))).starts_with("127.0.0.1:"));
        assert_eq!(connect(&guest, &at(host, 5009)), "ConnectionRefused");
    }
}

#[test]
fn no_way_to_the_hosts_loopback() {
    let Some(rig) = Rig::new() else { return };
    let _servers = [rig.net.host.serve("0.0.0.0:5001"), udp_server(&rig.net.host, "0.0.0.0:6001")];
    let _far = rig.net.peer.serve(&at(FAR4, 5001));
    let _vpnkit = rig.start(1500, "--host-ip 0.0.0.0");
    let vif = rig.vif(&uuid(1));
    let (guest, _attached) = rig.guest(&vif, 1500);
    guest.sysctl("net.ipv4.tcp_syn_retries=1");
    for address in [HOST, GW, "192.168.65.50", "127.0.0.1"] {
        let outcome = connect(&guest, &at(address, 5001));
        let failures = ["HostUnreachable", "NetworkUnreachable", "ConnectionRefused", "TimedOut"];
        assert!(failures.contains(&outcome.as_str()), "{address}: {outcome}");
        let answer = guest.start_peer(&format!("udp-ask {} hello", at(address, 6001))).finish();
        assert!(!answer.stdout.contains("hello"), "{address}: {answer:?}");
    }
    exchange(&guest, &at(FAR4, 5001));
    ping(&guest, GW);
}

/// The host's resolver answers at the gateway, whichever the host has at the moment.
#[test]
fn names() {
    const ANSWERS: [&str; 2] = ["203.0.113.77", "203.0.113.78"];
    if !have(&["dig", "dnsmasq"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let _servers = ["127.0.0.1", HOST4].map(|listen| {
        let answer = ANSWERS[usize::from(listen == HOST4)];
        let mut server = rig.net.host.start(&format!(
            "dnsmasq --keep-in-foreground --log-facility=- --conf-file=/dev/null --no-resolv --no-hosts \
             --bind-interfaces --listen-address={listen} --address=/name.test/{answer} --pid-file="
        ));
        server.wait_for("started");
        server
    });
    for (text, more, answer) in [
        ("nameserver 127.0.0.1\n", "", ANSWERS[0]),
        ("nameserver 127.0.0.1\n", "--host-ip 0.0.0.0", ANSWERS[0]),
        ("search example.test\nnameserver 192.0.2.2\nnameserver 127.0.0.1\n", "", ANSWERS[1]),
    ] {
        // Programs in this namespace have mounts of their own, with this file.
        rig.net.host.resolv_conf(text);
        let _vpnkit = rig.start(1500, more);
        let vif = rig.vif(&uuid(1));
        let (guest, _attached) = rig.guest(&vif, 1500);
        for transport in ["+notcp", "+tcp"] {
            eventually(&format!("{transport}: {answer}"), || {
                let dig = format!("dig {transport} +short +tries=1 +time=1 @{GW} name.test");
                (guest.start(&dig).finish().stdout.trim() == answer).then_some(())
            });
        }
    }
}

#[test]
fn bulk_of_each_size() {
    let Some(rig) = Rig::new() else { return };
    let _servers = [rig.net.peer.serve(&at(FAR4, 5001)), rig.net.host.serve("127.0.0.1:5001")];
    let _udp = udp_server(&rig.net.host, "127.0.0.1:6001");
    for mtu in [1500, 65_520, 65_521] {
        let mut vpnkit = rig.start(mtu.min(65_520), "");
        let vif = rig.vif(&uuid(1));
        // One that does not keep to what it was told sends what can be sent.
        let (guest, _attached) = rig.guest(&vif, mtu);
        for address in [FAR4, HOST] {
            upload(&guest, &at(address, 5001), 64 * MIB);
            download(&guest, &at(address, 5001), 64 * MIB);
        }
        guest.peer(&format!("udp-sweep {} {}", at(HOST, 6001), mtu.min(65_520) - 28));
        assert!(vpnkit.try_wait().is_none());
    }
}

/// Both directions at once, with many connections beside.
#[test]
fn all_at_once() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    let _vpnkit = rig.start(1500, "");
    let vif = rig.vif(&uuid(1));
    let (guest, _attached) = rig.guest(&vif, 1500);
    let transfers = ["up", "down", "up", "down"]
        .map(|direction| guest.start_peer(&format!("{direction} {} {} 1", at(FAR4, 5001), 64 * MIB)));
    assert_eq!(guest.peer(&format!("many {} 100", at(FAR4, 5001))).trim(), "100");
    for transfer in transfers {
        assert_eq!(transfer.succeed().trim(), passt_tests::stream::expected(64 * MIB, 1));
    }
}
