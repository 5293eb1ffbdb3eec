//! Rules in the place of others, while clients come, services go and other plans are made.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
mod controlled;

use std::io::{ErrorKind, Read as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{own_network, rule};
use controlled::{apply, between, change, entry, home, own_port};
use passt_engine::core::Token;
use passt_engine::flow::{Protocol, Side};
use passt_engine::forward::rule::{PortRange, Rule};
use passt_engine::forward::{Apply, Change, Entry, Extent, Progress, Reason};
use passt_engine::link::none::NoLink;
use passt_engine::process::Uncommitted;
use passt_engine::worker::Worker;
use passt_proto::time::Instant;
use rustix::event::epoll::EventFlags;
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A network of this test's own, one after the other; `None` where there can't be one.
fn network() -> Option<MutexGuard<'static, ()>> {
    static TESTS: Mutex<()> = Mutex::new(());
    let alone = TESTS.lock().unwrap_or_else(PoisonError::into_inner);
    if own_network().is_ok() {
        return Some(alone);
    }
    passt_testing::skip("no network of its own");
    None
}

fn refuses(port: u16) -> bool {
    let refused = TcpStream::connect((home(), port)).err();
    refused.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn open(worker: &mut Worker<NoLink>) -> usize {
    worker.control().occupancy().listeners.open
}

fn inside(rule: Rule) -> Entry {
    Entry { side: Side::Namespace, protocol: Protocol::Tcp, rule }
}

/// A hundred ports from 10000 on, as services listen a hundred further on.
fn following(listen: Option<&str>) -> Rule {
    let ports = PortRange::new(10_000, 10_099).unwrap();
    Rule { ports, weak: true, scan: true, ..rule(listen, 10_000, 10_100) }
}

/// Lets time pass, and does all there is to do then.
fn after(worker: &mut Worker<NoLink>, now: &mut Instant, ms: u64) {
    *now = *now + Duration::from_millis(ms);
    worker.turn(*now).unwrap();
    while worker.awaits_namespace() || worker.next_timeout().is_some_and(|due| due <= *now) {
        worker.turn(*now).unwrap();
        std::thread::yield_now();
    }
}

/// Rounds of the loop in 200 ms.
fn rounds(worker: &mut Worker<NoLink>) -> u64 {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap();
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    let at = Itimerspec { it_interval: none, it_value: Timespec { tv_sec: 0, tv_nsec: 200_000_000 } };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &at).unwrap();
    worker.context().core.watch(&timer, Token::External(3), EventFlags::IN).unwrap();
    let before = worker.context().core.counters.rounds;
    worker.run(&mut |_, _: &mut passt_engine::control::Control<'_, _>| true);
    worker.context().core.counters.rounds - before
}

/// A plan that is in the place of a rule which follows a service, when that goes before the commit:
/// it is out of date, and nothing is left that could be reported for ever.
#[test]
fn a_socket_that_is_to_be_handed_over_goes_before() {
    let Some(_alone) = network() else { return };
    let mut worker = between();
    worker.prepare_to_follow().unwrap();
    let mut now = passt_engine::clock();
    let service = TcpListener::bind(("0.0.0.0", 10_107)).unwrap();
    let auto =
        Entry { side: Side::Host, protocol: Protocol::Tcp, rule: following(Some(&home().to_string())) };
    change(&mut worker, &[Change::Add(auto.clone())]);
    after(&mut worker, &mut now, 0);
    assert!(!refuses(10_007));
    let fixed = entry(Protocol::Tcp, 10_007, 10_107);
    let changes = [Change::Delete(auto), Change::Add(fixed)];
    let applied = apply(&mut worker, &changes);
    assert!(applied.refused().is_empty(), "{:?}", applied.refused());
    drop(service);
    after(&mut worker, &mut now, 2000);
    assert!(refuses(10_007), "nobody listens there");
    assert!(matches!(worker.control().commit(applied), Err(Uncommitted::Stale(_))));
    change(&mut worker, &changes);
    let _client = TcpStream::connect((home(), 10_007)).unwrap();
    assert!(rounds(&mut worker) < 50);
}

/// A plan that is out of date holds no socket of a rule that another has deleted.
#[test]
fn a_port_is_free_once_its_rule_is_gone() {
    let Some(_alone) = network() else { return };
    let mut worker = between();
    let port = own_port();
    let [old, new] = [80, 81].map(|to| entry(Protocol::Tcp, port, to));
    change(&mut worker, &[Change::Add(old.clone())]);
    let first = apply(&mut worker, &[Change::Delete(old.clone()), Change::Add(new)]);
    assert_eq!(change(&mut worker, &[Change::Delete(old.clone())]).closed, 1);
    assert!(refuses(port));
    change(&mut worker, &[Change::Add(old)]);
    assert!(matches!(worker.control().commit(first), Err(Uncommitted::Stale(_))));
    assert!(!refuses(port) && open(&mut worker) == 1);
}

/// What is open and not in effect is no service.
#[test]
fn sockets_that_are_not_committed_are_not_followed() {
    let Some(_alone) = network() else { return };
    let mut worker = between();
    worker.prepare_to_follow().unwrap();
    let mut now = Instant::from_millis(1000);
    change(&mut worker, &[Change::Add(inside(following(None)))]);
    after(&mut worker, &mut now, 0);
    let host = Entry { side: Side::Host, ..inside(rule(Some("127.0.0.1"), 10_107, 80)) };
    let applied = apply(&mut worker, &[Change::Add(host)]);
    assert!(applied.refused().is_empty());
    for _ in 0..2 {
        after(&mut worker, &mut now, 2000);
        assert_eq!(open(&mut worker), 0);
    }
    worker.control().commit(applied).unwrap();
    after(&mut worker, &mut now, 2000);
    assert_eq!(open(&mut worker), 1);
    assert!(TcpStream::connect(("127.0.0.1", 10_007)).is_err());
}

/// A rule may listen at another address than the one that it replaces, at the same port.
#[test]
fn another_address_at_the_same_port() {
    let Some(_alone) = network() else { return };
    let addresses = [None, Some("0.0.0.0"), Some("127.0.0.1")];
    for (old, new) in addresses.iter().flat_map(|old| addresses.iter().map(move |new| (*old, *new))) {
        let mut worker = between();
        let [old, new] = [old, new].map(|listen| Entry {
            side: Side::Host,
            ..inside(Rule { ports: PortRange::new(10_000, 10_070).unwrap(), ..rule(listen, 10_000, 80) })
        });
        let changed = old != new;
        change(&mut worker, &[Change::Add(old.clone())]);
        let committed = change(&mut worker, &[Change::Delete(old), Change::Add(new)]);
        assert_eq!((committed.closed, open(&mut worker)), (if changed { 71 } else { 0 }, 71));
        let client = TcpStream::connect(("127.0.0.1", 10_070));
        assert!(client.is_ok(), "{client:?}");
    }
}

/// Where a port is not to be had in the place of another, everything is as it was.
#[test]
fn a_replacement_that_fails() {
    let Some(_alone) = network() else { return };
    let mut worker = between();
    let at = |listen: &str, first, last| Entry {
        side: Side::Host,
        ..inside(Rule { ports: PortRange::new(first, last).unwrap(), ..rule(Some(listen), first, 80) })
    };
    let old = [at("127.0.0.1", 10_000, 10_001), at("127.0.0.1", 10_002, 10_002)];
    change(&mut worker, &old.clone().map(Change::Add));
    let any = Entry {
        rule: Rule { ports: PortRange::new(10_000, 10_002).unwrap(), ..rule(None, 10_000, 80) },
        ..old[0].clone()
    };
    let changes = [Change::Delete(old[0].clone()), Change::Delete(old[1].clone()), Change::Add(any)];
    let applied = apply(&mut worker, &changes);
    assert!(applied.refused().is_empty(), "{:?}", applied.refused());
    // Somebody else has one of these ports at another address by then.
    let other = TcpListener::bind(("127.0.0.2", 10_002)).unwrap();
    assert!(
        matches!(worker.control().commit(applied), Err(Uncommitted::Port(refusal)) if matches!(refusal.reason, Reason::Port { port: 10_002, .. }))
    );
    assert_eq!(open(&mut worker), 3);
    assert!((10_000..=10_002).all(|port| TcpStream::connect(("127.0.0.1", port)).is_ok()));
    assert!(TcpStream::connect(("127.0.0.3", 10_000)).is_err());
    drop(other);
    assert_eq!(change(&mut worker, &changes).closed, 3);
    assert!(TcpStream::connect(("127.0.0.3", 10_000)).is_ok());
}

/// A fixed rule is in the place of one that follows a service of one family.
#[test]
fn a_rule_that_follows_becomes_fixed() {
    let Some(_alone) = network() else { return };
    let mut worker = between();
    worker.prepare_to_follow().unwrap();
    let mut now = Instant::from_millis(1000);
    let any = Entry { side: Side::Host, ..inside(following(None)) };
    let _service = TcpListener::bind(("127.0.0.1", 10_107)).unwrap();
    change(&mut worker, &[Change::Add(any.clone())]);
    after(&mut worker, &mut now, 0);
    assert!(TcpStream::connect(("::1", 10_007)).is_err());
    let fixed = Entry { side: Side::Host, ..inside(rule(None, 10_007, 10_107)) };
    change(&mut worker, &[Change::Delete(any), Change::Add(fixed)]);
    assert!(TcpStream::connect(("::1", 10_007)).is_ok() && TcpStream::connect(("127.0.0.1", 10_007)).is_ok());
}

/// Sockets that are handed over need no more descriptors, and none of them vanishes.
#[test]
fn a_rule_is_replaced_where_descriptors_are_short() {
    let Some(_alone) = network() else { return };
    let usual = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(400), ..usual }).unwrap();
    let mut worker = between();
    let ports = PortRange::new(20_000, 20_099).unwrap();
    let range = |to| Entry {
        side: Side::Host,
        ..inside(Rule { ports, weak: true, ..rule(Some(&home().to_string()), 20_000, to) })
    };
    change(&mut worker, &[Change::Add(range(1000))]);
    let mut others = Vec::new();
    while others.last().is_none_or(|last: &rustix::fd::OwnedFd| last.as_raw_fd() < 340) {
        others.push(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
    }
    let applied = apply(&mut worker, &[Change::Delete(range(1000)), Change::Add(range(2000))]);
    assert!(applied.refused().is_empty(), "{:?}", applied.refused());
    worker.control().commit(applied).unwrap();
    assert_eq!(open(&mut worker), 100);
    setrlimit(Resource::Nofile, usual).unwrap();
}

