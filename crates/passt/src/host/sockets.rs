//! Sockets in the guest's network namespace, made in advance by the thread that stays there: nothing here waits
//! for another thread. Where there is none, whoever needs one waits until the thread has made more.

use std::io;
use std::os::fd::OwnedFd;

use passt_sys::namespace::{BATCH, KINDS, Kind, Resident};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};

/// With fewer than this left, more are ordered: for datagrams as many as may come in at once.
const LOW: usize = 32;
/// No more of all descriptors are in stock than the inverse of this for each kind.
const PART: usize = 32;

/// Unconnected sockets of every kind.
#[derive(Debug)]
pub(crate) struct Sockets {
    stocks: [Stock; KINDS.len()],
    low: usize,
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
        let stock =
            |kind| Stock { kind, sockets: Vec::with_capacity(LOW + BATCH), ordered: false, failed: false };
        let low = (descriptors / PART).clamp(1, LOW);
        Self { stocks: KINDS.map(stock), low }
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
                stock.order(inside, self.low);
                least = least.min(if stock.failed { usize::MAX } else { stock.sockets.len() });
            }
        }
        least
    }

    /// A socket in the namespace.
    pub(super) fn take(&mut self, inside: &Resident, kind: Kind) -> io::Result<OwnedFd> {
        let stock = self.stocks.iter_mut().find(|stock| stock.kind == kind).ok_or(Errno::INVAL)?;
        stock.failed &= stock.ordered;
        stock.order(inside, self.low);
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

impl Stock {
    fn order(&mut self, inside: &Resident, low: usize) {
        if !self.ordered && !self.failed && self.sockets.len() < low {
            self.ordered = inside.order(self.kind);
            self.failed = !self.ordered;
        }
    }
}
