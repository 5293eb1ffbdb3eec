//! A hostile guest: valid frames of every protocol the program parses, mutated,
//! written to the interface from inside. Repeatable from a seed.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, bind, send, socket,
};
use passt_tests::frame::{
    ETHERNET, ICMP4, ICMP6, TCP, UDP, arp, dhcp, ethernet, fix_checksums, ip4, ip6, solicitation, tcp, udp,
    v6,
};
use passt_tests::{FAR4, FAR6, GATEWAY6, HOST4, HOST6};

/// Writes `count` mutated frames and returns how many the interface took: what
/// its full queue dropped is written again.
pub(crate) fn flood(interface: &str, count: u64, seed: u64) -> Result<String> {
    let (socket, mac) = open(interface)?;
    let valid = valid_frames(mac);
    let mut random = Random::new(seed);
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
pub(crate) struct Random(u64);

impl Random {
    /// Zero would stay zero.
    pub(crate) fn new(seed: u64) -> Self {
        Self(if seed == 0 { u64::MAX } else { seed })
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 32).unwrap_or(0) % limit.max(1)
    }

    pub(crate) fn byte(&mut self) -> u8 {
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
pub(crate) fn valid_frames(mac: [u8; 6]) -> Vec<Vec<u8>> {
    let syn_options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    let dns = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01";
    let dhcp6 = |kind| {
        let client_id = [0, 1, 0, 10, 0, 3, 0, 1, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]];
        let address = [&[0, 5, 0, 24][..], &v6(HOST6), &[0; 8]].concat();
        let ia = [&[0, 3, 0, 40, 0, 0, 0, 1][..], &[0; 8], &address].concat();
        [&[kind, 1, 2, 3][..], &client_id, &ia, &[0, 6, 0, 4, 0, 23, 0, 24]].concat()
    };
    let quoted = ip4(HOST4, FAR4, UDP, &udp(2000, 9, b"quoted"));
    let hop_by_hop = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &udp(2000, 9, b"behind options")].concat();
    let packets = [
        (0x0806, arp(mac, HOST4, "192.0.2.1")),
        (0x0800, ip4(HOST4, FAR4, TCP, &tcp(2000, 9, 0x02, &syn_options, b""))),
        (0x0800, ip4(HOST4, FAR4, TCP, &tcp(2001, 9, 0x18, &[], b"data of no connection"))),
        (0x0800, ip4(HOST4, FAR4, UDP, &udp(2000, 9, b"datagram"))),
        (0x0800, ip4(HOST4, FAR4, UDP, &udp(2001, 53, dns))),
        (0x0800, ip4("0.0.0.0", "255.255.255.255", UDP, &udp(68, 67, &dhcp(mac, 1)))),
        (0x0800, ip4("0.0.0.0", "255.255.255.255", UDP, &udp(68, 67, &dhcp(mac, 3)))),
        (0x0800, ip4(HOST4, FAR4, ICMP4, b"\x08\0\0\0\0\x01\0\x01ping")),
        (0x0800, ip4(HOST4, FAR4, ICMP4, &[&[3, 3, 0, 0, 0, 0, 0, 0], &quoted[..]].concat())),
        (0x86dd, ip6(HOST6, FAR6, TCP, &tcp(2000, 9, 0x02, &syn_options, b""))),
        (0x86dd, ip6(HOST6, FAR6, UDP, &udp(2000, 9, b"datagram"))),
        (0x86dd, ip6(HOST6, FAR6, 0, &hop_by_hop)),
        (0x86dd, ip6("fe80::1234", "ff02::1:2", UDP, &udp(546, 547, &dhcp6(1)))),
        (0x86dd, ip6("fe80::1234", "ff02::1:2", UDP, &udp(546, 547, &dhcp6(3)))),
        (0x86dd, ip6(HOST6, FAR6, ICMP6, b"\x80\0\0\0\0\x01\0\x01ping")),
        (0x86dd, ip6(HOST6, "ff02::1:ff00:1", ICMP6, &solicitation(mac, GATEWAY6))),
        (0x86dd, ip6("fe80::1234", "ff02::2", ICMP6, &[133, 0, 0, 0, 0, 0, 0, 0])),
    ];
    packets.iter().map(|(kind, packet)| ethernet(mac, *kind, packet)).collect()
}