/// Of a rule that need not have all of its ports, it is told that it has none.
#[test]
fn what_has_nothing_is_told() {
    let Some(_alone) = network() else { return };
    let mut worker = between();
    let taken = TcpListener::bind((home(), own_port())).unwrap();
    let port = taken.local_addr().unwrap().port();
    let strong = entry(Protocol::Tcp, port, 80);
    let weak = Entry { rule: Rule { weak: true, ..strong.rule.clone() }, ..strong };
    let alone = apply(&mut worker, &[Change::Add(weak.clone())]);
    assert_eq!(alone.refused().iter().map(|refusal| refusal.extent).collect::<Vec<_>>(), [Extent::Whole]);
    let other = entry(Protocol::Tcp, own_port(), 81);
    let beside = apply(&mut worker, &[Change::Add(weak), Change::Add(other)]);
    assert_eq!(beside.refused().iter().map(|refusal| refusal.extent).collect::<Vec<_>>(), [Extent::Part]);
}

/// Rounds in which something must happen that other threads have a part in.
const ROUNDS: usize = 1_000_000;

/// So many plans on their way, each for a hundred ports of the namespace, none of them ephemeral.
fn applies_inside(worker: &mut Worker<NoLink>, plans: u16) -> Vec<Apply> {
    let mut begin = |plan| {
        let first = 24_000 + plan * 100;
        let ports = PortRange::new(first, first + 99).unwrap();
        let add = Change::Add(inside(Rule { ports, ..rule(None, first, first) }));
        let plan = worker.control().plan([add]);
        worker.control().apply(plan)
    };
    (0..plans).map(&mut begin).collect()
}

