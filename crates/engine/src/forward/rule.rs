//! What a rule of port forwarding says: where to listen, on which ports, and what they stand for.
//!
//! Plain data, as whoever sets up the engine gives it. How users write rules is not here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// Consecutive ports that are forwarded the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where to listen.
    pub listen: Listen,
    /// Ports to listen on.
    pub ports: PortRange,
    /// The target's port for the first of them.
    pub to: u16,
    /// Address to connect to instead of the default one.
    pub target: Option<IpAddr>,
    /// A port that can't be bound is skipped; an error only if none can.
    pub weak: bool,
    /// Bind a port only while something listens to its target.
    pub scan: bool,
}

impl Rule {
    /// The port of ours that stands for `target`, a port on the other side.
    pub fn port_of(&self, target: u16) -> Option<u16> {
        let port = self.ports.first.checked_add(target.checked_sub(self.to)?)?;
        (port <= self.ports.last).then_some(port)
    }

    /// Whether one packet could be for both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.ports.meets(other.ports) && self.listen.meets(&other.listen)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.listen, self.ports)
    }
}

/// Where to listen.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listen {
    /// The address; `None` is any, of both families with one socket where both are in use.
    pub addr: Option<IpAddr>,
    /// The interface.
    pub interface: Option<String>,
}

impl Listen {
    /// Whether one packet could be for both.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let addr = match (self.addr, other.addr) {
            (Some(a), Some(b)) => {
                a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
            }
            _ => true,
        };
        let interface = match (&self.interface, &other.interface) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        addr && interface
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr {
            Some(IpAddr::V4(addr)) => write!(f, "{addr}")?,
            Some(IpAddr::V6(addr)) => write!(f, "[{addr}]")?,
            None => f.write_str("*")?,
        }
        match &self.interface {
            Some(name) => write!(f, "%{name}"),
            None => Ok(()),
        }
    }
}

/// Consecutive ports: `1 <= first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port there is.
    pub const ALL: Self = Self { first: 1, last: u16::MAX };

    /// The dynamic ports of RFC 6335, section 6.
    pub const DYNAMIC: Self = Self { first: 49152, last: u16::MAX };

    /// A range from its ends, both included; `None` without a port or with port 0.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (1 <= first && first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// How many ports there are above the lowest.
    pub fn span(self) -> u16 {
        self.last - self.first
    }

    /// Whether a port is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    pub(super) fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// What is left of the range when others are cut out.
    pub fn without(self, cuts: impl Iterator<Item = Self>) -> Vec<Self> {
        cuts.fold(vec![self], |left, cut| left.into_iter().flat_map(|range| range.minus(cut)).collect())
    }

    fn minus(self, cut: Self) -> impl Iterator<Item = Self> {
        let below = Self::new(self.first, self.last.min(cut.first - 1));
        let above = cut.last.checked_add(1);
        let above = above.and_then(|next| Self::new(self.first.max(next), self.last));
        below.into_iter().chain(above)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Whether an address can be that of one host: no group's, no broadcast's, not any.
pub fn is_host(addr: IpAddr) -> bool {
    !addr.is_unspecified() && !is_group(addr)
}

/// Whether an address is that of a group, or of all hosts: there is no TCP with these (RFC 1122,
/// section 4.2.3.10).
pub fn is_group(addr: IpAddr) -> bool {
    addr.is_multicast() || addr == Ipv4Addr::BROADCAST
}

/// The network protocols in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Families {
    /// IPv4 and IPv6, each if the host has it.
    #[default]
    Both,
    /// IPv4 alone.
    V4Only,
    /// IPv6 alone.
    V6Only,
}

impl Families {
    /// Those that are true, if any.
    pub fn of(v4: bool, v6: bool) -> Option<Self> {
        match (v4, v6) {
            (true, true) => Some(Self::Both),
            (true, false) => Some(Self::V4Only),
            (false, true) => Some(Self::V6Only),
            (false, false) => None,
        }
    }

    /// These less others, if any are left.
    pub fn without(self, others: Self) -> Option<Self> {
        Self::of(self.v4() && !others.v4(), self.v6() && !others.v6())
    }

    /// Whether that of this address may be used.
    pub fn has(self, addr: IpAddr) -> bool {
        if addr.is_ipv4() { self.v4() } else { self.v6() }
    }

    /// Whether IPv4 may be used.
    pub fn v4(self) -> bool {
        self != Self::V6Only
    }

    /// Whether IPv6 may be used.
    pub fn v6(self) -> bool {
        self != Self::V4Only
    }
}
