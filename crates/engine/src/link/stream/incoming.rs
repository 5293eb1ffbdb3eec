//! What was received: frames where they lie, and the start of the next.

use std::ops::Range;
use std::{io, iter, mem};

use passt_proto::wire::ethernet;
use passt_proto::wire::stream::{BadLength, Framing, MAX_FRAME, PREFIX};
use passt_sys::iovec::Scatter;

use super::client::Client;
use crate::link::MAX_BATCH;

/// Bytes read at most before they are dealt with, as for the tap link.
const BATCH_BYTES: usize = 384 * 1024;
/// Messages read at most before they are dealt with, as for the tap link.
const BATCH_MESSAGES: usize = 256;
/// Room for a batch, and for the start of a frame left over from the last.
const ROOM: usize = BATCH_BYTES + PREFIX + MAX_FRAME;
const _: () = assert!(ROOM / (Framing::Le16.prefix_len() + ethernet::LEN) <= MAX_BATCH);
/// Room for one message. What fills it is too long, and perhaps cut by the kernel.
const MESSAGE: usize = MAX_FRAME + 1;
/// Where a message is that is no frame: nowhere.
const MALFORMED: Range<usize> = usize::MAX..usize::MAX;

pub(super) struct Incoming {
    framing: Framing,
    bytes: Vec<u8>,
    /// End of what was received, and of the complete frames in it.
    received: usize,
    complete: usize,
    frames: Vec<Range<usize>>,
    is_full: bool,
}

impl Incoming {
    pub(super) fn new(framing: Framing) -> Self {
        let frames = Vec::with_capacity(MAX_BATCH);
        Self { framing, bytes: vec![0; ROOM], received: 0, complete: 0, frames, is_full: false }
    }

    pub(super) fn clear(&mut self) {
        self.forget();
        (self.received, self.complete) = (0, 0);
    }

    /// Ends the batch; the start of a frame behind it stays.
    pub(super) fn forget(&mut self) {
        self.frames.clear();
        self.is_full = false;
    }

    /// Frame `index` of the batch; `None` if it was malformed.
    pub(super) fn frame(&self, index: usize) -> Option<&[u8]> {
        self.bytes.get(self.frames.get(index)?.clone())
    }

    /// Whether the batch ended because there was no more room.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Receives a batch; returns how many frames it has.
    pub(super) fn receive(&mut self, client: &mut Client) -> io::Result<usize> {
        match self.framing {
            Framing::Message => self.receive_messages(client),
            Framing::Be32 | Framing::Le16 => self.receive_bytes(client),
        }
    }

    /// Receives once, and finds the frames that are complete with it; what is left is for the next
    /// time.
    fn receive_bytes(&mut self, client: &Client) -> io::Result<usize> {
        let left = self.received - self.complete;
        self.bytes.copy_within(self.complete..self.received, 0);
        self.clear();
        self.received = left;
        let mut room = Scatter::new();
        room.push(&mut self.bytes[left..]);
        let Some(len) = client.receive(&room, 0)? else { return Ok(0) };
        self.received += len;
        self.is_full = self.received == self.bytes.len();
        match self.framing {
            Framing::Le16 => self.cut(|bytes| Framing::Le16.frame_len(bytes), Framing::Le16.prefix_len()),
            _ => self.cut(|bytes| Framing::Be32.frame_len(bytes), Framing::Be32.prefix_len()),
        }
    }

    /// Finds the frames that are complete, behind prefixes of `prefix` bytes. For each framing this
    /// is compiled by itself, without asking for each frame which one it is.
    fn cut(
        &mut self,
        frame_len: impl Fn(&[u8]) -> Result<Option<usize>, BadLength>,
        prefix: usize,
    ) -> io::Result<usize> {
        let invalid = |bad| io::Error::new(io::ErrorKind::InvalidData, bad);
        while let Some(len) = frame_len(&self.bytes[self.complete..self.received]).map_err(invalid)? {
            let start = self.complete + prefix;
            self.complete = start + len;
            self.frames.push(start..self.complete);
        }
        Ok(self.frames.len())
    }

    /// Receives as many messages as there are, or as there is room for. One that is no frame has
    /// its place in the batch, to be counted; those that came before the end do come.
    fn receive_messages(&mut self, client: &mut Client) -> io::Result<usize> {
        self.clear();
        let mut empty = 0;
        while self.frames.len() < BATCH_MESSAGES
            && empty < BATCH_MESSAGES
            && let Some(room) = self.bytes.get_mut(self.received..self.received + MESSAGE)
        {
            let mut into = Scatter::new();
            into.push(room);
            match client.receive(&into, empty) {
                // Perhaps the end; if not, no frames.
                Ok(Some(0)) => empty += 1,
                Ok(Some(len)) => {
                    self.frames.extend(iter::repeat_n(MALFORMED, mem::take(&mut empty)));
                    self.take_message(len);
                }
                // An error of a socket is told once, and messages may be behind it.
                Err(_) if client.give_up() => empty = 0,
                Err(error) if self.frames.is_empty() => return Err(error),
                Err(_) => return Ok(self.frames.len()),
                Ok(None) => {
                    self.frames.extend(iter::repeat_n(MALFORMED, empty));
                    return Ok(self.frames.len());
                }
            }
        }
        self.frames.extend(iter::repeat_n(MALFORMED, empty));
        self.is_full = true;
        Ok(self.frames.len())
    }

    /// Takes note of a message of `len` bytes behind what was received.
    fn take_message(&mut self, len: usize) {
        let range = self.received..self.received + len;
        let is_frame =
            self.bytes.get(range.clone()).is_some_and(|bytes| self.framing.frame_len(bytes).is_ok());
        if is_frame {
            self.received = range.end;
        }
        self.frames.push(if is_frame { range } else { MALFORMED });
    }
}
