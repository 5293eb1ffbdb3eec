//! Datagrams to many: from the guest to multicast groups through the groups' own sockets, and to
//! the guest what came to its groups, and to all of a network.
//!
//! What comes begins no flow: it may be from everybody, and nobody need answer. What the guest
//! sends to groups and to all comes back to us from the host's kernel, as to others on this host;
//! that is found out here, and goes no further.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;

use passt_proto::addr::{Addr, Endpoint, Mac};
use passt_proto::classify::Datagram;
use passt_proto::drop::DropReason;
use passt_proto::responder;
use passt_proto::rules::Protocol;
use passt_proto::wire::offload::{Gso, Offload};
use passt_sys::dgram::{self, Envelope, Outgoing, Received};
use passt_sys::iovec::Gather;
use rustix::event::epoll::EventFlags;

use super::Engine;
use crate::core::Payload;
use crate::core::readiness::has_taken;
use crate::flow::{Handle, Side};
use crate::forward::Arrival;
use crate::link::Link;
use crate::protocols::groups::{Recent, at};
use crate::protocols::socket::socket_error;
use crate::protocols::udp::Which;
use crate::protocols::{marks, udp};

impl<L: Link> Engine<L> {
    /// Sends a datagram of the guest through the socket of a group whose port it comes from, if it
    /// is to the group, or answers somebody who was heard there. False if it is for a flow.
    pub(super) fn by_group_socket(
        &mut self,
        datagram: &Datagram,
        payload: &Payload,
        offload: &Offload,
    ) -> Result<bool, DropReason> {
        let Datagram { src, dst, marks, .. } = *datagram;
        let now = self.ctx.core.now;
        let number = if dst.addr.is_group() {
            self.common.groups.sends(&mut self.ctx, src.port, dst);
            self.common.groups.number_of(dst).filter(|_| src.port == dst.port)
        } else {
            self.common.groups.number_heard(src.port, dst, now)
        };
        let Some(number) = number.filter(|_| offload.gso == Gso::None) else { return Ok(false) };
        // What was sent before goes first.
        self.udp_end_batch();
        if dst.addr.is_group() {
            self.note_sent(number, dst, payload)?;
        }
        let core = &self.ctx.core;
        let family = core.guest.family(dst.addr);
        let Some(socket) = self.common.groups.socket(number) else { return Ok(false) };
        let Some(fd) = socket.fd() else { return Ok(false) };
        let to = match socket.asker(dst, now) {
            Some(asker) => asker,
            None => at(dst.addr, dst.port, family.groups.unwrap_or(0)),
        };
        let mut data = Gather::new();
        if !core.append(payload, &mut data) {
            return Err(DropReason::Offload);
        }
        let message = Outgoing { first: 0, buffers: data.len(), segment: 0 };
        let from = family.outbound.map(Addr::ip);
        let envelope = Envelope { to: Some(to), from, ..marks::envelope(marks, dst.addr) };
        let sent = dgram::send(fd, &data, &[message], &envelope, dst.addr.is_v4());
        sent.map(|_| true).map_err(|_| DropReason::Socket)
    }

    /// Keeps in mind what is sent to a group, to know it when it comes back: it does if the guest
    /// hears itself there.
    fn note_sent(&mut self, number: usize, to: Endpoint, payload: &Payload) -> Result<(), DropReason> {
        let now = self.ctx.core.now;
        let groups = &mut self.common.groups;
        if groups.own_address(to.addr).is_some_and(|own| !groups.wants(to.addr, own)) {
            return Ok(());
        }
        if !groups.recent.has_room(now) {
            // What comes back is there already.
            self.group_event(u32::try_from(number).unwrap_or(u32::MAX), EventFlags::IN);
        }
        let recent = &mut self.common.groups.recent;
        let start = self.ctx.core.start(payload, Recent::START).ok_or(DropReason::Truncated)?;
        recent.note(recent.digest(to, start, payload.len()), now);
        Ok(())
    }

    /// The socket of a group has something to tell.
    pub(crate) fn group_event(&mut self, number: u32, events: EventFlags) {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let Some(socket) = self.common.groups.socket(number) else { return };
        let Some(fd) = socket.fd() else { return };
        let mut taken = events.contains(EventFlags::ERR) && socket_error(fd).is_some();
        let to = Endpoint::new(socket.group, socket.port);
        let received = self.ctx.core.inbox.receive(fd);
        taken |= has_taken(&received, events);
        if socket.futile.note(taken) {
            self.ctx.core.dropped(DropReason::Socket);
            return self.common.groups.close(number);
        }
        let count = received.unwrap_or(0);
        let mut next = 0;
        while let Some((first, _)) = self.ctx.core.inbox.message(next)
            && next < count
        {
            let messages = next..next + 1;
            next = messages.end;
            let Some(source) = first.source else { continue };
            match self.share(source, to, &first, messages.clone()) {
                Ok(shown) => {
                    if let Some(socket) = self.common.groups.socket(number) {
                        socket.heard(shown, source, self.ctx.core.now);
                    }
                }
                Err(reason) => self.not_shared(reason, messages),
            }
        }
    }

