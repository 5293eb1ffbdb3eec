//! TCP connections: their segments, batches, and how they come to be in the table.

use std::os::fd::OwnedFd;

use passt_proto::addr::{Addr, Endpoint};
use passt_proto::drop::DropReason;
use passt_proto::wire::ip::Marks;
use passt_proto::wire::tcp::{Flags, Segment};

use super::{Engine, Flow};
use crate::core::Payload;
use crate::flow::inbound::InboundClass;
use crate::flow::{Handle, Key, Protocol, Via};
use crate::forward::pressure::Ticket;
use crate::link::Link;
use crate::protocols::tcp::{self, TcpFlow};
use crate::protocols::{Verdict, splice};

impl<L: Link> Engine<L> {
    /// A segment from the guest with its payload.
    pub(super) fn segment(
        &mut self,
        (src, dst): (Addr, Addr),
        segment: &Segment,
        marks: Marks,
        payload: &Payload,
    ) -> Result<(), DropReason> {
        let guest = Endpoint::new(src, segment.src_port);
        let remote = Endpoint::new(dst, segment.dst_port);
        let key = Key { via: Via::Link, protocol: Protocol::Tcp, guest, remote };
        let len = payload.len();
        let Some(handle) = self.flows.find(&key) else {
            return self.no_flow(key, (segment, marks), len);
        };
        if segment.flags.contains(Flags::SYN) {
            // A port can be used again at once: what came before in the batch may have ended the
            // connection.
            self.settle(handle);
        }
        let Self { ctx, flows, common, .. } = self;
        let Some((_, Flow::Tcp(flow))) = flows.get_mut(handle) else {
            return self.no_flow(key, (segment, marks), len);
        };
        flow.heard(&ctx.core.guest);
        flow.segment(&mut common.tcp, (handle, ctx.core.now), segment, payload)?;
        if flow.has_ended() {
            self.settle(handle);
            if opens(segment) {
                return self.no_flow(key, (segment, marks), len);
            }
        }
        Ok(())
    }

    /// Deals with what a connection got of the batch so far.
    pub(super) fn settle(&mut self, handle: Handle) {
        self.with_flow(handle, |ctx, common, handle, _, flow| match flow {
            Flow::Tcp(flow) if flow.is_dirty() => flow.end_batch(ctx, &mut common.tcp, handle),
            _ => Verdict::Keep,
        });
    }

    /// All segments of a batch were seen: queues what they carried, and answers.
    pub(super) fn tcp_end_batch(&mut self) {
        let mut next = 0;
        while let Some(handle) = self.common.tcp.touched(next) {
            self.settle(handle);
            next += 1;
        }
        if self.common.tcp.end_batch(self.ctx.core.link.is_backlogged()) {
            self.acknowledge_late();
        }
    }

    /// A round of the loop ends.
    pub(crate) fn tcp_end_round(&mut self) {
        if self.common.tcp.end_round() {
            self.acknowledge_late();
        }
    }

    fn acknowledge_late(&mut self) {
        let mut next = 0;
        while let Some(handle) = self.common.tcp.late(next) {
            self.with_flow(handle, |ctx, common, handle, _, flow| match flow {
                Flow::Tcp(flow) => flow.quiet(ctx, &mut common.tcp, handle),
                _ => Verdict::Keep,
            });
            next += 1;
        }
        self.common.tcp.end_late();
    }

    /// A segment of no known connection: a new one, or answered with a reset.
    fn no_flow(
        &mut self,
        key: Key,
        (segment, marks): (&Segment, Marks),
        len: usize,
    ) -> Result<(), DropReason> {
        if opens(segment) {
            return self.connect(key, segment, marks);
        }
        if let Some(reset) = tcp::stray(segment, len) {
            let core = &self.ctx.core;
            let path = core.path(key.remote.addr, key.guest.addr, core.guest.speaker());
            tcp::emit(&mut self.ctx.core, &path, &reset);
        }
        Err(DropReason::NoFlow)
    }

    /// The guest opens a connection.
    fn connect(&mut self, key: Key, syn: &Segment, marks: Marks) -> Result<(), DropReason> {
        if self.flows.is_full() {
            // Before the host's peer sees anything of it.
            return Err(DropReason::TableFull);
        }
        let (mut flow, error) = self.common.tcp.connect(&mut self.ctx.core, &key, syn, marks)?;
        flow.heard(&self.ctx.core.guest);
        let handle = self.insert_tcp(key, flow)?;
        if let Some(error) = error {
            self.with_flow(handle, |ctx, common, handle, key, flow| match flow {
                Flow::Tcp(flow) => flow.failed(ctx, &mut common.tcp, handle, key, error),
                _ => Verdict::Keep,
            });
        }
        Ok(())
    }

    /// A connection that a listening socket accepted is opened towards the guest,
    /// which sees it as `key` says. The ticket is of the listening socket with this number.
    pub(super) fn accepted(
        &mut self,
        fd: OwnedFd,
        key: Key,
        (listener, ticket): (u32, Ticket),
    ) -> Result<(), DropReason> {
        self.make_way(&key);
        if self.flows.find(&key).is_some() {
            // Two clients that look the same to the guest cannot both be served.
            return splice::refuse(&fd, DropReason::Unmapped);
        }
        let flow = self.common.tcp.accepted(&self.ctx.core, &key, fd, ticket);
        let handle = self.insert_tcp(key, flow)?;
        self.ctx.ports.inbound.begun(handle.index, InboundClass::Tcp, listener, self.ctx.core.now);
        self.with_flow(handle, |ctx, common, handle, _, flow| match flow {
            Flow::Tcp(flow) => flow.pull(ctx, &mut common.tcp, handle),
            _ => Verdict::Keep,
        });
        Ok(())
    }

    /// Adds a connection to the table and its socket to the loop.
    #[inline]
    fn insert_tcp(&mut self, key: Key, flow: TcpFlow) -> Result<Handle, DropReason> {
        let handle = self.flows.insert(key, Flow::Tcp(flow)).map_err(|_| DropReason::TableFull)?;
        let Some((_, Flow::Tcp(flow))) = self.flows.get_mut(handle) else { return Err(DropReason::NoFlow) };
        if self.ctx.core.watch_flow(flow.socket(), handle).is_err() {
            self.remove(handle);
            return Err(DropReason::Socket);
        }
        self.begun(handle);
        Ok(handle)
    }
}

/// Whether a segment asks for a new connection.
fn opens(segment: &Segment) -> bool {
    segment.flags.contains(Flags::SYN) && !segment.flags.intersects(Flags::ACK | Flags::RST)
}
