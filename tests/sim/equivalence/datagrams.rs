//! Datagrams and pings of the model: each arrives unaltered and once at most, and what doesn't is
//! counted.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};

use passt_engine::flow::Protocol;
use passt_engine::link::channel::Packet;
use passt_engine::link::{HEAD_LEN, Link as _};
use passt_engine::worker::Worker;
use passt_proto::addr::Mac;
use passt_proto::classify::{self, Class, classify};
use passt_proto::drop::DropReason;
use passt_proto::reassembly::{Map, PACKETS, Reassembly, Verdict};
use passt_proto::responder::Services;
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::build::MAX_HEADERS;
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::offload::{Gso, Offload};
use passt_proto::wire::{icmp, ip};
use passt_sys::inject::Fate;
use rustix::io::Errno;
use rustix::net::sockopt;

use super::script::Script;
use super::{Report, Tape};
use crate::rig::{End, door, loopback, options, path};

/// Sockets of the host that talk with the guest.
const PEERS: usize = 4;
/// Bytes, records of the kernel included, under way to one socket between two turns: less than what
/// it holds.
const BUDGET: usize = 80_000;
const RECORD: usize = 1200;
/// Bytes that tell a datagram from all others.
const ID: usize = 8;

struct World<'t, 'b, E: End> {
    tape: &'t mut Tape<'b>,
    worker: Worker<E::Link>,
    end: E,
    now: Instant,
    script: Script,
    offload: bool,
    pings: bool,
    peers: Vec<Peer>,
    outbox: Vec<Packet>,
    fragments: Fragments,
    /// Datagrams under way, by their number.
    sent: HashMap<u64, Sent>,
    next: u64,
    received: u64,
    report: Report,
}

/// A socket of the host.
struct Peer {
    socket: UdpSocket,
    v4: bool,
    /// The guest's port.
    guest: u16,
    /// Where the guest is for it, once known.
    guest_at: Option<SocketAddr>,
    /// The guest sends first, or may answer now.
    guest_may: bool,
    left: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    len: usize,
    kind: Kind,
    peer: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    FromGuest,
    ToGuest,
    Ping,
}

/// Does what the tape says for up to `operations`, `pings` included, lets all flows end, and
/// counts.
pub(crate) fn run<E: End>(tape: &mut Tape<'_>, operations: u64, pings: bool) -> Report {
    let mut world = World::<E>::new(tape, pings);
    while world.report.operations < operations && !world.tape.is_over() {
        world.operation();
        world.report.operations += 1;
    }
    world.finish()
}

impl<'t, 'b, E: End> World<'t, 'b, E> {
    fn new(tape: &'t mut Tape<'b>, pings: bool) -> Self {
        let (end, link) = E::pair();
        let now = Instant::from_millis(1000);
        let mut options = options(65_520, 64);
        options.services.services = Services::empty();
        let offload = link.caps().udp_segmentation;
        let mut worker = Worker::new(link, &options, now).expect("an engine");
        let mut peers: Vec<Peer> = Vec::new();
        while peers.len() < PEERS {
            let n = peers.len();
            let peer = Peer::new(&mut worker, n.is_multiple_of(2), n >= PEERS / 2);
            // The kernel chooses ports, and the guest's are taken from these.
            if !peers.iter().any(|other| (other.v4, other.guest) == (peer.v4, peer.guest)) {
                peers.push(peer);
            }
        }
        Self {
            tape,
            worker,
            end,
            now,
            script: Script::install(),
            offload,
            pings,
            peers,
            outbox: Vec::new(),
            fragments: Fragments::default(),
            sent: HashMap::new(),
            next: 0,
            received: 0,
            report: Report::default(),
        }
    }

    fn operation(&mut self) {
        let peer = self.tape.pick(PEERS);
        match self.tape.below(16) {
            0..4 => self.guest_sends(peer),
            4 => (0..self.tape.len(40)).for_each(|_| self.guest_sends(peer)),
            5 if self.pings => self.ping(peer),
            5..9 => self.host_sends(peer),
            9 => (0..self.tape.len(40)).for_each(|_| self.host_sends(peer)),
            10..12 => self.faults(),
            12 => {
                // Not as much that a flow ends.
                self.now = self.now + Duration::from_millis(u64::from(self.tape.len(900)));
                self.turn();
            }
            _ => self.turn(),
        }
    }

