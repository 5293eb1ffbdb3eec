//! The retransmission timeout from measured round trips (RFC 6298).

use crate::time::Duration;

/// Below this a delayed acknowledgement of the guest (Linux: up to 200 ms)
/// would be taken for a loss; Linux has the same minimum (`TCP_RTO_MIN`).
const MIN: Duration = Duration::from_millis(200);
/// RFC 6298, (2.1).
const INITIAL: Duration = Duration::from_secs(1);
/// RFC 6298, (2.5); Linux's `TCP_RTO_MAX`.
const MAX: Duration = Duration::from_secs(120);

/// Round-trip time of the link and what follows from it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rtt {
    /// Smoothed round trip and its variation.
    smoothed: Option<(Duration, Duration)>,
    /// Doublings since the last answer.
    backoff: u32,
}

impl Rtt {
    /// Takes a measurement: RFC 6298, (2.2) and (2.3).
    pub(super) fn sample(&mut self, rtt: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => (rtt, rtt / 2),
            Some((srtt, rttvar)) => ((srtt * 7 + rtt) / 8, (rttvar * 3 + srtt.abs_diff(rtt)) / 4),
        });
    }

    /// The smoothed round trip, if one was measured.
    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.smoothed.map(|(srtt, _)| srtt)
    }

    /// The guest answered: forget the doublings.
    pub(super) fn answered(&mut self) {
        self.backoff = 0;
    }

    /// Nothing came in time: RFC 6298, (5.5).
    pub(super) fn back_off(&mut self) {
        self.backoff = (self.backoff + 1).min(16);
    }

    /// The timeout now.
    pub(super) fn timeout(&self) -> Duration {
        let base = self.smoothed.map_or(INITIAL, |(srtt, rttvar)| srtt + rttvar * 4);
        base.clamp(MIN, MAX).saturating_mul(1 << self.backoff).min(MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_rfc_6298() {
        let ms = Duration::from_millis;
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(), ms(1000));
        rtt.sample(ms(400));
        assert_eq!(rtt.timeout(), ms(400 + 4 * 200));
        rtt.back_off();
        assert_eq!(rtt.timeout(), ms(2400));
        rtt.answered();
        // SRTT 7/8 of 400 and 1/8 of 800; RTTVAR 3/4 of 200 and 1/4 of the difference.
        rtt.sample(ms(800));
        assert_eq!(rtt.timeout(), ms(450 + 4 * 250));
        for _ in 0..100 {
            rtt.sample(ms(1));
        }
        assert_eq!(rtt.timeout(), MIN);
        for _ in 0..40 {
            rtt.back_off();
        }
        assert_eq!(rtt.timeout(), MAX);
    }
}
