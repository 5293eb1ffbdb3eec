//! Addresses of the link and of the network layer.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All ones: every station.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set (broadcast included).
    pub const fn is_group(self) -> bool {
        let [first, ..] = self.0;
        first & 1 != 0
    }

    /// Whether this is the all-zero address, which no station has.
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An IPv4 or IPv6 address in 16 bytes, IPv4 in its mapped form `::ffff:a.b.c.d`
/// (RFC 4291, section 2.5.5.2): one key for the flow table, one path for both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr(Ipv6Addr);

impl Addr {
    /// No address, `::`.
    pub const UNSPECIFIED: Self = Self(Ipv6Addr::UNSPECIFIED);

    /// The last address there is, in the order of addresses.
    pub const LAST: Self = Self(Ipv6Addr::from_bits(u128::MAX));

    /// Whether this is an IPv4 address.
    #[inline]
    pub const fn is_v4(self) -> bool {
        self.0.to_bits() >> 32 == 0xffff
    }

    /// The last 32 bits: the address in IPv4.
    #[expect(clippy::cast_possible_truncation, reason = "the last ones are meant")]
    const fn low(self) -> u32 {
        self.0.to_bits() as u32
    }

    /// The IPv4 address, if it is one.
    pub fn v4(self) -> Option<Ipv4Addr> {
        self.0.to_ipv4_mapped()
    }

    /// The 16 bytes, mapped form for IPv4.
    pub const fn octets(self) -> [u8; 16] {
        self.0.octets()
    }

    /// The address in the form of the standard library.
    pub fn ip(self) -> IpAddr {
        self.v4().map_or(IpAddr::V6(self.0), IpAddr::V4)
    }

    /// Whether the address is a loopback address of its family (127/8, `::1`).
    #[inline]
    pub const fn is_loopback(self) -> bool {
        if self.is_v4() { self.low() >> 24 == 127 } else { self.0.to_bits() == 1 }
    }

    /// Whether the address is `0.0.0.0` or `::`.
    #[inline]
    pub const fn is_unspecified(self) -> bool {
        self.low() == 0 && matches!(self.0.to_bits() >> 32, 0 | 0xffff)
    }

    /// Whether the address is multicast, or the IPv4 limited broadcast.
    #[inline]
    pub const fn is_group(self) -> bool {
        if self.is_v4() {
            self.low() >> 28 == 0xe || self.low() == u32::MAX
        } else {
            self.0.to_bits() >> 120 == 0xff
        }
    }

    /// Whether this is a group of IPv6 that stays on an interface, or has the reserved scope 0, which
    /// is nowhere (RFC 4291, section 2.7): the last four of the first 16 bits.
    pub const fn is_interface_local(self) -> bool {
        !self.is_v4() && self.is_group() && (self.0.to_bits() >> 112) & 0xf < 2
    }

    /// Whether the first `len` bits of an address of the same family are the same.
    pub fn shares_prefix(self, other: Self, len: u8) -> bool {
        let len = if self.is_v4() { u32::from(len) + 96 } else { u32::from(len) };
        let differing = self.0.to_bits() ^ other.0.to_bits();
        self.is_v4() == other.is_v4() && differing.leading_zeros() >= len
    }

    /// The link-layer address that what is sent to the address goes to, if it is
    /// [a group](Self::is_group): RFC 1112, section 6.4; RFC 2464, section 7.
    pub fn group_mac(self) -> Option<Mac> {
        let [.., a, b, c, d] = self.octets();
        match (self.is_group(), self.is_v4()) {
            (false, _) => None,
            (_, false) => Some(Mac([0x33, 0x33, a, b, c, d])),
            _ if self.low() == u32::MAX => Some(Mac::BROADCAST),
            _ => Some(Mac([1, 0, 0x5e, b & 0x7f, c, d])),
        }
    }

