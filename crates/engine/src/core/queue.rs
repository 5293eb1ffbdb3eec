//! Flows that are to be called later: each is in a queue once, so that a queue never needs more
//! memory than was reserved for it.

use std::collections::VecDeque;
use std::io;

use passt_sys::alloc;

/// Numbers of places in the flow table, in order.
#[derive(Debug)]
pub(crate) struct SlotQueue {
    order: VecDeque<u32>,
    /// A bit for each place: whether it is in `order`.
    queued: Vec<u64>,
}

impl SlotQueue {
    /// For flows numbered below `capacity`.
    pub(crate) fn new(capacity: usize) -> io::Result<Self> {
        let capacity = capacity.next_power_of_two();
        // Without an element it keeps this memory as it is.
        let order = VecDeque::from(alloc::reserved(capacity)?);
        Ok(Self { order, queued: alloc::zeroed(capacity.div_ceil(64))? })
    }

    /// Adds a flow at the end, unless it is there. The flow that has the number when its turn comes
    /// is called, which may be another.
    pub(crate) fn push(&mut self, index: u32) {
        let Some((word, bit)) = self.bit(index) else { return };
        if *word & bit == 0 {
            *word |= bit;
            self.order.push_back(index);
        }
    }

    /// Takes the first.
    pub(crate) fn pop(&mut self) -> Option<u32> {
        let index = self.order.pop_front()?;
        if let Some((word, bit)) = self.bit(index) {
            *word &= !bit;
        }
        if self.order.is_empty() {
            // Back to the start of its memory: the rest need not be touched.
            self.order.clear();
        }
        Some(index)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn bit(&mut self, index: u32) -> Option<(&mut u64, u64)> {
        Some((self.queued.get_mut(index as usize / 64)?, 1 << (index % 64)))
    }
}

#[cfg(test)]
mod tests {
    use super::SlotQueue;

    #[test]
    fn each_once_and_in_order() {
        let mut queue = SlotQueue::new(100).expect("memory");
        for index in [5, 99, 5, 64, 99, 1 << 20] {
            queue.push(index);
        }
        assert_eq!(queue.len(), 3);
        assert_eq!((queue.pop(), queue.pop()), (Some(5), Some(99)));
        queue.push(5);
        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(64), Some(5), None));
        assert!(queue.is_empty());
    }
}
