//! UDP ports of the guest as the host's peers see them (RFC 4787): one port whoever the guest talks
//! to, answers from whoever may answer, and ports that rules come to.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod guest;

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use common::{addr, free_port, ip, own_addresses, own_network, rule};
use guest::{Guest, OFFLOAD, PLAIN, names, server};
use passt_engine::flow::{Protocol, Side};
use passt_engine::forward::rule::Rule;
use passt_engine::forward::{Change, Entry, Progress};
use passt_engine::link::channel::Packet;
use passt_proto::addr::Addr;
use passt_proto::drop::DropReason;
use passt_proto::guest::Configured;
use passt_proto::wire::build::{MAX_HEADERS, Path};
use passt_testing::skip;

/// A datagram of the guest to any host, from any of its addresses.
fn send(guest: &mut Guest, (from, port): (Addr, u16), to: SocketAddr, payload: &[u8]) {
    let path = Path { src: from, dst: to.ip().into(), ..Guest::path(to.is_ipv4()) };
    let mut header = [0; MAX_HEADERS];
    let (len, offload) = path.emit_udp(&mut header, (port, to.port()), payload.len(), 0).unwrap();
    let bytes = [&header[..len], payload].concat();
    guest.worker.context().core.link.from_guest.push_back(Packet { bytes, offload });
    guest.turn();
}

fn from(server: &UdpSocket) -> SocketAddr {
    server.recv_from(&mut [0; 99]).unwrap().1
}

