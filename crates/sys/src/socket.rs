//! Socket options and requests that rustix does not offer.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::result;
use crate::seccomp::{Call, Choice, Sysno};

/// System calls made here for TCP once the process runs, but for options.
pub const CALLS: &[Call] = &[Call::only(Sysno::ioctl, &[&[(1, UNSENT)]])];

/// `SIOCGIFINDEX` (`netdevice(7)`): the index of an interface by its name, in the type of the filter.
pub const INTERFACE_INDEX: i64 = 0x8933;
/// `SIOCOUTQ` (`tcp(7)`), in the type of the filter.
#[allow(clippy::cast_possible_wrap, clippy::cast_lossless, reason = "C libraries differ in its type")]
const UNSENT: i64 = libc::TIOCOUTQ as i64;

/// Options of sockets: what modules that set or read one once the process runs declare of
/// `setsockopt` and `getsockopt`.
#[expect(missing_docs, reason = "the names are those of socket(7), tcp(7), ip(7), ipv6(7) and udp(7)")]
pub mod option {
    use crate::seccomp::Choice;

    macro_rules! options {
        ($($name:ident = $level:ident, $option:expr;)*) => {
            $(pub const $name: Choice = &[(1, libc::$level as i64), (2, $option as i64)];)*
        };
    }

    options! {
        SO_BINDTODEVICE = SOL_SOCKET, libc::SO_BINDTODEVICE;
        SO_BROADCAST = SOL_SOCKET, libc::SO_BROADCAST;
        SO_ERROR = SOL_SOCKET, libc::SO_ERROR;
        SO_KEEPALIVE = SOL_SOCKET, libc::SO_KEEPALIVE;
        SO_LINGER = SOL_SOCKET, libc::SO_LINGER;
        SO_OOBINLINE = SOL_SOCKET, libc::SO_OOBINLINE;
        SO_PEEK_OFF = SOL_SOCKET, libc::SO_PEEK_OFF;
        SO_PEERCRED = SOL_SOCKET, libc::SO_PEERCRED;
        SO_PEERPIDFD = SOL_SOCKET, super::SO_PEERPIDFD;
        SO_RCVBUF = SOL_SOCKET, libc::SO_RCVBUF;
        SO_REUSEADDR = SOL_SOCKET, libc::SO_REUSEADDR;
        SO_REUSEPORT = SOL_SOCKET, libc::SO_REUSEPORT;
        SO_TYPE = SOL_SOCKET, libc::SO_TYPE;
        SO_SNDBUF = SOL_SOCKET, libc::SO_SNDBUF;
        TCP_CONGESTION = IPPROTO_TCP, libc::TCP_CONGESTION;
        TCP_INFO = IPPROTO_TCP, libc::TCP_INFO;
        TCP_KEEPCNT = IPPROTO_TCP, libc::TCP_KEEPCNT;
        TCP_KEEPIDLE = IPPROTO_TCP, libc::TCP_KEEPIDLE;
        TCP_KEEPINTVL = IPPROTO_TCP, libc::TCP_KEEPINTVL;
        TCP_NODELAY = IPPROTO_TCP, libc::TCP_NODELAY;
        IP_BIND_ADDRESS_NO_PORT = IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT;
        IP_FREEBIND = IPPROTO_IP, libc::IP_FREEBIND;
        IP_GROUP_FILTER = IPPROTO_IP, crate::groups::MCAST_MSFILTER;
        IP_JOIN_GROUP = IPPROTO_IP, crate::groups::MCAST_JOIN_GROUP;
        IP_MTU_DISCOVER = IPPROTO_IP, libc::IP_MTU_DISCOVER;
        IP_MULTICAST_ALL = IPPROTO_IP, crate::groups::IP_MULTICAST_ALL;
        IP_MULTICAST_IF = IPPROTO_IP, libc::IP_MULTICAST_IF;
        IP_PKTINFO = IPPROTO_IP, libc::IP_PKTINFO;
        IP_RECVERR = IPPROTO_IP, libc::IP_RECVERR;
        IP_RECVTOS = IPPROTO_IP, libc::IP_RECVTOS;
        IP_RECVTTL = IPPROTO_IP, libc::IP_RECVTTL;
        IP_TOS = IPPROTO_IP, libc::IP_TOS;
        IP_TTL = IPPROTO_IP, libc::IP_TTL;
        IPV6_GROUP_FILTER = IPPROTO_IPV6, crate::groups::MCAST_MSFILTER;
        IPV6_JOIN_GROUP = IPPROTO_IPV6, crate::groups::MCAST_JOIN_GROUP;
        IPV6_MTU_DISCOVER = IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER;
        IPV6_MULTICAST_ALL = IPPROTO_IPV6, crate::groups::IPV6_MULTICAST_ALL;
        IPV6_MULTICAST_IF = IPPROTO_IPV6, libc::IPV6_MULTICAST_IF;
        IPV6_RECVERR = IPPROTO_IPV6, libc::IPV6_RECVERR;
        IPV6_RECVHOPLIMIT = IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT;
        IPV6_RECVPKTINFO = IPPROTO_IPV6, libc::IPV6_RECVPKTINFO;
        IPV6_RECVTCLASS = IPPROTO_IPV6, libc::IPV6_RECVTCLASS;
        IPV6_TCLASS = IPPROTO_IPV6, libc::IPV6_TCLASS;
        IPV6_UNICAST_HOPS = IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS;
        IPV6_V6ONLY = IPPROTO_IPV6, libc::IPV6_V6ONLY;
        UDP_GRO = IPPROTO_UDP, crate::dgram::UDP_GRO;
    }
}

