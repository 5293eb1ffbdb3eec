//! Frames as lines of a trace.

use core::fmt;

use super::{Class, Datagram};
use crate::addr::Endpoint;

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arp { .. } => f.write_str("ARP"),
            Self::Ndp { src, dst, message, .. } => {
                write!(f, "neighbour discovery {src} to {dst}, {} bytes", message.len())
            }
            Self::Membership { src, dst, message, .. } => {
                write!(f, "group membership {src} to {dst}, {} bytes", message.len())
            }
            Self::Dhcp(datagram) => write!(f, "DHCP {datagram}"),
            Self::Dhcpv6(datagram) => write!(f, "DHCPv6 {datagram}"),
            Self::Udp(datagram) => write!(f, "UDP {datagram}"),
            Self::Tcp { src, dst, segment, payload, .. } => {
                let ports = (segment.src_port, segment.dst_port);
                let (from, to) = (Endpoint::new(*src, ports.0), Endpoint::new(*dst, ports.1));
                write!(f, "TCP {from} to {to}, ")?;
                bitflags::parser::to_writer(&segment.flags, &mut *f)?;
                write!(f, ", {} bytes", payload.len())
            }
            Self::Echo { src, dst, id, seq, .. } => {
                write!(f, "ICMP echo {src} to {dst}, identifier {id}, number {seq}")
            }
            Self::Complaint { src, complaint } => write!(f, "ICMP error from {src}: {complaint}"),
        }
    }
}

impl fmt::Display for Datagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}, {} bytes", self.src, self.dst, self.payload.len())
    }
}
