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
