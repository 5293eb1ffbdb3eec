//! The whole engine between smoltcp and real sockets on loopback, over a link in memory that carries plain
//! frames: smoltcp drops what has a wrong checksum or length.
//!
//! The engine's and the guest's clock is virtual. It jumps only when the host's kernel, which
//! has a clock of its own, had time to say something.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

use passt::link::Link;
use passt::link::channel::{Channel, Packet};
use passt::worker::{Options, Protocols, Worker, clock};
use passt_proto::addr::Mac;
use passt_proto::drop::DropReason;
use passt_proto::responder::{Config, Services, V4, V6};
use passt_proto::rules::{AddressMap, FamilyMap};
use passt_proto::time::{Duration, Instant};
use smoltcp::phy::Medium;
use smoltcp::socket::dhcpv4;
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::wire::IpCidr;

use crate::guest::{App, Guest};
use crate::link::{Node, Path, Rng};
use crate::{DOWN, UP, check, fill, ms, secs, seeds};

pub(crate) const MIB: u64 = 1024 * 1024;
const GUEST4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const GUEST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// What the guest calls the host's loopback, and its gateway.
const HOST4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const OURS6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Rounds without news after which the clock may jump.
const PATIENCE: u32 = 20;

pub(crate) struct World<E: End> {
    pub(crate) worker: Worker<E::Link>,
    /// The guest's end of the link.
    pub(crate) end: E,
    pub(crate) guest: Guest,
    now: Instant,
    rng: Rng,
    up: Path,
    down: Path,
    pub(crate) pairs: Vec<Pair>,
    local_port: u16,
    /// Whether nonsense is sent between the guest's frames.
    pub(crate) garbage: bool,
    /// Whether the clock is the kernel's.
    pub(crate) real_time: bool,
    idle: u32,
}

/// Where frames enter and leave an engine.
pub(crate) trait End {
    /// The engine's end.
    type Link: Link;

    /// Sends a frame to the engine.
    fn send(&mut self, link: &mut Self::Link, frame: Packet);

    /// What the engine has sent.
    fn receive(&mut self, link: &mut Self::Link) -> Vec<Vec<u8>>;
}

/// The link in memory.
struct Memory;

impl End for Memory {
    type Link = Channel;

    fn send(&mut self, link: &mut Channel, frame: Packet) {
        link.from_guest.push_back(frame);
    }

    fn receive(&mut self, link: &mut Channel) -> Vec<Vec<u8>> {
        link.to_guest.drain(..).map(|packet| packet.bytes).collect()
    }
}

/// A program in the guest, and its server on the host.
pub(crate) struct Pair {
    pub(crate) app: App,
    listener: TcpListener,
    stream: Option<TcpStream>,
    to_send: u64,
    pub(crate) sent: u64,
    /// It has closed its direction.
    closed: bool,
    received: u64,
    eof: bool,
}

fn options(mtu: u16, max_flows: usize) -> Options {
    let family = |host: IpAddr, guest: IpAddr, ours: IpAddr| FamilyMap {
        host_loopback: Some(host.into()),
        assigned: Some(guest.into()),
        ours: Some(ours.into()),
        ..FamilyMap::default()
    };
    let dns = [Ipv4Addr::new(192, 0, 2, 53)].into_iter().collect();
    Options {
        services: Config {
            our_mac: Mac([2, 0, 0, 0, 0, 2]),
            mtu,
            v4: Some(V4 { addr: GUEST4, prefix_len: 24, gateway: HOST4, our_addr: HOST4, dns }),
            v6: Some(V6 { addr: GUEST6, prefix_len: 64, our_ll: OURS6, dns: [].into_iter().collect() }),
            search: [].into_iter().collect(),
            hostname: None,
            fqdn: None,
            services: Services::all(),
        },
        map: AddressMap {
            v4: family(HOST4.into(), GUEST4.into(), HOST4.into()),
            v6: family(HOST6.into(), GUEST6.into(), OURS6.into()),
            ..AddressMap::default()
        },
        outbound_if: [None, None],
        protocols: Protocols { tcp: true, udp: true, icmp: true },
        max_flows,
        stats: None,
        secrets: [1, 2, 3, 4],
    }
}

