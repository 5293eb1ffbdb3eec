//! Ports that follow services, through the whole engine. Both sides are the namespace of the test,
//! so what is opened has another number than what it follows.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{RwLockReadGuard, RwLockWriteGuard};

use passt_engine::flow::{Protocol, Side};
use passt_engine::forward::Forward;
use passt_engine::forward::rule::{Listen, PortRange, Rule};
use passt_engine::link::none::NoLink;
use passt_engine::worker::Worker;
use passt_proto::guest::{Bypass, Configured};
use passt_proto::time::{Duration, Instant};
use passt_sys::namespace::Resident;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use common::{ip, open_in, options, own_limits, own_network, usual_limits};

/// Ports of a rule: as many are opened as there may be services, whose ports come behind them.
const BLOCK: u16 = 200;
const FIRST: u16 = 10_000;

/// Ports that follow services on the other side.
fn following(address: Option<&str>) -> Rule {
    Rule {
        listen: Listen { addr: address.map(ip), interface: None },
        ports: PortRange::new(FIRST, FIRST + BLOCK - 1).unwrap(),
        to: FIRST + BLOCK,
        target: None,
        weak: true,
        scan: true,
    }
}

/// What a test holds.
#[expect(dead_code, reason = "held")]
enum Held {
    Together(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// A network in which nothing listens; without one no other of these tests may run.
fn network() -> Held {
    if own_network().is_err() { alone() } else { Held::Together(usual_limits()) }
}

fn alone() -> Held {
    Held::Alone(own_limits())
}

struct Engine {
    worker: Worker<NoLink>,
    now: Instant,
}

impl Engine {
    fn new(rules: &[(Side, Protocol, Rule)]) -> Self {
        let map = Configured { bypass: Bypass::Loopback, ..Configured::default() };
        let now = Instant::from_millis(1000);
        let mut worker = Worker::new(NoLink, &options(0, &map, 256), now).unwrap();
        let (mut forward, mut all) = (Forward::default(), Vec::new());
        for (side, protocol, rule) in rules {
            let mut rule = rule.clone();
            // In the namespace all of loopback is listened on.
            if *side == Side::Namespace {
                rule.listen = Listen::default();
            }
            let listeners = open_in(&mut forward, *side, *protocol, vec![rule]).unwrap();
            all.extend(listeners);
        }
        worker.forward(forward);
        worker.listen(all).unwrap();
        worker.enter(Some(Resident::here().unwrap())).unwrap();
        worker.follow();
        Self { worker, now }
    }

    /// Lets time pass, and does one round.
    fn round(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        self.worker.turn(self.now).unwrap();
    }

    /// Lets time pass, and does all there is to do then.
    fn after(&mut self, ms: u64) {
        self.round(ms);
        while self.worker.awaits_namespace() || self.worker.next_timeout().is_some_and(|due| due <= self.now)
        {
            self.round(0);
            std::thread::yield_now();
        }
    }
}

/// A service of TCP.
fn service(address: &str, port: u16) -> TcpListener {
    TcpListener::bind((ip(address), port)).unwrap()
}

fn is_open(address: &str, port: u16) -> bool {
    TcpStream::connect((ip(address), port)).is_ok()
}

/// How many of a rule's ports are open.
fn open_ports() -> usize {
    (FIRST..FIRST + BLOCK).filter(|&port| is_open("127.0.0.1", port)).count()
}

const SIDES: [Side; 2] = [Side::Host, Side::Namespace];

#[test]
fn services_that_are_there_have_their_ports_at_once() {
    for side in SIDES {
        let _network = network();
        let services = [service("127.0.0.1", FIRST + BLOCK), service("127.0.0.1", FIRST + BLOCK + 7)];
        let mut engine = Engine::new(&[(side, Protocol::Tcp, following(Some("127.0.0.1")))]);
        let open: Vec<u16> = (0..BLOCK).filter(|&own| is_open("127.0.0.1", FIRST + own)).collect();
        assert_eq!(open, [0, 7], "{side:?}");
        // And they lead there.
        let _client = TcpStream::connect(("127.0.0.1", FIRST + 7)).unwrap();
        engine.after(0);
        services[1].set_nonblocking(true).unwrap();
        assert!(services[1].accept().is_ok(), "{side:?}");
    }
}

#[test]
fn ports_come_and_go_with_services() {
    for side in SIDES {
        let _network = network();
        let mut engine = Engine::new(&[(side, Protocol::Tcp, following(Some("127.0.0.1")))]);
        for own in [3, 4] {
            let server = service("127.0.0.1", FIRST + BLOCK + own);
            // They are asked for once a second.
            engine.after(999);
            assert_eq!(open_ports(), 0, "{side:?}");
            engine.after(1);
            assert!(is_open("127.0.0.1", FIRST + own), "{side:?}");
            assert_eq!(open_ports(), 1);
            drop(server);
            engine.after(999);
            assert_eq!(open_ports(), 1, "{side:?}");
            engine.after(1);
            assert_eq!(open_ports(), 0, "{side:?}");
        }
    }
}

/// Between the parts others get their turn.
#[test]
fn many_ports_are_opened_and_closed_in_parts() {
    for side in SIDES {
        let _network = network();
        let mut engine = Engine::new(&[(side, Protocol::Tcp, following(Some("127.0.0.1")))]);
        let services: Vec<TcpListener> =
            (0..150).map(|own| service("127.0.0.1", FIRST + BLOCK + own)).collect();
        // The thread's first news are a reason to look, too.
        engine.after(0);
        let mut counts = Vec::new();
        engine.round(1000);
        for _ in 0..10_000 {
            let count = open_ports();
            if counts.last() != Some(&count) {
                counts.push(count);
            }
            if count == 150 {
                break;
            }
            engine.round(0);
        }
        // More than one may be done in a round in which the thread has news.
        assert!(counts.iter().any(|count| (1..150).contains(count)), "{side:?} {counts:?}");
        engine.after(0);
        drop(services);
        engine.round(1000);
        let mut counts = vec![open_ports()];
        while counts.last() > Some(&0) && counts.len() < 9 {
            engine.round(0);
            counts.push(open_ports());
        }
        assert!(counts.len() > 1 && counts.ends_with(&[0]), "{side:?} {counts:?}");
    }
}

#[test]
fn a_port_that_is_taken_is_tried_again_after_ten_seconds() {
    for side in SIDES {
        let _network = network();
        // Nothing listens there, so it is no service.
        let taken = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&taken, &SocketAddr::new(ip("127.0.0.1"), FIRST + 1)).unwrap();
        let _services = [service("127.0.0.1", FIRST + BLOCK + 1), service("127.0.0.1", FIRST + BLOCK + 2)];
        let mut engine = Engine::new(&[(side, Protocol::Tcp, following(Some("127.0.0.1")))]);
        assert!(is_open("127.0.0.1", FIRST + 2));
        drop(taken);
        for _ in 0..9 {
            engine.after(1000);
        }
        assert!(!is_open("127.0.0.1", FIRST + 1), "{side:?}");
        engine.after(1000);
        assert!(is_open("127.0.0.1", FIRST + 1), "{side:?}");
        assert!(is_open("127.0.0.1", FIRST + 2), "{side:?}");
    }
}

/// Nothing can be opened inside while no thread is there.
#[test]
fn the_namespace_is_tried_again_after_ten_seconds() {
    let _network = network();
    let mut engine = Engine::new(&[(Side::Namespace, Protocol::Tcp, following(Some("127.0.0.1")))]);
    engine.worker.enter(None).unwrap();
    let _server = service("127.0.0.1", FIRST + BLOCK);
    engine.after(1000);
    engine.worker.enter(Some(Resident::here().unwrap())).unwrap();
    for _ in 0..9 {
        engine.after(1000);
        assert_eq!(open_ports(), 0);
    }
    engine.after(1000);
    assert_eq!(open_ports(), 1);
}

/// A service that is there for one family, then for both, then for the other.
#[test]
fn ports_have_the_families_of_services() {
    for side in SIDES {
        let _network = network();
        let mut engine = Engine::new(&[(side, Protocol::Tcp, following(None))]);
        let port = FIRST + BLOCK + 9;
        let families = |engine: &mut Engine| {
            engine.after(1000);
            ["127.0.0.1", "::1"].map(|address| is_open(address, FIRST + 9))
        };
        let v4 = service("127.0.0.1", port);
        assert_eq!(families(&mut engine), [true, false], "{side:?}");
        let v6 = service("::1", port);
        assert_eq!(families(&mut engine), [true, true], "{side:?}");
        drop(v4);
        assert_eq!(families(&mut engine), [false, true], "{side:?}");
        drop(v6);
        assert_eq!(families(&mut engine), [false, false], "{side:?}");
    }
}

/// UDP follows services of both protocols, TCP only its own.
#[test]
fn datagrams_follow_streams() {
    for side in SIDES {
        let _network = network();
        let mut engine = Engine::new(
            &[Protocol::Tcp, Protocol::Udp].map(|protocol| (side, protocol, following(Some("127.0.0.1")))),
        );
        let _stream = service("127.0.0.1", FIRST + BLOCK);
        let _datagrams = UdpSocket::bind(("127.0.0.1", FIRST + BLOCK + 1)).unwrap();
        engine.after(1000);
        let is_bound = |port| UdpSocket::bind(("127.0.0.1", port)).is_err();
        assert_eq!([0, 1, 2].map(|own| is_bound(FIRST + own)), [true, true, false], "{side:?}");
        let open: Vec<u16> = (0..BLOCK).filter(|&own| is_open("127.0.0.1", FIRST + own)).collect();
        assert_eq!(open, [0], "{side:?}");
    }
}

/// A client goes on where its server was started again, though the port was closed meanwhile.
#[test]
fn a_client_of_a_service_that_comes_back() {
    for side in SIDES {
        let _network = network();
        let mut engine = Engine::new(&[(side, Protocol::Udp, following(Some("127.0.0.1")))]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(("127.0.0.1", FIRST)).unwrap();
        client.set_nonblocking(true).unwrap();
        for round in 0..3 {
            let server = UdpSocket::bind(("127.0.0.1", FIRST + BLOCK)).unwrap();
            server.set_nonblocking(true).unwrap();
            engine.after(1000);
            client.send(b"?").unwrap();
            engine.after(0);
            let (_, from) = server.recv_from(&mut [0; 9]).unwrap();
            server.send_to(b"!", from).unwrap();
            engine.after(0);
            assert_eq!(client.recv(&mut [0; 9]).unwrap(), 1, "{side:?} {round}");
            drop(server);
            engine.after(1000);
        }
    }
}

/// Ports that need not all be had leave descriptors to connections, at start and later.
#[test]
fn ports_leave_descriptors_to_connections() {
    for (side, early) in
        [(Side::Host, true), (Side::Host, false), (Side::Namespace, true), (Side::Namespace, false)]
    {
        let _ = own_network();
        let _alone = alone();
        let usual = getrlimit(Resource::Nofile);
        // Three of four are for ports.
        let limit =
            |soft| setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: usual.maximum });
        let services = |count: u16| -> Vec<OwnedFd> {
            // Their descriptors are not in the way.
            let high = |own| {
                rustix::io::fcntl_dupfd_cloexec(service("127.0.0.1", FIRST + BLOCK + own).as_fd(), 2000)
            };
            (0..count).map(|own| high(own).unwrap()).collect()
        };
        limit(4096).unwrap();
        let before = if early { services(150) } else { Vec::new() };
        limit(160).unwrap();
        let engine = Engine::new(&[(side, Protocol::Tcp, following(Some("127.0.0.1")))]);
        limit(4096).unwrap();
        let mut engine = engine;
        let after = if early { Vec::new() } else { services(150) };
        engine.after(1000);
        let open = open_ports();
        assert!((40..=120).contains(&open), "{open} {side:?}");
        drop((before, after));
        engine.after(1000);
        assert_eq!(open_ports(), 0);
        setrlimit(Resource::Nofile, usual).unwrap();
    }
}

