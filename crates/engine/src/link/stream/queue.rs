//! The send queue: bytes that wait for the socket, in one piece of memory.
//!
//! A frame is put together where it will be sent from, so room is always contiguous: what
//! does not fit behind the newest bytes goes to the start of the memory, and what is
//! queued is one run, or two.
//!
//! Frames lie there as they are sent in a stream. Those that become messages lie there as in
//! [`BORDERS`], which says where each ends.

use std::iter;
use std::ops::Range;

use passt_proto::wire::stream::Framing;
use passt_sys::iovec::Gather;

/// How frames lie in the queue that are sent without anything before them.
pub(super) const BORDERS: Framing = Framing::Be32;

pub(super) struct SendQueue {
    /// Touched only as far as the queue was ever long.
    memory: Vec<u8>,
    /// To be sent first.
    first: Range<usize>,
    /// End of what is to be sent after that, which begins at the start of the memory.
    second: usize,
}

impl SendQueue {
    /// An empty queue with memory for `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Self { memory: vec![0; capacity], first: 0..0, second: 0 }
    }

    /// Where `len` contiguous bytes are free, for [`SendQueue::append`].
    pub(super) fn room(&mut self, len: usize) -> Option<usize> {
        if self.is_empty() {
            self.clear();
        }
        if self.second > 0 {
            (self.first.start - self.second >= len).then_some(self.second)
        } else if self.memory.len() - self.first.end >= len {
            Some(self.first.end)
        } else {
            (self.first.start >= len).then_some(0)
        }
    }

    /// Queues `len` bytes at `start`, which [`SendQueue::room`] returned last.
    pub(super) fn append(&mut self, start: usize, len: usize) {
        if self.second == 0 && start == self.first.end {
            self.first.end += len;
        } else {
            self.second += len;
        }
    }

    /// Removes `len` bytes that were sent.
    pub(super) fn consume(&mut self, len: usize) {
        let of_first = len.min(self.first.len());
        self.first.start += of_first;
        if self.first.is_empty() {
            self.first = len - of_first..self.second;
            self.second = 0;
        }
    }

    pub(super) fn clear(&mut self) {
        (self.first, self.second) = (0..0, 0);
    }

    pub(super) fn len(&self) -> usize {
        self.first.len() + self.second
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends what is to be sent to `data`.
    pub(super) fn gather<'a>(&'a self, data: &mut Gather<'a>) {
        for run in [self.first.clone(), 0..self.second] {
            if !run.is_empty() {
                data.push(&self.memory[run]);
            }
        }
    }

    /// What is to be sent, if it is frames as in [`BORDERS`].
    pub(super) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        [self.first.clone(), 0..self.second].into_iter().flat_map(|run| {
            let mut rest = self.memory.get(run).unwrap_or_default();
            iter::from_fn(move || {
                let len = BORDERS.frame_len(rest).ok()??;
                let frame;
                (frame, rest) = rest.get(BORDERS.prefix_len()..)?.split_at_checked(len)?;
                Some(frame)
            })
        })
    }

    /// Removes the first `count` of these frames.
    pub(super) fn consume_frames(&mut self, count: usize) {
        let len = self.frames().take(count).map(|frame| BORDERS.prefix_len() + frame.len()).sum();
        self.consume(len);
    }

    pub(super) fn memory(&self) -> &[u8] {
        &self.memory
    }

    pub(super) fn memory_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

#[cfg(test)]
mod tests {
    use super::SendQueue;
    use passt_sys::iovec::Gather;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn content(queue: &SendQueue) -> Vec<u8> {
        let mut data = Gather::new();
        queue.gather(&mut data);
        let mut out = vec![0; data.total()];
        data.copy_out(0, &mut out);
        out
    }

    proptest! {
        #[test]
        fn keeps_the_order(steps in prop::collection::vec((any::<bool>(), 0usize..70, 0usize..5), 0..200)) {
            let (mut queue, mut model, mut next) = (SendQueue::new(100), VecDeque::new(), 0u8);
            for (put, len, spare) in steps {
                if !put {
                    let len = len.min(queue.len());
                    queue.consume(len);
                    model.drain(..len);
                } else if let Some(start) = queue.room(len + spare) {
                    for byte in &mut queue.memory_mut()[start..start + len] {
                        *byte = next;
                        model.push_back(next);
                        next = next.wrapping_add(1);
                    }
                    queue.append(start, len);
                } else {
                    // What is empty takes all that there is memory for.
                    prop_assert!(!queue.is_empty());
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(content(&queue), Vec::from(model.clone()));
            }
        }
    }
}
