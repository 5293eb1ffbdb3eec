//! Sockets in the guest's network namespace, made in advance by the thread that stays there:
//! nothing here waits for another thread. Where there is none, whoever needs one waits until the
//! thread has made more.

use std::io;
use std::os::fd::OwnedFd;

use passt_sys::namespace::{BATCH, KINDS, Supply};
use passt_sys::socket::Kind;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};

/// The most sockets of a kind: a batch is ordered with fewer than 32 left, which is as many
/// as datagrams may come in at once.
const MOST: usize = 31 + BATCH;
/// No more of all descriptors are in stock than the inverse of this for each kind, but at least
/// one.
const PART: usize = 32;

/// Unconnected sockets of every kind.
#[derive(Debug)]
pub(crate) struct Stock {
    shelves: [Shelf; KINDS.len()],
    orders: Orders,
}

/// When sockets are ordered, and how many: with those that are left no more than a stock may have.
#[derive(Clone, Copy, Debug)]
struct Orders {
    /// With fewer than this left.
    low: usize,
    batch: usize,
}

#[derive(Debug)]
struct Shelf {
    kind: Kind,
    sockets: Vec<OwnedFd>,
    ordered: bool,
    /// None could be made of the last order.
    failed: bool,
}

impl Stock {
    /// For a process that may have this many descriptors.
    pub(crate) fn new(descriptors: usize) -> Self {
        let shelf = |kind| Shelf { kind, sockets: Vec::with_capacity(MOST), ordered: false, failed: false };
        Self { shelves: KINDS.map(shelf), orders: Orders::new(descriptors) }
    }

    /// How many sockets of this type there are for everyone who comes in through a listening socket
    /// of this family. None: they are being made. Where they cannot be made nobody has to wait for
    /// them, and [`Stock::take`] fails.
    pub(crate) fn available(&mut self, supply: &Supply, kind: SocketType, listener: AddressFamily) -> usize {
        self.collect(supply);
        let mut least = usize::MAX;
        for shelf in &mut self.shelves {
            // Through a socket of IPv6 clients of both come in, and connections that nobody accepts
            // are tried by the other family.
            let by_both = listener != AddressFamily::INET || kind == SocketType::STREAM;
            if shelf.kind.kind == kind && (by_both || shelf.kind.family == listener) {
                shelf.order(supply, self.orders);
                least = least.min(if shelf.failed { usize::MAX } else { shelf.sockets.len() });
            }
        }
        least
    }

    /// Sockets in stock, and the most there may be.
    pub(crate) fn level(&self) -> (usize, usize) {
        let most = (self.orders.low - 1 + self.orders.batch) * self.shelves.len();
        (self.shelves.iter().map(|shelf| shelf.sockets.len()).sum(), most)
    }

    /// A socket in the namespace; `EAGAIN` while they are being made, `ENFILE` where that failed.
    pub(crate) fn take(&mut self, supply: &Supply, kind: Kind) -> io::Result<OwnedFd> {
        let shelf = self.shelves.iter_mut().find(|shelf| shelf.kind == kind).ok_or(Errno::INVAL)?;
        shelf.failed &= shelf.ordered;
        shelf.order(supply, self.orders);
        let none = if shelf.failed { Errno::NFILE } else { Errno::AGAIN };
        shelf.sockets.pop().ok_or(none.into())
    }

    /// Takes what was ordered and is there.
    pub(crate) fn collect(&mut self, supply: &Supply) {
        while self.shelves.iter().any(|shelf| shelf.ordered) {
            let Some((kind, sockets)) = supply.ordered() else { return };
            if let Some(shelf) = self.shelves.iter_mut().find(|shelf| shelf.kind == kind) {
                (shelf.ordered, shelf.failed) = (false, sockets.is_empty());
                shelf.sockets.extend(sockets);
            }
        }
    }
}

impl Orders {
    fn new(descriptors: usize) -> Self {
        let most = (descriptors / PART).clamp(1, MOST);
        let batch = most.div_ceil(2).min(BATCH);
        Self { low: most + 1 - batch, batch }
    }
}

impl Shelf {
    fn order(&mut self, supply: &Supply, orders: Orders) {
        if !self.ordered && !self.failed && self.sockets.len() < orders.low {
            let ordered = supply.order(self.kind, orders.batch);
            self.ordered = ordered.is_ok();
            // One that has much to do tells when it did some of it.
            self.failed = ordered.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock);
        }
    }
}

#[cfg(test)]
mod tests {
    use passt_sys::namespace::Resident;

    use super::*;

    /// Sockets are made of the kinds that somebody may need.
    #[test]
    fn what_is_ordered() {
        let (v4, both) = (&[AddressFamily::INET][..], &[AddressFamily::INET, AddressFamily::INET6][..]);
        for (listener, datagrams) in [(AddressFamily::INET, v4), (AddressFamily::INET6, both)] {
            for (kind, families) in [(SocketType::STREAM, both), (SocketType::DGRAM, datagrams)] {
                let inside = Resident::here().unwrap();
                let (supply, mut stock) = (inside.supply(), Stock::new(4096));
                assert_eq!(stock.available(&supply, kind, listener), 0);
                for shelf in &stock.shelves {
                    let needed = shelf.kind.kind == kind && families.contains(&shelf.kind.family);
                    assert_eq!(shelf.ordered, needed, "{listener:?} {kind:?}: {shelf:?}");
                }
            }
        }
    }

    /// However many descriptors there are, few of them are in stock.
    #[test]
    fn a_stock_is_a_small_part() {
        for (descriptors, most) in [(8, 1), (56, 1), (64, 2), (896, 28), (4096, 47), (1 << 20, 47)] {
            let inside = Resident::here().unwrap();
            let supply = inside.supply();
            let mut sockets = Stock::new(descriptors);
            let mut seen = 0;
            for _ in 0..3 * most {
                for kind in [SocketType::STREAM, SocketType::DGRAM] {
                    sockets.available(&supply, kind, AddressFamily::INET6);
                }
                while sockets.shelves.iter().any(|shelf| shelf.ordered) {
                    sockets.collect(&supply);
                    std::thread::yield_now();
                }
                for shelf in &sockets.shelves {
                    assert!((1..=most).contains(&shelf.sockets.len()), "{shelf:?} of {descriptors}");
                    seen = seen.max(shelf.sockets.len());
                }
                for kind in KINDS {
                    sockets.take(&supply, kind).unwrap();
                }
            }
            assert!(seen > most / 2, "{seen} of {most}");
        }
    }
}
