//! Completing frames for a guest that takes nothing but plain ones: super-frames
//! are cut, checksums computed.

use passt_proto::drop::DropReason;
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::ethernet::MIN_FRAME;
use passt_proto::wire::offload::{Offload, Piece};

/// Passes each frame that `header` and the `len` bytes of payload at `start` of
/// `buffer` make to `emit`, complete. Headers are written in front of their piece
/// of payload, over pieces that were emitted before: there must be
/// [`super::MAX_HEADERS`] bytes before `start`, and [`MIN_FRAME`] behind it.
pub(super) fn frames(
    buffer: &mut [u8],
    start: usize,
    len: usize,
    header: &[u8],
    offload: &Offload,
    mut emit: impl FnMut(&[u8]) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    for piece in offload.pieces(len) {
        let from = start + piece.offset;
        let head = from.checked_sub(header.len()).ok_or(DropReason::Offload)?;
        let end = (from + piece.len).max(head + MIN_FRAME);
        let bytes = buffer.get_mut(head..end).ok_or(DropReason::Offload)?;
        frame(bytes, header, offload, piece).ok_or(DropReason::Offload)?;
        emit(bytes)?;
    }
    Ok(())
}

/// Completes one frame, which has room for headers at its start, its payload behind that, and
/// whatever it has behind that becomes padding, as an Ethernet device would add it
/// (IEEE 802.3, 4.2.3.3). `None` if the metadata contradict the headers.
pub(super) fn frame(frame: &mut [u8], header: &[u8], offload: &Offload, piece: Piece) -> Option<()> {
    let (head, rest) = frame.split_at_mut_checked(header.len())?;
    let (payload, padding) = rest.split_at_mut_checked(piece.len)?;
    offload.segment_header(header, piece, head)?;
    let sum = if offload.needs_csum { Sum::new().bytes(payload) } else { Sum::new() };
    offload.finish_header(head, sum)?;
    padding.fill(0);
    Some(())
}