/// A step of each, and a round of the loop.
fn step_all(worker: &mut Worker<NoLink>, applies: &mut [Apply], now: Instant) {
    for apply in applies {
        worker.control().step(apply);
    }
    worker.turn(now).unwrap();
    std::thread::yield_now();
}

/// Clients are served while plans are opened in the namespace, however many.
#[test]
fn plans_inside_keep_nobody_out() {
    let Some(_alone) = network() else { return };
    for plans in [1_u16, 20, 80] {
        let mut worker = between();
        let server = TcpListener::bind((home(), own_port())).unwrap();
        server.set_nonblocking(true).unwrap();
        let port = own_port();
        change(&mut worker, &[Change::Add(entry(Protocol::Tcp, port, server.local_addr().unwrap().port()))]);
        let mut applies = applies_inside(&mut worker, plans);
        let now = Instant::from_millis(1000);
        for _ in 0..20 {
            let mut client = TcpStream::connect((home(), port)).unwrap();
            client.set_nonblocking(true).unwrap();
            let served = (0..ROUNDS).any(|_| {
                step_all(&mut worker, &mut applies, now);
                if let Err(error) = client.read(&mut [0]) {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "with {plans} plans");
                }
                server.accept().is_ok()
            });
            assert!(served, "with {plans} plans");
        }
        while applies.iter_mut().any(|apply| worker.control().step(apply) != Progress::Done) {
            std::thread::yield_now();
        }
        assert!(applies.into_iter().all(|apply| apply.finish().refused().is_empty()));
    }
}

