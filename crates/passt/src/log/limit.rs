//! Lines that somebody outside can cause again and again: of each, the first few are told, then how
//! many more there were.
//!
//! What is counted are places in the code. There are few that a guest, a peer or another user
//! reaches, so a small table holds all of them. Debugging is asked for, so far more is told, and all
//! of it is counted together, apart from what is wrong; tracing is not limited, nor is a start, which
//! ends.

use std::fmt;

use log::{Level, Record};
use passt_proto::time::{Duration, Instant};

use super::Line;

/// Lines from one place that are told in a [`PERIOD`].
const MOST: u32 = 10;
/// The same for all of debugging together.
const MOST_OF_DEBUGGING: u32 = 5000;
/// How long they are counted for, from the first one on.
const PERIOD: Duration = Duration::from_secs(10);
/// Places that are counted apart; any others are counted together.
const PLACES: usize = 8;

/// Counts lines.
#[derive(Debug)]
pub(super) struct LogLimits {
    places: [CallSite; PLACES],
    debugging: CallSite,
}

/// Lines from one place.
#[derive(Debug)]
struct CallSite {
    /// File and line in the code.
    key: (&'static str, u32),
    until: Instant,
    told: u32,
    left_out: u64,
    level: Level,
    /// The last one that was left out.
    last: Line,
}

impl LogLimits {
    pub(super) fn new() -> Self {
        Self { places: [const { CallSite::new() }; PLACES], debugging: CallSite::new() }
    }

    /// Whether to tell a line, at time `now`. To be called after [`due`](Self::due) has nothing
    /// more.
    pub(super) fn pass(&mut self, record: &Record<'_>, now: Instant) -> bool {
        let (place, most) = match record.level() {
            Level::Trace => return true,
            Level::Debug => (&mut self.debugging, MOST_OF_DEBUGGING),
            Level::Error | Level::Warn | Level::Info => (self.place(record, now), MOST),
        };
        if place.is_free(now) {
            (place.until, place.told) = (now + PERIOD, 0);
        }
        if place.told < most {
            place.told += 1;
            return true;
        }
        place.left_out += 1;
        place.level = record.level();
        place.last.fill(|line| fmt::Write::write_fmt(line, *record.args()));
        false
    }

    /// Where lines like this are counted.
    fn place(&mut self, record: &Record<'_>, now: Instant) -> &mut CallSite {
        let key = (record.file_static().unwrap_or_default(), record.line().unwrap_or_default());
        let known = self.places.iter().position(|place| place.told > 0 && place.key == key);
        let place = known.or_else(|| self.places.iter().position(|place| place.is_free(now)));
        let place = &mut self.places[place.unwrap_or(PLACES - 1)];
        if place.is_free(now) {
            place.key = key;
        }
        place
    }

    /// Takes the account of a place whose time was over at `now`: level, last line and how many
    /// were left out.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Level, Line, u64)> {
        let mut places = self.places.iter_mut().chain([&mut self.debugging]);
        let place = places.find(|place| place.left_out > 0 && place.until <= now)?;
        Some((place.level, place.last.clone(), std::mem::take(&mut place.left_out)))
    }

    /// When there is something to account for.
    pub(super) fn next(&self) -> Option<Instant> {
        let places = self.places.iter().chain([&self.debugging]);
        places.filter(|place| place.left_out > 0).map(|place| place.until).min()
    }
}

impl CallSite {
    const fn new() -> Self {
        Self {
            key: ("", 0),
            until: Instant::ZERO,
            told: 0,
            left_out: 0,
            level: Level::Info,
            last: Line::new(),
        }
    }

    /// Whether it may be another place's from now on.
    fn is_free(&self, now: Instant) -> bool {
        self.left_out == 0 && self.until <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(limits: &mut LogLimits, line: u32, level: Level, now: u64) -> bool {
        let text = format_args!("{line}");
        let record =
            Record::builder().level(level).file_static(Some("x.rs")).line(Some(line)).args(text).build();
        limits.pass(&record, Instant::from_millis(now))
    }

    #[test]
    fn each_place_has_its_own_limit() {
        let mut limits = LogLimits::new();
        let told = |limits: &mut LogLimits, line, now| {
            (0..100).filter(|_| pass(limits, line, Level::Warn, now)).count()
        };
        assert_eq!(told(&mut limits, 1, 1000), 10);
        assert_eq!(told(&mut limits, 2, 2000), 10);
        assert_eq!(told(&mut limits, 1, 10_999), 0);
        assert!((0..10_000).all(|_| pass(&mut limits, 1, Level::Trace, 2000)), "that was asked for");
        assert_eq!(limits.next(), Some(Instant::from_millis(11_000)));
        assert!(limits.due(Instant::from_millis(10_999)).is_none());
        let (level, last, count) = limits.due(Instant::from_millis(11_000)).unwrap();
        assert_eq!((level, last.text(), count), (Level::Warn, "1", 190));
        assert!(limits.due(Instant::from_millis(11_000)).is_none());
        assert_eq!(told(&mut limits, 1, 11_000), 10);
        assert_eq!(limits.next(), Some(Instant::from_millis(12_000)));
    }

    /// Debugging has a limit of its own, and leaves that of warnings alone.
    #[test]
    fn debugging_is_counted_apart() {
        let mut limits = LogLimits::new();
        let debugging = (0..10_000).filter(|number| pass(&mut limits, number % 100, Level::Debug, 5)).count();
        assert_eq!(debugging, 5000);
        assert_eq!((0..100).filter(|_| pass(&mut limits, 7, Level::Warn, 5)).count(), 10);
        let accounts = std::iter::from_fn(|| limits.due(Instant::from_millis(20_000)));
        let counts: Vec<_> = accounts.map(|(level, _, count)| (level, count)).collect();
        assert_eq!(counts, [(Level::Warn, 90), (Level::Debug, 5000)]);
    }

    /// However many there are, what is told is bounded, and what isn't is counted.
    #[test]
    fn many_places() {
        let mut limits = LogLimits::new();
        let told = (0..10_000).filter(|number| pass(&mut limits, number % 100, Level::Info, 5)).count();
        assert!(told <= PLACES * 10, "{told}");
        let mut left_out = 0;
        while let Some((_, _, count)) = limits.due(Instant::from_millis(20_000)) {
            left_out += count;
        }
        assert_eq!(told + usize::try_from(left_out).unwrap(), 10_000);
        assert_eq!(limits.next(), None);
    }
}
