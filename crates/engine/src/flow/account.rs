//! What a flow has carried: for whoever asks, at next to no cost while it is carried.
//!
//! There is one account for each flow, so it is small. Sizes are added up where they are known
//! anyway, for a batch at once, and time is kept in coarse units.

use passt_proto::time::{Duration, Instant};

/// Where data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the guest; past the link from the client.
    Out,
    /// To the guest; past the link to the client.
    In,
}

/// What went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes of payload.
    pub bytes: u64,
    /// TCP: frames with payload, of which a super-frame is one. UDP: datagrams. Pings: messages.
    pub units: u64,
}

/// The account of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    ways: [Carried; 2],
    begun: Stamp,
    used: Stamp,
}

/// A time in units of 2²⁶ ns, a sixteenth of a second: enough of them for nine years.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(u32);

impl Account {
    /// Of a flow that begins.
    pub(crate) fn new(now: Instant) -> Self {
        let now = Stamp::from(now);
        Self { ways: [Carried::default(); 2], begun: now, used: now }
    }

    /// Payload went one way.
    #[inline]
    pub(crate) fn carried(&mut self, way: Direction, units: usize, bytes: usize, now: Instant) {
        let of = &mut self.ways[way as usize];
        of.units = of.units.wrapping_add(units as u64);
        of.bytes = of.bytes.wrapping_add(bytes as u64);
        self.used = now.into();
    }

    /// What went one way so far.
    pub(crate) fn of(&self, way: Direction) -> Carried {
        self.ways[way as usize]
    }

    /// How long ago the flow began, to a sixteenth of a second.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        self.begun.until(now)
    }

    /// How long ago it carried payload, or began.
    pub(crate) fn idle(&self, now: Instant) -> Duration {
        self.used.until(now)
    }
}

impl Stamp {
    const SHIFT: u32 = 26;

    /// The time that has passed.
    fn until(self, now: Instant) -> Duration {
        let units = Self::from(now).0.wrapping_sub(self.0);
        Duration::from_nanos(u64::from(units) << Self::SHIFT)
    }
}

impl From<Instant> for Stamp {
    #[expect(clippy::cast_possible_truncation, reason = "differences count")]
    fn from(time: Instant) -> Self {
        Self((time.as_nanos() >> Self::SHIFT) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_carried_and_when() {
        let at = |seconds: u64| Instant::from_millis(seconds * 1000);
        // Across the end of the units as well.
        for start in [1, (u64::from(u32::MAX) << Stamp::SHIFT) / 1_000_000_000 - 5] {
            let mut account = Account::new(at(start));
            account.carried(Direction::Out, 2, 3000, at(start + 10));
            account.carried(Direction::In, 1, 500, at(start + 12));
            account.carried(Direction::In, 1, 0, at(start + 12));
            assert_eq!(account.of(Direction::Out), Carried { bytes: 3000, units: 2 });
            assert_eq!(account.of(Direction::In), Carried { bytes: 500, units: 2 });
            let about = |time: Duration, seconds: u64| {
                time.as_millis().abs_diff(u128::from(seconds) * 1000) <= 1 << 7
            };
            assert!(about(account.age(at(start + 20)), 20), "{:?}", account.age(at(start + 20)));
            assert!(about(account.idle(at(start + 20)), 8), "{:?}", account.idle(at(start + 20)));
        }
    }

    #[test]
    fn an_account_is_small() {
        assert_eq!(size_of::<Account>(), 40);
    }
}
