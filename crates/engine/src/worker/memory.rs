//! What a worker reserves at its start, and how much of it where memory is limited.
//!
//! Tables and pools are reserved for the most that may be needed. That takes address space alone, of
//! which the kernel provides what is used. Where there is not so much of it, because the process has
//! limits (`RLIMIT_AS`, `RLIMIT_DATA`) or the kernel commits no more than it has
//! (`vm.overcommit_memory` 2), all are made smaller alike. What fits is tried rather than
//! computed: it depends on more than we could ask for.

use std::io;

use passt_proto::time::Instant;
use passt_sys::alloc;

use super::Options;
use super::queue::Queue;
use crate::flow::timer::Wheel;
use crate::flow::{Flow, Table};
use crate::host::tcp::slack::{self, Pool};

/// Left to what comes later, three times over: buffers of all protocols, stacks of threads, what the C library allocates.
const MARGIN: usize = 24 * 1024 * 1024;
/// Blocks of slack at least: what two connections are promised.
const SMALLEST_POOL: u16 = 32;
/// Flows for which it is worthwhile to run.
const MIN_FLOWS: usize = 256;

/// Reserved memory of all flows, but for the table.
pub(super) struct Pools {
    pub(super) timers: Wheel,
    pub(super) ready: Queue,
    pub(super) waiting: Queue,
    pub(super) slack: Pool,
}

/// Reserves memory for as many flows as there may be, or as there is memory for.
pub(super) fn reserve(options: &Options, now: Instant) -> io::Result<(Table<Flow>, Pools)> {
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

fn reserve_for(
    flows: usize,
    blocks: u16,
    options: &Options,
    now: Instant,
) -> io::Result<(Table<Flow>, Pools)> {
    alloc::reserve_arena()?;
    let margin: Vec<u8> = alloc::reserved(MARGIN)?;
    let [a, b, ..] = options.secrets;
    let table = Table::new(flows, (a, b))?;
    let pools = Pools {
        timers: Wheel::new(flows, now)?,
        ready: Queue::new(flows)?,
        waiting: Queue::new(flows)?,
        slack: Pool::new(blocks)?,
    };
    drop(margin);
    Ok((table, pools))
}
