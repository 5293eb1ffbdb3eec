//! Where copies of frames go, if anywhere: what the engine tells a recorder.
//!
//! Not here: formats and files.

use passt_proto::time::Instant;
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::offload::Offload;
use passt_sys::iovec::Gather;

/// Gets each frame of the link, in both directions. All workers have the same, and none waits for
/// another there.
pub trait Capture: Send + Sync {
    /// Records one frame, from its Ethernet header on: `head` and what follows it. The worker waits
    /// for this to return.
    fn record(&self, now: Instant, head: &[u8], rest: &Gather<'_>);

    /// Frames that could not be recorded.
    fn lost(&self) -> u64;
}

/// Bytes at the start of a frame in which there is its checksum, if one is to be completed.
pub(crate) const HEADERS: usize = 256;
/// Bytes that are summed at once.
const CHUNK: usize = 4096;

/// Records a frame as if nothing of it was left to a device: its checksum is completed in what is
/// recorded. A super-frame is one long packet, with a checksum over all of it.
#[cold]
pub(crate) fn record(
    capture: &dyn Capture,
    now: Instant,
    (head, rest): (&[u8], &Gather<'_>),
    offload: &Offload,
) {
    let mut copy = [0; HEADERS];
    match copy.get_mut(..head.len()).filter(|_| offload.needs_csum) {
        Some(copy) => {
            copy.copy_from_slice(head);
            // Metadata of a guest may name no place in these headers: then the frame is as it came.
            let _ = offload.finish_header(copy, sum(rest));
            capture.record(now, copy, rest);
        }
        None => capture.record(now, head, rest),
    }
}

/// The sum of bytes that others may be able to change.
fn sum(bytes: &Gather<'_>) -> Sum {
    let (mut sum, mut chunk, mut at) = (Sum::new(), [0; CHUNK], 0);
    loop {
        let count = bytes.copy_out(at, &mut chunk);
        if count == 0 {
            return sum;
        }
        sum = sum.bytes(&chunk[..count]);
        at += count;
    }
}
