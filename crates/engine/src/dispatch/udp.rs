//! Flows of datagrams: to which of them one belongs, and how they come to be in the table.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::{io, iter};

use passt_proto::addr::{Addr, Endpoint};
use passt_proto::classify::Datagram;
use passt_proto::drop::DropReason;
use passt_proto::guest::Guest;
use passt_proto::wire::offload::Offload;
use passt_sys::alloc;
use passt_sys::dgram::{self, Received};
use rustix::event::epoll::EventFlags;

use super::{Engine, Flow};
use crate::core::readiness::has_taken;
use crate::core::{Payload, Station};
use crate::flow::inbound::{InboundClass, Room};
use crate::flow::{Handle, Key, Protocol, Side, Via};
use crate::link::Link;
use crate::protocols::Verdict;
use crate::protocols::quote::Quote;
use crate::protocols::socket::socket_error;
use crate::protocols::udp::{self, Shared, UdpFlow, Which};

/// Entries of an error queue, and joined messages, that are dealt with at once.
const BURST: usize = 16;

impl<L: Link> Engine<L> {
    /// A datagram from the guest, or several that were joined, with their payload.
    pub(super) fn datagram(
        &mut self,
        datagram: &Datagram,
        payload: Payload,
        offload: &Offload,
    ) -> Result<(), DropReason> {
        if self.common.groups.has_any() && self.by_group_socket(datagram, &payload, offload)? {
            return Ok(());
        }
        let key = Key { via: Via::Link, protocol: Protocol::Udp, guest: datagram.src, remote: datagram.dst };
        let handle = match self.common.udp.owner() {
            Some((owner, handle)) if owner == key => handle,
            _ => {
                self.udp_end_batch();
                let known = self.flows.find(&key).or_else(|| self.answered(&key));
                let known = known.filter(|&handle| !self.end_cut_off(handle));
                known.map_or_else(|| self.open_udp(key, datagram), Ok)?
            }
        };
        let before = match self.flows.get_mut(handle) {
            Some((_, Flow::Udp(flow))) => {
                flow.heard(&self.ctx.core.guest);
                Some(flow.marks())
            }
            _ => None,
        };
        let marks = datagram.marks;
        let differs = before != Some(marks);
        if differs || self.common.udp.is_full() {
            self.udp_end_batch();
        }
        // What was sent may have ended it.
        let handle = if self.flows.get(handle).is_some() { handle } else { self.open_udp(key, datagram)? };
        if differs && let Some((_, Flow::Udp(flow))) = self.flows.get_mut(handle) {
            flow.set_marks(marks);
        }
        self.common.udp.add((key, handle), payload, offload);
        Ok(())
    }

    /// Ends a flow whose listening socket was closed; whether it was.
    fn end_cut_off(&mut self, handle: Handle) -> bool {
        let listeners = &self.ctx.ports.listeners;
        let is_cut_off =
            matches!(self.flows.get(handle), Some((_, Flow::Udp(flow))) if flow.is_cut_off(listeners));
        if is_cut_off {
            self.remove(handle);
        }
        is_cut_off
    }

    /// The flow from outside that the guest was reached with at another of its addresses than the
    /// one that it answers from.
    fn answered(&self, key: &Key) -> Option<Handle> {
        let is_inbound = |&handle: &Handle| matches!(self.flows.get(handle), Some((_, Flow::Udp(flow))) if flow.is_inbound());
        self.with_other_addresses(key).find(is_inbound)
    }

    /// Flows like this one, but with others of the guest's addresses.
    fn with_other_addresses(&self, key: &Key) -> impl Iterator<Item = Handle> {
        let find = |addr| self.flows.find(&Key { guest: Endpoint { addr, ..key.guest }, ..*key });
        self.ctx.core.guest.other_addresses(key.guest.addr).filter_map(find)
    }

    /// Sends what waits of a batch.
    pub(super) fn udp_end_batch(&mut self) {
        if let Some(handle) = self.common.udp.take_owner() {
            self.with_flow(handle, |ctx, common, handle, key, flow| match flow {
                Flow::Udp(flow) => flow.end_batch(ctx, &common.udp, handle, key),
                _ => Verdict::Keep,
            });
            self.common.udp.clear();
            if let Some((socket, remote)) = self.common.udp.take_refused() {
                self.shared_errors(socket, Some(remote));
            }
        }
    }

