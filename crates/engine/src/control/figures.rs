//! Counters, and how full everything is that is bounded.

use passt_proto::drop::DropReason;
use passt_sys::alloc;

use super::Control;
use crate::core::Counters;
use crate::forward::Occupied;
use crate::link::Link;

/// How much of something is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// So much is.
    pub used: usize,
    /// Of so much.
    pub of: usize,
}

/// How full everything is that is bounded.
#[derive(Clone, Copy, Debug)]
pub struct Occupancy {
    /// Flows, and those that the table has room for.
    pub flows: Level,
    /// Slots of the table that were ever used, for which it has memory.
    pub slots: Level,
    /// Connections from outside, and their share of the table.
    pub connections: Level,
    /// Flows of datagrams from outside, and their share of the table.
    pub datagrams: Level,
    /// Blocks of 64 KiB that hold what the host's kernel had no room for.
    pub slack: Level,
    /// Connections whose guest has finished and is gone, and those that there may be.
    pub left_behind: Level,
    /// Empty pipes that are kept for the bypass.
    pub pipes: Level,
    /// Sockets of the namespace that were made in advance: of TCP and UDP, for IPv4 and IPv6.
    pub sockets: Level,
    /// Descriptors below the lowest free one, which are all in use, and those that are not kept for
    /// what exists and for the guest's own flows. A new one is judged by its number.
    pub descriptors: Level,
    /// Sockets that listen.
    pub listeners: Listening,
    /// Flows that have more to do than fits one round.
    pub ready: usize,
    /// Flows that wait for room on the link.
    pub waiting: usize,
    /// Bytes that are in use of what a sealed process has; zero before it is sealed.
    pub memory: u64,
}

/// Sockets that listen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// All of them.
    pub open: usize,
    /// Those not watched now: their clients wait for room.
    pub waiting: usize,
}

impl<L: Link> Control<'_, L> {
    /// What the worker has counted so far, reasons to drop included.
    pub fn counters(&self) -> &Counters {
        &self.engine.ctx.core.counters
    }

    /// Every reason to drop, and how often there was one.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.iter().map(|&reason| (reason, self.counters().drops(reason)))
    }

    /// How full everything is. Makes one descriptor, and closes it, to see which number is free.
    pub fn occupancy(&self) -> Occupancy {
        let engine = &self.engine;
        let (core, ports, common) = (&engine.ctx.core, &engine.ctx.ports, &engine.common);
        let Occupied { connections, datagrams, sockets, descriptors, waiting } = ports.occupied(core.epoll());
        let level = |(used, of)| Level { used, of };
        let room = engine.flows.capacity();
        Occupancy {
            flows: Level { used: engine.flows.count(), of: room },
            slots: Level { used: usize::try_from(engine.flows.slots()).unwrap_or(room), of: room },
            connections: level(connections),
            datagrams: level(datagrams),
            slack: level(common.tcp.slack.lent()),
            left_behind: level(common.tcp.left_behind(ports.pressure.descriptors())),
            pipes: level(common.splice.spare_pipes()),
            sockets: level(sockets),
            descriptors: level(descriptors),
            listeners: Listening { open: ports.listeners.iter().count(), waiting },
            ready: core.ready.len(),
            waiting: core.waiting.len(),
            memory: alloc::usage().bytes as u64,
        }
    }
}
