//! The network of a virtual machine, whose kernel is a real one behind passt's socket.

use std::path::PathBuf;
use std::time::Duration;

use passt_tests::client::Client;
use passt_tests::frame::v6;
use passt_tests::transfer::{MIB, at, download, exchange, upload};
use passt_tests::{
    FAR4, FAR6, GATEWAY4, GATEWAY6, HOST4, HOST6, Machine, Net, Place as _, Process, User, dhcp, eventually,
    have,
};

/// passt, and a machine that is not configured.
fn start(net: &Net, user: User, options: &str, mtu: u32) -> (Process, Machine) {
    let (passt, socket) = passt(net, user, options);
    (passt, Machine::start(net, &socket, mtu))
}

fn passt(net: &Net, user: User, options: &str) -> (Process, PathBuf) {
    let socket = net.dir().join("socket");
    let launch = net.passt(user).with(&format!("-f -s {}", socket.display())).with(options);
    let mut passt = Process::start(&mut launch.command(""));
    passt.wait_for("UNIX domain socket bound at");
    (passt, socket)
}

/// passt, and a machine with addresses and routes.
fn configured(net: &Net, user: User, options: &str, mtu: u32) -> (Process, Machine) {
    let (passt, machine) = start(net, user, options, mtu);
    machine.configure();
    (passt, machine)
}

fn transfers(user: User, mtu: u32) {
    let Some(net) = Net::new() else { return };
    let _servers = [FAR4, FAR6].map(|address| net.peer.serve(&at(address, 5001)));
    let (mut passt, machine) = configured(&net, user, "", mtu);
    for address in [FAR4, FAR6] {
        upload(&machine, &at(address, 5001), 64 * MIB);
        download(&machine, &at(address, 5001), 64 * MIB);
    }
    assert!(passt.try_wait().is_none());
}

#[test]
fn transfers_mtu_65520() {
    transfers(User::Root, 65_520);
}

#[test]
fn transfers_mtu_1500() {
    transfers(User::Normal, 1500);
}

#[test]
fn transfers_mtu_1280() {
    transfers(User::Normal, 1280);
}

#[test]
fn five_hundred_connections_at_once() {
    let Some(net) = Net::new() else { return };
    let _servers = [FAR4, FAR6].map(|address| net.peer.serve(&at(address, 5001)));
    let (mut passt, machine) = configured(&net, User::Normal, "", 1500);
    for address in [FAR4, FAR6] {
        assert_eq!(machine.peer(&format!("many {} 500", at(address, 5001))).trim(), "500");
    }
    assert!(passt.try_wait().is_none());
}

#[test]
fn udp_of_every_size_is_echoed() {
    let Some(net) = Net::new() else { return };
    let _servers =
        [FAR4, FAR6].map(|address| net.peer.listening(&format!("udp-serve {}", at(address, 6001))));
    let (_passt, machine) = configured(&net, User::Normal, "", 65_520);
    for (address, headers) in [(FAR4, 28), (FAR6, 48)] {
        machine.peer(&format!("udp-sweep {} {}", at(address, 6001), 65_520 - headers));
        assert_eq!(machine.peer(&format!("udp-ask {} hello", at(address, 9))).trim(), "ConnectionRefused");
    }
}

#[test]
fn ping() {
    let Some(net) = Net::new() else { return };
    if !have(&["ping"]) {
        return;
    }
    let (_passt, machine) = configured(&net, User::Normal, "", 1500);
    for address in [FAR4, FAR6, GATEWAY4] {
        machine.run(&format!("ping -c 3 -i 0.2 -W 5 {address}"));
    }
}

#[test]
fn curl_fetches_a_file() {
    let Some(net) = Net::new() else { return };
    if !have(&["curl", "busybox"]) {
        return;
    }
    let content = "One of many lines of text.\n".repeat(100_000);
    let dir = net.dir().join("www");
    std::fs::create_dir(&dir).expect("directory");
    std::fs::write(dir.join("file"), &content).expect("file");
    let _server = net.peer.start(&format!("busybox httpd -f -p [::]:8080 -h {}", dir.display()));
    let (_passt, machine) = configured(&net, User::Normal, "", 65_520);
    for address in [FAR4, FAR6] {
        let line = format!("curl -sS -f --retry 20 --retry-connrefused http://{}/file", at(address, 8080));
        assert!(machine.run(&line) == content, "{address}");
    }
}

#[test]
fn udhcpc() {
    let Some(net) = Net::new() else { return };
    if !have(&["udhcpc"]) {
        return;
    }
    let _server = net.peer.serve(&at(FAR4, 5001));
    let names = "--hostname box --fqdn box.example.test";
    let (_passt, machine) = start(&net, User::Root, &format!("-D 192.0.2.53 {names} -m 1400"), 1500);
    let out = dhcp::udhcpc(&net, &machine);
    let expected = format!("LEASE {HOST4}/24 {GATEWAY4} 192.0.2.53 1400 example.test\n");
    assert!(out.contains(&expected), "{out}");
    // Flags, then the name as in DNS, RFC 1035.
    assert!(out.contains("NAMES box 04ffff03626f78076578616d706c65047465737400\n"), "{out}");
    exchange(&machine, &at(FAR4, 5001));
}

