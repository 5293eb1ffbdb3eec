//! The inbox: what the host's side sent, on its way into frames for the guest.

use std::ops::Range;

use passt_proto::drop::DropReason;
use passt_proto::wire::offload::Offload;
use passt_sys::iovec::Scatter;

use crate::core::Core;
use crate::link::Link;

/// Sends a frame of `header` and what is `within` each of `messages`.
pub(super) fn put<L: Link>(
    core: &mut Core<L>,
    header: &[u8],
    offload: &Offload,
    messages: Range<usize>,
    within: &Range<usize>,
) {
    let total = messages.clone().map(|i| received(core, i, within).len()).sum();
    let mut done = 0;
    if total > 0 {
        let mut room = Scatter::new();
        let (link, inbox) = (&mut core.link, &core.inbox);
        if !link.reserve(header.len(), total, offload.gso_size.into(), &mut room) {
            return core.dropped_all(DropReason::LinkBusy, offload.pieces(total).count());
        }
        for (_, payload) in messages.filter_map(|i| inbox.message(i)) {
            done += room.copy_in(done, slice(payload, within));
        }
    }
    if done < total {
        return core.dropped_all(DropReason::Offload, offload.pieces(total).count());
    }
    core.commit(header, offload, total);
}

/// What is `within` the message at `index`.
pub(super) fn received<'a, L: Link>(core: &'a Core<L>, index: usize, within: &Range<usize>) -> &'a [u8] {
    core.inbox.message(index).map_or(&[], |(_, payload)| slice(payload, within))
}

/// What of `range` there is in `bytes`.
fn slice<'a>(bytes: &'a [u8], range: &Range<usize>) -> &'a [u8] {
    bytes.get(range.start..range.end.min(bytes.len())).unwrap_or_default()
}
