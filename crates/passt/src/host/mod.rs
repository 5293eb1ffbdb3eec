//! The host's side: what flows do with their sockets.

pub mod slack;
pub mod tcp;

use rustix::event::epoll::EventFlags;

use crate::flow::{Flow, Handle, Key, Table};
use crate::link::Link;
use crate::worker::Context;

/// Whether a flow lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It does.
    Keep,
    /// It has ended.
    Remove,
}

/// A flow's socket has something to tell.
pub(crate) fn event<L: Link>(
    ctx: &mut Context<L>,
    handle: Handle,
    key: &Key,
    flow: &mut Flow,
    events: EventFlags,
) -> Verdict {
    match flow {
        Flow::Tcp(flow) => flow.event(ctx, handle, key, events),
    }
}

/// A flow asked to be called again ([`Context::call_again`]).
pub(crate) fn again<L: Link>(ctx: &mut Context<L>, handle: Handle, _: &Key, flow: &mut Flow) -> Verdict {
    match flow {
        Flow::Tcp(flow) => flow.pull(ctx, handle),
    }
}

/// A flow's timer fired.
pub(crate) fn timeout<L: Link>(ctx: &mut Context<L>, handle: Handle, _: &Key, flow: &mut Flow) -> Verdict {
    match flow {
        Flow::Tcp(flow) => flow.timeout(ctx, handle),
    }
}

/// Has `f` do something with a flow, and removes the flow if that ended it.
pub(crate) fn with_flow<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    handle: Handle,
    f: impl FnOnce(&mut Context<L>, Handle, &Key, &mut Flow) -> Verdict,
) {
    let Some((key, flow)) = flows.get_mut(handle) else { return };
    if f(ctx, handle, key, flow) == Verdict::Remove {
        remove(ctx, flows, handle);
    }
}

/// Removes a flow with all that it has.
pub(crate) fn remove<L>(ctx: &mut Context<L>, flows: &mut Table<Flow>, handle: Handle) {
    ctx.timers.cancel(handle.index);
    match flows.remove(handle) {
        Some(Flow::Tcp(flow)) => flow.give_back(ctx),
        None => {}
    }
}
