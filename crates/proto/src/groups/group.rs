//! One group: the tables of RFC 3376, section 6.4, which are those of RFC 3810, section 7.4.

use arrayvec::ArrayVec;

use super::{LAST_MEMBER, LEAVING, MEMBERSHIP, Question, ROBUSTNESS};
use crate::addr::Addr;
use crate::time::Instant;
use crate::wire::membership::{Change, Version};

/// Sources of a group that are kept.
pub const MAX_SOURCES: usize = 16;

/// Some sources.
pub type Sources = ArrayVec<Addr, MAX_SOURCES>;

/// Whose datagrams to a group are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Those of these.
    Include(Sources),
    /// Those of all but these.
    Exclude(Sources),
}

/// A group, and what its members want.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) addr: Addr,
    /// Until when there are members that want all but some sources; `None` if all members named
    /// theirs.
    exclude: Option<Instant>,
    sources: ArrayVec<Source, MAX_SOURCES>,
    /// Until when there are members that speak `IGMPv1`, and `IGMPv2` or `MLDv1`.
    elders: [Instant; 2],
    /// Questions about the whole group that are left.
    asks: u8,
    /// When the next question is due, about the whole group or some [sources](Source::asks).
    asks_due: Option<Instant>,
    /// No question before, since the last one was a moment ago: what reports call for in between is
    /// asked then, all at once (RFC 3376, section 6.6.3). So reports can't make more messages than
    /// there are.
    quiet_until: Instant,
}

/// A source that some member named.
#[derive(Clone, Copy, Debug)]
struct Source {
    addr: Addr,
    /// Until when it is wanted; `None` for one that nobody wants.
    until: Option<Instant>,
    /// Questions about it that are left.
    asks: u8,
}

impl Group {
    pub(super) fn new(addr: Addr) -> Self {
        Self {
            addr,
            exclude: None,
            sources: ArrayVec::new(),
            elders: [Instant::ZERO; 2],
            asks: 0,
            asks_due: None,
            quiet_until: Instant::ZERO,
        }
    }

    pub(super) fn has_members(&self) -> bool {
        self.exclude.is_some() || !self.sources.is_empty()
    }

    /// A member speaks an older version (RFC 3376, section 7.3.2).
    pub(super) fn heard_elder(&mut self, version: Version, now: Instant) {
        let [one, two] = &mut self.elders;
        *(if version == Version::One { one } else { two }) = now + MEMBERSHIP;
    }

    /// Has all end at `until` that nobody renews.
    pub(super) fn end_by(&mut self, until: Instant) {
        let ends = self.sources.iter_mut().filter_map(|source| source.until.as_mut());
        for end in ends.chain(&mut self.exclude).chain(&mut self.elders) {
            *end = until.min(*end);
        }
    }

    /// The version that all members understand.
    fn version(&self, now: Instant) -> Version {
        match self.elders {
            [one, _] if one > now => Version::One,
            [_, two] if two > now => Version::Two,
            _ => Version::Three,
        }
    }

    /// Takes note of a record with these sources; how many of them found no place.
    pub(super) fn record(&mut self, change: Change, named: &Sources, now: Instant) -> usize {
        let none = Sources::new();
        let (change, named) = match (self.version(now), change) {
            (Version::One, Change::ToInclude) | (Version::One | Version::Two, Change::Block) => return 0,
            (Version::One | Version::Two, Change::ToExclude) => (change, &none),
            _ => (change, named),
        };
        match self.exclude {
            None => self.while_including(change, named, now),
            Some(until) => self.while_excluding(change, named, until, now),
        }
    }

    fn while_including(&mut self, change: Change, named: &Sources, now: Instant) -> usize {
        let member = Some(now + MEMBERSHIP);
        match change {
            Change::IsInclude | Change::Allow => self.set(named, member),
            Change::Block => {
                self.ask_about(now, |source| named.contains(&source.addr));
                0
            }
            Change::ToInclude => {
                self.ask_about(now, |source| !named.contains(&source.addr));
                self.set(named, member)
            }
            Change::IsExclude | Change::ToExclude => {
                self.sources.retain(|source| named.contains(&source.addr));
                if change == Change::ToExclude {
                    self.ask_about(now, |_| true);
                }
                self.exclude = member;
                self.add(named, None)
            }
        }
    }

