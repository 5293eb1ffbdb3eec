//! What a connection wants done, one action after the other.

use std::os::fd::AsFd as _;

use passt_proto::guest::Learnt;
use passt_proto::tcp::{Action, Event};
use passt_proto::time::Instant;
use passt_sys::{msg, socket};

use super::{BURST, Tcp, TcpFlow, emit};
use crate::flow::Handle;
use crate::flow::account::Direction;
use crate::forward::Context;
use crate::link::Link;
use crate::protocols::Verdict;

impl TcpFlow {
    /// Does what the connection wants done now.
    pub(crate) fn pull<L: Link>(&mut self, ctx: &mut Context<L>, tcp: &mut Tcp, handle: Handle) -> Verdict {
        self.follow_station(&ctx.core.guest.learnt);
        ctx.core.link.steer(self.station.queue());
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
                Action::KeepAlive(interval) => {
                    if self.keepalive.asked(&self.fd, interval) {
                        self.conn.handle(ctx.core.now, Event::Alive);
                    }
                }
                Action::Abort => return self.abort(),
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

    /// Has frames go to the guest's station as it is known now: a connection may be older than the
    /// guest's first frame, or than its last network card.
    fn follow_station(&mut self, learnt: &Learnt) {
        self.path.dst_mac = self.station.mac(learnt, self.path.dst);
    }

    /// Resets the host's connection, unless the guest had finished: then it has no more to say, and what the kernel still
    /// has is for the peer.
    fn abort(&mut self) -> Verdict {
        self.secure();
        if !self.shut || socket::unacknowledged(self.fd.as_fd()).unwrap_or(0) == 0 {
            let _ = socket::set_reset_on_close(self.fd.as_fd());
        } else {
            msg::drain(self.fd.as_fd());
        }
        Verdict::Remove
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
}
