//! What the user wants a guest to be told beyond what follows from its network, or in its place.
//!
//! Options of DHCP and DHCPv6 are kept as bytes, by their code: what they mean, and which of them
//! are the protocol's own, is known to whoever fills this in. The rest has types of its own,
//! because it also decides when something is sent.

use core::net::{Ipv4Addr, Ipv6Addr};

use arrayvec::{ArrayString, ArrayVec};

use super::Name;
use crate::wire::dhcpv6;
use crate::wire::ndp::{self, Preference};
use crate::wire::writer::Writer;

/// Bytes that [`Options`] can hold, four for each option included: what fits an answer on any link
/// beside the rest of it.
pub const MAX_OPTIONS: usize = 1024;

/// A time without end, in DHCP, DHCPv6 and router advertisements.
pub const INFINITE: u32 = u32::MAX;

/// Bounds of the time between unsolicited router advertisements, in seconds
/// (RFC 4861, section 6.2.1: `MinRtrAdvInterval`, `MaxRtrAdvInterval`).
const ADVERTISE: (u64, u64) = (200, 600);

/// The least that `MaxRtrAdvInterval` can be.
const MIN_ADVERTISE: u64 = 4;

/// The user's part of a [`Config`](super::Config). The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Custom {
    /// Options of DHCP.
    pub dhcp: Options,
    /// Lease of the IPv4 address; `preferred` has no meaning there.
    pub dhcp_lease: Lease,
    /// What a client without a disk boots.
    pub boot: Option<Boot>,
    /// Options of DHCPv6.
    pub dhcpv6: Options,
    /// Lease of the IPv6 address.
    pub dhcpv6_lease: Lease,
    /// Router advertisements.
    pub ra: Advertised,
}

/// Options by their codes, in the format of DHCPv6 whatever the protocol. One with an empty body
/// is not sent, nor is what would be sent without it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    bytes: ArrayVec<u8, MAX_OPTIONS>,
}

impl Options {
    /// Adds an option whose code is not there yet; `None` if there is no room for it.
    pub fn push(&mut self, code: u16, body: &[u8]) -> Option<()> {
        let len = u16::try_from(body.len()).ok()?;
        let needed = body.len().checked_add(4)?;
        if needed > self.bytes.remaining_capacity() {
            return None;
        }
        for part in [&code.to_be_bytes()[..], &len.to_be_bytes(), body] {
            self.bytes.try_extend_from_slice(part).ok()?;
        }
        Some(())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &[u8])> {
        dhcpv6::options(&self.bytes)
    }

    /// The body of an option; an empty one is removed.
    pub fn get(&self, code: u16) -> Option<&[u8]> {
        self.iter().find_map(|(own, body)| (own == code).then_some(body))
    }

    /// Whether any of them is sent.
    pub fn any(&self) -> bool {
        self.iter().any(|(_, body)| !body.is_empty())
    }
}

/// How long an address may be used, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// When it ends.
    pub valid: u32,
    /// Until when new connections use it (RFC 4862, section 2).
    pub preferred: u32,
    /// When the client asks us again: T1.
    pub renewal: u32,
    /// When it asks anybody: T2.
    pub rebinding: u32,
}

impl Default for Lease {
    fn default() -> Self {
        Self { valid: INFINITE, preferred: INFINITE, renewal: INFINITE, rebinding: INFINITE }
    }
}

/// Fields of the fixed part of a DHCP message (RFC 2131, section 2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// Next server, `siaddr`; our own address if there is none.
    pub server: Option<Ipv4Addr>,
    /// Its name, `sname`, less than the 64 bytes there.
    pub name: ArrayString<63>,
    /// Boot file, `file`, less than the 128 bytes there.
    pub file: ArrayString<127>,
}

/// What router advertisements say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// Whether the guest hears of us before it asks. Linux takes a default route then at once, and
    /// until it has an address connects from `::1`, which nothing answers.
    pub unasked: bool,
    /// Seconds that we stay a default router, zero for none.
    pub lifetime: u16,
    /// Preference as default router (RFC 4191).
    pub preference: Preference,
    /// Seconds that name servers and search domains may be used.
    pub dns_lifetime: u32,
    /// Routes through us.
    pub routes: ArrayVec<Route, 8>,
    /// Prefixes of NAT64 (RFC 8781).
    pub pref64: ArrayVec<Pref64, 2>,
    /// URI of a captive portal's API (RFC 8910).
    pub captive_portal: Option<Name>,
}

/// A route through us (RFC 4191, section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destinations, without bits beyond `len`.
    pub prefix: Ipv6Addr,
    /// Bits of the prefix, at most 128.
    pub len: u8,
    /// Preference among such routes.
    pub preference: Preference,
    /// Seconds.
    pub lifetime: u32,
}

/// A prefix of NAT64 (RFC 8781, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pref64 {
    /// The prefix, of which at most 96 bits are not zero.
    pub prefix: Ipv6Addr,
    /// Its length.
    pub len: ndp::Pref64Len,
    /// Seconds, at most [`ndp::MAX_PREF64_LIFETIME`]; they are rounded up to 8.
    pub lifetime: u16,
}

impl Default for Advertised {
    fn default() -> Self {
        Self {
            unasked: true,
            // The most there can be (RFC 8319, section 4).
            lifetime: u16::MAX,
            preference: Preference::Medium,
            dns_lifetime: INFINITE,
            routes: ArrayVec::new(),
            pref64: ArrayVec::new(),
            captive_portal: None,
        }
    }
}

impl Advertised {
    /// Bounds of the time between unsolicited advertisements, in seconds: three of them come before
    /// the first of what they say ends, where the protocol allows it.
    pub fn interval(&self) -> (u64, u64) {
        let routes = self.routes.iter().map(|route| route.lifetime);
        let pref64 = self.pref64.iter().map(|pref64| pref64.lifetime.into());
        let all = routes.chain(pref64).chain([self.lifetime.into(), self.dns_lifetime]);
        let first = all.filter(|&lifetime| lifetime != 0).min().unwrap_or(INFINITE);
        let max = (u64::from(first) / 3).clamp(MIN_ADVERTISE, ADVERTISE.1);
        (ADVERTISE.0.min(max.div_ceil(3)).max(3), max)
    }

    /// The preference as it is sent: none without a default router (RFC 4191, section 2.2).
    pub(super) fn preference_bits(&self) -> u8 {
        if self.lifetime == 0 { Preference::Medium.bits() } else { self.preference.bits() }
    }

    /// Writes the options that are here.
    pub(super) fn write(&self, w: &mut Writer<'_>) -> Option<()> {
        for route in &self.routes {
            ndp::put_route(w, route.prefix, route.len, route.preference, route.lifetime)?;
        }
        for pref64 in &self.pref64 {
            ndp::put_pref64(w, pref64.prefix, pref64.len, pref64.lifetime)?;
        }
        self.captive_portal.as_ref().map_or(Some(()), |uri| ndp::put_captive_portal(w, uri))
    }
}
