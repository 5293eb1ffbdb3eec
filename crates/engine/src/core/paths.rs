//! Paths to the guest's addresses that take less than its link does: behind the guest there may be
//! networks of their own.

use arrayvec::ArrayVec;
use passt_proto::addr::Addr;
use passt_proto::time::{Duration, Instant};

/// How long what is known is believed, as Linux's `net.ipv4.route.mtu_expires` (RFC 1191, section
/// 6.3).
const EXPIRY: Duration = Duration::from_secs(600);
/// Most addresses that something is known of.
const MAX: usize = 16;

/// What is known of paths.
#[derive(Debug, Default)]
pub(crate) struct Paths(ArrayVec<PathMtu, MAX>);

/// The MTU of the path to an address.
#[derive(Clone, Copy, Debug)]
struct PathMtu {
    addr: Addr,
    mtu: u16,
    until: Instant,
}

impl Paths {
    /// The MTU of the path to `addr`, if that is known to be less than the link's was.
    #[inline]
    pub(crate) fn mtu(&self, addr: Addr, now: Instant) -> Option<u16> {
        self.0.iter().find(|path| path.addr == addr && path.until > now).map(|path| path.mtu)
    }

    /// Believes that the path to `addr` takes packets of `mtu` bytes at most. Where too much is
    /// known, what is forgotten soonest makes room.
    pub(crate) fn bound(&mut self, addr: Addr, mtu: u16, now: Instant) {
        self.0.retain(|path| path.addr != addr && path.until > now);
        if self.0.is_full() {
            // Each is put behind those that were before.
            self.0.remove(0);
        }
        self.0.push(PathMtu { addr, mtu, until: now + EXPIRY });
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_is_known_and_for_how_long() {
        let addr = |n| Addr::from(Ipv4Addr::new(192, 0, 2, n));
        let at = |seconds: u64| Instant::from_millis(seconds * 1000);
        let mut paths = Paths::default();
        assert_eq!(paths.mtu(addr(1), at(1)), None);
        paths.bound(addr(1), 1400, at(1));
        paths.bound(addr(2), 1300, at(2));
        for (n, seconds, mtu) in
            [(1, 1, Some(1400)), (1, 600, Some(1400)), (1, 601, None), (2, 601, Some(1300)), (3, 1, None)]
        {
            assert_eq!(paths.mtu(addr(n), at(seconds)), mtu, "{n} after {seconds} s");
        }
        paths.bound(addr(1), 1200, at(100));
        assert_eq!((paths.mtu(addr(1), at(650)), paths.0.len()), (Some(1200), 2));
        for n in 3..=18 {
            paths.bound(addr(n), 1000, at(200));
        }
        let known = |n| paths.mtu(addr(n), at(201)).is_some();
        assert_eq!((known(1), known(2), known(3), known(18)), (false, false, true, true));
    }
}
