//! The tap link: a tap device in the guest's network namespace.
//!
//! With `IFF_VNET_HDR` frames are super-frames both ways, and the checksum over
//! payload is left to whoever needs it, mostly nobody. Without it (a sandbox
//! that emulates the kernel) each frame stands for itself and is complete.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_proto::drop::DropReason;
use passt_proto::wire::ethernet::MIN_FRAME;
use passt_proto::wire::offload::{self, Offload};
use passt_sys::iovec::{Gather, Scatter};
use passt_sys::tun::{Offloads, Tap, VNET_HEADER_LEN};

use super::{Caps, ClientLink, Frame, HEAD_LEN, Link, MAX_HEADERS, MAX_PAYLOAD, complete};

/// Bytes of frames that are read at most before they are dealt with: the flat
/// optimum measured lies between 256 and 512 KiB.
const BATCH_BYTES: usize = 384 * 1024;
/// Frames read at most before they are dealt with.
const BATCH_FRAMES: usize = 256;
/// Room for one frame from the guest, metadata included.
const FRAME_ROOM: usize = 65_536 + 64;
/// Where payload starts in the buffer for sending: metadata and headers end there.
const PAYLOAD_START: usize = VNET_HEADER_LEN + MAX_HEADERS;
/// Frames that wait in the device before it drops (`tx_queue_len` of a tap device).
const QUEUE_FRAMES: usize = 500;

/// A tap device as a link.
pub struct TapLink {
    tap: Tap,
    /// Frames received, metadata included, one behind the other.
    received: Vec<u8>,
    frames: Vec<Range<usize>>,
    /// The frame to be sent: metadata, headers, payload from [`PAYLOAD_START`] on.
    sending: Vec<u8>,
    mtu: usize,
}

impl TapLink {
    /// A link over `tap`, whose guest has a device of this `mtu`.
    pub fn new(tap: Tap, mtu: usize) -> Self {
        Self {
            tap,
            received: vec![0; BATCH_BYTES + FRAME_ROOM],
            frames: Vec::with_capacity(BATCH_FRAMES),
            sending: vec![0; PAYLOAD_START + MAX_PAYLOAD + MIN_FRAME],
            mtu,
        }
    }

    /// The metadata of frame `index`, and where the frame itself is.
    fn locate(&self, index: usize) -> Option<(Offload, &[u8])> {
        let bytes = self.received.get(self.frames.get(index)?.clone())?;
        if !self.tap.has_vnet_header() {
            return Some((Offload::default(), bytes));
        }
        Some((Offload::from_bytes(bytes).ok()?, bytes.get(offload::LEN..)?))
    }

    fn write(tap: &Tap, frame: &[u8]) -> Result<(), DropReason> {
        tap.write(frame).map_err(|_| DropReason::LinkWrite)
    }
}

/// A device that was handed over is a client that is there from the start.
impl ClientLink for TapLink {
    fn connect(&mut self, _: OwnedFd) {}

    fn is_connected(&self) -> bool {
        true
    }
}

impl Link for TapLink {
    fn caps(&self) -> Caps {
        let header = self.tap.has_vnet_header();
        let tso = self.tap.offloads().contains(Offloads::TSO4 | Offloads::TSO6);
        Caps {
            checksum: header,
            tcp_segmentation: header,
            udp_segmentation: header && self.tap.offloads().contains(Offloads::USO4 | Offloads::USO6),
            queue_limit: (!tso).then_some(QUEUE_FRAMES * self.mtu),
            ..Caps::PLAIN
        }
    }

    fn fd(&self, number: u32) -> Option<BorrowedFd<'_>> {
        (number == 0).then(|| self.tap.as_fd())
    }

    fn receive(&mut self, _: u32) -> io::Result<usize> {
        self.frames.clear();
        let mut end = 0;
        while !self.is_backlogged() {
            match self.tap.read(&mut self.received[end..end + FRAME_ROOM]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.frames.push(end..end + n);
                    end += n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The interface is down: nothing to read until it is up again.
                Err(e) if e.raw_os_error() == Some(5) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(self.frames.len())
    }

    fn is_backlogged(&self) -> bool {
        let end = self.frames.last().map_or(0, |frame| frame.end);
        end >= BATCH_BYTES || self.frames.len() >= BATCH_FRAMES
    }

    fn frame(&self, index: usize) -> Option<Frame<'_>> {
        let (offload, bytes) = self.locate(index)?;
        let head = bytes.get(..HEAD_LEN).unwrap_or(bytes);
        Some(Frame { head, len: bytes.len(), offload })
    }

    fn payload<'a>(&'a self, index: usize, range: Range<usize>, into: &mut Gather<'a>) -> bool {
        self.locate(index).and_then(|(_, bytes)| bytes.get(range)).is_some_and(|bytes| into.push(bytes))
    }

    fn reserve<'a>(&'a mut self, _: usize, payload: usize, _: usize, into: &mut Scatter<'a>) -> bool {
        let end = PAYLOAD_START + payload.min(MAX_PAYLOAD);
        self.sending.get_mut(PAYLOAD_START..end).is_some_and(|room| into.push(room))
    }

    fn reserved<'a>(&'a self, payload: usize, into: &mut Gather<'a>) {
        if let Some(bytes) = self.sending.get(PAYLOAD_START..PAYLOAD_START + payload) {
            into.push(bytes);
        }
    }

    fn commit(&mut self, header: &[u8], offload: &Offload, payload: usize) -> Result<(), DropReason> {
        let Self { tap, sending, .. } = self;
        if !tap.has_vnet_header() {
            return complete::frames(sending, PAYLOAD_START, payload, header, offload, |f| {
                Self::write(tap, f)
            });
        }
        let start = PAYLOAD_START.checked_sub(header.len() + offload::LEN).ok_or(DropReason::Offload)?;
        let frame = sending.get_mut(start..PAYLOAD_START + payload).ok_or(DropReason::Offload)?;
        let (metadata, rest) = frame.split_at_mut(offload::LEN);
        metadata.copy_from_slice(&offload.to_bytes());
        rest.get_mut(..header.len()).ok_or(DropReason::Offload)?.copy_from_slice(header);
        Self::write(tap, frame)
    }

    fn send(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        if !self.tap.has_vnet_header() {
            return Self::write(&self.tap, frame);
        }
        let whole = self.sending.get_mut(..offload::LEN + frame.len()).ok_or(DropReason::Offload)?;
        let (metadata, rest) = whole.split_at_mut(offload::LEN);
        metadata.copy_from_slice(&Offload::default().to_bytes());
        rest.copy_from_slice(frame);
        Self::write(&self.tap, whole)
    }
}