#[test]
fn dhclient() {
    let Some(net) = Net::new() else { return };
    if !have(&["dhclient"]) {
        return;
    }
    let _servers = [FAR4, FAR6].map(|address| net.peer.serve(&at(address, 5001)));
    let names = "--hostname box --fqdn box.example.test";
    let options = format!("-D 192.0.2.53 -D 2001:db8::53 {names}");
    let (_passt, machine) = start(&net, User::Normal, &options, 1500);
    let (lease, names) = dhcp::dhclient(&net, &machine, "-4");
    assert_eq!(lease, format!("LEASE {HOST4} 255.255.255.0 {GATEWAY4} 192.0.2.53"));
    assert_eq!(names, "NAMES search=example.test. host=box fqdn=box.example.test");
    exchange(&machine, &at(FAR4, 5001));
    dhcp::wait_for_address(&machine, "scope link");
    let (lease, names) = dhcp::dhclient(&net, &machine, "-6");
    assert_eq!(lease, format!("LEASE {HOST6} 2001:db8::53"));
    assert_eq!(names, "NAMES search=example.test. fqdn=box.example.test");
    exchange(&machine, &at(FAR6, 5001));
}

/// Not even who asks for names is told any, if we are not to.
#[test]
fn dhclient_without_names() {
    let Some(net) = Net::new() else { return };
    if !have(&["dhclient"]) {
        return;
    }
    let options = "-D 192.0.2.53 -D 2001:db8::53 --no-dhcp-dns --no-dhcp-search";
    let (_passt, machine) = start(&net, User::Normal, options, 1500);
    let (lease, names) = dhcp::dhclient(&net, &machine, "-4");
    assert_eq!(lease, format!("LEASE {HOST4} 255.255.255.0 {GATEWAY4}"));
    assert_eq!(names, "NAMES search= host= fqdn=");
    dhcp::wait_for_address(&machine, "scope link");
    let (lease, names) = dhcp::dhclient(&net, &machine, "-6");
    assert_eq!(lease, format!("LEASE {HOST6}"));
    assert_eq!(names, "NAMES search= fqdn=");
}

#[test]
fn slaac_by_the_kernel() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR6, 5001));
    let (_passt, machine) = start(&net, User::Normal, "", 1500);
    let address = dhcp::wait_for_address(&machine, "scope global");
    assert!(address.contains("inet6 2001:db8:") && address.contains("/64"), "{address}");
    exchange(&machine, &at(FAR6, 5001));
}

/// What a DHCP client is offered, option by option.
#[test]
fn names_are_offered_unless_they_are_not_wanted() {
    let Some(net) = Net::new() else { return };
    let offer = |options: &str| {
        let (_passt, socket) = passt(&net, User::Normal, options);
        let offer = Client::connect(&socket).discover();
        move |option: u8| {
            let mut rest = &offer[282..];
            while let [code, len, tail @ ..] = rest {
                let (value, next) = tail.split_at(usize::from(*len));
                if *code == option {
                    return Some(value.to_vec());
                }
                rest = if *code == 255 { &[] } else { next };
            }
            None
        }
    };
    let named = offer("--hostname box --fqdn box.example.test");
    assert_eq!(named(12).as_deref(), Some(&b"box"[..]));
    assert!(named(81).is_some_and(|name| name.ends_with(b"\x03box\x07example\x04test\0")));
    assert_eq!(named(26).as_deref(), Some(&65_520_u16.to_be_bytes()[..]));
    assert_eq!(named(6).as_deref(), Some(&[192, 0, 2, 53][..]), "as in the host's resolv.conf");
    assert_eq!(named(119).as_deref(), Some(&b"\x07example\x04test\0"[..]));
    let nameless = offer("--no-dhcp-dns --no-dhcp-search");
    for option in [6, 12, 81, 119] {
        assert_eq!(nameless(option), None, "{option}");
    }
}

/// What the router says to a machine that it greets, option by option.
#[test]
fn resolvers_are_advertised_unless_they_are_not_wanted() {
    let Some(net) = Net::new() else { return };
    let advertised = |options: &str| {
        let (_passt, socket) = passt(&net, User::Normal, &format!("-D 192.0.2.53 -D 2001:db8::53 {options}"));
        let advertises = |frame: &[u8]| frame[12..14] == [0x86, 0xdd] && frame[54] == 134;
        let frame = Client::connect(&socket).find("a router advertisement", advertises);
        move |option: u8| {
            let mut rest = &frame[70..];
            while let [kind, units, ..] = *rest {
                let (value, next) = rest.split_at(usize::from(units) * 8);
                if kind == option {
                    return Some(value[8..].to_vec());
                }
                rest = next;
            }
            None
        }
    };
    let (servers, search) = (v6("2001:db8::53"), b"\x07example\x04test\0\0\0");
    let cases = [("", true, true), ("--no-dhcp-dns", false, true), ("--no-dhcp-search", true, false)];
    for (options, dns, names) in cases {
        let option = advertised(options);
        assert_eq!(option(25), dns.then(|| servers.to_vec()), "{options}");
        assert_eq!(option(31), names.then(|| search.to_vec()), "{options}");
    }
}

