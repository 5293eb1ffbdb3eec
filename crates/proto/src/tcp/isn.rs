//! Initial sequence numbers that an outsider cannot guess (RFC 6528).

use core::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

use crate::addr::Endpoint;
use crate::seq::Seq;
use crate::time::Instant;

/// The secret key of the numbers' hash.
#[derive(Clone, Copy)]
pub struct IsnSecret(pub u64, pub u64);

impl IsnSecret {
    /// The initial number of a connection between two endpoints: RFC 6528,
    /// section 3, a hash over the endpoints plus a clock that ticks every 4 µs.
    #[expect(clippy::cast_possible_truncation, reason = "a sequence number is the low half of both")]
    pub fn initial(self, a: Endpoint, b: Endpoint, now: Instant) -> Seq {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        (a, b).hash(&mut hasher);
        Seq((hasher.finish() as u32).wrapping_add((now.as_nanos() / 4000) as u32))
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;
    use core::time::Duration;

    use super::*;

    #[test]
    fn numbers_depend_on_key_and_endpoints_and_tick_with_the_clock() {
        let (a, b) = (Endpoint::new(Ipv4Addr::LOCALHOST, 1), Endpoint::new(Ipv4Addr::LOCALHOST, 2));
        let now = Instant::from_millis(5);
        let first = IsnSecret(1, 2).initial(a, b, now);
        assert_eq!(IsnSecret(1, 2).initial(a, b, now), first);
        for other in [
            IsnSecret(1, 3).initial(a, b, now),
            IsnSecret(2, 2).initial(a, b, now),
            IsnSecret(1, 2).initial(b, a, now),
            IsnSecret(1, 2).initial(a, a, now),
        ] {
            assert!(other.distance(first).min(first.distance(other)) > 1 << 16, "{first:?} {other:?}");
        }
        for (later, ticks) in [(3999, 0), (4000, 1), (4_000_000, 1000)] {
            let number = IsnSecret(1, 2).initial(a, b, now + Duration::from_nanos(later));
            assert_eq!(number, first + ticks, "after {later} ns");
        }
    }
}