impl World<Memory> {
    fn new(seed: u64, mtu: u16, max_flows: usize, addrs: &[IpCidr], nodes: &[Node]) -> Self {
        Self::over((Memory, Channel::plain()), seed, (mtu, max_flows), addrs, nodes)
    }

    fn usual(seed: u64, nodes: &[Node]) -> Self {
        Self::new(seed, 1500, 512, &addresses(), nodes)
    }
}

/// Addresses of a guest.
pub(crate) fn addresses() -> [IpCidr; 2] {
    [IpCidr::new(GUEST4.into(), 24), IpCidr::new(GUEST6.into(), 64)]
}

impl<E: End> World<E> {
    /// An engine and a guest at the two ends of a link, with an MTU and at most so many flows.
    pub(crate) fn over(
        (end, link): (E, E::Link),
        seed: u64,
        (mtu, max_flows): (u16, usize),
        addrs: &[IpCidr],
        nodes: &[Node],
    ) -> Self {
        let now = Instant::from_millis(1000);
        let nodes =
            [&[Node::Mtu(usize::from(mtu) + 14), Node::Delay(Duration::from_micros(100))], nodes].concat();
        Self {
            worker: Worker::new(link, &options(mtu, max_flows), now).expect("an engine"),
            end,
            guest: Guest::new(Medium::Ethernet, mtu.into(), addrs),
            now,
            rng: Rng(seed),
            up: Path::new(nodes.clone()),
            down: Path::new(nodes),
            pairs: Vec::new(),
            local_port: 10_000,
            garbage: false,
            real_time: false,
            idle: 0,
        }
    }

    /// The guest connects to a new server, which sends `down` bytes and gets `up`.
    pub(crate) fn connect(&mut self, v4: bool, up: u64, down: u64) -> usize {
        let local: IpAddr = if v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        let listener = TcpListener::bind((local, 0)).expect("a listener");
        listener.set_nonblocking(true).expect("non-blocking");
        let port = listener.local_addr().expect("an address").port();
        let app = self.connect_to(v4, port, up);
        self.pairs.push(Pair {
            app,
            listener,
            stream: None,
            to_send: down,
            sent: 0,
            closed: false,
            received: 0,
            eof: false,
        });
        self.pairs.len() - 1
    }

    fn connect_to(&mut self, v4: bool, port: u16, up: u64) -> App {
        let socket = self.guest.tcp(256 * 1024);
        self.local_port += 1;
        let local = self.local_port;
        let remote: IpAddr = if v4 { HOST4.into() } else { HOST6.into() };
        let context = self.guest.iface.context();
        self.guest
            .sockets
            .get_mut::<Socket>(socket)
            .connect(context, (remote, port), local)
            .expect("connect");
        App::new(socket, up)
    }

    pub(crate) fn run(&mut self, limit: Duration, done: impl Fn(&mut Self) -> bool) {
        let deadline = self.now + limit;
        while !done(self) {
            assert!(self.now < deadline, "not done in time");
            self.step();
        }
    }

    pub(crate) fn run_to_end(&mut self) {
        self.run(secs(3600), |world| world.pairs.iter().all(Pair::is_complete));
        self.run(secs(3600), |world| world.worker.flow_count() == 0);
    }

    pub(crate) fn step(&mut self) {
        let mut busy = false;
        while let Some(frame) = self.down.receive(self.now) {
            self.guest.device.received.push_back(frame);
            busy = true;
        }
        self.guest.poll(self.now);
        for pair in &mut self.pairs {
            busy |= pair.app.work(&mut self.guest);
        }
        self.guest.poll(self.now);
        for frame in std::mem::take(&mut self.guest.device.sent) {
            self.up.send(self.now, &frame, &mut self.rng);
        }
        while let Some(frame) = self.up.receive(self.now) {
            if self.garbage {
                let nonsense = garbage(&frame, &mut self.rng);
                self.end.send(&mut self.worker.context().link, nonsense);
            }
            self.end.send(&mut self.worker.context().link, Packet::from(frame));
            busy = true;
        }
        self.worker.turn(self.now).expect("a link");
        for frame in self.end.receive(&mut self.worker.context().link) {
            self.down.send(self.now, &frame, &mut self.rng);
        }
        busy |= self.pairs.iter_mut().fold(false, |busy, pair| busy | pair.work());
        self.advance(busy);
    }

