//! The guest asks whether its peer is there, and the host's kernel asks on its behalf: whatever has
//! state on the way sees the connection used, and the guest is not told that somebody is there who
//! may not be.

use std::os::fd::{AsFd as _, OwnedFd};

use passt_proto::time::Duration;
use passt_sys::socket;

/// Most seconds between questions that are not answered, as Linux's `tcp_keepalive_intvl`.
const MAX_PAUSE: u64 = 75;
/// Such questions for each that the guest asks.
const SHARE: u64 = 4;

/// What the host's kernel was told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeepAlive {
    /// Seconds of silence after which it asks; 0 while that is its own affair.
    idle: u16,
    /// The guest was not answered last: how soon it asks again says nothing.
    unanswered: bool,
}

impl KeepAlive {
    /// The guest asks, and does so at this interval. Whether the host's peer is there, as far as is
    /// known: of two questions in a row the peer answered one. A single one may be under way.
    pub(super) fn asked(&mut self, fd: &OwnedFd, interval: Duration) -> bool {
        let is_there = socket::unanswered_probes(fd.as_fd()).is_ok_and(|probes| probes < 2);
        if is_there && !self.unanswered {
            self.follow(fd, interval);
        }
        self.unanswered = !is_there;
        is_there
    }

    /// Has the kernel ask at this interval, and at once if the peer was silent for as long. It asks
    /// more often while there is no answer, so that the guest's next question is answered, or not,
    /// by what is known then; and gives up much later than guests do, as that is their decision.
    fn follow(&mut self, fd: &OwnedFd, interval: Duration) {
        let seconds = (interval + Duration::from_millis(500)).as_secs();
        let idle = u16::try_from(seconds).unwrap_or(u16::MAX);
        // Timers are not exact.
        if self.idle.abs_diff(idle) <= self.idle / 8 {
            return;
        }
        let pause = (seconds / SHARE).clamp(1, MAX_PAUSE);
        if socket::set_keepalive(fd.as_fd(), idle.into(), u32::try_from(pause).unwrap_or(1)).is_ok() {
            self.idle = idle;
        }
    }
}
