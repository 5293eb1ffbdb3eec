//! Datagrams that bypass the link, through the whole engine without one.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bypass;
mod common;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use passt_engine::flow::Side;
use passt_proto::drop::DropReason;
use passt_proto::guest::Bypass;
use passt_sys::dgram;
use passt_sys::iovec::Scatter;
use passt_sys::namespace::Resident;
use rustix::net::sockopt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use bypass::{Engine, LOOPBACKS, client, socket};
use common::{free_port, own_limits, own_network, pattern, send_joined, usual_limits};
use passt_testing::skip;

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(len);
    (buffer, from)
}

fn empty(socket: &UdpSocket) -> bool {
    socket.recv(&mut [0; 9]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn datagrams_of_every_size_both_ways() {
    let _limits = usual_limits();
    for (side, address) in [Side::Host, Side::Namespace].into_iter().flat_map(|s| LOOPBACKS.map(|a| (s, a))) {
        let mut engine = Engine::new(Bypass::Loopback);
        let server = socket(address);
        let client = engine.client_of(side, &server, address);
        for len in [0, 1, 2, 1472, 1473, 9000, 32_768, 65_471, 65_506, 65_507] {
            client.send(&pattern(len)).unwrap();
            engine.turn();
            let (received, from) = receive(&server);
            assert!(received == pattern(len), "{len} bytes arrived as {}", received.len());
            server.send_to(&received, from).unwrap();
            engine.turn();
            // The client is connected: it hears nobody but whom it talked to.
            assert!(receive(&client).0 == pattern(len), "{len} bytes came back");
        }
        assert_eq!(engine.worker.flow_count(), 1);
    }
}

/// Clients keep their ports if these are free on the other side, and are told apart in any case.
#[test]
fn clients_are_kept_apart() {
    let _limits = usual_limits();
    let mut engine = Engine::new(Bypass::Loopback);
    let server = socket("127.0.0.1");
    let port = free_port();
    engine.forward(Side::Host, "127.0.0.1", port, server.local_addr().unwrap().port());
    let clients: Vec<UdpSocket> = (0..60).map(|_| client("127.0.0.1", port)).collect();
    for (i, client) in (0u8..).zip(&clients) {
        client.send(&[i]).unwrap();
    }
    // No more at once than there are sockets for.
    for _ in 0..60 {
        engine.turn();
    }
    let mut all: Vec<_> = clients.iter().map(|_| receive(&server)).collect();
    all.reverse();
    for (payload, from) in &all {
        server.send_to(payload, from).unwrap();
    }
    for _ in 0..3 {
        engine.turn();
    }
    for (i, client) in (0u8..).zip(&clients) {
        assert_eq!(receive(client).0, [i]);
        assert!(empty(client));
    }
    assert_eq!(engine.worker.flow_count(), 60);
}

#[test]
fn who_arrives_where() {
    let _limits = usual_limits();
    for (bypass, side, reached, expected) in [
        (Bypass::Public, Side::Host, "127.0.0.1", "127.0.0.2"),
        (Bypass::Public, Side::Host, "127.0.0.9", "127.0.0.2"),
        (Bypass::Loopback, Side::Host, "127.0.0.9", "127.0.0.9"),
        (Bypass::Loopback, Side::Namespace, "127.0.0.9", "127.0.0.1"),
        (Bypass::Loopback, Side::Host, "::1", "::1"),
    ] {
        let mut engine = Engine::new(bypass);
        let server = socket(expected);
        let to_any = if reached == "::1" { "::" } else { "0.0.0.0" };
        let port = free_port();
        engine.forward(side, to_any, port, server.local_addr().unwrap().port());
        let client = client(reached, port);
        client.send(b"?").unwrap();
        engine.turn();
        let (_, from) = receive(&server);
        server.send_to(b"!", from).unwrap();
        engine.turn();
        assert_eq!(receive(&client).0, b"!", "{bypass:?} {side:?} {reached}");
    }
}

/// Without a bypass, or an address of the guest, or a way into the namespace, nothing passes.
#[test]
fn nothing_bypasses_unless_it_may() {
    let _limits = usual_limits();
    let cases = [
        (Bypass::Off, "127.0.0.1", true),
        (Bypass::Public, "::1", true),
        (Bypass::Public, "127.0.0.1", false),
    ];
    for (bypass, address, inside) in cases {
        let mut engine = Engine::new(bypass);
        if !inside {
            engine.worker.enter(None).unwrap();
        }
        let server = socket(if address == "::1" { address } else { "0.0.0.0" });
        let client = engine.client_of(Side::Host, &server, address);
        client.send(b"?").unwrap();
        engine.turn();
        assert!(empty(&server));
        assert_eq!(engine.worker.drops(DropReason::Unmapped), 1, "{bypass:?} {address}");
    }
}

/// The loop goes on while the thread in the namespace is busy, however long, and nobody is lost:
/// clients wait for the sockets that it makes.
#[test]
fn a_thread_that_is_busy() {
    let _limits = usual_limits();
    let mut engine = Engine::new(Bypass::Loopback);
    let server = socket("127.0.0.1");
    let ports = [(); 2].map(|()| free_port());
    let to = server.local_addr().unwrap().port();
    engine.forward(Side::Host, "127.0.0.1", ports[0], to);
    engine.forward(Side::Namespace, "127.0.0.1", ports[1], to);
    let inside = Resident::here().unwrap();
    let (free, busy) = std::sync::mpsc::channel::<()>();
    inside.begin(move || busy.recv()).unwrap();
    engine.worker.enter(Some(inside)).unwrap();

    let waiting: Vec<UdpSocket> = (0..50).map(|_| client("127.0.0.1", ports[0])).collect();
    for client in &waiting {
        client.send(b"1").unwrap();
    }
    let other = client("127.0.0.1", ports[1]);
    other.send(b"2").unwrap();
    for _ in 0..10 {
        engine.worker.turn(engine.now).unwrap();
    }
    assert_eq!(receive(&server).0, b"2");
    assert!(empty(&server) && engine.worker.awaits_namespace());
    free.send(()).unwrap();
    for _ in &waiting {
        while empty(&server) {
            engine.turn();
        }
    }
    assert_eq!(engine.worker.flow_count(), 51);
    assert_eq!(engine.worker.drops(DropReason::Socket), 0);
}

/// What a sender's kernel left joined is passed on joined; batches come out as they went in.
#[test]
fn batches_and_joined_datagrams() {
    let _limits = usual_limits();
    let mut engine = Engine::new(Bypass::Loopback);
    let server = socket("127.0.0.1");
    dgram::want_joined(server.as_fd()).unwrap();
    let client = engine.client_of(Side::Host, &server, "127.0.0.1");
    dgram::want_joined(client.as_fd()).unwrap();
    let payload = pattern(30_500);
    let mut buffer = vec![0; 65_536];
    let mut joined = |socket: &UdpSocket| {
        let mut into = Scatter::new();
        into.push(&mut buffer);
        let message = dgram::receive(socket.as_fd(), &into).unwrap();
        assert!(buffer[..message.len] == payload);
        (message.segment, message.source.unwrap())
    };
    send_joined(&client, &payload, 1000, None);
    engine.turn();
    let (segment, from) = joined(&server);
    assert_eq!(segment, 1000);
    server.connect(from).unwrap();
    send_joined(&server, &payload, 1200, None);
    engine.turn();
    assert_eq!(joined(&client).0, 1200);

    let sizes = [1000, 1000, 1000, 400, 1200, 1200, 1300, 0, 7];
    for len in sizes {
        client.send(&pattern(len)).unwrap();
    }
    engine.turn();
    let mut received = 0;
    while received < sizes.iter().sum() {
        received += receive(&server).0.len();
    }
    assert_eq!(received, sizes.iter().sum());
}

/// A closed port is counted, once the kernel has told of it, and ends nothing: a server may come.
#[test]
fn a_closed_port_ends_nothing() {
    let _limits = usual_limits();
    for address in LOOPBACKS {
        let mut engine = Engine::new(Bypass::Loopback);
        let absent = socket(address);
        let at = absent.local_addr().unwrap();
        let client = engine.client_of(Side::Host, &absent, address);
        drop(absent);
        for _ in 0..2 {
            client.send(b"anybody?").unwrap();
            engine.turn();
            engine.turn();
        }
        assert_eq!(engine.worker.drops(DropReason::Socket), 2);
        assert!(empty(&client));
        let server = UdpSocket::bind(at).unwrap();
        client.send(b"now?").unwrap();
        engine.turn();
        assert_eq!(receive(&server).0, b"now?");
        assert_eq!(engine.worker.flow_count(), 1);
    }
}

/// What would go round for ever does not begin to.
#[test]
fn a_port_forwarded_both_ways() {
    let _limits = usual_limits();
    for (side, other) in [(Side::Host, Side::Namespace), (Side::Namespace, Side::Host)] {
        let mut engine = Engine::new(Bypass::Loopback);
        let ports = [(); 2].map(|()| free_port());
        engine.forward(side, "127.0.0.1", ports[0], ports[1]);
        engine.forward(other, "127.0.0.1", ports[1], ports[0]);
        client("127.0.0.1", ports[0]).send(b"?").unwrap();
        engine.turn();
        assert_eq!((engine.worker.flow_count(), engine.worker.drops(DropReason::Circular)), (0, 1));
    }
}

#[test]
fn unused_flows_end() {
    let _limits = usual_limits();
    let mut engine = Engine::new(Bypass::Loopback);
    let server = socket("127.0.0.1");
    let client = engine.client_of(Side::Host, &server, "127.0.0.1");
    client.send(b"1").unwrap();
    engine.turn();
    receive(&server);
    let single = engine.sleep_until_flows_end();
    for _ in 0..2 {
        client.send(b"2").unwrap();
        engine.turn();
        let (_, from) = receive(&server);
        server.send_to(b"3", from).unwrap();
        engine.turn();
        receive(&client);
    }
    let stream = engine.sleep_until_flows_end();
    assert!(single >= Duration::from_secs(1) && stream > single, "{single:?} {stream:?}");
}

/// Who answers from a port that was not asked may be the server, or anybody else on its host: he is
/// heard, but keeps nothing open, takes no port that the client's side may need, and does not stand
/// in the way of the next one; nor of the port that was asked.
#[test]
fn answers_from_ports_that_were_not_asked() {
    let _limits = usual_limits();
    for side in [Side::Host, Side::Namespace] {
        let mut engine = Engine::new(Bypass::Loopback);
        let server = socket("127.0.0.1");
        let port = free_port();
        engine.forward(side, "127.0.0.1", port, server.local_addr().unwrap().port());
        let client = socket("127.0.0.1");
        client.send_to(b"read", ("127.0.0.1", port)).unwrap();
        engine.turn();
        let (_, seen) = receive(&server);
        let service = (1024..32_768).find_map(|port| UdpSocket::bind(("127.0.0.1", port)).ok()).unwrap();
        let (first, second) = (socket("127.0.0.1"), socket("127.0.0.1"));
        let mut heard = Vec::new();
        for who in [&service, &first, &second] {
            // The first has to be said again where the thread in the namespace is busy.
            let mut try_it = || {
                who.send_to(b"block", seen).unwrap();
                engine.turn();
                std::thread::yield_now();
                client.recv_from(&mut [0; 9]).ok()
            };
            let (len, from) = (0..10_000).find_map(|_| try_it()).unwrap();
            assert_eq!(len, 5);
            assert!(from.port() != port && from.port() >= 32_768, "{from}");
            heard.push(from);
        }
        // The client goes on with the last: it alone is heard then.
        client.send_to(b"more", heard[2]).unwrap();
        engine.turn();
        assert_eq!(receive(&second).0, b"more");
        first.send_to(b"block", seen).unwrap();
        second.send_to(b"block", seen).unwrap();
        engine.turn();
        assert_eq!(receive(&client), (b"block".to_vec(), heard[2]));
        assert!(empty(&client));

        // Without the client's answer the flow ends when it would have, whatever comes.
        let client = socket("127.0.0.1");
        engine.sleep_until_flows_end();
        client.send_to(b"read", ("127.0.0.1", port)).unwrap();
        engine.turn();
        let (_, seen) = receive(&server);
        let begun = engine.now;
        while engine.worker.flow_count() > 0 {
            assert!(engine.now.since(begun) < Duration::from_secs(100), "{side:?}");
            first.send_to(b"block", seen).unwrap();
            engine.now = engine.now + Duration::from_secs(1);
            engine.turn();
        }

        // The port that was asked answers after all: others are not heard any more.
        client.send_to(b"read", ("127.0.0.1", port)).unwrap();
        engine.turn();
        let (_, seen) = receive(&server);
        first.send_to(b"block", seen).unwrap();
        engine.turn();
        server.send_to(b"answer", seen).unwrap();
        engine.turn();
        while receive(&client).0 != b"answer" {}
        // The kernel refuses it, or nobody has heard of it.
        let _ = first.send_to(b"block", seen);
        engine.turn();
        assert!(empty(&client), "{side:?}");
    }
}

/// Without the listening socket there is no way to the client.
#[test]
fn a_flow_ends_with_its_listener() {
    let _limits = usual_limits();
    let mut engine = Engine::new(Bypass::Loopback);
    let server = socket("127.0.0.1");
    let client = engine.client_of(Side::Host, &server, "127.0.0.1");
    client.send(b"?").unwrap();
    engine.turn();
    let (_, from) = receive(&server);
    let numbers: Vec<u32> =
        engine.worker.context().ports.listeners.iter().map(|(number, _)| number).collect();
    for number in numbers {
        engine.worker.context().ports.listeners.remove(number);
    }
    server.send_to(b"!", from).unwrap();
    engine.turn();
    assert_eq!(engine.worker.flow_count(), 0);
}

#[test]
fn a_full_table_refuses_and_counts() {
    let _limits = usual_limits();
    let mut engine = Engine::with_room(Bypass::Loopback, 64);
    let server = socket("127.0.0.1").local_addr().unwrap().port();
    // Some of the 64 places are for the namespace alone.
    for (side, room, asked) in [(Side::Host, 1..64, 65), (Side::Namespace, 64..65, 130)] {
        let port = free_port();
        engine.forward(side, "127.0.0.1", port, server);
        let clients: Vec<UdpSocket> = (0..65).map(|_| client("127.0.0.1", port)).collect();
        for client in &clients {
            client.send(b"?").unwrap();
            engine.turn();
        }
        let flows = engine.worker.flow_count();
        let lost = [DropReason::TableFull, DropReason::Displaced].map(|reason| engine.worker.drops(reason));
        let lost: u64 = lost.into_iter().sum();
        assert!(room.contains(&flows), "{side:?}: {flows}");
        assert_eq!(lost + flows as u64, asked);
    }
}

/// The last descriptors are not for those who come in: where there are no others, the oldest makes
/// way.
#[test]
fn clients_share_what_descriptors_there_are() {
    let _limits = own_limits();
    for (side, address) in [Side::Host, Side::Namespace].into_iter().flat_map(|s| LOOPBACKS.map(|a| (s, a))) {
        let usual = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(256), ..usual }).unwrap();
        // Numbers from 224 on are kept.
        let mut engine = Engine::with_room(Bypass::Loopback, 1024);
        setrlimit(Resource::Nofile, Rlimit { current: usual.maximum, ..usual }).unwrap();
        let server = socket(address);
        let port = free_port();
        engine.forward(side, address, port, server.local_addr().unwrap().port());
        // Theirs are not in the way.
        let high =
            |socket: UdpSocket| UdpSocket::from(rustix::io::fcntl_dupfd_cloexec(&socket, 1000).unwrap());
        let clients: Vec<UdpSocket> = (0..300).map(|_| high(client(address, port))).collect();
        for (number, client) in clients.iter().enumerate() {
            client.send(b"?").unwrap();
            engine.turn();
            let (_, from) = receive(&server);
            server.send_to(b"!", from).unwrap();
            engine.turn();
            assert!(!empty(client), "{side:?} {number}");
        }
        let flows = engine.worker.flow_count();
        // The namespace's clients are the guest's own.
        let expected = if side == Side::Host { 150..=256 } else { 300..=300 };
        assert!(expected.contains(&flows), "{side:?}: {flows}");
        assert_eq!(engine.worker.drops(DropReason::Displaced), 300 - flows as u64);
        setrlimit(Resource::Nofile, usual).unwrap();
    }
}

/// What was sent to a group is answered from an address of the host: no datagram comes from a
/// group.
#[test]
fn answers_to_what_was_sent_to_a_group() {
    if let Err(error) = own_network() {
        return skip(&format!("no network of its own: {error}"));
    }
    let group = Ipv4Addr::new(224, 0, 0, 251);
    let mut engine = Engine::new(Bypass::Loopback);
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    engine.forward(Side::Host, "0.0.0.0", 5353, server.local_addr().unwrap().port());
    // The kernel passes on what is sent to a group once anybody on the host has joined.
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).unwrap();
    sockopt::set_ip_multicast_if(&client, &Ipv4Addr::LOCALHOST).unwrap();
    client.send_to(b"who?", (group, 5353)).unwrap();
    engine.turn();
    let (question, from) = receive(&server);
    assert_eq!(question, b"who?");
    server.send_to(b"me", from).unwrap();
    engine.turn();
    let (answer, from) = receive(&client);
    assert_eq!((&answer[..], from), (&b"me"[..], SocketAddr::from(([127, 0, 0, 1], 5353))));
}
