//! Floor `dispatch`: the table of all flows, and the only
//! place that knows them all.
//!
//! A frame, an event, a timer or a client that was accepted is handed to its flow;
//! a flow that has ended is removed here, and what it held is given back.

mod complaint;
mod crowd;
mod describe;
mod echo;
mod fragments;
mod from_guest;
mod groups;
mod link;
mod listen;
mod splice;
mod tcp;
mod udp;

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;

use passt_proto::drop::DropReason;
use passt_proto::time::Instant;
use rustix::event::epoll::EventFlags;

use crate::core::readiness::DATAGRAMS;
use crate::core::{Handle, Token};
use crate::flow::{Key, Table};
use crate::forward::Context;
use crate::link::Link;
use crate::protocols::Verdict;
use crate::protocols::echo::{Echo, EchoFlow};
use crate::protocols::groups::Groups;
use crate::protocols::splice::{Peer, Splice, SpliceFlow};
use crate::protocols::tcp::{Tcp, TcpFlow};
use crate::protocols::udp::{Udp, UdpFlow};

pub use self::describe::Description;
pub(crate) use self::fragments::Fragments;
pub use self::from_guest::Protocols;
pub(crate) use self::from_guest::REPLY_ROOM;

/// What is known about one conversation.
#[expect(clippy::large_enum_variant, reason = "slots are reserved at start, and most hold connections")]
pub enum Flow {
    /// A TCP connection.
    Tcp(TcpFlow),
    /// A TCP connection that bypasses the link.
    Splice(SpliceFlow),
    /// A UDP flow.
    Udp(UdpFlow),
    /// Pings.
    Echo(EchoFlow),
}

/// All flows of a worker, and what they work with.
pub struct Engine<L> {
    /// Link, time and forwarded ports.
    pub ctx: Context<L>,
    /// The flows.
    pub flows: Table<Flow>,
    /// What those of each protocol share.
    pub common: Common,
    /// Packets of the guest that come in fragments.
    pub(crate) fragments: Fragments,
    /// Protocols that are on.
    pub protocols: Protocols,
    /// Room for what responders answer.
    pub(crate) reply: Box<[u8]>,
}

/// What flows of each protocol share.
pub struct Common {
    /// TCP connections.
    pub tcp: Tcp,
    /// Connections that bypass the link.
    pub(crate) splice: Splice,
    /// Flows of datagrams.
    pub(crate) udp: Udp,
    /// Pings.
    pub(crate) echo: Echo,
    /// Multicast groups.
    pub(crate) groups: Groups,
}

impl<L: Link> Engine<L> {
    /// A flow's socket has something to tell.
    pub(crate) fn event(&mut self, handle: Handle, events: EventFlags) {
        self.with_flow(handle, |ctx, common, handle, key, flow| match flow {
            Flow::Tcp(flow) => flow.event(ctx, &mut common.tcp, handle, key, events),
            Flow::Splice(flow) => flow.event(ctx, &mut common.splice, handle, key, Peer::Client, events),
            Flow::Udp(flow) => flow.event(ctx, &mut common.udp, handle, key, events),
            Flow::Echo(flow) => flow.event(&mut ctx.core, &mut common.echo, key, events),
        });
    }

    /// The second socket of a flow that bypasses the link has something to tell.
    pub(crate) fn second_event(&mut self, handle: Handle, events: EventFlags) {
        self.with_flow(handle, |ctx, common, handle, key, flow| match flow {
            Flow::Splice(flow) => flow.event(ctx, &mut common.splice, handle, key, Peer::Target, events),
            Flow::Udp(flow) => flow.second_event(ctx, handle, key, events),
            Flow::Tcp(_) | Flow::Echo(_) => Verdict::Keep,
        });
    }

    /// The flow in this slot asked to be called again
    /// ([`Core::call_again`](crate::core::Core::call_again)).
    pub(crate) fn again(&mut self, slot: u32) {
        self.with_slot(slot, |ctx, common, handle, key, flow| match flow {
            Flow::Tcp(flow) => flow.pull(ctx, &mut common.tcp, handle),
            Flow::Splice(flow) => flow.again(ctx, &mut common.splice, handle, key),
            Flow::Udp(_) | Flow::Echo(_) => Verdict::Keep,
        });
    }

    /// The link has room for the flow in this slot, which waited for it
    /// ([`Core::await_link`](crate::core::Core::await_link)).
    pub(crate) fn resume(&mut self, slot: u32) {
        self.with_slot(slot, |ctx, common, handle, _, flow| match flow {
            Flow::Tcp(flow) => flow.resume(ctx, &mut common.tcp, handle),
            Flow::Splice(_) | Flow::Udp(_) | Flow::Echo(_) => Verdict::Keep,
        });
    }

    /// The timer of the flow in this slot fired.
    pub(crate) fn timeout(&mut self, slot: u32) {
        self.with_slot(slot, |ctx, common, handle, key, flow| match flow {
            Flow::Tcp(flow) => flow.timeout(ctx, &mut common.tcp, handle, key),
            Flow::Splice(_) => Verdict::Keep,
            Flow::Udp(flow) => flow.timeout(&mut ctx.core, &common.udp, handle),
            Flow::Echo(flow) => flow.timeout(&mut ctx.core, handle),
        });
    }

