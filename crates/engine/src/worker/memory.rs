//! What a worker reserves at its start, and how much of it where memory is limited.
//!
//! Tables and pools are reserved for the most that may be needed. That takes address space alone,
//! of which the kernel provides what is used. Where there is not so much of it, because the process
//! has limits (`RLIMIT_AS`, `RLIMIT_DATA`) or the kernel commits no more than it has
//! (`vm.overcommit_memory` 2), all are made smaller alike. What fits is tried rather than computed:
//! it depends on more than we could ask for.

use std::io;

use passt_proto::time::Instant;
use passt_sys::alloc;

use super::EngineOptions;
use crate::core::{Core, Pools};
use crate::dispatch::{Common, Engine, Flow, Fragments, REPLY_ROOM};
use crate::flow::Table;
use crate::forward::{Context, Ours, Ports};
use crate::link::Link;
use crate::protocols::echo::Echo;
use crate::protocols::groups::Groups;
use crate::protocols::splice::Splice;
use crate::protocols::tcp::Tcp;
use crate::protocols::tcp::slack::{self, Slack};
use crate::protocols::udp::Udp;
use crate::protocols::udp::mapping::Mappings;

/// Left to what comes later, three times over: buffers of all protocols, stacks of threads, what
/// the C library allocates.
const MARGIN: usize = 24 * 1024 * 1024;
/// Blocks of slack at least: what two connections are promised.
const SMALLEST_POOL: u16 = 32;
/// Ports that the guest sends datagrams from, at most: as many as the host has.
const PORTS: usize = 1 << 16;
/// Flows for which it is worthwhile to run.
const MIN_FLOWS: usize = 256;

/// What is reserved: the table, what the core needs of each flow, slack, and what ports that the guest
/// sends from take.
type Reserved = (Table<Flow>, Pools, Slack, (Mappings, Ours));

/// An engine with memory for as many flows as there may be, or as there is memory for.
pub(super) fn engine<L: Link>(link: L, options: &EngineOptions, now: Instant) -> io::Result<Box<Engine<L>>> {
    let (flows, pools, slack, (mappings, ours)) = reserve(options, now)?;
    let EngineOptions { services, leases, guest, outbound, protocols, max_flows, secrets } = options;
    let [_, _, a, b] = *secrets;
    let common = Common {
        tcp: Tcp::new(&link.caps(), services.mtu, (a, b), slack),
        splice: Splice::new(),
        udp: Udp::new(u32::try_from(b & 0xffff_ffff).unwrap_or(0), mappings),
        echo: Echo::new(u32::try_from(b >> 32).unwrap_or(0)),
        groups: Groups::new(guest, *secrets, now),
    };
    let mut core = Core::new(link, services, guest, outbound, now, pools)?;
    core.leases = leases.clone().map(Box::new);
    let ctx = Context { core, ports: Ports::new(*max_flows, ours) };
    let (fragments, reply) = (Fragments::new()?, vec![0; REPLY_ROOM].into());
    Ok(Box::new(Engine { ctx, flows, common, fragments, protocols: *protocols, reply }))
}

fn reserve(options: &EngineOptions, now: Instant) -> io::Result<Reserved> {
    let (mut flows, mut blocks) = (options.max_flows, slack::BLOCKS);
    loop {
        match reserve_for(flows, blocks, options, now) {
            Err(_) if flows / 2 >= MIN_FLOWS => {
                (flows, blocks) = (flows / 2, (blocks / 2).max(SMALLEST_POOL));
            }
            Err(error) => return Err(too_little(&error)),
            Ok(reserved) => {
                if flows < options.max_flows {
                    log::debug!("Memory is limited: room for {flows} flows");
                }
                return Ok(reserved);
            }
        }
    }
}

fn too_little(error: &io::Error) -> io::Error {
    let text =
        format!("too little memory for {MIN_FLOWS} flows (ulimit -v and -d, vm.overcommit_memory): {error}");
    io::Error::new(io::ErrorKind::OutOfMemory, text)
}

fn reserve_for(flows: usize, blocks: u16, options: &EngineOptions, now: Instant) -> io::Result<Reserved> {
    alloc::reserve_arena()?;
    let margin: Vec<u8> = alloc::reserved(MARGIN)?;
    let [a, b, ..] = options.secrets;
    let ours = Ours::default();
    // For those that flows have beside them as well.
    ours.reserve(2 * flows.min(PORTS))?;
    let mappings = Mappings::new(flows.min(PORTS), flows, (a, b))?;
    let reserved =
        (Table::new(flows, (a, b))?, Pools::new(flows, now)?, Slack::new(blocks)?, (mappings, ours));
    drop(margin);
    Ok(reserved)
}
