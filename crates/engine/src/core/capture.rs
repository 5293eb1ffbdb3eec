//! Where copies of frames go, if anywhere: what the engine tells a recorder.
//!
//! Not here: formats and files.

use passt_proto::time::Instant;
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
