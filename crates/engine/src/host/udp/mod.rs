//! UDP flows: datagrams of the guest leave from a socket of the host, and answers come back.
//!
//! A flow that the guest begins has a socket of its own, connected, so that the kernel
//! passes on nothing but answers and errors. A flow that comes in through a forwarded port
//! uses the listening socket: no moment exists in which its datagrams could
//! go astray, and no port is shared with other programs. One that bypasses the link
//! uses both, on a side each (`bypass`). There is no state but when a flow was last used.

mod bypass;
pub(super) mod errors;
mod send;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use arrayvec::ArrayVec;
use passt_proto::addr::{Addr, Endpoint};
use passt_proto::classify::Datagram;
use passt_proto::drop::DropReason;
use passt_proto::rules::HostSide;
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::build::{DEFAULT_TTL, MAX_HEADERS};
use passt_proto::wire::offload::{Gso, Offload};
use passt_sys::dgram::{self, BATCH, Inbox};
use passt_sys::iovec::Scatter;
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::option;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{SocketType, sockopt};

use self::send::{Cursor, Cuts, Frames, Item, MAX_CUTS, Way};
use super::{Futile, Verdict, has_taken, unreachable, with_flow};
use crate::flow::inbound::{Class, Room};
use crate::flow::{Flow, Handle, Key, Protocol, Side, Table, Via};
use crate::forward::Listeners;
use crate::link::{Link, MAX_PAYLOAD};
use crate::worker::Context;

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[Call::only(Sysno::setsockopt, &[option::SO_BROADCAST])];

/// Entries of an error queue, and joined messages, that are dealt with at once.
const BURST: usize = 16;

/// [`UdpFlow::seen`] of an exchange that goes on.
const LASTING: [u8; 2] = [2, 2];

/// What all UDP flows share.
pub struct Udp {
    /// Where datagrams from the host's side are received.
    pub(crate) inbox: Inbox,
    /// Tells fragmented datagrams from each other.
    pub(crate) next_id: u32,
    /// Datagrams from the guest that were not sent yet, all of one flow.
    batch: ArrayVec<Item, MAX_CUTS>,
    owner: Option<(Key, Handle)>,
    timeouts: Timeouts,
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
    /// Whom the guest talks to, on the host's side; on the bypass the server.
    remote: Endpoint,
    ttl: u8,
    cuts: Cuts,
    /// The kernel joined the last datagrams (`UDP_GRO`): it is likely to do so again.
    joined: bool,
    /// Batches seen from the guest (on the bypass the client) and to it, up to two.
    seen: [u8; 2],
    last: Instant,
    futile: Futile,
}

/// What the datagrams of a flow travel through.
enum Sockets {
    /// One of its own, connected to the remote.
    Own(OwnedFd),
    /// A listening socket.
    Shared(Shared),
    /// On the bypass: one of its own on the server's side, and the one that listens for clients.
    Both(OwnedFd, Shared),
}

/// A listening socket by its number, from which datagrams go `to` a peer, and come `from`
/// an address of the host.
struct Shared {
    number: u32,
    to: SocketAddr,
    from: Option<IpAddr>,
}

impl Udp {
    pub(crate) fn new(first_id: u32) -> Self {
        Self {
            inbox: Inbox::new(),
            next_id: first_id,
            batch: ArrayVec::new(),
            owner: None,
            timeouts: Timeouts {
                single: setting("udp_timeout", 30),
                stream: setting("udp_timeout_stream", 120),
            },
        }
    }
}

/// A time in seconds that the host's connection tracking uses, for the same purpose.
fn setting(name: &str, default: u64) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
    let seconds = text.ok().and_then(|text| text.trim().parse().ok());
    Duration::from_secs(seconds.filter(|&s| s > 0).unwrap_or(default))
}

