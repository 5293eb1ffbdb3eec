//! Sockets in the guest's network namespace, made in advance by the thread that stays there: a
//! connection should not wait for another thread.

use std::io;
use std::os::fd::OwnedFd;

use passt_sys::namespace::{BATCH, KINDS, Kind, Resident};
use rustix::io::Errno;

/// With fewer than this left, more are ordered.
const LOW: usize = BATCH / 2;

/// Unconnected sockets of every kind.
#[derive(Debug)]
pub(crate) struct Sockets([Stock; KINDS.len()]);

#[derive(Debug)]
struct Stock {
    kind: Kind,
    sockets: Vec<OwnedFd>,
    ordered: bool,
}

impl Sockets {
    pub(crate) fn new() -> Self {
        Self(KINDS.map(|kind| Stock { kind, sockets: Vec::with_capacity(LOW + BATCH), ordered: false }))
    }

    /// A socket in the namespace.
    pub(super) fn take(&mut self, inside: &Resident, kind: Kind) -> io::Result<OwnedFd> {
        self.collect(inside, false);
        // What comes first may have been ordered for others.
        for _ in 0..=KINDS.len() {
            let stock = self.0.iter_mut().find(|stock| stock.kind == kind).ok_or(Errno::INVAL)?;
            if !stock.ordered && stock.sockets.len() < LOW {
                stock.ordered = inside.order(kind);
            }
            if let Some(socket) = stock.sockets.pop() {
                return Ok(socket);
            }
            self.collect(inside, true);
        }
        Err(Errno::NFILE.into())
    }

    /// Takes what was ordered, if it is there, or waits for it.
    fn collect(&mut self, inside: &Resident, wait: bool) {
        if !self.0.iter().any(|stock| stock.ordered) {
            return;
        }
        if let Some((kind, sockets)) = inside.ordered(wait)
            && let Some(stock) = self.0.iter_mut().find(|stock| stock.kind == kind)
        {
            stock.ordered = false;
            stock.sockets.extend(sockets);
        }
    }
}
