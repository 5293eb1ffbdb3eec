//! Changes of the rules: what they amount to, and which of them can't be. Pure: no socket is opened
//! here.
//!
//! A change names a rule by all that it says, so that whoever asks need not know what is there.
//! Adding an equal rule, or deleting one that is not there, changes nothing and is no error.

use std::collections::BTreeSet;
use std::fmt;
use std::io;

use passt_sys::plain::Plain;

use super::rule::{Families, Listen, Rule, is_group, is_host};
use super::table::{Conflict, Entry, RuleId, Rules};
use crate::flow::{Protocol, Side};

/// Rules at most, on both sides together.
pub const MAX_RULES: usize = 1 << 14;

/// Rules copied in one go: less than a millisecond.
const COPIED: usize = 1024;

/// What is to become of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is to be there.
    Add(Entry),
    /// It is not.
    Delete(Entry),
}

/// What one change amounts to, by the table alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rule is new.
    Added(RuleId),
    /// The rule is there already.
    Present,
    /// The rule is taken out.
    Deleted,
    /// The rule is not there anyway.
    Absent,
    /// The rule can't be.
    Refused,
}

/// What changes amount to, decided by the table alone. Its sockets are opened by
/// [`Control::apply`](crate::control::Control::apply).
#[derive(Debug)]
pub struct Plan {
    /// The table that this is a change of.
    pub(super) base: u64,
    /// The table as it will be, if all sockets can be had.
    pub(super) rules: Rules,
    /// Rules of it that are new, in the order asked for.
    pub(super) add: Vec<RuleId>,
    /// Rules that are gone.
    pub(super) delete: BTreeSet<RuleId>,
    pub(super) refused: Vec<Refusal>,
}

/// A rule that can't be had, or a part of one.
#[derive(Debug)]
pub struct Refusal {
    /// The rule.
    pub entry: Entry,
    /// Its name, if the table alone had nothing against it.
    pub id: Option<RuleId>,
    /// Why.
    pub reason: Reason,
    /// Whether anything of it is there nevertheless.
    pub extent: Extent,
}

/// How much of a rule is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it: the rule is not in the table.
    Whole,
    /// Some ports of a [weak](Rule::weak) rule.
    Part,
}

/// Why a rule can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// It meets another rule.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// It contradicts itself, or what is switched on.
    #[error("Invalid forwarding rule: {0}")]
    Invalid(&'static str),
    /// There are [`MAX_RULES`].
    #[error("Unable to add rule: more than {MAX_RULES}")]
    TooMany,
    /// Nothing tells what listens on the other side
    /// ([`Worker::prepare_to_follow`](crate::worker::Worker::prepare_to_follow)).
    #[error("Nothing tells what listens")]
    Services,
    /// A port that it needs can't be had: an error of socket(7), bind(2) or listen(2).
    #[error("{}", Plain(error))]
    Port {
        /// The port.
        port: u16,
        /// The kernel's reason.
        error: io::Error,
    },
}

impl Rules {
    /// What `changes`, one after the other, amount to where these `families` are on.
    pub fn plan(&self, changes: impl IntoIterator<Item = Change>, families: Families) -> Plan {
        let mut plan = self.begin_plan();
        while !plan.prepare(self) {}
        for change in changes {
            plan.change(self, change, families);
        }
        plan
    }

    /// A plan that changes nothing yet, and knows of no rule before it is [prepared](Plan::prepare).
    pub fn begin_plan(&self) -> Plan {
        Plan {
            base: self.version,
            rules: self.without_rules(),
            add: Vec::new(),
            delete: BTreeSet::new(),
            refused: Vec::new(),
        }
    }
}

impl Plan {
    /// Rules that can't be, each with its reason.
    pub fn refused(&self) -> &[Refusal] {
        &self.refused
    }

    /// Has it know of some more of the rules `before`; whether it knows of all.
    pub fn prepare(&mut self, before: &Rules) -> bool {
        self.rules.copy(before, COPIED)
    }