/// A datagram from the guest, in frame `index` of the batch.
pub(crate) fn datagram<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    index: usize,
    datagram: &Datagram,
    offload: &Offload,
) -> Result<(), DropReason> {
    let key = Key { via: Via::Link, protocol: Protocol::Udp, guest: datagram.src, remote: datagram.dst };
    let handle = match ctx.udp.owner {
        Some((owner, handle)) if owner == key => handle,
        _ => {
            end_batch(ctx, flows);
            flows.find(&key).map_or_else(|| begin(ctx, flows, key, datagram), Ok)?
        }
    };
    let other_ttl = flows.get_mut(handle).is_some_and(|(_, flow)| flow.ttl() != Some(datagram.ttl));
    if other_ttl || ctx.udp.batch.is_full() {
        end_batch(ctx, flows);
    }
    // What was sent may have ended it.
    let handle = if flows.get(handle).is_some() { handle } else { begin(ctx, flows, key, datagram)? };
    if other_ttl {
        with_flow(ctx, flows, handle, |_, _, _, flow| flow.set_ttl(datagram.ttl));
    }
    let cut = offload.gso == Gso::Udp && datagram.payload.len() > usize::from(offload.gso_size);
    let segment = if cut { offload.gso_size } else { 0 };
    ctx.udp.owner = Some((key, handle));
    ctx.udp.batch.push(Item { index, payload: datagram.payload.clone(), segment });
    Ok(())
}

/// Sends what waits of a batch.
pub(crate) fn end_batch<L: Link>(ctx: &mut Context<L>, flows: &mut Table<Flow>) {
    if let Some((_, handle)) = ctx.udp.owner.take() {
        with_flow(ctx, flows, handle, |ctx, handle, key, flow| match flow {
            Flow::Udp(flow) => {
                let before = flow.seen;
                let verdict = flow.send(ctx, key);
                flow.note(ctx, handle, key, before);
                verdict
            }
            _ => Verdict::Keep,
        });
        ctx.udp.batch.clear();
    }
}

impl Flow {
    fn ttl(&self) -> Option<u8> {
        if let Self::Udp(flow) = self { Some(flow.ttl) } else { None }
    }

    /// Datagrams through a listening socket keep the host's own time to live.
    fn set_ttl(&mut self, ttl: u8) -> Verdict {
        if let Self::Udp(flow) = self {
            flow.ttl = ttl;
            if let Some(fd) = flow.fd() {
                let _ = dgram::set_ttl(fd.as_fd(), !flow.remote.addr.is_v4(), ttl);
            }
        }
        Verdict::Keep
    }
}

/// A flow for a datagram of the guest that belongs to none.
fn begin<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    key: Key,
    datagram: &Datagram,
) -> Result<Handle, DropReason> {
    let side = ctx.from_guest(&key)?;
    let (fd, kept) = match open(ctx, None, &side, key.guest.port) {
        Ok(opened) => opened,
        Err(error) => {
            let errno = Errno::from_io_error(&error);
            if let Some(error) = errno.and_then(unreachable) {
                let quoted = errors::quote(ctx, &key, datagram.ttl, datagram.payload.len());
                ctx.icmp_error(key.remote.addr, error.header(key.guest.addr.is_v4()), &quoted, &[]);
            }
            return Err(DropReason::Socket);
        }
    };
    let shared = if kept { None } else { ctx.listeners.answering(key.guest.port, side.remote.addr) };
    let Some((number, listener)) = shared else {
        return insert(ctx, flows, key, UdpFlow::new(Sockets::Own(fd), side.remote, ctx.now));
    };
    let to = listener.form(ctx.map.socket_addr(side.remote));
    let sockets = Sockets::Shared(Shared { number, to, from: side.bind.map(Addr::ip) });
    // Perhaps the answer to one that had to make room: it has no other place than those from outside. Where all of these
    // last, none had to.
    let is_inbound = make_room(ctx, flows, Some(Class::Udp), number).is_ok();
    if !is_inbound {
        make_room(ctx, flows, None, number)?;
    }
    let handle = insert(ctx, flows, key, UdpFlow::new(sockets, side.remote, ctx.now))?;
    if is_inbound {
        ctx.inbound.begun(handle.index, Class::Udp, number, ctx.now);
    }
    Ok(handle)
}

/// A datagram socket connected to `side`, and whether it got the guest's own port (or identifier).
/// It reports errors of the network, and joins datagrams if that is of use to the link.
pub(super) fn open<L: Link>(
    ctx: &Context<L>,
    protocol: Option<rustix::net::Protocol>,
    side: &HostSide,
    port: u16,
) -> io::Result<(OwnedFd, bool)> {
    let fd = super::socket(ctx, SocketType::DGRAM, protocol, side.remote.addr, None)?;
    let from = side.bind.unwrap_or_else(|| any(side.remote.addr));
    let (from, to) = (ctx.map.socket_addr(Endpoint::new(from, port)), ctx.map.socket_addr(side.remote));
    let kept = connect(&fd, from, to, protocol.is_none() && ctx.link.caps().udp_segmentation)?;
    Ok((fd, kept))
}

