//! What the host's side sent, on its way into frames for the guest.

use passt_proto::drop::DropReason;
use passt_proto::wire::build::{MAX_HEADERS, Path};
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

/// Sends a packet of `protocol` that exceeds the guest's MTU in fragments: a transport header of at
/// most eight bytes, complete, and payload. `id` tells it from others between the two addresses.
pub(super) fn put_fragments<L: Link>(
    core: &mut Core<L>,
    path: &Path,
    (protocol, id): (u8, u32),
    transport: &[u8],
    payload: &Payload,
) {
    let before = transport.len();
    for fragment in path.fragments(before + payload.len(), core.mtu_to(path.dst)) {
        let mut header = [0; MAX_HEADERS];
        let end = path.emit_fragment(&mut header, protocol, id, &fragment);
        let Some(mut end) = end else { return core.dropped(DropReason::Unmapped) };
        if fragment.offset == 0 {
            header[end..end + before].copy_from_slice(transport);
            end += before;
        }
        let start = fragment.offset.saturating_sub(before);
        let stop = fragment.offset + fragment.len - before;
        put(core, &header[..end], &Offload::default(), [payload.part(start..stop)]);
    }
}
