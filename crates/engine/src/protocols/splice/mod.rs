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

mod facts;
mod pipe;

use std::io;
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
use rustix::net::{Shutdown, SocketType, sockopt};
use rustix::pipe::SpliceFlags;

use self::pipe::{Pipe, Pipes};
use super::Verdict;
use super::socket::{is_reset, socket_error};
use crate::core::{Handle, Token};
use crate::flow::account::{Account, Direction};
use crate::flow::{Key, Side};
use crate::forward::pressure::Ticket;
use crate::forward::{Context, Ports};
use crate::link::Link;

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[
    Call::only(Sysno::fcntl, PIPE_SIZE),
    Call::any(Sysno::getsockname),
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
/// The client's end, which was accepted, and the end that was connected for it.
const CLIENT: usize = 0;
const TARGET: usize = 1;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Splice {
    buffer: Vec<u8>,
    pipes: Pipes,
}

/// A connection that bypasses the link.
#[derive(Debug)]
pub struct SpliceFlow {
    ends: [End; 2],
    /// Data from the end of the same number to the other one.
    ways: [Way; 2],
    /// Until the kernel says that the target accepted.
    connecting: Option<Ticket>,
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
struct Way {
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
enum Step {
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

impl Way {
    fn new() -> Self {
        Self { state: State::Copying, pipe: None, held: 0, taken: 0 }
    }
}

impl SpliceFlow {
    /// From an accepted client to the socket that was made for it; with a ticket while that one is
    /// connecting.
    pub(crate) fn new(client: OwnedFd, target: OwnedFd, connecting: Option<Ticket>, now: Instant) -> Self {
        let (ends, ways) = ([End::new(client), End::new(target)], [Way::new(), Way::new()]);
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
        self.ends[CLIENT].readable = true;
        let carried = self.carry(ctx, splice, handle, CLIENT);
        let watched = self.watch(ctx, handle, CLIENT).and_then(|()| {
            self.ends[TARGET].watched_for_room |= self.connecting.is_some();
            self.watch(ctx, handle, TARGET)
        });
        if watched.is_err() {
            ctx.core.dropped(DropReason::Socket);
            return self.abort();
        }
        self.verdict(ctx, splice, handle, key, CLIENT, carried)
    }

    fn watch<L: Link>(&self, ctx: &Context<L>, handle: Handle, end: usize) -> io::Result<()> {
        let (token, events) = self.interest(handle, end);
        ctx.core.watch(&self.ends[end].fd, token, events)
    }

    fn interest(&self, handle: Handle, end: usize) -> (Token, EventFlags) {
        let room = if self.ends[end].watched_for_room { EventFlags::OUT } else { EventFlags::empty() };
        let token = if end == CLIENT { Token::Flow(handle) } else { Token::Second(handle) };
        (token, EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET | room)
    }

    /// One of the sockets has something to tell.
    pub(crate) fn event<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        splice: &mut Splice,
        handle: Handle,
        key: &Key,
        second: bool,
        events: EventFlags,
    ) -> Verdict {
        let this = usize::from(second);
        if events.contains(EventFlags::ERR)
            && let Some(error) = socket_error(&self.ends[this].fd)
        {
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
            if this == TARGET {
                self.connected(ctx, handle);
            }
            from = 1 - this;
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
        for from in [CLIENT, TARGET] {
            if let Err(error) = self.carry(ctx, splice, handle, from) {
                return self.verdict(ctx, splice, handle, key, from, Err(error));
            }
        }
        self.verdict(ctx, splice, handle, key, CLIENT, Ok(()))
    }

    /// The target accepted.
    fn connected<L>(&mut self, ctx: &mut Context<L>, handle: Handle) {
        if self.connecting.take().is_some() {
            ctx.ports.inbound.answered(handle.index);
        }
    }

    /// Another client came with the same address and port: ends the flow if its own client is gone.
    pub(crate) fn succeeded(&self) -> Verdict {
        if is_reset(&self.ends[CLIENT].fd) { self.abort() } else { Verdict::Keep }
    }

    /// Its ticket while the target has not accepted, and whether the client has finished by then.
    pub(crate) fn opening(&self) -> Option<(&Ticket, bool)> {
        let finished = self.ends[CLIENT].finished || self.ways[CLIENT].state == State::Ending;
        Some((self.connecting.as_ref()?, finished))
    }

    /// What becomes of the flow after data was `carried` away `from` an end.
    fn verdict<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        splice: &mut Splice,
        handle: Handle,
        key: &Key,
        from: usize,
        carried: io::Result<()>,
    ) -> Verdict {
        if let Err(error) = carried {
            log::debug!("{key}: {error}");
            // What the other end sent before it broke is passed on first.
            (self.ends[1 - from].readable, self.ends[1 - from].reset) = (true, true);
            let _ = self.carry(ctx, splice, handle, 1 - from);
            return self.abort();
        }
        if self.ends.iter().any(|end| end.reset) {
            return self.abort();
        }
        let over = self.ways.iter().all(|way| way.state == State::Ended);
        if over { Verdict::Remove } else { Verdict::Keep }
    }

    /// Resets both connections: what happened to one happens to the other.
    pub(crate) fn abort(&self) -> Verdict {
        for end in &self.ends {
            let _ = socket::set_reset_on_close(end.fd.as_fd());
        }
        Verdict::Remove
    }

    /// Moves what there is from one end to the other, as far as there is room.
    fn carry<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        splice: &mut Splice,
        handle: Handle,
        from: usize,
    ) -> io::Result<()> {
        self.ways[from].taken = 0;
        let moved = self.steps(ctx, splice, handle, from);
        let taken = self.ways[from].taken;
        if taken > 0 {
            let way = if from == CLIENT { Direction::Out } else { Direction::In };
            self.account.carried(way, 0, taken, ctx.core.now);
        }
        moved
    }

    fn steps<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        splice: &mut Splice,
        handle: Handle,
        from: usize,
    ) -> io::Result<()> {
        for _ in 0..BURST {
            if self.step(ctx, splice, handle, from)? == Step::Wait {
                let way = &mut self.ways[from];
                if let Some(pipe) = way.pipe.take_if(|_| way.held == 0) {
                    splice.pipes.give_back(pipe);
                }
                return Ok(());
            }
        }
        ctx.core.call_again(handle);
        Ok(())
    }

    fn step<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        splice: &mut Splice,
        handle: Handle,
        from: usize,
    ) -> io::Result<Step> {
        let way = &mut self.ways[from];
        match way.state {
            _ if way.held > 0 => self.flush(ctx, handle, from),
            State::Ended => Ok(Step::Wait),
            State::Ending => Ok(self.tell_end(from)),
            _ if !self.ends[from].readable => {
                if way.taken < SMALL {
                    way.state = State::Copying;
                }
                Ok(Step::Wait)
            }
            State::Splicing if !self.ends[from].urgent => self.fill(splice, from),
            State::Copying | State::Splicing => self.copy(ctx, splice, handle, from),
        }
    }

    /// All was passed on: now the end is.
    fn tell_end(&mut self, from: usize) -> Step {
        // A connection that is still being opened would be given up, and a reset is no end.
        if !(self.connecting.is_some() && from == CLIENT || self.ends[from].reset) {
            self.ways[from].state = State::Ended;
            // With both ways at their end closing says the same.
            if self.ways[1 - from].state != State::Ended {
                let _ = rustix::net::shutdown(&self.ends[1 - from].fd, Shutdown::Write);
            }
        }
        Step::Wait
    }

    /// Reads once, and sends that on. What finds no room waits in a pipe; without one it is not
    /// taken from the receive queue before.
    fn copy<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        splice: &mut Splice,
        handle: Handle,
        from: usize,
    ) -> io::Result<Step> {
        let spare = splice.pipes.is_ready();
        let buffer = splice.buffer.as_mut_slice();
        let (fd, room) = (&self.ends[from].fd, buffer.len());
        // These sockets never block, and to read and write is less work for the kernel than to
        // receive and send.
        let mut receive = || if spare { Ok(rustix::io::read(fd, &mut *buffer)?) } else { peek(fd, buffer) };
        let received = if self.ends[from].urgent { msg::past_signals(receive) } else { receive() };
        let received = received.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        let len = self.received(from, received, room)?;
        if len == 0 {
            return Ok(Step::More);
        }
        let sent = match rustix::io::write(&self.ends[1 - from].fd, &splice.buffer[..len]) {
            Err(Errno::AGAIN | Errno::INTR) => 0,
            sent => sent?,
        };
        if from == CLIENT && sent > 0 {
            self.connected(ctx, handle);
        }
        if !spare {
            msg::discard(self.ends[from].fd.as_fd(), sent)?;
            self.ends[from].readable |= sent < len;
            self.ways[from].taken -= len - sent;
        } else if sent < len {
            let pipe = splice.pipes.take().ok_or(Errno::NFILE)?;
            let held = rustix::io::write(&pipe.writer, &splice.buffer[sent..len])?;
            let way = &mut self.ways[from];
            if held < len - sent {
                return Err(Errno::PIPE.into());
            }
            (way.state, way.held, way.pipe) = (State::Splicing, held, Some(pipe));
        } else if len == room {
            self.ways[from].state = State::Splicing;
        }
        if sent < len { self.wait_for_room(ctx, handle, 1 - from) } else { Ok(Step::More) }
    }

    /// Moves data into a pipe.
    fn fill(&mut self, splice: &mut Splice, from: usize) -> io::Result<Step> {
        self.ends[1 - from].unpace();
        let way = &mut self.ways[from];
        way.pipe = way.pipe.take().or_else(|| splice.pipes.take());
        let Some(pipe) = &way.pipe else {
            way.state = State::Copying;
            return Ok(Step::More);
        };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let filled = rustix::pipe::splice(&self.ends[from].fd, None, &pipe.writer, None, pipe::SIZE, flags);
        if filled == Ok(0) {
            // The end, or urgent data before it: reading tells.
            way.state = State::Copying;
            return Ok(Step::More);
        }
        // It ends early where the pipe has no more places: less than asked for doesn't mean all.
        let len = self.received(from, filled, 0)?;
        self.ways[from].held += len;
        Ok(Step::More)
    }

    /// Moves data out of the pipe.
    fn flush<L: Link>(&mut self, ctx: &mut Context<L>, handle: Handle, from: usize) -> io::Result<Step> {
        let way = &mut self.ways[from];
        let Some(pipe) = &way.pipe else { return Err(Errno::PIPE.into()) };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        match rustix::pipe::splice(&pipe.reader, None, &self.ends[1 - from].fd, None, way.held, flags) {
            Ok(0) => return Err(Errno::PIPE.into()),
            Ok(len) => way.held = way.held.saturating_sub(len),
            Err(Errno::AGAIN) => return self.wait_for_room(ctx, handle, 1 - from),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if from == CLIENT {
            self.connected(ctx, handle);
        }
        Ok(Step::More)
    }

    /// The outcome of reading from an end into `room` bytes; the bytes read.
    fn received(&mut self, from: usize, result: Result<usize, Errno>, room: usize) -> io::Result<usize> {
        let (end, way) = (&mut self.ends[from], &mut self.ways[from]);
        match result {
            Ok(0) => way.state = State::Ending,
            // The queue is empty, but for an end that was announced.
            Ok(len) if len < room => end.readable = end.finished || end.urgent,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => end.readable = false,
            Err(error) => return Err(error.into()),
        }
        let len = result.unwrap_or(0);
        way.taken += len;
        Ok(len)
    }

    /// Has the loop tell when there is room at an end again.
    fn wait_for_room<L: Link>(&mut self, ctx: &Context<L>, handle: Handle, end: usize) -> io::Result<Step> {
        if !std::mem::replace(&mut self.ends[end].watched_for_room, true) {
            let (token, events) = self.interest(handle, end);
            // What is not watched yet will be soon.
            match ctx.core.rewatch(&self.ends[end].fd, token, events) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(Step::Wait)
    }

    /// Gives back what the flow borrowed.
    pub(crate) fn give_back(self, splice: &mut Splice) {
        for way in self.ways {
            if let Some(pipe) = way.pipe.filter(|_| way.held == 0) {
                splice.pipes.give_back(pipe);
            }
        }
    }
}