    /// A new datagram's number, and its bytes.
    fn datagram(&mut self, peer: usize, kind: Kind, len: usize) -> Vec<u8> {
        self.next += 1;
        self.sent.insert(self.next, Sent { len, kind, peer });
        content(self.next, len)
    }

    /// A length for a datagram that there is room for.
    fn len(&mut self, peer: usize) -> Option<usize> {
        let most = self.peers[peer].left.checked_sub(RECORD + ID)?.min(60_000 - ID);
        Some(ID + self.tape.len(u32::try_from(most).ok()?) as usize)
    }

    fn guest_sends(&mut self, peer: usize) {
        if !self.peers[peer].guest_may {
            return;
        }
        let count = if self.offload && self.tape.one_in(3) { 1 + self.tape.below(70) } else { 1 };
        let most = if count > 1 { 1400 } else { usize::MAX };
        let Some(len) = self.len(peer).map(|len| len.min(most)) else { return };
        let mut bytes = Vec::new();
        for n in 1..=count {
            if self.peers[peer].left < len + RECORD || bytes.len() + len > 60_000 {
                break;
            }
            // The last of several may be shorter.
            let last = n == count && self.tape.one_in(2);
            let len = if last { ID + self.tape.pick(len - ID + 1) } else { len };
            self.peers[peer].left -= len + RECORD;
            bytes.extend(self.datagram(peer, Kind::FromGuest, len));
        }
        let segment = if bytes.len() > len { u16::try_from(len).expect("small") } else { 0 };
        let Peer { v4, guest, ref socket, .. } = self.peers[peer];
        let remote = socket.local_addr().expect("bound").port();
        let mut header = [0; MAX_HEADERS];
        let emitted = path(v4).emit_udp(&mut header, (guest, remote), bytes.len(), segment);
        let (end, offload) = emitted.expect("a frame");
        self.outbox.push(Packet { bytes: [&header[..end], &bytes].concat(), offload });
    }

    /// An echo request; the host answers by itself.
    fn ping(&mut self, peer: usize) {
        // The host's kernel need not answer large ones.
        let Some(len) = self.len(peer).map(|len| len.min(4000)) else { return };
        self.peers[peer].left -= len + RECORD;
        let bytes = self.datagram(peer, Kind::Ping, len);
        let Peer { v4, guest, .. } = self.peers[peer];
        let kind = if v4 { icmp::ECHO_REQUEST_V4 } else { icmp::ECHO_REQUEST_V6 };
        let header = icmp::Header { kind, code: 0, checksum: 0.into(), id: guest.into(), seq: 7.into() };
        let mut out = [0; MAX_HEADERS];
        let end = path(v4).emit_icmp(&mut out, header, Sum::new().bytes(&bytes), len).expect("a frame");
        self.outbox.push([&out[..end], &bytes].concat().into());
    }

    fn host_sends(&mut self, peer: usize) {
        let Some(to) = self.peers[peer].guest_at else { return };
        let Some(len) = self.len(peer) else { return };
        self.peers[peer].left -= len + RECORD;
        let bytes = self.datagram(peer, Kind::ToGuest, len);
        self.peers[peer].socket.send_to(&bytes, to).expect("sent");
    }

    fn faults(&mut self) {
        const ERRORS: [Errno; 6] =
            [Errno::AGAIN, Errno::NOBUFS, Errno::MSGSIZE, Errno::IO, Errno::CONNREFUSED, Errno::PERM];
        let count = self.tape.below(6);
        let fates = (0..count).map(|_| match self.tape.below(4) {
            0 => Fate::Pass,
            1 => Fate::Fail(ERRORS[self.tape.pick(6)].raw_os_error()),
            _ => Fate::AtMost(1 + self.tape.pick(8)),
        });
        let fates = fates.collect();
        let cuts = [Errno::MSGSIZE, Errno::IO, Errno::INVAL][self.tape.pick(3)].raw_os_error();
        let cuts = self.tape.one_in(3).then_some(cuts);
        self.script.with(|state| (state.datagrams, state.refuses_cuts) = (fates, cuts));
    }

