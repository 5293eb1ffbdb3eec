//! Connections of the model, the engine between their two ends, and what may happen to them.

use std::collections::HashSet;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use passt_engine::core::Token;
use passt_engine::dispatch::Flow;
use passt_engine::flow::{Key, Protocol, Via};
use passt_engine::link::channel::Packet;
use passt_engine::link::{HEAD_LEN, Link as _};
use passt_engine::protocols::tcp::slack::Slack;
use passt_engine::worker::Worker;
use passt_proto::addr::Endpoint;
use passt_proto::classify::{Class, classify};
use passt_proto::responder::Services;
use passt_proto::seq::Seq;
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::tcp::{Flags, Segment};
use rustix::event::epoll::EventFlags;
use rustix::net::sockopt;

use super::conn::{Conn, Host, Phase};
use super::guest::{answered, called, passed_on, pure_ack, put, refuse};
use super::script::Script;
use super::{ACK, FIN, RST, Report, SYN, Tape};
use crate::rig::{End, door, loopback, names, options};

/// Connections at once.
const CONNS: usize = 12;
/// Bytes that each side writes on a connection at most.
const MOST: u32 = 3 << 20;
/// Most frames of a burst.
const BURST: u32 = 20_000;
/// Jumps of the clock after which an opening that was not answered may be given up.
const PATIENCE: u32 = 4;
/// Rounds of an ending without any progress until it counts as stuck.
const STUCK: u32 = 2000;

struct World<'t, 'b, E: End> {
    tape: &'t mut Tape<'b>,
    worker: Worker<E::Link>,
    end: E,
    now: Instant,
    script: Script,
    conns: Vec<Conn>,
    /// The guest's frames that are not on the link yet.
    outbox: Vec<Packet>,
    /// Whether the link takes super-frames.
    offload: bool,
    /// Ports of the host that lead to the guest, for each family.
    doors: [u16; 2],
    /// One in so many frames for the guest is lost; zero for none.
    loss: u32,
    next_id: u32,
    next_port: u16,
    report: Report,
}

/// Does what the tape says for up to `operations`, ends everything, and compares.
pub(crate) fn run<E: End>(tape: &mut Tape<'_>, operations: u64) -> Report {
    let mut world = World::<E>::new(tape);
    while world.report.operations < operations && !world.tape.is_over() {
        world.operation();
        world.report.operations += 1;
    }
    world.settle();
    world.finish()
}

impl<'t, 'b, E: End> World<'t, 'b, E> {
    fn new(tape: &'t mut Tape<'b>) -> Self {
        let (end, link) = E::pair();
        let now = Instant::from_millis(1000);
        let mut options = options(65_520, 64);
        options.services.services = Services::empty();
        let offload = link.caps().tcp_segmentation;
        let mut worker = Worker::new(link, &options, now).expect("an engine");
        // Of what there is to lend, all or little; of a slot's uses, the first or those at the
        // limits of numbers.
        worker.engine().common.tcp.slack = Slack::new([4, 16, 2112][tape.pick(3)]).expect("memory");
        let flows = &mut worker.engine().flows;
        flows.first_generation = [0, (1 << 29) - 2, u32::MAX - 1][tape.pick(3)];
        let doors = [true, false].map(|v4| door(&mut worker, v4, Protocol::Tcp));
        Self {
            tape,
            worker,
            end,
            now,
            script: Script::install(),
            conns: Vec::new(),
            outbox: Vec::new(),
            offload,
            doors,
            loss: 0,
            next_id: 0,
            next_port: 20_000,
            report: Report::default(),
        }
    }

    fn operation(&mut self) {
        if self.conns.is_empty() {
            return self.begin();
        }
        let conn = self.tape.pick(self.conns.len());
        match self.tape.below(40) {
            0..3 => self.begin(),
            3..11 => self.data(conn),
            11..13 => self.burst(conn),
            13..16 => self.acknowledge(conn),
            16 => self.finish_guest(conn),
            17 => self.reset(conn),
            18 => self.again(conn),
            19..21 => self.lie(conn),
            21..25 => {
                let len = self.tape.len(300_000).min(MOST - self.conns[conn].host.written);
                self.conns[conn].write(len);
                if self.tape.one_in(10) && self.conns[conn].write_urgent() {
                    self.script.with(|state| state.urgent = true);
                }
            }
            25..28 => {
                let len = self.tape.len(1 << 20) as usize;
                self.conns[conn].read(len);
            }
            28 => self.conns[conn].shut(),
            29 => self.host_aborts(conn),
            30 => self.sleep(),
            31..33 => self.faults(),
            33 => self.release(),
            34..36 => self.disturb(),
            36 => self.loss = [0, 0, 50, 5][self.tape.pick(4)],
            _ => self.turn(),
        }
    }

