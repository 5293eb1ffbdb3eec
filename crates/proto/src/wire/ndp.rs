//! IPv6 neighbour discovery (RFC 4861, section 4) with the DNS options of RFC 8106, routes of
//! RFC 4191, prefixes of RFC 8781 and the captive portal of RFC 8910.

use core::net::Ipv6Addr;

use super::domain::put_names;
use super::writer::Writer;
use crate::addr::Mac;

/// Type of a router solicitation.
pub const ROUTER_SOLICITATION: u8 = 133;
/// Type of a router advertisement.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Type of a neighbour solicitation.
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Type of a neighbour advertisement.
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// The hop limit that proves that a message was not forwarded.
pub const HOP_LIMIT: u8 = 255;

/// A lifetime without end.
pub const INFINITE: u32 = u32::MAX;

/// Option: link-layer address of the source.
pub const SOURCE_LINK: u8 = 1;
/// Option: link-layer address of the target.
pub const TARGET_LINK: u8 = 2;

const PREFIX: u8 = 3;
const MTU: u8 = 5;
const ROUTE: u8 = 24;
const DNS_SERVERS: u8 = 25;
const DNS_SEARCH: u8 = 31;
const CAPTIVE_PORTAL: u8 = 37;
const PREF64: u8 = 38;

/// Longest lifetime of a NAT64 prefix, in seconds: 13 bits that count units of 8.
pub const MAX_PREF64_LIFETIME: u16 = 0xfff8;

/// Flags of a neighbour advertisement: from a router, asked for, replaces what was known.
pub const ADVERTISED: u32 = 0xe000_0000;
/// The one of them that says that the advertisement was asked for.
pub const SOLICITED: u32 = 0x4000_0000;

/// Prefix flag: addresses are on the link.
pub const ON_LINK: u8 = 0x80;
/// Prefix flag: addresses may be formed from it.
pub const AUTONOMOUS: u8 = 0x40;

/// Whether a message's options, its tail, have one of a kind; `None` if any of them
/// is malformed, which invalidates the message.
pub fn has_option(mut bytes: &[u8], wanted: u8) -> Option<bool> {
    let mut found = false;
    while let [kind, units, ..] = *bytes {
        if units == 0 {
            return None;
        }
        bytes = bytes.get(usize::from(units) * 8..)?;
        found |= kind == wanted;
    }
    bytes.is_empty().then_some(found)
}

/// Writes a link-layer address option.
pub fn put_link(w: &mut Writer<'_>, kind: u8, mac: Mac) -> Option<()> {
    w.put(&[kind, 1])?;
    w.put(&mac.0)
}

/// Writes a prefix information option with lifetimes without end.
pub fn put_prefix(w: &mut Writer<'_>, prefix: Ipv6Addr, len: u8, flags: u8) -> Option<()> {
    w.put(&[PREFIX, 4, len, flags])?;
    w.u32(INFINITE)?;
    w.u32(INFINITE)?;
    w.u32(0)?;
    w.put(&prefix.octets())
}

/// Writes an MTU option.
pub fn put_mtu(w: &mut Writer<'_>, mtu: u16) -> Option<()> {
    w.put(&[MTU, 1, 0, 0])?;
    w.u32(mtu.into())
}

/// Preference of a router or route (RFC 4191, section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    /// Before others.
    High,
    /// Like those who say nothing of it.
    Medium,
    /// After others.
    Low,
}

impl Preference {
    /// As it stands in the flags of a router advertisement, and in those of a route.
    pub fn bits(self) -> u8 {
        match self {
            Self::High => 0x08,
            Self::Medium => 0,
            Self::Low => 0x18,
        }
    }
}

/// Writes a route information option (RFC 4191, section 2.3) with as much of the prefix as it needs.
pub fn put_route(
    w: &mut Writer<'_>,
    prefix: Ipv6Addr,
    len: u8,
    preference: Preference,
    lifetime: u32,
) -> Option<()> {
    let units = len.div_ceil(64);
    w.put(&[ROUTE, units.checked_add(1)?, len, preference.bits()])?;
    w.u32(lifetime)?;
    w.put(prefix.octets().get(..usize::from(units).checked_mul(8)?)?)
}

/// Length of a NAT64 prefix (RFC 6052, section 2.2); the value is its code in the option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say all")]
pub enum Pref64Len {
    L96 = 0,
    L64 = 1,
    L56 = 2,
    L48 = 3,
    L40 = 4,
    L32 = 5,
}

/// Writes a PREF64 option (RFC 8781, section 4) with a lifetime in seconds.
pub fn put_pref64(w: &mut Writer<'_>, prefix: Ipv6Addr, len: Pref64Len, lifetime: u16) -> Option<()> {
    w.put(&[PREF64, 2])?;
    let scaled = lifetime.min(MAX_PREF64_LIFETIME).next_multiple_of(8);
    w.u16(scaled | u16::from(len as u8))?;
    w.put(prefix.octets().get(..12)?)
}

/// Writes a captive portal option (RFC 8910, section 2.3).
pub fn put_captive_portal(w: &mut Writer<'_>, uri: &str) -> Option<()> {
    let len = uri.len().checked_add(2)?.next_multiple_of(8);
    let end = w.written().checked_add(len)?;
    w.put(&[CAPTIVE_PORTAL, u8::try_from(len / 8).ok()?])?;
    w.put(uri.as_bytes())?;
    w.zero_to(end)
}

/// Writes an option with DNS servers, unless there are none, with a lifetime in seconds.
pub fn put_dns_servers(w: &mut Writer<'_>, servers: &[Ipv6Addr], lifetime: u32) -> Option<()> {
    if servers.is_empty() {
        return Some(());
    }
    let units = u8::try_from(servers.len().checked_mul(2)?.checked_add(1)?).ok()?;
    w.put(&[DNS_SERVERS, units, 0, 0])?;
    w.u32(lifetime)?;
    servers.iter().try_for_each(|s| w.put(&s.octets()))
}

/// Writes an option with as many of the domains to search as fit, if any does, with a lifetime in
/// seconds.
pub fn put_dns_search<'a>(w: &mut Writer<'_>, names: impl Iterator<Item = &'a str>, lifetime: u32) {
    let start = w.written();
    w.attempt(|w| {
        w.put(&[DNS_SEARCH, 0, 0, 0])?;
        w.u32(lifetime)?;
        if put_names(w, names, false) == 0 {
            return None;
        }
        let len = w.written().checked_sub(start)?.next_multiple_of(8);
        w.zero_to(start.checked_add(len)?)?;
        w.patch(start.checked_add(1)?, &[u8::try_from(len / 8).ok()?])
    });
}