/// Family, type and protocol of sockets of TCP and UDP, to be used without waiting: the protocol is
/// TCP or UDP, which 0 stands for.
pub const SOCKETS: &[Choice] = &[
    &[(0, libc::AF_INET as i64), (1, STREAM), (2, 0)],
    &[(0, libc::AF_INET6 as i64), (1, STREAM), (2, 0)],
    &[(0, libc::AF_INET as i64), (1, DATAGRAM), (2, 0)],
    &[(0, libc::AF_INET6 as i64), (1, DATAGRAM), (2, 0)],
];

/// Ping sockets (icmp(7)) of either family.
pub const PING_SOCKETS: &[Choice] = &[
    &[(0, libc::AF_INET as i64), (1, DATAGRAM), (2, libc::IPPROTO_ICMP as i64)],
    &[(0, libc::AF_INET6 as i64), (1, DATAGRAM), (2, libc::IPPROTO_ICMPV6 as i64)],
];

const STREAM: i64 = (libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as i64;
const DATAGRAM: i64 = (libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as i64;

/// Type and family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// `SOCK_STREAM` or `SOCK_DGRAM`.
    pub kind: SocketType,
    /// `AF_INET` or `AF_INET6`.
    pub family: AddressFamily,
}

/// A socket in the network namespace of this thread, to be used without waiting. Of IPv6 it is for that alone: a port
/// in use with IPv4 could not be had otherwise. TCP sends small messages without delay and leaves urgent data in the
/// stream, which not every sandbox can.
pub fn open(kind: Kind, protocol: Option<rustix::net::Protocol>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(kind.family, kind.kind, flags, protocol)?;
    if kind.family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    if kind.kind == SocketType::STREAM {
        let _ = sockopt::set_tcp_nodelay(&fd, true);
        let _ = set_urgent_inline(fd.as_fd());
    }
    Ok(fd)
}

/// include/uapi/asm-generic/socket.h
const SO_PEERPIDFD: i32 = 77;

/// `SO_PEEK_OFF`, socket(7): where the next peek starts, counted from the head
/// of the receive queue; TCP has it since Linux 6.9 (IPv6: 6.11).
pub fn set_peek_offset(fd: BorrowedFd<'_>, offset: i32) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset)
}

/// `SO_LINGER` with a time of zero: closing sends RST instead of FIN.
pub fn set_reset_on_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 1, l_linger: 0 })
}

/// Undoes [`set_reset_on_close`]: what is queued is still sent after a close, and the end behind
/// it.
pub fn set_end_on_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 0, l_linger: 0 })
}

/// `SO_OOBINLINE`: urgent data stays in the stream.
pub fn set_urgent_inline(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1i32)
}

/// `SIOCOUTQ`, tcp(7): bytes (and FIN) in the send queue that the peer has not acknowledged.
pub fn unacknowledged(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (the same number as SIOCOUTQ) writes one int.
    result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } as isize)?;
    Ok(u32::try_from(bytes).unwrap_or(0))
}

/// Whether a TCP connection is over, by a reset for instance (`tcpi_state` of `TCP_INFO`): unlike
/// `SO_ERROR`, which also tells of ICMP errors that ended nothing.
pub fn is_closed(fd: BorrowedFd<'_>) -> bool {
    /// `TCP_CLOSE` of `include/net/tcp_states.h`.
    const CLOSE: u8 = 7;
    // SAFETY: all-zero is a valid tcp_info, plain integers.
    let info: libc::tcp_info = unsafe { std::mem::zeroed() };
    get(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info).is_ok_and(|info| info.tcpi_state == CLOSE)
}

/// Questions in a row that the peer of a TCP connection did not answer, keep-alives or probes of its
/// window (`tcpi_probes` of `TCP_INFO`).
pub fn unanswered_probes(fd: BorrowedFd<'_>) -> io::Result<u8> {
    // SAFETY: all-zero is a valid tcp_info, plain integers.
    let info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let info = get(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info)?;
    Ok(info.tcpi_probes)
}

