//! What can be asked of a running engine, and flows that are ended. Clients and servers are sockets
//! on the loopback interface, the guest is in memory.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod controlled;
mod guest;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use common::{guest_port, own_limits, pattern, usual_limits};
use controlled::{between, change, control, entry, home, list, own_port};
use guest::{Connected, Guest, OFFLOAD, PLAIN, names, server};
use passt_engine::control::{Cursor, NoFlow};
use passt_engine::flow::account::Carried;
use passt_engine::flow::{Handle, Protocol, Side, Via};
use passt_engine::forward::Change;
use passt_engine::link::none::NoLink;
use passt_engine::protocols::facts::State;
use passt_engine::worker::Worker;
use passt_proto::addr::Endpoint;
use passt_proto::seq::Seq;
use passt_proto::time::Instant;
use passt_proto::wire::tcp::{Flags, Segment};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Flows that live all the time are listed once each, whatever begins and ends between two pages.
#[test]
fn a_list_survives_changes() {
    let _limits = usual_limits();
    for most in [1, 3, 7, 1000] {
        let mut guest = Guest::new(PLAIN, 1500);
        let (_server, port) = server(true);
        for own in 0..40 {
            guest.send(true, (41_000 + own, port), b"?");
        }
        let before: Vec<Handle> = list(&mut guest.worker, 1000).iter().map(|flow| flow.handle).collect();
        assert_eq!(before.len(), 40);
        let mut seen = BTreeMap::<u32, Vec<Handle>>::new();
        let (mut from, mut own, mut ended) = (Some(Cursor::START), 42_000, Vec::new());
        while let Some(cursor) = from {
            let page = control(&mut guest.worker).flows(cursor, most);
            for flow in page.flows {
                seen.entry(flow.handle.index).or_default().push(flow.handle);
            }
            from = page.next.map(|next| Cursor::from_number(next.to_number()));
            // One of the first and one of the last end, and one begins in the place of one of them.
            for place in [ended.len() / 2, 39 - ended.len() / 2] {
                let handle = before[place];
                if control(&mut guest.worker).end(handle).is_ok() {
                    ended.push(handle);
                }
            }
            guest.send(true, (own, port), b"?");
            own += 1;
        }
        for handle in before.iter().filter(|handle| !ended.contains(handle)) {
            assert_eq!(seen.get(&handle.index), Some(&vec![*handle]), "{most}: {handle:?}");
        }
        assert!(
            seen.values()
                .flatten()
                .all(|handle| { seen.values().flatten().filter(|other| *other == handle).count() == 1 })
        );
    }
}

/// A connection of the guest: who takes part, how far it is, and what it has carried.
#[test]
fn what_is_told_of_a_connection() {
    let _limits = usual_limits();
    let mut guest = Guest::new(OFFLOAD, 1500);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let Connected { mut peer, remote, mut next, .. } = guest.connect(&listener, 40_000);
    let at = listener.local_addr().unwrap();
    let one = |guest: &mut Guest| {
        let flows = list(&mut guest.worker, 10);
        assert_eq!(flows.len(), 1);
        let again = control(&mut guest.worker).flow(flows[0].handle).unwrap();
        assert_eq!((again.out, again.state), (flows[0].out, flows[0].state));
        flows[0]
    };
    let flow = one(&mut guest);
    assert_eq!((flow.protocol, flow.via, flow.state.name()), (Protocol::Tcp, Via::Link, "open"));
    assert_eq!(flow.guest, Endpoint::new(names(true).0, 40_000));
    assert_eq!(flow.remote, Endpoint::new(remote, at.port()));
    assert_eq!((flow.target, flow.target_side()), (Some(at.into()), Side::Host));
    assert_eq!(flow.local, Some(peer.peer_addr().unwrap().into()));
    assert_eq!((flow.out, flow.inward), (Carried::default(), Carried::default()));

    for len in [1000, 1460] {
        guest.segment(remote, &next, &pattern(len));
        next.seq += u32::try_from(len).unwrap();
    }
    guest.turn();
    peer.read_exact(&mut [0; 2460]).unwrap();
    peer.write_all(&pattern(500)).unwrap();
    guest.answers();
    let flow = one(&mut guest);
    assert_eq!(flow.out, Carried { bytes: 2460, units: 2 });
    assert_eq!(flow.inward, Carried { bytes: 0, units: 1 }, "sent, and not acknowledged");
    next.ack += 500;
    guest.segment(remote, &next, &[]);
    guest.turn();
    assert_eq!(one(&mut guest).inward, Carried { bytes: 500, units: 1 });

    guest.now = guest.now + Duration::from_secs(10);
    guest.turn();
    let flow = one(&mut guest);
    let about = |time: Duration| (9_900..10_200).contains(&time.as_millis());
    assert!(about(flow.age) && about(flow.idle), "{flow:?}");
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    guest.turn();
    assert_eq!(one(&mut guest).state, State::HostFinished);
    guest.segment(remote, &Segment { flags: Flags::ACK | Flags::FIN, ..next }, &[]);
    guest.turn();
    assert_eq!(one(&mut guest).state, State::BothFinished);
}

