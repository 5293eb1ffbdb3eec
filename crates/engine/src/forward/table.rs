//! The rules of forwarded ports, and which of their ports should be listened on now. Pure: what
//! listens where is an argument, and sockets are other modules' business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound;

use passt_proto::addr::Addr;
use passt_proto::guest::{Bypass, Guest};

use super::by_port::ByPort;
use super::rule::{Families, Listen, PortRange, Rule};
use crate::flow::{Protocol, Side};

/// A rule, and where it applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where we listen.
    pub side: Side,
    /// [`Protocol::Tcp`] or [`Protocol::Udp`].
    pub protocol: Protocol,
    /// Which ports, and what they stand for.
    pub rule: Rule,
}

/// The name of a side in messages.
pub(super) fn side_name(side: Side) -> &'static str {
    if side == Side::Host { "HOST" } else { "NS" }
}

impl fmt::Display for Entry {
    /// In full: where it listens, and what that stands for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { side, protocol, rule } = self;
        write!(f, "{} {protocol} {rule}", side_name(*side))?;
        match rule.target {
            Some(target) => write!(f, " to {target} from port {}", rule.to)?,
            None => write!(f, " to port {}", rule.to)?,
        }
        let kinds = [(rule.weak, ", those that are free"), (rule.scan, ", where a service listens")];
        kinds.into_iter().filter(|(is, _)| *is).try_for_each(|(_, kind)| f.write_str(kind))
    }
}

impl Entry {
    /// Some of its ports for the user: `HOST TCP port 80`, with an address or interface before the
    /// ports if there is one.
    pub fn name(&self, ports: impl fmt::Display) -> String {
        let Self { side, protocol, rule } = self;
        let side = side_name(*side);
        if rule.listen == Listen::default() {
            format!("{side} {protocol} port {ports}")
        } else {
            format!("{side} {protocol} port {}/{ports}", rule.listen)
        }
    }
}

/// Names a rule; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId(u32);

/// What a listening socket is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The rule.
    pub rule: RuleId,
    /// One of the rule's ports.
    pub port: u16,
}

/// Two rules for the same port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Forwarding configuration conflict: {0} versus {1}")]
pub struct Conflict(String, String);

/// All rules.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    entries: BTreeMap<RuleId, Entry>,
    ports: ByPort,
    next: u32,
    /// How often they were changed by a [plan](super::Plan).
    pub(super) version: u64,
}

/// A socket of somebody else that takes connections or datagrams from anyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// [`Protocol::Tcp`] or [`Protocol::Udp`].
    pub protocol: Protocol,
    /// What it is bound to.
    pub addr: Addr,
    /// Its port.
    pub port: u16,
    /// Bound to `::`, it takes IPv4, too.
    pub both: bool,
}

/// What listens on either side, our own sockets aside.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// On the host.
    pub host: Vec<Service>,
    /// In the namespace.
    pub namespace: Vec<Service>,
}

/// Protocols to listen for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Something follows TCP services.
    pub tcp: bool,
    /// Something follows UDP services.
    pub udp: bool,
}

impl Rules {
    /// Adds a rule, unless it meets another one. What is there already is found.
    pub fn add(&mut self, entry: Entry) -> Result<RuleId, Conflict> {
        if let Some(id) = self.find(&entry) {
            return Ok(id);
        }
        let id = RuleId(self.next);
        self.restore(id, entry)?;
        self.next = self.next.wrapping_add(1);
        Ok(id)
    }

    /// Puts a rule back by the name that it had, unless it meets another one.
    pub(super) fn restore(&mut self, id: RuleId, entry: Entry) -> Result<(), Conflict> {
        if let Some(other) = self.first(&entry, |other| other.meets(&entry)).and_then(|id| self.get(id)) {
            return Err(Conflict(other.name(other.rule.ports), entry.name(entry.rule.ports)));
        }
        self.ports.insert(entry.rule.ports, entry.rule.listen.addr, id.0);
        self.entries.insert(id, entry);
        Ok(())
    }

    /// No rule, where the next one has the name that it would have here.
    pub(super) fn without_rules(&self) -> Self {
        Self { next: self.next, version: self.version, ..Self::default() }
    }

