//! The guest as it is known: what it was given, and what it was seen to have.
//!
//! A value without any reference to the outside: it is replaced as a whole when either part
//! changes, so that whoever reads it sees one state. What follows from it for a flow is decided in
//! [`rules`](crate::rules).

use arrayvec::ArrayVec;

use crate::addr::{Addr, Mac};

/// Most addresses of a family that the guest is given, and most of its stations that are known.
pub const MAX_ADDRESSES: usize = 16;

/// Addresses of one family, the preferred one first.
pub type Addresses = ArrayVec<Addr, MAX_ADDRESSES>;

/// What is known about the guest.
#[derive(Clone, Debug, Default)]
pub struct Guest {
    /// What it was given.
    pub configured: Configured,
    /// What it was seen to have.
    pub learnt: Learnt,
}

/// What the guest was given, and the addresses that mean something else on the other side.
#[derive(Clone, Debug, Default)]
pub struct Configured {
    /// Of IPv4.
    pub v4: FamilyConfig,
    /// Of IPv6.
    pub v6: FamilyConfig,
    /// How local connections bypass the link.
    pub bypass: Bypass,
    /// Index of the host's interface on which link-local addresses and multicast
    /// groups of IPv6 are reached; zero leaves it to the kernel.
    pub scope: u32,
}

/// Where connections from the host's loopback arrive that bypass the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bypass {
    /// There is no bypass (`--no-splice`, or no namespace): they travel on the link.
    #[default]
    Off,
    /// At the guest's own address, so that what listens on its loopback alone stays out of reach.
    Public,
    /// At the guest's loopback (`--host-lo-to-ns-lo`).
    Loopback,
}

/// What the guest was given of one family. Each address but a resolver's is of that family; `None` is a feature that
/// is off or an address that nobody has.
#[derive(Clone, Debug, Default)]
pub struct FamilyConfig {
    /// As the guest sees it: the host's loopback (`--map-host-loopback`).
    pub host_loopback: Option<Addr>,
    /// As the guest sees it: the host at an address that it shares with the guest
    /// (`--map-guest-addr`).
    pub host_itself: Option<Addr>,
    /// As the guest sees it: the host, where nothing but its echo replies is in reach. TCP and UDP
    /// are told that the network is unreachable.
    pub closed_host: Option<Addr>,
    /// As the guest sees it: a resolver (`--dns-forward`).
    pub dns_forward: Option<Addr>,
    /// On the host's side: that resolver (`--dns-host`), of either family.
    pub dns_host: Option<Addr>,
    /// Index of the host's interface on which that has a meaning, if it is another than
    /// [`Configured::scope`].
    pub dns_scope: Option<u32>,
    /// Source address of what leaves the host (`--outbound`).
    pub outbound: Option<Addr>,
    /// Connections to the host's loopback have that source, too.
    pub outbound_to_loopback: bool,
    /// The network on the link, as an address and the bits of its prefix, if it is one of the guest's
    /// own: nobody is there but the guest and those whose names it knows.
    pub apart: Option<(Addr, u8)>,
    /// Addresses whose pings we answer ourselves, whatever the host lets us ask of others.
    pub echoing: ArrayVec<Addr, 3>,
    /// All addresses that the guest was assigned. Without a way beyond the host these may be
    /// link-local, or none.
    pub assigned: Addresses,
    /// Our own address on the link, shown where the guest could not answer the real one.
    pub ours: Option<Addr>,
    /// The guest's gateway, if the user named one: shown in the place of `ours` at addresses of the
    /// same scope.
    pub gateway: Option<Addr>,
    /// Index of the host's interface on which the guest's multicast groups are joined, if they are.
    pub groups: Option<u32>,
    /// Whether the family is switched off, past the link as well.
    pub off: bool,
    /// Whether the guest was assigned an address by the user, who means it: none is learnt.
    pub fixed: bool,
}

/// What the guest was seen to have.
#[derive(Clone, Debug, Default)]
pub struct Learnt {
    /// The IPv4 address that it used last.
    v4: Option<Addr>,
    /// The IPv6 address that it used last, other than link-local.
    v6: Option<Addr>,
    /// Its IPv6 link-local address.
    link_local: Option<Addr>,
    /// The station that was heard last that was none of those known.
    station: Option<Mac>,
    /// Which station has an address; the latest last.
    stations: ArrayVec<Station, MAX_ADDRESSES>,
    /// Addresses that came to have a station, or another one that claims them.
    moves: u32,
}

