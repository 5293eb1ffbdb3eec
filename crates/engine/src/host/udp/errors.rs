//! What the host tells of datagrams that did not arrive: the guest hears of its own by ICMP, as from a
//! router or the destination; the rest is counted.

use std::os::fd::{AsFd as _, OwnedFd};

use passt_proto::addr::Endpoint;
use passt_proto::drop::DropReason;
use passt_proto::wire::build::{DEFAULT_TTL, Path};
use passt_proto::wire::ip::protocol;
use passt_proto::wire::report::Quoted;
use passt_sys::dgram::{self, Failure};
use passt_sys::iovec::Gather;

use super::BURST;
use super::send::Loss;
use crate::flow::{Flow, Key, Table, Via};
use crate::host::{self, unreachable};
use crate::link::Link;
use crate::worker::Context;

/// More of an undelivered datagram is never quoted.
const QUOTE: usize = 1280;

/// Errors about what went out through a listening socket: passes them on. Whether there were any.
pub(in crate::host) fn of_listener<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    number: u32,
) -> bool {
    let mut taken = false;
    for _ in 0..BURST {
        let Some(listener) = ctx.listeners.get(number) else { return true };
        let mut payload = [0; QUOTE];
        let Ok(failure) = dgram::receive_failure(listener.fd.as_fd(), &mut payload) else { break };
        taken = true;
        let Some(peer) = failure.destination else { continue };
        let route = listener.route(&ctx.map, peer.into(), Endpoint::from(peer).addr);
        let Ok((key, None)) = route else { continue };
        if flows.find(&key).is_some() {
            report(ctx, &key, DEFAULT_TTL, &failure, payload.get(..failure.len).unwrap_or_default());
        }
    }
    let pending = ctx.listeners.get(number).and_then(|listener| host::socket_error(&listener.fd));
    taken || pending.is_some()
}

/// Passes on the errors that a flow's own socket has, or counts them where nobody can be told. Whether there were any.
pub(super) fn own<L: Link>(ctx: &mut Context<L>, key: &Key, ttl: u8, fd: &OwnedFd) -> bool {
    let mut payload = [0; QUOTE];
    let mut taken = false;
    for _ in 0..BURST {
        let Ok(failure) = dgram::receive_failure(fd.as_fd(), &mut payload) else { break };
        taken = true;
        match key.via {
            Via::Link => report(ctx, key, ttl, &failure, payload.get(..failure.len).unwrap_or_default()),
            Via::Bypass(_) => ctx.dropped(DropReason::Socket),
        }
    }
    host::socket_error(fd).is_some() || taken
}

/// Tells the guest why a datagram with (at least) `payload` was not delivered.
fn report<L: Link>(ctx: &mut Context<L>, key: &Key, ttl: u8, failure: &Failure, payload: &[u8]) {
    let quoted = quote(ctx, key, ttl, payload.len());
    host::report(ctx, key, failure, &quoted, payload);
}

/// A datagram of the guest with `len` bytes of payload.
pub(super) fn quote<L: Link>(ctx: &Context<L>, key: &Key, ttl: u8, len: usize) -> Quoted {
    let len = len + passt_proto::wire::udp::LEN;
    let [a, b] = key.guest.port.to_be_bytes();
    let [c, d] = key.remote.port.to_be_bytes();
    let [e, f] = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    let path = Path { ttl, ..ctx.path(key.guest.addr, key.remote.addr) };
    Quoted { path, protocol: protocol::UDP, transport: [a, b, c, d, e, f, 0, 0], len }
}

/// Something of the batch could not be sent at all: counts it, and tells the guest of the first.
pub(super) fn lost<L: Link>(ctx: &mut Context<L>, key: &Key, ttl: u8, loss: &Loss) {
    ctx.dropped_all(DropReason::Socket, loss.datagrams);
    let (Some(error), Some(item)) = (unreachable(loss.error), ctx.udp.batch.get(loss.item)) else {
        return;
    };
    let frame = item.index;
    let quoted = quote(ctx, key, ttl, loss.payload.len());
    let mut payload = [0; QUOTE];
    let copied = {
        let mut data = Gather::new();
        ctx.link.payload(frame, loss.payload.clone(), &mut data);
        data.copy_out(0, &mut payload)
    };
    let header = error.header(key.guest.addr.is_v4());
    ctx.icmp_error(key.remote.addr, header, &quoted, &payload[..copied]);
}
