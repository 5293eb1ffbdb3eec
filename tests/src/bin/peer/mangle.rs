//! A hostile guest: valid frames of every protocol the program parses, mutated,
//! written to the interface from inside. Repeatable from a seed.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, bind, send, socket,
};
use passt_tests::{FAR4, FAR6, GATEWAY6, HOST4, HOST6};

const ETHERNET: usize = 14;
const UDP: u8 = 17;
const TCP: u8 = 6;
const ICMP4: u8 = 1;
const ICMP6: u8 = 58;

/// Writes `count` mutated frames and returns how many the interface took: what
/// its full queue dropped is written again.
pub(crate) fn flood(interface: &str, count: u64, seed: u64) -> Result<String> {
    let (socket, mac) = open(interface)?;
    let valid = valid_frames(mac);
    let mut random = Random(seed | 1);
    let before = transmitted(interface)?;
    loop {
        for _ in 0..64 {
            let frame = mutate(&valid[random.below(valid.len())], &mut random);
            match send(socket.as_raw_fd(), &frame, MsgFlags::empty()) {
                // A full queue, or a frame that the device itself refuses.
                Ok(_) | Err(Errno::ENOBUFS | Errno::EMSGSIZE | Errno::EINVAL) => {}
                Err(error) => return Err(error).context("send"),
            }
        }
        let taken = transmitted(interface)? - before;
        if taken >= count {
            return Ok(taken.to_string());
        }
    }
}

/// A packet socket bound to the interface, for sending only, and its MAC.
fn open(interface: &str) -> Result<(OwnedFd, [u8; 6])> {
    let mut addresses = getifaddrs()?.filter(|entry| entry.interface_name == interface);
    let link: LinkAddr = addresses
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("no interface {interface}"))?;
    debug_assert_eq!(link.family(), Some(AddressFamily::Packet));
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &link)?;
    Ok((socket, link.addr().context("MAC address")?))
}

/// Packets that the program has read from the interface.
fn transmitted(interface: &str) -> Result<u64> {
    let table = std::fs::read_to_string("/proc/net/dev")?;
    let line = table.lines().find_map(|line| line.trim().strip_prefix(&format!("{interface}:")));
    let column = line.and_then(|line| line.split_whitespace().nth(9));
    Ok(column.context("interface counters")?.parse()?)
}

/// Xorshift: what matters is that a seed repeats a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 32).unwrap_or(0) % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }
}