    /// A flow for a datagram of the guest that belongs to none.
    fn open_udp(&mut self, key: Key, datagram: &Datagram) -> Result<Handle, DropReason> {
        // A port of the guest's takes memory, of which a sealed process gets no more.
        if self.flows.is_full() || !alloc::has_room() {
            return Err(DropReason::TableFull);
        }
        let apart = self.with_other_addresses(&key).next().is_some();
        let flow = udp::open(&mut self.ctx, &mut self.common.udp, &key, datagram, apart)?;
        let Some(number) = flow.listener() else { return self.insert_udp(key, flow) };
        // Perhaps the answer to one that had to make room: it has no other place than those from
        // outside. Where all of these last, none had to.
        let is_inbound = self.make_room(Some(InboundClass::Udp), number).is_ok();
        let handle = self.insert_udp(key, flow)?;
        if is_inbound {
            self.ctx.ports.inbound.begun(handle.index, InboundClass::Udp, number, self.ctx.core.now);
        }
        Ok(handle)
    }

    /// Adds a flow to the table and its socket to the loop.
    fn insert_udp(&mut self, key: Key, flow: UdpFlow) -> Result<Handle, DropReason> {
        let due = self.common.udp.first_timeout(self.ctx.core.now);
        let mapping = flow.mapping();
        let inserted = self.insert(key, Flow::Udp(flow), due);
        match inserted.map(|handle| self.flows.get(handle)) {
            Ok(Some((key, Flow::Udp(flow)))) => self.common.udp.begun(key.guest.addr, flow),
            _ => self.common.udp.unused(mapping),
        }
        inserted
    }

    /// The socket that a port of the guest has on the host has something to tell.
    pub(crate) fn mapping_event(&mut self, number: u32, events: EventFlags) {
        let mut taken = events.contains(EventFlags::ERR) && self.shared_errors(Which::Mapping(number), None);
        if events.contains(EventFlags::IN) {
            let received = self.receive_mapped(number);
            taken |= has_taken(&received, events);
        }
        if self.common.udp.mappings.get(number).is_some_and(|mapping| mapping.futile.note(taken)) {
            self.ctx.core.dropped(DropReason::Socket);
            self.end_datagrams(|flow| flow.mapping() == Some(number));
        }
    }

    /// Passes on what arrived at a mapping. What stays is reported by the kernel again.
    fn receive_mapped(&mut self, number: u32) -> io::Result<()> {
        let Some(mapping) = self.common.udp.mappings.get(number) else { return Ok(()) };
        let (fd, mut joined) = (Arc::clone(&mapping.fd), mapping.joined);
        for _ in 0..BURST {
            joined = joined && self.receive_joined(number, fd.as_fd())?;
        }
        if !joined {
            let count = self.ctx.core.inbox.receive(fd.as_fd())?;
            let inbox = &self.ctx.core.inbox;
            joined = (0..count).any(|index| inbox.size(index).is_some_and(|(_, segment)| segment != 0));
            self.received(Which::Mapping(number), count);
        }
        if let Some(mapping) = self.common.udp.mappings.get_mut(number) {
            mapping.joined = joined;
        }
        Ok(())
    }

    /// Passes on a message of joined datagrams. False if the next one is of another kind, or nobody
    /// is there for it.
    fn receive_joined(&mut self, number: u32, fd: BorrowedFd<'_>) -> io::Result<bool> {
        let ahead = dgram::peek(fd)?;
        let Ok(handle) = self.comes_to(Which::Mapping(number), ahead.source, ahead.destination) else {
            return Ok(false);
        };
        let Self { ctx, flows, .. } = self;
        match flows.get_mut(handle) {
            Some((key, Flow::Udp(flow))) if key.via == Via::Link => {
                flow.received_joined(ctx, (handle, key), fd, &ahead)
            }
            _ => Ok(false),
        }
    }

