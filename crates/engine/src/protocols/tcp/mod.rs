//! TCP flows: performs what [`Connection`] decides on the host's sockets.
//!
//! Frames of a batch are looked at first and dealt with at its end: what a
//! connection got is one `sendmsg`, and is answered with one acknowledgement.
//! How connections begin is in `open`, what the guest gets of the host in `read`.

mod facts;
mod open;
mod read;
pub mod slack;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_proto::addr::{Addr, Mac};
use passt_proto::drop::DropReason;
use passt_proto::tcp::{self, Action, Connection, Event, IsnSecret};
use passt_proto::time::Instant;
use passt_proto::wire::build::Path;
use passt_proto::wire::ip::protocol;
use passt_proto::wire::report::Quoted;
use passt_proto::wire::tcp::Segment;
use passt_sys::iovec::{Gather, Scatter};
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::option;
use passt_sys::{msg, socket};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

pub(crate) use self::open::stray;
use self::slack::{Rest, Slack};
use super::Verdict;
use super::socket::{is_reset, socket_error};
use crate::core::icmp::unreachable;
use crate::core::{Core, Payload};
use crate::flow::account::{Account, Direction};
use crate::flow::{Handle, Key};
use crate::forward::Context;
use crate::forward::pressure::Ticket;
use crate::link::{Caps, Link, MAX_BATCH, MAX_HEADERS, MAX_PAYLOAD};

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[
    Call::only(Sysno::getsockopt, &[option::TCP_INFO]),
    Call::only(
        Sysno::setsockopt,
        &[
            option::SO_KEEPALIVE,
            option::SO_LINGER,
            option::SO_OOBINLINE,
            option::SO_PEEK_OFF,
            option::TCP_NODELAY,
        ],
    ),
];

/// Largest MTU of a link.
const MAX_MTU: u16 = 65_520;
/// The part of all descriptors that connections may have whose guest is gone.
const ORPHANS: usize = 8;
/// Super-frames sent for one flow before others get their turn.
const BURST: usize = 8;
/// Batches for which an acknowledgement waits at most while frames keep coming: about a
/// millisecond.
const PATIENCE: u8 = 8;
/// The time of a timer that is not set.
const NEVER: Instant = Instant::from_nanos(u64::MAX);
/// Bytes of the buffer that skipped data goes to where `SO_PEEK_OFF` is missing.
const SCRATCH: usize = 64 * 1024;

// Pieces of a batch have numbers of 16 bits.
const _: () = assert!(MAX_BATCH <= 1 << 16);

/// What all connections share.
pub struct Tcp {
    /// For IPv4 and IPv6.
    config: [tcp::Config; 2],
    isn: IsnSecret,
    /// What short writes left over. Only tests put in a pool of another size.
    pub slack: Slack,
    /// Payload of the batch that was not sent yet, chained by connection.
    pieces: Vec<Piece>,
    /// Connections that got a segment in the batch.
    dirty: Vec<Handle>,
    /// Connections that acknowledge once the link is quiet.
    late: Vec<Handle>,
    /// Batches for which the first of them has waited, its own included.
    waited: u8,
    /// There was a batch in this round of the loop.
    received: bool,
    scratch: Vec<u8>,
    /// Connections whose guest has finished and is gone, and of which something is left.
    orphans: usize,
    /// Whether `SO_PEEK_OFF` is used where the kernel has it, for IPv4 since 6.9 and for IPv6
    /// since 6.11. Only tests switch it off.
    pub use_peek_offset: bool,
}

/// Payload of the batch, and the next piece for the same connection.
struct Piece {
    payload: Payload,
    next: Option<u16>,
}

