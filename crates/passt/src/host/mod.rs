//! The host's side: what flows do with their sockets.

pub mod slack;
pub mod tcp;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use passt_proto::addr::{Addr, Endpoint};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

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

/// A socket towards the host's peers, bound to the interface and address that the command line or
/// the way of mapping asks for.
pub(crate) fn socket<L>(
    ctx: &Context<L>,
    kind: SocketType,
    protocol: Option<rustix::net::Protocol>,
    remote: Addr,
    bind: Option<Addr>,
) -> io::Result<OwnedFd> {
    let (family, interface) = if remote.is_v4() {
        (AddressFamily::INET, &ctx.outbound_if[0])
    } else {
        (AddressFamily::INET6, &ctx.outbound_if[1])
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, kind, flags, protocol)?;
    if let Some(name) = interface
        && !remote.is_loopback()
    {
        passt_sys::socket::bind_to_device(fd.as_fd(), name)?;
    }
    if let Some(addr) = bind.filter(|addr| !addr.is_loopback()) {
        rustix::net::bind(&fd, &Endpoint::new(addr, 0).socket_addr())?;
    }
    Ok(fd)
}

/// The pending error of a socket, if there is one; the kernel forgets it.
pub(crate) fn socket_error(fd: &OwnedFd) -> Option<Errno> {
    sockopt::socket_error(fd).unwrap_or_else(Err).err()
}
