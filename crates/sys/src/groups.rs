//! Multicast groups that a socket of datagrams is a member of, and sends to: ip(7) and ipv6(7), by
//! the requests of RFC 3678, section 5, which are the same in both families.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::dgram::name_bytes;
use crate::result;
use crate::seccomp::{Call, Sysno};
use crate::socket::{option, set};

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[Call::only(
    Sysno::setsockopt,
    &[
        option::IP_JOIN_GROUP,
        option::IP_GROUP_FILTER,
        option::IP_MULTICAST_ALL,
        option::IP_MULTICAST_IF,
        option::IPV6_JOIN_GROUP,
        option::IPV6_GROUP_FILTER,
        option::IPV6_MULTICAST_ALL,
        option::IPV6_MULTICAST_IF,
    ],
)];

/// Sources in a [`Filter`] at most.
pub const MAX_SOURCES: usize = 16;

/// `include/uapi/linux/in.h`, and `in6.h`.
pub(crate) const MCAST_JOIN_GROUP: i32 = 42;
pub(crate) const MCAST_MSFILTER: i32 = 48;
pub(crate) const IP_MULTICAST_ALL: i32 = 49;
pub(crate) const IPV6_MULTICAST_ALL: i32 = 29;
const MCAST_EXCLUDE: u32 = 0;
const MCAST_INCLUDE: u32 = 1;

/// Bytes of `struct sockaddr_storage`, which is aligned as a pointer.
const STORAGE: usize = size_of::<libc::sockaddr_storage>();
/// Where it is in a request, behind the index of an interface.
const GROUP: usize = size_of::<usize>();
/// Where the mode, the number of sources and the sources of `struct group_filter` are.
const MODE: usize = GROUP + STORAGE;
const SOURCES: usize = MODE + 8;

/// Whose datagrams a socket takes that is a member of a group.
#[derive(Clone, Copy, Debug)]
pub enum Filter<'a> {
    /// Those of these sources.
    Include(&'a [IpAddr]),
    /// Those of all others.
    Exclude(&'a [IpAddr]),
}

/// Makes a socket a member of a group on the interface with this index, or on one that the kernel
/// chooses if that is zero.
pub fn join(fd: BorrowedFd<'_>, group: IpAddr, interface: u32) -> io::Result<()> {
    let mut request = [0; GROUP + STORAGE];
    write_group(&mut request, group, interface);
    set(fd, level(group), MCAST_JOIN_GROUP, request)
}

/// Has a member of a group take datagrams of some sources only. The kernel has limits for how many
/// there can be (`igmp_max_msf`, `mld_max_msf`): `ENOBUFS`.
pub fn filter(fd: BorrowedFd<'_>, group: IpAddr, interface: u32, filter: Filter<'_>) -> io::Result<()> {
    let (mode, sources) = match filter {
        Filter::Include(sources) => (MCAST_INCLUDE, sources),
        Filter::Exclude(sources) => (MCAST_EXCLUDE, sources),
    };
    let mut request = [0; SOURCES + MAX_SOURCES * STORAGE];
    let sources = sources.get(..MAX_SOURCES).unwrap_or(sources);
    write_group(&mut request, group, interface);
    request[MODE..][..4].copy_from_slice(&mode.to_ne_bytes());
    let count = u32::try_from(sources.len()).unwrap_or(0);
    request[MODE + 4..][..4].copy_from_slice(&count.to_ne_bytes());
    for (room, &source) in request[SOURCES..].chunks_exact_mut(STORAGE).zip(sources) {
        write_address(room, source);
    }
    let len = SOURCES + sources.len() * STORAGE;
    let name = MCAST_MSFILTER;
    // SAFETY: the kernel reads `len` bytes of a live array that is no shorter.
    result(unsafe {
        libc::setsockopt(fd.as_raw_fd(), level(group), name, request.as_ptr().cast(), len as libc::socklen_t)
    } as isize)
    .map(drop)
}

/// Has a socket get nothing of groups that others of this host are members of, and it is not. Linux
/// before 4.20 does not know that of IPv6.
pub fn only_own(fd: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    if v6 {
        return set(fd, libc::IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0i32);
    }
    set(fd, libc::IPPROTO_IP, IP_MULTICAST_ALL, 0i32)
}

/// Has a socket of both families get what comes to groups of IPv4 that others of this host are
/// members of, as one of IPv4 does by itself.
pub fn also_others(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::IPPROTO_IP, IP_MULTICAST_ALL, 1i32)
}

/// Has what a socket sends to groups leave by the interface with this index.
pub fn leave_by(fd: BorrowedFd<'_>, v6: bool, interface: u32) -> io::Result<()> {
    if v6 {
        return set(fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, interface);
    }
    // struct ip_mreqn: group, address and index.
    let [a, b, c, d] = interface.to_ne_bytes();
    set(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, [0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d])
}

fn level(group: IpAddr) -> i32 {
    if group.is_ipv4() { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 }
}

/// Writes the start that both requests have.
fn write_group(request: &mut [u8], group: IpAddr, interface: u32) {
    request[..4].copy_from_slice(&interface.to_ne_bytes());
    write_address(&mut request[GROUP..], group);
}

fn write_address(room: &mut [u8], address: IpAddr) {
    let (name, len) = name_bytes(SocketAddr::new(address, 0));
    room[..len].copy_from_slice(&name[..len]);
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    use super::*;

    /// Index of the loopback interface, which every network has.
    const LOOPBACK: u32 = 1;

    /// What a member is sent arrives, unless its source is not wanted.
    #[test]
    fn members_and_their_sources() {
        let group = IpAddr::from([239, 255, 77, 1]);
        let member = UdpSocket::bind((group, 0)).expect("a port");
        let port = member.local_addr().expect("bound").port();
        let (own, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let sender = UdpSocket::bind((own, 0)).expect("a port");
        leave_by(sender.as_fd(), false, LOOPBACK).expect("an interface");
        only_own(member.as_fd(), false).expect("an option");
        crate::dgram::want_marks(member.as_fd(), false).expect("an option");
        join(member.as_fd(), group, LOOPBACK).expect("a member");
        member.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        for (wanted, sources) in [
            (true, None),
            (true, Some(Filter::Include(&[own]))),
            (false, Some(Filter::Include(&[other]))),
            (false, Some(Filter::Exclude(&[other, own]))),
            (true, Some(Filter::Exclude(&[other]))),
            (true, Some(Filter::Exclude(&[]))),
        ] {
            if let Some(sources) = sources {
                filter(member.as_fd(), group, LOOPBACK, sources).expect("a filter");
            }
            sender.send_to(b"hello", (group, port)).expect("sent");
            let found = crate::dgram::peek(member.as_fd()).ok().and_then(|received| received.ttl);
            assert_eq!(found, wanted.then_some(1), "{sources:?}");
            assert_eq!(member.recv(&mut [0; 9]).is_ok(), wanted);
        }
    }

    #[test]
    fn members_in_ipv6() {
        let group: IpAddr = "ff02::1234".parse().expect("an address");
        let Ok(member) = UdpSocket::bind("[::]:0") else { return };
        join(member.as_fd(), group, LOOPBACK).expect("a member");
        leave_by(member.as_fd(), true, LOOPBACK).expect("an interface");
        let sources = ["fe80::1".parse().expect("an address")];
        filter(member.as_fd(), group, LOOPBACK, Filter::Include(&sources)).expect("a filter");
        filter(member.as_fd(), group, LOOPBACK, Filter::Exclude(&[])).expect("a filter");
    }
}
