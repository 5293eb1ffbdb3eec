//! Sockets in the guest's network namespace, made in advance by the thread that stays there: a
//! connection should not wait for another thread.

use std::io;
use std::os::fd::OwnedFd;

use passt_sys::namespace::{BATCH, Resident};
use rustix::net::AddressFamily;

/// With fewer than this left, more are ordered.
const LOW: usize = BATCH / 2;

/// Unconnected TCP sockets of both families.
#[derive(Debug)]
pub(super) struct Sockets {
    v4: Stock,
    v6: Stock,
}

#[derive(Debug)]
struct Stock {
    family: AddressFamily,
    sockets: Vec<OwnedFd>,
    ordered: bool,
}

impl Sockets {
    pub(super) fn new() -> Self {
        let stock = |family| Stock { family, sockets: Vec::with_capacity(LOW + BATCH), ordered: false };
        Self { v4: stock(AddressFamily::INET), v6: stock(AddressFamily::INET6) }
    }

    /// A socket in the namespace, for IPv4 or not.
    pub(super) fn take(&mut self, inside: &Resident, v4: bool) -> io::Result<OwnedFd> {
        self.collect(inside, false);
        let stock = if v4 { &mut self.v4 } else { &mut self.v6 };
        if !stock.ordered && stock.sockets.len() < LOW {
            stock.ordered = inside.order_streams(stock.family);
        }
        if let Some(socket) = stock.sockets.pop() {
            return Ok(socket);
        }
        self.collect(inside, true);
        let stock = if v4 { &mut self.v4 } else { &mut self.v6 };
        if let Some(socket) = stock.sockets.pop() {
            return Ok(socket);
        }
        // The order was one for the other family.
        let family = stock.family;
        inside.run(move || passt_sys::namespace::stream(family))?
    }

    /// Takes what was ordered, if it is there, or waits for it.
    fn collect(&mut self, inside: &Resident, wait: bool) {
        if !self.v4.ordered && !self.v6.ordered {
            return;
        }
        if let Some((family, sockets)) = inside.streams(wait) {
            let stock = if family == AddressFamily::INET { &mut self.v4 } else { &mut self.v6 };
            stock.ordered = false;
            stock.sockets.extend(sockets);
        }
    }
}