    /// A connection begins on one side.
    fn begin(&mut self) {
        if self.conns.len() == CONNS {
            return self.turn();
        }
        let v4 = self.tape.one_in(2);
        if self.tape.one_in(3) { self.host_connects(v4) } else { self.guest_connects(v4) }
    }

    fn guest_connects(&mut self, v4: bool) {
        let listener = TcpListener::bind((loopback(v4), 0)).expect("a listener");
        listener.set_nonblocking(true).expect("non-blocking");
        if self.tape.one_in(3) {
            let _ = sockopt::set_socket_recv_buffer_size(&listener, 4096);
        }
        self.next_port = self.next_port.wrapping_add(1).max(20_000);
        let ports = (self.next_port, listener.local_addr().expect("an address").port());
        let conn = self.syn(v4, ports, listener);
        self.conns.push(conn);
    }

    /// The guest's SYN for a new connection.
    fn syn(&mut self, v4: bool, ports: (u16, u16), listener: TcpListener) -> Conn {
        let mut conn = self.conn(v4, ports, Phase::SynSent, Host::new(Some(listener), None));
        put(&mut self.outbox, v4, &conn.segment(SYN, 0), &[], u16::MAX);
        conn
    }

    fn conn(&mut self, v4: bool, ports: (u16, u16), phase: Phase, host: Host) -> Conn {
        self.next_id += 1;
        self.report.connections += 1;
        Conn::new(self.next_id, v4, ports, phase, host, self.tape)
    }

    fn host_connects(&mut self, v4: bool) {
        let door = self.doors[usize::from(!v4)];
        let Ok(stream) = TcpStream::connect((loopback(v4), door)) else { return };
        stream.set_nonblocking(true).expect("non-blocking");
        let remote = stream.local_addr().expect("an address").port();
        if self.conns.iter().any(|conn| conn.v4 == v4 && conn.ports == (door, remote)) {
            return;
        }
        let mut conn = self.conn(v4, (door, remote), Phase::Listening, Host::new(None, Some(stream)));
        if self.tape.one_in(3) {
            conn.guest.half_open = Some(Seq(self.tape.any()));
        }
        self.conns.push(conn);
    }

    /// Payload anywhere between what was acknowledged and the window's end, or a little outside.
    fn data(&mut self, index: usize) {
        let (conn, tape) = (&mut self.conns[index], &mut *self.tape);
        if conn.phase != Phase::Open {
            return;
        }
        let (una, max, edge, fin) = (conn.guest.una, conn.guest.max, conn.guest.edge, conn.guest.fin);
        let back = if tape.one_in(3) { tape.len(max - una) } else { 0 };
        let further = if tape.one_in(20) { tape.len(1000) } else { 0 };
        let at = max - (back + further).min(max);
        let beyond = if tape.one_in(50) { tape.len(3000) } else { 0 };
        let limit = if fin { max } else { (edge + beyond).clamp(max, MOST) };
        let len = tape.len(65_000).min(limit - at);
        if len == 0 {
            return;
        }
        conn.guest.max = max.max(at + len);
        let last = fin && at + len == max && tape.one_in(2);
        self.send(index, if last { ACK | FIN } else { ACK }, at, len);
    }

    /// Sends payload of a guest, on a link that offloads as a super-frame now and then.
    fn send(&mut self, index: usize, flags: Flags, at: u32, len: u32) {
        let conn = &mut self.conns[index];
        conn.guest.sends(at + len, self.now);
        let segment = conn.segment(flags, at);
        let cut = self.offload && self.tape.one_in(2);
        let mss = if cut { 1400 } else { u16::MAX };
        put(&mut self.outbox, conn.v4, &segment, &conn.payload(at, len), mss);
    }

    /// Many small segments in a row, which make one batch.
    fn burst(&mut self, index: usize) {
        if self.conns[index].phase != Phase::Open || self.conns[index].guest.fin {
            return;
        }
        let (count, size) = (self.tape.len(BURST), self.tape.len(8));
        for _ in 0..count {
            let guest = &mut self.conns[index].guest;
            let at = guest.max;
            let len = size.min(guest.edge.min(MOST).saturating_sub(at));
            if len == 0 {
                break;
            }
            guest.max += len;
            self.send(index, ACK, at, len);
        }
        if self.tape.one_in(4) {
            self.finish_guest(index);
        }
        if self.tape.one_in(2) {
            self.turn();
        }
    }

