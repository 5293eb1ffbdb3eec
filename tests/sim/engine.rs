//! The whole engine between smoltcp and real sockets on loopback, over any link. What the link
//! leaves to the guest is done before smoltcp sees it, which drops what has a wrong checksum or
//! length. The tests are in [`crate::every_link`].
//!
//! The engine's and the guest's clock is virtual. It jumps only when the host's kernel, which
//! has a clock of its own, had time to say something.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

use passt_engine::clock;
use passt_engine::link::Link;
use passt_engine::link::channel::Packet;
use passt_engine::worker::Worker;
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::offload::{Gso, Piece};
use smoltcp::phy::Medium;
use smoltcp::socket::tcp::Socket;
use smoltcp::wire::IpCidr;

use crate::guest::{App, Guest};
use crate::link::{Node, Path, Rng};
use crate::rig::{End, GUEST4, GUEST6, HOST4, HOST6, options};
use crate::{DOWN, UP, check, fill, ms, secs};

pub(crate) const MIB: u64 = 1024 * 1024;
/// Rounds without news after which the clock may jump.
const PATIENCE: u32 = 20;

pub(crate) struct World<E: End> {
    pub(crate) worker: Worker<E::Link>,
    /// The guest's end of the link.
    pub(crate) end: E,
    pub(crate) guest: Guest,
    pub(crate) now: Instant,
    rng: Rng,
    pub(crate) up: Path,
    pub(crate) down: Path,
    pub(crate) pairs: Vec<Pair>,
    /// Port of the newest connection on the guest's side.
    pub(crate) local_port: u16,
    /// If set, the guest is heard on this port of its own alone.
    pub(crate) heard: Option<u16>,
    /// Whether nonsense is sent between the guest's frames.
    pub(crate) garbage: bool,
    /// Whether the clock is the kernel's.
    pub(crate) real_time: bool,
    idle: u32,
}

/// A program in the guest, and its server on the host.
pub(crate) struct Pair {
    pub(crate) app: App,
    pub(crate) listener: TcpListener,
    stream: Option<TcpStream>,
    pub(crate) to_send: u64,
    pub(crate) sent: u64,
    /// It has closed its direction.
    pub(crate) closed: bool,
    /// Bytes that it reads at most.
    pub(crate) to_read: u64,
    received: u64,
    eof: bool,
}

/// Addresses of a guest.
pub(crate) fn addresses() -> [IpCidr; 2] {
    [IpCidr::new(GUEST4.into(), 24), IpCidr::new(GUEST6.into(), 64)]
}

impl<E: End> World<E> {
    /// A guest with both addresses on a link with an MTU of 1500.
    pub(crate) fn usual(seed: u64, nodes: &[Node]) -> Self {
        Self::new(seed, (1500, 512), &addresses(), nodes)
    }

    /// An engine and a guest at the two ends of a new link, with an MTU and at most so many flows.
    pub(crate) fn new(seed: u64, (mtu, max_flows): (u16, usize), addrs: &[IpCidr], nodes: &[Node]) -> Self {
        let (end, link) = E::pair();
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
            heard: None,
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
            to_read: u64::MAX,
            received: 0,
            eof: false,
        });
        self.pairs.len() - 1
    }

    pub(crate) fn connect_to(&mut self, v4: bool, port: u16, up: u64) -> App {
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

    pub(crate) fn run(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
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
            if self.heard.is_some_and(|port| source_port(&frame) != Some(port)) {
                continue;
            }
            self.up.send(self.now, &frame, &mut self.rng);
        }
        while let Some(frame) = self.up.receive(self.now) {
            if self.garbage {
                let nonsense = garbage(&frame, &mut self.rng);
                self.end.send(&mut self.worker.context().core.link, nonsense);
            }
            self.end.send(&mut self.worker.context().core.link, Packet::from(frame));
            busy = true;
        }
        turn(&mut self.worker, self.now);
        for frame in self.end.receive(&mut self.worker.context().core.link) {
            for frame in plain(&frame) {
                self.down.send(self.now, &frame, &mut self.rng);
            }
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

/// A round of the engine, apart from everything else here, for [`crate::gauge`].
#[inline(never)]
fn turn<L: Link>(worker: &mut Worker<L>, now: Instant) {
    worker.turn(now).expect("a link");
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
        while self.received < self.to_read && !self.eof {
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

/// What a guest's kernel makes of a frame: packets that are no longer than they should be, with
/// their checksums.
fn plain(packet: &Packet) -> Vec<Vec<u8>> {
    let Packet { bytes, offload } = packet;
    // Only what is to be cut says where payload begins.
    let header = if offload.gso == Gso::None { bytes.len() } else { offload.hdr_len.into() };
    let (header, payload) = bytes.split_at(header);
    let complete = |piece: Piece| {
        let mut frame = header.to_vec();
        offload.segment_header(header, piece, &mut frame).expect("headers");
        frame.extend(&payload[piece.offset..piece.offset + piece.len]);
        offload.finish_header(&mut frame, Sum::new()).expect("a checksum");
        frame
    };
    offload.pieces(payload.len()).map(complete).collect()
}

/// The TCP port that an Ethernet frame without options in its headers comes from.
fn source_port(frame: &[u8]) -> Option<u16> {
    let headers = if frame.get(12..14)? == [8, 0] { 14 + 20 } else { 14 + 40 };
    Some(u16::from_be_bytes([*frame.get(headers)?, *frame.get(headers + 1)?]))
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