/// Which station of the guest has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Station {
    addr: Addr,
    mac: Mac,
    evidence: Evidence,
}

/// How a station shows that it has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// It sends from there, as several may, of which each has flows of its own.
    Used,
    /// It says so, by ARP or neighbour discovery: what goes there goes to this station from now on.
    Claimed,
}

impl Guest {
    /// What the guest was given, before anything came from it.
    pub fn new(configured: Configured) -> Self {
        Self { configured, learnt: Learnt::default() }
    }

    /// What it was given of the family of `like`.
    pub fn family(&self, like: Addr) -> &FamilyConfig {
        if like.is_v4() { &self.configured.v4 } else { &self.configured.v6 }
    }

    /// Whether [`Guest::learn`] would change anything. None of our own names is the guest's,
    /// whatever it sends from.
    pub fn is_new(&self, source: Addr) -> bool {
        if self.is_name(source) {
            return false;
        }
        let known = match self.class(source) {
            AddrClass::LinkLocal => self.learnt.link_local,
            AddrClass::Fixed => return false,
            AddrClass::V4 => self.learnt.v4,
            AddrClass::V6 => self.learnt.v6,
        };
        known != Some(source)
    }

    /// Notes the source address of a packet from the guest, which must be unicast. Guests need not
    /// use what they were assigned, and what the host forwards is to reach them anyway.
    pub fn learn(&mut self, source: Addr) {
        let class = self.class(source);
        let learnt = &mut self.learnt;
        match class {
            AddrClass::LinkLocal => learnt.link_local = Some(source),
            AddrClass::Fixed => {}
            AddrClass::V4 => learnt.v4 = Some(source),
            AddrClass::V6 => learnt.v6 = Some(source),
        }
    }

    /// Whether an address that the guest claims to have is to be [learnt](Self::learn), before or
    /// without any packet from there. A claim counts less than use: what the guest was assigned
    /// stays once it is known to be there, and none of our own names is taken.
    pub fn believes(&self, claimed: Addr) -> bool {
        let family = self.family(claimed);
        let shown = self.learnt.used(claimed).is_some_and(|used| family.assigned.contains(&used));
        let is_global = claimed.is_v4() || !claimed.is_link_local();
        !(self.is_name(claimed) || shown && is_global)
    }

    /// Whether the guest knows somebody else, or us, by this address.
    pub fn is_name(&self, addr: Addr) -> bool {
        let family = self.family(addr);
        let names =
            [family.host_loopback, family.host_itself, family.closed_host, family.dns_forward, family.ours];
        names.contains(&Some(addr)) && !family.assigned.contains(&addr)
    }

    /// Whether the guest knows us by this address, and nobody else.
    pub fn is_only_ours(&self, addr: Addr) -> bool {
        let family = self.family(addr);
        let others = [family.host_loopback, family.host_itself, family.closed_host, family.dns_forward];
        family.ours == Some(addr) && !others.contains(&Some(addr))
    }

    /// Whether nobody can be at an address: it is on a link of the guest's own, or for all there.
    pub fn is_vacant(&self, addr: Addr) -> bool {
        let family = self.family(addr);
        let Some((network, len)) = family.apart else { return false };
        let known = self.is_name(addr) || family.assigned.contains(&addr);
        !known && (addr.is_group() || addr.shares_prefix(network, len))
    }

    /// Whether an echo request to this address is for us to answer.
    pub fn echoes(&self, addr: Addr) -> bool {
        self.family(addr).echoing.contains(&addr)
    }

    /// The guest has what it was assigned, as we have configured it.
    pub fn is_configured(&mut self) {
        let Configured { v4, v6, .. } = &self.configured;
        (self.learnt.v4, self.learnt.v6) = (v4.assigned.first().copied(), v6.assigned.first().copied());
    }

