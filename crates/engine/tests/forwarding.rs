//! Forwarded ports through the whole engine: clients are sockets on the loopback interface, servers
//! in a guest in memory. What is sent has arrived when the call returns, so nothing here waits.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod guest;

use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use common::{addr, free_port, guest_port, ip, own_addresses, own_network, pattern, rule, send_joined};
use guest::{Guest, OFFLOAD, PLAIN, names, server};
use passt_engine::flow::Protocol;
use passt_engine::forward::rule::{PortRange, Rule};
use passt_engine::forward::{Listener, Reason};
use passt_engine::link::channel::Packet;
use passt_proto::drop::DropReason;
use passt_proto::guest::Configured;
use passt_proto::seq::Seq;
use passt_proto::wire::build::{MAX_HEADERS, Path};
use passt_proto::wire::ip::protocol;
use passt_proto::wire::tcp::{Flags, Segment};
use passt_testing::skip;
use rustix::net::{AddressFamily, SocketType, sockopt};

/// Joined datagrams for which there is no room are as many as they would be one by one.
#[test]
fn each_datagram_without_a_flow_is_counted() {
    let mut guest = Guest::new(OFFLOAD, 1500);
    let (_server, port) = server(true);
    for own in 0..64 {
        guest.send(true, (41_000 + own, port), b"?");
    }
    let port = free_port();
    guest.worker.listen(open(Protocol::Udp, rule(None, port, 7)).unwrap()).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(("127.0.0.1", port)).unwrap();
    let payload = pattern(9_500);
    send_joined(&client, &payload, 1000, None);
    client.send(b"one more").unwrap();
    assert!(guest.receive().is_empty());
    assert_eq!(guest.worker.drops(DropReason::TableFull), 11);
}

fn open(protocol: Protocol, rule: Rule) -> Result<Vec<Listener>, Reason> {
    common::open(protocol, vec![rule])
}

#[test]
fn forwarded_datagrams_and_their_answers() {
    for caps in [PLAIN, OFFLOAD] {
        for (listen, client) in [
            (None, "127.0.0.1:0"),
            (None, "127.0.0.9:0"),
            (None, "[::1]:0"),
            (Some("127.0.0.1"), "127.0.0.1:0"),
            (Some("::1"), "[::1]:0"),
        ] {
            let port = free_port();
            let mut guest = Guest::new(caps, 1500);
            let listeners = open(Protocol::Udp, rule(listen, port, 7)).unwrap();
            guest.worker.listen(listeners).unwrap();
            let client = UdpSocket::bind(client).unwrap();
            let ip = client.local_addr().unwrap().ip();
            client.connect((ip, port)).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            for len in [1, 1472, 3000] {
                client.send(&pattern(len)).unwrap();
                let packet = guest.one();
                let (own, host) = names(ip.is_ipv4());
                let host = if ip.to_string() == "127.0.0.9" { addr("192.0.2.254") } else { host };
                let from = client.local_addr().unwrap().port();
                assert_eq!((packet.src, packet.dst, packet.ports()), (host, own, (from, 7)));
                assert!(packet.payload() == pattern(len));
                if packet.src == names(ip.is_ipv4()).1 {
                    guest.send(ip.is_ipv4(), (7, from), &pattern(len));
                    // From elsewhere it would not reach a connected socket.
                    assert_eq!(client.recv(&mut [0; 4000]).unwrap(), len);
                }
            }
            assert_eq!(guest.worker.flow_count(), 1);
        }
    }
}

/// A process that waits for a CPU hears later what came meanwhile: more than the kernel keeps by
/// itself, even where it allows no more than twice that.
#[test]
fn a_burst_is_not_lost_while_nothing_reads() {
    const BURST: usize = 150;
    let datagram = pattern(1400);
    let arrive = |guest: &mut Guest, from: &UdpSocket, to: SocketAddr| {
        for _ in 0..BURST {
            assert_eq!(from.send_to(&datagram, to).unwrap(), datagram.len());
        }
        let mut received = Vec::new();
        while received.len() < BURST {
            let more = guest.receive();
            assert!(!more.is_empty(), "{} of {BURST}", received.len());
            received.extend(more);
        }
        assert!(received.iter().all(|packet| packet.payload() == datagram));
    };
    for (caps, v4) in [(PLAIN, true), (OFFLOAD, true), (PLAIN, false), (OFFLOAD, false)] {
        let mut guest = Guest::new(caps, 1500);
        let (server, port) = server(v4);
        guest.send(v4, (guest_port(), port), b"?");
        let (_, from) = server.recv_from(&mut [0; 9]).unwrap();
        arrive(&mut guest, &server, from);

        let port = free_port();
        guest.worker.listen(open(Protocol::Udp, rule(None, port, 7)).unwrap()).unwrap();
        let listener = SocketAddr::new(from.ip(), port);
        arrive(&mut guest, &server, listener);
    }
}