    fn acknowledge(&mut self, index: usize) {
        let window = match self.tape.below(4) {
            0 => 0,
            1 => self.tape.len(3000),
            _ => u32::from(u16::MAX),
        };
        let conn = &mut self.conns[index];
        conn.guest.window = u16::try_from(window).unwrap_or(u16::MAX);
        pure_ack(&mut self.outbox, conn);
    }

    fn finish_guest(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        if conn.phase == Phase::Open && !conn.guest.fin {
            conn.guest.fin = true;
            conn.guest.sends(conn.sent(), self.now);
            let fin = conn.segment(ACK | FIN, conn.guest.max);
            put(&mut self.outbox, conn.v4, &fin, &[], u16::MAX);
        }
    }

    fn reset(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        if matches!(conn.phase, Phase::Open | Phase::SynSent) {
            let reset = conn.segment(RST, conn.sent());
            put(&mut self.outbox, conn.v4, &reset, &[], u16::MAX);
        }
        (conn.phase, conn.broken) = (Phase::Gone, true);
        self.report.resets += 1;
    }

    /// The guest resets a connection, and uses its port again at once.
    fn again(&mut self, index: usize) {
        let conn = &self.conns[index];
        let open = conn.phase == Phase::Open;
        if conn.host.listener.is_none() || !(open || conn.phase == Phase::SynSent) {
            return;
        }
        self.loss = 0;
        // Or both would get the same initial number, and what is for one could be taken for the
        // other's.
        self.now = self.now + Duration::from_millis(1003);
        self.time_passes();
        self.turn();
        if index >= self.conns.len() || self.conns[index].host.listener.is_none() {
            return;
        }
        let conn = &self.conns[index];
        // Where the engine has all that was sent, its RST has the right number.
        let guest = &conn.guest;
        let due = conn.phase == Phase::Open && guest.una == guest.max && guest.fin == guest.fin_acked;
        self.reset(index);
        let conn = &mut self.conns[index];
        let (v4, ports, listener) = (conn.v4, conn.ports, conn.host.listener.take().expect("it"));
        let conn = Conn { due, ..self.syn(v4, ports, listener) };
        self.conns[index] = conn;
        self.turn();
    }

    /// Segments that prove nothing: they may be answered, and that is all.
    fn lie(&mut self, index: usize) {
        // Where a connection is over a SYN would be none of this kind.
        self.turn();
        let Some(conn) = self.conns.get_mut(index).filter(|conn| conn.handle.is_some()) else { return };
        let (sent, any) = (conn.sent(), self.tape.any());
        let far = sent + 1 + self.tape.len(10_000);
        let lie = match self.tape.below(6) {
            0 => conn.segment(RST, far),
            1 => Segment { seq: Seq(any), ..conn.segment(SYN, 0) },
            2 => Segment { ack: conn.guest.numbers().0 + 0x1000_0000, ..conn.segment(ACK, sent) },
            3 => Segment { ack: Seq(any), ..conn.segment(ACK, sent + 0x2000_0000) },
            4 => Segment { ack: conn.guest.numbers().0 - 0x5000_0000, ..conn.segment(ACK, sent) },
            _ => conn.segment(RST, sent + 0x2000_0000),
        };
        // Before the connection is open another SYN means another connection.
        let open = conn.phase == Phase::Open && conn.confirmed && self.outbox.is_empty();
        if open || !lie.flags.contains(SYN) && conn.phase != Phase::Gone {
            put(&mut self.outbox, conn.v4, &lie, &[], u16::MAX);
            self.turn();
        }
    }

    fn host_aborts(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        if let Some(stream) = conn.host.stream.take_if(|_| self.tape.one_in(3)) {
            conn.broken = true;
            let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
            self.report.resets += 1;
        }
    }

    /// Time passes. Guests that are there say so first, as no answer for long ends a connection.
    fn sleep(&mut self) {
        for conn in &mut self.conns {
            pure_ack(&mut self.outbox, conn);
        }
        self.time_passes();
        self.turn();
        let next = self.now + Duration::from_millis(u64::from(self.tape.len(2000)));
        self.now = match self.worker.next_timeout() {
            Some(due) if self.tape.one_in(2) => due.max(self.now),
            _ => next,
        };
        self.turn();
    }

    /// Openings that were not answered before may be given up.
    fn time_passes(&mut self) {
        for conn in self.conns.iter_mut().filter(|conn| !conn.confirmed) {
            conn.waited += 1;
            conn.broken |= conn.waited > PATIENCE || conn.is_left();
        }
    }

