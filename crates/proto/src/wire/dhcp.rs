//! DHCP (RFC 2131) and its options (RFC 2132).

use core::net::Ipv4Addr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::writer::Writer;
use super::{U16, U32};

/// Port of servers.
pub const SERVER_PORT: u16 = 67;
/// Port of clients.
pub const CLIENT_PORT: u16 = 68;

/// Operation of a message from a client.
pub const BOOTREQUEST: u8 = 1;
/// Operation of a message from a server.
pub const BOOTREPLY: u8 = 2;

/// Flag: the client wants the answer broadcast.
pub const BROADCAST: u16 = 0x8000;

/// First bytes of the options (RFC 2132, section 2).
pub const MAGIC: u32 = 0x6382_5363;

/// Bytes of the shortest message that BOOTP relays and clients expect (RFC 951, section 3).
pub const MIN_LEN: usize = 300;

/// The fixed part of a message, up to the options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`BOOTREQUEST`] or [`BOOTREPLY`].
    pub op: u8,
    /// Hardware type, 1 for Ethernet.
    pub htype: u8,
    /// Length of a hardware address.
    pub hlen: u8,
    /// Relays passed.
    pub hops: u8,
    /// Transaction.
    pub xid: U32,
    /// Seconds since the client started.
    pub secs: U16,
    /// [`BROADCAST`].
    pub flags: U16,
    /// Address of a client that has one.
    pub ciaddr: [u8; 4],
    /// Address given to the client.
    pub yiaddr: [u8; 4],
    /// Next server of a boot.
    pub siaddr: [u8; 4],
    /// Relay.
    pub giaddr: [u8; 4],
    /// Hardware address of the client.
    pub chaddr: [u8; 16],
    /// Name of the server.
    pub sname: [[u8; 32]; 2],
    /// Boot file.
    pub file: [[u8; 32]; 4],
    /// [`MAGIC`].
    pub magic: U32,
}

/// Values of [`option::MESSAGE_TYPE`].
pub mod message {
    #![allow(missing_docs, reason = "the names are those of RFC 2131, table 2")]
    pub const DISCOVER: u8 = 1;
    pub const OFFER: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const ACK: u8 = 5;
    pub const NAK: u8 = 6;
    pub const INFORM: u8 = 8;
}

/// Option codes (IANA).
pub mod option {
    #![allow(missing_docs, reason = "the names are those of the registry")]
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS_SERVERS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const MTU: u8 = 26;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const MAX_SIZE: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const CLIENT_ID: u8 = 61;
    pub const RAPID_COMMIT: u8 = 80;
    pub const FQDN: u8 = 81;
    pub const RELAY_INFORMATION: u8 = 82;
    pub const DOMAIN_SEARCH: u8 = 119;
    pub const CLASSLESS_ROUTES: u8 = 121;
    pub const END: u8 = 255;
}

/// Whether an option is part of the protocol's exchange, or of the format, rather than something
/// that a client is told about its network.
pub fn is_protocol(code: u8) -> bool {
    use option::{
        CLIENT_ID, END, LEASE_TIME, MAX_SIZE, MESSAGE_TYPE, OVERLOAD, PAD, PARAMETERS, RAPID_COMMIT,
        REBINDING_TIME, RELAY_INFORMATION, RENEWAL_TIME, REQUESTED_ADDRESS, SERVER_ID,
    };
    let format = matches!(code, PAD | END | OVERLOAD);
    let identity = matches!(code, MESSAGE_TYPE | SERVER_ID | CLIENT_ID | RAPID_COMMIT | RELAY_INFORMATION);
    let lease = matches!(code, LEASE_TIME | RENEWAL_TIME | REBINDING_TIME);
    format || identity || lease || matches!(code, REQUESTED_ADDRESS | PARAMETERS | MAX_SIZE)
}

/// The options of a message, up to a malformed one.
pub fn options(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    core::iter::from_fn(move || {
        while let [option::PAD, rest @ ..] = bytes {
            bytes = rest;
        }
        let [code, len, rest @ ..] = bytes else {
            return None;
        };
        let (body, rest) = rest.split_at_checked(usize::from(*len))?;
        bytes = rest;
        (*code != option::END).then_some((*code, body))
    })
}

/// The address that an option holds.
pub fn address(body: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(body).ok().map(Ipv4Addr::from)
}

/// Writes one option with the body that `write` writes.
pub fn put_option(
    w: &mut Writer<'_>,
    code: u8,
    write: impl FnOnce(&mut Writer<'_>) -> Option<()>,
) -> Option<()> {
    w.put(&[code, 0])?;
    let start = w.written();
    write(w)?;
    let len = u8::try_from(w.written().checked_sub(start)?).ok()?;
    w.patch(start.checked_sub(1)?, &[len])
}
