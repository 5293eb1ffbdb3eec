//! DHCPv6 (RFC 8415) and its options.

use super::writer::Writer;

/// Port of servers.
pub const SERVER_PORT: u16 = 547;
/// Port of clients.
pub const CLIENT_PORT: u16 = 546;

/// Longest identifier of a client or server, its type included (RFC 8415, section 11.1).
pub const MAX_DUID: usize = 130;

/// Message types.
pub mod message {
    #![allow(missing_docs, reason = "the names are those of RFC 8415, section 7.3")]
    pub const SOLICIT: u8 = 1;
    pub const ADVERTISE: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const CONFIRM: u8 = 4;
    pub const RENEW: u8 = 5;
    pub const REBIND: u8 = 6;
    pub const REPLY: u8 = 7;
    pub const RELEASE: u8 = 8;
    pub const DECLINE: u8 = 9;
    pub const INFORMATION_REQUEST: u8 = 11;
}

/// Option codes (IANA).
pub mod option {
    #![allow(missing_docs, reason = "the names are those of the registry")]
    pub const CLIENT_ID: u16 = 1;
    pub const SERVER_ID: u16 = 2;
    pub const IA_NA: u16 = 3;
    pub const IA_TA: u16 = 4;
    pub const IA_ADDRESS: u16 = 5;
    pub const REQUESTED: u16 = 6;
    pub const PREFERENCE: u16 = 7;
    pub const STATUS: u16 = 13;
    pub const RAPID_COMMIT: u16 = 14;
    pub const DNS_SERVERS: u16 = 23;
    pub const DOMAIN_SEARCH: u16 = 24;
    pub const IA_PD: u16 = 25;
    pub const IA_PREFIX: u16 = 26;
    pub const INFORMATION_REFRESH_TIME: u16 = 32;
    pub const FQDN: u16 = 39;
}

/// Values of [`option::STATUS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// Done.
    Success = 0,
    /// No address for the association.
    NoAddrsAvail = 2,
    /// The address does not belong on this link.
    NotOnLink = 4,
    /// No prefix for the association.
    NoPrefixAvail = 6,
}

/// Whether an option is part of the protocol's exchange rather than something that a client is told
/// about its network: identifiers, associations, what clients and relays send, authentication.
pub fn is_protocol(code: u16) -> bool {
    matches!(code, 0..=16 | 18..=20 | option::IA_PD | option::IA_PREFIX)
}

/// The options of a message, or within an option, up to a malformed one.
pub fn options(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    core::iter::from_fn(move || {
        let (&[a, b, c, d], rest) = bytes.split_first_chunk()?;
        let (body, rest) = rest.split_at_checked(u16::from_be_bytes([c, d]).into())?;
        bytes = rest;
        Some((u16::from_be_bytes([a, b]), body))
    })
}

/// Writes one option with the body that `write` writes.
pub fn put_option(
    w: &mut Writer<'_>,
    code: u16,
    write: impl FnOnce(&mut Writer<'_>) -> Option<()>,
) -> Option<()> {
    w.u16(code)?;
    w.u16(0)?;
    let start = w.written();
    write(w)?;
    let len = u16::try_from(w.written().checked_sub(start)?).ok()?;
    w.patch(start.checked_sub(2)?, &len.to_be_bytes())
}

/// Writes a status option.
pub fn put_status(w: &mut Writer<'_>, status: Status, text: &str) -> Option<()> {
    put_option(w, option::STATUS, |w| {
        w.u16(status as u16)?;
        w.put(text.as_bytes())
    })
}
