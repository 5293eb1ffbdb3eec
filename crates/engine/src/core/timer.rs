//! Timers of flows: a hierarchical wheel in which setting, moving and
//! cancelling one takes constant time and no memory.
//!
//! Each slot of the flow table has at most one timer, for the earliest thing
//! its flow waits for. Six levels of 64 places cover 64⁶ milliseconds, two
//! years; a timer further ahead fires then and is found not to be due. A bit
//! map per level finds the next occupied place at once, so the loop knows how
//! long it may sleep, and an idle process does not wake at all.

use std::io;

use passt_proto::time::Instant;
use passt_sys::alloc;

const LEVELS: usize = 6;
const PLACES: usize = 64;
/// The pseudo-level of timers that are due; it has one place.
const READY: usize = LEVELS;
const NONE: u32 = u32::MAX;

/// Timers for entries numbered from zero.
pub struct Wheel {
    /// Milliseconds up to which timers have fired.
    now: u64,
    occupied: [u64; LEVELS + 1],
    heads: [[u32; PLACES]; LEVELS + 1],
    entries: Vec<TimerEntry>,
}

#[derive(Clone, Copy)]
struct TimerEntry {
    next: u32,
    prev: u32,
    /// Due time in milliseconds; meaningful while `place` is.
    due: u64,
    /// Level and place in which the entry is linked.
    place: Option<(u8, u8)>,
}

const UNSET: TimerEntry = TimerEntry { next: NONE, prev: NONE, due: 0, place: None };

impl Wheel {
    /// A wheel for up to `capacity` entries.
    pub fn new(capacity: usize, now: Instant) -> io::Result<Self> {
        Ok(Self {
            now: now.as_millis(),
            occupied: [0; LEVELS + 1],
            heads: [[NONE; PLACES]; LEVELS + 1],
            entries: alloc::reserved(capacity)?,
        })
    }

    /// Sets the timer of `entry`, replacing what was set. It fires at the first
    /// whole millisecond that is not before `due`.
    pub fn set(&mut self, entry: u32, due: Instant) {
        let due = due.as_nanos().div_ceil(1_000_000).max(self.now + 1);
        if self.entries.len() <= entry as usize {
            self.entries.resize(entry as usize + 1, UNSET);
        }
        let current = self.entries[entry as usize];
        if current.place.is_some() {
            if current.due == due {
                return;
            }
            self.unlink(entry);
        }
        self.entries[entry as usize].due = due;
        self.link(entry);
    }

    /// Cancels the timer of `entry`, if set.
    pub fn cancel(&mut self, entry: u32) {
        if self.entries.get(entry as usize).is_some_and(|e| e.place.is_some()) {
            self.unlink(entry);
        }
    }

    /// When to call [`Wheel::pop`] next, at the latest: the due time of the next
    /// timer or an earlier moment at which timers have to be sorted.
    pub fn next(&self) -> Option<Instant> {
        if self.heads[READY][0] != NONE {
            return Some(Instant::ZERO);
        }
        (0..LEVELS)
            .filter_map(|level| self.next_place(level))
            .map(|(time, _)| Instant::from_millis(time))
            .min()
    }

    /// An entry whose timer is due at `now`; its timer is unset. Call until there is none.
    pub fn pop(&mut self, now: Instant) -> Option<u32> {
        while self.heads[READY][0] == NONE {
            let time = self.next()?.as_millis();
            if time > now.as_millis() {
                self.now = self.now.max(now.as_millis());
                return None;
            }
            self.advance(time);
        }
        let entry = self.heads[READY][0];
        self.unlink(entry);
        Some(entry)
    }

    /// Moves the clock to `time`, at which at least one place comes up: what is
    /// in such places is either ready or sorted into a lower level.
    fn advance(&mut self, time: u64) {
        let mut due = NONE;
        for level in 0..LEVELS {
            let Some((_, place)) = self.next_place(level).filter(|&(at, _)| at == time) else { continue };
            while self.heads[level][place] != NONE {
                let entry = self.heads[level][place];
                self.unlink(entry);
                self.entries[entry as usize].next = std::mem::replace(&mut due, entry);
            }
        }
        self.now = time;
        while due != NONE {
            let entry = due;
            due = self.entries[entry as usize].next;
            self.link(entry);
        }
    }

    /// Time and number of the next occupied place of a level.
    fn next_place(&self, level: usize) -> Option<(u64, usize)> {
        let map = self.occupied[level];
        if map == 0 {
            return None;
        }
        let current = self.now >> shift(level);
        let start = (current + 1) % PLACES as u64;
        let ahead = u64::from(map.rotate_right(u32::try_from(start).unwrap_or(0)).trailing_zeros());
        let place = (start + ahead) % PLACES as u64;
        Some(((current + 1 + ahead) << shift(level), usize::try_from(place).unwrap_or(0)))
    }