/// Ports that follow nothing stay, whatever happens to others.
#[test]
fn fixed_ports_stay() {
    for side in SIDES {
        let _network = network();
        let ports = PortRange::new(9000, 9001).unwrap();
        let fixed = Rule { scan: false, ports, ..following(Some("127.0.0.1")) };
        let rules = [fixed, following(Some("127.0.0.1"))].map(|rule| (side, Protocol::Tcp, rule));
        let mut engine = Engine::new(&rules);
        let server = service("127.0.0.1", FIRST + BLOCK);
        engine.after(1000);
        assert_eq!(open_ports(), 1);
        drop(server);
        engine.after(1000);
        assert_eq!(open_ports(), 0);
        assert!(is_open("127.0.0.1", 9000) && is_open("127.0.0.1", 9001), "{side:?}");
    }
}

#[test]
fn without_such_rules_nobody_is_asked() {
    let _network = network();
    let rule = Rule { scan: false, ..following(Some("127.0.0.1")) };
    let mut engine = Engine::new(&[(Side::Host, Protocol::Tcp, rule)]);
    engine.after(0);
    assert_eq!((engine.worker.next_timeout(), open_ports()), (None, usize::from(BLOCK)));
    drop(engine);
    for side in SIDES {
        let mut engine = Engine::new(&[(side, Protocol::Tcp, following(Some("127.0.0.1")))]);
        engine.after(0);
        assert_eq!(engine.worker.next_timeout(), Some(engine.now + Duration::from_secs(1)));
    }
}
