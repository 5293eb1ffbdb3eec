//! Rules of forwarded ports that change while the engine runs. Clients are sockets on the loopback
//! interface, the guest is in memory.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod controlled;
mod guest;

use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{guest_port, ip, own_network, own_socket, rule};
use controlled::{apply, between, change, control, entry, home, own_port};
use guest::{Guest, PLAIN, names, server};
use passt_engine::control::Committed;
use passt_engine::flow::{Protocol, Side};
use passt_engine::forward::rule::{PortRange, Rule};
use passt_engine::forward::{Change, Entry, Extent, Progress, Reason};
use passt_engine::link::none::NoLink;
use passt_engine::process::Uncommitted;
use passt_engine::worker::Worker;
use passt_proto::seq::Seq;
use passt_proto::time::Instant;
use passt_proto::wire::tcp::{Flags, Segment};
use rustix::net::sockopt;

/// Sockets closed, and flows ended with them.
fn counts(committed: &Committed) -> (usize, usize) {
    (committed.closed, committed.ended)
}

/// Held by each test: who looks for a socket has those of all tests for a moment, and their ports
/// are not free meanwhile.
fn alone() -> MutexGuard<'static, ()> {
    static TESTS: Mutex<()> = Mutex::new(());
    TESTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the kernel calls the socket that listens at a port.
fn inode(port: u16) -> u64 {
    let listens = |fd: &OwnedFd, at: SocketAddr| {
        at == SocketAddr::from((home(), port)) && sockopt::socket_acceptconn(fd) == Ok(true)
    };
    rustix::fs::fstat(own_socket(listens)).unwrap().st_ino
}

