//! What the host's side sent, on its way into frames for the guest.

use passt_proto::drop::DropReason;
use passt_proto::wire::offload::Offload;
use passt_sys::iovec::Scatter;

use crate::core::payload::own;
use crate::core::{Core, Payload};
use crate::link::Link;

/// Sends a frame of `header` and some payload that lies in memory of our own.
pub(super) fn put<L: Link>(
    core: &mut Core<L>,
    header: &[u8],
    offload: &Offload,
    parts: impl IntoIterator<Item = Payload> + Clone,
) {
    let total = parts.clone().into_iter().map(|part| part.len()).sum();
    let mut done = 0;
    if total > 0 {
        let mut room = Scatter::new();
        let Core { link, inbox, pool, .. } = core;
        if !link.reserve(header.len(), total, offload.gso_size.into(), &mut room) {
            return core.dropped_all(DropReason::LinkBusy, offload.pieces(total).count());
        }
        for part in parts {
            done += room.copy_in(done, own(inbox, pool, &part).unwrap_or_default());
        }
    }
    if done < total {
        return core.dropped_all(DropReason::Offload, offload.pieces(total).count());
    }
    core.commit(header, offload, total);
}