/// A TCP connection with its socket.
pub struct TcpFlow {
    conn: Connection,
    fd: OwnedFd,
    /// Addresses of what is sent to the guest. Its MAC address is brought up to date in
    /// [`TcpFlow::pull`].
    path: Path,
    /// When that was done last, as [`Learnt::moves`](passt_proto::guest::Learnt::moves) counts.
    moves: u32,
    account: Account,
    /// First and last piece of payload in the batch, of which there are [`MAX_BATCH`] at most.
    batch: Option<(u16, u16)>,
    /// Is in [`Tcp::dirty`].
    dirty: bool,
    /// Is in [`Tcp::late`].
    late: bool,
    rest: Option<Rest>,
    /// Where the kernel would peek next; `None` where it knows no peek offset.
    peek_offset: Option<u32>,
    /// There is, or was, urgent data in the receive queue. The kernel ends a read at such a mark,
    /// so finding less than asked for does not mean that this is all.
    urgent: bool,
    /// The host's peer has finished.
    ended: bool,
    /// The guest has, and the socket was told.
    shut: bool,
    /// The host's connection was reset: an end of its stream is none.
    reset: bool,
    /// The guest was told of more than the host's kernel has: if the process ends now, the
    /// connection is reset.
    owes: bool,
    /// Is counted in [`Tcp::orphans`].
    orphan: bool,
    /// It came in, and the guest has not accepted it yet.
    ticket: Option<Ticket>,
    /// What the timer is set to, or [`NEVER`].
    timer: Instant,
    /// Is to be called when the link has room.
    waits: bool,
}

impl Tcp {
    pub(crate) fn new(caps: &Caps, mtu: u16, secret: (u64, u64), slack: Slack) -> Self {
        // A guest that was not told its MTU knows better than we do what fits.
        let mtu = if mtu == 0 { MAX_MTU } else { mtu };
        let config = |headers: u16| {
            let mss = mtu.saturating_sub(headers).max(88);
            tcp::Config { mss, room: room(caps), max_peek: count(MAX_PAYLOAD), sack: true }
        };
        Self {
            config: [config(40), config(60)],
            isn: IsnSecret(secret.0, secret.1),
            slack,
            pieces: Vec::with_capacity(MAX_BATCH),
            dirty: Vec::with_capacity(MAX_BATCH),
            late: Vec::with_capacity(MAX_BATCH),
            waited: 0,
            received: false,
            scratch: vec![0; SCRATCH],
            orphans: 0,
            use_peek_offset: true,
        }
    }

    /// The link does other things by itself from now on. Windows promised before stay as they are,
    /// and their right edges: a connection looks at the room before it promises more.
    pub(crate) fn adapt(&mut self, caps: &Caps) {
        self.config.iter_mut().for_each(|config| config.room = room(caps));
    }

    fn config(&self, addr: Addr) -> tcp::Config {
        let [v4, v6] = self.config;
        if addr.is_v4() { v4 } else { v6 }
    }

    /// Whether acknowledgements wait for the link to be quiet: the loop may not sleep over them.
    pub(crate) fn has_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// Connections whose guest has finished and is gone, and how many there may be with so many
    /// descriptors.
    pub(crate) fn left_behind(&self, descriptors: usize) -> (usize, usize) {
        (self.orphans, descriptors / ORPHANS)
    }

    /// Connection number `next` that got a segment in the batch.
    pub(crate) fn touched(&self, next: usize) -> Option<Handle> {
        self.dirty.get(next).copied()
    }

    /// All that got a segment in the batch were told of its end, and frames may wait behind it.
    /// Whether the connections that acknowledge [late](Self::late) are to be told now.
    pub(crate) fn end_batch(&mut self, is_backlogged: bool) -> bool {
        self.dirty.clear();
        self.pieces.clear();
        self.received = true;
        if !self.has_late() {
            return false;
        }
        self.waited += 1;
        !is_backlogged || self.waited >= PATIENCE
    }

    /// A round of the loop ends: one in which the guest sent nothing is quiet, however full the
    /// batch before it. Whether the connections that acknowledge [late](Self::late) are to be told
    /// now.
    pub(crate) fn end_round(&mut self) -> bool {
        !std::mem::take(&mut self.received) && self.has_late()
    }

