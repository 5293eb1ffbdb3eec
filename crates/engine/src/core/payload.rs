//! Payload as every protocol knows it, wherever it lies.
//!
//! What goes to the host is a piece of a frame, or was put together of several; what goes to the
//! guest, or past the link, is a piece of a message; and what the kernel quotes in an error is kept
//! until the guest was told. Nobody but this module asks which it is.

use std::ops::Range;

use passt_sys::dgram::Inbox;
use passt_sys::iovec::Gather;

use super::Core;
use super::pool::Pool;
use crate::link::Link;

/// What payload is a piece of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// A frame of the batch by its number there; until the link receives or flushes.
    Frame(usize),
    /// A message of the inbox by its number there; until that receives.
    Message(usize),
    /// A block of the pool; until it is given back.
    Block(u16),
}

/// Some payload. It is a name and no reference: what it stands for is gone when its [place](Storage)
/// is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    place: Storage,
    /// Bytes of the place, which has them.
    range: Range<usize>,
}

impl Storage {
    /// A piece of it.
    #[inline]
    pub fn piece(self, range: Range<usize>) -> Payload {
        Payload { place: self, range }
    }
}

impl Payload {
    /// No bytes.
    pub const NONE: Self = Self { place: Storage::Block(0), range: 0..0 };

    /// Bytes that it has.
    #[inline]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// What it has of bytes `within`, counted from its first.
    #[inline]
    pub fn part(&self, within: Range<usize>) -> Self {
        let Range { start, end } = self.range;
        let at = |offset| end.min(start.saturating_add(offset));
        Self { place: self.place, range: at(within.start)..at(within.end) }
    }
}

/// Payload in memory of our own, which nobody else can change.
pub(crate) fn own<'a>(inbox: &'a Inbox, pool: &'a Pool, payload: &Payload) -> Option<&'a [u8]> {
    let bytes = match payload.place {
        Storage::Message(index) => inbox.payload(index)?,
        Storage::Block(block) => pool.bytes(block),
        Storage::Frame(_) => return None,
    };
    bytes.get(payload.range.clone())
}

impl<L: Link> Core<L> {
    /// The first bytes of payload, `most` at most, in private memory; `None` if they are not there:
    /// of a frame it has [`HEAD_LEN`](crate::link::HEAD_LEN) bytes.
    pub(crate) fn start(&self, payload: &Payload, most: usize) -> Option<&[u8]> {
        let Range { start, end } = payload.range;
        match payload.place {
            Storage::Frame(index) => {
                self.link.frame(index)?.head.get(start..end.min(start.saturating_add(most)))
            }
            _ => own(&self.inbox, &self.pool, payload).map(|bytes| bytes.get(..most).unwrap_or(bytes)),
        }
    }

    /// Payload in memory of our own, and the block of the pool that was taken for it: what lies in a
    /// frame is copied. `None` without room. The caller gives the block back.
    pub(crate) fn keep(&mut self, payload: &Payload) -> Option<(Payload, Option<u16>)> {
        let Storage::Frame(index) = payload.place else { return Some((payload.clone(), None)) };
        let Self { link, pool, .. } = self;
        let mut data = Gather::new();
        link.payload(index, payload.range.clone(), &mut data);
        let block = pool.take()?;
        let room = pool.bytes_mut(block).get_mut(..payload.len()).unwrap_or_default();
        let copied = data.copy_out(0, room);
        Some((Storage::Block(block).piece(0..copied), Some(block)))
    }

    /// Appends payload to `into`; false if that has no room for it, or the place is gone.
    #[inline]
    pub(crate) fn append<'a>(&'a self, payload: &Payload, into: &mut Gather<'a>) -> bool {
        match payload.place {
            Storage::Frame(index) => self.link.payload(index, payload.range.clone(), into),
            _ => own(&self.inbox, &self.pool, payload).is_some_and(|bytes| into.push(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_within() {
        let whole = Storage::Block(3).piece(10..30);
        for (within, expected) in [
            (0..20, 10..30),
            (0..usize::MAX, 10..30),
            (5..7, 15..17),
            (5..100, 15..30),
            (20..21, 30..30),
            (usize::MAX..usize::MAX, 30..30),
            (3..3, 13..13),
        ] {
            let part = whole.part(within.clone());
            assert_eq!(part, Storage::Block(3).piece(expected.clone()), "{within:?}");
            assert_eq!((part.len(), part.is_empty()), (expected.len(), expected.is_empty()));
        }
        assert!(Payload::NONE.is_empty());
    }
}