    /// To the next time when something is due; slowly, if only the host's kernel may be waited for.
    fn advance(&mut self, busy: bool) {
        if self.real_time {
            self.now = clock();
            return;
        }
        self.idle = if busy { 0 } else { self.idle + 1 };
        let due =
            [self.up.next(), self.down.next(), self.worker.next_timeout(), self.guest.next_timeout(self.now)];
        let due = due.into_iter().flatten().min();
        let next = match due {
            Some(due) if self.idle > PATIENCE => due,
            Some(due) => due.min(self.now + ms(1)),
            None => self.now + ms(1),
        };
        if !busy && next.since(self.now) >= ms(1) {
            std::thread::sleep(Duration::from_micros(50));
        }
        self.now = next.max(self.now + Duration::from_micros(1));
    }
}

impl Pair {
    /// Serves; true if there was anything to do.
    fn work(&mut self) -> bool {
        let before = (self.sent, self.received, self.eof);
        if self.stream.is_none() {
            self.stream = self.listener.accept().ok().map(|(stream, _)| stream);
            if let Some(stream) = &self.stream {
                stream.set_nonblocking(true).expect("non-blocking");
            }
        }
        let Some(stream) = &mut self.stream else { return false };
        let mut buffer = [0; 16 * 1024];
        while !self.eof {
            match stream.read(&mut buffer) {
                Ok(0) => self.eof = true,
                Ok(n) => {
                    check(UP, self.received, &buffer[..n]);
                    self.received += n as u64;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e} after {} bytes", self.received),
            }
        }
        while self.sent < self.to_send {
            let n = buffer.len().min(usize::try_from(self.to_send - self.sent).unwrap_or(usize::MAX));
            fill(DOWN, self.sent, &mut buffer[..n]);
            let Ok(n) = stream.write(&buffer[..n]) else { break };
            self.sent += n as u64;
        }
        if self.sent == self.to_send && !std::mem::replace(&mut self.closed, true) {
            stream.shutdown(std::net::Shutdown::Write).expect("shut down");
        }
        before != (self.sent, self.received, self.eof)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.eof && self.received == self.app.to_send && self.app.eof && self.app.received == self.to_send
    }
}

/// A frame that no engine should take, made from a good one.
fn garbage(frame: &[u8], rng: &mut Rng) -> Packet {
    let mut bytes = frame.to_vec();
    let random = u8::try_from(rng.below(256)).expect("a byte");
    match rng.below(7) {
        0 => bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(random)),
        1 => bytes.truncate(rng.below(34)),
        // No version of IP that there is, header lengths and lengths that do not fit.
        2 => bytes[14] = (random & 0x3f) | 0x80,
        3 => bytes[14] = 0x40 | (random % 5),
        4 => bytes[16..20].fill(0xff),
        // From everybody; from the loopback interface.
        5 => bytes[6] |= 1,
        _ if bytes[12..14] == [8, 0] => bytes[26..30].fill(127),
        _ => bytes[12] = 0x99,
    }
    Packet::from(bytes)
}

pub(crate) fn bad() -> [Node; 3] {
    [Node::Loss(50), Node::Duplicate(10), Node::Reorder(20, ms(2))]
}

#[test]
fn transfers_each_way() {
    for v4 in [true, false] {
        for (up, down) in [(16 * MIB, 0), (0, 16 * MIB), (16 * MIB, 16 * MIB)] {
            let mut world = World::usual(0, &[]);
            world.connect(v4, up, down);
            world.run_to_end();
            assert_eq!(world.worker.context().counters.retransmitted, 0);
        }
    }
}

#[test]
fn transfers_without_peek_offsets() {
    for nodes in [&[] as &[Node], &bad()] {
        let mut world = World::usual(0, nodes);
        world.worker.context().tcp.use_peek_offset = false;
        world.connect(true, MIB, 4 * MIB);
        world.connect(false, 0, 0);
        world.connect(false, MIB, 1000);
        world.run_to_end();
    }
}