/// A server in the guest that speaks first does so from its forwarded port.
#[test]
fn the_guest_speaks_first_from_a_forwarded_port() {
    // The peer's port is nobody else's once it is closed.
    if let Err(error) = own_network() {
        return skip(&format!("no network of its own: {error}"));
    }
    let port = free_port();
    let mut guest = Guest::new(PLAIN, 1500);
    guest.worker.listen(open(Protocol::Udp, rule(None, port, port)).unwrap()).unwrap();
    let (peer, peer_port) = server(true);
    guest.send(true, (port, peer_port), b"hello");
    let (_, from) = peer.recv_from(&mut [0; 9]).unwrap();
    assert_eq!(from.port(), port);
    peer.send_to(b"welcome", from).unwrap();
    assert_eq!(guest.one().payload(), b"welcome");
    assert_eq!(guest.worker.flow_count(), 1);
    drop(peer);
    guest.send(true, (port, peer_port), b"still there?");
    let error = guest.one();
    assert_eq!((error.protocol, &error.bytes[..2]), (protocol::ICMP, &[3, 3][..]));
}

/// The guest asks a resolver of the other family from a port that is forwarded: what comes back to
/// the listening socket would be somebody else's, so the flow has a socket of its own.
#[test]
fn a_resolver_of_the_other_family_from_a_forwarded_port() {
    if let Err(error) = own_network() {
        return skip(&format!("no network of its own: {error}"));
    }
    for (resolver, name) in [("::1", "192.0.2.53"), ("127.0.0.1", "2001:db8::53")] {
        let server = UdpSocket::bind((ip(resolver), 853)).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let port = free_port();
        let mut guest = Guest::new(PLAIN, 1500);
        guest.worker.listen(open(Protocol::Udp, rule(None, port, port)).unwrap()).unwrap();
        guest.worker.context().core.guest.change(|guest| {
            let Configured { v4, v6, .. } = &mut guest.configured;
            let family = if resolver == "::1" { v4 } else { v6 };
            (family.dns_forward, family.dns_host) = (Some(addr(name)), Some(addr(resolver)));
        });
        let path = Path { dst: addr(name), ..Guest::path(resolver == "::1") };
        let mut header = [0; MAX_HEADERS];
        let (len, offload) = path.emit_udp(&mut header, (port, 853), 1, 0).unwrap();
        let bytes = [&header[..len], b"?"].concat();
        guest.worker.context().core.link.from_guest.push_back(Packet { bytes, offload });
        guest.turn();
        let (_, from) = server.recv_from(&mut [0; 9]).unwrap();
        server.send_to(b"!", from).unwrap();
        let answer = guest.one();
        assert_eq!((answer.src, answer.ports()), (addr(name), (853, port)));
    }
}

/// A peer is answered from where it was heard last: from the forwarded port, and from the socket
/// that the guest's first datagram left by, which stays open, also where the kernel joins what comes.
/// Anybody can have a datagram come to the port that looks like the peer's. The two are at different
/// ports, as another program has the forwarded one at another address.
#[test]
fn answers_leave_from_where_the_peer_was_heard() {
    for joined in [false, true] {
        let port = free_port();
        let mut guest = Guest::new(if joined { OFFLOAD } else { PLAIN }, 1500);
        let listener = open(Protocol::Udp, rule(Some("127.0.0.1"), port, port)).unwrap();
        guest.worker.listen(listener).unwrap();
        let _other = UdpSocket::bind(("127.0.0.2", port)).unwrap();
        let (peer, peer_port) = server(true);
        guest.send(true, (port, peer_port), b"hello");
        let (_, own) = peer.recv_from(&mut [0; 9]).unwrap();
        assert_ne!(own.port(), port, "the forwarded port is taken");
        let segment = if joined { 500 } else { 0 };
        let payload = pattern(if joined { 1500 } else { 9 });
        for to in [own.port(), port, own.port(), port, port, own.port(), own.port()] {
            send_joined(&peer, &payload, segment, Some(SocketAddr::new(own.ip(), to)));
            assert_eq!(guest.receive().len(), if joined { 3 } else { 1 });
            guest.send(true, (port, peer_port), b"!");
            let (_, from) = peer.recv_from(&mut [0; 9]).unwrap();
            assert_eq!(from, SocketAddr::new(own.ip(), to), "{joined}");
        }
        assert_eq!(guest.worker.flow_count(), 1);
    }
}

