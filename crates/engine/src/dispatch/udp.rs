//! Flows of datagrams: to which of them one belongs, and how they come to be in the table.

use std::net::{IpAddr, SocketAddr};

use passt_proto::addr::{Addr, Endpoint};
use passt_proto::classify::Datagram;
use passt_proto::drop::DropReason;
use passt_proto::wire::offload::Offload;

use super::{Engine, Flow};
use crate::core::{Payload, Station};
use crate::flow::inbound::{InboundClass, Room};
use crate::flow::{Handle, Key, Protocol, Side, Via};
use crate::forward::Context;
use crate::link::Link;
use crate::protocols::Verdict;
use crate::protocols::quote::Quote;
use crate::protocols::socket::socket_error;
use crate::protocols::udp::{self, Shared, UdpFlow};

/// Entries of a listening socket's error queue that are dealt with at once.
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
                known.map_or_else(|| self.open_udp(key, datagram), Ok)?
            }
        };
        let ttl = match self.flows.get_mut(handle) {
            Some((_, Flow::Udp(flow))) => {
                flow.heard(&self.ctx.core.guest);
                Some(flow.ttl())
            }
            _ => None,
        };
        let other_ttl = ttl != Some(datagram.ttl);
        if other_ttl || self.common.udp.is_full() {
            self.udp_end_batch();
        }
        // What was sent may have ended it.
        let handle = if self.flows.get(handle).is_some() { handle } else { self.open_udp(key, datagram)? };
        if other_ttl && let Some((_, Flow::Udp(flow))) = self.flows.get_mut(handle) {
            flow.set_ttl(datagram.ttl);
        }
        self.common.udp.add((key, handle), payload, offload);
        Ok(())
    }

    /// The flow from outside that the guest was reached with at another of its addresses than the
    /// one that it answers from.
    fn answered(&self, key: &Key) -> Option<Handle> {
        let inbound = |addr| {
            let handle = self.flows.find(&Key { guest: Endpoint { addr, ..key.guest }, ..*key })?;
            let is_inbound = matches!(self.flows.get(handle)?, (_, Flow::Udp(flow)) if flow.is_inbound());
            is_inbound.then_some(handle)
        };
        self.ctx.core.guest.other_addresses(key.guest.addr).find_map(inbound)
    }

    /// Sends what waits of a batch.
    pub(super) fn udp_end_batch(&mut self) {
        if let Some(handle) = self.common.udp.take_owner() {
            self.with_flow(handle, |ctx, common, handle, key, flow| match flow {
                Flow::Udp(flow) => flow.end_batch(ctx, &common.udp, handle, key),
                _ => Verdict::Keep,
            });
            self.common.udp.clear();
        }
    }

    /// A flow for a datagram of the guest that belongs to none.
    fn open_udp(&mut self, key: Key, datagram: &Datagram) -> Result<Handle, DropReason> {
        let (flow, number) = udp::open(&mut self.ctx, &key, datagram)?;
        let Some(number) = number else { return self.insert_udp(key, flow) };
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
        let handle = self.insert(key, Flow::Udp(flow), due)?;
        self.sends_to_many(handle);
        Ok(handle)
    }

    /// Datagrams that came through a listening socket are in the inbox: passes them on, each to its
    /// flow.
    pub(super) fn received(&mut self, number: u32, count: usize) {
        let mut next = 0;
        while let Some((first, _)) = self.ctx.core.inbox.message(next)
            && next < count
        {
            let from = |i| self.ctx.core.inbox.message(i).map(|(m, _)| (m.source, m.destination));
            let same = |i: &usize| from(*i) == Some((first.source, first.destination));
            let messages = next..next + (next..count).take_while(same).count();
            next = messages.end;
            if self.came_to_many(number, &first, messages.clone()) {
                continue;
            }
            match self.inbound(number, first.source, first.destination) {
                Ok(handle) => self.with_flow(handle, |ctx, common, handle, key, flow| match flow {
                    Flow::Udp(flow) => flow.received(ctx, &mut common.udp, handle, key, messages),
                    _ => Verdict::Keep,
                }),
                Err(reason) => {
                    self.turned_away(number, first.source.map(Endpoint::from), reason);
                    let lost = udp::datagrams(&self.ctx.core.inbox, messages);
                    self.ctx.core.dropped_all(reason, lost);
                }
            }
        }
    }

    /// The flow of what `source` sent to `destination` through a listening socket, a new one if
    /// need be.
    fn inbound(
        &mut self,
        number: u32,
        source: Option<SocketAddr>,
        destination: Option<IpAddr>,
    ) -> Result<Handle, DropReason> {
        let (core, ports) = (&self.ctx.core, &self.ctx.ports);
        let listener = ports.listeners.get(number).ok_or(DropReason::Socket)?;
        let source = source.ok_or(DropReason::Socket)?;
        let to = listener.form(source);
        let destination = destination.map_or(listener.addr, Addr::from);
        let (key, server) = listener.route(&core.guest, source.into(), destination)?;
        let from = (!destination.is_group() && !destination.is_unspecified()).then(|| destination.ip());
        let shared = Shared::new(number, to, from);
        let remote = server.unwrap_or(source.into());
        if let Some(handle) = self.flows.find(&key) {
            let Some((_, Flow::Udp(flow))) = self.flows.get_mut(handle) else {
                return Err(DropReason::Unmapped);
            };
            // Two hosts that look the same to the guest cannot both be served.
            return flow
                .takes(shared, remote, server.is_some())
                .then_some(handle)
                .ok_or(DropReason::Unmapped);
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

    /// Errors about what went out through a listening socket: passes them on. Whether there were
    /// any.
    pub(super) fn listener_errors(&mut self, number: u32) -> bool {
        let Context { core, ports } = &mut self.ctx;
        let Some(listener) = ports.listeners.get(number) else { return true };
        let quote = Quote::new(core);
        let mut taken = false;
        for _ in 0..BURST {
            let Some(error) = udp::errors::of_listener(core, listener, &quote) else { break };
            taken = true;
            if let Some(key) = error.key
                && let Some(handle) = self.flows.find(&key)
                && let Some((_, Flow::Udp(flow))) = self.flows.get(handle)
            {
                error.report(core, &key, flow);
            }
        }
        quote.give_back(core);
        taken || socket_error(&listener.fd).is_some()
    }
}