#[test]
fn an_end_that_comes_late() {
    for peek_offset in [true, false] {
        let mut world = World::usual(0, &[]);
        world.worker.context().tcp.use_peek_offset = peek_offset;
        world.connect(true, 0, 0);
        (world.pairs[0].closed, world.pairs[0].app.closing) = (true, false);
        world.run(secs(10), |world| world.pairs[0].app.state(&world.guest) == State::Established);
        // The end arrives while the guest has not acknowledged what is before it.
        world.down.nodes.push(Node::Delay(ms(20)));
        world.pairs[0].to_send = 10_000;
        world.run(secs(10), |world| world.pairs[0].sent == 10_000);
        for _ in 0..3 {
            world.step();
        }
        assert_eq!(world.pairs[0].app.received, 0);
        (world.pairs[0].closed, world.pairs[0].app.closing) = (false, true);
        world.run_to_end();
    }
}

#[test]
fn transfers_at_other_mtus() {
    for mtu in [576, 9000, 65_520] {
        let addrs = [IpCidr::new(GUEST4.into(), 24)];
        let mut world = World::new(0, mtu, 16, &addrs, &[]);
        world.connect(true, 4 * MIB, 4 * MIB);
        world.run_to_end();
    }
}

#[test]
fn transfers_on_a_bad_link() {
    for seed in seeds() {
        let mut world = World::usual(seed, &bad());
        world.connect(true, MIB, 16 * MIB);
        world.connect(false, MIB, MIB);
        world.run_to_end();
    }
}

#[test]
fn many_connections() {
    for nodes in [&[] as &[Node], &bad()] {
        let mut world = World::usual(7, nodes);
        for n in 0..200 {
            world.connect(n % 2 == 0, 1000 * n, 20_000 - 100 * n);
        }
        world.run_to_end();
    }
}

#[test]
fn malformed_frames_in_between() {
    for seed in seeds() {
        let mut world = World::usual(seed, &[]);
        world.garbage = true;
        world.connect(true, 2 * MIB, 2 * MIB);
        world.connect(false, 2 * MIB, 2 * MIB);
        world.run_to_end();
        assert!(world.worker.drops(DropReason::MacSource) > 0);
        assert!(world.worker.drops(DropReason::Truncated) > 0);
    }
}

#[test]
fn refused() {
    for v4 in [true, false] {
        let mut world = World::usual(0, &[]);
        let pair = world.connect(v4, 0, 0);
        let port = world.pairs.remove(pair).listener.local_addr().expect("an address").port();
        let app = world.connect_to(v4, port, 0);
        world.run(secs(10), |world| app.state(&world.guest) == State::Closed);
        assert_eq!(world.worker.flow_count(), 0);
    }
}

#[test]
fn a_full_table_refuses_only_what_is_new() {
    let addrs = [IpCidr::new(GUEST4.into(), 24)];
    let mut world = World::new(0, 1500, 4, &addrs, &[]);
    for _ in 0..4 {
        world.connect(true, 0, 0);
        world.pairs.last_mut().expect("it").app.closing = false;
    }
    world.run(secs(10), |world| world.worker.flow_count() == 4 && world.pairs.iter().all(|p| p.app.eof));
    let fifth = world.connect(true, 1000, 1000);
    world.run(secs(10), |world| world.worker.drops(DropReason::TableFull) > 0);
    assert_eq!(world.worker.flow_count(), 4);
    for pair in &mut world.pairs[..4] {
        (pair.app.to_send, pair.app.closing) = (MIB, true);
    }
    // Room again: the guest's next SYN is welcome.
    world.run_to_end();
    assert!(world.pairs[fifth].is_complete());
}

#[test]
fn configuration_by_dhcp() {
    let mut world = World::new(0, 1500, 16, &[], &[]);
    let handle = world.guest.sockets.add(dhcpv4::Socket::new());
    let deadline = world.now + secs(30);
    let config = loop {
        assert!(world.now < deadline, "no lease");
        world.step();
        let event = world.guest.sockets.get_mut::<dhcpv4::Socket>(handle).poll();
        if let Some(dhcpv4::Event::Configured(config)) = event {
            break (config.address, config.router, config.dns_servers.clone());
        }
    };
    let (address, router, dns) = config;
    assert_eq!((address.address(), address.prefix_len(), router), (GUEST4, 24, Some(HOST4)));
    assert_eq!(dns.as_slice(), [Ipv4Addr::new(192, 0, 2, 53)]);
    world.guest.iface.update_ip_addrs(|list| list.push(IpCidr::Ipv4(address)).expect("room"));
    world.connect(true, MIB, MIB);
    world.run_to_end();
}