fn refuses(port: u16) -> bool {
    let refused = TcpStream::connect((home(), port)).err();
    refused.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// A client of a forwarded port whose connection the guest accepts at `to`, and the guest's next
/// segment.
fn accepted(guest: &mut Guest, port: u16, to: u16) -> (TcpStream, Segment) {
    let client = TcpStream::connect((home(), port)).unwrap();
    let segments = |guest: &mut Guest| {
        let packets = guest.receive().into_iter();
        packets.map(|packet| Segment::parse(&packet.bytes).unwrap().0).collect::<Vec<_>>()
    };
    let syn = |guest: &mut Guest| segments(guest).into_iter().find(|segment| segment.flags == Flags::SYN);
    let syn = (0..1000).find_map(|_| syn(guest)).unwrap();
    assert_eq!(syn.dst_port, to);
    let answer = Segment {
        src_port: to,
        dst_port: syn.src_port,
        seq: Seq(5000),
        ack: syn.seq + 1,
        flags: Flags::SYN | Flags::ACK,
        window: 65_535,
        ..Segment::default()
    };
    guest.segment(names(true).1, &answer, &[]);
    guest.turn();
    (client, Segment { seq: Seq(5001), flags: Flags::ACK, ..answer })
}

/// Has the guest send something, which its client receives.
fn says(guest: &mut Guest, next: &mut Segment, client: &mut TcpStream, text: &[u8]) {
    guest.segment(names(true).1, next, text);
    guest.turn();
    next.seq += u32::try_from(text.len()).unwrap();
    let mut received = vec![0; text.len()];
    client.read_exact(&mut received).unwrap();
    assert_eq!(received, text);
}

/// Rules are added, refused, rolled back and deleted, while a connection goes on and other sockets
/// stay the same.
#[test]
fn rules_change_under_traffic() {
    let _alone = alone();
    let mut guest = Guest::new(PLAIN, 1500);
    let [stays, goes, comes] = [(); 3].map(|()| own_port());
    let [a, b, c] = [(stays, 80), (goes, 81), (comes, 82)].map(|(port, to)| entry(Protocol::Tcp, port, to));
    let committed = change(&mut guest.worker, &[Change::Add(a.clone()), Change::Add(b.clone())]);
    assert_eq!(counts(&committed), (0, 0));
    let sockets = [inode(stays), inode(goes)];
    let (mut client, mut next) = accepted(&mut guest, stays, 80);
    says(&mut guest, &mut next, &mut client, b"before");
    let (mut other, mut other_next) = accepted(&mut guest, goes, 81);

    let taken = TcpListener::bind((home(), own_port())).unwrap();
    let d = entry(Protocol::Tcp, taken.local_addr().unwrap().port(), 83);
    let changes = [Change::Delete(b.clone()), Change::Add(c.clone()), Change::Add(d.clone())];
    let applied = apply(&mut guest.worker, &changes);
    assert!(applied.lacks_rules() && applied.refused().len() == 1);
    assert_eq!(applied.refused()[0].entry, d);
    assert!(matches!(applied.refused()[0].reason, Reason::Port { .. }));
    says(&mut guest, &mut next, &mut client, b"while applied");
    assert_eq!(applied.roll_back().len(), 1);
    assert!(refuses(comes), "rolled back");
    assert_eq!([inode(stays), inode(goes)], sockets);
    let (mut again, mut again_next) = accepted(&mut guest, goes, 81);
    says(&mut guest, &mut again_next, &mut again, b"as before");

    // The same without the one that can't be had; and what a commit leaves out is left out.
    let applied = apply(&mut guest.worker, &changes);
    let committed = control(&mut guest.worker).commit(applied).unwrap();
    assert_eq!(counts(&committed), (1, 0));
    assert!(refuses(goes));
    assert_eq!(inode(stays), sockets[0]);
    let (mut new, mut new_next) = accepted(&mut guest, comes, 82);
    says(&mut guest, &mut new_next, &mut new, b"new");
    says(&mut guest, &mut other_next, &mut other, b"accepted before");
    let rules: Vec<_> = control(&mut guest.worker).rules().map(|(e, n)| (e.clone(), n)).collect();
    assert_eq!(rules, [(a.clone(), 1), (c.clone(), 1)]);

    // With its rule gone a connection goes on.
    assert_eq!(change(&mut guest.worker, &[Change::Delete(a.clone())]).closed, 1);
    assert!(refuses(stays));
    says(&mut guest, &mut next, &mut client, b"to the end");
    // What is there, and what is not, is no change.
    let nothing = [Change::Add(c), Change::Delete(a), Change::Delete(b)];
    assert!(control(&mut guest.worker).plan(nothing.clone()).is_empty());
    let socket = inode(comes);
    assert_eq!(counts(&change(&mut guest.worker, &nothing)), (0, 0));
    assert_eq!(inode(comes), socket);
}

/// Who was slower with a plan for the same rules changes nothing.
#[test]
fn plans_that_are_out_of_date() {
    let _alone = alone();
    let mut guest = Guest::new(PLAIN, 1500);
    let ports = [(); 2].map(|()| own_port());
    let [first, second] =
        ports.map(|port| apply(&mut guest.worker, &[Change::Add(entry(Protocol::Tcp, port, 80))]));
    control(&mut guest.worker).commit(first).unwrap();
    let error = control(&mut guest.worker).commit(second).unwrap_err();
    assert!(matches!(error, Uncommitted::Stale(_)));
    assert!(!refuses(ports[0]) && refuses(ports[1]));
    assert_eq!(control(&mut guest.worker).occupancy().listeners.open, 1);
}

/// Flows of datagrams end with the socket that they travel through, others do not.
#[test]
fn datagrams_end_with_their_socket() {
    let _alone = alone();
    let mut guest = Guest::new(PLAIN, 1500);
    let ports = [(); 2].map(|()| own_port());
    let add = ports.map(|port| Change::Add(entry(Protocol::Udp, port, 7)));
    change(&mut guest.worker, &add);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let others: Vec<_> = ports.iter().map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for (other, port) in others.iter().zip(ports) {
        other.send_to(b"?", (home(), port)).unwrap();
        guest.one();
    }
    client.send_to(b"?", (home(), ports[0])).unwrap();
    guest.one();
    let (_server, port) = server(true);
    guest.send(true, (guest_port(), port), b"?");
    assert_eq!(guest.worker.flow_count(), 4);
    let committed = change(&mut guest.worker, &[Change::Delete(entry(Protocol::Udp, ports[0], 7))]);
    assert_eq!((counts(&committed), guest.worker.flow_count()), ((1, 2), 2));
    others[1].send_to(b"still", (home(), ports[1])).unwrap();
    assert_eq!(guest.one().payload(), b"still");
    // The port can be had by others.
    UdpSocket::bind((home(), ports[0])).unwrap();
}

/// A rule that replaces another has its socket, and whoever waits there is served.
#[test]
fn a_socket_is_handed_over() {
    let _alone = alone();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut guest = Guest::new(PLAIN, 1500);
        let port = own_port();
        let [old, new] = [80, 81].map(|to| entry(protocol, port, to));
        change(&mut guest.worker, &[Change::Add(old.clone())]);
        assert!(!control(&mut guest.worker).plan([Change::Add(new.clone())]).refused().is_empty());
        let replace = [Change::Delete(old.clone()), Change::Add(new.clone())];
        // Rolled back, the old one is as it was.
        drop(apply(&mut guest.worker, &replace));
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut kept = Vec::new();
        for (to, replaced) in [(80, false), (81, true)] {
            match protocol {
                Protocol::Tcp => kept.push(TcpStream::connect((home(), port)).unwrap()),
                _ => drop(client.send_to(b"?", (home(), port)).unwrap()),
            }
            if replaced {
                // Flows of datagrams would lead elsewhere.
                let closed = change(&mut guest.worker, &replace).closed;
                assert_eq!(closed, usize::from(protocol == Protocol::Udp));
            }
            let packet = guest.answers().pop().unwrap();
            assert_eq!(packet.ports().1, to, "{protocol:?}");
        }
        assert_eq!(control(&mut guest.worker).occupancy().listeners.open, 1);
        assert_eq!(change(&mut guest.worker, &[Change::Delete(new)]).closed, 1);
        assert!(guest.receive().is_empty() || protocol == Protocol::Tcp);
        let free = match protocol {
            Protocol::Tcp => TcpListener::bind((home(), port)).is_ok() || refuses(port),
            _ => UdpSocket::bind((home(), port)).is_ok(),
        };
        assert!(free, "{protocol:?}");
    }
}

