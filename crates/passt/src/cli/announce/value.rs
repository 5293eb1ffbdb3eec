//! Values of options as text, and as bytes on the wire.

use std::net::{Ipv4Addr, Ipv6Addr};

use passt_proto::wire::domain::put_names;
use passt_proto::wire::writer::Writer;

use super::super::values;

/// What bytes in hexadecimal are.
const PAIRS: &str = "pairs of hexadecimal digits, of that length";

/// Type of an option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One address of IPv4.
    Address,
    /// Addresses of IPv4.
    Addresses,
    /// An even number of addresses of IPv4.
    AddressPairs,
    /// Addresses of IPv6.
    Addresses6,
    U8,
    U16,
    U16s,
    U32,
    I32,
    Bool,
    Text,
    /// Texts with a length of two bytes before each (RFC 5970, section 3.2).
    Texts16,
    /// A name in DNS form.
    Domain,
    /// Names in DNS form.
    Domains,
    /// Networks, each with its gateway (RFC 3442).
    Routes,
    /// Addresses or names behind a byte that says which (RFC 3361).
    Sip,
    /// Suboptions with an address, a group or a name (RFC 5908).
    Ntp6,
    /// What has no type of its own.
    Bytes,
}

impl Kind {
    /// What a value is, for the manual and for messages.
    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Address => "an IPv4 address",
            Self::Addresses => "IPv4 addresses",
            Self::AddressPairs => "pairs of IPv4 addresses",
            Self::Addresses6 => "IPv6 addresses",
            Self::U8 => "a number up to 255",
            Self::U16 => "a number up to 65535",
            Self::U16s => "numbers up to 65535",
            Self::U32 => "a number of 32 bits",
            Self::I32 => "a number of 32 bits, with a sign",
            Self::Bool => "yes or no",
            Self::Text => "text",
            Self::Texts16 => "texts",
            Self::Domain => "a domain name",
            Self::Domains => "domain names",
            Self::Routes => "NETWORK/LENGTH,GATEWAY pairs",
            Self::Sip => "IPv4 addresses, or domain names",
            Self::Ntp6 => "IPv6 addresses and domain names",
            Self::Bytes => "hexadecimal digits or text",
        }
    }

    /// The bytes of a value, or what it is not. Whatever the type, bytes can be given in
    /// hexadecimal, as long as there are as many as the type has.
    pub(super) fn encode(self, text: &str) -> Result<Vec<u8>, &'static str> {
        let prefixed = text.strip_prefix("hex:");
        let bytes = match prefixed.or_else(|| self.bare_hex(text)) {
            Some(digits) => hex(digits).ok_or(PAIRS)?,
            None => self.encode_text(text).ok_or(self.expected())?,
        };
        let expected = if prefixed.is_some() { PAIRS } else { self.expected() };
        if self.fits(bytes.len()) { Ok(bytes) } else { Err(expected) }
    }

    /// The digits after `0x`, which for a number is nothing special. Where text is possible, too,
    /// and it has other characters, it is text.
    fn bare_hex(self, text: &str) -> Option<&str> {
        let is_number = matches!(self, Self::U8 | Self::U16 | Self::U16s | Self::U32 | Self::I32);
        let digits = text.strip_prefix("0x").filter(|_| !is_number)?;
        digits.bytes().all(|b| b.is_ascii_hexdigit() || b == b':').then_some(digits)
    }

    fn encode_text(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Address | Self::Addresses | Self::AddressPairs => list(text, address),
            Self::Addresses6 => list(text, |item| Some(item.parse::<Ipv6Addr>().ok()?.octets().to_vec())),
            Self::U8 => Some(vec![u8::try_from(number(text)?).ok()?]),
            Self::U16 => uint16(text),
            Self::U16s => list(text, uint16),
            Self::U32 => Some(u32::try_from(number(text)?).ok()?.to_be_bytes().to_vec()),
            Self::I32 => Some(signed(text)?.to_be_bytes().to_vec()),
            Self::Bool => boolean(text).map(|on| vec![u8::from(on)]),
            Self::Text | Self::Bytes => Some(text.as_bytes().to_vec()),
            Self::Texts16 => list(text, |item| {
                let len = u16::try_from(item.len()).ok()?;
                Some([&len.to_be_bytes()[..], item.as_bytes()].concat())
            }),
            Self::Domain => domain(text),
            Self::Domains => list(text, domain),
            Self::Routes => routes(text),
            Self::Sip => match list(text, address) {
                Some(addresses) => Some([&[1], &addresses[..]].concat()),
                None => Some([&[0], &list(text, domain)?[..]].concat()),
            },
            Self::Ntp6 => list(text, ntp6),
        }
    }

    /// Whether a value can have this length.
    fn fits(self, len: usize) -> bool {
        match self {
            Self::Address | Self::U32 | Self::I32 => len == 4,
            Self::Addresses => len > 0 && len.is_multiple_of(4),
            Self::AddressPairs => len > 0 && len.is_multiple_of(8),
            Self::Addresses6 => len > 0 && len.is_multiple_of(16),
            Self::U8 | Self::Bool => len == 1,
            Self::U16 => len == 2,
            Self::U16s => len > 0 && len.is_multiple_of(2),
            _ => len > 0,
        }
    }
}

