//! Descriptors that are ready, but not to be looked at before a pause is over: what they are ready
//! for fails, and would keep the loop busy, or is to be had less often.

use arrayvec::ArrayVec;
use passt_proto::time::Instant;

/// Descriptors at most: the guest's listening socket, and those of control.
const MOST: usize = 4;

/// Their numbers, each with the end of its pause.
#[derive(Debug, Default)]
pub(super) struct Postponed(ArrayVec<(u32, Instant), MOST>);

impl Postponed {
    /// Has `number` wait until `due`, and no longer for what it was waiting for.
    pub(super) fn put(&mut self, number: u32, due: Instant) {
        self.0.retain(|(other, _)| *other != number);
        let added = self.0.try_push((number, due));
        debug_assert!(added.is_ok(), "more listening sockets than there can be");
    }

    /// When the first of them is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.iter().map(|(_, due)| *due).min()
    }

    /// One that is due, which waits no longer.
    pub(super) fn take(&mut self, now: Instant) -> Option<u32> {
        let at = self.0.iter().position(|(_, due)| *due <= now)?;
        Some(self.0.swap_remove(at).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_waits_for_its_own_time() {
        let at = Instant::from_nanos;
        let mut postponed = Postponed::default();
        assert_eq!((postponed.due(), postponed.take(at(9))), (None, None));
        postponed.put(1, at(10));
        postponed.put(2, at(30));
        postponed.put(3, at(20));
        assert_eq!((postponed.due(), postponed.take(at(9))), (Some(at(10)), None));
        assert_eq!(postponed.take(at(10)), Some(1));
        postponed.put(3, at(40));
        assert_eq!((postponed.due(), postponed.take(at(25))), (Some(at(30)), None));
        let mut both = [postponed.take(at(50)), postponed.take(at(50))];
        both.sort();
        assert_eq!((both, postponed.take(at(50))), ([Some(2), Some(3)], None));
    }
}