    /// The addresses that the guest has, as far as is known.
    pub fn addresses(&self) -> impl Iterator<Item = Addr> {
        let Learnt { v4, v6, link_local, .. } = self.learnt;
        let assigned = self.configured.v4.assigned.iter().chain(&self.configured.v6.assigned).copied();
        assigned.chain([v4, v6, link_local].into_iter().flatten())
    }

    fn class(&self, source: Addr) -> AddrClass {
        if !source.is_v4() && source.is_link_local() {
            AddrClass::LinkLocal
        } else if self.family(source).fixed {
            AddrClass::Fixed
        } else if source.is_v4() {
            AddrClass::V4
        } else {
            AddrClass::V6
        }
    }
}

/// What an address in use says.
#[derive(Clone, Copy)]
enum AddrClass {
    /// The guest's link-local address.
    LinkLocal,
    /// Nothing: the user said what the guest has.
    Fixed,
    V4,
    V6,
}

impl Learnt {
    /// Stations that frames came from, each once.
    pub fn stations(&self) -> impl Iterator<Item = Mac> {
        let all = || self.stations.iter().map(|known| known.mac);
        let first = move |&(at, mac): &(usize, Mac)| all().take(at).all(|other| other != mac);
        let known = self.stations.iter().map(|known| known.mac).enumerate().filter(first).map(|(_, mac)| mac);
        let last = self.station.filter(|last| self.stations.iter().all(|known| known.mac != *last));
        known.chain(last)
    }

    /// The address of the family of `like` that the guest used last, other than link-local in IPv6.
    pub fn used(&self, like: Addr) -> Option<Addr> {
        if like.is_v4() { self.v4 } else { self.v6 }
    }

    /// The guest's IPv6 link-local address.
    pub fn link_local(&self) -> Option<Addr> {
        self.link_local
    }

    /// Where frames for an address of the guest's go: the station that used it, or else the one
    /// that frames came from last. `None` before the first frame.
    pub fn station_of(&self, addr: Addr) -> Option<Mac> {
        self.known(addr).map(|known| known.mac).or(self.station)
    }

    /// Where frames for an address of the guest's go of one who sent them to `before`: as
    /// [`Learnt::station_of`], but that an address may have been forgotten where there are many.
    pub fn station_after(&self, addr: Addr, before: Mac) -> Option<Mac> {
        let is_known = !self.stations.is_full() || before.is_group() || self.known(addr).is_some();
        if is_known { self.station_of(addr) } else { Some(before) }
    }

    /// Whether a frame came from this station before, or none at all did.
    pub fn has_met(&self, station: Mac) -> bool {
        self.station.is_none_or(|last| last == station)
            || self.stations.iter().any(|known| known.mac == station)
    }

    /// Whether another station had the address that a frame from `station` has now.
    pub fn is_taken_by(&self, station: Mac, source: Addr) -> bool {
        self.known(source).is_some_and(|known| known.mac != station)
    }

    /// How often the answer of [`Learnt::station_after`] may have changed.
    pub fn moves(&self) -> u32 {
        self.moves
    }

    fn known(&self, addr: Addr) -> Option<&Station> {
        self.stations.iter().find(|known| known.addr == addr)
    }

    /// Whether [`Learnt::hear`] would change anything. One that uses an address takes it from
    /// nobody who claims it.
    pub fn is_news(&self, station: Mac, source: Option<Addr>, evidence: Evidence) -> bool {
        let Some(source) = source else { return self.station != Some(station) };
        self.known(source).is_none_or(|known| {
            evidence > known.evidence || evidence == known.evidence && station != known.mac
        })
    }

    /// Notes that a frame came from `station`, and how that shows that `source` is there, if it
    /// does. What was heard of the same address before is forgotten; where there are too many,
    /// what was new longest ago.
    pub fn hear(&mut self, station: Mac, source: Option<Addr>, evidence: Evidence) {
        if !self.is_news(station, source, evidence) {
            return;
        }
        self.station = Some(station);
        let is_new = source.is_none_or(|source| self.known(source).is_none());
        if is_new || evidence == Evidence::Claimed {
            self.moves = self.moves.wrapping_add(1);
        }
        let Some(addr) = source else { return };
        self.stations.retain(|known| known.addr != addr);
        if self.stations.is_full() {
            self.stations.remove(0);
        }
        self.stations.push(Station { addr, mac: station, evidence });
    }
}
