//! An independent opinion on what we write, for tests.

use core::net::IpAddr;
use std::vec::Vec;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// A frame as another implementation reads it.
pub(crate) struct Decoded {
    pub(crate) src_mac: [u8; 6],
    pub(crate) dst_mac: [u8; 6],
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) ports: (u16, u16),
    pub(crate) tcp: Option<etherparse::TcpHeader>,
    /// What UDP or TCP carries; of `ICMPv6` the message.
    pub(crate) payload: Vec<u8>,
}

/// Reads an IP frame; panics unless all lengths and checksums are right.
pub(crate) fn decode(frame: &[u8]) -> Decoded {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (src, dst, ttl): (IpAddr, IpAddr, u8) = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert!(header.dont_fragment);
            let (src, dst) = (header.source, header.destination);
            (src.into(), dst.into(), header.time_to_live)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let (src, dst) = (header.source_addr(), header.destination_addr());
            (src.into(), dst.into(), header.hop_limit())
        }
        NetSlice::Arp(_) => panic!("not an IP packet"),
    };
    let (ports, tcp, payload) = transport(src, dst, packet.transport.as_ref().unwrap());
    Decoded {
        src_mac: frame[6..12].try_into().unwrap(),
        dst_mac: frame[..6].try_into().unwrap(),
        src,
        dst,
        ttl,
        ports,
        tcp,
        payload,
    }
}

type Transport = ((u16, u16), Option<etherparse::TcpHeader>, Vec<u8>);

fn transport(src: IpAddr, dst: IpAddr, slice: &TransportSlice<'_>) -> Transport {
    match (slice, src, dst) {
        (TransportSlice::Tcp(tcp), src, dst) => {
            let check = match (src, dst) {
                (IpAddr::V4(s), IpAddr::V4(d)) => tcp.calc_checksum_ipv4(s.octets(), d.octets()),
                (IpAddr::V6(s), IpAddr::V6(d)) => tcp.calc_checksum_ipv6(s.octets(), d.octets()),
                _ => panic!("mixed families"),
            };
            // All ones and zero are one number.
            assert_eq!(tcp.checksum() % 0xffff, check.unwrap() % 0xffff);
            let ports = (tcp.source_port(), tcp.destination_port());
            (ports, Some(tcp.to_header()), tcp.payload().to_vec())
        }
        (TransportSlice::Udp(udp), src, dst) => {
            let header = udp.to_header();
            let check = match (src, dst) {
                (IpAddr::V4(s), IpAddr::V4(d)) => {
                    header.calc_checksum_ipv4_raw(s.octets(), d.octets(), udp.payload())
                }
                (IpAddr::V6(s), IpAddr::V6(d)) => {
                    header.calc_checksum_ipv6_raw(s.octets(), d.octets(), udp.payload())
                }
                _ => panic!("mixed families"),
            };
            assert_eq!(udp.checksum(), check.unwrap());
            let ports = (udp.source_port(), udp.destination_port());
            (ports, None, udp.payload().to_vec())
        }
        (TransportSlice::Icmpv6(icmp), IpAddr::V6(src), IpAddr::V6(dst)) => {
            assert!(icmp.is_checksum_valid(src.octets(), dst.octets()));
            ((0, 0), None, icmp.slice().to_vec())
        }
        _ => panic!("unexpected transport"),
    }
}
