//! No link: all there is bypasses it (`--splice-only`). Nothing arrives, and nothing is sent.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use passt_proto::drop::DropReason;
use passt_proto::wire::offload::Offload;
use passt_sys::iovec::{Gather, Scatter};

use super::{Caps, Frame, Link};

/// The absence of a link.
#[derive(Debug)]
pub struct NoLink;

impl Link for NoLink {
    fn caps(&self) -> Caps {
        Caps::ALL
    }

    fn fd(&self, _: u32) -> Option<BorrowedFd<'_>> {
        None
    }

    fn receive(&mut self, _: u32) -> io::Result<usize> {
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
        Ok(())
    }
}