    /// Connection number `next` that acknowledges once the link is quiet.
    pub(crate) fn late(&self, next: usize) -> Option<Handle> {
        self.late.get(next).copied()
    }

    /// All of those were told.
    pub(crate) fn end_late(&mut self) {
        self.late.clear();
        self.waited = 0;
    }

    fn room(&self) -> u32 {
        count(self.slack.promise(self.config[0].room as usize))
    }
}

/// Bytes that a connection is promised at most: what there is to lend, and what the guest's device
/// can have under way.
fn room(caps: &Caps) -> u32 {
    count(slack::ROOM.min(caps.queue_limit.unwrap_or(usize::MAX)))
}

/// Sends a segment without payload.
pub(crate) fn emit<L: Link>(core: &mut Core<L>, path: &Path, segment: &Segment) {
    let mut header = [0; MAX_HEADERS];
    match path.emit_tcp(&mut header, segment, 0, 0) {
        Some((len, offload)) => core.commit(&header[..len], &offload, 0),
        None => core.dropped(DropReason::Unmapped),
    }
}

impl TcpFlow {
    /// The socket towards the host's peer, for tests to look at.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A segment from the guest with its payload. What it brought is dealt with at the
    /// [end of the batch](Self::end_batch).
    pub(crate) fn segment(
        &mut self,
        tcp: &mut Tcp,
        (handle, now): (Handle, Instant),
        segment: &Segment,
        payload: &Payload,
    ) -> Result<(), DropReason> {
        let len = u32::try_from(payload.len()).map_err(|_| DropReason::IpLength)?;
        let push = self.conn.segment(now, segment, len);
        if push.len > 0 {
            let start = push.skip as usize;
            self.append(&mut tcp.pieces, payload.part(start..start + push.len as usize));
        }
        if !std::mem::replace(&mut self.dirty, true) {
            tcp.dirty.push(handle);
        }
        Ok(())
    }

    /// Whether it got a segment in the batch, and was not told of its end.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether the guest's connection is over: its port can be used again.
    pub(crate) fn has_ended(&self) -> bool {
        self.conn.has_ended()
    }

    /// The link is quiet: what waited for that is acknowledged.
    pub(crate) fn quiet<L: Link>(&mut self, ctx: &mut Context<L>, tcp: &mut Tcp, handle: Handle) -> Verdict {
        self.late = false;
        self.conn.handle(ctx.core.now, Event::Quiet);
        self.pull(ctx, tcp, handle)
    }

    fn append(&mut self, pieces: &mut Vec<Piece>, payload: Payload) {
        let Ok(index) = u16::try_from(pieces.len()) else { return };
        pieces.push(Piece { payload, next: None });
        match &mut self.batch {
            Some((_, last)) => pieces[usize::from(std::mem::replace(last, index))].next = Some(index),
            None => self.batch = Some((index, index)),
        }
    }