/// The unspecified address of `like`'s family.
fn any(like: Addr) -> Addr {
    if like.is_v4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Connects a datagram socket to `to`, bound to `from`, or another port if that is taken; returns whether
/// it is not. It reports errors of the network, and gets datagrams `joined` if that is asked for.
fn connect(fd: &OwnedFd, mut from: SocketAddr, to: SocketAddr, joined: bool) -> io::Result<bool> {
    let kept = rustix::net::bind(fd, &from).is_ok();
    if !kept && !from.ip().is_unspecified() {
        from.set_port(0);
        rustix::net::bind(fd, &from)?;
    }
    if to.is_ipv4() {
        sockopt::set_socket_broadcast(fd, true)?;
    }
    dgram::want_failures(fd.as_fd(), to.is_ipv6())?;
    dgram::want_room(fd.as_fd())?;
    if joined {
        // Linux before 5.0 does not know how to.
        let _ = dgram::want_joined(fd.as_fd());
    }
    rustix::net::connect(fd, &to)?;
    Ok(kept)
}

/// Adds a flow to the table and its socket to the loop.
fn insert<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    key: Key,
    flow: UdpFlow,
) -> Result<Handle, DropReason> {
    let due = ctx.now + ctx.udp.timeouts.single;
    super::insert(ctx, flows, key, Flow::Udp(flow), due)
}

/// Datagrams that came through a listening socket are in the inbox: passes them on, each to its flow.
pub(super) fn received<L: Link>(ctx: &mut Context<L>, flows: &mut Table<Flow>, number: u32, count: usize) {
    let mut next = 0;
    while let Some((first, _)) = ctx.udp.inbox.message(next)
        && next < count
    {
        let same = |i: &usize| {
            let other = ctx.udp.inbox.message(*i).map(|(m, _)| (m.source, m.destination));
            other == Some((first.source, first.destination))
        };
        let end = next + (next..count).take_while(same).count();
        match inbound(ctx, flows, number, first.source, first.destination) {
            Ok(handle) => with_flow(ctx, flows, handle, |ctx, handle, key, flow| match flow {
                Flow::Udp(flow) => {
                    let before = flow.seen;
                    let verdict = flow.came_in(ctx, key, next..end);
                    flow.note(ctx, handle, key, before);
                    verdict
                }
                _ => Verdict::Keep,
            }),
            Err(reason) => ctx.dropped_all(reason, send::datagrams(&ctx.udp.inbox, next..end)),
        }
        next = end;
    }
}

/// The flow of what `source` sent to `destination` through a listening socket, a new one if need be.
fn inbound<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    number: u32,
    source: Option<SocketAddr>,
    destination: Option<IpAddr>,
) -> Result<Handle, DropReason> {
    let listener = ctx.listeners.get(number).ok_or(DropReason::Socket)?;
    let source = source.ok_or(DropReason::Socket)?;
    let to = listener.form(source);
    let destination = destination.map_or(listener.addr, Addr::from);
    let (key, server) = listener.route(&ctx.map, source.into(), destination)?;
    let from = (!destination.is_group() && !destination.is_unspecified()).then(|| destination.ip());
    let shared = Shared { number, to, from };
    let remote = server.unwrap_or(source.into());
    if let Some(handle) = flows.find(&key) {
        return match flows.get_mut(handle) {
            Some((_, Flow::Udp(flow))) if flow.remote == remote || server.is_some() => {
                flow.reopened(shared);
                Ok(handle)
            }
            // Two hosts that look the same to the guest cannot both be served.
            _ => Err(DropReason::Unmapped),
        };
    }
    let side = listener.side;
    if ctx.listeners.circular(ctx.map.bypass, &key, remote) {
        return Err(DropReason::Circular);
    }
    // Clients in the namespace are the guest's own.
    let class = match key.via {
        _ if side == Side::Namespace => None,
        Via::Link => Some(Class::Udp),
        Via::Bypass(_) => Some(Class::UdpAcross),
    };
    make_room(ctx, flows, class, number)?;
    let sockets = match key.via {
        Via::Link => Sockets::Shared(shared),
        Via::Bypass(from) => {
            let (fd, kept) = bypass::open(ctx, from, remote, key.remote.port)?;
            if kept && !displace(ctx, flows, ctx.inbound.oldest_across().map_or(Room::Full, Room::InsteadOf))
            {
                return Err(DropReason::Socket);
            }
            Sockets::Both(fd, shared)
        }
    };
    let handle = insert(ctx, flows, key, UdpFlow::new(sockets, remote, ctx.now))?;
    if let Some(class) = class {
        ctx.inbound.begun(handle.index, class, number, ctx.now);
    }
    Ok(handle)
}

