//! Values that options take, each from its text; `None` is invalid.

use std::net::{IpAddr, Ipv4Addr};

use passt_proto::addr::Mac;

use super::config::RunAs;

/// Longest name of an interface.
const MAX_INTERFACE: usize = 15;
/// Longest domain name, and longest label in it (RFC 1035, section 2.3.4).
const MAX_DOMAIN: usize = 253;
const MAX_LABEL: usize = 63;

/// The text itself, if it is made of decimal digits alone.
pub(super) fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

/// A number in the base that C gives it: `0x1f`, `037`, `31`.
pub(super) fn number(text: &str) -> Option<u64> {
    let (digits, radix) = if let Some(hex) = text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        (hex, 16)
    } else if text.len() > 1 && text.starts_with('0') {
        (text, 8)
    } else {
        (text, 10)
    };
    // A sign would be accepted otherwise.
    let plain = digits.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then(|| u64::from_str_radix(digits, radix).ok())?
}

/// An address of either family; mapped IPv4 is IPv4.
pub(super) fn addr(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|a| a.to_canonical())
}

/// An address that can be one host's: neither unspecified nor broadcast nor multicast.
pub(super) fn unicast(text: &str) -> Option<IpAddr> {
    addr(text).filter(|&a| !a.is_unspecified() && !a.is_multicast() && a != Ipv4Addr::BROADCAST)
}

/// An address that can be reached over a link: [`unicast`], and not loopback.
pub(super) fn remote(text: &str) -> Option<IpAddr> {
    unicast(text).filter(|a| !a.is_loopback())
}

/// `ADDR[/LENGTH]` for a guest: a [`remote`] address and its prefix length.
pub(super) fn remote_prefix(text: &str) -> Option<(IpAddr, Option<u8>)> {
    let Some((addr, len)) = text.split_once('/') else {
        return remote(text).map(|addr| (addr, None));
    };
    let addr = remote(addr)?;
    let max = if addr.is_ipv4() { 32 } else { 128 };
    let len: u8 = digits(len)?.parse().ok()?;
    (1 <= len && len <= max).then_some((addr, Some(len)))
}

/// Why a text is no network of the guest's own.
pub(super) enum NotNetwork {
    /// It is not of the form `ADDR/LENGTH`.
    Text,
    /// There is no room for the guest and those whose names it knows, or no network at all.
    Length,
    /// It is an address in a network.
    Host,
}

/// `ADDR/LENGTH` of a network of the guest's own, of 128 addresses at least.
pub(super) fn network(text: &str) -> Result<(Ipv4Addr, u8), NotNetwork> {
    let (addr, len) = text.split_once('/').ok_or(NotNetwork::Text)?;
    let addr: Ipv4Addr = addr.parse().map_err(|_| NotNetwork::Text)?;
    let len: u32 =
        digits(len).filter(|len| len.len() <= 2).and_then(|len| len.parse().ok()).ok_or(NotNetwork::Text)?;
    let bits = u8::try_from(len).ok().filter(|len| (1..=25).contains(len)).ok_or(NotNetwork::Length)?;
    if addr.to_bits() << len == 0 { Ok((addr, bits)) } else { Err(NotNetwork::Host) }
}

/// The length of an IPv4 prefix, as a number or as a mask: `24`, `255.255.255.0`.
pub(super) fn netmask(text: &str) -> Option<u8> {
    let len = match text.parse::<Ipv4Addr>() {
        Ok(mask) => {
            let len = mask.to_bits().leading_ones();
            (len + mask.to_bits().trailing_zeros() == 32).then_some(len)?
        }
        Err(_) => u32::try_from(number(text)?).ok()?,
    };
    u8::try_from(len).ok().filter(|len| (1..=32).contains(len))
}

/// A MAC address of one station: six groups of two hexadecimal digits, with colons.
pub(super) fn mac(text: &str) -> Option<Mac> {
    let mut mac = Mac::default();
    let mut groups = text.split(':');
    for byte in &mut mac.0 {
        let group = groups.next()?;
        let valid = group.len() == 2 && group.bytes().all(|b| b.is_ascii_hexdigit());
        *byte = valid.then(|| u8::from_str_radix(group, 16).ok())??;
    }
    (groups.next().is_none() && !mac.is_group() && !mac.is_zero()).then_some(mac)
}

/// A name that an interface can have.
pub(super) fn interface(text: &str) -> Option<String> {
    let legal = |b: u8| b != b'/' && b != b':' && !b.is_ascii_whitespace();
    let valid = (1..=MAX_INTERFACE).contains(&text.len()) && text.bytes().all(legal);
    (valid && text != "." && text != "..").then(|| text.to_owned())
}

/// A host or domain name that fits DNS messages.
pub(super) fn domain(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let legal = |c: char| !c.is_whitespace() && !c.is_control();
    let label = |l: &str| (1..=MAX_LABEL).contains(&l.len()) && l.chars().all(legal);
    (name.len() <= MAX_DOMAIN && name.split('.').all(label)).then(|| text.to_owned())
}

/// `USER[:GROUP]`, numbers or names.
pub(super) fn run_as(text: &str) -> Option<RunAs> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    (!user.is_empty() && group != Some(""))
        .then(|| RunAs { user: user.to_owned(), group: group.map(str::to_owned) })
}
