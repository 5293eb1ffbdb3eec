//! smoltcp, a lossy link, the state machine and a model of the host's socket, joined in virtual
//! time; and the rules of the translation, checked at every step.

use std::collections::VecDeque;

use passt_proto::addr::{Addr, Mac};
use passt_proto::classify::{Class, classify};
use passt_proto::seq::Seq;
use passt_proto::tcp::{Action, Behind, Config, Connection, Event};
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::build::{MAX_HEADERS, Path as Headers};
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::tcp::{Flags, Segment};
use smoltcp::phy::Medium;
use smoltcp::socket::tcp;
use smoltcp::wire::{IpAddress, IpCidr};

use crate::guest::{App, Guest};
use crate::host::Host;
use crate::link::{Node, Path, Rng};
use crate::{ms, secs};

const GUEST: [u8; 4] = [10, 0, 0, 1];
const REMOTE: [u8; 4] = [10, 0, 0, 2];
const PORTS: (u16, u16) = (40_000, 80);
const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
/// What the engine promises, and the slack behind that promise.
const ROOM: u32 = 256 * 1024;
const SLACK: usize = ROOM as usize + 8 * 1024;
/// Actions in a row that are certainly too many.
const MAX_ACTIONS: usize = 10_000;

/// What a simulation is made of.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) mtu: u16,
    pub(crate) sack: bool,
    /// Acknowledge only what the host's peer has.
    pub(crate) far: Option<Duration>,
    /// How often the host's peer does something, if it is near.
    pub(crate) tick: Duration,
    /// Who opens the connection.
    pub(crate) guest_opens: bool,
    /// Whether the host's connect succeeds.
    pub(crate) connects: bool,
    /// Bytes that the guest sends, and that it is sent.
    pub(crate) up: u64,
    pub(crate) down: u64,
    /// Buffer of the guest's socket, each way.
    pub(crate) buffer: usize,
    /// The link from the guest, and to it.
    pub(crate) from_guest: Vec<Node>,
    pub(crate) to_guest: Vec<Node>,
}

/// A simulation.
pub(crate) struct Sim {
    setup: Setup,
    pub(crate) now: Instant,
    rng: Rng,
    pub(crate) guest: Guest,
    pub(crate) app: App,
    /// Whether the guest does anything at all.
    pub(crate) guest_runs: bool,
    pub(crate) from_guest: Path,
    pub(crate) to_guest: Path,
    pub(crate) host: Host,
    conn: Option<Connection>,
    /// What the last action was: abort or close.
    pub(crate) end: Option<Action>,
    held: VecDeque<u8>,
    tick: Option<Instant>,
    connect: Option<Instant>,
    seen: Seen,
    trace: VecDeque<String>,
    pub(crate) retransmitted: u32,
    /// Segments without payload that were sent to the guest.
    pub(crate) bare: u32,
}

/// What the rules are checked against.
#[derive(Default)]
struct Seen {
    /// First byte of the stream from the guest, and how much of it the engine got.
    irs: Option<Seq>,
    pushed: u32,
    guest_scale: u8,
    /// Right edge that we promised, and that the guest promised.
    our_edge: Option<Seq>,
    guest_edge: Option<Seq>,
    /// First byte of the stream to the guest; acknowledged by it so far.
    iss: Seq,
    guest_acked: Seq,
    our_scale: u8,
    /// Acknowledged to the guest, and when that was new.
    told: u64,
    told_at: Instant,
    /// The guest may have insisted on an acknowledgement.
    lenient: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            seed: 0,
            mtu: 1500,
            sack: true,
            far: None,
            tick: ms(1),
            guest_opens: true,
            connects: true,
            up: 0,
            down: 0,
            buffer: 256 * 1024,
            from_guest: vec![Node::Delay(ms(1))],
            to_guest: vec![Node::Delay(ms(1))],
        }
    }
}