/// Rules in the namespace follow services, however much the thread there has to do.
#[test]
fn services_are_followed_beside_plans() {
    let Some(_alone) = network() else { return };
    for _ in 0..5 {
        let mut worker = between();
        worker.prepare_to_follow().unwrap();
        let mut now = Instant::from_millis(1000);
        change(&mut worker, &[Change::Add(inside(following(None)))]);
        after(&mut worker, &mut now, 0);
        let mut applies = applies_inside(&mut worker, 80);
        let _service = TcpListener::bind(("127.0.0.1", 10_107)).unwrap();
        step_all(&mut worker, &mut applies, now);
        now = now + Duration::from_secs(1);
        let followed = (0..ROUNDS).any(|_| {
            step_all(&mut worker, &mut applies, now);
            open(&mut worker) > 0
        });
        assert!(followed);
        assert!(TcpStream::connect(("127.0.0.1", 10_007)).is_ok());
    }
}

/// However much is asked for, a plan that does not fit is refused: no more than descriptors are
/// taken.
#[test]
fn plans_for_all_ports() {
    let Some(_alone) = network() else { return };
    let mut worker = between();
    let ports = PortRange::new(1, 65_535).unwrap();
    let add = (0..=255_u8).map(|last| {
        let rule = Rule { ports, weak: true, ..rule(Some(&format!("127.1.1.{last}")), 1, 1) };
        Change::Add(Entry { side: Side::Host, ..inside(rule) })
    });
    let applied = apply(&mut worker, &add.collect::<Vec<_>>());
    assert!(applied.refused().iter().all(|refusal| matches!(refusal.reason, Reason::Port { .. })));
    assert!(applied.refused().len() >= 255);
    worker.control().commit(applied).unwrap();
    assert!(open(&mut worker) > 100);
}

/// A service of one family has a socket for that one; what is in its place has the other as well.
#[test]
fn a_rule_that_follows_becomes_fixed_with_all_its_ports() {
    let Some(_alone) = network() else { return };
    for side in [Side::Namespace, Side::Host] {
        let mut worker = between();
        worker.prepare_to_follow().unwrap();
        let mut now = Instant::from_millis(1000);
        let auto = Entry { side, ..inside(following(None)) };
        let fixed = Entry { rule: Rule { scan: false, ..auto.rule.clone() }, ..auto.clone() };
        let _service = TcpListener::bind(("127.0.0.1", 10_107)).unwrap();
        change(&mut worker, &[Change::Add(auto.clone())]);
        after(&mut worker, &mut now, 0);
        change(&mut worker, &[Change::Delete(auto.clone()), Change::Add(fixed.clone())]);
        after(&mut worker, &mut now, 2000);
        for (address, port) in [("127.0.0.1", 10_006), ("127.0.0.1", 10_007), ("::1", 10_007)] {
            assert!(TcpStream::connect((address, port)).is_ok(), "{side:?} {address} {port}");
        }
        // And back: those that nothing listens behind go.
        let _client = TcpStream::connect(("127.0.0.1", 10_007)).unwrap();
        change(&mut worker, &[Change::Delete(fixed), Change::Add(auto)]);
        after(&mut worker, &mut now, 2000);
        assert!(TcpStream::connect(("127.0.0.1", 10_006)).is_err(), "{side:?}");
        assert!(TcpStream::connect(("127.0.0.1", 10_007)).is_ok(), "{side:?}");
    }
}

