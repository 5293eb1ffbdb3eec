//! The monotonic clock.

use passt_proto::time::Instant;

/// The time now. The worker reads it once a round and hands it down; only a log line, which may
/// come from anywhere, reads it for itself.
#[expect(clippy::disallowed_methods, reason = "the one place where the clock is read")]
pub fn clock() -> Instant {
    Instant::ZERO + passt_sys::clock::monotonic()
}
