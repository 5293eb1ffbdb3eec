//! Flows of datagrams: to which of them one belongs, and how they come to be in the table.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::{io, iter};

use passt_proto::addr::{Addr, Endpoint};
use passt_proto::classify::Datagram;
use passt_proto::drop::DropReason;
use passt_proto::guest::Guest;
use passt_proto::wire::offload::Offload;
use passt_sys::dgram::{self, Received};
use rustix::event::epoll::EventFlags;

use super::{Common, Engine, Flow, groups};
use crate::core::readiness::has_taken;
use crate::core::{Payload, Station};
use crate::flow::inbound::{InboundClass, Room};
use crate::flow::{Handle, Key, Protocol, Side, Via};
use crate::forward::{Context, Ports};
use crate::link::Link;
use crate::protocols::Verdict;
use crate::protocols::quote::Quote;
use crate::protocols::socket::socket_error;
use crate::protocols::udp::bypass::Across;
use crate::protocols::udp::mapping::Mapping;
use crate::protocols::udp::{self, Shared, Udp, UdpFlow, Which};

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
        let may_be_for_group = self.common.groups.has_any() || datagram.dst.addr.is_group();
        if may_be_for_group && self.by_group_socket(datagram, &payload, offload)? {
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
                if flow.is_unasked() {
                    self.common.udp.spoke(key.guest.addr, flow);
                }
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

    /// Ends a flow whose listening socket was closed, or leads elsewhere now, if what came in is for
    /// another `remote` than the flow's; whether it was. Its rule was replaced.
    fn end_diverted(&mut self, handle: Handle, remote: Endpoint) -> bool {
        !self.is_with(handle, remote) && self.end_cut_off(handle)
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
                Flow::Udp(flow) => flow.end_batch(ctx, &mut common.udp, handle, key),
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
        if self.flows.is_full() {
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
        if self.flows.is_full() || !self.common.udp.begun(key.guest.addr, &flow) {
            self.common.udp.unused(&flow);
            return Err(DropReason::TableFull);
        }
        self.insert(key, Flow::Udp(flow), due)
    }

    /// The socket that a port of the guest has on the host has something to tell.
    pub(crate) fn mapping_event(&mut self, mapping: Handle, events: EventFlags) {
        let socket = Which::Mapping(mapping);
        let mut taken = events.contains(EventFlags::ERR) && self.shared_errors(socket, None);
        if events.contains(EventFlags::IN) {
            let received = self.receive_mapped(mapping);
            taken |= has_taken(&received, events);
        }
        if self.common.udp.mappings.get(mapping).is_some_and(|mapping| mapping.futile.note(taken)) {
            self.ctx.core.dropped(DropReason::Socket);
            self.end_datagrams(|flow| flow.mapping() == Some(mapping));
        }
    }

    /// Passes on what arrived at a mapping. What stays is reported by the kernel again.
    fn receive_mapped(&mut self, mapping: Handle) -> io::Result<()> {
        for _ in 0..BURST {
            let Some(known) = self.common.udp.mappings.get(mapping) else { return Ok(()) };
            if !known.joined {
                break;
            }
            let joined = self.receive_joined(mapping)?;
            self.note_joined(mapping, joined);
            self.came(mapping, usize::from(joined));
        }
        let Some(known) = self.common.udp.mappings.get(mapping).filter(|mapping| !mapping.joined) else {
            return Ok(());
        };
        let Some(fd) = known.fd() else { return Ok(()) };
        let count = self.ctx.core.inbox.receive(fd)?;
        let inbox = &self.ctx.core.inbox;
        let joined = (0..count).any(|index| inbox.size(index).is_some_and(|(_, segment)| segment != 0));
        self.received(Which::Mapping(mapping), count);
        self.note_joined(mapping, joined);
        self.came(mapping, count);
        Ok(())
    }

    /// Messages came to a mapping: where these are many, the flow that had them gets a socket of its
    /// own.
    fn came(&mut self, mapping: Handle, messages: usize) {
        let Self { ctx: Context { core, ports }, flows, common: Common { udp, .. }, .. } = self;
        let Some(handle) = udp.mappings.came(mapping, messages, core.now) else { return };
        let Some((_, Flow::Udp(flow))) = flows.get_mut(handle) else { return };
        if !flow.connect(core, ports, &mut udp.mappings, handle) {
            return;
        }
        // What the mapping has of the flow's came first. And before the new socket was connected,
        // others could send to it.
        for is_new in [false, true] {
            for _ in 0..BURST {
                let fd = match self.flows.get(handle) {
                    Some((_, Flow::Udp(flow))) if is_new => flow.fd(),
                    Some(_) => self.common.udp.mappings.get(mapping).and_then(Mapping::fd),
                    None => None,
                };
                let Some(Ok(count)) = fd.map(|fd| self.ctx.core.inbox.receive(fd)) else { break };
                self.received(Which::Mapping(mapping), count);
            }
        }
    }

    fn note_joined(&mut self, mapping: Handle, joined: bool) {
        if let Some(mapping) = self.common.udp.mappings.get_mut(mapping) {
            mapping.joined = joined;
        }
    }

    /// Passes on a message of joined datagrams. False if the next one is of another kind, or nobody
    /// is there for it.
    fn receive_joined(&mut self, mapping: Handle) -> io::Result<bool> {
        let fd = self.common.udp.mappings.get(mapping).and_then(Mapping::fd);
        let Some(ahead) = fd.map(dgram::peek).transpose()? else { return Ok(false) };
        if groups::sent_to_many(&ahead).is_some() {
            return Ok(false);
        }
        let Ok(handle) = self.comes_to(Which::Mapping(mapping), &ahead) else {
            return Ok(false);
        };
        let Self { ctx, flows, common, .. } = self;
        let fd = common.udp.mappings.get(mapping).and_then(Mapping::fd);
        match (flows.get_mut(handle), fd) {
            (Some((key, Flow::Udp(flow))), Some(fd)) if key.via == Via::Link => {
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
            let alike =
                |m: &Received| (m.source, m.destination, m.broadcast, m.interface, m.ttl, m.traffic_class);
            let is_like_first =
                |&i: &usize| self.ctx.core.inbox.message(i).is_some_and(|(m, _)| alike(&m) == alike(&first));
            let messages = next..next + (next..count).take_while(is_like_first).count();
            next = messages.end;
            if self.came_to_many(socket, &first, messages.clone()) {
                continue;
            }
            match self.comes_to(socket, &first) {
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

    /// The flow of a message that came through a socket that is not connected, a new one if need be.
    /// Where a listening socket shares its port with those of ports that the guest sends from, these
    /// have their peers, and it has all others, whichever of the sockets the kernel gives it to; each
    /// only what it is bound to.
    fn comes_to(&mut self, socket: Which, message: &Received) -> Result<Handle, DropReason> {
        let source = message.source.ok_or(DropReason::Socket)?;
        let listeners = &self.ctx.ports.listeners;
        let (port, listener, at) = match socket {
            Which::Mapping(mapping) => {
                let known = self.common.udp.mappings.get(mapping).ok_or(DropReason::NoFlow)?;
                if let Some(handle) = known.latest.filter(|&handle| self.is_with(handle, source.into())) {
                    return Ok(handle);
                }
                let (port, at) = (known.port(), known.bounds().arrival(message));
                (port, listeners.at_port(port, source.ip().into(), &at), at)
            }
            Which::Listener(number) => {
                let at = listeners.get(number).ok_or(DropReason::Socket)?.bounds.arrival(message);
                (listeners.host_port(number), Some(number), at)
            }
        };
        let own = self.common.udp.mappings.permitting(port, source.ip().into(), &at);
        if let Some((mapping, own)) = own {
            return self.mapped(mapping, own, source);
        }
        self.inbound(listener.ok_or(DropReason::NoFlow)?, source, message.destination)
    }

    /// The flow of what `source` sent to a mapping, which the guest at `own` hears; a new one if
    /// need be.
    fn mapped(&mut self, mapping: Handle, own: Endpoint, source: SocketAddr) -> Result<Handle, DropReason> {
        let found = match self.known_to(own, source.into()) {
            Some(handle) => Ok(handle),
            None => self.answer_from_elsewhere(mapping, own, source),
        };
        if let Some(mapping) = self.common.udp.mappings.get_mut(mapping) {
            mapping.latest = found.ok();
        }
        found
    }

    /// The flow of the guest at `own`, or at another of its addresses, with a peer.
    fn known_to(&self, own: Endpoint, remote: Endpoint) -> Option<Handle> {
        let guest = &self.ctx.core.guest;
        let addresses = iter::once(own.addr).chain(guest.other_addresses(own.addr));
        let mut keys = addresses.filter_map(|addr| seen_from(guest, Endpoint { addr, ..own }, remote));
        keys.find_map(|key| self.flows.find(&key).filter(|&handle| self.is_with(handle, remote)))
    }

    /// The flow with a peer through a socket that is not connected, if there is one.
    fn known(&self, socket: Which, remote: Endpoint) -> Option<Handle> {
        match socket {
            Which::Listener(number) => {
                let listener = self.ctx.ports.listeners.get(number)?;
                let (key, across) = listener.route(&self.ctx.core.guest, remote, remote.addr).ok()?;
                let handle = self.flows.find(&key).filter(|_| across.is_none())?;
                self.is_with(handle, remote).then_some(handle)
            }
            Which::Mapping(mapping) => {
                self.known_to(self.common.udp.mappings.permitted(mapping, remote.addr)?, remote)
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
        mapping: Handle,
        own: Endpoint,
        source: SocketAddr,
    ) -> Result<Handle, DropReason> {
        let key = seen_from(&self.ctx.core.guest, own, source.into()).ok_or(DropReason::Unmapped)?;
        if self.flows.find(&key).is_some() {
            // Two hosts that look the same to the guest cannot both be served.
            return Err(DropReason::Unmapped);
        }
        self.make_room(Some(InboundClass::Udp), mapping.index)?;
        let station = Station::of(&self.ctx.core.guest.learnt, key.guest.addr);
        let shared = Shared::new(Which::Mapping(mapping), source, None);
        let is_known = self.common.udp.mappings.knows(mapping, source.ip().into());
        let begin = if is_known { UdpFlow::through } else { UdpFlow::unasked };
        let flow = begin(shared, source.into(), station, self.ctx.core.now);
        let handle = self.insert_udp(key, flow)?;
        self.ctx.ports.inbound.begun(handle.index, InboundClass::Udp, mapping.index, self.ctx.core.now);
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
        let (to, port, side) = (listener.form(source), listener.port(), listener.side);
        let destination = destination.map_or(listener.bounds.addr, Addr::from);
        let (key, server) = listener.route(&core.guest, source.into(), destination)?;
        let from = (!destination.is_group() && !destination.is_unspecified()).then(|| destination.ip());
        let shared = Shared::new(Which::Listener(number), to, from);
        let remote = server.unwrap_or(source.into());
        let known = self.flows.find(&key).or_else(|| self.begun_through(number, &key, remote));
        if let Some(handle) = known.filter(|&handle| !self.end_diverted(handle, remote)) {
            let Some((_, Flow::Udp(flow))) = self.flows.get_mut(handle) else {
                return Err(DropReason::Unmapped);
            };
            // Two hosts that look the same to the guest cannot both be served.
            let takes = flow.takes(&self.common.udp.mappings, (shared, port), remote, server.is_some());
            return takes.then_some(handle).ok_or(DropReason::Unmapped);
        }
        let (core, ports) = (&self.ctx.core, &self.ctx.ports);
        if ports.listeners.circular(core.guest.configured.bypass, &key, remote) {
            return Err(DropReason::Circular);
        }
        // Clients in the namespace are the guest's own.
        let class = match key.via {
            _ if side == Side::Namespace => None,
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
        let (across, kept) = Across::open(ports, from, shared, (server.addr, port))?;
        if kept
            && !self.displace_for(self.ctx.ports.inbound.oldest_across().map_or(Room::Full, Room::InsteadOf))
        {
            return Err(DropReason::Socket);
        }
        Ok(UdpFlow::across(across, server, self.ctx.core.now))
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
        let quote = Quote::new(&mut self.ctx.core);
        let mut taken = false;
        for _ in 0..BURST {
            let Context { core, ports } = &mut self.ctx;
            let Some(fd) = socket_fd(ports, &self.common.udp, socket) else { break };
            let Some((failure, payload)) = quote.receive(core, fd) else { break };
            taken = true;
            let peer = failure.destination.map(Endpoint::from);
            let peer = refused.filter(|refused| peer.is_some_and(|peer| is_about(peer, *refused))).or(peer);
            let handle = peer.and_then(|peer| self.known(socket, peer));
            if let Some((key, Flow::Udp(flow))) = handle.and_then(|handle| self.flows.get(handle)) {
                flow.undelivered(&mut self.ctx.core, key, &failure, &payload);
            }
        }
        quote.give_back(&mut self.ctx.core);
        let fd = socket_fd(&self.ctx.ports, &self.common.udp, socket);
        taken || fd.is_none_or(|fd| socket_error(fd).is_some())
    }
}

/// A socket that is not connected, unless it was closed.
fn socket_fd<'a>(ports: &'a Ports, udp: &'a Udp, socket: Which) -> Option<BorrowedFd<'a>> {
    match socket {
        Which::Listener(number) => Some(ports.listeners.get(number)?.fd.as_fd()),
        Which::Mapping(mapping) => udp.mappings.get(mapping)?.fd(),
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