/// Datagrams of the guest, and through a forwarded port.
#[test]
fn what_is_told_of_datagrams() {
    let _limits = usual_limits();
    let mut guest = Guest::new(PLAIN, 1500);
    let (server, port) = server(true);
    let one = |guest: &mut Guest| list(&mut guest.worker, 10)[0];
    for (round, state) in [State::Single, State::Lasting].into_iter().enumerate() {
        guest.send(true, (guest_port(), port), &pattern(100));
        let before = if round == 0 { State::Unanswered } else { State::Single };
        assert_eq!(one(&mut guest).state, before);
        let (_, from) = server.recv_from(&mut [0; 200]).unwrap();
        server.send_to(&pattern(300), from).unwrap();
        guest.one();
        assert_eq!(one(&mut guest).state, state);
    }
    let flow = one(&mut guest);
    assert_eq!(flow.out, Carried { bytes: 200, units: 2 });
    assert_eq!(flow.inward, Carried { bytes: 600, units: 2 });
    assert_eq!(flow.target, Some(server.local_addr().unwrap().into()));

    let forwarded = own_port();
    change(&mut guest.worker, &[Change::Add(entry(Protocol::Udp, forwarded, 7))]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(&pattern(50), (home(), forwarded)).unwrap();
    guest.one();
    let flow = list(&mut guest.worker, 10)[1];
    assert_eq!(flow.guest, Endpoint::new(names(true).0, 7));
    assert_eq!(flow.target, Some(client.local_addr().unwrap().into()));
    assert_eq!(flow.local.map(|local| local.port), Some(forwarded));
    assert_eq!((flow.state, flow.inward), (State::Unanswered, Carried { bytes: 50, units: 1 }));
}

/// Both sides of a connection are reset, and nobody else hears of it.
#[test]
fn one_flow_is_ended() {
    let _limits = usual_limits();
    let mut guest = Guest::new(PLAIN, 1500);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut first = guest.connect(&listener, 40_000);
    let mut second = guest.connect(&listener, 40_001);
    let handles: Vec<Handle> = list(&mut guest.worker, 10).iter().map(|flow| flow.handle).collect();
    control(&mut guest.worker).end(handles[0]).unwrap();
    let told = guest.answers();
    let (reset, _) = Segment::parse(&told[0].bytes).unwrap();
    assert!(reset.flags.contains(Flags::RST) && reset.dst_port == 40_000 && told.len() == 1);
    assert_eq!(first.peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);

    assert_eq!(control(&mut guest.worker).end(handles[0]), Err(NoFlow));
    // Its slot has another flow now.
    let mut third = guest.connect(&listener, 40_002);
    assert_eq!(list(&mut guest.worker, 10)[0].handle.index, handles[0].index);
    assert_eq!(control(&mut guest.worker).end(handles[0]), Err(NoFlow));
    assert_eq!(control(&mut guest.worker).flow(handles[0]).unwrap_err(), NoFlow);
    let nowhere = Handle { index: u32::MAX, generation: 0 };
    assert_eq!(control(&mut guest.worker).end(nowhere), Err(NoFlow));
    for Connected { peer, remote, next, .. } in [&mut second, &mut third] {
        guest.segment(*remote, next, b"still here");
        guest.turn();
        let mut text = [0; 10];
        peer.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"still here");
    }
    assert_eq!(guest.worker.flow_count(), 2);
}

