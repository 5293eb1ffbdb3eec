//! UDP flows: datagrams of the guest leave from a socket of the host, and answers come back.
//!
//! A flow that the guest begins uses the socket that the guest's port has on the host (`mapping`).
//! A flow that comes in through a forwarded port uses the listening socket: no moment exists in
//! which its datagrams could go astray. One that bypasses the link uses a listening socket on one
//! side and one of its own on the other (`bypass`). There is no state but when a flow was last used.

pub(crate) mod bypass;
mod complaint;
pub(crate) mod errors;
mod facts;
mod frames;
pub(crate) mod mapping;
mod send;

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use arrayvec::ArrayVec;
use passt_proto::addr::{Addr, Endpoint};
use passt_proto::classify::Datagram;
use passt_proto::drop::DropReason;
use passt_proto::rules::HostSide;
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::build::MAX_HEADERS;
use passt_proto::wire::ip::Marks;
use passt_proto::wire::offload::{Gso, Offload};
use passt_sys::dgram::{self, BATCH, Envelope, Inbox, Received};
use passt_sys::iovec::Scatter;
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::option;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use self::mapping::{Mapping, Mappings, Remote};
pub(crate) use self::send::datagrams;
use self::send::{Cuts, Item, MAX_CUTS, Position, Sender, Tally};
use super::socket::datagram_socket;
use super::{Verdict, marks, path_from_guest, path_to_guest};
use crate::core::icmp::unreachable;
use crate::core::readiness::{Futile, has_taken};
use crate::core::{Core, DontFragment, Known, Payload, Station};
use crate::flow::account::{Account, Direction};
use crate::flow::{Handle, Key, Via};
use crate::forward::{Context, Listeners, Ports, Watched};
use crate::link::{Link, MAX_PAYLOAD};

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[Call::only(Sysno::setsockopt, &[option::SO_BROADCAST])];

/// Entries of an error queue, and joined messages, that are dealt with at once.
const BURST: usize = 16;

/// [`UdpFlow::seen`] of an exchange that goes on.
const LASTING: [u8; 2] = [2, 2];

/// What all UDP flows share.
pub struct Udp {
    /// Tells fragmented datagrams from each other.
    next_id: u32,
    /// Datagrams from the guest that were not sent yet, all of one flow.
    batch: ArrayVec<Item, MAX_CUTS>,
    owner: Option<(Key, Handle)>,
    timeouts: Timeouts,
    /// A datagram was too big for the kernel: through which socket, and for whom.
    refused: Cell<Option<(Which, Endpoint)>>,
    /// The sockets of the guest's ports.
    pub(crate) mappings: Mappings,
}

/// How long an unused flow lives.
#[derive(Clone, Copy, Debug)]
struct Timeouts {
    /// Until there were two datagrams each way.
    single: Duration,
    /// From then on.
    stream: Duration,
}

/// A UDP flow.
pub struct UdpFlow {
    sockets: Sockets,
    /// The listening socket that the remote was heard through last, if that is at another port than
    /// the flow's own socket: the guest spoke first.
    last_heard: Option<Shared>,
    /// Peer of the guest on the host's side; on the bypass the server.
    remote: Endpoint,
    /// The remote is a group, or all hosts of a network.
    is_to_many: bool,
    marks: Marks,
    /// What its own socket was told of these.
    told: DontFragment,
    /// It came in.
    is_inbound: bool,
    cuts: Cuts,
    /// The kernel joined the last datagrams (`UDP_GRO`): it is likely to do so again.
    joined: bool,
    /// Batches seen from the guest (on the bypass the client) and to it, up to two.
    seen: [u8; 2],
    last: Instant,
    account: Account,
    futile: Futile,
    station: Station,
}

/// What the datagrams of a flow travel through.
enum Sockets {
    /// One of its own, connected to the remote.
    Own(OwnedFd),
    /// One that others use as well.
    Shared(Shared),
    /// On the bypass: one of its own on the server's side, and the one that listens for clients.
    Both(OwnedFd, Shared),
}

/// A socket that is not connected, from which datagrams go `to` a peer, and come `from` an address
/// of the host.
pub(crate) struct Shared {
    socket: Which,
    to: SocketAddr,
    from: Option<IpAddr>,
}

/// A socket that is not connected, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// A listening one.
    Listener(u32),
    /// The one of a port of the guest.
    Mapping(u32),
}