/// A rule that need not have all of its ports is in the place of another, though somebody else has
/// one.
#[test]
fn a_port_that_a_rule_can_do_without() {
    let Some(_alone) = network() else { return };
    let mut worker = between();
    let range = |listen| {
        let ports = PortRange::new(10_000, 10_009).unwrap();
        Entry { side: Side::Host, ..inside(Rule { ports, weak: true, ..rule(listen, 10_000, 80) }) }
    };
    let _other = TcpListener::bind(("127.0.0.5", 10_005)).unwrap();
    change(&mut worker, &[Change::Add(range(Some("127.0.0.1")))]);
    change(&mut worker, &[Change::Delete(range(Some("127.0.0.1"))), Change::Add(range(None))]);
    assert_eq!(open(&mut worker), 9);
    assert!(TcpStream::connect(("127.0.0.9", 10_004)).is_ok());
}

/// What listens at another address is not in the way: a port of somebody else is refused when it is
/// asked for, and nothing of ours is closed for it.
#[test]
fn what_is_not_in_the_way() {
    let Some(_alone) = network() else { return };
    let mut worker = between();
    let at = |listen| Entry { side: Side::Host, ..inside(rule(Some(listen), 10_000, 80)) };
    change(&mut worker, &[Change::Add(at("127.0.0.1"))]);
    let _other = TcpListener::bind(("127.0.0.2", 10_000)).unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", 10_000)).unwrap();
    let applied = apply(&mut worker, &[Change::Delete(at("127.0.0.1")), Change::Add(at("127.0.0.2"))]);
    assert!(matches!(applied.refused()[0].reason, Reason::Port { port: 10_000, .. }));
    drop(applied);
    client.set_nonblocking(true).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// A plan does not know of a service that came meanwhile.
#[test]
fn a_service_comes_while_a_plan_is_applied() {
    let Some(_alone) = network() else { return };
    let mut worker = between();
    worker.prepare_to_follow().unwrap();
    let mut now = Instant::from_millis(1000);
    let auto = Entry { side: Side::Host, ..inside(following(Some("127.0.0.1"))) };
    let fixed = Entry { rule: Rule { scan: false, ..auto.rule.clone() }, ..auto.clone() };
    change(&mut worker, &[Change::Add(auto.clone())]);
    after(&mut worker, &mut now, 0);
    let changes = [Change::Delete(auto), Change::Add(fixed)];
    let plan = worker.control().plan(changes.clone());
    let mut opening = worker.control().apply(plan);
    worker.control().step(&mut opening);
    let _service = TcpListener::bind(("127.0.0.1", 10_190)).unwrap();
    after(&mut worker, &mut now, 2000);
    assert!(TcpStream::connect(("127.0.0.1", 10_090)).is_ok());
    while worker.control().step(&mut opening) != Progress::Done {}
    assert!(matches!(worker.control().commit(opening.finish()), Err(Uncommitted::Stale(_))));
    change(&mut worker, &changes);
    assert_eq!(open(&mut worker), 100);
}

/// Sockets that were to be closed for services that are gone are kept by a rule that took them
/// over.
#[test]
fn sockets_that_were_to_be_closed_are_taken_over() {
    let Some(_alone) = network() else { return };
    // All of them are closed in one turn where the thread in the namespace has something to tell.
    assert!((0..20).any(|_| some_are_taken_over()));
}

/// False if none was left to be taken over.
fn some_are_taken_over() -> bool {
    let mut worker = between();
    worker.prepare_to_follow().unwrap();
    let mut now = Instant::from_millis(1000);
    let auto = Entry { side: Side::Host, ..inside(following(Some("127.0.0.1"))) };
    let fixed = Entry { rule: Rule { scan: false, ..auto.rule.clone() }, ..auto.clone() };
    let services: Vec<_> =
        (10_100..10_200).map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap()).collect();
    change(&mut worker, &[Change::Add(auto.clone())]);
    after(&mut worker, &mut now, 0);
    assert_eq!(open(&mut worker), 100);
    drop(services);
    now = now + Duration::from_secs(2);
    worker.turn(now).unwrap();
    let left = open(&mut worker);
    assert!(left < 100, "none is closed");
    change(&mut worker, &[Change::Delete(auto), Change::Add(fixed)]);
    after(&mut worker, &mut now, 2000);
    assert_eq!(open(&mut worker), 100);
    left > 0
}

