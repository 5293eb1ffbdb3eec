//! Connections that bypass the link: how they come to be in the table.

use std::io;
use std::os::fd::OwnedFd;

use passt_proto::addr::Endpoint;
use passt_proto::drop::DropReason;
use rustix::io::Errno;

use super::{Engine, Flow};
use crate::flow::inbound::InboundClass;
use crate::flow::{Key, Protocol, Side, Via};
use crate::forward::pressure::Ticket;
use crate::link::Link;
use crate::protocols::Verdict;
use crate::protocols::splice::{self, SpliceFlow};

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
    /// What it connected to.
    pub(super) reached: Endpoint,
    /// What that stands for on the other side.
    pub(super) target: Endpoint,
    /// To be kept while it is not established.
    pub(super) ticket: Ticket,
}

impl<L: Link> Engine<L> {
    /// Connects an accepted client to its target.
    pub(super) fn bypass(&mut self, accepted: Accepted) -> Result<(), DropReason> {
        let Accepted { listener, fd, side, client, reached, target, ticket } = accepted;
        let key = Key { via: Via::Bypass(side), protocol: Protocol::Tcp, guest: reached, remote: client };
        self.make_way(&key);
        if self.flows.find(&key).is_some() {
            return splice::refuse(&fd, DropReason::Unmapped);
        }
        let (other, connecting) = match self.connect_across(&key, side, target) {
            Ok(connected) => connected,
            Err(error) => {
                log::debug!("{key}: {error}");
                return splice::refuse(&fd, DropReason::Socket);
            }
        };
        let flow = SpliceFlow::new(fd, other, connecting.then_some(ticket), self.ctx.core.now);
        let handle = self.flows.insert(key, Flow::Splice(flow)).map_err(|_| DropReason::TableFull)?;
        let inbound = &mut self.ctx.ports.inbound;
        inbound.begun(handle.index, InboundClass::connections(side), listener, self.ctx.core.now);
        if !connecting {
            inbound.answered(handle.index);
        }
        self.begun(&key);
        log::debug!("{key}: to {target}");
        self.with_flow(handle, |ctx, common, handle, key, flow| match flow {
            Flow::Splice(flow) => flow.begun(ctx, &mut common.splice, handle, key),
            _ => Verdict::Keep,
        });
        Ok(())
    }

    /// The socket towards the target, and whether it is still connecting.
    fn connect_across(&mut self, key: &Key, from: Side, target: Endpoint) -> io::Result<(OwnedFd, bool)> {
        if self.flows.is_full() {
            return Err(Errno::NFILE.into());
        }
        let ports = &mut self.ctx.ports;
        if ports.listeners.circular(self.ctx.core.guest.configured.bypass, key, target) {
            return Err(Errno::LOOP.into());
        }
        splice::connect(ports, from, target)
    }
}
