//! More connections from outside than there is room for.

use std::path::Path;

use passt_tests::transfer::{at, exchange};
use passt_tests::{FAR4, HOST4, Net, Place, Process, User, eventually};

/// What we let in for one port before the guest accepts it, and what its kernel does by itself,
/// with some sockets for other purposes.
const BOUND: usize = 256 + 130 + 64;

fn steady(place: &(impl Place + ?Sized), to: &str) -> Process {
    let mut client = place.start_peer(&format!("steady {to}"));
    client.wait_for("STEADY");
    client
}

/// 10 000 connections to a server inside that accepts none: connections that exist, new ones of the
/// guest and those to another port don't suffer, and once the server goes on, so does its port.
#[test]
fn a_server_that_accepts_nothing() {
    let Some(net) = Net::new() else { return };
    let mut guest = net.pasta(User::Normal).with("--config-net -t 5001,5002 -u none -T none -U none").start();
    let mut stuck = guest.listening("serve-late [::]:5001");
    let _servers = [guest.serve("[::]:5002"), net.peer.serve(&at(FAR4, 5003))];
    let existing = [steady(&net.peer, &at(HOST4, 5002)), steady(&guest, &at(FAR4, 5003))];
    let before = guest.descriptors();

    let mut crowd = net.peer.start_peer(&format!("begin {} 10000", at(HOST4, 5001)));
    crowd.wait_for("BEGUN");
    eventually("some are let in", || (guest.descriptors() > before + 256).then_some(()));
    exchange(&net.peer, &at(HOST4, 5002));
    exchange(&guest, &at(FAR4, 5003));
    let more = guest.descriptors() - before;
    assert!(more <= BOUND, "{more} descriptors more");

    crowd.close_stdin();
    stuck.write("go\n");
    let seen = net.peer.peer(&format!("who {}", at(HOST4, 5001)));
    assert!(!seen.trim().is_empty());
    exchange(&net.peer, &at(HOST4, 5001));
    for client in existing {
        client.succeed();
    }
    guest.assert_alive();
}

/// With few descriptors, those who come in don't get the last ones, and are let in later.
#[test]
fn descriptors_are_kept_for_the_guest() {
    let Some(net) = Net::new() else { return };
    let limited = format!("--nofile=256:256 {}", net.dir().join("pasta").display());
    let options = "--config-net -t 5001 -u none -T none -U none";
    let launch = net.pasta(User::Normal).program(Path::new("/usr/bin/prlimit"));
    let mut guest = launch.with(&limited).with(options).start();
    let _servers = [guest.serve("[::]:5001"), net.peer.serve(&at(FAR4, 5003))];
    let mut crowd = net.peer.start_peer(&format!("begin {} 1000", at(HOST4, 5001)));
    crowd.wait_for("BEGUN");
    eventually("descriptors are scarce", || (guest.descriptors() > 220).then_some(()));
    for _ in 0..10 {
        exchange(&guest, &at(FAR4, 5003));
    }
    let taken = guest.descriptors();
    assert!(taken <= 232, "{taken} descriptors");
    crowd.close_stdin();
    exchange(&net.peer, &at(HOST4, 5001));
    guest.assert_alive();
}

/// The same of datagrams from the host's loopback, where each client takes a descriptor.
#[test]
fn descriptors_are_kept_from_datagrams() {
    let Some(net) = Net::new() else { return };
    let limited = format!("--nofile=256:256 {}", net.dir().join("pasta").display());
    let options = "--config-net -t none -u 6001 -T none -U none";
    let launch = net.pasta(User::Normal).program(Path::new("/usr/bin/prlimit"));
    let mut guest = launch.with(&limited).with(options).start();
    let _server = net.peer.serve(&at(FAR4, 5003));
    let _udp = guest.listening("udp-serve [::]:6001");
    let crowd = net.host.start_peer("udp-many 127.0.0.1:6001 1000").finish();
    assert!(!crowd.status.success() && guest.descriptors() > 200, "{} descriptors", guest.descriptors());
    exchange(&guest, &at(FAR4, 5003));
    guest.assert_alive();
}