    /// Passes on what is in the inbox at `messages` if it came to a group or to all of a network;
    /// whether it did. What bypasses the link has flows.
    pub(super) fn came_to_many(&mut self, socket: Which, first: &Received, messages: Range<usize>) -> bool {
        let (Some(to), Some(source)) = (sent_to_many(first), first.source) else { return false };
        let port = match socket {
            Which::Listener(number) => {
                let listener = self.ctx.ports.listeners.get(number);
                let listener = listener.filter(|l| l.side == Side::Host && l.target.is_none());
                let past_link = || self.ctx.core.guest.past_link(source.ip().into(), to, None);
                let Some(listener) = listener.filter(|_| past_link().is_none()) else { return false };
                Ok(listener.target_port)
            }
            Which::Mapping(mapping) => {
                let at = Arrival { addr: Some(to), interface: first.interface };
                self.port_for_many(mapping, source.ip().into(), &at)
            }
        };
        for message in messages {
            let alone = message..message + 1;
            let shared =
                port.and_then(|port| self.share(source, Endpoint::new(to, port), first, alone.clone()));
            if let Err(reason) = shared {
                self.not_shared(reason, alone);
            }
        }
        true
    }

    /// The guest's port that is to hear what `source` sends to all of a network, which came to a
    /// mapping. A listening socket at the same port has it as well, if it has all addresses.
    fn port_for_many(&self, mapping: Handle, source: Addr, at: &Arrival) -> Result<u16, DropReason> {
        let mappings = &self.common.udp.mappings;
        let known = mappings.get(mapping).ok_or(DropReason::NoFlow)?;
        if self.ctx.ports.listeners.at_port(known.port(), source, at).is_some() {
            return Err(DropReason::GroupEcho);
        }
        mappings.permitted(mapping, source).map(|own| own.port).ok_or(DropReason::NoFlow)
    }

    fn not_shared(&mut self, reason: DropReason, messages: Range<usize>) {
        let lost = udp::datagrams(&self.ctx.core.inbox, messages);
        self.ctx.core.dropped_all(reason, lost);
    }

    /// Sends the guest what `source` sent to many, which is in the inbox at `messages`. By whom it
    /// is for the guest.
    fn share(
        &mut self,
        source: SocketAddr,
        to: Endpoint,
        message: &Received,
        messages: Range<usize>,
    ) -> Result<Endpoint, DropReason> {
        let is_multicast = to.addr.ip().is_multicast();
        let core = &self.ctx.core;
        if is_multicast && core.guest.family(to.addr).groups.is_none() {
            return Err(DropReason::Disabled);
        }
        if is_multicast && !self.common.groups.wants(to.addr, source.ip().into()) {
            return Err(DropReason::GroupUnwanted);
        }
        if self.comes_back(source, to, messages.start) {
            return Err(DropReason::GroupEcho);
        }
        let core = &mut self.ctx.core;
        let to = Endpoint { addr: broadcast_as_shown(&core.services, to.addr), ..to };
        let side = core.guest.to_guest(Protocol::Udp, source.into(), to.addr, Some(to.addr))?;
        let mac = to.addr.group_mac().unwrap_or(Mac::BROADCAST);
        let path = core.path(side.remote.addr, to.addr, mac).marked(marks::received(message));
        self.common.udp.send_frames(core, &path, (side.remote.port, to.port), messages);
        Ok(side.remote)
    }

    /// Whether a message is what the guest sent itself: by a flow, from a port that is its alone, or
    /// through the socket of a group.
    fn comes_back(&mut self, source: SocketAddr, to: Endpoint, message: usize) -> bool {
        let source = Endpoint::from(source);
        let (core, groups) = (&self.ctx.core, &mut self.common.groups);
        if source.port == to.port
            && let Some((received, bytes)) = core.inbox.message(message)
        {
            let start = bytes.get(..Recent::START).unwrap_or(bytes);
            let digest = groups.recent.digest(to, start, received.len);
            if groups.recent.take(digest, core.now) {
                return true;
            }
        }
        let own = groups.own_address(to.addr);
        let family = core.guest.family(source.addr);
        let is_hosts = [own, family.outbound].contains(&Some(source.addr))
            || own.is_none() && family.assigned.contains(&source.addr);
        self.common.udp.mappings.sends_from(source, is_hosts)
            || is_hosts && self.ctx.ports.listeners.sends_from(source)
    }
}

/// The group, or all of a network, that a message was sent to, if that is known and it was.
pub(super) fn sent_to_many(message: &Received) -> Option<Addr> {
    let group = message.destination.map(Addr::from).filter(|to| to.is_group());
    message.broadcast.map(Addr::from).or(group)
}

fn is_broadcast(services: &responder::Config, addr: Addr) -> bool {
    services.v4.as_ref().is_some_and(|v4| v4.is_broadcast(addr))
}

/// Where the guest is to find what was sent to a group, or to all: what is for all of a network that
/// is not the guest's own goes to all of that.
fn broadcast_as_shown(services: &responder::Config, to: Addr) -> Addr {
    if to.is_group() || is_broadcast(services, to) { to } else { Ipv4Addr::BROADCAST.into() }
}