/// A host with more addresses than one, of a network of the thread's own.
fn hosts<const N: usize>(addresses: [&str; N]) -> Option<[UdpSocket; N]> {
    if let Err(error) = own_network() {
        skip(&format!("no network of its own: {error}"));
        return None;
    }
    own_addresses(&addresses);
    Some(addresses.map(|address| {
        let socket = UdpSocket::bind((ip(address), 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }))
}

/// All of a guest's destinations see it at one port, its own if that is free, for as long as a flow
/// lives; and none takes a descriptor more.
#[test]
fn one_port_for_all_destinations() {
    for (v4, taken) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut guest = Guest::new(OFFLOAD, 1500);
        let port = free_port();
        let own = names(v4).0;
        let localhost = if v4 { "127.0.0.1" } else { "::1" };
        let other = taken.then(|| UdpSocket::bind((localhost, port)).unwrap());
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let servers: Vec<_> = (0..20).map(|_| server(v4)).collect();
        let mut seen = BTreeSet::new();
        let before = descriptors();
        for (server, to) in &servers {
            guest.send(v4, (port, *to), b"?");
            let from = from(server);
            seen.insert(from);
            server.send_to(b"!", from).unwrap();
            let answer = guest.one();
            assert_eq!((answer.dst, answer.ports()), (own, (*to, port)));
        }
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!(seen.first().unwrap().port() == port, !taken);
        assert_eq!(guest.worker.flow_count(), 20);
        // Other tests run beside this one.
        assert!(descriptors() < before + 15);
        guest.sleep_until_flows_end();
        drop(other);
        // All flows have ended: the port is free.
        assert!(UdpSocket::bind((localhost, port)).is_ok());
        guest.send(v4, (port, servers[0].1), b"?");
        assert_eq!(from(&servers[0].0).port(), port);
    }
}

/// Any port of a host that the guest sent to may answer, as TFTP servers do (RFC 1350, section 4);
/// the flow ends with the time of its own, and what comes then is a stranger's.
#[test]
fn answers_from_another_port() {
    for v4 in [true, false] {
        let mut guest = Guest::new(PLAIN, 1500);
        let ((server, at), (other, elsewhere)) = (server(v4), server(v4));
        let port = free_port();
        guest.send(v4, (port, at), b"read");
        let seen = from(&server);
        other.send_to(b"block 1", seen).unwrap();
        let block = guest.one();
        assert_eq!(
            (block.src, block.ports(), block.payload()),
            (names(v4).1, (elsewhere, port), &b"block 1"[..])
        );
        guest.send(v4, (port, elsewhere), b"acknowledgement");
        assert_eq!(from(&other), seen);
        assert_eq!(guest.worker.flow_count(), 2);
        guest.sleep_until_flows_end();
        let _ = other.send_to(b"late", seen);
        assert!(guest.receive().is_empty());
    }
}

/// Who was not asked is not heard, also of those that another port of the guest asked.
#[test]
fn strangers_of_each_port() {
    let Some([asked, stranger]) = hosts(["10.9.9.1", "10.9.9.2"]) else { return };
    let mut guest = Guest::new(PLAIN, 1500);
    let own = names(true).0;
    send(&mut guest, (own, 40_000), asked.local_addr().unwrap(), b"?");
    send(&mut guest, (own, 40_001), stranger.local_addr().unwrap(), b"?");
    let seen = from(&asked);
    let dropped = guest.worker.drops(DropReason::NoFlow);
    for _ in 0..3 {
        stranger.send_to(b"let me in", seen).unwrap();
    }
    assert!(guest.receive().is_empty());
    assert_eq!(guest.worker.drops(DropReason::NoFlow), dropped + 3);
    asked.send_to(b"!", seen).unwrap();
    assert_eq!(guest.one().payload(), b"!");
}

/// What was sent to a group opens the guest's port to everybody, for as long as that flow lives: a
/// stranger who keeps sending does not make it longer, unless the guest answers.
#[test]
fn a_stranger_keeps_nothing_open() {
    for answers in [false, true] {
        let Some([_, stranger]) = hosts(["10.9.9.1", "10.9.9.2"]) else { return };
        let mut guest = Guest::new(PLAIN, 1500);
        let (own, port) = (names(true).0, free_port());
        send(&mut guest, (own, port), "239.9.9.9:9".parse().unwrap(), b"anybody?");
        guest.receive();
        let mut heard = Vec::new();
        for _ in 0..6 {
            stranger.send_to(b"hello", ("10.9.9.1", port)).unwrap();
            heard.push(guest.receive().iter().any(|packet| packet.payload() == b"hello"));
            if answers {
                send(&mut guest, (own, port), stranger.local_addr().unwrap(), b"who is it?");
                stranger.recv(&mut [0; 99]).unwrap();
            }
            guest.now = guest.now + passt_proto::time::Duration::from_secs(12);
            guest.turn();
        }
        assert_eq!(heard, [true, true, true, answers, answers, answers]);
    }
}

/// Joined datagrams of several peers, with a stranger's between them, arrive each at its flow.
#[test]
fn joined_datagrams_of_several_peers() {
    let Some([one, other, stranger]) = hosts(["10.9.9.1", "10.9.9.2", "10.9.9.3"]) else { return };
    let mut guest = Guest::new(OFFLOAD, 1500);
    let own = names(true).0;
    for server in [&one, &other] {
        send(&mut guest, (own, 40_000), server.local_addr().unwrap(), b"?");
    }
    // A host that sends to itself does so from the address that it sends to.
    let seen = [&one, &other, &one].map(|server| SocketAddr::new(server.local_addr().unwrap().ip(), 40_000));
    assert_eq!([from(&one), from(&other)], seen[..2]);
    for round in 0..5 {
        let mut expected = Vec::new();
        let senders = [(&one, 0, 20), (&stranger, 2, 3), (&other, 1, 7), (&stranger, 2, 1), (&one, 0, 1)];
        for (server, to, count) in senders {
            let payload = vec![count; 1000 + usize::from(count)];
            (0..count).for_each(|_| assert!(server.send_to(&payload, seen[to]).is_ok()));
            let at = server.local_addr().unwrap();
            if at != stranger.local_addr().unwrap() {
                expected.extend((0..count).map(|_| (Addr::from(at.ip()), payload.clone())));
            }
        }
        let mut received = Vec::new();
        while received.len() < expected.len() {
            received
                .extend(guest.answers().into_iter().map(|packet| (packet.src, packet.payload().to_vec())));
        }
        assert!(received == expected, "round {round}");
    }
}

/// What a rule and the guest have of one port.
#[derive(Clone, Copy, Debug)]
struct Shared {
    v4: bool,
    /// The rule was there first.
    first: bool,
    /// The rule is for one address of the host.
    one_address: bool,
    /// The rule leads to this port of the guest, or to the same.
    target: Option<u16>,
    /// The guest's peer sends much, so that its flow has a socket of its own.
    busy: bool,
}

/// A rule and the guest have the same port of the host, whichever came first: both are served, the
/// peers that the guest knows and those that come to where the rule listens; and nobody else can
/// have the port.
#[test]
fn a_port_for_a_rule_and_the_guest() {
    for number in 0..32 {
        let bit = |n: u32| number >> n & 1 == 1;
        let [v4, first, one_address, busy] = [0, 1, 2, 3].map(bit);
        if first && one_address {
            // At the others some other program may have the port: the guest has another one.
            continue;
        }
        shared_port(Shared { v4, first, one_address, busy, target: bit(4).then_some(7) });
    }
}

fn shared_port(case: Shared) {
    let Shared { v4, first, one_address, target, busy } = case;
    let addresses = if v4 {
        ["10.9.9.1", "10.9.9.2", "10.9.9.3"]
    } else {
        ["2001:db8:9::1", "2001:db8:9::2", "2001:db8:9::3"]
    };
    let Some([host, known, new]) = hosts(addresses) else { return };
    drop(host);
    let mut guest = Guest::new(PLAIN, 1500);
    let (own, port) = (names(v4).0, 40_000);
    let listen = one_address.then_some(addresses[0]);
    let rule = rule(listen, port, target.unwrap_or(port));
    let target = target.unwrap_or(port);
    if first {
        add(&mut guest, rule.clone());
    }
    send(&mut guest, (own, port), known.local_addr().unwrap(), b"?");
    assert_eq!(from(&known).port(), port, "{case:?}");
    let [at, elsewhere] = [0, 1].map(|n| SocketAddr::new(ip(addresses[n]), port));
    if busy {
        let mut one = || known.send_to(b"answer", elsewhere).is_ok() && guest.one().ports().1 == port;
        assert!((0..300).all(|_| one()));
    }
    if !first {
        add(&mut guest, rule);
    }
    let any = if v4 { "0.0.0.0" } else { "::" };
    assert!(UdpSocket::bind((addresses[0], port)).is_err() && UdpSocket::bind((any, port)).is_err());
    for _ in 0..3 {
        // Through whichever socket the kernel chooses.
        for to in [at, elsewhere] {
            known.send_to(b"answer", to).unwrap();
            let answer = guest.one();
            assert_eq!((answer.src, answer.ports().1), (addr(addresses[1]), port), "{case:?}");
        }
        new.send_to(b"question", at).unwrap();
        let question = guest.one();
        let new_port = new.local_addr().unwrap().port();
        assert_eq!((question.src, question.ports()), (addr(addresses[2]), (new_port, target)), "{case:?}");
        send(&mut guest, (question.dst, target), new.local_addr().unwrap(), b"answer");
        assert_eq!(from(&new), at);
        send(&mut guest, (own, port), known.local_addr().unwrap(), b"?");
        assert_eq!(from(&known).port(), port);
        // A stranger, where the rule does not listen.
        let dropped = guest.worker.drops(DropReason::NoFlow);
        let stranger = UdpSocket::bind((addresses[0], 0)).unwrap();
        stranger.send_to(b"question", elsewhere).unwrap();
        if one_address {
            assert!(guest.receive().is_empty(), "{case:?}");
            assert_eq!(guest.worker.drops(DropReason::NoFlow), dropped + 1, "{case:?}");
        } else {
            assert_eq!(guest.one().ports().1, target, "{case:?}");
        }
    }
    // The guest's own flow ends first.
    guest.now = guest.now + Duration::from_secs(20);
    new.send_to(b"question", at).unwrap();
    assert_eq!(guest.one().ports().1, target);
}

/// The guest sends from one address of the host (`-o`), and a rule has the same port at another one:
/// who asks there is answered from there, also where the guest has sent to him, and nobody comes to
/// the rule by the guest's own address.
#[test]
fn one_port_at_two_addresses() {
    let families =
        [(true, ["10.9.9.1", "10.9.9.2", "10.9.9.3"]), (false, ["fd00:9::1", "fd00:9::2", "fd00:9::3"])];
    let targets = [40_000, 7];
    for ((v4, addresses), target) in families.into_iter().flat_map(|family| targets.map(|to| (family, to))) {
        let Some([host, known, stranger]) = hosts(addresses) else { return };
        own_addresses(&[if v4 { "10.9.9.4" } else { "fd00:9::4" }]);
        drop(host);
        let (own, port) = (names(v4).0, 40_000);
        let rules_at = SocketAddr::new(ip(addresses[0]), port);
        let guests_at = SocketAddr::new(ip(if v4 { "10.9.9.4" } else { "fd00:9::4" }), port);
        let mut guest = Guest::new(PLAIN, 1500);
        guest.worker.context().core.guest.change(|guest| {
            let Configured { v4: of_v4, v6: of_v6, .. } = &mut guest.configured;
            (if v4 { of_v4 } else { of_v6 }).outbound = Some(guests_at.ip().into());
        });
        add(&mut guest, rule(Some(addresses[0]), port, target));
        let peers_at = known.local_addr().unwrap();
        send(&mut guest, (own, port), peers_at, b"?");
        assert_eq!(from(&known), guests_at);
        for _ in 0..3 {
            known.send_to(b"answer", guests_at).unwrap();
            assert_eq!(guest.one().ports(), (peers_at.port(), port));
            known.send_to(b"question", rules_at).unwrap();
            assert_eq!(guest.one().ports(), (peers_at.port(), target));
            send(&mut guest, (own, target), peers_at, b"answer");
            assert_eq!(from(&known), rules_at, "{target}");
            let dropped = guest.worker.drops(DropReason::NoFlow);
            stranger.send_to(b"question", guests_at).unwrap();
            assert!(guest.receive().is_empty());
            assert_eq!(guest.worker.drops(DropReason::NoFlow), dropped + 1);
            stranger.send_to(b"question", rules_at).unwrap();
            assert_eq!(guest.one().ports().1, target);
        }
    }
}

/// Adds a rule while flows are there.
fn add(guest: &mut Guest, rule: Rule) {
    let mut control = guest.worker.control();
    let entry = Entry { side: Side::Host, protocol: Protocol::Udp, rule };
    let plan = control.plan([Change::Add(entry)]);
    let mut apply = control.apply(plan);
    while control.step(&mut apply) != Progress::Done {}
    let applied = apply.finish();
    assert!(applied.refused().is_empty(), "{:?}", applied.refused());
    control.commit(applied).unwrap();
}
