//! Neighbours of the host, which the guest is shown with their own link-layer addresses.
//!
//! Frames that the guest sends to these are for us. What was shown once stays good: a neighbour
//! that the host forgets is not there any more, but the guest may still have its address.

use passt_proto::addr::{Addr, Mac};

/// Most neighbours that are known.
const MAX: usize = 512;

/// No station has this address.
const NONE: Mac = Mac::BROADCAST;

/// Neighbours by address.
#[derive(Debug)]
pub(crate) struct Neighbours {
    table: Vec<Neighbour>,
    /// Of those that the guest was shown, the one that it sent a frame to last.
    latest: Mac,
}

#[derive(Clone, Copy, Debug)]
struct Neighbour {
    addr: Addr,
    mac: Mac,
    /// The host knows it.
    is_there: bool,
}

impl Neighbours {
    /// None, with room for as many as there may be.
    pub(super) fn new() -> Self {
        Self { table: Vec::with_capacity(MAX), latest: NONE }
    }

    /// The link-layer address of a neighbour that is there.
    pub(super) fn mac_of(&self, addr: Addr) -> Option<Mac> {
        self.table.iter().find(|known| known.addr == addr && known.is_there).map(|known| known.mac)
    }

    /// Whether the guest may know this link-layer address from us.
    #[inline]
    pub(crate) fn has(&mut self, mac: Mac) -> bool {
        mac == self.latest || self.look_up(mac)
    }

    #[cold]
    fn look_up(&mut self, mac: Mac) -> bool {
        let is_known = !mac.is_zero() && self.table.iter().any(|known| known.mac == mac);
        if is_known {
            self.latest = mac;
        }
        is_known
    }

    /// The host's neighbour at `addr` has a link-layer address, or is there no more. Whether it had
    /// another one that the guest may know.
    pub(super) fn set(&mut self, addr: Addr, mac: Option<Mac>) -> bool {
        let known = self.table.iter_mut().find(|known| known.addr == addr);
        match (known, mac) {
            (Some(known), Some(mac)) => {
                known.is_there = true;
                self.latest = NONE;
                std::mem::replace(&mut known.mac, mac) != mac
            }
            (Some(known), None) => {
                known.is_there = false;
                false
            }
            (None, Some(mac)) => {
                self.add(Neighbour { addr, mac, is_there: true });
                false
            }
            (None, None) => false,
        }
    }

    /// Adds one, in the place of one that is gone where there are many. Without a place it is
    /// reached by our own link-layer address.
    fn add(&mut self, neighbour: Neighbour) {
        if self.table.len() < MAX {
            self.table.push(neighbour);
        } else if let Some(gone) = self.table.iter_mut().find(|known| !known.is_there) {
            *gone = neighbour;
            self.latest = NONE;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn neighbours_come_and_go() {
        let addr = |last: u16| Addr::from(Ipv4Addr::from(0xc000_0200 + u32::from(last)));
        let mac = |last: u16| Mac([2, 0, 0, 0, last.to_be_bytes()[0], last.to_be_bytes()[1]]);
        let mut all = Neighbours::new();
        assert!(!all.set(addr(1), None) && !all.has(mac(1)) && !all.has(Mac::default()));
        assert!(!all.set(addr(1), Some(mac(1))), "the guest knew none");
        assert_eq!((all.mac_of(addr(1)), all.has(mac(1)), all.has(mac(2))), (Some(mac(1)), true, false));
        assert!(!all.set(addr(1), None));
        assert_eq!((all.mac_of(addr(1)), all.has(mac(1))), (None, true), "the guest may not know yet");
        assert!(!all.set(addr(1), Some(mac(1))) && all.set(addr(1), Some(mac(2))));
        assert_eq!((all.mac_of(addr(1)), all.has(mac(1)), all.has(mac(2))), (Some(mac(2)), false, true));
        for last in 2..600 {
            all.set(addr(last), Some(mac(1000 + last)));
        }
        assert_eq!((all.table.len(), all.table.capacity()), (MAX, MAX));
        assert_eq!((all.mac_of(addr(513)), all.has(mac(1512))), (None, true));
        all.set(addr(7), None);
        all.set(addr(513), Some(mac(1513)));
        assert_eq!((all.mac_of(addr(513)), all.has(mac(1007))), (Some(mac(1513)), false));
    }
}
