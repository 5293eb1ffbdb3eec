//! Sending datagrams: as few system calls, and messages, as the kernel allows.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use passt_sys::dgram::{self, BATCH, Inbox, Outgoing};
use passt_sys::iovec::Gather;
use rustix::io::Errno;

use crate::link::Link;

/// Most datagrams that the kernel cuts one message into (`UDP_MAX_SEGMENTS`), and
/// most that wait in a batch.
pub(super) const MAX_CUTS: usize = 64;
/// Most bytes of such a message.
const MAX_CUT_BYTES: usize = 65_000;

/// What was received as one, of which `payload` is to be sent, cut every `segment` bytes unless that
/// is zero.
pub(super) struct Item {
    /// Its number in the [`Source`].
    pub(super) index: usize,
    pub(super) payload: Range<usize>,
    pub(super) segment: u16,
}

/// What items are part of.
pub(super) trait Source {
    /// Appends bytes `range` of what was received as number `index`; false if they do not fit.
    fn payload<'a>(&'a self, index: usize, range: Range<usize>, into: &mut Gather<'a>) -> bool;
}

/// Frames of the guest.
pub(super) struct Frames<'l, L>(pub(super) &'l L);

impl<L: Link> Source for Frames<'_, L> {
    fn payload<'a>(&'a self, index: usize, range: Range<usize>, into: &mut Gather<'a>) -> bool {
        self.0.payload(index, range, into)
    }
}

impl Source for Inbox {
    fn payload<'a>(&'a self, index: usize, range: Range<usize>, into: &mut Gather<'a>) -> bool {
        let bytes = self.message(index).and_then(|(_, payload)| payload.get(range));
        bytes.is_some_and(|bytes| into.push(bytes))
    }
}

/// How to send.
pub(super) struct Way<'a> {
    pub(super) fd: BorrowedFd<'a>,
    /// The receiver, unless the socket is connected to it.
    pub(super) to: Option<SocketAddr>,
    /// The address to send from, unless the kernel is to choose.
    pub(super) from: Option<IpAddr>,
}

impl Way<'_> {
    /// Sends items up to the first that cannot be sent at all: its place among them, and why.
    /// `cuts` says whether the kernel cuts messages, and becomes false where it turns out not to.
    pub(super) fn deliver(
        &self,
        source: &impl Source,
        items: &[Item],
        cuts: &mut bool,
    ) -> Option<(usize, Errno)> {
        let (mut next, mut again) = (0, true);
        while let Some(rest) = items.get(next..).filter(|rest| !rest.is_empty()) {
            match self.send(source, rest, *cuts) {
                Ok(sent) => (next, again) = (next + sent, true),
                Err(error) if *cuts && refuses_cuts(error) => *cuts = false,
                Err(error @ (Errno::AGAIN | Errno::NOBUFS)) => return Some((next, error)),
                // It may be about an earlier datagram: that is in the error queue.
                Err(_) if again => again = false,
                Err(error) => return Some((next, error)),
            }
        }
        None
    }

    /// Sends items, or the first of them, in one call; returns how many.
    fn send(&self, source: &impl Source, items: &[Item], cuts: bool) -> Result<usize, Errno> {
        if let [item, ..] = items
            && item.segment != 0
            && !cuts
        {
            return self.send_pieces(source, item);
        }
        let mut data = Gather::new();
        let mut messages = ArrayVec::<_, BATCH>::new();
        let mut counts = ArrayVec::<_, BATCH>::new();
        let mut rest = items;
        while let Some((count, segment)) = group(rest, cuts)
            && !messages.is_full()
        {
            let (own, others) = rest.split_at(count);
            let first = data.len();
            if !own.iter().all(|item| source.payload(item.index, item.payload.clone(), &mut data)) {
                break;
            }
            messages.push(Outgoing { first, buffers: data.len() - first, segment });
            counts.push(count);
            rest = others;
        }
        if messages.is_empty() {
            return Err(Errno::MSGSIZE);
        }
        let sent = self.call(&data, &messages)?;
        Ok(counts.iter().take(sent).sum())
    }

    /// Sends the pieces of an item each for itself.
    fn send_pieces(&self, source: &impl Source, item: &Item) -> Result<usize, Errno> {
        let step = usize::from(item.segment).max(1);
        let mut starts = item.payload.clone().step_by(step).peekable();
        while starts.peek().is_some() {
            let mut data = Gather::new();
            let mut messages = ArrayVec::<_, BATCH>::new();
            for start in starts.by_ref().take(BATCH) {
                let first = data.len();
                source.payload(item.index, start..item.payload.end.min(start + step), &mut data);
                messages.push(Outgoing { first, buffers: data.len() - first, segment: 0 });
            }
            self.call(&data, &messages)?;
        }
        Ok(1)
    }

    fn call(&self, data: &Gather<'_>, messages: &[Outgoing]) -> Result<usize, Errno> {
        dgram::send(self.fd, data, messages, self.to, self.from)
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
    }
}

/// How many items go into the next message, and every how many bytes it is to be cut.
fn group(items: &[Item], cuts: bool) -> Option<(usize, u16)> {
    let (first, rest) = items.split_first()?;
    let size = first.payload.len();
    if first.segment != 0 {
        // Without cuts it is sent alone, in pieces.
        return cuts.then_some((1, first.segment));
    }
    let (mut count, mut total, mut last) = (1, size, size);
    for item in rest.iter().filter(|_| cuts && size > 0) {
        let len = item.payload.len();
        total += len;
        let end = last < size || len > size || len == 0;
        if end || item.segment != 0 || total > MAX_CUT_BYTES || count == MAX_CUTS {
            break;
        }
        (count, last) = (count + 1, len);
    }
    Some((count, if count > 1 { u16::try_from(size).ok()? } else { 0 }))
}

/// The kernel, or the device it would send through, cannot cut a message.
fn refuses_cuts(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::MSGSIZE | Errno::IO | Errno::OPNOTSUPP | Errno::NOPROTOOPT)
}
