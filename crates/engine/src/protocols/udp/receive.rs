//! Datagrams of a flow's peer on their way to the guest: joined ones go to where the guest will find
//! them at once, others by way of the inbox.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use passt_proto::addr::Endpoint;
use passt_proto::drop::DropReason;
use passt_proto::wire::build::MAX_HEADERS;
use passt_proto::wire::udp;
use passt_sys::dgram::{self, Received};
use passt_sys::iovec::Scatter;
use rustix::event::epoll::EventFlags;

use super::send::{self, Tally};
use super::{BURST, Udp, UdpFlow, used};
use crate::core::readiness::has_taken;
use crate::core::{Core, Station};
use crate::flow::account::Direction;
use crate::flow::{Handle, Key, Via};
use crate::forward::Context;
use crate::link::{Link, MAX_PAYLOAD};
use crate::protocols::{Verdict, marks, path_to_guest};

impl UdpFlow {
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
            let received = self.receive(ctx, udp, (handle, key));
            self.note(&mut ctx.ports, handle, key, before);
            taken |= has_taken(&received, events);
            // The call may have failed after it had passed on some.
            if self.account.of(Direction::In) != heard {
                self.heard_remote();
                self.heard_connected(ctx.core.now);
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
    fn receive<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        udp: &mut Udp,
        (handle, key): (Handle, &Key),
    ) -> io::Result<Verdict> {
        let Some(fd) = self.sockets.own() else { return Ok(Verdict::Keep) };
        for _ in 0..BURST {
            if !self.joined {
                break;
            }
            let ahead = dgram::peek(fd)?;
            let tally = receive_joined(&mut ctx.core, key, &self.station, fd, &ahead)?;
            self.joined = tally.is_some();
            if let Some(tally) = tally {
                used((&mut self.last, &mut self.seen, &mut self.account), Direction::In, tally, ctx.core.now);
            }
        }
        if self.joined {
            return Ok(Verdict::Keep);
        }
        let count = ctx.core.inbox.receive(fd)?;
        let mut next = 0;
        while next < count {
            let source = |index| ctx.core.inbox.source(index);
            let first = source(next);
            let messages = next..next + (next..count).take_while(|&index| source(index) == first).count();
            next = messages.end;
            let Some(source) = first.map(Endpoint::from) else { continue };
            // Before the socket was connected, others could send to it.
            if !self.is_server(ctx, (handle, key), source) {
                ctx.core.dropped_all(DropReason::NoFlow, send::datagrams(&ctx.core.inbox, messages));
            } else if key.via != Via::Link {
                if self.answer(ctx, udp, source, messages) == Verdict::Remove {
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
    core.link.steer(station.queue());
    let path = path_to_guest(core, key, station).marked(marks::received(ahead));
    let mut header = [0; MAX_HEADERS];
    let fits = path.header_len() + udp::LEN + usize::from(ahead.segment);
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
