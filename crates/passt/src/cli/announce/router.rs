//! Values of options about router advertisements, each from its text; `None` is invalid.

use std::net::Ipv6Addr;

use passt_proto::responder::custom::{Advertised, INFINITE, Pref64, Route};
use passt_proto::wire::ndp::{MAX_PREF64_LIFETIME, Pref64Len, Preference};

use super::super::Error;
use super::{seconds, value};

/// The shortest lifetime of a router: advertisements can't come more often (RFC 4861, section
/// 6.2.1).
const MIN_LIFETIME: u16 = 4;

/// Three intervals of advertisements (RFC 8781, section 4.1).
const PREF64_LIFETIME: u16 = 1800;

/// Seconds that we are a router for, or zero.
pub(in crate::cli) fn lifetime(text: &str) -> Option<u16> {
    let lifetime = u16::try_from(value::decimal(text)?).ok()?;
    (lifetime == 0 || lifetime >= MIN_LIFETIME).then_some(lifetime)
}

/// A level of preference.
pub(in crate::cli) fn preference(text: &str) -> Option<Preference> {
    match text {
        "high" => Some(Preference::High),
        "medium" => Some(Preference::Medium),
        "low" => Some(Preference::Low),
        _ => None,
    }
}

/// `PREFIX/LEN[,LEVEL[,SECONDS]]`.
pub(in crate::cli) fn route(text: &str) -> Option<Route> {
    let mut parts = text.splitn(3, ',');
    let (prefix, len) = prefix(parts.next()?)?;
    let preference = parts.next().map_or(Some(Preference::Medium), preference)?;
    let lifetime = parts.next().map_or(Some(INFINITE), seconds)?;
    Some(Route { prefix, len, preference, lifetime })
}

/// `PREFIX/LEN[,SECONDS]`, with a length of RFC 6052, section 2.2.
pub(in crate::cli) fn pref64(text: &str) -> Option<Pref64> {
    let (text, lifetime) = text.split_once(',').map_or((text, None), |(text, time)| (text, Some(time)));
    let (prefix, len) = prefix(text)?;
    let len = match len {
        96 => Pref64Len::L96,
        64 => Pref64Len::L64,
        56 => Pref64Len::L56,
        48 => Pref64Len::L48,
        40 => Pref64Len::L40,
        32 => Pref64Len::L32,
        _ => return None,
    };
    let lifetime = match lifetime {
        Some(time) => u16::try_from(value::decimal(time)?).ok()?,
        None => PREF64_LIFETIME,
    };
    (lifetime <= MAX_PREF64_LIFETIME).then_some(Pref64 { prefix, len, lifetime })
}

/// A prefix of IPv6 without any bits beyond its length.
fn prefix(text: &str) -> Option<(Ipv6Addr, u8)> {
    let (prefix, len) = text.split_once('/')?;
    let prefix: Ipv6Addr = prefix.parse().ok()?;
    let len = u8::try_from(value::decimal(len)?).ok().filter(|&len| len <= 128)?;
    let beyond = u128::MAX.checked_shr(len.into()).unwrap_or(0);
    (prefix.to_bits() & beyond == 0).then_some((prefix, len))
}

/// Adds a route, or replaces one to the same prefix.
pub(in crate::cli) fn add_route(ra: &mut Advertised, route: Route) -> Result<(), Error> {
    ra.routes.retain(|known| (known.prefix, known.len) != (route.prefix, route.len));
    ra.routes.try_push(route).map_err(|_| Error::Conflict("Too many --ra-route"))
}

/// Adds a NAT64 prefix, or replaces the same one.
pub(in crate::cli) fn add_pref64(ra: &mut Advertised, pref64: Pref64) -> Result<(), Error> {
    ra.pref64.retain(|known| (known.prefix, known.len) != (pref64.prefix, pref64.len));
    ra.pref64.try_push(pref64).map_err(|_| Error::Conflict("Too many --ra-pref64"))
}
