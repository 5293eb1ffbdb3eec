//! What the host tells of datagrams that did not arrive: the guest hears of its own by ICMP, as
//! from a router or the destination; the rest is counted.

use std::os::fd::BorrowedFd;

use passt_proto::drop::DropReason;
use passt_proto::wire::build::Path;
use passt_proto::wire::ip::protocol;
use passt_proto::wire::report::Quoted;
use passt_sys::dgram::Failure;

use super::send::Loss;
use super::{BURST, UdpFlow};
use crate::core::icmp::unreachable;
use crate::core::{Core, Payload};
use crate::flow::{Key, Via};
use crate::link::Link;
use crate::protocols::quote::Quote;
use crate::protocols::socket::socket_error;

impl UdpFlow {
    /// Tells the guest that a datagram with (at least) `payload` did not arrive.
    pub(crate) fn undelivered<L: Link>(
        &self,
        core: &mut Core<L>,
        key: &Key,
        failure: &Failure,
        payload: &Payload,
    ) {
        let path = self.path_from_guest(core, key);
        report(core, key, &path, failure, payload);
    }
}

/// Passes on the errors that a flow's own socket has, or counts them where nobody can be told.
/// Whether there were any.
pub(super) fn own<L: Link>(core: &mut Core<L>, key: &Key, path: &Path, fd: BorrowedFd<'_>) -> bool {
    let quote = Quote::new(core);
    let mut taken = false;
    for _ in 0..BURST {
        let Some((failure, payload)) = quote.receive(core, fd) else { break };
        taken = true;
        match key.via {
            Via::Link => report(core, key, path, &failure, &payload),
            Via::Bypass(_) => core.dropped(DropReason::Socket),
        }
    }
    quote.give_back(core);
    socket_error(fd).is_some() || taken
}

/// Tells the guest why a datagram with (at least) `payload` was not delivered.
fn report<L: Link>(core: &mut Core<L>, key: &Key, path: &Path, failure: &Failure, payload: &Payload) {
    let quoted = quote(key, path, payload.len());
    core.report(failure, &quoted, payload);
}

/// A datagram of the guest with `len` bytes of payload.
pub(super) fn quote(key: &Key, path: &Path, len: usize) -> Quoted {
    let len = len + passt_proto::wire::udp::LEN;
    let [a, b] = key.guest.port.to_be_bytes();
    let [c, d] = key.remote.port.to_be_bytes();
    let [e, f] = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    Quoted { path: *path, protocol: protocol::UDP, transport: [a, b, c, d, e, f, 0, 0], len }
}

/// Something of the batch could not be sent at all: counts it, and tells the guest of the first.
pub(super) fn lost<L: Link>(core: &mut Core<L>, key: &Key, path: &Path, loss: &Loss) {
    core.dropped_all(DropReason::Socket, loss.datagrams);
    let Some(error) = unreachable(loss.error) else { return };
    let quoted = quote(key, path, loss.payload.len());
    core.icmp_error(key.remote.addr, error.header(key.guest.addr.is_v4()), &quoted, &loss.payload);
}
