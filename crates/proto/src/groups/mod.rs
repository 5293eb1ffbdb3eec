//! Which multicast groups the guest's stations are members of: what the one router of their link
//! keeps of reports (RFC 3376, section 6; RFC 3810, section 7), and when it asks.
//!
//! One value for each family. Time is an argument, as everywhere; frames are written by
//! [`wire::membership`](crate::wire::membership), and what becomes of a membership is for others.
//! We are the only router here, so there is no election: questions of the guest's are ignored.

mod group;
mod known;

use arrayvec::ArrayVec;

use self::group::Group;
pub use self::group::{Filter, MAX_SOURCES, Sources};
use self::known::RESERVED;
pub use self::known::{has_own_place, is_kept, well_known};
use crate::addr::Addr;
use crate::time::{Duration, Instant};
use crate::wire::membership::{Query, Report, Version};

/// Groups of a family that are kept. The last places are for those of well-known protocols alone,
/// so that a station which joins many groups leaves room for multicast DNS of the others.
pub const MAX_GROUPS: usize = 64;

/// How often what may get lost is sent (RFC 3376, section 8.1).
const ROBUSTNESS: u8 = 2;
/// Between two questions about all groups (section 8.2).
const QUERY: Duration = Duration::from_secs(125);
/// How long an answer to that may take (section 8.3).
const RESPONSE: Duration = Duration::from_secs(10);
/// Between the first two (section 8.6): a quarter.
const STARTUP: Duration = Duration::from_secs(QUERY.as_secs() / 4);
/// How long members may take to say that they are there, once they are asked as at the start.
const STARTING: Duration =
    Duration::from_secs((ROBUSTNESS as u64 - 1) * STARTUP.as_secs() + RESPONSE.as_secs());
/// How long a membership lasts of which nothing is heard (section 8.4).
const MEMBERSHIP: Duration = Duration::from_secs(ROBUSTNESS as u64 * QUERY.as_secs() + RESPONSE.as_secs());
/// How long an answer may take whether there are other members, and between two such questions
/// (section 8.8).
const LAST_MEMBER: Duration = Duration::from_secs(1);
/// How long a membership lasts then (section 8.10).
const LEAVING: Duration = Duration::from_secs(ROBUSTNESS as u64 * LAST_MEMBER.as_secs());

/// Groups of one family, and their members' wishes.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    groups: ArrayVec<Group, MAX_GROUPS>,
    /// When all groups are asked about.
    general: Option<Instant>,
    /// Such questions that follow soon.
    startup: u8,
}

/// A question that is due.
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// About all groups.
    General,
    /// About one group, or some sources of it.
    Group(Addr, Sources),
}

impl Question {
    /// What is to be sent.
    pub fn query(&self) -> Query<'_> {
        let (group, sources, response) = match self {
            Self::General => (None, &[][..], RESPONSE),
            Self::Group(group, sources) => (Some(*group), sources.as_slice(), LAST_MEMBER),
        };
        Query { group, sources, response, interval: QUERY, robustness: ROBUSTNESS }
    }
}

impl Membership {
    /// Has the guest asked soon, as at the start. It may be another one: what it doesn't report in
    /// answer to the questions ends, rather than last as long as it would have for the former one.
    pub fn greet(&mut self, now: Instant) {
        (self.general, self.startup) = (Some(now), ROBUSTNESS);
        for group in &mut self.groups {
            group.end_by(now + STARTING);
        }
    }

    /// Takes note of a report. How much was too much: records and sources that found no place.
    pub fn report(&mut self, report: Report<'_>, now: Instant) -> usize {
        let version = report.version;
        let mut over = 0;
        for record in report.filter(|record| is_kept(record.group)) {
            let mut sources = Sources::new();
            for source in record.sources() {
                let is_new = !sources.contains(&source);
                over += usize::from(is_new && sources.try_push(source).is_err());
            }
            let Some(group) = self.find_or_add(record.group) else {
                over += 1;
                continue;
            };
            if version != Version::Three {
                group.heard_elder(version, now);
            }
            over += group.record(record.change, &sources, now);
            if !group.has_members() {
                // Left without having been joined: the place is for the next one.
                self.groups.retain(|group| group.has_members());
            }
        }
        if !self.groups.is_empty() {
            // Not sooner than the guest was told to answer.
            self.general.get_or_insert(now + QUERY);
        }
        over
    }

    /// The group with this address; `None` if there are too many.
    fn find_or_add(&mut self, addr: Addr) -> Option<&mut Group> {
        let known = self.groups.iter().position(|group| group.addr == addr);
        if known.is_none() {
            if !has_own_place(addr) {
                let others = self.groups.iter().filter(|group| !has_own_place(group.addr)).count();
                (others < MAX_GROUPS - RESERVED).then_some(())?;
            }
            self.groups.try_push(Group::new(addr)).ok()?;
        }
        let last = self.groups.len().checked_sub(1)?;
        self.groups.get_mut(known.unwrap_or(last))
    }

    /// When something is due: a question, or the end of a membership.
    pub fn due(&self) -> Option<Instant> {
        self.groups.iter().filter_map(Group::due).chain(self.general).min()
    }

    /// Ends what is over; whether anything was.
    pub fn expire(&mut self, now: Instant) -> bool {
        let mut has_changed = false;
        for group in &mut self.groups {
            has_changed |= group.expire(now);
        }
        self.groups.retain(|group| group.has_members());
        has_changed
    }

    /// The next question that is due; to be asked for until there is none.
    pub fn question(&mut self, now: Instant) -> Option<Question> {
        if self.general.is_some_and(|due| due <= now) {
            self.startup = self.startup.saturating_sub(1);
            self.general = match self.startup {
                // A guest without groups says by itself when it joins one.
                0 if self.groups.is_empty() => None,
                0 => Some(now + QUERY),
                _ => Some(now + STARTUP),
            };
            return Some(Question::General);
        }
        self.groups.iter_mut().find_map(|group| group.question(now))
    }

    /// The groups that have members.
    pub fn groups(&self) -> impl Iterator<Item = Addr> {
        self.groups.iter().map(|group| group.addr)
    }

    /// Whose datagrams to a group are wanted; `None` without members.
    pub fn filter(&self, group: Addr) -> Option<Filter> {
        self.groups.iter().find(|known| known.addr == group).map(Group::filter)
    }

    /// Whether what `source` sends to a group is wanted.
    pub fn wants(&self, group: Addr, source: Addr) -> bool {
        self.groups.iter().find(|known| known.addr == group).is_some_and(|known| known.wants(source))
    }
}

#[cfg(test)]
mod tests;
