//! A link in memory, for tests and fuzzing: frames go in and come out as values.
//!
//! It can claim any [`Caps`], so that the completed and the offloaded path of
//! everything above are both driven with no device and no privilege.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use passt_proto::drop::DropReason;
use passt_proto::wire::ethernet::MIN_FRAME;
use passt_proto::wire::offload::Offload;
use passt_sys::iovec::{Gather, Scatter};

use super::{Caps, Frame, HEAD_LEN, Link, MAX_HEADERS, MAX_PAYLOAD, complete};

/// Frames of earlier batches that are kept, but for those of the last.
const SPENT: usize = 4096;

/// A frame with its metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The whole frame.
    pub bytes: Vec<u8>,
    /// What is left to do to it.
    pub offload: Offload,
}

impl From<Vec<u8>> for Packet {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, offload: Offload::default() }
    }
}

/// The link.
pub struct Channel {
    /// What it claims to do by itself, which may be changed at any time.
    pub caps: Caps,
    /// What the guest sent and the engine has not received yet.
    pub from_guest: VecDeque<Packet>,
    /// What the engine sent.
    pub to_guest: VecDeque<Packet>,
    batch: Vec<Packet>,
    /// Earlier batches, up to some thousand frames, for whoever counts the engine's instructions to
    /// clear: to free them is no work of the engine's, and costs now more and now less.
    pub spent: Vec<Packet>,
    /// Frames received at once, at most.
    pub batch_limit: usize,
    /// It takes no payload that can wait elsewhere.
    pub congested: bool,
    sending: Vec<u8>,
}

impl Channel {
    /// An empty link that claims `caps`.
    pub fn new(caps: Caps) -> Self {
        Self {
            caps,
            from_guest: VecDeque::new(),
            to_guest: VecDeque::new(),
            batch: Vec::new(),
            spent: Vec::new(),
            batch_limit: usize::MAX,
            congested: false,
            sending: vec![0; MAX_HEADERS + MAX_PAYLOAD + MIN_FRAME],
        }
    }

    /// A link that offloads nothing: every frame is plain.
    pub fn plain() -> Self {
        Self::new(Caps::PLAIN)
    }
}

impl Link for Channel {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn fd(&self, _: u32) -> Option<BorrowedFd<'_>> {
        None
    }

    fn receive(&mut self, _: u32) -> io::Result<usize> {
        if self.spent.len() > SPENT {
            self.spent.clear();
        }
        self.spent.append(&mut self.batch);
        let count = self.from_guest.len().min(self.batch_limit);
        self.batch.extend(self.from_guest.drain(..count));
        Ok(count)
    }

    fn is_backlogged(&self) -> bool {
        self.batch.len() == self.batch_limit
    }

    fn is_congested(&self) -> bool {
        self.congested
    }

    fn frame(&self, index: usize) -> Option<Frame<'_>> {
        let packet = self.batch.get(index)?;
        let head = packet.bytes.get(..HEAD_LEN).unwrap_or(&packet.bytes);
        Some(Frame { head, len: packet.bytes.len(), offload: packet.offload })
    }

    fn payload<'a>(&'a self, index: usize, range: Range<usize>, into: &mut Gather<'a>) -> bool {
        self.batch.get(index).and_then(|p| p.bytes.get(range)).is_some_and(|bytes| into.push(bytes))
    }

    fn reserve<'a>(&'a mut self, _: usize, payload: usize, _: usize, into: &mut Scatter<'a>) -> bool {
        let end = MAX_HEADERS + payload.min(MAX_PAYLOAD);
        self.sending.get_mut(MAX_HEADERS..end).is_some_and(|room| into.push(room))
    }

    fn reserved<'a>(&'a self, payload: usize, into: &mut Gather<'a>) {
        if let Some(bytes) = self.sending.get(MAX_HEADERS..MAX_HEADERS + payload) {
            into.push(bytes);
        }
    }

    fn commit(&mut self, header: &[u8], offload: &Offload, payload: usize) -> Result<(), DropReason> {
        let Self { caps, to_guest, sending, .. } = self;
        if caps.checksum {
            let payload = sending.get(MAX_HEADERS..MAX_HEADERS + payload).ok_or(DropReason::Offload)?;
            to_guest.push_back(Packet { bytes: [header, payload].concat(), offload: *offload });
            return Ok(());
        }
        complete::frames(sending, MAX_HEADERS, payload, header, offload, |frame| {
            to_guest.push_back(frame.to_vec().into());
            Ok(())
        })
    }

    fn send(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        self.to_guest.push_back(frame.to_vec().into());
        Ok(())
    }
}