/// What a guest was told of and waits in slack ends in a reset, too, and slack has all its blocks
/// again.
#[test]
fn a_flow_that_owes_is_ended() {
    let _limits = usual_limits();
    let mut guest = Guest::new(OFFLOAD, 1500);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let Connected { mut peer, remote, mut next, .. } = guest.connect(&listener, 40_000);
    let data = pattern(14_600);
    // The peer reads nothing. A guest that repeats in vain is told of what lies in slack.
    while control(&mut guest.worker).occupancy().slack.used == 0 {
        guest.segment(remote, &next, &data);
        guest.turn();
        next.seq += 14_600;
    }
    let last = Segment { seq: Seq(next.seq.0.wrapping_sub(14_600)), ..next };
    for _ in 0..30 {
        guest.now = guest.now + Duration::from_millis(100);
        guest.segment(remote, &last, &data);
        guest.turn();
    }
    let handle = list(&mut guest.worker, 1)[0].handle;
    control(&mut guest.worker).end(handle).unwrap();
    assert_eq!(control(&mut guest.worker).occupancy().slack.used, 0);
    let outcome = std::io::copy(&mut peer, &mut std::io::sink());
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn how_full_everything_is() {
    let _limits = usual_limits();
    let mut guest = Guest::new(PLAIN, 1500);
    let (_server, port) = server(true);
    for own in 0..5 {
        guest.send(true, (41_000 + own, port), b"?");
    }
    change(&mut guest.worker, &[Change::Add(entry(Protocol::Udp, own_port(), 7))]);
    let occupancy = control(&mut guest.worker).occupancy();
    assert_eq!((occupancy.flows.used, occupancy.flows.of, occupancy.slots.used), (5, 64, 5));
    assert_eq!((occupancy.listeners.open, occupancy.listeners.waiting), (1, 0));
    assert!(occupancy.descriptors.used > 0 && occupancy.descriptors.used < occupancy.descriptors.of);
    assert_eq!((occupancy.slack.used, occupancy.left_behind.used, occupancy.datagrams.used), (0, 0, 0));
    let control = control(&mut guest.worker);
    assert_eq!(control.counters().flows, 5);
    assert_eq!(control.drops().map(|(_, count)| count).sum::<u64>(), 0);
}

/// Connections past the link: their two sides, and how one is ended.
#[test]
fn past_the_link() {
    let _limits = usual_limits();
    let mut worker = between();
    let listener = TcpListener::bind((home(), own_port())).unwrap();
    let to = listener.local_addr().unwrap();
    let port = own_port();
    change(&mut worker, &[Change::Add(entry(Protocol::Tcp, port, to.port()))]);
    let now = Instant::from_millis(1000);
    let turns = |worker: &mut Worker<NoLink>| (0..3).for_each(|_| worker.turn(now).unwrap());
    let connect = |worker: &mut Worker<NoLink>| {
        let client = TcpStream::connect((home(), port)).unwrap();
        let before = worker.flow_count();
        while worker.flow_count() == before || worker.awaits_namespace() {
            worker.turn(now).unwrap();
            std::thread::yield_now();
        }
        [client, listener.accept().unwrap().0]
    };
    let [mut client, mut served] = connect(&mut worker);
    client.write_all(&pattern(700)).unwrap();
    served.write_all(&pattern(300)).unwrap();
    turns(&mut worker);
    served.read_exact(&mut [0; 700]).unwrap();
    client.read_exact(&mut [0; 300]).unwrap();
    let flow = list(&mut worker, 10)[0];
    assert_eq!((flow.via, flow.target_side()), (Via::Bypass(Side::Host), Side::Namespace));
    assert_eq!(flow.remote, client.local_addr().unwrap().into());
    assert_eq!(flow.guest, client.peer_addr().unwrap().into());
    assert_eq!(flow.target, Some(to.into()));
    assert_eq!(flow.local, Some(served.peer_addr().unwrap().into()));
    assert_eq!((flow.out.bytes, flow.inward.bytes, flow.state), (700, 300, State::Open));
    control(&mut worker).end(flow.handle).unwrap();
    for end in [&mut client, &mut served] {
        let outcome = std::io::copy(end, &mut std::io::sink());
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    for (first, state) in [(0, State::HostFinished), (1, State::GuestFinished)] {
        let ends = connect(&mut worker);
        ends[first].shutdown(std::net::Shutdown::Write).unwrap();
        turns(&mut worker);
        assert_eq!(list(&mut worker, 10)[0].state, state);
        ends[1 - first].shutdown(std::net::Shutdown::Write).unwrap();
        turns(&mut worker);
        assert_eq!(worker.flow_count(), 0);
    }
}

/// What a connection past the link has carried is counted once, also where no pipe can be had and
/// what finds no room stays in the receive queue.
#[test]
fn bytes_past_the_link_without_pipes() {
    let _limits = own_limits();
    let mut worker = between();
    let listener = TcpListener::bind((home(), own_port())).unwrap();
    let port = own_port();
    change(&mut worker, &[Change::Add(entry(Protocol::Tcp, port, listener.local_addr().unwrap().port()))]);
    let now = Instant::from_millis(1000);
    let connect = |worker: &mut Worker<NoLink>, flows| {
        let client = TcpStream::connect((home(), port)).unwrap();
        while worker.flow_count() < flows || worker.awaits_namespace() {
            worker.turn(now).unwrap();
            std::thread::yield_now();
        }
        let served = listener.accept().unwrap().0;
        client.set_nonblocking(true).unwrap();
        served.set_nonblocking(true).unwrap();
        (client, served)
    };
    let (mut first, mut second) = (connect(&mut worker, 1), connect(&mut worker, 2));
    (0..5).for_each(|_| worker.turn(now).unwrap());
    let usual = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..usual }).unwrap();
    let data = pattern(1 << 16);
    // It takes what pipes there are.
    for _ in 0..2000 {
        let _ = first.0.write(&data);
        worker.turn(now).unwrap();
    }
    let (mut written, mut small) = (0, vec![0; 20_000]);
    for round in 0..2000 {
        written += if round < 1000 { second.0.write(&data).unwrap_or(0) as u64 } else { 0 };
        worker.turn(now).unwrap();
        if round % 4 == 0 {
            let _ = second.1.read(&mut small);
        }
    }
    setrlimit(Resource::Nofile, usual).unwrap();
    let told = list(&mut worker, 10)[1].out.bytes;
    assert!(told > 0 && told <= written, "{told} of {written}");
}