#[test]
fn ports_lead_to_the_machine() {
    let Some(net) = Net::new() else { return };
    let options = "-t 5001,5002:7002 -u 6001";
    let (_passt, machine) = configured(&net, User::Normal, options, 1500);
    let _servers = ["[::]:5001", "[::]:7002"].map(|address| machine.serve(address));
    let _udp = machine.listening("udp-serve [::]:6001");
    for (address, client) in [(HOST4, GATEWAY4), (HOST6, GATEWAY6)] {
        exchange(&net.peer, &at(address, 5001));
        exchange(&net.peer, &at(address, 5002));
        upload(&net.peer, &at(address, 5001), 64 * MIB);
        assert_eq!(net.peer.peer(&format!("who {}", at(address, 5001))).trim(), client);
        assert_eq!(net.peer.peer(&format!("udp-ask {} hello", at(address, 6001))).trim(), "hello");
    }
}

/// A virtual machine has no loopback of the host: such connections come from the gateway.
#[test]
fn all_ports_also_from_the_hosts_loopback() {
    let Some(net) = Net::new() else { return };
    // Few enough for any limit of descriptors.
    net.host.sysctl("net.ipv4.ip_local_port_range=1200 65535");
    net.host.sysctl("net.ipv4.ip_unprivileged_port_start=0");
    let (_passt, machine) = configured(&net, User::Normal, "-t all -u all,~53", 1500);
    let _server = machine.serve("[::]:1100");
    exchange(&net.host, "127.0.0.1:1100");
    assert_eq!(net.host.peer("who 127.0.0.1:1100").trim(), GATEWAY4);
    // The host's own address is the machine's, too.
    assert_eq!(net.host.peer(&format!("who {HOST4}:1100")).trim(), GATEWAY4);
    exchange(&net.host, "[::1]:1100");
    exchange(&net.peer, &at(HOST4, 1100));
    let _udp = machine.listening("udp-serve 0.0.0.0:1101");
    assert!(net.host.peer("udp-ask 127.0.0.1:1101 who").starts_with(GATEWAY4));
    assert_eq!(net.host.peer("udp-ask 127.0.0.1:53 who").trim(), "ConnectionRefused");
}

/// The host's loopback, as the machine sees it.
#[test]
fn the_gateway_is_the_hosts_loopback() {
    let Some(net) = Net::new() else { return };
    let _server = net.host.serve("127.0.0.1:5001");
    let (_passt, machine) = configured(&net, User::Normal, "", 1500);
    exchange(&machine, &at(GATEWAY4, 5001));
}

/// A machine connects again when passt was started again, and nothing inside has to know.
#[test]
fn passt_can_be_replaced() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    let (first, machine) = configured(&net, User::Normal, "", 1500);
    exchange(&machine, &at(FAR4, 5001));
    drop(first);
    let (_second, _) = passt(&net, User::Normal, "");
    wait_for_connection(&machine, 2);
    exchange(&machine, &at(FAR4, 5001));
}

fn wait_for_connection(machine: &Machine, number: usize) {
    let there = || (machine.device.stdout().matches("CONNECTED").count() >= number).then_some(());
    eventually("the machine is connected again", there);
}

/// What is under way when a client leaves is lost, and sent again to the next.
#[test]
fn transfers_survive_new_connections() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    let (passt, mut machine) = configured(&net, User::Normal, "", 1500);
    let start = |direction| machine.start_peer(&format!("{direction} {} {} 1", at(FAR4, 5001), 256 * MIB));
    let transfers = [start("up"), start("down")];
    for number in 2..8 {
        machine.device.write("again\n");
        wait_for_connection(&machine, number);
    }
    for transfer in transfers {
        let summary = transfer.succeed_within(Duration::from_mins(1));
        assert_eq!(summary.trim(), passt_tests::stream::expected(256 * MIB, 1));
    }
    assert!(passt.stderr().matches("Client connection closed").count() >= 6, "{}", passt.stderr());
}

/// A machine that does not read keeps neither the process nor others waiting.
#[test]
fn a_machine_that_sleeps_loses_nothing() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    let (passt, machine) = configured(&net, User::Normal, "", 65_520);
    let download = machine.start_peer(&format!("down {} {} 1", at(FAR4, 5001), 256 * MIB));
    machine.device.signal("STOP");
    // The process goes on with others: who comes second is sent away meanwhile, more than once, for
    // longer than the first retransmission takes.
    for number in 1..=5 {
        Client::connect(&net.dir().join("socket")).wait_for_end();
        eventually("the next one is sent away", || {
            (passt.stderr().matches("discarding connection").count() >= number).then_some(())
        });
        std::thread::sleep(Duration::from_millis(100));
    }
    machine.device.signal("CONT");
    let received = download.succeed_within(Duration::from_mins(1));
    assert_eq!(received.trim(), passt_tests::stream::expected(256 * MIB, 1));
}