#[test]
fn forwarded_connections_arrive_at_the_target_port() {
    for ip in ["127.0.0.1", "::1"] {
        let mut guest = Guest::new(PLAIN, 1500);
        let (port, listeners) = loop {
            let port = free_port();
            if let Ok(listeners) = open(Protocol::Tcp, rule(None, port, 80)) {
                break (port, listeners);
            }
        };
        guest.worker.listen(listeners).unwrap();
        let clients: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect((ip, port)).unwrap()).collect();
        let mut seen: Vec<u16> = Vec::new();
        for _ in 0..2 {
            for syn in guest.receive() {
                let (own, host) = names(ip == "127.0.0.1");
                assert_eq!((syn.src, syn.dst, syn.ports().1, syn.bytes[13]), (host, own, 80, 0x02));
                seen.push(syn.ports().0);
            }
        }
        let expected: Vec<u16> = clients.iter().map(|c| c.local_addr().unwrap().port()).collect();
        assert_eq!(seen, expected, "more than one turn's worth, in order");
    }
}

#[test]
fn a_port_in_use_is_an_error_unless_any_will_do() {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let port = loop {
            let port = free_port();
            if port < u16::MAX && open(protocol, rule(None, port, port)).is_ok() {
                break port;
            }
        };
        let taken = open(protocol, rule(Some("127.0.0.1"), port, port)).unwrap();
        let strict = rule(Some("127.0.0.1"), port, port);
        assert!(matches!(open(protocol, strict.clone()), Err(Reason::Port { .. })));
        if let Some(before) = PortRange::new(port - 1, port) {
            let range = Rule { ports: before, ..strict.clone() };
            assert!(matches!(open(protocol, range), Err(Reason::Port { .. })), "each of them");
        }
        let weak = Rule { weak: true, ..strict };
        assert!(open(protocol, weak.clone()).is_err(), "not a single one");
        let range = Rule { ports: PortRange::new(port, port.saturating_add(20)).unwrap(), ..weak };
        assert!(!open(protocol, range).unwrap().is_empty());
        drop(taken);
    }
}

/// Two hosts that the guest could not tell apart are not served both.
#[test]
fn hosts_that_look_the_same() {
    let port = free_port();
    let mut guest = Guest::new(PLAIN, 1500);
    guest.worker.listen(open(Protocol::Udp, rule(None, port, 7)).unwrap()).unwrap();
    let first = UdpSocket::bind("127.0.0.9:0").unwrap();
    let second = UdpSocket::bind(("127.0.0.8", first.local_addr().unwrap().port())).unwrap();
    for (client, served) in [(&first, true), (&second, false), (&first, true)] {
        client.send_to(b"?", ("127.0.0.1", port)).unwrap();
        assert_eq!(guest.receive().len(), usize::from(served));
    }
    assert_eq!((guest.worker.flow_count(), guest.worker.drops(DropReason::Unmapped)), (1, 1));
}

/// What is left out of a range makes several rules of it: one port of them is enough.
#[test]
fn rules_of_one_option_need_one_port() {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let port = loop {
            let port = free_port();
            // Both of them nobody else's.
            if free_port() == port + 1
                && open(protocol, rule(None, port, port)).is_ok()
                && open(protocol, rule(None, port + 1, 1)).is_ok()
            {
                break port;
            }
        };
        let taken = open(protocol, rule(Some("127.0.0.1"), port, port)).unwrap();
        let weak = |address, port| Rule { weak: true, ..rule(Some(address), port, port) };
        let both = |rules| common::open(protocol, rules);
        assert_eq!(both(vec![weak("127.0.0.1", port), weak("127.0.0.1", port + 1)]).unwrap().len(), 1);
        assert!(
            both(vec![weak("127.0.0.1", port), weak("127.0.0.2", port + 1)]).is_err(),
            "another option's"
        );
        drop(taken);
    }
}

