//! The bypass: TCP connections between the loopbacks of host and namespace go from socket to
//! socket, and never become frames.
//!
//! The two kernels' sockets do all of TCP. Small messages are copied, which is cheaper than two
//! calls of `splice(2)`; from the first read that fills the buffer on, data passes through a
//! pipe without being touched. What the other side has no room for waits in that pipe, and
//! nothing more is read until it is gone: the sender's kernel sees a full window. Where
//! no pipe can be had, data stays in the receive queue until it is sent on.
//!
//! A congestion control that paces would have each of the two connections wait for what it believes
//! the other's pace to be, on a link that has none: bulk data leaves under one that does not.
//!
//! Not here: timers. Both peers' kernels are this machine's, and tell of every end.

mod attempt;
mod carry;
mod facts;
mod pipe;

use std::io;
use std::ops::{Index, IndexMut};
use std::os::fd::{AsFd, OwnedFd};

use passt_proto::addr::Endpoint;
use passt_proto::drop::DropReason;
use passt_proto::time::Instant;
use passt_sys::iovec::Scatter;
use passt_sys::seccomp::{Call, Choice, Sysno};
use passt_sys::socket::option;
use passt_sys::{msg, socket};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{SocketType, sockopt};

pub(crate) use self::attempt::Attempt;
use self::pipe::{Pipe, Pipes};
use super::Verdict;
use super::socket::{is_reset, socket_error};
use crate::core::{Handle, Token};
use crate::flow::account::Account;
use crate::flow::{Key, Side};
use crate::forward::pressure::Ticket;
use crate::forward::{Context, Ports};
use crate::link::Link;

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[
    Call::only(Sysno::fcntl, PIPE_SIZE),
    Call::only(Sysno::getsockopt, &[option::TCP_CONGESTION]),
    Call::only(Sysno::pipe2, pipe::FLAGS),
    Call::any(Sysno::read),
    Call::only(Sysno::setsockopt, &[option::SO_LINGER, option::TCP_CONGESTION]),
    Call::any(Sysno::splice),
    Call::any(Sysno::write),
];

/// `F_SETPIPE_SZ` and `F_GETPIPE_SZ` (`include/uapi/linux/fcntl.h`).
const PIPE_SIZE: &[Choice] = &[&[(1, 1031)], &[(1, 1032)]];

/// Steps for one flow and direction before others get their turn.
const BURST: usize = 16;
/// Congestion controls that send as the window allows: their names as the kernel has them.
const WINDOWED: [&[u8]; 2] = [b"cubic\0", b"reno\0"];
/// One of them, which every kernel has and everybody may use.
const UNPACED: &str = "reno";
/// Less than this at a time is copied.
const SMALL: usize = 16 * 1024;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Splice {
    buffer: Vec<u8>,
    pipes: Pipes,
}

/// The end of a connection, by its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Accepted from the listening socket.
    Client,
    /// Connected to for the client.
    Target,
}

/// Something for each of them.
#[derive(Debug)]
struct Pair<T> {
    client: T,
    target: T,
}

/// A connection that bypasses the link.
#[derive(Debug)]
pub struct SpliceFlow {
    ends: Pair<End>,
    /// Data from each to the other.
    ways: Pair<Half>,
    /// Until the kernel says that the target accepted.
    connecting: Option<Attempt>,
    account: Account,
}

#[derive(Debug)]
struct End {
    fd: OwnedFd,
    /// There may be something to read.
    readable: bool,
    /// The peer has finished: reading goes on until the end is seen.
    finished: bool,
    /// There is, or was, urgent data: a read ends there, and splicing stops.
    urgent: bool,
    /// The connection was reset.
    reset: bool,
    /// The loop tells when there is room again.
    watched_for_room: bool,
    /// Bulk data has gone out here.
    unpaced: bool,
}

#[derive(Debug)]
struct Half {
    state: State,
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
    /// Bytes taken since the loop called.
    taken: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Messages are small.
    Copying,
    /// Data is plenty.
    Splicing,
    /// All was read, not all of it written.
    Ending,
    /// The other end was told of the end.
    Ended,
}

