//! Pings of the guest: to which flow one belongs.

use passt_proto::addr::{Addr, Endpoint};
use passt_proto::drop::DropReason;
use passt_proto::wire::ip::Marks;

use super::{Engine, Flow};
use crate::core::Payload;
use crate::flow::{Handle, Key, Protocol, Via};
use crate::link::Link;

/// An echo request.
#[derive(Clone, Debug)]
pub(super) struct EchoRequest {
    /// The guest and its identifier.
    pub(super) guest: Endpoint,
    /// Destination.
    pub(super) dst: Addr,
    pub(super) marks: Marks,
    /// The message from its type on.
    pub(super) message: Payload,
}

impl<L: Link> Engine<L> {
    /// Passes on an echo request.
    pub(super) fn echo_request(&mut self, request: &EchoRequest) -> Result<(), DropReason> {
        if self.ctx.core.guest.echoes(request.dst) {
            let ends = (request.guest.addr, request.dst);
            return self.common.echo.answer(&mut self.ctx.core, ends, &request.message);
        }
        let remote = Endpoint::new(request.dst, 0);
        let key = Key { via: Via::Link, protocol: Protocol::Echo, guest: request.guest, remote };
        let handle = self.flows.find(&key).map_or_else(|| self.open_echo(key), Ok)?;
        let Some((_, Flow::Echo(flow))) = self.flows.get_mut(handle) else { return Err(DropReason::NoFlow) };
        flow.send(&mut self.ctx.core, &key, request.marks, &request.message)
    }

    fn open_echo(&mut self, key: Key) -> Result<Handle, DropReason> {
        let flow = self.common.echo.open(&mut self.ctx.core, &key)?;
        let due = flow.due();
        self.insert(key, Flow::Echo(flow), due)
    }
}
