//! Connections that bypass the link: how they come to be in the table.

use std::io;
use std::os::fd::OwnedFd;

use passt_proto::addr::Endpoint;
use passt_proto::drop::DropReason;
use rustix::io::Errno;

use super::{Engine, Flow};
use crate::flow::inbound::InboundClass;
use crate::flow::{Key, Protocol, Side, Via};
use crate::forward::Across;
use crate::forward::pressure::Ticket;
use crate::link::Link;
use crate::protocols::Verdict;
use crate::protocols::splice::{self, Attempt, SpliceFlow};

/// A client that a listening socket accepted, and its destination.
#[derive(Debug)]
pub(super) struct Accepted {
    /// The listening socket's number.
    pub(super) listener: u32,
    /// Its socket.
    pub(super) fd: OwnedFd,
    /// Where it is.
    pub(super) side: Side,
    /// Its own address and port.
    pub(super) client: Endpoint,
    /// Where it goes.
    pub(super) across: Across,
    /// To be kept while it is not established.
    pub(super) ticket: Ticket,
}

impl<L: Link> Engine<L> {
    /// Connects an accepted client to its target.
    pub(super) fn bypass(&mut self, accepted: Accepted) -> Result<(), DropReason> {
        let Accepted { listener, fd, side, client, across, ticket } = accepted;
        let Across { reached, target, .. } = across;
        let key = Key { via: Via::Bypass(side), protocol: Protocol::Tcp, guest: reached, remote: client };
        self.make_way(&key);
        if self.flows.find(&key).is_some() {
            return splice::refuse(&fd, DropReason::Unmapped);
        }
        let (other, connecting) = match self.connect_across(&key, side, &across) {
            Ok(connected) => connected,
            Err(error) => {
                log::debug!("{key}: {error}");
                return splice::refuse(&fd, DropReason::Socket);
            }
        };
        let attempt = connecting.then(|| Attempt::new(ticket, self.unless_circular(&key, across.other)));
        let flow = SpliceFlow::new(fd, other, attempt, self.ctx.core.now);
        let handle = self.flows.insert(key, Flow::Splice(flow)).map_err(|_| DropReason::TableFull)?;
        let inbound = &mut self.ctx.ports.inbound;
        inbound.begun(handle.index, InboundClass::connections(side), listener, self.ctx.core.now);
        if !connecting {
            inbound.answered(handle.index);
        }
        self.begun(handle);
        log::debug!("{key}: to {target}");
        self.with_flow(handle, |ctx, common, handle, key, flow| match flow {
            Flow::Splice(flow) => flow.begun(ctx, &mut common.splice, handle, key),
            _ => Verdict::Keep,
        });
        Ok(())
    }

    /// The socket towards the target, and whether it is still connecting.
    fn connect_across(&mut self, key: &Key, from: Side, across: &Across) -> io::Result<(OwnedFd, bool)> {
        if self.flows.is_full() {
            return Err(Errno::NFILE.into());
        }
        let target = self.unless_circular(key, Some(across.target)).ok_or(Errno::LOOP)?;
        let other = self.unless_circular(key, across.other);
        let ports = &mut self.ctx.ports;
        let first = splice::connect(ports, from, target);
        // Where a family is off, or nobody can be reached by it.
        first.or_else(|error| other.map_or(Err(error), |other| splice::connect(ports, from, other)))
    }

    /// Goes on with connections that lacked sockets of the namespace.
    pub(crate) fn resume_across(&mut self) {
        if !std::mem::take(&mut self.ctx.ports.lacking) {
            return;
        }
        for slot in 0..self.flows.slots() {
            self.with_slot(slot, |ctx, common, handle, key, flow| match flow {
                Flow::Splice(flow) if flow.waits() => flow.again(ctx, &mut common.splice, handle, key),
                _ => Verdict::Keep,
            });
        }
    }

    /// A target that does not lead back to where a connection came from.
    fn unless_circular(&self, key: &Key, target: Option<Endpoint>) -> Option<Endpoint> {
        let bypass = self.ctx.core.guest.configured.bypass;
        target.filter(|target| !self.ctx.ports.listeners.circular(bypass, key, *target))
    }
}
