//! Formats on the wire.
//!
//! Each header has a byte view (zerocopy, network order, no copy) and, where it
//! pays, a small value type that can only be had from valid bytes. Payload is
//! never looked at: it stays in the kernel's or the link's memory.

pub mod arp;
pub mod build;
pub mod checksum;
pub mod complaint;
#[cfg(test)]
pub(crate) mod decode;
pub mod dhcp;
pub mod dhcpv6;
pub mod domain;
pub mod ethernet;
pub mod fragment;
pub mod icmp;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod membership;
pub mod ndp;
pub mod offload;
pub mod report;
pub mod stream;
pub mod tcp;
pub mod udp;
pub mod writer;

/// A number in network byte order, at any alignment.
pub use zerocopy::network_endian::{U16, U32};
