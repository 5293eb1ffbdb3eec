//! UDP flows: datagrams of the guest leave from a socket of the host, and answers come back.
//!
//! A flow that the guest begins has a socket of its own, connected, so that the kernel
//! passes on nothing but answers and errors. A flow that comes in through a forwarded port
//! uses the listening socket: no moment exists in which its datagrams could
//! go astray, and no port is shared with other programs. One that bypasses the link
//! uses both, on a side each (`bypass`). There is no state but when a flow was last used.

pub(crate) mod bypass;
pub(crate) mod errors;
mod facts;
mod frames;
mod send;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use arrayvec::ArrayVec;
use passt_proto::addr::{Addr, Endpoint};
use passt_proto::classify::Datagram;
use passt_proto::drop::DropReason;
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::build::{DEFAULT_TTL, MAX_HEADERS};
use passt_proto::wire::offload::{Gso, Offload};
use passt_sys::dgram::{self, BATCH, Inbox};
use passt_sys::iovec::Scatter;
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::option;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

pub(crate) use self::send::datagrams;
use self::send::{Cuts, Item, MAX_CUTS, Position, Sender, Tally};
use super::socket::datagram_socket;
use super::{Verdict, path_from_guest, path_to_guest};
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
    /// Peer of the guest on the host's side; on the bypass the server.
    remote: Endpoint,
    ttl: u8,
    /// No router may cut what it sends, and whether its own socket was told so.
    dont_fragment: bool,
    told: DontFragment,
    /// Its own socket has the port that the guest sends from.
    keeps_port: bool,
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
    /// One of its own, connected to the remote; and the listening socket that the remote was heard
    /// through last, if it was not this one.
    Own(OwnedFd, Option<Shared>),
    /// A listening socket.
    Shared(Shared),
    /// On the bypass: one of its own on the server's side, and the one that listens for clients.
    Both(OwnedFd, Shared),
}

/// A listening socket by its number, from which datagrams go `to` a peer, and come `from`
/// an address of the host.
pub(crate) struct Shared {
    number: u32,
    to: SocketAddr,
    from: Option<IpAddr>,
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

    /// When a flow that begins now ends, if nothing comes back.
    pub(crate) fn first_timeout(&self, now: Instant) -> Instant {
        now + self.timeouts.single
    }
}

/// A flow for a datagram of the guest that belongs to none; with the number of the listening socket
/// that it goes through, if it does.
pub(crate) fn open<L: Link>(
    Context { core, ports }: &mut Context<L>,
    key: &Key,
    datagram: &Datagram,
) -> Result<(UdpFlow, Option<u32>), DropReason> {
    let side = core.host_side(key.protocol, key.guest.addr, key.remote)?;
    let (fd, kept) = match datagram_socket(core, None, &side, key.guest.port) {
        Ok(opened) => opened,
        Err(error) => {
            let errno = Errno::from_io_error(&error);
            if let Some(error) = errno.and_then(unreachable) {
                let station = Station::of(&core.guest.learnt, key.guest.addr);
                let path = path_from_guest(core, key, &station, datagram.ttl);
                let quoted = errors::quote(key, &path, datagram.payload.len());
                let header = error.header(key.guest.addr.is_v4());
                core.icmp_error(key.remote.addr, header, &quoted, &Payload::NONE);
            }
            return Err(DropReason::Socket);
        }
    };
    let station = Station::of(&core.guest.learnt, key.guest.addr);
    // What comes back to a listening socket is known by who it is from: it may be somebody else to
    // the guest, as a resolver of the other family is, or go past the link.
    let comes_back = |(_, listener): &(u32, &Watched)| {
        let back = listener.route(&core.guest, side.remote, key.guest.addr);
        back.is_ok_and(|(back, across)| across.is_none() && back.remote == key.remote)
    };
    let answering = || ports.listeners.answering(key.guest.port, side.remote.addr).filter(comes_back);
    let shared = if kept { None } else { answering() };
    let Some((number, listener)) = shared else {
        let flow = UdpFlow::new(Sockets::Own(fd, None), side.remote, station, core.now);
        return Ok((UdpFlow { keeps_port: kept, ..flow }, None));
    };
    let to = listener.form(side.socket_addr(side.remote));
    let sockets = Sockets::Shared(Shared { number, to, from: side.bind.map(Addr::ip) });
    Ok((UdpFlow::new(sockets, side.remote, station, core.now), Some(number)))
}

impl UdpFlow {
    /// What came in through a listening socket, from `remote`.
    pub(crate) fn through(shared: Shared, remote: Endpoint, station: Station, now: Instant) -> Self {
        Self::new(Sockets::Shared(shared), remote, station, now)
    }

    fn new(sockets: Sockets, remote: Endpoint, station: Station, now: Instant) -> Self {
        Self {
            sockets,
            remote,
            ttl: DEFAULT_TTL,
            dont_fragment: false,
            told: DontFragment::default(),
            keeps_port: false,
            cuts: Cuts::default(),
            joined: false,
            seen: [0; 2],
            last: now,
            account: Account::new(now),
            futile: Futile::default(),
            station,
        }
    }

    /// Whether what came in through `shared` is part of the flow, and not of another host that
    /// looks the same to the guest: that is `remote`, or somebody past the link.
    pub(crate) fn takes(&mut self, shared: Shared, remote: Endpoint, across: bool) -> bool {
        let takes = self.remote == remote || across;
        if takes {
            self.reopened(shared);
        }
        takes
    }

