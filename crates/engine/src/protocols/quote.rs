//! What the kernel quotes of a message in an error: kept in a block of the pool until the guest was
//! told.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use passt_sys::dgram::{self, Failure, Origin};
use rustix::io::Errno;

use crate::core::{Core, Payload, Storage};
use crate::link::Link;

/// Room for a quotation. Without a block of the pool nothing is quoted.
#[must_use = "it is to be given back"]
pub(crate) struct Quote {
    block: Option<u16>,
    /// The destination that a message was too big for, by the host's own kernel, in the entry
    /// before.
    too_big: Cell<Option<SocketAddr>>,
}

impl Quote {
    pub(crate) fn new<L: Link>(core: &mut Core<L>) -> Self {
        Self { block: core.pool.take(), too_big: Cell::new(None) }
    }

    pub(crate) fn give_back<L: Link>(self, core: &mut Core<L>) {
        if let Some(block) = self.block {
            core.pool.give_back(block);
        }
    }

    /// Takes the oldest entry of a socket's error queue, and what it quotes, which stays until the
    /// next one. Of entries about what the kernel refused to send as it is too big, one after the
    /// other, there is one for each message and attempt: the first of them says it all.
    pub(crate) fn receive<L: Link>(
        &self,
        core: &mut Core<L>,
        fd: BorrowedFd<'_>,
    ) -> Option<(Failure, Payload)> {
        let failure = loop {
            let room = self.block.map(|block| core.pool.bytes_mut(block)).unwrap_or_default();
            let failure = dgram::receive_failure(fd, room).ok()?;
            let refused = failure.origin == Origin::Host && failure.errno == Errno::MSGSIZE.raw_os_error();
            let too_big = failure.destination.filter(|_| refused);
            if self.too_big.replace(too_big).is_none_or(|before| Some(before) != too_big) {
                break failure;
            }
        };
        let payload = self.block.map_or(Payload::NONE, |block| Storage::Block(block).piece(0..failure.len));
        Some((failure, payload))
    }
}