/// Of a range that may lack ports, the rest is there; one that may not is refused as a whole.
#[test]
fn ranges() {
    let _alone = alone();
    let mut guest = Guest::new(PLAIN, 1500);
    let port = own_port();
    let taken = TcpListener::bind((home(), port)).unwrap();
    let ports = PortRange::new(port, port + 2).unwrap();
    for weak in [false, true] {
        let rule = Rule { weak, ports, ..rule(Some(&home().to_string()), port, 80) };
        let range = Entry { side: Side::Host, protocol: Protocol::Tcp, rule };
        let applied = apply(&mut guest.worker, &[Change::Add(range)]);
        assert_eq!(applied.lacks_rules(), !weak);
        assert!(applied.refused().iter().all(|refusal| refusal.extent == Extent::Whole));
        control(&mut guest.worker).commit(applied).unwrap();
        assert_eq!(control(&mut guest.worker).occupancy().listeners.open, if weak { 2 } else { 0 });
    }
    drop(taken);
}

/// Sockets in the namespace are opened by the thread that stays there, a part at a time.
#[test]
fn rules_of_the_namespace() {
    let _alone = alone();
    if own_network().is_err() {
        return passt_testing::skip("no network of its own");
    }
    let mut worker = between();
    let ports = PortRange::new(10_000, 10_199).unwrap();
    let rule = Rule { ports, ..rule(None, 10_000, 20_000) };
    let entry = Entry { side: Side::Namespace, protocol: Protocol::Tcp, rule };
    let plan = control(&mut worker).plan([Change::Add(entry.clone())]);
    let mut opening = control(&mut worker).apply(plan);
    let mut waited = 0;
    loop {
        match control(&mut worker).step(&mut opening) {
            Progress::Done => break,
            Progress::More => {}
            Progress::Waits => {
                waited += 1;
                opening.wait();
            }
        }
    }
    assert!(waited >= 4, "{waited}");
    control(&mut worker).commit(opening.finish()).unwrap();
    assert_eq!(control(&mut worker).occupancy().listeners.open, 200);
    assert!(!refuses(10_000) && !refuses(10_199));
    assert_eq!(change(&mut worker, &[Change::Delete(entry.clone())]).closed, 200);
    assert!(refuses(10_000) && refuses(10_199));
    // What is not waited for is not there.
    let plan = control(&mut worker).plan([Change::Add(entry)]);
    let mut opening = control(&mut worker).apply(plan);
    control(&mut worker).step(&mut opening);
    let applied = opening.finish();
    assert!(applied.lacks_rules());
    control(&mut worker).commit(applied).unwrap();
    assert!(control(&mut worker).rules().next().is_none());
}