    /// Datagrams that came through a socket which is not connected are in the inbox: passes them
    /// on, each to its flow.
    pub(super) fn received(&mut self, socket: Which, count: usize) {
        let mut next = 0;
        while let Some((first, _)) = self.ctx.core.inbox.message(next)
            && next < count
        {
            let alike = |m: &Received| (m.source, m.destination, m.ttl, m.traffic_class);
            let is_like_first =
                |&i: &usize| self.ctx.core.inbox.message(i).is_some_and(|(m, _)| alike(&m) == alike(&first));
            let messages = next..next + (next..count).take_while(is_like_first).count();
            next = messages.end;
            if let Which::Listener(number) = socket
                && self.came_to_many(number, &first, messages.clone())
            {
                continue;
            }
            match self.comes_to(socket, first.source, first.destination) {
                Ok(handle) => self.with_flow(handle, |ctx, common, handle, key, flow| match flow {
                    Flow::Udp(flow) => {
                        if matches!(socket, Which::Mapping(_)) {
                            flow.heard_remote();
                        }
                        flow.received(ctx, &mut common.udp, handle, key, messages)
                    }
                    _ => Verdict::Keep,
                }),
                Err(reason) => {
                    if let Which::Listener(number) = socket {
                        self.turned_away(number, first.source.map(Endpoint::from), reason);
                    }
                    let lost = udp::datagrams(&self.ctx.core.inbox, messages);
                    self.ctx.core.dropped_all(reason, lost);
                }
            }
        }
    }

    /// The flow of what `source` sent to `destination` through a socket that is not connected, a
    /// new one if need be. Where a listening socket shares its port with those of ports that the
    /// guest sends from, these have their peers, and it has all others, whichever of the sockets
    /// the kernel gives it to.
    fn comes_to(
        &mut self,
        socket: Which,
        source: Option<SocketAddr>,
        destination: Option<IpAddr>,
    ) -> Result<Handle, DropReason> {
        let source = source.ok_or(DropReason::Socket)?;
        let (port, listener) = match socket {
            Which::Mapping(number) => {
                let mapping = self.common.udp.mappings.get(number).ok_or(DropReason::NoFlow)?;
                if let Some(handle) = mapping.latest.filter(|&handle| self.is_with(handle, source.into())) {
                    return Ok(handle);
                }
                if let Some(found) = self.mapped(number, source) {
                    return found;
                }
                let mapping = self.common.udp.mappings.get(number).ok_or(DropReason::NoFlow)?;
                let listeners = &self.ctx.ports.listeners;
                (mapping.port(), listeners.at_port(mapping.port(), source.ip().into()))
            }
            Which::Listener(number) => (self.ctx.ports.listeners.host_port(number), Some(number)),
        };
        let beside = self.common.udp.mappings.permitting(port, source.ip().into());
        if let Some(found) = beside.and_then(|number| self.mapped(number, source)) {
            return found;
        }
        self.inbound(listener.ok_or(DropReason::NoFlow)?, source, destination)
    }

    /// The flow of what `source` sent to the mapping `number`, a new one if need be; `None` if it
    /// may not answer there.
    fn mapped(&mut self, number: u32, source: SocketAddr) -> Option<Result<Handle, DropReason>> {
        let remote = Endpoint::from(source);
        let own = self.common.udp.mappings.permitted(number, remote.addr)?;
        let found = match self.known(Which::Mapping(number), remote) {
            Some(handle) => Ok(handle),
            None => self.answer_from_elsewhere(number, own, source),
        };
        if let Some(mapping) = self.common.udp.mappings.get_mut(number) {
            mapping.latest = found.ok();
        }
        Some(found)
    }