impl Setup {
    /// Loss in thousandths on both ways, with some duplication and reordering if there is any.
    pub(crate) fn lossy(mut self, loss: u16) -> Self {
        if loss > 0 {
            let nodes = [Node::Loss(loss), Node::Duplicate(5), Node::Reorder(10, ms(3))];
            self.from_guest.extend(nodes.clone());
            self.to_guest.extend(nodes);
        }
        self
    }

    /// A path that loses what exceeds the MTU.
    fn path(&self, nodes: &[Node]) -> Path {
        Path::new([&[Node::Mtu(self.mtu.into())], nodes].concat())
    }

    fn config(&self) -> Config {
        Config { mss: self.mtu - 40, room: ROOM, max_peek: 65_483, sack: self.sack }
    }
}

impl Sim {
    pub(crate) fn new(setup: &Setup) -> Self {
        let mut rng = Rng(setup.seed);
        let iss = Seq(u32::MAX - u32::try_from(rng.below(1 << 20)).expect("small"));
        let [a, b, c, d] = GUEST;
        let addr = IpCidr::new(IpAddress::v4(a, b, c, d), 24);
        let mut guest = Guest::new(Medium::Ip, setup.mtu.into(), &[addr]);
        let handle = guest.tcp(setup.buffer);
        let now = Instant::from_millis(10);
        guest.poll(now);
        let mut sim = Self {
            now,
            rng,
            app: App::new(handle, setup.up),
            guest,
            guest_runs: true,
            from_guest: setup.path(&setup.from_guest),
            to_guest: setup.path(&setup.to_guest),
            host: Host::new(setup.down),
            conn: None,
            end: None,
            held: VecDeque::new(),
            tick: None,
            connect: None,
            seen: Seen { iss: iss + 1, guest_acked: iss + 1, ..Seen::default() },
            trace: VecDeque::new(),
            retransmitted: 0,
            bare: 0,
            setup: setup.clone(),
        };
        let socket = sim.guest.sockets.get_mut::<tcp::Socket>(handle);
        let [e, f, g, h] = REMOTE;
        let (local, remote) = PORTS;
        if setup.guest_opens {
            socket
                .connect(sim.guest.iface.context(), (IpAddress::v4(e, f, g, h), remote), local)
                .expect("connect");
        } else {
            socket.listen(local).expect("listen");
            sim.conn = Some(Connection::from_host(setup.config(), remote, local, iss, setup.far, now));
            sim.pull();
        }
        sim
    }

    /// Runs until `done` says so; fails if that takes longer than `limit`.
    pub(crate) fn run(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) {
        let deadline = self.now + limit;
        while !done(self) {
            assert!(self.now < deadline, "not done in time");
            self.step();
        }
    }