    /// Adds a change, where these `families` are on, to what becomes of the rules `before`; what it
    /// amounts to.
    pub fn change(&mut self, before: &Rules, change: Change, families: Families) -> Outcome {
        match change {
            Change::Add(entry) => self.add(before, &entry, families).unwrap_or_else(|reason| {
                self.refused.push(Refusal { entry, id: None, reason, extent: Extent::Whole });
                Outcome::Refused
            }),
            Change::Delete(entry) => match self.rules.find(&entry) {
                Some(id) => self.delete(id),
                None => Outcome::Absent,
            },
        }
    }

    /// Takes out a rule by its name; what that amounts to.
    pub fn delete(&mut self, id: RuleId) -> Outcome {
        if self.rules.remove(id).is_none() {
            return Outcome::Absent;
        }
        // Names of new rules grow.
        match self.add.binary_search(&id) {
            Ok(place) => drop(self.add.remove(place)),
            Err(_) => drop(self.delete.insert(id)),
        }
        Outcome::Deleted
    }

    /// The rules as they are to be so far, with their names.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &Entry)> {
        self.rules.iter()
    }

    /// Rules that are added.
    pub fn added(&self) -> impl Iterator<Item = &Entry> {
        self.add.iter().filter_map(|&id| self.rules.get(id))
    }

    /// How many rules are added.
    pub fn added_count(&self) -> usize {
        self.add.len()
    }

    /// How many rules are gone.
    pub fn deleted(&self) -> usize {
        self.delete.len()
    }

    /// Whether the table stays as it is.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.delete.is_empty()
    }

    fn add(&mut self, before: &Rules, entry: &Entry, families: Families) -> Result<Outcome, Reason> {
        if self.rules.find(entry).is_some() {
            return Ok(Outcome::Present);
        }
        valid(entry, families)?;
        if self.rules.len() >= MAX_RULES {
            return Err(Reason::TooMany);
        }
        // One that was deleted a moment ago has kept its sockets.
        let id = if let Some(id) = before.find(entry) {
            self.rules.restore(id, entry.clone())?;
            self.delete.remove(&id);
            id
        } else {
            let id = self.rules.add(entry.clone())?;
            self.add.push(id);
            id
        };
        Ok(Outcome::Added(id))
    }
}

/// Whether a rule that may come from anywhere can be served.
fn valid(entry: &Entry, families: Families) -> Result<(), Reason> {
    let Entry { side, protocol, rule } = entry;
    let Rule { listen, ports, to, target, .. } = rule;
    let of_listen = match (listen.addr, families) {
        (Some(addr), _) => Some(addr.is_ipv4()),
        (None, Families::V4Only) => Some(true),
        (None, Families::V6Only) => Some(false),
        (None, Families::Both) => None,
    };
    let reason = if *protocol == Protocol::Echo {
        "a protocol without ports"
    } else if *side == Side::Namespace && *listen != Listen::default() {
        "an address of the namespace, where all of loopback is listened on"
    } else if *to == 0 || to.checked_add(ports.span()).is_none() {
        "target ports out of range"
    } else if listen.addr.is_some_and(|addr| !families.has(addr)) {
        "an address family that is off"
    } else if *protocol == Protocol::Tcp && listen.addr.is_some_and(is_group) {
        "an address of a group, which TCP has none of"
    } else if target.is_some_and(|target| of_listen != Some(target.is_ipv4()) || !is_host(target)) {
        "a target that can't be reached from the listening address"
    } else {
        return Ok(());
    };
    Err(Reason::Invalid(reason))
}

impl fmt::Display for Refusal {
    /// One line for the user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entry, reason, .. } = self;
        let Reason::Port { port, .. } = reason else { return reason.fmt(f) };
        write!(f, "Listen failed for {}: {reason}", entry.name(port))
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::forward::rule::PortRange;

