//! Frames as a guest would send them, put together from their parts.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Protocol numbers of IP.
pub const UDP: u8 = 17;
/// See [`UDP`].
pub const TCP: u8 = 6;
/// See [`UDP`].
pub const ICMP4: u8 = 1;
/// See [`UDP`].
pub const ICMP6: u8 = 58;

/// A MAC address.
pub type MacBytes = [u8; 6];

/// A frame to all, with right checksums.
pub fn ethernet(from: MacBytes, kind: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = [&[0xff; 6], &from, &kind.to_be_bytes()[..], packet].concat();
    fix_checksums(&mut frame);
    frame
}

/// An ARP request.
pub fn arp(mac: MacBytes, from: &str, target: &str) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac, &v4(from), &[0; 6], &v4(target)].concat()
}

/// A neighbour solicitation, without IPv6 header.
pub fn solicitation(mac: MacBytes, target: &str) -> Vec<u8> {
    [&[135, 0, 0, 0, 0, 0, 0, 0][..], &v6(target), &[1, 1], &mac].concat()
}

/// A DHCP message of type `kind` that asks for [`HOST4`](crate::HOST4), without UDP header.
pub fn dhcp(mac: MacBytes, kind: u8) -> Vec<u8> {
    let fixed = [&[1, 1, 6, 0, 9, 9, 9, 9][..], &[0; 20], &mac, &[0; 202]].concat();
    let options = [99, 130, 83, 99, 53, 1, kind, 55, 6, 1, 3, 6, 26, 119, 121, 50, 4, 192, 0, 2, 2, 255];
    [&fixed[..], &options].concat()
}

/// The bytes of an address.
pub fn v4(address: &str) -> [u8; 4] {
    address.parse::<Ipv4Addr>().expect("an address").octets()
}

/// The bytes of an address.
pub fn v6(address: &str) -> [u8; 16] {
    address.parse::<Ipv6Addr>().expect("an address").octets()
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("a small packet").to_be_bytes()
}

/// An IPv4 packet; its checksum is left to [`fix_checksums`].
pub fn ip4(from: &str, to: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = length(20 + payload.len());
    let fixed = [&[0x45, 0][..], &total, &[0, 1, 0, 0, 64, protocol, 0, 0]].concat();
    [&fixed[..], &v4(from), &v4(to), payload].concat()
}

/// An IPv6 packet.
pub fn ip6(from: &str, to: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    // Neighbour discovery demands a hop limit of 255.
    let fixed = [&[0x60, 0, 0, 0][..], &length(payload.len()), &[protocol, 255]].concat();
    [&fixed[..], &v6(from), &v6(to), payload].concat()
}

/// A datagram; its checksum is left to [`fix_checksums`].
pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length(8 + payload.len()), &[0, 0], payload].concat()
}

/// A segment; its checksum is left to [`fix_checksums`].
pub fn tcp(from: u16, to: u16, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).expect("few options");
    let rest = [0, 0, 0, 1, 0, 0, 0, 1, words << 4, flags, 0x72, 0x10, 0, 0, 0, 0];
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &rest, options, payload].concat()
}

/// Writes the checksums that the headers, as they are now, call for.
pub fn fix_checksums(frame: &mut [u8]) {
    let (pseudo, protocol, start) = match (frame.get(12..14), frame.len()) {
        (Some([8, 0]), 34..) => {
            frame[24..26].fill(0);
            let sum = checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum);
            (frame[26..34].to_vec(), frame[23], ETHERNET + usize::from(frame[14] & 15) * 4)
        }
        (Some([0x86, 0xdd]), 54..) => (frame[22..54].to_vec(), frame[20], 54),
        _ => return,
    };
    let place = match protocol {
        TCP => 16,
        UDP => 6,
        ICMP4 | ICMP6 => 2,
        _ => return,
    };
    let Some(segment) = frame.get_mut(start..).filter(|segment| segment.len() >= place + 2) else { return };
    segment[place..place + 2].fill(0);
    let header = [&pseudo[..], &[0, protocol], &length(segment.len())].concat();
    let covered = if protocol == ICMP4 { segment.to_vec() } else { [&header[..], segment].concat() };
    let sum = checksum(&covered);
    segment[place..place + 2].copy_from_slice(&sum);
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
    let mut sum: u64 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or(0)).to_be_bytes()
}