    fn faults(&mut self) {
        let most = [0, 0, 1, self.tape.len(100_000) as usize][self.tape.pick(4)];
        self.script.with(|state| state.most = most);
    }

    /// The host's kernel has room again, and tells.
    fn release(&mut self) {
        let told: HashSet<_> = self.script.with(|state| state.full.drain().collect());
        let engine = self.worker.engine();
        for (handle, _, flow) in engine.flows.iter() {
            let Flow::Tcp(flow) = flow else { continue };
            if told.contains(&flow.socket().as_raw_fd()) {
                use EventFlags as E;
                let events = E::IN | E::OUT | E::PRI | E::RDHUP | E::ET;
                engine.ctx.core.rewatch(flow.socket(), Token::Flow(handle), events).expect("watched");
            }
        }
    }

    /// The link loses, repeats or reorders frames of the guest.
    fn disturb(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        let (a, b) = (self.tape.pick(self.outbox.len()), self.tape.pick(self.outbox.len()));
        match self.tape.below(3) {
            0 => drop(self.outbox.remove(a)),
            1 => self.outbox.insert(a, self.outbox[b].clone()),
            _ => self.outbox.swap(a, b),
        }
    }

    /// What the guest has sent arrives in one batch, or as few as the link makes of it, and what
    /// the engine sent in return.
    fn turn(&mut self) {
        let frames = std::mem::take(&mut self.outbox);
        self.report.frames += frames.len() as u64;
        self.report.batch = self.report.batch.max(frames.len());
        for frame in frames {
            self.end.send(&mut self.worker.context().core.link, frame);
        }
        let mut packets = Vec::new();
        loop {
            let before = self.worker.context().core.counters.from_guest.frames;
            self.worker.turn(self.now).expect("a link");
            self.now = self.now + Duration::from_micros(1);
            packets.extend(self.end.receive(&mut self.worker.context().core.link));
            self.observe();
            if self.worker.context().core.counters.from_guest.frames == before {
                break;
            }
        }
        for conn in &mut self.conns {
            let due = std::mem::take(&mut conn.due);
            assert!(!due || conn.handle.is_some(), "a SYN behind a RST was lost");
        }
        for packet in packets {
            if self.loss == 0 || !self.tape.one_in(self.loss) {
                self.arrived(&packet);
            }
        }
        self.accept();
        self.retire();
    }

    /// Which of the engine's sockets belongs to whom.
    fn observe(&mut self) {
        let flows = &mut self.worker.engine().flows;
        for conn in &mut self.conns {
            let handle = flows.find(&key(conn));
            if handle != conn.handle {
                conn.handle = handle;
                let flow = handle.and_then(|handle| flows.get_mut(handle));
                let Some((_, Flow::Tcp(flow))) = flow else { continue };
                let fd = flow.socket().as_raw_fd();
                self.script.with(|state| {
                    state.taken.insert(fd, 0);
                    state.full.remove(&fd);
                });
                conn.fd = Some((fd, local_port(flow.socket())));
                if conn.host.listener.is_some() {
                    // One accepted before was of the connection before.
                    conn.host.stream = None;
                }
            }
        }
    }

    fn accept(&mut self) {
        for conn in &mut self.conns {
            while let Some(Ok((stream, peer))) = conn.host.listener.as_ref().map(TcpListener::accept) {
                // Others were for connections that are gone.
                if conn.fd.is_some_and(|(_, port)| port == peer.port()) && conn.host.stream.is_none() {
                    stream.set_nonblocking(true).expect("non-blocking");
                    conn.host.stream = Some(stream);
                }
            }
        }
    }

    /// Forgets connections that are over.
    fn retire(&mut self) {
        let report = &mut self.report;
        self.conns.retain(|conn| {
            let over =
                conn.handle.is_none() && (conn.phase == Phase::Gone && conn.broken || conn.is_complete());
            if over {
                report.up += u64::from(conn.host.read);
                report.down += u64::from(conn.guest.next);
            }
            !over
        });
    }