    fn turn(&mut self) {
        self.report.frames += self.outbox.len() as u64;
        self.report.batch = self.report.batch.max(self.outbox.len());
        for frame in std::mem::take(&mut self.outbox) {
            self.end.send(&mut self.worker.context().core.link, frame);
        }
        // Flows with much to tell are called again by the kernel.
        for _ in 0..20 {
            self.worker.turn(self.now).expect("a link");
            for packet in self.end.receive(&mut self.worker.context().core.link) {
                self.arrived(&packet);
            }
        }
        for peer in 0..PEERS {
            self.host_receives(peer);
            self.peers[peer].left = BUDGET;
        }
    }

    fn host_receives(&mut self, peer: usize) {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, from)) = self.peers[peer].socket.recv_from(&mut buffer) {
            self.peers[peer].guest_at = Some(from);
            self.take(peer, Kind::FromGuest, &buffer[..len]);
            self.report.up += 1;
        }
    }

    fn arrived(&mut self, packet: &Packet) {
        let (bytes, offload) = (&packet.bytes[..], &packet.offload);
        match classify(bytes.get(..HEAD_LEN).unwrap_or(bytes), bytes.len()) {
            Err(DropReason::Fragment) => {
                assert_eq!(*offload, Offload::default(), "nothing can be left to do for a fragment");
                if let Some((first, body)) = self.fragments.add(self.now, bytes) {
                    self.packet(classify::reassembled(&first, &body), &body, 0, first.src.is_v4(), offload);
                }
            }
            class => {
                let v4 = bytes[12..14] == [8, 0];
                self.packet(class, bytes, if v4 { 14 + 20 } else { 14 + 40 }, v4, offload);
            }
        }
    }

    /// What a packet is, with ranges of `bytes`, whose IP payload starts at `start`.
    fn packet(
        &mut self,
        class: Result<Class, DropReason>,
        bytes: &[u8],
        start: usize,
        v4: bool,
        offload: &Offload,
    ) {
        let datagram = match class {
            Ok(Class::Udp(datagram)) => datagram,
            // An error is about what was not sent.
            Ok(Class::Arp { .. } | Class::Ndp { .. } | Class::Complaint { .. }) => return,
            // An error about a ping, or an answer to one.
            Err(DropReason::IcmpType | DropReason::IcmpInvalid) => return self.echoed(v4, bytes, start),
            other => panic!("{other:?}"),
        };
        let (v4, ports) = (datagram.dst.addr.is_v4(), (datagram.dst.port, datagram.src.port));
        let ours = |peer: &Peer| {
            (peer.v4, (peer.guest, peer.socket.local_addr().expect("bound").port())) == (v4, ports)
        };
        let peer = self.peers.iter().position(ours).expect("one of ours");
        self.peers[peer].guest_may = true;
        let payload = &bytes[datagram.payload];
        let size = if offload.gso == Gso::Udp { usize::from(offload.gso_size) } else { payload.len() };
        for bytes in payload.chunks(size) {
            self.take(peer, Kind::ToGuest, bytes);
            self.report.down += 1;
        }
    }

    /// The answer to a ping, if it is one.
    fn echoed(&mut self, v4: bool, bytes: &[u8], start: usize) {
        let number = |at| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        // Short frames are padded.
        let end = match start {
            0 => bytes.len(),
            _ if v4 => 14 + number(16),
            _ => start + number(18),
        };
        let reply = if v4 { icmp::ECHO_REPLY_V4 } else { icmp::ECHO_REPLY_V6 };
        if bytes[start] != reply {
            return;
        }
        let id = number(start + 4);
        let ours = |peer: &Peer| (peer.v4, usize::from(peer.guest)) == (v4, id);
        let peer = self.peers.iter().position(ours).expect("one of ours");
        self.take(peer, Kind::Ping, &bytes[start + icmp::LEN..end]);
        self.report.down += 1;
    }

    /// A datagram has arrived: for the first time, and as it was sent.
    fn take(&mut self, peer: usize, kind: Kind, bytes: &[u8]) {
        let id = u64::from_be_bytes(bytes[..ID].try_into().expect("a number"));
        let Some(sent) = self.sent.remove(&id) else { panic!("number {id} again, or never sent") };
        assert_eq!(sent, Sent { len: bytes.len(), kind, peer }, "{id}");
        assert!(content(id, bytes.len()) == bytes, "{id} was altered");
        self.received += 1;
    }

    /// Everything is where it belongs, or counted; flows end, and leave nothing.
    fn finish(mut self) -> Report {
        self.script.with(|state| (state.datagrams, state.refuses_cuts) = (Vec::new(), None));
        self.turn();
        let lost: u64 = self.worker.context().core.counters.all_drops().map(|(_, count)| count).sum();
        let all = self.worker.context().core.counters.all_drops().collect::<Vec<_>>();
        assert_eq!(lost, self.sent.len() as u64, "{} received, {all:?}, {:?}", self.received, self.sent);
        while self.worker.flow_count() > 0 {
            self.now = self.worker.next_timeout().expect("a timer");
            self.turn();
        }
        assert_eq!(self.worker.next_timeout(), None, "something is still to be done");
        (self.report.lost, self.report.short) = (lost, self.script.with(|state| state.short));
        passt_sys::inject::install(None);
        self.report
    }
}