    /// A rule for ports of an address, or of any, as one writes them.
    fn entry(listen: &str, first: u16, last: u16) -> Entry {
        let addr = (!listen.is_empty()).then(|| listen.parse().expect("an address"));
        let rule = Rule {
            listen: Listen { addr, interface: None },
            ports: PortRange::new(first, last).expect("a range"),
            to: first,
            target: None,
            weak: false,
            scan: false,
        };
        Entry { side: Side::Host, protocol: Protocol::Tcp, rule }
    }

    fn to(to: u16, entry: Entry) -> Entry {
        Entry { rule: Rule { to, ..entry.rule }, ..entry }
    }

    /// What each of some plans amounts to, one after the other: rules added, deleted and refused.
    fn plans(plans: &[&[Change]]) -> Vec<(usize, usize, usize)> {
        let mut rules = Rules::default();
        let mut counts = Vec::new();
        for changes in plans {
            let plan = rules.plan(changes.iter().cloned(), Families::Both);
            assert_eq!(plan.is_empty(), plan.add.is_empty() && plan.delete.is_empty());
            counts.push((plan.added().count(), plan.delete.len(), plan.refused().len()));
            rules = plan.rules;
        }
        counts
    }

    #[test]
    fn what_is_there_is_not_added_and_what_is_not_is_not_deleted() {
        use Change::{Add, Delete};
        let (a, b) = (|| entry("", 80, 80), || entry("", 81, 85));
        assert_eq!(plans(&[&[Add(a())], &[Add(a())]]), [(1, 0, 0), (0, 0, 0)]);
        assert_eq!(plans(&[&[Add(a()), Add(a())]]), [(1, 0, 0)]);
        assert_eq!(plans(&[&[Delete(a())]]), [(0, 0, 0)]);
        assert_eq!(plans(&[&[Add(a()), Delete(a())]]), [(0, 0, 0)]);
        assert_eq!(plans(&[&[Add(a())], &[Delete(a()), Delete(a())]]), [(1, 0, 0), (0, 1, 0)]);
        assert_eq!(plans(&[&[Add(a())], &[Delete(a()), Add(a())]]), [(1, 0, 0), (0, 0, 0)]);
        assert_eq!(plans(&[&[Add(a())], &[Delete(a()), Add(b())]]), [(1, 0, 0), (1, 1, 0)]);
        assert_eq!(plans(&[&[Add(a()), Add(b())], &[Delete(b())]]), [(2, 0, 0), (0, 1, 0)]);
        // Not equal: the same port with another target.
        assert_eq!(plans(&[&[Add(a())], &[Delete(to(8080, a()))]]), [(1, 0, 0), (0, 0, 0)]);
    }

    #[test]
    fn conflicts_are_those_with_what_is_left() {
        use Change::{Add, Delete};
        let (a, over) = (|| entry("127.0.0.1", 80, 80), || entry("", 1, 100));
        let other = || to(8080, a());
        assert_eq!(plans(&[&[Add(a()), Add(over()), Add(entry("", 101, 101))]]), [(2, 0, 1)]);
        assert_eq!(plans(&[&[Add(a())], &[Add(other())]]), [(1, 0, 0), (0, 0, 1)]);
        assert_eq!(plans(&[&[Add(a())], &[Delete(a()), Add(other())]]), [(1, 0, 0), (1, 1, 0)]);
        assert_eq!(plans(&[&[Add(a())], &[Add(other()), Delete(a())]]), [(1, 0, 0), (0, 1, 1)]);
        let back = plans(&[&[Add(a())], &[Delete(a()), Add(over()), Add(a())]]);
        assert_eq!(back, [(1, 0, 0), (1, 1, 1)], "its place is taken");
        let plan = Rules::default().plan([Add(over()), Add(a())], Families::Both);
        let told: Vec<_> = plan.refused().iter().map(Refusal::to_string).collect();
        assert_eq!(
            told,
            ["Forwarding configuration conflict: HOST TCP port 1-100 versus HOST TCP port 127.0.0.1/80"]
        );
    }