/// All sockets that are not connected.
#[derive(Clone, Copy)]
struct Ways<'a> {
    listeners: &'a Listeners,
    mappings: &'a Mappings,
}

impl Udp {
    pub(crate) fn new(first_id: u32) -> Self {
        Self {
            next_id: first_id,
            batch: ArrayVec::new(),
            owner: None,
            timeouts: Timeouts {
                single: setting("udp_timeout", 30),
                stream: setting("udp_timeout_stream", 120),
            },
            refused: Cell::new(None),
            mappings: Mappings::default(),
        }
    }
}

/// A time that the host's connection tracking uses, for the same purpose.
fn setting(name: &str, default: u64) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
    seconds(&text.unwrap_or_default(), default)
}

fn seconds(text: &str, default: u64) -> Duration {
    let seconds = text.trim().parse().ok();
    Duration::from_secs(seconds.filter(|&s| s > 0).unwrap_or(default))
}

impl Udp {
    /// The flow of the datagrams that wait to be sent.
    pub(crate) fn owner(&self) -> Option<(Key, Handle)> {
        self.owner
    }

    /// Whether no more datagrams can wait.
    pub(crate) fn is_full(&self) -> bool {
        self.batch.is_full()
    }

    /// Has datagrams wait to be sent by their flow.
    pub(crate) fn add(&mut self, owner: (Key, Handle), payload: Payload, offload: &Offload) {
        let segment = if offload.gso == Gso::Udp { offload.gso_size } else { 0 };
        self.owner = Some(owner);
        self.batch.push(Item::new(payload, segment));
    }

    /// The flow that is to send what waits; nothing waits any more once it [has](Self::clear).
    pub(crate) fn take_owner(&mut self) -> Option<Handle> {
        self.owner.take().map(|(_, handle)| handle)
    }

    /// Nothing waits.
    pub(crate) fn clear(&mut self) {
        self.batch.clear();
    }

    /// Through which socket a datagram was to go that was too big for the kernel, and for whom, since
    /// this was asked last.
    pub(crate) fn take_refused(&self) -> Option<(Which, Endpoint)> {
        self.refused.take()
    }

    /// Notes that a flow began.
    pub(crate) fn begun(&mut self, guest: Addr, flow: &UdpFlow) {
        if let Some(number) = flow.mapping() {
            self.mappings.join(number, guest, flow.to());
        }
    }

    /// Takes back what a flow had that has ended.
    pub(crate) fn ended(&mut self, flow: &UdpFlow) {
        if let Some(number) = flow.mapping() {
            self.mappings.leave(number, flow.to());
        }
    }

    /// Takes back what a flow would have had that could not begin.
    pub(crate) fn unused(&mut self, number: Option<u32>) {
        if let Some(number) = number {
            self.mappings.close_unused(number);
        }
    }

    /// When a flow that begins now ends, if nothing comes back.
    pub(crate) fn first_timeout(&self, now: Instant) -> Instant {
        now + self.timeouts.single
    }
}

/// A flow for a datagram of the guest that belongs to none. It is `apart` where another one has the
/// same remote and the same port, but another address of the guest's: what comes back could not be
/// told from that one's.
pub(crate) fn open<L: Link>(
    Context { core, ports }: &mut Context<L>,
    udp: &mut Udp,
    key: &Key,
    datagram: &Datagram,
    apart: bool,
) -> Result<UdpFlow, DropReason> {
    let side = core.host_side(key.protocol, key.guest.addr, key.remote)?;
    let is_to_many = is_many(core, side.remote.addr);
    let station = Station::of(&core.guest.learnt, key.guest.addr);
    match way_out(core, ports, &mut udp.mappings, (key, &side), apart) {
        Ok(sockets) => {
            let flow = UdpFlow::new(sockets, side.remote, station, core.now);
            Ok(UdpFlow { is_to_many, ..flow })
        }
        Err(error) => {
            if let Some(error) = Errno::from_io_error(&error).and_then(unreachable) {
                let path = path_from_guest(core, key, &station).marked(datagram.marks);
                let quoted = errors::quote(key, &path, datagram.payload.len());
                let header = error.header(key.guest.addr.is_v4());
                core.icmp_error(key.remote.addr, header, &quoted, &Payload::NONE);
            }
            Err(DropReason::Socket)
        }
    }
}