    /// Whether the address is link-local (169.254/16, `fe80::/10`).
    pub const fn is_link_local(self) -> bool {
        if self.is_v4() { self.low() >> 16 == 0xa9fe } else { self.0.to_bits() >> 118 == 0xfe80 >> 6 }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(a: Ipv4Addr) -> Self {
        Self(a.to_ipv6_mapped())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(a: Ipv6Addr) -> Self {
        Self(a)
    }
}

impl From<IpAddr> for Addr {
    fn from(a: IpAddr) -> Self {
        match a {
            IpAddr::V4(a) => a.into(),
            IpAddr::V6(a) => a.into(),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

/// An address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub addr: Addr,
    /// The port; for ICMP echo the identifier.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint from its parts.
    pub fn new(addr: impl Into<Addr>, port: u16) -> Self {
        Self { addr: addr.into(), port }
    }

    /// The endpoint in the form of the standard library.
    pub fn socket_addr(self) -> SocketAddr {
        SocketAddr::new(self.addr.ip(), self.port)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(a: SocketAddr) -> Self {
        Self::new(a.ip(), a.port())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket_addr().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString as _;

    use super::*;

    #[test]
    fn kinds_of_mac() {
        for (mac, group, zero) in [
            ([0; 6], false, true),
            ([0, 0, 0, 0, 0, 1], false, false),
            ([2, 0, 0, 0, 0, 1], false, false),
            ([0x33, 0x33, 0, 0, 0, 1], true, false),
            (Mac::BROADCAST.0, true, false),
        ] {
            assert_eq!((Mac(mac).is_group(), Mac(mac).is_zero()), (group, zero), "{mac:x?}");
        }
    }

    /// RFC 1112, section 6.4; RFC 2464, section 7.
    #[test]
    fn groups_on_the_link() {
        for (text, mac) in [
            ("224.0.0.251", Some([1, 0, 0x5e, 0, 0, 0xfb])),
            ("239.255.255.250", Some([1, 0, 0x5e, 0x7f, 0xff, 0xfa])),
            ("224.128.1.2", Some([1, 0, 0x5e, 0, 1, 2])),
            ("255.255.255.255", Some([0xff; 6])),
            ("ff02::fb", Some([0x33, 0x33, 0, 0, 0, 0xfb])),
            ("ff05::1:ff12:3456", Some([0x33, 0x33, 0xff, 0x12, 0x34, 0x56])),
            ("192.0.2.1", None),
            ("fe80::1", None),
        ] {
            let addr = Addr::from(text.parse::<IpAddr>().expect("an address"));
            assert_eq!(addr.group_mac(), mac.map(Mac), "{text}");
        }
    }

    /// Kinds of addresses are what the standard library says they are.
    #[test]
    fn kinds_of_addresses() {
        for text in [
            "0.0.0.0",
            "0.0.0.1",
            "1.0.0.0",
            "126.255.255.255",
            "127.0.0.0",
            "127.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.254.0.0",
            "169.254.255.255",
            "169.255.0.0",
            "192.0.2.1",
            "223.255.255.255",
            "224.0.0.0",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.254",
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "1::",
            "1::1",
            "::7f00:1",
            "::fffe:7f00:1",
            "1::ffff:7f00:1",
            "::1:0:0:0",
            "fe7f:ffff::1",
            "fe80::",
            "fe80::1",
            "febf:ffff::1",
            "fec0::1",
            "feff:ffff::1",
            "ff00::",
            "ff01::1",
            "ff02::1",
            "ff11::2",
            "ff1e::1",
            "ffff::1",
            "2001:db8::1",
        ] {
            let ip = text.parse::<IpAddr>().expect("an address");
            let (group, link_local) = match ip {
                IpAddr::V4(a) => (a.is_multicast() || a.is_broadcast(), a.is_link_local()),
                IpAddr::V6(a) => (a.is_multicast(), a.is_unicast_link_local()),
            };
            let addr = Addr::from(ip);
            assert_eq!((addr.ip(), addr.is_v4()), (ip, ip.is_ipv4()), "{text}");
            let known = (addr.is_loopback(), addr.is_unspecified());
            assert_eq!(known, (ip.is_loopback(), ip.is_unspecified()), "{text}");
            assert_eq!((addr.is_group(), addr.is_link_local()), (group, link_local), "{text}");
            let stays = ["ff00::", "ff01::1", "ff11::2"].contains(&text);
            assert_eq!(addr.is_interface_local(), stays, "{text}");
        }
    }

    /// What users read.
    #[test]
    fn texts() {
        assert_eq!(Mac([0x9a, 0x55, 0, 1, 0xff, 0x0b]).to_string(), "9a:55:00:01:ff:0b");
        for (text, endpoint) in [("192.0.2.7", "192.0.2.7:80"), ("2001:db8::7", "[2001:db8::7]:80")] {
            let addr = Addr::from(text.parse::<IpAddr>().expect("an address"));
            assert_eq!(addr.to_string(), text);
            assert_eq!(Endpoint::new(addr, 80).to_string(), endpoint);
        }
    }
}
