//! What the process does on the worker's thread beside the engine: statistics, the log's account, control,
//! and what becomes readable outside.

use std::io;
use std::os::fd::AsFd as _;

use anyhow::Context as _;
use passt_engine::control::Control;
use passt_engine::core::Token;
use passt_engine::link::Link;
use passt_engine::worker::{External, Worker};
use passt_proto::time::Instant;
use passt_sys::msg;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use crate::control::Server;
use crate::life::starter::Starter;
use crate::log;
use crate::netconf::neighbours::Neighbours;
use crate::stats::Stats;

use super::resolver::Outsider;

/// Number of the host's neighbours among what is outside of the engine.
const NEIGHBOURS: u32 = 16;
/// Number of the descriptor whose end is the process's.
const EXIT: u32 = 17;

/// Has the loop follow the host's neighbours.
pub(super) fn watch<L: Link>(worker: &mut Worker<L>, neighbours: Option<&Neighbours>) -> anyhow::Result<()> {
    let Some(neighbours) = neighbours else { return Ok(()) };
    let watched = worker.context().core.watch(neighbours, Token::External(NEIGHBOURS), EventFlags::IN);
    watched.context("Couldn't watch the host's neighbours")
}

/// Number of the process outside.
const OUTSIDER: u32 = 18;

/// Has the loop hear what the process outside tells.
pub(super) fn watch_outsider<L: Link>(
    worker: &mut Worker<L>,
    outsider: Option<&Outsider>,
) -> anyhow::Result<()> {
    let Some(outsider) = outsider else { return Ok(()) };
    let watched = worker.context().core.watch(outsider, Token::External(OUTSIDER), EventFlags::IN);
    watched.context("Couldn't watch the process outside")
}

/// Has the loop watch the descriptor whose end is the process's: that alone, and no data, is told. A
/// file has none.
pub(super) fn watch_exit<L: Link>(worker: &mut Worker<L>, starter: &Starter) -> anyhow::Result<()> {
    let Some(exit) = starter.exit() else { return Ok(()) };
    let core = &mut worker.context().core;
    match core.watch(exit, Token::External(EXIT), EventFlags::empty()) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => Ok(()),
        watched => watched.context("Couldn't watch the descriptor for the end"),
    }
}

/// Whether it was the process's end that ended the loop.
pub(super) fn is_exit(number: u32) -> bool {
    number == EXIT
}

/// The engine's surroundings; `ready` is told the number of a descriptor that is readable, and says
/// whether the loop is to end.
pub(super) struct Outside<'a, F> {
    pub(super) server: Option<&'a mut Server>,
    pub(super) stats: Option<&'a mut Stats>,
    pub(super) neighbours: Option<&'a mut Neighbours>,
    pub(super) outsider: Option<&'a mut Outsider>,
    pub(super) ready: F,
}

impl<F> Outside<'_, F> {
    /// The same with another `ready`, for a while.
    pub(super) fn with<G>(&mut self, ready: G) -> Outside<'_, G> {
        Outside {
            stats: self.stats.as_deref_mut(),
            neighbours: self.neighbours.as_deref_mut(),
            outsider: self.outsider.as_deref_mut(),
            server: self.server.as_deref_mut(),
            ready,
        }
    }
}

impl<L: Link, F: FnMut(u32, &mut Control<'_, L>) -> bool> External<L> for Outside<'_, F> {
    fn ready(&mut self, number: u32, control: &mut Control<'_, L>) -> bool {
        match &mut self.neighbours {
            Some(neighbours) if number == NEIGHBOURS => {
                let core = &mut control.engine.ctx.core;
                neighbours.read(|(addr, mac)| core.neighbour(addr, mac));
                false
            }
            _ if number == EXIT => {
                // The line is what callers look for.
                let _ = msg::write_slice(io::stderr().as_fd(), b"exitfd event\n");
                true
            }
            _ if number == OUTSIDER => {
                let core = &mut control.engine.ctx.core;
                if let Some(outsider) = &mut self.outsider
                    && !outsider.ready(core)
                {
                    // It would be told of its end each time.
                    let _ = core.unwatch(&*outsider);
                }
                false
            }
            _ => match &mut self.server {
                Some(server) if Server::concerns(number) => {
                    server.ready(number, control);
                    false
                }
                _ => (self.ready)(number, control),
            },
        }
    }

    fn progressed(&mut self, control: &mut Control<'_, L>) {
        if let Some(server) = &mut self.server {
            server.progressed(control);
        }
    }

    fn due(&self) -> Option<Instant> {
        let stats = self.stats.as_ref().map(|stats| stats.due());
        let server = self.server.as_ref().and_then(|server| server.due());
        [stats, log::due(), server].into_iter().flatten().min()
    }

    fn tick(&mut self, control: &mut Control<'_, L>) {
        let engine = &mut *control.engine;
        log::account(engine.ctx.core.now);
        if let Some(stats) = &mut self.stats {
            stats.report(&engine.ctx, engine.flows.count());
        }
        if let Some(server) = &mut self.server
            && server.due().is_some_and(|due| due <= control.engine.ctx.core.now)
        {
            server.tick(control);
        }
    }
}