/// Whether what is sent there is for any number of hosts, each of which may answer.
fn is_many<L>(core: &Core<L>, remote: Addr) -> bool {
    remote.is_group() || core.services.v4.as_ref().is_some_and(|v4| v4.is_broadcast(remote))
}

/// What the datagrams of a flow that the guest begins travel through: what others of its port do, if
/// the flow is not `apart` from these.
fn way_out<L: Link>(
    core: &Core<L>,
    ports: &Ports,
    mappings: &mut Mappings,
    (key, side): (&Key, &HostSide),
    apart: bool,
) -> io::Result<Sockets> {
    if apart || !leads_back(core, key, side) {
        // From whatever port: the guest's own is for others.
        return Ok(Sockets::Own(datagram_socket(core, None, side, 0)?.0));
    }
    let to = side.socket_addr(side.remote);
    let mapped = |number| Sockets::Shared(Shared::new(Which::Mapping(number), to, None));
    if let Some(number) = mappings.find(core, key, side) {
        if is_many(core, side.remote.addr) {
            mappings.prepare_for_many(core, number, side);
        }
        return Ok(mapped(number));
    }
    // What comes back to a listening socket is known by who it is from: it may be somebody else to
    // the guest, or go past the link.
    let comes_back = |(_, listener): &(u32, &Watched)| {
        let back = listener.route(&core.guest, side.remote, key.guest.addr);
        back.is_ok_and(|(back, across)| across.is_none() && back.remote == key.remote)
    };
    if let Some((number, listener)) =
        ports.listeners.answering(key.guest.port, side.remote.addr).filter(comes_back)
    {
        let from = side.bind.map(Addr::ip);
        return Ok(Sockets::Shared(Shared::new(Which::Listener(number), listener.form(to), from)));
    }
    let mapping = Mapping::open(core, &ports.ours, key, side)?;
    let number = mappings.insert(core, mapping)?;
    if is_many(core, side.remote.addr) {
        mappings.prepare_for_many(core, number, side);
    }
    Ok(mapped(number))
}

/// Whether the guest knows whoever answers from `side` as the one that it sent to. A group does not
/// answer.
fn leads_back<L>(core: &Core<L>, key: &Key, side: &HostSide) -> bool {
    let guest = key.guest.addr;
    let back = core.guest.to_guest(key.protocol, side.remote, guest, Some(guest));
    side.remote.addr.is_group() || back.is_ok_and(|back| back.remote == key.remote)
}

impl UdpFlow {
    /// What came in through a socket that others use as well, from `remote`.
    pub(crate) fn through(shared: Shared, remote: Endpoint, station: Station, now: Instant) -> Self {
        Self { is_inbound: true, ..Self::new(Sockets::Shared(shared), remote, station, now) }
    }

    fn new(sockets: Sockets, remote: Endpoint, station: Station, now: Instant) -> Self {
        Self {
            sockets,
            last_heard: None,
            remote,
            is_to_many: false,
            marks: Marks::USUAL,
            told: DontFragment::default(),
            is_inbound: false,
            cuts: Cuts::default(),
            joined: false,
            seen: [0; 2],
            last: now,
            account: Account::new(now),
            futile: Futile::default(),
            station,
        }
    }

    /// Peer on the host's side.
    pub(crate) fn remote(&self) -> Endpoint {
        self.remote
    }

    /// Whom it goes to, as [`Mappings`] have to know it.
    fn to(&self) -> Remote {
        Remote { addr: self.remote.addr, is_many: self.is_to_many }
    }

    /// The number of the mapping that it uses, if it does.
    pub(crate) fn mapping(&self) -> Option<u32> {
        match self.sockets {
            Sockets::Shared(Shared { socket: Which::Mapping(number), .. }) => Some(number),
            _ => None,
        }
    }

    /// Whether what came in through `shared` is part of the flow, and not of another host that
    /// looks the same to the guest: that is `remote`, or somebody past the link. With the port that
    /// `shared` is bound to.
    pub(crate) fn takes(
        &mut self,
        mappings: &Mappings,
        (shared, port): (Shared, u16),
        remote: Endpoint,
        across: bool,
    ) -> bool {
        let takes = self.remote == remote || across;
        if takes {
            self.reopened(mappings, shared, port);
        }
        takes
    }

    /// Whether it came in over the link.
    pub(crate) fn is_inbound(&self) -> bool {
        self.is_inbound
    }