    /// Ends flows of datagrams that travel through listening sockets that were closed; how many.
    pub(crate) fn end_through(&mut self, listeners: &BTreeSet<u32>) -> usize {
        if listeners.is_empty() {
            return 0;
        }
        self.end_datagrams(|flow| flow.listener().is_some_and(|number| listeners.contains(&number)))
    }

    /// Ends flows of datagrams of which this holds; how many.
    fn end_datagrams(&mut self, which: impl Fn(&UdpFlow) -> bool) -> usize {
        let through = |flow: &Flow| match flow {
            Flow::Udp(flow) => which(flow),
            Flow::Tcp(_) | Flow::Splice(_) | Flow::Echo(_) => false,
        };
        let mut ended = 0;
        for slot in 0..self.flows.slots() {
            let Some(handle) = self.flows.at(slot) else { continue };
            if self.flows.get(handle).is_some_and(|(_, flow)| through(flow)) {
                self.remove(handle);
                ended += 1;
            }
        }
        ended
    }

    fn with_slot(
        &mut self,
        slot: u32,
        f: impl FnOnce(&mut Context<L>, &mut Common, Handle, &Key, &mut Flow) -> Verdict,
    ) {
        if let Some(handle) = self.flows.at(slot) {
            self.with_flow(handle, f);
        }
    }

    /// Has `f` do something with a flow, and removes the flow if that ended it.
    fn with_flow(
        &mut self,
        handle: Handle,
        f: impl FnOnce(&mut Context<L>, &mut Common, Handle, &Key, &mut Flow) -> Verdict,
    ) {
        let Self { ctx, flows, common, .. } = self;
        let Some((key, flow)) = flows.get_mut(handle) else { return };
        if f(ctx, common, handle, key, flow) == Verdict::Remove {
            self.remove(handle);
        }
    }

    /// Gives up a flow for another one.
    fn displace(&mut self, slot: u32) {
        if let Some(handle) = self.flows.at(slot) {
            self.ctx.core.dropped(DropReason::Displaced);
            self.give_up(handle);
        }
    }

    /// Ends a flow: both sides of a connection are reset.
    pub(crate) fn give_up(&mut self, handle: Handle) {
        self.with_flow(handle, |ctx, common, handle, _, flow| match flow {
            Flow::Tcp(flow) => flow.give_up(ctx, &mut common.tcp, handle),
            Flow::Splice(flow) => flow.abort(),
            Flow::Udp(_) | Flow::Echo(_) => Verdict::Remove,
        });
    }

    /// A client was accepted whose flow would be `key`. Where there is such a flow, its own client
    /// may have been reset a moment ago, and the loop has not been told yet: the flow ends then.
    fn make_way(&mut self, key: &Key) {
        let Some(handle) = self.flows.find(key) else { return };
        self.with_flow(handle, |ctx, common, handle, _, flow| match flow {
            Flow::Tcp(flow) => flow.succeeded(ctx, &mut common.tcp, handle),
            Flow::Splice(flow) => flow.succeeded(),
            Flow::Udp(_) | Flow::Echo(_) => Verdict::Keep,
        });
    }

    /// Removes a flow with all that it has.
    fn remove(&mut self, handle: Handle) {
        let Self { ctx: Context { core, ports }, flows, common, .. } = self;
        core.timers.cancel(handle.index);
        ports.inbound.ended(handle.index);
        if let Some((key, _)) = flows.get_mut(handle) {
            log::debug!("{key}: ended");
        }
        match flows.remove(handle) {
            Some(Flow::Tcp(flow)) => flow.give_back(&mut common.tcp),
            Some(Flow::Splice(flow)) => flow.give_back(&mut common.splice),
            Some(Flow::Udp(flow)) => common.udp.ended(&flow),
            Some(Flow::Echo(_)) | None => {}
        }
    }

    /// Adds a flow of datagrams that lives until `due`, to the table, and its socket to the loop.
    fn insert(&mut self, key: Key, flow: Flow, due: Instant) -> Result<Handle, DropReason> {
        let handle = self.flows.insert(key, flow).map_err(|_| DropReason::TableFull)?;
        let fd = match self.flows.get_mut(handle) {
            Some((_, Flow::Udp(flow))) => flow.fd(),
            Some((_, Flow::Echo(flow))) => Some(flow.fd().as_fd()),
            _ => None,
        };
        if fd.is_some_and(|fd| self.ctx.core.watch(fd, Token::Flow(handle), DATAGRAMS).is_err()) {
            self.remove(handle);
            return Err(DropReason::Socket);
        }
        self.ctx.core.timers.set(handle.index, due);
        self.begun(handle);
        Ok(handle)
    }

    /// Takes note of a new flow.
    fn begun(&mut self, handle: Handle) {
        self.ctx.core.counters.flows += 1;
        if log::log_enabled!(log::Level::Debug)
            && let Some((key, flow)) = self.flows.get(handle)
        {
            match self.local(flow) {
                Some(local) => log::debug!("{key}: begun, on the host {local}"),
                None => log::debug!("{key}: begun"),
            }
        }
    }
}