    /// Adds copies of some more of the rules of `other`, whose names are higher; whether it has all
    /// of them.
    pub(super) fn copy(&mut self, other: &Self, most: usize) -> bool {
        let last = self.entries.last_key_value().map(|(&id, _)| id);
        let behind = last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = other.entries.range((behind, Bound::Unbounded));
        for (&id, entry) in rest.by_ref().take(most) {
            self.ports.insert(entry.rule.ports, entry.rule.listen.addr, id.0);
            self.entries.insert(id, entry.clone());
        }
        rest.next().is_none()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All of them, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (RuleId, &Entry)> {
        self.entries.iter().map(|(&id, entry)| (id, entry))
    }

    /// Takes a rule out.
    pub fn remove(&mut self, id: RuleId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.ports.remove(entry.rule.ports, entry.rule.listen.addr, id.0);
        Some(entry)
    }

    /// The rule that is equal in everything.
    pub fn find(&self, entry: &Entry) -> Option<RuleId> {
        self.first(entry, |other| other == entry)
    }

    /// The first rule that `is_wanted`, of those that may meet `entry`.
    fn first(&self, entry: &Entry, is_wanted: impl Fn(&Entry) -> bool) -> Option<RuleId> {
        let meeting = self.ports.meeting(entry.rule.ports, entry.rule.listen.addr).map(RuleId);
        meeting.filter(|&id| self.get(id).is_some_and(&is_wanted)).min()
    }

    /// Whether a rule has this port that does not follow what listens elsewhere.
    pub(super) fn fixes(&self, side: Side, protocol: Protocol, port: u16) -> bool {
        let has_it = |entry: &Entry| (entry.side, entry.protocol) == (side, protocol) && !entry.rule.scan;
        let ports = PortRange::new(port, port);
        let at_port = ports.into_iter().flat_map(|ports| self.ports.meeting(ports, None));
        at_port.filter_map(|id| self.get(RuleId(id))).any(has_it)
    }

    /// A rule by its name.
    pub fn get(&self, id: RuleId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// Whether what is opened at this place follows what listens elsewhere.
    pub(super) fn follows(&self, place: Place) -> bool {
        self.get(place.rule).is_some_and(|entry| entry.rule.scan)
    }

    /// The rules that follow what listens elsewhere.
    pub(super) fn following(&self) -> BTreeSet<RuleId> {
        self.entries.iter().filter(|(_, entry)| entry.rule.scan).map(|(&id, _)| id).collect()
    }

    /// Whether a rule follows what listens elsewhere.
    pub(super) fn follow(&self) -> bool {
        self.entries.values().any(|entry| entry.rule.scan)
    }

    /// What rules follow that has to listen on `side`.
    pub fn interest(&self, side: Side) -> Interest {
        let mut interest = Interest::default();
        for entry in self.entries.values().filter(|e| e.rule.scan && e.side != side) {
            interest.udp |= entry.protocol == Protocol::Udp;
            interest.tcp = true;
        }
        interest
    }

    /// What should be listened on because something listens on the other side, and in which
    /// families.
    pub fn wanted(&self, heard: &Heard, guest: &Guest, on: Families) -> BTreeMap<Place, Families> {
        let mut wanted = BTreeMap::new();
        for (&rule, entry) in self.entries.iter().filter(|(_, e)| e.rule.scan) {
            let services = match entry.side {
                Side::Host => &heard.namespace,
                Side::Namespace => &heard.host,
            };
            for service in services.iter().filter(|s| entry.follows(s, guest)) {
                let Some(port) = entry.rule.port_of(service.port) else { continue };
                let [v4, v6] = entry.families(service);
                let place = Place { rule, port };
                let before: Option<&Families> = wanted.get(&place);
                let v4 = on.v4() && (v4 || before.is_some_and(|f| f.v4()));
                let v6 = on.v6() && (v6 || before.is_some_and(|f| f.v6()));
                if let Some(families) = Families::of(v4, v6) {
                    wanted.insert(place, families);
                }
            }
        }
        wanted
    }
}

/// Leaves at most `room` of what is wanted: rules that want few ports have them all, and others
/// equally many, of the lowest numbers.
pub fn fit(wanted: &mut BTreeMap<Place, Families>, room: usize) {
    let mut of_rules = BTreeMap::<RuleId, usize>::new();
    for place in wanted.keys() {
        *of_rules.entry(place.rule).or_default() += 1;
    }
    let mut counts: Vec<usize> = of_rules.values().copied().collect();
    counts.sort_unstable();
    let (mut left, mut most) = (room, usize::MAX);
    for (count, rules) in counts.iter().zip((1..=counts.len()).rev()) {
        if count * rules > left {
            most = left / rules;
            break;
        }
        left -= count;
    }
    of_rules.clear();
    wanted.retain(|place, _| {
        let taken = of_rules.entry(place.rule).or_default();
        *taken += 1;
        *taken <= most
    });
}

impl Entry {
    fn meets(&self, other: &Self) -> bool {
        (self.side, self.protocol) == (other.side, other.protocol) && self.rule.overlaps(&other.rule)
    }

    /// Whether what we would send to the other side could arrive at `service`. UDP
    /// follows TCP, too: some programs open the one when they are asked to by the other.
    fn follows(&self, service: &Service, guest: &Guest) -> bool {
        let Service { protocol, addr, .. } = *service;
        let arrives = match (self.rule.target, self.side) {
            _ if addr.is_unspecified() => true,
            _ if addr.is_group() => false,
            (Some(target), _) => addr == Addr::from(target),
            (None, Side::Namespace) => {
                addr == Ipv4Addr::LOCALHOST.into() || addr == Ipv6Addr::LOCALHOST.into()
            }
            (None, Side::Host) if addr.is_loopback() => guest.configured.bypass == Bypass::Loopback,
            (None, Side::Host) => guest.addresses().any(|own| own == addr),
        };
        arrives && (protocol == self.protocol || self.protocol == Protocol::Udp)
    }

    /// Whether clients of IPv4 and of IPv6 can be served by `service`.
    fn families(&self, service: &Service) -> [bool; 2] {
        let fits = |addr: Option<IpAddr>, v4| addr.is_none_or(|addr| addr.is_ipv4() == v4);
        [(true, service.addr.is_v4() || service.both), (false, !service.addr.is_v4())]
            .map(|(v4, serves)| serves && fits(self.rule.target, v4) && fits(self.rule.listen.addr, v4))
    }
}

#[cfg(test)]
mod tests {
    use passt_proto::guest::Configured;

    use super::*;
    use crate::forward::rule::PortRange;

    /// The guest's address.
    const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    fn rule(listen: &str, first: u16, last: u16) -> Rule {
        let addr = (!listen.is_empty()).then(|| listen.parse().expect("an address"));
        Rule {
            listen: Listen { addr, interface: None },
            ports: PortRange::new(first, last).expect("a range"),
            to: first,
            target: None,
            weak: true,
            scan: true,
        }
    }

    fn entry(side: Side, protocol: Protocol, rule: Rule) -> Entry {
        Entry { side, protocol, rule }
    }

    /// A service as `ss` shows it: `*:port` takes both families.
    fn service(protocol: Protocol, text: &str) -> Service {
        let both = text.starts_with('*');
        let at: std::net::SocketAddr = text.replace('*', "[::]").parse().expect("address and port");
        Service { protocol, addr: at.ip().into(), port: at.port(), both }
    }

    /// What one rule wants, as `port/families`.
    fn wanted(entry: &Entry, services: &[(Protocol, &str)], bypass: Bypass) -> String {
        let mut rules = Rules::default();
        rules.add(entry.clone()).expect("the only one");
        let services: Vec<_> = services.iter().map(|&(protocol, text)| service(protocol, text)).collect();
        let heard = match entry.side {
            Side::Host => Heard { namespace: services, host: Vec::new() },
            Side::Namespace => Heard { host: services, namespace: Vec::new() },
        };
        let mut map = Guest::new(Configured { bypass, ..Configured::default() });
        map.configured.v4.assigned.push(GUEST.into());
        let wanted = rules.wanted(&heard, &map, Families::Both);
        let shown: Vec<_> = wanted
            .iter()
            .map(|(place, families)| match families {
                Families::Both => format!("{}", place.port),
                Families::V4Only => format!("{}/4", place.port),
                Families::V6Only => format!("{}/6", place.port),
            })
            .collect();
        shown.join(" ")
    }

    /// A rule, services on the other side, and what is to be listened on.
    type Case<'a> = (Entry, Bypass, &'a [(Protocol, &'a str)], &'a str);

    #[test]
    fn ports_follow_services_that_can_be_reached() {
        use Bypass::{Loopback, Off, Public};
        use Protocol::{Tcp, Udp};
        use Side::{Host, Namespace};
        let all = || rule("", 1, 32767);
        let shifted = Rule { to: 80, ..rule("", 8080, 8089) };
        let to_v4 = Rule { target: Some("10.0.0.1".parse().expect("v4")), ..rule("0.0.0.0", 1, 32767) };
        let to_group = Rule { target: Some("224.0.0.251".parse().expect("v4")), ..rule("0.0.0.0", 1, 32767) };
        let cases: [Case; 20] = [
            (entry(Host, Udp, to_group), Public, &[(Udp, "224.0.0.251:5353")], ""),
            (entry(Host, Tcp, all()), Public, &[], ""),
            (entry(Host, Tcp, all()), Public, &[(Tcp, "*:80"), (Tcp, "*:40000")], "80"),
            (entry(Host, Tcp, all()), Public, &[(Tcp, "0.0.0.0:80")], "80/4"),
            (entry(Host, Tcp, all()), Public, &[(Tcp, "[::]:80")], "80/6"),
            (entry(Host, Tcp, all()), Public, &[(Tcp, "0.0.0.0:80"), (Tcp, "[::]:80")], "80"),
            (entry(Host, Tcp, all()), Public, &[(Tcp, "127.0.0.1:80"), (Tcp, "[::1]:81")], ""),
            (entry(Host, Tcp, all()), Off, &[(Tcp, "127.0.0.1:80")], ""),
            (entry(Host, Tcp, all()), Loopback, &[(Tcp, "127.0.0.1:80"), (Tcp, "[::1]:81")], "80/4 81/6"),
            (entry(Host, Tcp, all()), Public, &[(Tcp, "192.0.2.2:80"), (Udp, "*:53")], "80/4"),
            (entry(Host, Tcp, all()), Loopback, &[(Tcp, "10.88.0.1:80"), (Tcp, "[fe80::1]:81")], ""),
            (entry(Host, Udp, all()), Public, &[(Udp, "*:53"), (Tcp, "*:5201")], "53 5201"),
            (entry(Host, Udp, all()), Public, &[(Udp, "224.0.0.251:5353")], ""),
            (entry(Host, Tcp, shifted), Public, &[(Tcp, "*:79"), (Tcp, "*:80"), (Tcp, "*:89")], "8080 8089"),
            (entry(Host, Tcp, rule("0.0.0.0", 1, 99)), Public, &[(Tcp, "*:80"), (Tcp, "[::]:81")], "80/4"),
            (entry(Host, Tcp, to_v4.clone()), Public, &[(Tcp, "10.0.0.1:1"), (Tcp, "10.0.0.2:2")], "1/4"),
            (entry(Host, Tcp, to_v4), Public, &[(Tcp, "*:80"), (Tcp, "[::]:81")], "80/4"),
            (entry(Namespace, Tcp, all()), Public, &[(Tcp, "127.0.0.1:80"), (Tcp, "[::1]:81")], "80/4 81/6"),
            (entry(Namespace, Udp, all()), Public, &[(Udp, "127.0.0.53:53"), (Udp, "192.0.2.2:67")], ""),
            (entry(Namespace, Tcp, all()), Public, &[(Tcp, "0.0.0.0:22"), (Tcp, "*:80")], "22/4 80"),
        ];
        for (entry, bypass, services, expected) in cases {
            let found = wanted(&entry, services, bypass);
            assert_eq!(found, expected, "{entry:?} {bypass:?} {services:?}");
        }
    }

    #[test]
    fn a_family_that_is_off_is_not_listened_on() {
        let mut rules = Rules::default();
        let id = rules.add(entry(Side::Host, Protocol::Tcp, rule("", 1, 99))).expect("room");
        let services = ["*:80", "[::]:81"].map(|text| service(Protocol::Tcp, text));
        let heard = Heard { namespace: services.into(), host: Vec::new() };
        let found = rules.wanted(&heard, &Guest::default(), Families::V4Only);
        assert_eq!(found, [(Place { rule: id, port: 80 }, Families::V4Only)].into());
    }

    #[test]
    fn room_is_shared_by_rules() {
        for (room, wants, have) in [
            (10, &[3, 4][..], &[3, 4][..]),
            (7, &[3, 4], &[3, 4]),
            (6, &[3, 4], &[3, 3]),
            (10, &[2, 50, 60], &[2, 4, 4]),
            (11, &[50, 2, 60], &[4, 2, 4]),
            (2, &[5, 5, 5], &[]),
            (12, &[5, 5, 5], &[4, 4, 4]),
            (0, &[1], &[]),
        ] {
            let all = wants.iter().zip(0..).flat_map(|(&ports, rule)| {
                (1..=ports).map(move |port| (Place { rule: RuleId(rule), port }, Families::Both))
            });
            let mut wanted: BTreeMap<Place, Families> = all.collect();
            fit(&mut wanted, room);
            let expected = have
                .iter()
                .zip(0..)
                .flat_map(|(&ports, rule)| (1..=ports).map(move |port| Place { rule: RuleId(rule), port }));
            assert!(wanted.keys().copied().eq(expected), "{room} {wants:?}: {:?}", wanted.keys());
        }
    }

    #[test]
    fn rules_that_do_not_follow_want_nothing() {
        let mut rules = Rules::default();
        let fixed = Rule { scan: false, ..rule("", 1, 99) };
        rules.add(entry(Side::Host, Protocol::Tcp, fixed)).expect("room");
        let heard = Heard {
            namespace: vec![service(Protocol::Tcp, "*:80")],
            host: vec![service(Protocol::Tcp, "*:80")],
        };
        assert_eq!(rules.wanted(&heard, &Guest::default(), Families::Both), BTreeMap::new());
        assert_eq!(rules.interest(Side::Namespace), Interest::default());
        rules.add(entry(Side::Namespace, Protocol::Tcp, rule("", 1, 99))).expect("room");
        assert_eq!(rules.interest(Side::Host), Interest { tcp: true, udp: false });
        rules.add(entry(Side::Namespace, Protocol::Udp, rule("", 1, 99))).expect("room");
        assert_eq!(rules.interest(Side::Host), Interest { tcp: true, udp: true });
        assert_eq!(rules.interest(Side::Namespace), Interest::default());
    }

    #[test]
    fn rules_are_added_once_and_do_not_meet() {
        use Protocol::{Tcp, Udp};
        use Side::{Host, Namespace};
        let mut rules = Rules::default();
        let first = rules.add(entry(Host, Tcp, rule("", 20, 30))).expect("the first");
        assert_eq!(rules.add(entry(Host, Tcp, rule("", 20, 30))), Ok(first));
        for other in [rule("", 30, 31), rule("127.0.0.1", 25, 25), rule("::", 1, 65535)] {
            let conflict = rules.add(entry(Host, Tcp, other)).expect_err("it meets");
            assert!(
                conflict
                    .to_string()
                    .starts_with("Forwarding configuration conflict: HOST TCP port 20-30 versus ")
            );
        }
        let second = rules.add(entry(Host, Udp, rule("", 30, 31))).expect("of another protocol");
        let third = rules.add(entry(Namespace, Tcp, rule("", 30, 31))).expect("of another side");
        assert!(first != second && second != third);
        assert!(rules.remove(first).is_some() && rules.remove(first).is_none());
        let again = rules.add(entry(Host, Tcp, rule("", 30, 31))).expect("nothing in the way");
        assert!(again != first, "names are not used twice");
    }
}