    fn while_excluding(&mut self, change: Change, named: &Sources, until: Instant, now: Instant) -> usize {
        let member = Some(now + MEMBERSHIP);
        match change {
            Change::IsInclude | Change::Allow => self.set(named, member),
            Change::ToInclude => {
                self.ask_about(now, |source| !named.contains(&source.addr));
                let over = self.set(named, member);
                self.exclude = Some(until.min(self.ask_soon(now) + LEAVING));
                self.asks = ROBUSTNESS;
                over
            }
            Change::Block => {
                let over = self.add(named, Some(until));
                self.ask_about(now, |source| named.contains(&source.addr));
                over
            }
            Change::IsExclude => {
                self.sources.retain(|source| named.contains(&source.addr));
                self.exclude = member;
                self.add(named, member)
            }
            Change::ToExclude => {
                self.sources.retain(|source| named.contains(&source.addr));
                let over = self.add(named, Some(until));
                self.ask_about(now, |_| true);
                self.exclude = member;
                over
            }
        }
    }

    /// Has sources be wanted until a time, known or not.
    fn set(&mut self, named: &Sources, until: Option<Instant>) -> usize {
        for source in self.sources.iter_mut().filter(|source| named.contains(&source.addr)) {
            (source.until, source.asks) = (until, 0);
        }
        self.add(named, until)
    }

    /// Adds those of some sources that are not known.
    fn add(&mut self, named: &Sources, until: Option<Instant>) -> usize {
        let mut over = 0;
        for &addr in named {
            if !self.sources.iter().any(|known| known.addr == addr)
                && self.sources.try_push(Source { addr, until, asks: 0 }).is_err()
            {
                over += 1;
            }
        }
        over
    }

    /// Has members asked about sources that are wanted: who answers still wants them.
    fn ask_about(&mut self, now: Instant, which: impl Fn(&Source) -> bool) {
        if !self.sources.iter().any(|source| source.until.is_some() && which(source)) {
            return;
        }
        let end = self.ask_soon(now) + LEAVING;
        for source in self.sources.iter_mut().filter(|source| which(source)) {
            if let Some(until) = source.until {
                (source.until, source.asks) = (Some(until.min(end)), ROBUSTNESS);
            }
        }
    }

    /// Has a question be due as soon as there may be one; when.
    fn ask_soon(&mut self, now: Instant) -> Instant {
        let soon = now.max(self.quiet_until);
        self.asks_due.get_or_insert(soon);
        soon
    }

    /// Ends what is over; whether anything was.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let is_over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        let mut has_changed = false;
        for source in self.sources.iter_mut().filter(|source| is_over(source.until)) {
            (source.until, source.asks, has_changed) = (None, 0, true);
        }
        if is_over(self.exclude) {
            (self.exclude, self.asks, has_changed) = (None, 0, true);
        }
        if self.exclude.is_none() {
            self.sources.retain(|source| source.until.is_some());
        }
        has_changed
    }

    /// When something is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let sources = self.sources.iter().filter_map(|source| source.until);
        sources.chain(self.exclude).chain(self.asks_due).min()
    }

    /// A question that is due. One about the whole group has members tell all sources, too.
    pub(super) fn question(&mut self, now: Instant) -> Option<Question> {
        self.asks_due.take_if(|due| *due <= now)?;
        let is_whole = self.asks > 0;
        self.asks = self.asks.saturating_sub(1);
        let mut named = Sources::new();
        for source in self.sources.iter_mut().filter(|source| source.asks > 0) {
            source.asks -= 1;
            named.push(source.addr);
        }
        if is_whole {
            named.clear();
        } else if named.is_empty() {
            return None;
        }
        self.quiet_until = now + LAST_MEMBER;
        let has_more = self.asks > 0 || self.sources.iter().any(|source| source.asks > 0);
        self.asks_due = has_more.then_some(self.quiet_until);
        Some(Question::Group(self.addr, named))
    }

    /// Whose datagrams are wanted.
    pub(super) fn filter(&self) -> Filter {
        let is_wanted = self.exclude.is_none();
        let named = self.sources.iter().filter(|source| source.until.is_some() == is_wanted);
        let named = named.map(|source| source.addr).collect();
        if is_wanted { Filter::Include(named) } else { Filter::Exclude(named) }
    }

    /// Whether what a source sends is wanted.
    pub(super) fn wants(&self, source: Addr) -> bool {
        let known = self.sources.iter().find(|known| known.addr == source);
        known.map_or(self.exclude.is_some(), |known| known.until.is_some())
    }
}

#[cfg(test)]
impl Group {
    /// The sources that are named, wanted or not.
    pub(super) fn known(&self) -> impl Iterator<Item = Addr> {
        self.sources.iter().map(|source| source.addr)
    }

    /// Has nobody want some sources.
    pub(super) fn forget(&mut self, named: &Sources) {
        self.set(named, None);
    }
}
