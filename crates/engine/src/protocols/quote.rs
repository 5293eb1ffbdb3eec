//! What the kernel quotes of a message in an error: kept in a block of the pool until the guest was
//! told.

use std::os::fd::BorrowedFd;

use passt_sys::dgram::{self, Failure};

use crate::core::{Core, Payload, Storage};
use crate::link::Link;

/// Room for a quotation. Without a block of the pool nothing is quoted.
#[must_use = "it is to be given back"]
pub(crate) struct Quote(Option<u16>);

impl Quote {
    pub(crate) fn new<L: Link>(core: &mut Core<L>) -> Self {
        Self(core.pool.take())
    }

    pub(crate) fn give_back<L: Link>(self, core: &mut Core<L>) {
        if let Some(block) = self.0 {
            core.pool.give_back(block);
        }
    }

    /// Takes the oldest entry of a socket's error queue, and what it quotes, which stays until the
    /// next one.
    pub(crate) fn receive<L: Link>(
        &self,
        core: &mut Core<L>,
        fd: BorrowedFd<'_>,
    ) -> Option<(Failure, Payload)> {
        let room = self.0.map(|block| core.pool.bytes_mut(block)).unwrap_or_default();
        let failure = dgram::receive_failure(fd, room).ok()?;
        let payload = self.0.map_or(Payload::NONE, |block| Storage::Block(block).piece(0..failure.len));
        Some((failure, payload))
    }
}