    /// Whether it travels through a listening socket that was closed.
    pub(crate) fn is_cut_off(&self, listeners: &Listeners) -> bool {
        self.listener().is_some_and(|number| listeners.get(number).is_none())
    }

    /// The last frame is one of the flow's.
    #[inline]
    pub(crate) fn heard(&mut self, guest: &Known) {
        self.station.heard(guest);
    }

    /// The marks of what it sends.
    pub(crate) fn marks(&self) -> Marks {
        self.marks
    }

    /// Has what it sends marked like this from now on.
    pub(crate) fn set_marks(&mut self, marks: Marks) {
        self.marks = marks;
    }

    /// Sends what waits of the guest's.
    pub(crate) fn end_batch<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        udp: &Udp,
        handle: Handle,
        key: &Key,
    ) -> Verdict {
        let before = self.seen;
        let verdict = self.send(ctx, udp, key);
        self.note(&mut ctx.ports, handle, key, before);
        verdict
    }

    /// Passes on what is in the inbox at `messages`, that came through a socket which others use as
    /// well.
    pub(crate) fn received<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        udp: &mut Udp,
        handle: Handle,
        key: &Key,
        messages: Range<usize>,
    ) -> Verdict {
        let before = self.seen;
        let verdict = self.came_in(ctx, udp, key, messages);
        self.note(&mut ctx.ports, handle, key, before);
        verdict
    }

    /// Has the shares of flows from outside follow what was seen since `before`. The guest answers
    /// what comes over the link, and the peer what goes past it.
    fn note(&self, ports: &mut Ports, handle: Handle, key: &Key, before: [u8; 2]) {
        let answers = usize::from(key.via != Via::Link);
        if before[answers] == 0 && self.seen[answers] != 0 {
            ports.inbound.answered(handle.index);
        }
        if before != LASTING && self.seen == LASTING {
            ports.inbound.lasts(handle.index);
        }
    }

    /// Passes on what is in the inbox at `messages`, that came through a listening socket.
    fn came_in<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        udp: &mut Udp,
        key: &Key,
        messages: Range<usize>,
    ) -> Verdict {
        if key.via != Via::Link {
            return self.serve(ctx, udp, messages);
        }
        self.used(Direction::In, send::tally(&ctx.core.inbox, messages.clone()), ctx.core.now);
        self.send_frames(udp, &mut ctx.core, key, messages);
        Verdict::Keep
    }

    /// Sends the batch. What cannot be sent is reported to the guest.
    fn send<L: Link>(&mut self, ctx: &mut Context<L>, udp: &Udp, key: &Key) -> Verdict {
        let Context { core, ports } = ctx;
        let tally = udp.batch.iter().fold((0, 0), |all, item| item.add_to(all));
        self.used(Direction::Out, tally, core.now);
        let mut at = Position::default();
        loop {
            let ways = Ways { listeners: &ports.listeners, mappings: &udp.mappings };
            let Some(way) = self.way(ways) else {
                let lost = udp.batch.iter().map(Item::datagrams).sum();
                core.dropped_all(DropReason::Socket, lost);
                return Verdict::Remove;
            };
            let dont_fragment = self.marks.dont_fragment;
            let told = way.shared.map_or(&self.told, |(_, told)| told);
            told.set(way.fd, !way.v4, dont_fragment);
            let mut cuts = self.cuts;
            let loss = way.deliver(core, &udp.batch, &mut at, &mut cuts);
            let through = way.shared.map(|(socket, _)| socket);
            self.cuts = cuts;
            let Some(loss) = loss else { return Verdict::Keep };
            if loss.error == Errno::MSGSIZE {
                udp.refused.set(through.map(|socket| (socket, self.remote)));
            }
            let path = self.path_from_guest(core, key);
            errors::lost(core, key, &path, &loss);
        }
    }

    /// Its own socket, if it has one.
    pub(crate) fn fd(&self) -> Option<&OwnedFd> {
        match &self.sockets {
            Sockets::Own(fd) | Sockets::Both(fd, _) => Some(fd),
            Sockets::Shared(_) => None,
        }
    }

    /// Has the kernel join datagrams from the host.
    pub(crate) fn join(&self) {
        if let Some(fd) = self.fd() {
            // Linux before 5.0 does not know how to.
            let _ = dgram::want_joined(fd.as_fd());
        }
    }

    /// Something came in through a listening socket, perhaps one that was opened in the place of
    /// the former, at this port.
    fn reopened(&mut self, mappings: &Mappings, listener: Shared, port: u16) {
        match &mut self.sockets {
            Sockets::Shared(shared @ Shared { socket: Which::Listener(_), .. })
            | Sockets::Both(_, shared) => *shared = listener,
            Sockets::Shared(Shared { socket: Which::Mapping(number), .. })
                if mappings.get(*number).is_some_and(|mapping| mapping.port() == port) => {}
            // The peer is answered from there, until it is heard through the other socket again.
            // That one stays, as anybody could forge the peer's address.
            _ => self.last_heard = Some(listener),
        }
    }

    /// The remote was heard through the flow's own socket.
    pub(crate) fn heard_remote(&mut self) {
        self.last_heard = None;
    }

    /// The flow's own socket has something to tell.
    pub(crate) fn event<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        udp: &mut Udp,
        handle: Handle,
        key: &Key,
        events: EventFlags,
    ) -> Verdict {
        let mut taken = events.contains(EventFlags::ERR) && self.failures(&mut ctx.core, key);
        if events.contains(EventFlags::IN) {
            let (before, heard) = (self.seen, self.account.of(Direction::In));
            let received = self.receive(ctx, udp, key);
            self.note(&mut ctx.ports, handle, key, before);
            taken |= has_taken(&received, events);
            // The call may have failed after it had passed on some.
            if self.account.of(Direction::In) != heard {
                self.heard_remote();
            }
            if let Ok(Verdict::Remove) = received {
                return Verdict::Remove;
            }
        }
        if self.futile.note(taken) {
            ctx.core.dropped(DropReason::Socket);
            return Verdict::Remove;
        }
        Verdict::Keep
    }

    /// Passes on what arrived. What stays is reported by the kernel again.
    fn receive<L: Link>(&mut self, ctx: &mut Context<L>, udp: &mut Udp, key: &Key) -> io::Result<Verdict> {
        let (Sockets::Own(fd) | Sockets::Both(fd, _)) = &self.sockets else { return Ok(Verdict::Keep) };
        for _ in 0..BURST {
            if !self.joined {
                break;
            }
            let ahead = dgram::peek(fd.as_fd())?;
            let tally = receive_joined(&mut ctx.core, key, &self.station, fd.as_fd(), &ahead)?;
            self.joined = tally.is_some();
            if let Some(tally) = tally {
                used((&mut self.last, &mut self.seen, &mut self.account), Direction::In, tally, ctx.core.now);
            }
        }
        if self.joined {
            return Ok(Verdict::Keep);
        }
        let count = ctx.core.inbox.receive(fd.as_fd())?;
        // Before the socket was connected, others could send to it.
        let ours = |inbox: &Inbox, i| {
            inbox.message(i).is_some_and(|(m, _)| m.source.map(Endpoint::from) == Some(self.remote))
        };
        let is_ours: ArrayVec<bool, BATCH> = (0..count).map(|i| ours(&ctx.core.inbox, i)).collect();
        let mut next = 0;
        for run in is_ours.chunk_by(bool::eq) {
            let messages = next..next + run.len();
            next = messages.end;
            if run.first() != Some(&true) {
                ctx.core.dropped_all(DropReason::NoFlow, send::datagrams(&ctx.core.inbox, messages));
            } else if key.via != Via::Link {
                if self.answer(ctx, udp, messages) == Verdict::Remove {
                    return Ok(Verdict::Remove);
                }
            } else {
                let joined = |i| ctx.core.inbox.message(i).is_some_and(|(m, _)| m.segment != 0);
                self.joined = messages.clone().any(joined);
                self.used(Direction::In, send::tally(&ctx.core.inbox, messages.clone()), ctx.core.now);
                self.send_frames(udp, &mut ctx.core, key, messages);
            }
        }
        Ok(Verdict::Keep)
    }

    /// Receives the message `ahead` from a socket that others use as well, joined datagrams, to
    /// where the guest will find them. False if it is of another kind, and still there.
    pub(crate) fn received_joined<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        (handle, key): (Handle, &Key),
        fd: BorrowedFd<'_>,
        ahead: &Received,
    ) -> io::Result<bool> {
        let before = self.seen;
        let tally = receive_joined(&mut ctx.core, key, &self.station, fd, ahead)?;
        if let Some(tally) = tally {
            self.used(Direction::In, tally, ctx.core.now);
            self.note(&mut ctx.ports, handle, key, before);
            self.heard_remote();
        }
        Ok(tally.is_some())
    }

    /// Notes use by the guest, on the bypass the client, or by its peer: datagrams, and their
    /// bytes.
    fn used(&mut self, way: Direction, tally: Tally, now: Instant) {
        used((&mut self.last, &mut self.seen, &mut self.account), way, tally, now);
    }

    pub(crate) fn timeout<L>(&self, core: &mut Core<L>, udp: &Udp, handle: Handle) -> Verdict {
        let Timeouts { single, stream } = udp.timeouts;
        let due = self.last + if self.seen == LASTING { stream } else { single };
        super::expire(core, handle, due)
    }
}

