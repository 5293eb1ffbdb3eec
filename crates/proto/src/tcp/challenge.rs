//! Challenge acknowledgements (RFC 5961): what is to be sent when a segment claims something that
//! it cannot prove.

use crate::time::{Duration, Instant};

/// Least time between two of a connection (RFC 5961, section 7), as Linux's
/// `tcp_invalid_ratelimit`. Without it, two ends that do not agree would answer each other without
/// end.
const INTERVAL: Duration = Duration::from_millis(500);

/// Limits how often a connection challenges its peer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Challenge {
    /// When the next may be sent.
    next: Option<Instant>,
}

impl Challenge {
    /// Whether to send one now; if so it counts as sent.
    pub(super) fn is_allowed(&mut self, now: Instant) -> bool {
        let allowed = self.next.is_none_or(|next| next <= now);
        if allowed {
            self.next = Some(now + INTERVAL);
        }
        allowed
    }
}
