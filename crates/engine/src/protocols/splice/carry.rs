//! How data goes from one end to the other: copied while messages are small, spliced through a pipe when data is plenty.

use std::io;
use std::os::fd::AsFd as _;

use passt_sys::msg;
use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::pipe::SpliceFlags;

use super::{BURST, Peer, SMALL, Splice, SpliceFlow, SpliceStep, State, peek, pipe};
use crate::core::Handle;
use crate::flow::account::Direction;
use crate::forward::Context;
use crate::link::Link;

impl SpliceFlow {
    /// Moves what there is from one end to the other, as far as there is room.
    pub(super) fn carry<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        splice: &mut Splice,
        handle: Handle,
        from: Peer,
    ) -> io::Result<()> {
        if self.waits() {
            return Ok(());
        }
        self.ways[from].taken = 0;
        let moved = self.steps(ctx, splice, handle, from);
        let taken = self.ways[from].taken;
        if taken > 0 {
            let way = if from == Peer::Client { Direction::Out } else { Direction::In };
            self.account.carried(way, 0, taken, ctx.core.now);
        }
        moved
    }

    fn steps<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        splice: &mut Splice,
        handle: Handle,
        from: Peer,
    ) -> io::Result<()> {
        for _ in 0..BURST {
            if self.step(ctx, splice, handle, from)? == SpliceStep::Wait {
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
        from: Peer,
    ) -> io::Result<SpliceStep> {
        let way = &mut self.ways[from];
        match way.state {
            _ if way.held > 0 => self.flush(ctx, handle, from),
            State::Ended => Ok(SpliceStep::Wait),
            State::Ending => Ok(self.tell_end(from)),
            _ if !self.ends[from].readable => {
                if way.taken < SMALL {
                    way.state = State::Copying;
                }
                Ok(SpliceStep::Wait)
            }
            State::Splicing if !self.ends[from].urgent => self.fill(splice, from),
            State::Copying | State::Splicing => self.copy(ctx, splice, handle, from),
        }
    }

    /// All was passed on: now the end is.
    fn tell_end(&mut self, from: Peer) -> SpliceStep {
        // A connection that is still being opened would be given up, and a reset is no end.
        if !(self.connecting.is_some() && from == Peer::Client || self.ends[from].reset) {
            self.ways[from].state = State::Ended;
            // With both ways at their end closing says the same.
            if self.ways[from.other()].state != State::Ended {
                let _ = rustix::net::shutdown(&self.ends[from.other()].fd, Shutdown::Write);
            }
        }
        SpliceStep::Wait
    }

    /// Reads once, and sends that on. What finds no room waits in a pipe; without one it is not
    /// taken from the receive queue before.
    fn copy<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        splice: &mut Splice,
        handle: Handle,
        from: Peer,
    ) -> io::Result<SpliceStep> {
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
            return Ok(SpliceStep::More);
        }
        let sent = match rustix::io::write(&self.ends[from.other()].fd, &splice.buffer[..len]) {
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) if self.is_refused(from.other(), error) => 0,
            sent => sent?,
        };
        if from == Peer::Client && sent > 0 {
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
        if sent < len { self.wait_for_room(ctx, handle, from.other()) } else { Ok(SpliceStep::More) }
    }

    /// Moves data into a pipe.
    fn fill(&mut self, splice: &mut Splice, from: Peer) -> io::Result<SpliceStep> {
        self.ends[from.other()].unpace();
        let way = &mut self.ways[from];
        way.pipe = way.pipe.take().or_else(|| splice.pipes.take());
        let Some(pipe) = &way.pipe else {
            way.state = State::Copying;
            return Ok(SpliceStep::More);
        };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let filled = rustix::pipe::splice(&self.ends[from].fd, None, &pipe.writer, None, pipe::SIZE, flags);
        if filled == Ok(0) {
            // The end, or urgent data before it: reading tells.
            way.state = State::Copying;
            return Ok(SpliceStep::More);
        }
        // It ends early where the pipe has no more places: less than asked for doesn't mean all.
        let len = self.received(from, filled, 0)?;
        self.ways[from].held += len;
        Ok(SpliceStep::More)
    }

    /// Moves data out of the pipe.
    fn flush<L: Link>(&mut self, ctx: &mut Context<L>, handle: Handle, from: Peer) -> io::Result<SpliceStep> {
        let way = &mut self.ways[from];
        let Some(pipe) = &way.pipe else { return Err(Errno::PIPE.into()) };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        match rustix::pipe::splice(&pipe.reader, None, &self.ends[from.other()].fd, None, way.held, flags) {
            Ok(0) => return Err(Errno::PIPE.into()),
            Ok(len) => way.held = way.held.saturating_sub(len),
            Err(Errno::AGAIN) => return self.wait_for_room(ctx, handle, from.other()),
            Err(Errno::INTR) => {}
            Err(error) if self.is_refused(from.other(), error) => return Ok(SpliceStep::Wait),
            Err(error) => return Err(error.into()),
        }
        if from == Peer::Client {
            self.connected(ctx, handle);
        }
        Ok(SpliceStep::More)
    }

    /// The outcome of reading from an end into `room` bytes; the bytes read.
    fn received(&mut self, from: Peer, result: Result<usize, Errno>, room: usize) -> io::Result<usize> {
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
    fn wait_for_room<L: Link>(
        &mut self,
        ctx: &Context<L>,
        handle: Handle,
        end: Peer,
    ) -> io::Result<SpliceStep> {
        if !std::mem::replace(&mut self.ends[end].watched_for_room, true) {
            let (token, events) = self.interest(handle, end);
            // What is not watched yet will be soon.
            match ctx.core.rewatch(&self.ends[end].fd, token, events) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(SpliceStep::Wait)
    }

    /// Gives back what the flow borrowed.
    pub(crate) fn give_back(self, splice: &mut Splice) {
        for way in [self.ways.client, self.ways.target] {
            if let Some(pipe) = way.pipe.filter(|_| way.held == 0) {
                splice.pipes.give_back(pipe);
            }
        }
    }
}