fn used(
    (last, seen, account): (&mut Instant, &mut [u8; 2], &mut Account),
    way: Direction,
    (datagrams, bytes): Tally,
    now: Instant,
) {
    *last = now;
    let seen = &mut seen[way as usize];
    *seen = seen.saturating_add(1).min(2);
    account.carried(way, datagrams, bytes, now);
}

/// Receives the message `ahead`, joined datagrams, to where the guest will find them; how many these
/// are, and their bytes. `None` if it is of another kind, and still there.
fn receive_joined<L: Link>(
    core: &mut Core<L>,
    key: &Key,
    station: &Station,
    fd: BorrowedFd<'_>,
    ahead: &Received,
) -> io::Result<Option<Tally>> {
    let path = path_to_guest(core, key, station).marked(marks::received(ahead));
    let mut header = [0; MAX_HEADERS];
    let fits = path.header_len() + passt_proto::wire::udp::LEN + usize::from(ahead.segment);
    if ahead.segment == 0 || ahead.len > MAX_PAYLOAD || fits > core.mtu_to(key.guest.addr) {
        return Ok(None);
    }
    let ports = (key.remote.port, key.guest.port);
    let Some((len, offload)) = path.emit_udp(&mut header, ports, ahead.len, ahead.segment) else {
        return Ok(None);
    };
    let received = {
        let mut room = Scatter::new();
        if !core.link.reserve(len, ahead.len, ahead.segment.into(), &mut room) {
            return Ok(None);
        }
        dgram::receive(fd, &room)?
    };
    core.commit(&header[..len], &offload, received.len);
    Ok(Some((received.len.div_ceil(ahead.segment.into()), received.len)))
}