    /// A rule that was deleted and added again in one go has its name, and so its sockets.
    #[test]
    fn a_rule_that_stays_has_its_name() {
        let mut rules = Rules::default();
        let id = rules.add(entry("", 80, 80)).expect("the only one");
        let again = [Change::Delete(entry("", 80, 80)), Change::Add(entry("", 80, 80))];
        let plan = rules.plan(again, Families::Both);
        assert!(plan.is_empty() && plan.rules.find(&entry("", 80, 80)) == Some(id));
    }

    #[test]
    fn rules_that_contradict_themselves() {
        let target = |listen: &str, target: &str| {
            let entry = entry(listen, 80, 80);
            Entry { rule: Rule { target: target.parse().ok(), ..entry.rule }, ..entry }
        };
        let inside = |listen: &str| Entry { side: Side::Namespace, ..entry(listen, 80, 80) };
        let echo = Entry { protocol: Protocol::Echo, ..entry("", 80, 80) };
        let udp = |listen: &str| Entry { protocol: Protocol::Udp, ..entry(listen, 80, 80) };
        for (entry, families, expected) in [
            (echo, Families::Both, "a protocol without ports"),
            (inside("127.0.0.5"), Families::Both, "an address of the namespace"),
            (inside(""), Families::Both, ""),
            (to(0, entry("", 80, 80)), Families::Both, "target ports out of range"),
            (to(65_535, entry("", 80, 81)), Families::Both, "target ports out of range"),
            (to(65_535, entry("", 80, 80)), Families::Both, ""),
            (entry("::1", 80, 80), Families::V4Only, "an address family that is off"),
            (entry("::1", 80, 80), Families::V6Only, ""),
            (target("127.0.0.1", "10.0.0.1"), Families::Both, ""),
            (target("127.0.0.1", "::1"), Families::Both, "a target that"),
            (target("", "10.0.0.1"), Families::Both, "a target that"),
            (target("", "10.0.0.1"), Families::V4Only, ""),
            (target("", "::1"), Families::V6Only, ""),
            (target("0.0.0.0", "0.0.0.0"), Families::Both, "a target that"),
            (target("0.0.0.0", "224.0.0.1"), Families::Both, "a target that"),
            (target("0.0.0.0", "255.255.255.255"), Families::Both, "a target that"),
            (entry("224.0.0.1", 80, 80), Families::Both, "an address of a group"),
            (entry("255.255.255.255", 80, 80), Families::Both, "an address of a group"),
            (entry("ff02::1", 80, 80), Families::Both, "an address of a group"),
            (udp("ff02::1"), Families::Both, ""),
            (udp("224.0.0.1"), Families::Both, ""),
        ] {
            let plan = Rules::default().plan([Change::Add(entry.clone())], families);
            let told: String = plan.refused().iter().map(Refusal::to_string).collect();
            assert_eq!(told.is_empty(), expected.is_empty(), "{entry:?} {told}");
            assert!(told.contains(expected), "{entry:?} {told}");
        }
    }

    #[test]
    fn there_are_only_so_many() {
        let ports = 1..=u16::try_from(MAX_RULES).expect("a port") + 1;
        let add = ports.map(|port| Change::Add(entry("", port, port)));
        let plan = Rules::default().plan(add, Families::Both);
        assert_eq!((plan.added().count(), plan.refused().len()), (MAX_RULES, 1));
        assert!(matches!(plan.refused()[0].reason, Reason::TooMany));
    }

    #[test]
    fn what_the_user_is_told() {
        for (listen, expected) in [
            ("", "Listen failed for HOST TCP port 80: Address already in use"),
            ("::1", "Listen failed for HOST TCP port [::1]/80: Address already in use"),
        ] {
            let reason = Reason::Port { port: 80, error: Errno::ADDRINUSE.into() };
            let refusal = Refusal { entry: entry(listen, 80, 80), id: None, reason, extent: Extent::Whole };
            assert_eq!(refusal.to_string(), expected);
        }
    }
}
