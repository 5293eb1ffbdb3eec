//! Time that comes from outside.
//!
//! Nothing in this crate reads a clock: the worker reads `CLOCK_MONOTONIC`
//! once for each round of its loop and passes the value down. Tests pass
//! whatever they like.

pub use core::time::Duration;

/// A point in time, in nanoseconds of a monotonic clock with an arbitrary origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The clock's origin.
    pub const ZERO: Self = Self(0);

    /// The instant `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The instant `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole milliseconds since the origin.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Time that passed since `earlier`, zero if `earlier` is in the future.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl core::ops::Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at the end of time, 584 years after the origin.
    fn add(self, rhs: Duration) -> Self {
        let nanos = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_ends() {
        let at = Instant::from_millis(7) + Duration::from_nanos(999_999);
        assert_eq!((at.as_nanos(), at.as_millis()), (7_999_999, 7));
        assert_eq!(at.since(Instant::from_nanos(7_000_000)), Duration::from_nanos(999_999));
        assert_eq!(Instant::ZERO.since(at), Duration::ZERO);
        let end = Instant::from_nanos(u64::MAX);
        for added in [Duration::from_nanos(1), Duration::MAX] {
            assert_eq!(end + added, end);
        }
        assert_eq!(Instant::from_millis(u64::MAX), end);
    }
}