/// Has the kernel ask the peer of a TCP connection that has keep-alives after so many seconds of
/// silence, and again after each `pause` without an answer, as often as can be (tcp(7)). It asks at
/// once if the silence was as long.
pub fn set_keepalive(fd: BorrowedFd<'_>, idle: u32, pause: u32) -> io::Result<()> {
    /// `MAX_TCP_KEEPCNT` of include/net/tcp.h.
    const MOST: u32 = 127;
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, MOST)?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, pause)?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, idle)
}

/// Time to live, or hop limit, of what a TCP socket sends: that of the system without `hops`.
pub fn set_hops(fd: BorrowedFd<'_>, v6: bool, hops: Option<u8>) -> io::Result<()> {
    let hops = hops.map_or(-1, i32::from);
    if v6 {
        return set(fd, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, hops);
    }
    set(fd, libc::IPPROTO_IP, libc::IP_TTL, hops)
}

/// Type of service, or traffic class, of what a socket sends. ECN in it is the kernel's.
pub fn set_class(fd: BorrowedFd<'_>, v6: bool, class: u8) -> io::Result<()> {
    if v6 {
        return set(fd, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, i32::from(class));
    }
    set(fd, libc::IPPROTO_IP, libc::IP_TOS, i32::from(class))
}

/// Whether errors of the network are queued that an IPv6 TCP socket meets while it connects, to be
/// taken by [`receive_failure`](crate::dgram::receive_failure); those of IPv4 always are. Later on
/// such errors would be reported as if they ended the connection.
pub fn queue_failures(fd: BorrowedFd<'_>, queue: bool) -> io::Result<()> {
    set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, i32::from(queue))
}

/// What the kernel knows of the way of a TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpWay {
    /// Smoothed round-trip time in microseconds (`tcpi_rtt`).
    pub rtt_us: u32,
    /// Segments sent again (`tcpi_total_retrans`).
    pub retransmitted: u32,
    /// Congestion window in segments (`tcpi_snd_cwnd`).
    pub cwnd: u32,
}

/// What `TCP_INFO` says of the way of a connection (include/uapi/linux/tcp.h).
pub fn tcp_way(fd: BorrowedFd<'_>) -> io::Result<TcpWay> {
    // SAFETY: all-zero is a valid tcp_info, plain integers.
    let info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let info = get(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info)?;
    Ok(TcpWay { rtt_us: info.tcpi_rtt, retransmitted: info.tcpi_total_retrans, cwnd: info.tcpi_snd_cwnd })
}

/// Smoothed round-trip time of a TCP connection in microseconds
/// (`tcpi_rtt` of `TCP_INFO`, include/uapi/linux/tcp.h), as the handshake measured it.
pub fn round_trip_us(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: all-zero is a valid tcp_info, plain integers.
    let info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let info = get(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info)?;
    Ok(info.tcpi_rtt)
}

/// `SO_BINDTODEVICE`, socket(7), by interface name; needs no privilege since Linux 5.7.
pub fn bind_to_device(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    // SAFETY: pointer and length are those of a live string.
    result(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        )
    } as isize)
    .map(drop)
}

/// `SO_PEERCRED`, unix(7): the process at the other end when the connection was made; 0
/// if this PID namespace doesn't have it. (rustix demands that a PID is not 0.)
pub fn peer_pid(fd: impl AsFd) -> io::Result<i32> {
    let peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let peer = get(fd.as_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, peer)?;
    Ok(peer.pid)
}

/// `SO_PEERCRED`, unix(7): the user ID of the process at the other end when the connection was made,
/// as this user namespace has it.
pub fn peer_user(fd: impl AsFd) -> io::Result<u32> {
    let peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let peer = get(fd.as_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, peer)?;
    Ok(peer.uid)
}

/// `SO_PEERPIDFD`, since Linux 6.5: a descriptor of the process at the other end when the
/// connection was made, whatever PID namespace it is in.
pub fn peer_process(fd: impl AsFd) -> io::Result<OwnedFd> {
    let peer: RawFd = get(fd.as_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, -1)?;
    if peer < 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: a descriptor, which the kernel has opened for us just now.
    Ok(unsafe { OwnedFd::from_raw_fd(peer) })
}

/// `TCP_CONGESTION`, tcp(7): the name of a connection's congestion control, ended by a zero.
pub fn congestion_control(fd: BorrowedFd<'_>) -> io::Result<[u8; 16]> {
    get(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, [0; 16])
}

/// The value of an option that has the layout of `T`, a plain C type of which any bytes are valid.
/// What the kernel does not write is as in `value`.
fn get<T: Copy>(fd: BorrowedFd<'_>, level: i32, name: i32, mut value: T) -> io::Result<T> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, which is that long.
    result(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) }
        as isize)?;
    Ok(value)
}

/// Sets an option whose value has the layout of `T`, a plain C type.
pub(crate) fn set<T: Copy>(fd: BorrowedFd<'_>, level: i32, name: i32, value: T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a live value.
    result(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    } as isize)
    .map(drop)
}