/// A frame with a few fields, its length or its end changed. Half of them get
/// right checksums again, so that they reach the code behind these.
fn mutate(valid: &[u8], random: &mut Random) -> Vec<u8> {
    let mut frame = valid.to_vec();
    for _ in 0..random.below(4) {
        let at = random.below(frame.len());
        frame[at] = match random.below(3) {
            0 => random.byte(),
            1 => frame[at] ^ (1 << random.below(8)),
            _ => [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
        };
    }
    match random.below(6) {
        0 => frame.truncate(ETHERNET + random.below(frame.len() - ETHERNET)),
        1 => frame.extend((0..random.below(600)).map(|_| random.byte())),
        _ => {}
    }
    if random.below(2) == 0 {
        fix_checksums(&mut frame);
    }
    frame
}

/// One frame of each kind that has a parser of its own.
fn valid_frames(mac: [u8; 6]) -> Vec<Vec<u8>> {
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac, &v4(HOST4), &[0; 6], &v4("192.0.2.1")].concat();
    let syn_options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    let dns = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01";
    let dhcp = |kind| {
        let fixed = [&[1, 1, 6, 0, 9, 9, 9, 9][..], &[0; 20], &mac, &[0; 202]].concat();
        let options = [99, 130, 83, 99, 53, 1, kind, 55, 6, 1, 3, 6, 26, 119, 121, 50, 4, 192, 0, 2, 2, 255];
        [&fixed[..], &options].concat()
    };
    let dhcp6 = |kind| {
        let client_id = [0, 1, 0, 10, 0, 3, 0, 1, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]];
        let address = [&[0, 5, 0, 24][..], &v6(HOST6), &[0; 8]].concat();
        let ia = [&[0, 3, 0, 40, 0, 0, 0, 1][..], &[0; 8], &address].concat();
        [&[kind, 1, 2, 3][..], &client_id, &ia, &[0, 6, 0, 4, 0, 23, 0, 24]].concat()
    };
    let solicitation = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &v6(GATEWAY6), &[1, 1], &mac].concat();
    let quoted = ip4(HOST4, FAR4, UDP, &udp(2000, 9, b"quoted"));
    let hop_by_hop = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &udp(2000, 9, b"behind options")].concat();
    let packets = [
        (0x0806, arp),
        (0x0800, ip4(HOST4, FAR4, TCP, &tcp(2000, 9, 0x02, &syn_options, b""))),
        (0x0800, ip4(HOST4, FAR4, TCP, &tcp(2001, 9, 0x18, &[], b"data of no connection"))),
        (0x0800, ip4(HOST4, FAR4, UDP, &udp(2000, 9, b"datagram"))),
        (0x0800, ip4(HOST4, FAR4, UDP, &udp(2001, 53, dns))),
        (0x0800, ip4("0.0.0.0", "255.255.255.255", UDP, &udp(68, 67, &dhcp(1)))),
        (0x0800, ip4("0.0.0.0", "255.255.255.255", UDP, &udp(68, 67, &dhcp(3)))),
        (0x0800, ip4(HOST4, FAR4, ICMP4, b"\x08\0\0\0\0\x01\0\x01ping")),
        (0x0800, ip4(HOST4, FAR4, ICMP4, &[&[3, 3, 0, 0, 0, 0, 0, 0], &quoted[..]].concat())),
        (0x86dd, ip6(HOST6, FAR6, TCP, &tcp(2000, 9, 0x02, &syn_options, b""))),
        (0x86dd, ip6(HOST6, FAR6, UDP, &udp(2000, 9, b"datagram"))),
        (0x86dd, ip6(HOST6, FAR6, 0, &hop_by_hop)),
        (0x86dd, ip6("fe80::1234", "ff02::1:2", UDP, &udp(546, 547, &dhcp6(1)))),
        (0x86dd, ip6("fe80::1234", "ff02::1:2", UDP, &udp(546, 547, &dhcp6(3)))),
        (0x86dd, ip6(HOST6, FAR6, ICMP6, b"\x80\0\0\0\0\x01\0\x01ping")),
        (0x86dd, ip6(HOST6, "ff02::1:ff00:1", ICMP6, &solicitation)),
        (0x86dd, ip6("fe80::1234", "ff02::2", ICMP6, &[133, 0, 0, 0, 0, 0, 0, 0])),
    ];
    let frame = |(kind, packet): (u16, Vec<u8>)| {
        let mut frame = [&[0xff; 6], &mac, &kind.to_be_bytes()[..], &packet].concat();
        fix_checksums(&mut frame);
        frame
    };
    packets.into_iter().map(frame).collect()
}

fn v4(address: &str) -> [u8; 4] {
    address.parse::<Ipv4Addr>().expect("an address").octets()
}

fn v6(address: &str) -> [u8; 16] {
    address.parse::<Ipv6Addr>().expect("an address").octets()
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("a small packet").to_be_bytes()
}

fn ip4(from: &str, to: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = length(20 + payload.len());
    let fixed = [&[0x45, 0][..], &total, &[0, 1, 0, 0, 64, protocol, 0, 0]].concat();
    [&fixed[..], &v4(from), &v4(to), payload].concat()
}

fn ip6(from: &str, to: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    // Neighbour discovery demands a hop limit of 255.
    let fixed = [&[0x60, 0, 0, 0][..], &length(payload.len()), &[protocol, 255]].concat();
    [&fixed[..], &v6(from), &v6(to), payload].concat()
}

fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length(8 + payload.len()), &[0, 0], payload].concat()
}

fn tcp(from: u16, to: u16, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).expect("few options");
    let rest = [0, 0, 0, 1, 0, 0, 0, 1, words << 4, flags, 0x72, 0x10, 0, 0, 0, 0];
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &rest, options, payload].concat()
}

/// Writes the checksums that the headers, as they are now, call for.
fn fix_checksums(frame: &mut [u8]) {
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
