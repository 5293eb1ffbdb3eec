//! ARP for IPv4 over Ethernet (RFC 826).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{U16, ethernet};

/// Asks who has an address.
pub const REQUEST: u16 = 1;
/// Answers a request.
pub const REPLY: u16 = 2;

const HARDWARE_ETHERNET: u16 = 1;

/// A packet.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ArpPacket {
    hardware: U16,
    protocol: U16,
    hardware_len: u8,
    protocol_len: u8,
    /// [`REQUEST`] or [`REPLY`].
    pub operation: U16,
    /// Hardware address of the sender.
    pub sender_mac: [u8; 6],
    /// Protocol address of the sender.
    pub sender: [u8; 4],
    /// Hardware address of the target.
    pub target_mac: [u8; 6],
    /// Protocol address of the target.
    pub target: [u8; 4],
}

impl ArpPacket {
    /// A packet from `sender` to `target`, each a hardware and a protocol address.
    pub fn new(operation: u16, sender: ([u8; 6], [u8; 4]), target: ([u8; 6], [u8; 4])) -> Self {
        Self {
            hardware: HARDWARE_ETHERNET.into(),
            protocol: ethernet::IPV4.into(),
            hardware_len: 6,
            protocol_len: 4,
            operation: operation.into(),
            sender_mac: sender.0,
            sender: sender.1,
            target_mac: target.0,
            target: target.1,
        }
    }

    /// The packet at the start of `bytes`, if it is about IPv4 over Ethernet.
    pub fn parse(bytes: &[u8]) -> Option<&Self> {
        let (packet, _) = Self::ref_from_prefix(bytes).ok()?;
        let known = packet.hardware.get() == HARDWARE_ETHERNET
            && packet.protocol.get() == ethernet::IPV4
            && packet.hardware_len == 6
            && packet.protocol_len == 4;
        known.then_some(packet)
    }
}