    /// Whether it travels through a listening socket alone.
    pub(crate) fn is_inbound(&self) -> bool {
        matches!(self.sockets, Sockets::Shared(_))
    }

    /// The last frame is one of the flow's.
    #[inline]
    pub(crate) fn heard(&mut self, guest: &Known) {
        self.station.heard(guest);
    }

    /// Time to live of what it sends.
    pub(crate) fn ttl(&self) -> u8 {
        self.ttl
    }

    /// Whether no router may cut what it sends.
    pub(crate) fn dont_fragment(&self) -> bool {
        self.dont_fragment
    }

    /// What waits next is sent in this manner. Datagrams through a listening socket keep the host's
    /// own time to live.
    pub(crate) fn set_manner(&mut self, ttl: u8, dont_fragment: bool) {
        self.dont_fragment = dont_fragment;
        if std::mem::replace(&mut self.ttl, ttl) == ttl {
            return;
        }
        if let Some(fd) = self.fd() {
            let _ = dgram::set_ttl(fd.as_fd(), !self.remote.addr.is_v4(), ttl);
        }
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

    /// Passes on what is in the inbox at `messages`, that came through a listening socket.
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
            return self.serve(ctx, messages);
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
            let Some(way) = self.sockets.to_remote(&ports.listeners) else {
                let lost = udp.batch.iter().map(Item::datagrams).sum();
                core.dropped_all(DropReason::Socket, lost);
                return Verdict::Remove;
            };
            way.told.unwrap_or(&self.told).set(way.fd, !self.remote.addr.is_v4(), self.dont_fragment);
            let loss = way.deliver(core, &udp.batch, &mut at, &mut self.cuts);
            let Some(loss) = loss else { return Verdict::Keep };
            let path = self.path_from_guest(core, key);
            errors::lost(core, key, &path, &loss);
        }
    }

    /// Its own socket, if it has one.
    pub(crate) fn fd(&self) -> Option<&OwnedFd> {
        match &self.sockets {
            Sockets::Own(fd, _) | Sockets::Both(fd, _) => Some(fd),
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
    /// the former.
    fn reopened(&mut self, listener: Shared) {
        match &mut self.sockets {
            Sockets::Shared(shared) | Sockets::Both(_, shared) => *shared = listener,
            // The guest spoke first, from another port than its own as that is forwarded: the peer
            // is answered from there, until it is heard through the other socket again. That one
            // stays, as anybody could forge the peer's address.
            Sockets::Own(_, last) if !self.keeps_port => *last = Some(listener),
            Sockets::Own(..) => {}
        }
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
            if self.account.of(Direction::In) != heard
                && let Sockets::Own(_, last) = &mut self.sockets
            {
                *last = None;
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
        let (Sockets::Own(fd, _) | Sockets::Both(fd, _)) = &self.sockets else { return Ok(Verdict::Keep) };
        for _ in 0..BURST {
            if !self.joined {
                break;
            }
            let tally = Self::receive_joined(&mut ctx.core, key, &self.station, fd)?;
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
                if self.answer(ctx, messages) == Verdict::Remove {
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

    /// Receives one message of joined datagrams to where the guest will find it; how many these
    /// are, and their bytes. `None` if the next message is of another kind, and still there.
    fn receive_joined<L: Link>(
        core: &mut Core<L>,
        key: &Key,
        station: &Station,
        fd: &OwnedFd,
    ) -> io::Result<Option<Tally>> {
        let ahead = dgram::peek(fd.as_fd())?;
        let path = path_to_guest(core, key, station);
        let mut header = [0; MAX_HEADERS];
        let fits = path.header_len() + passt_proto::wire::udp::LEN + usize::from(ahead.segment);
        if ahead.segment == 0 || ahead.len > MAX_PAYLOAD || fits > core.mtu() {
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
            dgram::receive(fd.as_fd(), &room)?
        };
        core.commit(&header[..len], &offload, received.len);
        Ok(Some((received.len.div_ceil(ahead.segment.into()), received.len)))
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

impl Sockets {
    /// The way to the remote, unless the socket is closed.
    fn to_remote<'a>(&'a self, listeners: &'a Listeners) -> Option<Sender<'a>> {
        let own = |fd: &'a OwnedFd| Sender { fd: fd.as_fd(), to: None, from: None, told: None };
        match self {
            Self::Own(fd, last) => {
                let last = last.as_ref().and_then(|shared| shared.way(listeners));
                Some(last.unwrap_or_else(|| own(fd)))
            }
            Self::Both(fd, _) => Some(own(fd)),
            Self::Shared(shared) => shared.way(listeners),
        }
    }
}

impl Shared {
    /// Through the socket with this number, `to` a peer and `from` an address, unless the kernel is
    /// to choose it.
    pub(crate) fn new(number: u32, to: SocketAddr, from: Option<IpAddr>) -> Self {
        Self { number, to, from }
    }

    fn way<'a>(&self, listeners: &'a Listeners) -> Option<Sender<'a>> {
        let listener = listeners.get(self.number)?;
        let told = Some(&listener.dont_fragment);
        Some(Sender { fd: listener.fd.as_fd(), to: Some(self.to), from: self.from, told })
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