    /// The flow with a peer through a socket that is not connected, if there is one.
    fn known(&self, socket: Which, remote: Endpoint) -> Option<Handle> {
        let guest = &self.ctx.core.guest;
        let find = |key| self.flows.find(&key).filter(|&handle| self.is_with(handle, remote));
        match socket {
            Which::Listener(number) => {
                let listener = self.ctx.ports.listeners.get(number)?;
                let (key, across) = listener.route(guest, remote, remote.addr).ok()?;
                if across.is_none() { find(key) } else { None }
            }
            Which::Mapping(number) => {
                let own = self.common.udp.mappings.permitted(number, remote.addr)?;
                let addresses = iter::once(own.addr).chain(guest.other_addresses(own.addr));
                let keys = addresses.filter_map(|addr| seen_from(guest, Endpoint { addr, ..own }, remote));
                { keys }.find_map(find)
            }
        }
    }

    /// Whether a flow is one of datagrams with this peer.
    fn is_with(&self, handle: Handle, remote: Endpoint) -> bool {
        matches!(self.flows.get(handle), Some((_, Flow::Udp(flow))) if flow.remote() == remote)
    }

    /// A flow of the guest at `own` for an answer from another port, or host, than the one that it
    /// sent to.
    fn answer_from_elsewhere(
        &mut self,
        number: u32,
        own: Endpoint,
        source: SocketAddr,
    ) -> Result<Handle, DropReason> {
        if !alloc::has_room() {
            return Err(DropReason::TableFull);
        }
        let key = seen_from(&self.ctx.core.guest, own, source.into()).ok_or(DropReason::Unmapped)?;
        if self.flows.find(&key).is_some() {
            // Two hosts that look the same to the guest cannot both be served.
            return Err(DropReason::Unmapped);
        }
        self.make_room(Some(InboundClass::Udp), number)?;
        let station = Station::of(&self.ctx.core.guest.learnt, key.guest.addr);
        let shared = Shared::new(Which::Mapping(number), source, None);
        let flow = UdpFlow::through(shared, source.into(), station, self.ctx.core.now);
        let handle = self.insert_udp(key, flow)?;
        self.ctx.ports.inbound.begun(handle.index, InboundClass::Udp, number, self.ctx.core.now);
        Ok(handle)
    }

    /// The flow of what `source` sent to `destination` through a listening socket, a new one if
    /// need be.
    fn inbound(
        &mut self,
        number: u32,
        source: SocketAddr,
        destination: Option<IpAddr>,
    ) -> Result<Handle, DropReason> {
        let (core, ports) = (&self.ctx.core, &self.ctx.ports);
        let listener = ports.listeners.get(number).ok_or(DropReason::Socket)?;
        let (to, port) = (listener.form(source), listener.port());
        let destination = destination.map_or(listener.addr, Addr::from);
        let (key, server) = listener.route(&core.guest, source.into(), destination)?;
        let from = (!destination.is_group() && !destination.is_unspecified()).then(|| destination.ip());
        let shared = Shared::new(Which::Listener(number), to, from);
        let remote = server.unwrap_or(source.into());
        let known = self.flows.find(&key).or_else(|| self.begun_through(number, &key, remote));
        if let Some(handle) = known {
            let Some((_, Flow::Udp(flow))) = self.flows.get_mut(handle) else {
                return Err(DropReason::Unmapped);
            };
            // Two hosts that look the same to the guest cannot both be served.
            let takes = flow.takes(&self.common.udp.mappings, (shared, port), remote, server.is_some());
            return takes.then_some(handle).ok_or(DropReason::Unmapped);
        }
        if ports.listeners.circular(core.guest.configured.bypass, &key, remote) {
            return Err(DropReason::Circular);
        }
        // Clients in the namespace are the guest's own.
        let class = match key.via {
            _ if listener.side == Side::Namespace => None,
            Via::Link => Some(InboundClass::Udp),
            Via::Bypass(_) => Some(InboundClass::UdpAcross),
        };
        self.make_room(class, number)?;
        let station = Station::of(&self.ctx.core.guest.learnt, key.guest.addr);
        let flow = match key.via {
            Via::Link => UdpFlow::through(shared, remote, station, self.ctx.core.now),
            Via::Bypass(from) => self.open_across(from, shared, remote, key.remote.port)?,
        };
        let handle = self.insert_udp(key, flow)?;
        if let Some(class) = class {
            self.ctx.ports.inbound.begun(handle.index, class, number, self.ctx.core.now);
        }
        Ok(handle)
    }