impl UdpFlow {
    /// The way to the remote, unless the socket is closed.
    fn way<'a>(&'a self, ways: Ways<'a>) -> Option<Sender<'a>> {
        let envelope = marks::envelope(self.marks, self.remote.addr);
        let v4 = self.remote.addr.is_v4();
        let own = || match &self.sockets {
            Sockets::Own(fd) | Sockets::Both(fd, _) => {
                Some(Sender { fd: fd.as_fd(), envelope, v4, shared: None })
            }
            Sockets::Shared(shared) => shared.way(ways, envelope),
        };
        self.last_heard.as_ref().and_then(|shared| shared.way(ways, envelope)).or_else(own)
    }
}

impl Shared {
    /// Through this socket, `to` a peer and `from` an address, unless the kernel is to choose it.
    pub(crate) fn new(socket: Which, to: SocketAddr, from: Option<IpAddr>) -> Self {
        Self { socket, to, from }
    }

    fn way<'a>(&self, ways: Ways<'a>, envelope: Envelope) -> Option<Sender<'a>> {
        let (fd, told) = match self.socket {
            Which::Listener(number) => {
                let listener = ways.listeners.get(number)?;
                (&listener.fd, &listener.dont_fragment)
            }
            Which::Mapping(number) => {
                let mapping = ways.mappings.get(number)?;
                (&mapping.fd, &mapping.dont_fragment)
            }
        };
        let envelope = Envelope { to: Some(self.to), from: self.from, ..envelope };
        let v4 = self.to.ip().to_canonical().is_ipv4();
        Some(Sender { fd: fd.as_fd(), envelope, v4, shared: Some((self.socket, told)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_host() {
        for (text, time) in [("120\n", 120), ("1", 1), ("0\n", 30), ("", 30), ("-5", 30), ("many", 30)] {
            assert_eq!(seconds(text, 30), Duration::from_secs(time), "{text:?}");
        }
    }
}