/// How to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SpliceStep {
    /// With another step.
    More,
    /// When the loop calls again.
    Wait,
}

impl Splice {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; pipe::MIN_SIZE], pipes: Pipes::new() }
    }

    /// Empty pipes that are kept, and how many there may be.
    pub(crate) fn spare_pipes(&self) -> (usize, usize) {
        self.pipes.spare()
    }
}

/// Lets a client know that it can't be served.
pub(crate) fn refuse(client: &OwnedFd, reason: DropReason) -> Result<(), DropReason> {
    let _ = socket::set_reset_on_close(client.as_fd());
    Err(reason)
}

/// The socket towards the target, and whether it is still connecting.
pub(crate) fn connect(ports: &mut Ports, from: Side, target: Endpoint) -> io::Result<(OwnedFd, bool)> {
    let fd = ports.socket_across(from, SocketType::STREAM, target.addr)?;
    match rustix::net::connect(&fd, &target.socket_addr()) {
        Ok(()) => Ok((fd, false)),
        Err(Errno::INPROGRESS) => Ok((fd, true)),
        Err(error) => Err(error.into()),
    }
}

/// Reads what stays in the receive queue.
fn peek(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    let mut into = Scatter::new();
    into.push(buffer);
    msg::peek(fd.as_fd(), &into)
}

impl Peer {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Target,
            Self::Target => Self::Client,
        }
    }
}

impl<T> Pair<T> {
    fn both(&self) -> [&T; 2] {
        [&self.client, &self.target]
    }
}

impl<T> Index<Peer> for Pair<T> {
    type Output = T;

    fn index(&self, peer: Peer) -> &T {
        match peer {
            Peer::Client => &self.client,
            Peer::Target => &self.target,
        }
    }
}

impl<T> IndexMut<Peer> for Pair<T> {
    fn index_mut(&mut self, peer: Peer) -> &mut T {
        match peer {
            Peer::Client => &mut self.client,
            Peer::Target => &mut self.target,
        }
    }
}

impl End {
    fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            readable: false,
            finished: false,
            urgent: false,
            reset: false,
            watched_for_room: false,
            unpaced: false,
        }
    }

    /// Sends without pacing from now on. Only asked for when data is plenty: a short connection
    /// ends before it matters.
    fn unpace(&mut self) {
        if std::mem::replace(&mut self.unpaced, true) {
            return;
        }
        let control = socket::congestion_control(self.fd.as_fd()).unwrap_or_default();
        if !WINDOWED.iter().any(|name| control.starts_with(name)) {
            let _ = sockopt::set_tcp_congestion(&self.fd, UNPACED);
        }
    }
}

impl Half {
    fn new() -> Self {
        Self { state: State::Copying, pipe: None, held: 0, taken: 0 }
    }
}

impl SpliceFlow {
    /// From an accepted client to the socket that was made for it, which may be `connecting`.
    pub(crate) fn new(client: OwnedFd, target: OwnedFd, connecting: Option<Attempt>, now: Instant) -> Self {
        let ends = Pair { client: End::new(client), target: End::new(target) };
        let ways = Pair { client: Half::new(), target: Half::new() };
        Self { ends, ways, connecting, account: Account::new(now) }
    }