    /// The flow that the guest began through a listening socket from another of its addresses than
    /// that which the host's address stands for: the host's kernel chose that one.
    fn begun_through(&self, number: u32, key: &Key, remote: Endpoint) -> Option<Handle> {
        let is_it = |&handle: &Handle| match self.flows.get(handle) {
            Some((_, Flow::Udp(flow))) => {
                flow.listener() == Some(number) && !flow.is_inbound() && flow.remote() == remote
            }
            _ => false,
        };
        self.with_other_addresses(key).find(is_it)
    }

    /// A flow of what came in on side `from`, to a `server` on the other one, if possible from
    /// `port`.
    fn open_across(
        &mut self,
        from: Side,
        shared: Shared,
        server: Endpoint,
        port: u16,
    ) -> Result<UdpFlow, DropReason> {
        let ports = &mut self.ctx.ports;
        let (fd, kept) = udp::bypass::open(ports, from, server, port)?;
        if kept
            && !self.displace_for(self.ctx.ports.inbound.oldest_across().map_or(Room::Full, Room::InsteadOf))
        {
            return Err(DropReason::Socket);
        }
        Ok(UdpFlow::across(fd, shared, server, self.ctx.core.now))
    }

    /// Makes room in the table for a flow from outside; without `class`, for one of the guest's
    /// own.
    fn make_room(&mut self, class: Option<InboundClass>, number: u32) -> Result<(), DropReason> {
        let ports = &self.ctx.ports;
        let room = match class {
            Some(class) => {
                ports.inbound.room(class, number, ports.pressure.share(), self.flows.is_reserved())
            }
            None if self.flows.is_full() => Room::Full,
            None => Room::Free,
        };
        self.displace_for(room).then_some(()).ok_or(DropReason::TableFull)
    }

    /// Gives up the flow in whose place another one can begin, if there is one; false if there is
    /// no room.
    fn displace_for(&mut self, room: Room) -> bool {
        if let Room::InsteadOf(slot) = room {
            self.displace(slot);
        }
        room != Room::Full
    }

    /// Errors about what went out through a socket that is not connected: passes them on. Whether
    /// there were any. Of what the kernel itself refused it does not tell the port in IPv4: that was
    /// for `refused`.
    pub(super) fn shared_errors(&mut self, socket: Which, refused: Option<Endpoint>) -> bool {
        let fd = match socket {
            Which::Listener(number) => self.ctx.ports.listeners.get(number).map(|listener| &listener.fd),
            Which::Mapping(number) => self.common.udp.mappings.get(number).map(|mapping| &mapping.fd),
        };
        let Some(fd) = fd.map(Arc::clone) else { return true };
        let quote = Quote::new(&mut self.ctx.core);
        let mut taken = false;
        for _ in 0..BURST {
            let Some((failure, payload)) = quote.receive(&mut self.ctx.core, fd.as_fd()) else { break };
            taken = true;
            let peer = failure.destination.map(Endpoint::from);
            let peer = refused.filter(|refused| peer.is_some_and(|peer| is_about(peer, *refused))).or(peer);
            let handle = peer.and_then(|peer| self.known(socket, peer));
            if let Some((key, Flow::Udp(flow))) = handle.and_then(|handle| self.flows.get(handle)) {
                flow.undelivered(&mut self.ctx.core, key, &failure, &payload);
            }
        }
        quote.give_back(&mut self.ctx.core);
        taken || socket_error(&fd).is_some()
    }
}

/// Whether an error about `peer`, as far as the kernel knows it, is about `refused`.
fn is_about(peer: Endpoint, refused: Endpoint) -> bool {
    peer.addr == refused.addr && peer.port == 0
}

/// The flow of the guest at `own` with a peer on the host's side.
fn seen_from(guest: &Guest, own: Endpoint, remote: Endpoint) -> Option<Key> {
    let side = guest.to_guest(Protocol::Udp, remote, own.addr, Some(own.addr)).ok()?;
    Some(Key { via: Via::Link, protocol: Protocol::Udp, guest: own, remote: side.remote })
}