/// Datagrams from the host's loopback that nobody answers give way, and end no flow that was
/// answered.
#[test]
fn datagrams_that_nobody_answers() {
    let Some(net) = Net::new() else { return };
    let limited = format!("--nofile=256:256 {}", net.dir().join("pasta").display());
    let options = "--config-net -t 5001 -u 6001,6002 -T none -U none";
    let launch = net.pasta(User::Normal).program(Path::new("/usr/bin/prlimit"));
    let mut guest = launch.with(&limited).with(options).start();
    let _servers = [guest.serve("[::]:5001"), net.peer.serve(&at(FAR4, 5003))];
    let _udp = guest.listening("udp-serve [::]:6002");
    let existing = steady(&net.host, "127.0.0.1:5001");
    let before = guest.descriptors();
    net.host.peer("udp-spray 127.0.0.1:6001 1000");
    let more = guest.descriptors() - before;
    assert!(more < 120, "{more} descriptors more");
    net.host.start_peer("udp-many 127.0.0.1:6002 20").succeed();
    exchange(&net.host, "127.0.0.1:5001");
    exchange(&net.peer, &at(HOST4, 5001));
    exchange(&guest, &at(FAR4, 5003));
    existing.succeed();
    guest.assert_alive();
}

/// Clients that have gone before the guest answered, which drops what they send, keep nobody else
/// out.
#[test]
fn clients_that_have_gone() {
    let Some(net) = Net::new() else { return };
    let mut guest = net.pasta(User::Root).with("--config-net -t 5001 -u none -T none -U none").start();
    let _server = guest.serve("[::]:5001");
    exchange(&net.peer, &at(HOST4, 5001));
    guest.run("ip route add blackhole 192.0.2.77/32");
    net.peer.ip("addr add 192.0.2.77/24 dev eth0");
    let mut crowd = net.peer.start_peer(&format!("gone 192.0.2.77 {} 1000", at(HOST4, 5001)));
    crowd.wait_for("GONE");
    exchange(&net.peer, &at(HOST4, 5001));
    guest.assert_alive();
}

/// The same past the tap device, from the loopback of either side.
#[test]
fn a_server_across_the_bypass_that_accepts_nothing() {
    let Some(net) = Net::new() else { return };
    let options = "--config-net -t 5001,5002 -u none -T 5004,5005 -U none";
    let mut guest = net.pasta(User::Normal).with(options).start();
    let _servers = [guest.serve("[::]:5002"), net.host.serve("[::]:5005"), net.peer.serve(&at(FAR4, 5003))];
    let others = [(&net.host as &dyn Place, at("127.0.0.1", 5002)), (&guest, at("::1", 5005))];
    let existing: Vec<Process> = others.iter().map(|(place, to)| steady(*place, to)).collect();
    let far = steady(&guest, &at(FAR4, 5003));
    for (client, server, port) in
        [(&net.host as &dyn Place, &guest as &dyn Place, 5001), (&guest, &net.host, 5004)]
    {
        let mut stuck = server.listening(&format!("serve-late [::]:{port}"));
        let before = guest.descriptors();
        let mut crowd = client.start_peer(&format!("begin {} 10000", at("127.0.0.1", port)));
        crowd.wait_for("BEGUN");
        eventually("some are let in", || (guest.descriptors() > before + 2 * 256).then_some(()));
        for (place, to) in &others {
            exchange(*place, to);
        }
        exchange(&guest, &at(FAR4, 5003));
        let more = guest.descriptors() - before;
        assert!(more <= 2 * BOUND, "{more} descriptors more");

        crowd.close_stdin();
        stuck.write("go\n");
        let to = at("127.0.0.1", port);
        assert!(!client.peer(&format!("who {to}")).trim().is_empty());
        exchange(client, &to);
        eventually("the crowd is gone", || (guest.descriptors() <= before + 64).then_some(()));
    }
    for client in existing.into_iter().chain([far]) {
        client.succeed();
    }
    guest.assert_alive();
}