/// What `encode` makes of the items of a list with commas.
fn list(text: &str, encode: impl Fn(&str) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let items: Option<Vec<_>> = text.split(',').map(|item| encode(item.trim())).collect();
    items.map(|items| items.concat())
}

fn address(text: &str) -> Option<Vec<u8>> {
    text.parse::<Ipv4Addr>().ok().map(|addr| addr.octets().to_vec())
}

/// A number in decimal digits.
pub(super) fn decimal(text: &str) -> Option<u64> {
    values::digits(text)?.parse().ok()
}

/// A number, decimal or hexadecimal after `0x`.
fn number(text: &str) -> Option<u64> {
    if text.starts_with("0x") { values::number(text) } else { decimal(text) }
}

fn uint16(text: &str) -> Option<Vec<u8>> {
    Some(u16::try_from(number(text)?).ok()?.to_be_bytes().to_vec())
}

fn signed(text: &str) -> Option<i32> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let value = i64::try_from(number(digits)?).ok()?;
    i32::try_from(if negative { -value } else { value }).ok()
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "yes" | "on" | "true" => Some(true),
        "0" | "no" | "off" | "false" => Some(false),
        _ => None,
    }
}

/// Bytes in pairs of hexadecimal digits, perhaps with colons between them.
fn hex(text: &str) -> Option<Vec<u8>> {
    let pair = |text: &str| {
        let valid = text.len() == 2 && text.bytes().all(|b| b.is_ascii_hexdigit());
        valid.then(|| u8::from_str_radix(text, 16).ok())?
    };
    if text.is_empty() {
        return None;
    }
    if text.contains(':') {
        return text.split(':').map(pair).collect();
    }
    let pairs = text.as_bytes().chunks(2).map(|chunk| std::str::from_utf8(chunk).ok().and_then(pair));
    pairs.collect()
}

/// A name in DNS form (RFC 1035, section 3.1).
fn domain(text: &str) -> Option<Vec<u8>> {
    let name = values::domain(text)?;
    let mut room = [0; 256];
    let mut w = Writer::new(&mut room);
    let written = put_names(&mut w, std::iter::once(name.as_str()), false);
    let len = w.written();
    (written == 1).then(|| room.get(..len).map(<[u8]>::to_vec))?
}

/// `NETWORK/LENGTH,GATEWAY` any number of times: the length, as much of the network as it needs,
/// the gateway.
fn routes(text: &str) -> Option<Vec<u8>> {
    let items: Vec<_> = text.split(',').map(str::trim).collect();
    let (pairs, rest) = items.as_chunks::<2>();
    let encoded: Option<Vec<_>> = pairs.iter().map(|[network, gateway]| route(network, gateway)).collect();
    encoded.filter(|_| rest.is_empty()).map(|encoded| encoded.concat())
}

fn route(network: &str, gateway: &str) -> Option<Vec<u8>> {
    let (network, len) = network.split_once('/').unwrap_or((network, "32"));
    let len = u8::try_from(decimal(len)?).ok().filter(|&len| len <= 32)?;
    let network: Ipv4Addr = network.parse().ok()?;
    let beyond = u32::MAX.checked_shr(len.into()).unwrap_or(0);
    let significant = network.octets().get(..usize::from(len.div_ceil(8)))?.to_vec();
    let whole = network.to_bits() & beyond == 0;
    whole.then(|| Some([&[len], &significant[..], &address(gateway)?[..]].concat()))?
}

/// A suboption of RFC 5908, section 4: a server, a group, or a name.
fn ntp6(text: &str) -> Option<Vec<u8>> {
    let (code, body) = match text.parse::<Ipv6Addr>() {
        Ok(group) if group.is_multicast() => (2, group.octets().to_vec()),
        Ok(server) => (1, server.octets().to_vec()),
        Err(_) => (3, domain(text)?),
    };
    Some([&[0, code, 0, u8::try_from(body.len()).ok()?], &body[..]].concat())
}