/// However many sockets a plan opens, replaces, hands over or closes, each part of that is small; and
/// until the last is done, each port leads to what was there, or to what comes.
#[test]
fn a_plan_takes_effect_in_parts() {
    let Some(_alone) = network() else { return };
    let mut worker = between();
    let range = |listen: &str, first, to| {
        let ports = PortRange::new(first, first + 999).unwrap();
        Entry { side: Side::Host, ..inside(Rule { ports, ..rule(Some(listen), first, to) }) }
    };
    let home = home().to_string();
    let steps = [
        ("opened", range(&home, 10_000, 80), 10_000),
        ("handed over", range(&home, 10_000, 2000), 10_000),
        ("replaced", range("0.0.0.0", 10_000, 2000), 10_000),
        ("closed", range(&home, 20_000, 80), 20_000),
    ];
    let mut before: Option<Entry> = None;
    for (what, entry, first) in steps {
        let gone = before.take().map(Change::Delete);
        let changes: Vec<_> = gone.into_iter().chain([Change::Add(entry.clone())]).collect();
        let applied = apply(&mut worker, &changes);
        assert!(applied.refused().is_empty(), "{what}");
        worker.control().begin_commit(applied, true);
        let mut parts = 0;
        let result = loop {
            let count = open(&mut worker);
            let result = worker.control().settle();
            assert!(count.abs_diff(open(&mut worker)) <= 256, "{what}");
            parts += 1;
            if let Some(result) = result {
                break result;
            }
        };
        assert!(result.is_ok() && parts >= 4, "{what}: {parts}");
        assert_eq!(open(&mut worker), 1000, "{what}");
        assert!(!refuses(first) && !refuses(first + 999), "{what}");
        before = Some(entry);
    }
    // What is rolled back is closed in parts, too.
    let applied = apply(&mut worker, &[Change::Add(range(&home, 30_000, 80))]);
    assert!(!refuses(30_999));
    worker.control().begin_roll_back(applied);
    let parts = (1..100).find(|_| worker.control().settle().is_some()).unwrap();
    assert!(parts > 10 && refuses(30_000) && refuses(30_999), "{parts}");
}

/// Clients that send all the time while their ports are led elsewhere, by sockets that are handed
/// over or replaced, or while that is undone: who gets it in the end is whom the rules say.
#[test]
fn datagrams_go_where_the_rules_lead() {
    let Some(_alone) = network() else { return };
    let server = |port| UdpSocket::bind(("127.0.0.1", port)).unwrap();
    let servers = [server(7001), server(7002)];
    for server in &servers {
        server.set_nonblocking(true).unwrap();
    }
    let rules = |listen: &'static str, to| {
        (10_000..10_300).map(move |port| Entry {
            protocol: Protocol::Udp,
            side: Side::Host,
            ..inside(rule(Some(listen), port, to))
        })
    };
    for (what, listen, fails) in
        [("handed over", "127.0.0.1", false), ("replaced", "0.0.0.0", false), ("undone", "0.0.0.0", true)]
    {
        let mut worker = between();
        let mut now = Instant::from_millis(1000);
        change(&mut worker, &rules("127.0.0.1", 7001).map(Change::Add).collect::<Vec<_>>());
        let clients: Vec<_> = (0..20).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let mut send = |worker: &mut Worker<NoLink>| {
            for (client, port) in clients.iter().zip((10_000..).step_by(15)) {
                client.send_to(b"?", ("127.0.0.1", port)).unwrap();
            }
            after(worker, &mut now, 1);
        };
        let heard = || {
            servers
                .each_ref()
                .map(|server| std::iter::from_fn(|| server.recv(&mut [0; 9]).ok()).take(100_000).count())
        };
        send(&mut worker);
        assert_eq!(heard(), [20, 0], "{what}");
        let changes =
            rules("127.0.0.1", 7001).map(Change::Delete).chain(rules(listen, 7002).map(Change::Add));
        let applied = apply(&mut worker, &changes.collect::<Vec<_>>());
        assert!(applied.refused().is_empty(), "{what}");
        let other = fails.then(|| UdpSocket::bind(("127.0.0.77", 10_299)).unwrap());
        worker.control().begin_commit(applied, true);
        let result = (0..1000).find_map(|_| {
            send(&mut worker);
            worker.control().settle()
        });
        assert_eq!(result.unwrap().is_err(), fails, "{what}");
        drop(other);
        heard();
        for _ in 0..3 {
            send(&mut worker);
        }
        assert_eq!(heard(), if fails { [60, 0] } else { [0, 60] }, "{what}");
    }
}