    /// Queues what the batch brought, and does what is to be done.
    pub(crate) fn end_batch<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        tcp: &mut Tcp,
        handle: Handle,
    ) -> Verdict {
        self.dirty = false;
        if let Some((first, _)) = self.batch.take() {
            let Ok((taken, frames)) = self.queue(ctx, tcp, first) else {
                return self.reset(ctx, tcp, handle);
            };
            self.account.carried(Direction::Out, frames, taken, ctx.core.now);
            self.conn.handle(ctx.core.now, Event::Queued { taken: count(taken), held: self.held() });
        }
        if ctx.core.link.is_backlogged() && tcp.late.len() < MAX_BATCH {
            self.conn.handle(ctx.core.now, Event::Busy);
            if self.conn.awaits_quiet() && !std::mem::replace(&mut self.late, true) {
                tcp.late.push(handle);
            }
        }
        self.pull(ctx, tcp, handle)
    }

    /// Queues a chain of pieces in as many calls as it takes; returns how many bytes found room,
    /// which is all but where the slack is used up, and of how many pieces.
    fn queue<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        tcp: &mut Tcp,
        first: u16,
    ) -> io::Result<(usize, usize)> {
        let (mut taken, mut frames, mut next) = (0, 0, Some(first));
        while next.is_some() {
            let mut data = Gather::new();
            while let Some(piece) = next.map(|index| &tcp.pieces[usize::from(index)])
                && ctx.core.append(&piece.payload, &mut data)
            {
                next = piece.next;
                frames += 1;
            }
            let mut sent = 0;
            if self.rest.is_none() {
                sent = match msg::send(self.fd.as_fd(), &data) {
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                    Err(e) => return Err(e),
                };
            }
            if sent < data.total() {
                sent += tcp.slack.add(&mut self.rest, &data, sent);
            }
            taken += sent;
            if sent < data.total() || data.is_empty() {
                ctx.core.dropped(DropReason::WindowOverrun);
                break;
            }
        }
        Ok((taken, frames))
    }

    fn held(&self) -> u32 {
        self.rest.as_ref().map_or(0, |rest| count(rest.len()))
    }

    /// The socket has something to tell.
    pub(crate) fn event<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        tcp: &mut Tcp,
        handle: Handle,
        key: &Key,
        events: EventFlags,
    ) -> Verdict {
        let error = if events.contains(EventFlags::ERR) { socket_error(&self.fd) } else { None };
        // What is told is told once: also of a peer that spoke, and finished, before the loop
        // looked.
        self.urgent |= events.contains(EventFlags::PRI);
        self.ended |= events.contains(EventFlags::RDHUP) && error.is_none() && !self.reset;
        if self.conn.is_connecting() {
            return match error {
                Some(e) => self.failed(ctx, tcp, handle, key, e),
                None if events.contains(EventFlags::OUT) => self.connected(ctx, tcp, handle),
                None => Verdict::Keep,
            };
        }
        self.reset |= error.is_some();
        if events.intersects(EventFlags::IN | EventFlags::RDHUP) {
            self.conn.handle(ctx.core.now, Event::Readable);
        }
        if events.contains(EventFlags::OUT) && self.rest.is_some() {
            if !tcp.slack.flush(&mut self.rest, self.fd.as_fd()) {
                return self.reset(ctx, tcp, handle);
            }
            self.conn.handle(ctx.core.now, Event::Flushed { held: self.held() });
        }
        if self.reset { self.reset(ctx, tcp, handle) } else { self.pull(ctx, tcp, handle) }
    }

    /// The host's peer reset the connection. What arrived before is still to be had, and is passed
    /// on first.
    fn reset<L: Link>(&mut self, ctx: &mut Context<L>, tcp: &mut Tcp, handle: Handle) -> Verdict {
        self.reset = true;
        self.conn.handle(ctx.core.now, Event::Readable);
        let verdict = self.pull(ctx, tcp, handle);
        if verdict == Verdict::Keep { self.broken(ctx, tcp, handle) } else { verdict }
    }

    /// Another client came with the same address and port: ends the flow if its own client is gone.
    pub(crate) fn succeeded<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        tcp: &mut Tcp,
        handle: Handle,
    ) -> Verdict {
        if is_reset(&self.fd) {
            return self.reset(ctx, tcp, handle);
        }
        // It may also have ended in order, and only the guest's last acknowledgement be missing.
        let is_over = self.conn.is_delivered() && socket::is_closed(self.fd.as_fd());
        if is_over { Verdict::Remove } else { Verdict::Keep }
    }

    fn connected<L: Link>(&mut self, ctx: &mut Context<L>, tcp: &mut Tcp, handle: Handle) -> Verdict {
        self.conn.handle(ctx.core.now, Event::Connected { far: open::far(&self.fd) });
        self.pull(ctx, tcp, handle)
    }

    /// The host could not connect. The guest hears what a host's process would: a refusal,
    /// an ICMP error, or nothing where nothing came back.
    pub(crate) fn failed<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        tcp: &mut Tcp,
        handle: Handle,
        key: &Key,
        error: Errno,
    ) -> Verdict {
        log::debug!("{key}: {error}");
        let unreachable = match error {
            Errno::TIMEDOUT => return Verdict::Remove,
            Errno::CONNREFUSED => None,
            error => unreachable(error),
        };
        let Some(unreachable) = unreachable else { return self.broken(ctx, tcp, handle) };
        let seq = self.conn.guest_isn().0.to_be_bytes();
        let [a, b] = key.guest.port.to_be_bytes();
        let [c, d] = key.remote.port.to_be_bytes();
        let transport = [a, b, c, d, seq[0], seq[1], seq[2], seq[3]];
        let path = Path { src: self.path.dst, dst: self.path.src, ..self.path };
        let quoted = Quoted { path, protocol: protocol::TCP, transport, len: 20 };
        let header = unreachable.header(key.guest.addr.is_v4());
        ctx.core.icmp_error(key.remote.addr, header, &quoted, &Payload::NONE);
        Verdict::Remove
    }

    /// The host's connection is of no use any more: the guest's is reset.
    fn broken<L: Link>(&mut self, ctx: &mut Context<L>, tcp: &mut Tcp, handle: Handle) -> Verdict {
        self.conn.handle(ctx.core.now, Event::Failed);
        self.pull(ctx, tcp, handle)
    }

    /// Its ticket while the guest has not accepted, and whether the client has finished by then.
    pub(crate) fn opening(&self) -> Option<(&Ticket, bool)> {
        Some((self.ticket.as_ref()?, self.ended))
    }

    /// Resets both sides.
    pub(crate) fn give_up<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        tcp: &mut Tcp,
        handle: Handle,
    ) -> Verdict {
        let _ = socket::set_reset_on_close(self.fd.as_fd());
        self.broken(ctx, tcp, handle)
    }

    /// Whether the client finished without a word, and the guest has not answered the first SYN in
    /// time: nobody waits for an answer.
    fn is_abandoned(&mut self, key: &Key, now: Instant) -> bool {
        let Some(ticket) = self.ticket.as_ref().filter(|_| self.ended) else { return false };
        ticket.unheard(key.remote.addr.into(), now);
        self.seek(0);
        let mut byte = [0];
        let mut room = Scatter::new();
        room.push(&mut byte);
        let found = msg::past_signals(|| msg::peek(self.fd.as_fd(), &room));
        if let (Some(at), Ok(found)) = (&mut self.peek_offset, &found) {
            *at += count(*found);
        }
        matches!(found, Ok(0))
    }

    pub(crate) fn timeout<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        tcp: &mut Tcp,
        handle: Handle,
        key: &Key,
    ) -> Verdict {
        if self.is_abandoned(key, ctx.core.now) {
            return self.give_up(ctx, tcp, handle);
        }
        self.timer = NEVER;
        self.conn.handle(ctx.core.now, Event::Timeout);
        self.pull(ctx, tcp, handle)
    }

    /// Does what the connection wants done now.
    pub(crate) fn pull<L: Link>(&mut self, ctx: &mut Context<L>, tcp: &mut Tcp, handle: Handle) -> Verdict {
        // A connection may be older than the first frame of the guest, or than its last network
        // card.
        let moves = ctx.core.guest.learnt.moves();
        if moves != std::mem::replace(&mut self.moves, moves) {
            let station = ctx.core.guest.learnt.station_after(self.path.dst, self.path.dst_mac);
            self.path.dst_mac = station.unwrap_or(Mac::BROADCAST);
        }
        self.conn.set_room(tcp.room());
        let mut burst = BURST;
        let mut room = true;
        while let Some(action) = self.next_action(ctx.core.now, room) {
            match action {
                Action::Emit(segment) => emit(&mut ctx.core, &self.path, &segment),
                Action::Peek { offset, len } => {
                    if burst == 0 {
                        ctx.core.call_again(handle);
                        break;
                    }
                    burst -= 1;
                    room = self.peek(&mut ctx.core, tcp, offset, len);
                    if !room && !std::mem::replace(&mut self.waits, true) {
                        ctx.core.await_link(handle);
                    }
                }
                Action::Discard(bytes) => {
                    self.account.carried(Direction::In, 0, bytes as usize, ctx.core.now);
                    if self.discard(ctx.core.now, bytes).is_err() {
                        self.conn.handle(ctx.core.now, Event::Failed);
                    }
                }
                Action::Shutdown => {
                    self.shut = true;
                    let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Write);
                }
                Action::AskUnacknowledged => {
                    let bytes = socket::unacknowledged(self.fd.as_fd()).unwrap_or(0);
                    self.conn.handle(ctx.core.now, Event::Unacknowledged { bytes });
                }
                Action::Abort => {
                    self.secure();
                    // A guest that had finished has no more to say: what the kernel still has is
                    // for the peer.
                    if !self.shut || socket::unacknowledged(self.fd.as_fd()).unwrap_or(0) == 0 {
                        let _ = socket::set_reset_on_close(self.fd.as_fd());
                    } else {
                        msg::drain(self.fd.as_fd());
                    }
                    return Verdict::Remove;
                }
                Action::Close => return self.close(),
            }
        }
        self.secure();
        if self.conn.is_orphaned() && !self.orphan && !self.adopt(ctx, tcp) {
            let _ = socket::set_reset_on_close(self.fd.as_fd());
            return Verdict::Remove;
        }
        if let Some(ticket) = self.ticket.take_if(|_| !self.conn.is_opening()) {
            ticket.heard(self.path.src.into());
            ctx.ports.inbound.answered(handle.index);
        }
        self.set_timer(ctx, handle);
        Verdict::Keep
    }

    /// Has the kernel reset the host's connection if this process ends while the guest was told of
    /// more than the kernel has: an end in order would say that this was all.
    fn secure(&mut self) {
        let owes = self.conn.owes();
        if owes != std::mem::replace(&mut self.owes, owes) {
            let fd = self.fd.as_fd();
            let _ = if owes { socket::set_reset_on_close(fd) } else { socket::set_end_on_close(fd) };
        }
    }

    /// Ends the host's connection in order, unless something is left that its peer should have had
    /// before.
    fn close(&mut self) -> Verdict {
        if self.held() > 0 {
            let _ = socket::set_reset_on_close(self.fd.as_fd());
        } else {
            self.secure();
        }
        if self.orphan {
            msg::drain(self.fd.as_fd());
        }
        Verdict::Remove
    }

    /// Counts what a guest left behind; false if there is too much of that.
    fn adopt<L: Link>(&mut self, ctx: &mut Context<L>, tcp: &mut Tcp) -> bool {
        let (orphans, most) = tcp.left_behind(ctx.ports.pressure.descriptors());
        self.orphan = orphans < most;
        tcp.orphans += usize::from(self.orphan);
        self.orphan
    }

    fn next_action(&mut self, now: Instant, room: bool) -> Option<Action> {
        if room { self.conn.next_action(now) } else { self.conn.next_action_without_data(now) }
    }

    /// The link has room again.
    pub(crate) fn resume<L: Link>(&mut self, ctx: &mut Context<L>, tcp: &mut Tcp, handle: Handle) -> Verdict {
        self.waits = false;
        self.pull(ctx, tcp, handle)
    }

    /// A timer that fires too early costs less than moving it with every segment.
    fn set_timer<L>(&mut self, ctx: &mut Context<L>, handle: Handle) {
        if let Some(due) = self.conn.next_timeout()
            && due < self.timer
        {
            self.timer = due;
            ctx.core.timers.set(handle.index, due);
        }
    }

    /// Gives back what the flow borrowed.
    pub(crate) fn give_back(self, tcp: &mut Tcp) {
        tcp.orphans -= usize::from(self.orphan);
        tcp.slack.give_back(self.rest);
    }
}

fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