/// Makes room in the table for a flow from outside; without `class`, for one of the guest's own.
fn make_room<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    class: Option<Class>,
    number: u32,
) -> Result<(), DropReason> {
    let room = match class {
        Some(class) => ctx.inbound.room(class, number, ctx.pressure.share(), flows.is_reserved()),
        None if flows.is_full() => Room::Full,
        None => Room::Free,
    };
    displace(ctx, flows, room).then_some(()).ok_or(DropReason::TableFull)
}

/// Gives up the flow in whose place another one can begin, if there is one; false if there is no room.
fn displace<L: Link>(ctx: &mut Context<L>, flows: &mut Table<Flow>, room: Room) -> bool {
    if let Room::InsteadOf(slot) = room {
        super::displace(ctx, flows, slot);
    }
    room != Room::Full
}

impl UdpFlow {
    fn new(sockets: Sockets, remote: Endpoint, now: Instant) -> Self {
        Self {
            sockets,
            remote,
            ttl: DEFAULT_TTL,
            cuts: Cuts::default(),
            joined: false,
            seen: [0; 2],
            last: now,
            futile: Futile::default(),
        }
    }

    /// Has the shares of flows from outside follow what was seen since `before`. The guest answers what comes
    /// over the link, and the peer what goes past it.
    fn note<L: Link>(&self, ctx: &mut Context<L>, handle: Handle, key: &Key, before: [u8; 2]) {
        let answers = usize::from(key.via != Via::Link);
        if before[answers] == 0 && self.seen[answers] != 0 {
            ctx.inbound.answered(handle.index);
        }
        if before != LASTING && self.seen == LASTING {
            ctx.inbound.lasts(handle.index);
        }
    }

    /// Passes on what is in the inbox at `messages`, that came through a listening socket.
    fn came_in<L: Link>(&mut self, ctx: &mut Context<L>, key: &Key, messages: Range<usize>) -> Verdict {
        if key.via != Via::Link {
            return self.serve(ctx, messages);
        }
        self.used(1, ctx.now);
        ctx.datagrams(key, messages);
        Verdict::Keep
    }

    /// Sends the batch. What cannot be sent is reported to the guest.
    fn send<L: Link>(&mut self, ctx: &mut Context<L>, key: &Key) -> Verdict {
        self.used(0, ctx.now);
        let mut at = Cursor::default();
        loop {
            let Some(way) = self.sockets.to_remote(&ctx.listeners) else {
                let lost = ctx.udp.batch.iter().map(Item::datagrams).sum();
                ctx.dropped_all(DropReason::Socket, lost);
                return Verdict::Remove;
            };
            let (frames, items) = (Frames(&ctx.link), &ctx.udp.batch);
            let loss = way.deliver(&frames, items, &mut at, &mut self.cuts, ctx.now);
            let Some(loss) = loss else { return Verdict::Keep };
            errors::lost(ctx, key, self.ttl, &loss);
        }
    }

    /// Its own socket, if it has one.
    pub(super) fn fd(&self) -> Option<&OwnedFd> {
        match &self.sockets {
            Sockets::Own(fd) | Sockets::Both(fd, _) => Some(fd),
            Sockets::Shared(_) => None,
        }
    }

    /// Something came in through a listening socket, perhaps one that was opened in the place of the former.
    fn reopened(&mut self, listener: Shared) {
        if let Sockets::Shared(shared) | Sockets::Both(_, shared) = &mut self.sockets {
            *shared = listener;
        }
    }