    /// Runs for some time.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next().is_some_and(|at| at < end) {
            self.step();
        }
        self.now = end;
    }

    /// Both directions are finished and the connection is over, without a reset.
    pub(crate) fn is_complete(&self) -> bool {
        self.end == Some(Action::Close)
            && self.app.eof
            && self.host.eof
            && self.host.delivered == self.setup.up
            && self.app.received == self.setup.down
    }

    /// The host's peer resets the connection.
    pub(crate) fn host_resets(&mut self) {
        self.event(Event::Failed);
    }

    fn next(&mut self) -> Option<Instant> {
        self.tick = self.tick.or_else(|| {
            let rtt = self.setup.far.unwrap_or(self.setup.tick);
            let connected = self.conn.is_some() || self.end == Some(Action::Close);
            (connected && self.host.is_busy()).then(|| self.now + rtt)
        });
        let guest = if self.guest_runs { self.guest.next_timeout(self.now) } else { None };
        let conn = self.conn.as_ref().and_then(Connection::next_timeout);
        let paths = [self.from_guest.next(), self.to_guest.next()];
        [guest, conn, self.tick, self.connect].into_iter().chain(paths).flatten().min()
    }

    fn step(&mut self) {
        let next = self.next().expect("stalled: nothing will ever happen again");
        self.now = next.max(self.now + Duration::from_micros(1));
        while let Some(frame) = self.to_guest.receive(self.now) {
            if self.guest_runs || self.guest.device.received.len() < 500 {
                self.guest.device.received.push_back(frame);
            }
        }
        self.guest_step();
        self.batch();
        if self.connect.take_if(|at| *at <= self.now).is_some() {
            let event =
                if self.setup.connects { Event::Connected { far: self.setup.far } } else { Event::Failed };
            self.event(event);
        }
        if self.tick.take_if(|at| *at <= self.now).is_some() {
            self.host_tick();
        }
        if self.conn.as_ref().and_then(Connection::next_timeout).is_some_and(|at| at <= self.now) {
            self.event(Event::Timeout);
        }
    }

    pub(crate) fn guest_step(&mut self) {
        if !self.guest_runs {
            return;
        }
        self.guest.poll(self.now);
        if self.app.work(&mut self.guest) {
            self.guest.poll(self.now);
        }
        for packet in std::mem::take(&mut self.guest.device.sent) {
            self.from_guest.send(self.now, &packet, &mut self.rng);
        }
    }

    fn host_tick(&mut self) {
        let news = self.host.tick(&mut self.rng);
        if news.readable {
            self.event(Event::Readable);
        }
        if news.writable && !self.held.is_empty() {
            let sent = self.host.send(self.held.make_contiguous());
            self.held.drain(..sent);
            let held = u32::try_from(self.held.len()).expect("bounded");
            self.event(Event::Flushed { held });
        }
    }

    /// What the engine does with what arrived from the guest.
    fn batch(&mut self) {
        let mut data = Vec::new();
        let mut any = false;
        while let Some(packet) = self.from_guest.receive(self.now) {
            let frame = [&ETHERNET, &packet[..]].concat();
            let class = classify(&frame, frame.len()).expect("the guest sends good packets");
            let Class::Tcp { segment, payload, .. } = class else { panic!("not TCP: {class:?}") };
            self.log("->", &segment, payload.len());
            data.extend_from_slice(self.segment(&segment, &frame[payload]));
            any = true;
        }
        if !data.is_empty() {
            self.queue(&data);
        }
        if any {
            self.pull();
        }
    }

    fn segment<'a>(&mut self, segment: &Segment, payload: &'a [u8]) -> &'a [u8] {
        let Some(conn) = &mut self.conn else {
            self.no_connection(segment, payload.len());
            return &[];
        };
        let len = u32::try_from(payload.len()).expect("a segment");
        self.seen.received(segment);
        let due = self.seen.due(segment, len);
        let push = conn.segment(self.now, segment, len);
        assert!(due.is_none_or(|due| push.len == due), "dropped inside the window: {push:?}, {due:?}");
        self.seen.pushed += push.len;
        &payload[push.skip as usize..][..push.len as usize]
    }

    /// A segment of no connection: the guest opens one, or is told that there is none.
    fn no_connection(&mut self, segment: &Segment, len: usize) {
        if segment.flags.contains(Flags::RST) {
            return;
        }
        if segment.flags.contains(Flags::SYN) && self.end.is_none() {
            let conn = Connection::from_guest(self.setup.config(), segment, self.seen.iss - 1);
            self.conn = Some(conn);
            self.seen.received(segment);
            self.connect = Some(self.now + ms(1));
            return;
        }
        let length = u32::try_from(len).expect("a segment") + u32::from(segment.flags.contains(Flags::SYN));
        let reset = Segment {
            src_port: segment.dst_port,
            dst_port: segment.src_port,
            seq: segment.ack,
            ack: segment.seq + length,
            flags: Flags::RST | Flags::ACK,
            ..Segment::default()
        };
        self.emit(&reset, &[]);
    }

    fn queue(&mut self, data: &[u8]) {
        let taken = if self.held.is_empty() { self.host.send(data) } else { 0 };
        self.held.extend(&data[taken..]);
        assert!(self.held.len() <= SLACK, "more than was promised to the guest: {}", self.held.len());
        let count = |n| u32::try_from(n).expect("bounded");
        let event = Event::Queued { taken: count(data.len()), held: count(self.held.len()) };
        self.event(event);
    }

    fn event(&mut self, event: Event) {
        if let Some(conn) = &mut self.conn {
            conn.handle(self.now, event);
            self.pull();
        }
    }

    fn pull(&mut self) {
        for _ in 0..MAX_ACTIONS {
            let Some(action) = self.conn.as_mut().and_then(|conn| conn.next_action(self.now)) else { return };
            match action {
                Action::Emit(segment) => self.emit_checked(&segment, &[]),
                Action::Peek { offset, len } => self.peek(offset, len),
                Action::Discard(bytes) => {
                    let discarded = u32::try_from(self.host.discarded).expect("small");
                    let acked = self.seen.guest_acked.distance(self.seen.iss);
                    assert!(discarded + bytes <= acked, "discards what the guest does not have");
                    self.host.discard(bytes);
                }
                Action::Shutdown => {
                    assert!(self.held.is_empty(), "shut down before the last byte");
                    self.host.shut = true;
                }
                Action::AskUnacknowledged => {
                    let bytes = self.host.unacknowledged();
                    self.conn.as_mut().expect("asks").handle(self.now, Event::Unacknowledged { bytes });
                }
                Action::KeepAlive(_) => {
                    self.conn.as_mut().expect("asks").handle(self.now, Event::Alive);
                }
                Action::Abort | Action::Close => {
                    self.end = Some(action);
                    self.conn = None;
                }
            }
        }
        panic!("actions do not end");
    }

    fn peek(&mut self, offset: u32, len: u32) {
        let found = self.host.peek(offset, len);
        let conn = self.conn.as_mut().expect("peeks");
        if found.is_empty() {
            conn.drained(if self.host.ended { Behind::End } else { Behind::Nothing });
            return;
        }
        let count = u32::try_from(found.len()).expect("bounded");
        let behind = if count == len {
            Behind::More
        } else if self.host.ended {
            Behind::End
        } else {
            Behind::Nothing
        };
        let segment = conn.transmit(self.now, count, behind);
        self.retransmitted = conn.retransmitted();
        self.emit_checked(&segment, &found);
    }

    fn emit_checked(&mut self, segment: &Segment, payload: &[u8]) {
        let has = if self.setup.far.is_some() { self.host.acknowledged() } else { self.host.queued() };
        self.seen.sent(self.now, segment, payload.len(), has);
        self.emit(segment, payload);
    }

    /// Sends a segment, cut and with checksums as for a link that offloads nothing.
    fn emit(&mut self, segment: &Segment, payload: &[u8]) {
        self.log("<-", segment, payload.len());
        self.bare += u32::from(payload.is_empty());
        let path = Headers {
            src_mac: Mac([2, 0, 0, 0, 0, 2]),
            dst_mac: Mac([2, 0, 0, 0, 0, 1]),
            src: Addr::from(std::net::Ipv4Addr::from(REMOTE)),
            dst: Addr::from(std::net::Ipv4Addr::from(GUEST)),
            ttl: 64,
            traffic_class: 0,
        };
        let mut header = [0; MAX_HEADERS];
        let mss = self.conn.as_ref().map_or(u16::MAX.into(), Connection::mss);
        let mss = u16::try_from(mss).expect("an MSS");
        let (len, offload) = path.emit_tcp(&mut header, segment, payload.len(), mss).expect("a segment");
        for piece in offload.pieces(payload.len()) {
            let mut packet = vec![0; len];
            offload.segment_header(&header[..len], piece, &mut packet).expect("a piece");
            let bytes = &payload[piece.offset..][..piece.len];
            offload.finish_header(&mut packet, Sum::new().bytes(bytes)).expect("a checksum");
            packet.extend_from_slice(bytes);
            self.to_guest.send(self.now, &packet[14..], &mut self.rng);
        }
    }

    fn log(&mut self, way: &str, s: &Segment, len: usize) {
        let relative = (s.seq.distance(self.seen.iss), s.ack.distance(self.seen.irs.unwrap_or_default()));
        let relative = if way == "<-" {
            relative
        } else {
            (s.seq.distance(self.seen.irs.unwrap_or(s.seq)), s.ack.distance(self.seen.iss))
        };
        let (seq, ack) = relative;
        let [seq, ack] = [seq.cast_signed(), ack.cast_signed()];
        let sack = s.options.sack.as_slice();
        let sack: Vec<_> =
            sack.iter().map(|(a, b)| (a.distance(self.seen.iss), b.distance(self.seen.iss))).collect();
        let ms = self.now.as_millis();
        self.trace.push_back(format!(
            "{ms:>9} {way} seq {seq} len {len} ack {ack} win {} {:?} {sack:?}",
            s.window, s.flags
        ));
        if self.trace.len() > 60 {
            self.trace.pop_front();
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}", self.setup);
            eprintln!(
                "sent {} received {} by the guest in {:?}",
                self.app.sent,
                self.app.received,
                self.app.state(&self.guest)
            );
            eprintln!(
                "arrived {} discarded {} delivered {} held {}",
                self.host.arrived,
                self.host.discarded,
                self.host.delivered,
                self.held.len()
            );
            eprintln!("{:?}", self.conn);
            self.trace.iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

impl Seen {
    /// A segment of the guest reached the engine.
    fn received(&mut self, segment: &Segment) {
        let mut scale = self.guest_scale;
        if segment.flags.contains(Flags::SYN) {
            self.irs.get_or_insert(segment.seq + 1);
            self.guest_scale = segment.options.window_scale.unwrap_or(0);
            scale = 0;
        }
        if segment.flags.contains(Flags::ACK) && !segment.flags.contains(Flags::RST) {
            self.guest_acked = self.guest_acked.max(segment.ack);
            let edge = segment.ack + (u32::from(segment.window) << scale);
            self.guest_edge = Some(self.guest_edge.map_or(edge, |e| e.max(edge)));
        } else if segment.flags.contains(Flags::SYN) {
            self.guest_edge = Some(self.iss + u32::from(segment.window));
        }
    }

    /// How much of a segment has to be taken: all that is new, if it fits the window and leaves no
    /// gap.
    fn due(&self, segment: &Segment, len: u32) -> Option<u32> {
        let expected = self.irs? + self.pushed;
        let (start, end) = (segment.seq, segment.seq + len);
        let plain = segment.flags.contains(Flags::ACK) && !segment.flags.intersects(Flags::SYN | Flags::RST);
        let fits = !start.after(expected) && end.after(expected) && !end.after(self.our_edge?);
        (plain && fits).then(|| end.distance(expected))
    }

    /// A segment is sent to the guest, while the host has `has` bytes of the guest's stream.
    fn sent(&mut self, now: Instant, segment: &Segment, len: usize, has: u64) {
        if segment.flags.contains(Flags::RST) {
            return;
        }
        let syn = segment.flags.contains(Flags::SYN);
        if syn {
            self.our_scale = segment.options.window_scale.unwrap_or(0);
        }
        if let Some(irs) = self.irs {
            let acked = u64::from(segment.ack.distance(irs));
            // What the guest repeats for a second in vain is acknowledged wherever it waits.
            self.lenient |= now.since(self.told_at) >= secs(1);
            let has = if self.lenient { has.max(u64::from(self.pushed) + 1) } else { has };
            assert!(acked <= has, "acknowledges {acked}, but the host has {has}");
            if acked != std::mem::replace(&mut self.told, acked) {
                self.told_at = now;
            }
            let scale = if syn { 0 } else { self.our_scale };
            let edge = segment.ack + (u32::from(segment.window) << scale);
            let back = self.our_edge.is_some_and(|before| edge.before(before));
            assert!(!back, "the window's right edge moved back: {:?} to {edge:?}", self.our_edge);
            self.our_edge = Some(edge);
        }
        if len > 0 {
            let end = segment.seq + u32::try_from(len).expect("a segment");
            assert!(!end.after(self.guest_edge.expect("told")), "more than the guest's window");
        }
    }
}
