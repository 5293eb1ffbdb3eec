//! What comes with a message besides its payload: addresses, and control messages (cmsg(3)).

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::Envelope;

/// A socket address in the kernel's layout.
#[repr(align(4))]
pub(super) struct SocketName {
    pub(super) bytes: [u8; size_of::<libc::sockaddr_in6>()],
    pub(super) len: libc::socklen_t,
}

impl SocketName {
    pub(super) const EMPTY: Self = Self { bytes: [0; size_of::<libc::sockaddr_in6>()], len: 0 };

    pub(super) fn from(addr: SocketAddr) -> Self {
        let mut name = Self::EMPTY;
        let (family, rest) = name.bytes.split_at_mut(2);
        let (port, rest) = rest.split_at_mut(2);
        port.copy_from_slice(&addr.port().to_be_bytes());
        let (kind, len) = match addr {
            SocketAddr::V4(a) => {
                rest[..4].copy_from_slice(&a.ip().octets());
                (libc::AF_INET, size_of::<libc::sockaddr_in>())
            }
            SocketAddr::V6(a) => {
                rest[4..20].copy_from_slice(&a.ip().octets());
                rest[20..24].copy_from_slice(&a.scope_id().to_ne_bytes());
                (libc::AF_INET6, size_of::<libc::sockaddr_in6>())
            }
        };
        family.copy_from_slice(&(kind.cast_unsigned() as u16).to_ne_bytes());
        name.len = len as libc::socklen_t;
        name
    }

    pub(super) fn is_v6(&self) -> bool {
        self.len as usize == size_of::<libc::sockaddr_in6>()
    }

    pub(super) fn get(&self) -> Option<SocketAddr> {
        parse_name(self.bytes.get(..self.len as usize)?)
    }
}

/// An address from its bytes; IPv4 also from its mapped form.
pub(super) fn parse_name(bytes: &[u8]) -> Option<SocketAddr> {
    let (&family, rest) = bytes.split_first_chunk()?;
    let (&port, rest) = rest.split_first_chunk()?;
    let port = u16::from_be_bytes(port);
    match i32::from(u16::from_ne_bytes(family)) {
        libc::AF_INET => {
            let &addr = rest.first_chunk::<4>()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(addr), port).into())
        }
        libc::AF_INET6 => {
            let (&addr, scope) = rest.get(4..)?.split_first_chunk::<16>()?;
            let scope = scope.first_chunk().map_or(0, |&b| u32::from_ne_bytes(b));
            let addr = Ipv6Addr::from(addr);
            let v4 = addr.to_ipv4_mapped().map(|v4| SocketAddrV4::new(v4, port).into());
            Some(v4.unwrap_or_else(|| SocketAddrV6::new(addr, port, 0, scope).into()))
        }
        _ => None,
    }
}

/// Room for the control messages of one datagram. A socket of both families can get most: 40 and 32
/// bytes for destinations, 24 each for time to live, traffic class and size of what was joined, and
/// 60 for an error, which comes without the last. There are lists of these: more bytes cost.
const ROOM: usize = 184;

/// The control messages of one datagram, aligned as the kernel wants them.
#[repr(align(8))]
pub(super) struct CmsgBuffer {
    pub(super) bytes: [u8; ROOM],
    pub(super) len: usize,
}

/// Bytes of `struct cmsghdr`: length (a `size_t`), level, type.
pub(super) const CMSG_HEADER: usize = size_of::<usize>() + 8;

impl CmsgBuffer {
    pub(super) const EMPTY: Self = Self { bytes: [0; ROOM], len: 0 };

    /// Appends one message; the few that we send always fit.
    pub(super) fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let total = CMSG_HEADER + data.len();
        let Some(room) = self.bytes.get_mut(self.len..self.len + total) else { return };
        let (len, rest) = room.split_at_mut(size_of::<usize>());
        len.copy_from_slice(&total.to_ne_bytes());
        rest[..4].copy_from_slice(&level.to_ne_bytes());
        rest[4..8].copy_from_slice(&kind.to_ne_bytes());
        rest[8..].copy_from_slice(data);
        self.len += total.next_multiple_of(size_of::<usize>());
    }

    /// Asks to send from `addr`, in the form for the family of the socket.
    pub(super) fn push_source(&mut self, addr: IpAddr, v6: bool) {
        if v6 {
            let mapped = match addr {
                IpAddr::V4(a) => a.to_ipv6_mapped(),
                IpAddr::V6(a) => a,
            };
            let mut info = [0; size_of::<libc::in6_pktinfo>()];
            info[..16].copy_from_slice(&mapped.octets());
            self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        } else if let IpAddr::V4(a) = addr {
            let mut info = [0; size_of::<libc::in_pktinfo>()];
            info[4..8].copy_from_slice(&a.octets());
            self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
    }

    /// Asks for what an envelope has besides addresses, in packets of IPv4 or IPv6.
    pub(super) fn push_marks(&mut self, envelope: &Envelope, v4: bool) {
        let (level, ttl, traffic_class) = if v4 {
            (libc::IPPROTO_IP, libc::IP_TTL, libc::IP_TOS)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, libc::IPV6_TCLASS)
        };
        if let Some(value) = envelope.ttl {
            self.push(level, ttl, &i32::from(value).to_ne_bytes());
        }
        if envelope.traffic_class != 0 {
            self.push(level, traffic_class, &i32::from(envelope.traffic_class).to_ne_bytes());
        }
    }

    /// Level, type and data of each message.
    pub(super) fn messages(&self) -> impl Iterator<Item = (i32, i32, &[u8])> {
        let mut rest = self.bytes.get(..self.len).unwrap_or_default();
        std::iter::from_fn(move || {
            let (&len, after) = rest.split_first_chunk()?;
            let (&level, after) = after.split_first_chunk()?;
            let (&kind, after) = after.split_first_chunk()?;
            let len = usize::from_ne_bytes(len);
            let data = after.get(..len.checked_sub(CMSG_HEADER)?)?;
            rest = rest.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
            Some((i32::from_ne_bytes(level), i32::from_ne_bytes(kind), data))
        })
    }
}
