//! Sockets in the guest's network namespace, made in advance by the thread that stays there: nothing here waits
//! for another thread. Where there is none, whoever needs one waits until the thread has made more.

use std::io;
use std::os::fd::OwnedFd;

use passt_sys::namespace::{BATCH, KINDS, Kind, Resident};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};

/// The most sockets of a kind: a batch is ordered with fewer than 32 left, which is as many
/// as datagrams may come in at once.
const MOST: usize = 31 + BATCH;
/// No more of all descriptors are in stock than the inverse of this for each kind, but at least one.
const PART: usize = 32;

/// Unconnected sockets of every kind.
#[derive(Debug)]
pub(crate) struct Sockets {
    stocks: [Stock; KINDS.len()],
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
struct Stock {
    kind: Kind,
    sockets: Vec<OwnedFd>,
    ordered: bool,
    /// None could be made of the last order.
    failed: bool,
}

impl Sockets {
    /// For a process that may have this many descriptors.
    pub(crate) fn new(descriptors: usize) -> Self {
        let stock = |kind| Stock { kind, sockets: Vec::with_capacity(MOST), ordered: false, failed: false };
        Self { stocks: KINDS.map(stock), orders: Orders::new(descriptors) }
    }

    /// How many sockets of this type there are for everyone who comes in through a listening socket of this family. None:
    /// they are being made. Where they cannot be made nobody has to wait for them, and [`Sockets::take`] fails.
    pub(super) fn available(
        &mut self,
        inside: &Resident,
        kind: SocketType,
        listener: AddressFamily,
    ) -> usize {
        self.collect(inside);
        let mut least = usize::MAX;
        for stock in &mut self.stocks {
            // Through a socket of IPv6 clients of both come in.
            if stock.kind.kind == kind && (listener != AddressFamily::INET || stock.kind.family == listener) {
                stock.order(inside, self.orders);
                least = least.min(if stock.failed { usize::MAX } else { stock.sockets.len() });
            }
        }
        least
    }

    /// A socket in the namespace.
    pub(super) fn take(&mut self, inside: &Resident, kind: Kind) -> io::Result<OwnedFd> {
        let stock = self.stocks.iter_mut().find(|stock| stock.kind == kind).ok_or(Errno::INVAL)?;
        stock.failed &= stock.ordered;
        stock.order(inside, self.orders);
        stock.sockets.pop().ok_or(Errno::NFILE.into())
    }

    /// Takes what was ordered and is there.
    pub(crate) fn collect(&mut self, inside: &Resident) {
        while self.stocks.iter().any(|stock| stock.ordered) {
            let Some((kind, sockets)) = inside.ordered() else { return };
            if let Some(stock) = self.stocks.iter_mut().find(|stock| stock.kind == kind) {
                (stock.ordered, stock.failed) = (false, sockets.is_empty());
                stock.sockets.extend(sockets);
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

impl Stock {
    fn order(&mut self, inside: &Resident, orders: Orders) {
        if !self.ordered && !self.failed && self.sockets.len() < orders.low {
            self.ordered = inside.order(self.kind, orders.batch);
            self.failed = !self.ordered;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many descriptors there are, few of them are in stock.
    #[test]
    fn a_stock_is_a_small_part() {
        for (descriptors, most) in [(8, 1), (56, 1), (64, 2), (896, 28), (4096, 47), (1 << 20, 47)] {
            let inside = Resident::here().unwrap();
            let mut sockets = Sockets::new(descriptors);
            let mut seen = 0;
            for _ in 0..3 * most {
                for kind in [SocketType::STREAM, SocketType::DGRAM] {
                    sockets.available(&inside, kind, AddressFamily::INET6);
                }
                while sockets.stocks.iter().any(|stock| stock.ordered) {
                    sockets.collect(&inside);
                    std::thread::yield_now();
                }
                for stock in &sockets.stocks {
                    assert!((1..=most).contains(&stock.sockets.len()), "{stock:?} of {descriptors}");
                    seen = seen.max(stock.sockets.len());
                }
                for kind in KINDS {
                    sockets.take(&inside, kind).unwrap();
                }
            }
            assert!(seen > most / 2, "{seen} of {most}");
        }
    }
}
