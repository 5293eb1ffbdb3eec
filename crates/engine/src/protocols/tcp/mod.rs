//! TCP flows: performs what [`Connection`] decides on the host's sockets.
//!
//! Frames of a batch are looked at first and dealt with at its end (`batch`): what a connection got is
//! one `sendmsg`, and is answered with one acknowledgement. How connections begin is in `open`, what
//! they want done in `perform`, what the guest gets of the host in `read`, what the network says of
//! them in `errors`.

mod batch;
mod errors;
mod facts;
mod keepalive;
mod marks;
mod open;
mod perform;
mod read;
pub mod slack;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_proto::addr::Addr;
use passt_proto::drop::DropReason;
use passt_proto::tcp::{self, Connection, Event, IsnSecret};
use passt_proto::time::Instant;
use passt_proto::wire::build::Path;
use passt_proto::wire::tcp::Segment;
use passt_sys::iovec::Scatter;
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::option;
use passt_sys::{msg, socket};
use rustix::event::epoll::EventFlags;

use self::batch::Chained;
use self::keepalive::KeepAlive;
use self::marks::Marks;
pub(crate) use self::open::stray;
use self::slack::{Rest, Slack};
use super::Verdict;
use super::socket::{is_reset, socket_error};
use crate::core::{Core, Station};
use crate::flow::account::Account;
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
            option::IP_TOS,
            option::IP_TTL,
            option::IPV6_TCLASS,
            option::IPV6_UNICAST_HOPS,
            option::SO_KEEPALIVE,
            option::SO_LINGER,
            option::SO_OOBINLINE,
            option::SO_PEEK_OFF,
            option::TCP_KEEPCNT,
            option::TCP_KEEPIDLE,
            option::TCP_KEEPINTVL,
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
    pieces: Vec<Chained>,
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

/// A TCP connection with its socket.
pub struct TcpFlow {
    conn: Connection,
    fd: OwnedFd,
    /// Addresses of what is sent to the guest. Its MAC address is brought up to date in
    /// [`TcpFlow::pull`].
    path: Path,
    /// Of the guest's SYN.
    marks: Marks,
    keepalive: KeepAlive,
    station: Station,
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

    /// Connections whose guest has finished and is gone, and how many there may be with so many
    /// descriptors.
    pub(crate) fn left_behind(&self, descriptors: usize) -> (usize, usize) {
        (self.orphans, descriptors / ORPHANS)
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
        self.marks.connected(&self.fd);
        self.conn.handle(ctx.core.now, Event::Connected { far: open::far(&self.fd) });
        self.pull(ctx, tcp, handle)
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

    /// Gives back what the flow borrowed.
    pub(crate) fn give_back(self, tcp: &mut Tcp) {
        tcp.orphans -= usize::from(self.orphan);
        tcp.slack.give_back(self.rest);
    }
}

fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
