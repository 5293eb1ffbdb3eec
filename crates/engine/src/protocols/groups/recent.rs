//! Datagrams that were sent to groups a moment ago: the kernel has them come back, as others on this
//! host are to hear them, too.
//!
//! Others may have the same port: one of the host's, or of another instance. So what comes back is
//! known by its content. Where somebody else sent the same in that moment, from there, one of both
//! is passed on, and nobody could tell which.

use std::hash::Hasher as _;

use arrayvec::ArrayVec;
use passt_proto::addr::Endpoint;
use passt_proto::time::{Duration, Instant};
use siphasher::sip::SipHasher13;

/// Datagrams that are kept in mind.
const MOST: usize = 128;
/// For how long: the kernel has them come back at once.
const KEPT: Duration = Duration::from_secs(1);
/// Bytes of a datagram that are looked at.
const LOOKED_AT: usize = 1024;

/// Datagrams sent a moment ago.
pub(crate) struct Recent {
    keys: (u64, u64),
    sent: Box<ArrayVec<(Digest, Instant), MOST>>,
}

/// What stands for a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest(u64);

impl Recent {
    pub(super) fn new([a, b, c, d]: [u64; 4]) -> Self {
        Self { keys: (a ^ c.rotate_left(29), b ^ d.rotate_left(29)), sent: Box::default() }
    }

    /// How many bytes of a datagram [`Recent::digest`] is to be given.
    pub(crate) const START: usize = LOOKED_AT;

    /// Stands for a datagram of `len` bytes that begins with `start`, to a group.
    pub(crate) fn digest(&self, to: Endpoint, start: &[u8], len: usize) -> Digest {
        let (a, b) = self.keys;
        let mut hasher = SipHasher13::new_with_keys(a, b);
        hasher.write(&to.addr.octets());
        hasher.write_u16(to.port);
        hasher.write_usize(len);
        hasher.write(start.get(..LOOKED_AT).unwrap_or(start));
        Digest(hasher.finish())
    }

    /// Whether another one can be kept in mind.
    pub(crate) fn has_room(&mut self, now: Instant) -> bool {
        self.sent.retain(|(_, until)| *until > now);
        !self.sent.is_full()
    }

    /// A datagram is sent now. Where there are too many, the oldest is forgotten: that it has not
    /// come back yet is unlikely.
    pub(crate) fn note(&mut self, digest: Digest, now: Instant) {
        if self.sent.is_full() {
            self.sent.remove(0);
        }
        self.sent.push((digest, now + KEPT));
    }

    /// Whether this is one that was sent a moment ago; it comes back once.
    pub(crate) fn take(&mut self, digest: Digest, now: Instant) -> bool {
        let sent = self.sent.iter().position(|&(known, until)| known == digest && until > now);
        sent.map(|index| self.sent.remove(index)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn each_comes_back_once() {
        let mut recent = Recent::new([1, 2, 3, 4]);
        let to = |last, port| Endpoint::new(Ipv4Addr::new(224, 0, 0, last), port);
        let now = Instant::from_millis(5000);
        let digest = recent.digest(to(251, 5353), b"hello", 5);
        for other in [
            recent.digest(to(251, 5354), b"hello", 5),
            recent.digest(to(252, 5353), b"hello", 5),
            recent.digest(to(251, 5353), b"hellp", 5),
            recent.digest(to(251, 5353), b"hello", 6),
        ] {
            recent.note(digest, now);
            assert!(!recent.take(other, now) && recent.take(digest, now) && !recent.take(digest, now));
        }
        recent.note(digest, now);
        assert!(!recent.take(digest, now + KEPT), "it is too late");
        for _ in 0..MOST {
            assert!(recent.has_room(now + KEPT));
            recent.note(digest, now + KEPT);
        }
        assert!(!recent.has_room(now + KEPT) && recent.has_room(now + KEPT + KEPT));
    }
}