    /// A frame arrives at the guest.
    fn arrived(&mut self, packet: &Packet) {
        let Self { conns, outbox, tape, .. } = self;
        let head = packet.bytes.get(..HEAD_LEN).unwrap_or(&packet.bytes);
        let class = classify(head, packet.bytes.len()).expect("a good frame");
        let (dst, segment, payload) = match class {
            Class::Tcp { dst, segment, payload, .. } => (dst, segment, payload),
            // The guest is asked for its addresses.
            Class::Arp { .. } | Class::Ndp { .. } => return,
            other => panic!("{other:?}"),
        };
        let payload = &packet.bytes[payload];
        let ports = (segment.dst_port, segment.src_port);
        let v4 = dst.is_v4();
        let conn = conns.iter_mut().find(|conn| conn.v4 == v4 && conn.ports == ports);
        let Some(conn) = conn.filter(|conn| conn.phase != Phase::Gone) else {
            return refuse(outbox, v4, &segment, payload);
        };
        match conn.phase {
            Phase::SynSent => answered(outbox, conn, &segment, payload),
            Phase::Listening => called(outbox, conn, &segment),
            Phase::Open => {
                conn.guest.waits(self.now);
                let taken = conn.handle.and(conn.fd).map(|(fd, _)| self.script.with(|s| s.taken[&fd]));
                passed_on(outbox, conn, &segment, payload, taken);
            }
            Phase::Gone => {}
        }
        if conn.guest.owes && tape.one_in(2) {
            pure_ack(outbox, conn);
        }
    }

    /// Nothing is lost or short any more, and both sides finish.
    fn settle(&mut self) {
        self.loss = 0;
        self.script.with(|state| state.most = 0);
        self.turn();
        let mut idle = 0;
        let mut last = 0;
        while self.worker.flow_count() > 0 || !self.conns.is_empty() {
            self.release();
            for index in 0..self.conns.len() {
                self.finish_host(index);
                self.finish_one(index, idle);
            }
            self.turn();
            let done = |conn: &Conn| conn.host.read + conn.guest.next + conn.guest.una;
            let progress = self.conns.iter().map(done).map(u64::from).sum::<u64>() + self.report.up;
            idle = if progress == last { idle + 1 } else { 0 };
            last = progress;
            if idle > 3 {
                // The host's kernel lives in real time, and may have to send something again.
                std::thread::sleep(Duration::from_micros(if idle > STUCK / 2 { 2000 } else { 20 }));
                self.time_passes();
                let due = self.worker.next_timeout().unwrap_or(self.now);
                self.now = due.max(self.now + Duration::from_millis(1));
            }
            assert!(idle < STUCK, "stuck: {:#?}", self.conns);
        }
    }

    fn finish_host(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        if conn.phase == Phase::Open || conn.broken {
            conn.shut();
        }
        while conn.read(1 << 20) && !conn.host.eof {}
    }

    /// What the guest still has to send, a piece at a time.
    fn finish_one(&mut self, index: usize, idle: u32) {
        let conn = &mut self.conns[index];
        match conn.phase {
            Phase::SynSent if idle % 10 == 9 => {
                put(&mut self.outbox, conn.v4, &conn.segment(SYN, 0), &[], u16::MAX);
            }
            // Nobody is left who would begin it.
            Phase::SynSent | Phase::Listening if conn.broken && conn.handle.is_none() => {
                conn.phase = Phase::Gone;
            }
            Phase::Open => {
                conn.guest.window = u16::MAX;
                let (una, max, edge) = (conn.guest.una, conn.guest.max, conn.guest.edge);
                let len = (max - una).min(65_000).min(edge.saturating_sub(una).max(1));
                if una < max {
                    self.send(index, ACK, una, len);
                } else if !conn.guest.fin {
                    self.finish_guest(index);
                } else if !conn.guest.fin_acked {
                    conn.guest.sends(max + 1, self.now);
                    let fin = conn.segment(ACK | FIN, max);
                    put(&mut self.outbox, conn.v4, &fin, &[], u16::MAX);
                }
                pure_ack(&mut self.outbox, &mut self.conns[index]);
            }
            Phase::SynSent | Phase::Listening | Phase::Gone => {}
        }
    }

    /// Nothing is left over.
    fn finish(mut self) -> Report {
        assert!(self.worker.engine().common.tcp.slack.is_whole(), "slack is lent to nobody");
        assert_eq!(self.worker.flow_count(), 0);
        assert_eq!(self.worker.next_timeout(), None, "something is still to be done");
        self.report.short = self.script.with(|state| state.short);
        passt_sys::inject::install(None);
        self.report
    }
}

fn key(conn: &Conn) -> Key {
    let (guest, host) = names(conn.v4);
    let (guest, remote) = (Endpoint::new(guest, conn.ports.0), Endpoint::new(host, conn.ports.1));
    Key { via: Via::Link, protocol: Protocol::Tcp, guest, remote }
}

fn local_port(fd: impl AsFd) -> u16 {
    let addr = rustix::net::getsockname(fd).expect("a name");
    std::net::SocketAddr::try_from(addr).expect("an address").port()
}