    /// The flow's own socket has something to tell.
    pub(super) fn event<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        handle: Handle,
        key: &Key,
        events: EventFlags,
    ) -> Verdict {
        let has_failed = events.contains(EventFlags::ERR);
        let mut taken = has_failed && self.fd().is_some_and(|fd| errors::own(ctx, key, self.ttl, fd));
        if events.contains(EventFlags::IN) {
            let before = self.seen;
            let received = self.receive(ctx, key);
            self.note(ctx, handle, key, before);
            taken |= has_taken(&received, events);
            if let Ok(Verdict::Remove) = received {
                return Verdict::Remove;
            }
        }
        if self.futile.note(taken) {
            ctx.dropped(DropReason::Socket);
            return Verdict::Remove;
        }
        Verdict::Keep
    }

    /// Passes on what arrived. What stays is reported by the kernel again.
    fn receive<L: Link>(&mut self, ctx: &mut Context<L>, key: &Key) -> io::Result<Verdict> {
        let (Sockets::Own(fd) | Sockets::Both(fd, _)) = &self.sockets else { return Ok(Verdict::Keep) };
        for _ in 0..BURST {
            if !self.joined {
                break;
            }
            self.joined = Self::receive_joined(ctx, key, fd)?;
            if self.joined {
                used(&mut self.last, &mut self.seen[1], ctx.now);
            }
        }
        if self.joined {
            return Ok(Verdict::Keep);
        }
        let count = ctx.udp.inbox.receive(fd.as_fd())?;
        // Before the socket was connected, others could send to it.
        let ours = |inbox: &Inbox, i| {
            inbox.message(i).is_some_and(|(m, _)| m.source.map(Endpoint::from) == Some(self.remote))
        };
        let is_ours: ArrayVec<bool, BATCH> = (0..count).map(|i| ours(&ctx.udp.inbox, i)).collect();
        let mut next = 0;
        for run in is_ours.chunk_by(bool::eq) {
            let messages = next..next + run.len();
            next = messages.end;
            if run.first() != Some(&true) {
                ctx.dropped_all(DropReason::NoFlow, send::datagrams(&ctx.udp.inbox, messages));
            } else if key.via != Via::Link {
                if self.answer(ctx, messages) == Verdict::Remove {
                    return Ok(Verdict::Remove);
                }
            } else {
                let joined = |i| ctx.udp.inbox.message(i).is_some_and(|(m, _)| m.segment != 0);
                self.joined = messages.clone().any(joined);
                self.used(1, ctx.now);
                ctx.datagrams(key, messages);
            }
        }
        Ok(Verdict::Keep)
    }

    /// Receives one message of joined datagrams to where the guest will find it; false
    /// if the next message is of another kind, and still there.
    fn receive_joined<L: Link>(ctx: &mut Context<L>, key: &Key, fd: &OwnedFd) -> io::Result<bool> {
        let ahead = dgram::peek(fd.as_fd())?;
        let path = ctx.path(key.remote.addr, key.guest.addr);
        let mut header = [0; MAX_HEADERS];
        let fits = path.header_len() + passt_proto::wire::udp::LEN + usize::from(ahead.segment);
        if ahead.segment == 0 || ahead.len > MAX_PAYLOAD || fits > ctx.mtu() {
            return Ok(false);
        }
        let ports = (key.remote.port, key.guest.port);
        let Some((len, offload)) = path.emit_udp(&mut header, ports, ahead.len, ahead.segment) else {
            return Ok(false);
        };
        let received = {
            let mut room = Scatter::new();
            if !ctx.link.reserve(len, ahead.len, ahead.segment.into(), &mut room) {
                return Ok(false);
            }
            dgram::receive(fd.as_fd(), &room)?
        };
        ctx.commit(&header[..len], &offload, received.len);
        Ok(true)
    }

    /// Notes use by the guest (0) or its peer (1).
    fn used(&mut self, side: usize, now: Instant) {
        used(&mut self.last, &mut self.seen[side], now);
    }

    pub(super) fn timeout<L: Link>(&self, ctx: &mut Context<L>, handle: Handle) -> Verdict {
        let Timeouts { single, stream } = ctx.udp.timeouts;
        let due = self.last + if self.seen == LASTING { stream } else { single };
        super::expire(ctx, handle, due)
    }
}

fn used(last: &mut Instant, seen: &mut u8, now: Instant) {
    *last = now;
    *seen = seen.saturating_add(1).min(2);
}

impl Sockets {
    /// The way to the remote, unless the socket is closed.
    fn to_remote<'a>(&'a self, listeners: &'a Listeners) -> Option<Way<'a>> {
        match self {
            Self::Own(fd) | Self::Both(fd, _) => Some(Way { fd: fd.as_fd(), to: None, from: None }),
            Self::Shared(shared) => shared.way(listeners),
        }
    }
}

impl Shared {
    fn way<'a>(&self, listeners: &'a Listeners) -> Option<Way<'a>> {
        Some(Way { fd: listeners.get(self.number)?.fd.as_fd(), to: Some(self.to), from: self.from })
    }
}