    fn link(&mut self, entry: u32) {
        let (level, place) = self.place_for(self.entries[entry as usize].due);
        let head = &mut self.heads[level][place];
        let next = std::mem::replace(head, entry);
        if next != NONE {
            self.entries[next as usize].prev = entry;
        }
        self.occupied[level] |= 1 << place;
        let slot = &mut self.entries[entry as usize];
        slot.next = next;
        slot.prev = NONE;
        slot.place = Some((u8::try_from(level).unwrap_or(0), u8::try_from(place).unwrap_or(0)));
    }

    fn unlink(&mut self, entry: u32) {
        let TimerEntry { next, prev, place, .. } = self.entries[entry as usize];
        let Some((level, place)) = place else { return };
        if next != NONE {
            self.entries[next as usize].prev = prev;
        }
        if prev == NONE {
            self.heads[level as usize][place as usize] = next;
            if next == NONE {
                self.occupied[level as usize] &= !(1 << place);
            }
        } else {
            self.entries[prev as usize].next = next;
        }
        self.entries[entry as usize].place = None;
    }

    /// The place for a due time: the lowest level on which it is less than a turn ahead.
    fn place_for(&self, due: u64) -> (usize, usize) {
        if due <= self.now {
            return (READY, 0);
        }
        let ahead = |level| (due >> shift(level)) - (self.now >> shift(level));
        let level = (0..LEVELS).find(|&level| ahead(level) < PLACES as u64).unwrap_or(LEVELS - 1);
        let place = ((self.now >> shift(level)) + ahead(level).min(PLACES as u64 - 1)) % PLACES as u64;
        (level, usize::try_from(place).unwrap_or(0))
    }
}

/// Binary logarithm of the milliseconds that a place of this level spans.
fn shift(level: usize) -> u32 {
    6 * u32::try_from(level).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Further ahead than the wheel turns.
    #[test]
    fn fires_in_a_year() {
        for ahead in [1 << 24, (1 << 24) - 1, 1 << 30, 365 * 86_400_000_u64] {
            let mut now = 1_000_003;
            let mut wheel = Wheel::new(1, Instant::from_millis(now)).expect("memory");
            let due = now + ahead;
            wheel.set(0, Instant::from_millis(due));
            let mut steps = 0;
            while wheel.pop(Instant::from_millis(now)).is_none() {
                assert!(now < due, "late");
                let next = wheel.next().expect("a timer").as_millis();
                assert!(next > now && steps < 10_000, "{steps} steps");
                (now, steps) = (next, steps + 1);
            }
            assert_eq!(now, due);
        }
    }

    /// Against a list of due times: every timer fires, in order, never early, and at its
    /// millisecond.
    #[test]
    fn fires_on_time() {
        let mut wheel = Wheel::new(1000, Instant::from_millis(1_000_003)).expect("memory");
        let mut due = vec![None; 1000];
        let mut now = 1_000_003u64;
        let mut random = 7u64;
        let mut next_random = move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random >> 33
        };
        for _ in 0..50_000 {
            let entry = u32::try_from(next_random() % 1000).expect("small");
            match next_random() % 8 {
                0 => {
                    wheel.cancel(entry);
                    due[entry as usize] = None;
                }
                1..=5 => {
                    let span = [3, 60, 64, 70, 5000, 300_000, 20_000_000]
                        [usize::try_from(next_random() % 7).expect("small")];
                    let at = now + 1 + next_random() % span;
                    wheel.set(entry, Instant::from_millis(at));
                    due[entry as usize] = Some(at);
                }
                _ => {
                    let Some(next) = wheel.next() else { continue };
                    let earliest = due.iter().flatten().min().expect("some timer");
                    assert!(next.as_millis() <= *earliest, "may not sleep past {earliest}");
                    now = next.as_millis().max(now);
                    while let Some(fired) = wheel.pop(Instant::from_millis(now)) {
                        assert_eq!(due[fired as usize].take(), Some(now), "fires in its own millisecond");
                    }
                    assert!(due.iter().flatten().all(|&at| at > now), "nothing due is left");
                }
            }
        }
    }

    #[test]
    fn late_calls_fire_everything() {
        let mut wheel = Wheel::new(4, Instant::ZERO).expect("memory");
        for (entry, millis) in [(0, 5), (1, 5000), (2, 5_000_000), (3, 6_000_000)] {
            wheel.set(entry, Instant::from_millis(millis));
        }
        let mut fired: Vec<_> = std::iter::from_fn(|| wheel.pop(Instant::from_millis(5_500_000))).collect();
        fired.sort_unstable();
        assert_eq!(fired, [0, 1, 2]);
        assert_eq!(wheel.pop(Instant::from_millis(6_000_000)), Some(3));
        assert_eq!(wheel.next(), None);
    }
}