/// Two clients that the guest could not tell apart are not served both, and the first goes on, also
/// where its client has finished and all of it was delivered.
#[test]
fn clients_that_look_the_same() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    for finishes in [false, true] {
        let mut guest = Guest::new(PLAIN, 1500);
        let [first, second] = [(); 2].map(|()| {
            loop {
                let port = free_port();
                if let Ok(listeners) = open(Protocol::Tcp, rule(Some("127.0.0.1"), port, 80)) {
                    guest.worker.listen(listeners).unwrap();
                    break port;
                }
            }
        });
        let client = |own: SocketAddr, port| {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            sockopt::set_socket_reuseaddr(&socket, true).unwrap();
            rustix::net::bind(&socket, &own).unwrap();
            rustix::net::connect(&socket, &SocketAddr::new(own.ip(), port)).unwrap();
            TcpStream::from(socket)
        };
        let mut served = client(any, first);
        let own = served.local_addr().unwrap();
        let (syn, _) = Segment::parse(&guest.one().bytes).unwrap();
        let answer = Segment {
            src_port: 80,
            dst_port: own.port(),
            seq: Seq(5000),
            ack: syn.seq + 1,
            flags: Flags::SYN | Flags::ACK,
            window: 65_535,
            ..Segment::default()
        };
        guest.segment(names(true).1, &answer, &[]);
        let mut next = Segment { seq: Seq(5001), flags: Flags::ACK, ..answer };
        guest.turn();
        if finishes {
            served.shutdown(std::net::Shutdown::Write).unwrap();
            guest.answers();
            next.ack += 1;
            guest.segment(names(true).1, &next, &[]);
        }
        guest.receive();
        let mut other = client(own, second);
        guest.turn();
        assert_eq!(guest.worker.drops(DropReason::Unmapped), 1);
        assert_eq!(other.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        guest.segment(names(true).1, &next, b"first");
        guest.turn();
        let mut received = [0; 5];
        served.read_exact(&mut received).unwrap();
        assert_eq!(received, *b"first");
    }
}

/// One of several addresses, and then the others.
fn own_and_others(own: IpAddr, all: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    std::iter::once(own).chain(all.iter().copied().filter(move |other| *other != own))
}

/// A guest that has several addresses of the host is reached at each of them, and answers by the one
/// that was reached.
#[test]
fn several_addresses_of_the_guest() {
    if let Err(error) = own_network() {
        return skip(&format!("no network of its own: {error}"));
    }
    for addresses in
        [["10.9.9.1", "10.9.9.2", "10.9.9.3"], ["2001:db8:9::1", "2001:db8:9::2", "2001:db8:9::3"]]
    {
        own_addresses(&addresses);
        let [peer, ref own @ ..] = addresses.map(ip);
        let mut guest = Guest::new(PLAIN, 1500);
        guest.worker.context().core.guest.change(|guest| {
            let Configured { v4, v6, .. } = &mut guest.configured;
            let family = if peer.is_ipv4() { v4 } else { v6 };
            family.assigned = own.iter().map(|&own| own.into()).collect();
        });
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let port = free_port();
            guest.worker.listen(open(protocol, rule(None, port, 7)).unwrap()).unwrap();
            for &own in own {
                let at = SocketAddr::new(own, port);
                let udp = UdpSocket::bind((peer, 0)).unwrap();
                udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let tcp = rustix::net::socket(
                    if peer.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 },
                    SocketType::STREAM,
                    None,
                )
                .unwrap();
                if protocol == Protocol::Udp {
                    udp.send_to(b"?", at).unwrap();
                } else {
                    rustix::net::bind(&tcp, &SocketAddr::new(peer, 0)).unwrap();
                    rustix::net::connect(&tcp, &at).unwrap();
                }
                let packet = guest.one();
                assert_eq!((packet.src, packet.dst, packet.ports().1), (peer.into(), own.into(), 7));
                if protocol == Protocol::Tcp {
                    continue;
                }
                // Programs answer datagrams from whatever address their kernel chooses.
                for from in own_and_others(own, &addresses.map(ip)[1..]) {
                    let mut header = [0; MAX_HEADERS];
                    let path = Path { src: from.into(), dst: peer.into(), ..Guest::path(peer.is_ipv4()) };
                    let ports = (7, packet.ports().0);
                    let (len, offload) = path.emit_udp(&mut header, ports, 1, 0).unwrap();
                    let bytes = [&header[..len], b"!"].concat();
                    guest.worker.context().core.link.from_guest.push_back(Packet { bytes, offload });
                    guest.turn();
                    assert_eq!(udp.recv_from(&mut [0; 9]).unwrap(), (1, at), "from {from}");
                }
            }
        }
    }
}
