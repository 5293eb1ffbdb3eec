//! The stream link: a virtual machine behind a UNIX stream socket, as qemu's
//! `-netdev stream` speaks it. Each frame follows its length, 32 bits in network order.
//!
//! Without a client, frames for the guest are dropped and flows wait.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_proto::drop::DropReason;
use passt_proto::wire::offload::Offload;
use passt_sys::iovec::{Gather, Scatter};

use super::{Caps, Frame, Link};

/// A socket towards a virtual machine as a link.
#[derive(Default)]
pub struct StreamLink {
    client: Option<OwnedFd>,
}

impl StreamLink {
    /// A link without a client.
    pub fn new() -> Self {
        Self::default()
    }

    /// Talks to `client` from now on, a connected UNIX stream socket; nothing of an earlier
    /// client is left. [`Context::watch_link`] is to be called then.
    ///
    /// [`Context::watch_link`]: crate::worker::Context::watch_link
    pub fn connect(&mut self, client: OwnedFd) {
        self.client = Some(client);
    }

    /// Whether there is a client. There is none any more once [`Link::receive`] returned an
    /// error: `UnexpectedEof` if it left, `InvalidData` if it sent an impossible length.
    pub fn is_connected(&self) -> bool {
        self.client.is_some()
    }
}

impl Link for StreamLink {
    fn caps(&self) -> Caps {
        Caps { checksum: false, tcp_segmentation: false, udp_segmentation: false, queue_limit: None }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.client.as_ref().map(AsFd::as_fd)
    }

    fn receive(&mut self) -> io::Result<usize> {
        Ok(0)
    }

    fn frame(&self, _: usize) -> Option<Frame<'_>> {
        None
    }

    fn payload<'a>(&'a self, _: usize, _: Range<usize>, _: &mut Gather<'a>) -> bool {
        false
    }

    fn reserve<'a>(&'a mut self, _: usize, _: usize, _: usize, _: &mut Scatter<'a>) -> bool {
        false
    }

    fn reserved<'a>(&'a self, _: usize, _: &mut Gather<'a>) {}

    fn commit(&mut self, _: &[u8], _: &Offload, _: usize) -> Result<(), DropReason> {
        Err(DropReason::LinkWrite)
    }

    fn send(&mut self, _: &[u8]) -> Result<(), DropReason> {
        Err(DropReason::LinkWrite)
    }
}
