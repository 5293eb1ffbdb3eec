//! Completing frames for a guest that takes nothing but plain ones: super-frames
//! are cut, checksums computed.

use passt_proto::drop::DropReason;
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::ethernet::MIN_FRAME;
use passt_proto::wire::offload::Offload;

use super::MAX_HEADERS;

/// Passes each frame that `header` and the `len` bytes of payload at `start` of
/// `buffer` make to `emit`, complete. Headers are written in front of their piece
/// of payload, over pieces that were emitted before: there must be
/// [`MAX_HEADERS`] bytes before `start`, and [`MIN_FRAME`] behind it.
pub(super) fn frames(
    buffer: &mut [u8],
    start: usize,
    len: usize,
    header: &[u8],
    offload: &Offload,
    mut emit: impl FnMut(&[u8]) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    let mut scratch = [0; MAX_HEADERS];
    let scratch = scratch.get_mut(..header.len()).ok_or(DropReason::Offload)?;
    for piece in offload.pieces(len) {
        let from = start + piece.offset;
        let end = from + piece.len;
        let payload = buffer.get(from..end).ok_or(DropReason::Offload)?;
        offload.segment_header(header, piece, scratch).ok_or(DropReason::Offload)?;
        let sum = if offload.needs_csum { Sum::new().bytes(payload) } else { Sum::new() };
        offload.finish_header(scratch, sum).ok_or(DropReason::Offload)?;
        let head = from.checked_sub(header.len()).ok_or(DropReason::Offload)?;
        buffer.get_mut(head..from).ok_or(DropReason::Offload)?.copy_from_slice(scratch);
        // Padding, as an Ethernet device would (IEEE 802.3, 4.2.3.3).
        let padded = end.max(head + MIN_FRAME);
        buffer.get_mut(end..padded).ok_or(DropReason::Offload)?.fill(0);
        emit(buffer.get(head..padded).ok_or(DropReason::Offload)?)?;
    }
    Ok(())
}