/// Rules that follow services begin and cease to do so while the engine runs.
#[test]
fn rules_that_follow() {
    let _alone = alone();
    if own_network().is_err() {
        return passt_testing::skip("no network of its own");
    }
    for side in [Side::Host, Side::Namespace] {
        let mut worker = between();
        let ports = PortRange::new(10_000, 10_099).unwrap();
        let listen = (side == Side::Host).then(|| home().to_string());
        let rule = Rule { ports, weak: true, scan: true, ..rule(listen.as_deref(), 10_000, 10_100) };
        let entry = Entry { side, protocol: Protocol::Tcp, rule };
        let add = [Change::Add(entry.clone())];
        let applied = apply(&mut worker, &add);
        assert!(matches!(applied.refused()[0].reason, Reason::Services));
        drop(applied);

        worker.prepare_to_follow().unwrap();
        let mut now = Instant::from_millis(1000);
        let mut after = |worker: &mut Worker<NoLink>, ms| {
            now = now + Duration::from_millis(ms);
            worker.turn(now).unwrap();
            while worker.awaits_namespace() || worker.next_timeout().is_some_and(|due| due <= now) {
                worker.turn(now).unwrap();
                std::thread::yield_now();
            }
        };
        after(&mut worker, 0);
        assert_eq!(worker.next_timeout(), None, "nobody asks");
        let _service = TcpListener::bind((ip("127.0.0.1"), 10_107)).unwrap();
        for _ in 0..2 {
            change(&mut worker, &add);
            after(&mut worker, 0);
            assert!(!refuses(10_007) && refuses(10_008), "{side:?}");
            let committed = change(&mut worker, &[Change::Delete(entry.clone())]);
            assert_eq!(committed.closed, 1, "{side:?}");
            assert!(refuses(10_007), "{side:?}");
            after(&mut worker, 2000);
            assert!(refuses(10_007), "{side:?}");
            assert_eq!(worker.next_timeout(), None, "{side:?}");
        }
    }
}

/// A client of the guest's is answered from the address and port that it sent to, whether the
/// commit of another rule has failed there, or one was widened, and whoever speaks first
/// afterwards.
#[test]
fn datagrams_go_on_where_a_socket_stays() {
    let _alone = alone();
    for fails in [true, false] {
        let mut guest = Guest::new(PLAIN, 1500);
        let port = own_port();
        let old = entry(Protocol::Udp, port, 7);
        change(&mut guest.worker, &[Change::Add(old.clone())]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let ports = (7, client.local_addr().unwrap().port());
        client.send_to(b"?", (home(), port)).unwrap();
        let packet = guest.answers().pop().unwrap();
        assert_eq!(packet.ports(), (ports.1, 7));
        let answer = |guest: &mut Guest| {
            guest.send(true, ports, b"!");
            let (_, from) = client.recv_from(&mut [0; 9]).unwrap();
            assert_eq!(from, (home(), port).into(), "{fails}");
        };
        answer(&mut guest);
        let range = PortRange::new(port, port + if fails { 0 } else { 500 }).unwrap();
        let listen = if fails { "0.0.0.0".to_owned() } else { home().to_string() };
        let new = Entry { rule: Rule { ports: range, ..rule(Some(&listen), port, 7) }, ..old.clone() };
        let applied = apply(&mut guest.worker, &[Change::Delete(old), Change::Add(new)]);
        assert!(applied.refused().is_empty());
        let other = fails.then(|| UdpSocket::bind(("127.0.0.77", port)).unwrap());
        assert_eq!(control(&mut guest.worker).commit(applied).is_err(), fails);
        drop(other);
        answer(&mut guest);
        client.send_to(b"?", (home(), port)).unwrap();
        assert_eq!(guest.answers().len(), 1);
        answer(&mut guest);
    }
}
