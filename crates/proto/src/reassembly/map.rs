//! Which bytes of one packet's payload are there.
//!
//! Fragments end at multiples of eight but for the last, so a bit for each eight bytes says all. A
//! second one for where fragments begin tells one that came twice from one that overlaps. That is
//! 2 KiB for a packet, however many fragments it comes in, and whatever their order.

use core::ops::Range;

use crate::wire::fragment::Part;

/// Bits of a word.
const WORD: usize = 64;
/// Words for 64 KiB in units of eight bytes.
const WORDS: usize = 65_536 / 8 / WORD;

/// The fragments of a packet that are there.
#[derive(Clone, Debug)]
pub struct Map {
    /// Units that are there.
    present: Bits,
    /// Units that fragments begin with.
    begins: Bits,
    /// How many units are there.
    count: usize,
    /// Bytes of the whole payload, once the last fragment told.
    total: Option<usize>,
    /// Where the furthest fragment ends.
    end: usize,
}

/// What a fragment is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addition {
    /// One that was missing; others still are.
    Added,
    /// The one that was missing.
    Completed,
    /// It is there already.
    Duplicate,
    /// It has some of what is there but is no duplicate, or ends elsewhere than the packet does.
    Contradiction,
}

impl Default for Map {
    fn default() -> Self {
        Self { present: Bits([0; WORDS]), begins: Bits([0; WORDS]), count: 0, total: None, end: 0 }
    }
}

impl Map {
    /// Adds a fragment, unless it is a duplicate or contradicts those that are there.
    pub fn add(&mut self, part: &Part) -> Addition {
        let Range { start, end } = part.range();
        let units = start / 8..end.div_ceil(8);
        if self.is_duplicate(part, &units) {
            return Addition::Duplicate;
        }
        let fits = match (self.total, part.more) {
            (Some(total), true) => end < total,
            (Some(_), false) => false,
            (None, true) => true,
            (None, false) => end >= self.end,
        };
        if !fits || !self.present.are_all(&units, false) {
            return Addition::Contradiction;
        }
        self.total = if part.more { self.total } else { Some(end) };
        self.end = self.end.max(end);
        self.count = self.count.saturating_add(units.len());
        self.begins.set(units.start..units.start.saturating_add(1));
        self.present.set(units);
        let is_whole = self.total.is_some_and(|total| self.count == total.div_ceil(8));
        if is_whole { Addition::Completed } else { Addition::Added }
    }

    /// Whether a fragment with the same bytes is there.
    fn is_duplicate(&self, part: &Part, units: &Range<usize>) -> bool {
        let end = part.range().end;
        let is_same_end = match self.total {
            Some(total) if part.more => end < total,
            Some(total) => end == total,
            None => part.more,
        };
        let behind = units.start.saturating_add(1)..units.end;
        let ends_there =
            !self.present.has(units.end) || self.begins.has(units.end) || units.end == WORDS * WORD;
        is_same_end
            && self.present.are_all(units, true)
            && self.begins.has(units.start)
            && self.begins.are_all(&behind, false)
            && ends_there
    }

    /// Bytes of the whole payload, once the last fragment told.
    pub fn total(&self) -> Option<usize> {
        self.total
    }

    /// Bytes of the first fragment, zero if that is missing.
    pub fn first(&self) -> usize {
        let is_of_first = |&unit: &usize| self.present.has(unit) && (unit == 0) == self.begins.has(unit);
        let units = (0..WORDS * WORD).take_while(is_of_first).count();
        self.end.min(units.saturating_mul(8))
    }
}

/// A bit for each eight bytes.
#[derive(Clone, Debug)]
struct Bits([u64; WORDS]);

impl Bits {
    fn has(&self, unit: usize) -> bool {
        self.0.get(unit / WORD).is_some_and(|word| word >> (unit % WORD) & 1 != 0)
    }

    fn set(&mut self, units: Range<usize>) {
        for (index, mask) in masks(&units) {
            if let Some(word) = self.0.get_mut(index) {
                *word |= mask;
            }
        }
    }

    /// Whether all of some bits are set, or none.
    fn are_all(&self, units: &Range<usize>, set: bool) -> bool {
        masks(units).all(|(index, mask)| {
            let word = self.0.get(index).copied().unwrap_or(0);
            word & mask == if set { mask } else { 0 }
        })
    }
}

/// The words that have some bits, and which of their bits these are.
fn masks(units: &Range<usize>) -> impl Iterator<Item = (usize, u64)> + use<> {
    let Range { start, end } = *units;
    let words = if start < end { start / WORD..end.div_ceil(WORD) } else { 0..0 };
    words.map(move |index| {
        let first = index.saturating_mul(WORD);
        let from = start.saturating_sub(first);
        let to = end.saturating_sub(first).min(WORD);
        let below = |bits: usize| if bits >= WORD { u64::MAX } else { (1 << bits) - 1 };
        (index, below(to) & !below(from))
    })
}