    /// Everything is in place: what the client sent already goes on at once, since on
    /// loopback the target has mostly accepted before `connect` returns.
    pub(crate) fn begun<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        splice: &mut Splice,
        handle: Handle,
        key: &Key,
    ) -> Verdict {
        self.ends[Peer::Client].readable = true;
        let carried = self.carry(ctx, splice, handle, Peer::Client);
        let watched = self.watch(ctx, handle, Peer::Client).and_then(|()| {
            self.ends[Peer::Target].watched_for_room |= self.connecting.is_some();
            self.watch(ctx, handle, Peer::Target)
        });
        if watched.is_err() {
            ctx.core.dropped(DropReason::Socket);
            return self.abort();
        }
        self.verdict(ctx, splice, handle, key, Peer::Client, carried)
    }

    fn watch<L: Link>(&self, ctx: &Context<L>, handle: Handle, end: Peer) -> io::Result<()> {
        let (token, events) = self.interest(handle, end);
        ctx.core.watch(&self.ends[end].fd, token, events)
    }

    fn interest(&self, handle: Handle, end: Peer) -> (Token, EventFlags) {
        let room = if self.ends[end].watched_for_room { EventFlags::OUT } else { EventFlags::empty() };
        let token = if end == Peer::Client { Token::Flow(handle) } else { Token::Second(handle) };
        (token, EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET | room)
    }

    /// One of the sockets has something to tell.
    pub(crate) fn event<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        splice: &mut Splice,
        handle: Handle,
        key: &Key,
        this: Peer,
        events: EventFlags,
    ) -> Verdict {
        if this == Peer::Target && self.is_stale(ctx) {
            return Verdict::Keep;
        }
        if events.contains(EventFlags::ERR)
            && let Some(error) = socket_error(&self.ends[this].fd)
        {
            if self.is_refused(this, error) {
                return self.verdict(ctx, splice, handle, key, this, Ok(()));
            }
            // Perhaps behind data, also of a target that accepted since: that is passed on first.
            log::debug!("{key}: {error}");
            self.ends[this].reset = true;
        }
        let (mut carried, mut from) = (Ok(()), this);
        if events.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            self.ends[this].readable = true;
            self.ends[this].finished |= events.contains(EventFlags::RDHUP);
            self.ends[this].urgent |= events.contains(EventFlags::PRI);
            carried = self.carry(ctx, splice, handle, this);
        }
        if events.contains(EventFlags::OUT) && carried.is_ok() {
            if this == Peer::Target {
                self.connected(ctx, handle);
            }
            from = this.other();
            carried = self.carry(ctx, splice, handle, from);
        }
        self.verdict(ctx, splice, handle, key, from, carried)
    }

    /// The flow asked to be called again.
    pub(crate) fn again<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        splice: &mut Splice,
        handle: Handle,
        key: &Key,
    ) -> Verdict {
        for from in [Peer::Client, Peer::Target] {
            if let Err(error) = self.carry(ctx, splice, handle, from) {
                return self.verdict(ctx, splice, handle, key, from, Err(error));
            }
        }
        self.verdict(ctx, splice, handle, key, Peer::Client, Ok(()))
    }

    /// The target accepted.
    fn connected<L>(&mut self, ctx: &mut Context<L>, handle: Handle) {
        if self.connecting.take().is_some() {
            ctx.ports.inbound.answered(handle.index);
        }
    }

    /// Another client came with the same address and port: ends the flow if its own client is gone.
    pub(crate) fn succeeded(&self) -> Verdict {
        if is_reset(&self.ends[Peer::Client].fd) { self.abort() } else { Verdict::Keep }
    }

    /// Its ticket while the target has not accepted, and whether the client has finished by then.
    pub(crate) fn opening(&self) -> Option<(&Ticket, bool)> {
        let finished = self.ends[Peer::Client].finished || self.ways[Peer::Client].state == State::Ending;
        Some((self.connecting.as_ref()?.ticket(), finished))
    }

    /// What becomes of the flow after data was `carried` away `from` an end.
    fn verdict<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        splice: &mut Splice,
        handle: Handle,
        key: &Key,
        from: Peer,
        carried: io::Result<()>,
    ) -> Verdict {
        if let Err(error) = carried.and_then(|()| self.try_other(ctx, handle, key)) {
            log::debug!("{key}: {error}");
            // What the other end sent before it broke is passed on first.
            (self.ends[from.other()].readable, self.ends[from.other()].reset) = (true, true);
            let _ = self.carry(ctx, splice, handle, from.other());
            return self.abort();
        }
        if self.ends.both().into_iter().any(|end| end.reset) {
            return self.abort();
        }
        let over = self.ways.both().into_iter().all(|way| way.state == State::Ended);
        if over { Verdict::Remove } else { Verdict::Keep }
    }

    /// Resets both connections: what happened to one happens to the other.
    pub(crate) fn abort(&self) -> Verdict {
        for end in self.ends.both() {
            let _ = socket::set_reset_on_close(end.fd.as_fd());
        }
        Verdict::Remove
    }
}