/// Packets that the guest has fragments of.
struct Fragments {
    pending: Reassembly<Vec<Map>>,
    bodies: Vec<Vec<u8>>,
}

impl Default for Fragments {
    fn default() -> Self {
        let maps = (0..PACKETS).map(|_| Map::default()).collect();
        Self { pending: Reassembly::new(maps), bodies: vec![Vec::new(); PACKETS] }
    }
}

impl Fragments {
    /// What the frame completes, and its payload.
    fn add(&mut self, now: Instant, frame: &[u8]) -> Option<(ip::Packet, Vec<u8>)> {
        let fragment = classify::fragment(frame, frame.len()).expect("a fragment");
        let verdict = self.pending.add(now, Mac([0; 6]), &fragment.packet, &fragment.part);
        let (Verdict::Keep(place) | Verdict::Complete(place)) = verdict else { panic!("{verdict:?}") };
        let body = &mut self.bodies[place.index];
        body.resize(body.len().max(fragment.part.range().end), 0);
        body[fragment.part.range()].copy_from_slice(&frame[fragment.payload()]);
        if verdict == Verdict::Keep(place) {
            return None;
        }
        let removed = self.pending.remove(place.index).expect("whole");
        Some((removed.packet, std::mem::take(body)))
    }
}

impl Peer {
    /// A server that the guest will send to; or a client, which sends to a forwarded port.
    fn new<L: passt_engine::link::Link>(worker: &mut Worker<L>, v4: bool, client: bool) -> Self {
        let socket = UdpSocket::bind((loopback(v4), 0)).expect("a socket");
        socket.set_nonblocking(true).expect("non-blocking");
        sockopt::set_socket_recv_buffer_size(&socket, 1 << 20).expect("room");
        let guest =
            if client { door(worker, v4, Protocol::Udp) } else { socket.local_addr().expect("bound").port() };
        let guest_at = client.then(|| (loopback(v4), guest).into());
        let guest = if client { guest } else { guest.wrapping_add(1).max(1024) };
        Self { socket, v4, guest, guest_at, guest_may: !client, left: BUDGET }
    }
}

/// The bytes of datagram `id`.
fn content(id: u64, len: usize) -> Vec<u8> {
    let rest = (ID..len)
        .map(|at| (id.wrapping_mul(31) + at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]);
    id.to_be_bytes().into_iter().chain(rest).collect()
}
