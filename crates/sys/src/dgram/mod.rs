//! Datagrams: many in one system call, with what the kernel says beside them.
//!
//! Addresses and control messages cross this border as bytes in the kernel's layout
//! (`struct cmsghdr` of include/linux/socket.h, `sockaddr_in`, `sockaddr_in6`), written
//! and read by safe code; only pointers to them need the care of the calls themselves.

mod control;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use arrayvec::ArrayVec;

use self::control::{CmsgBuffer, SocketName, parse_name};
use crate::iovec::{Gather, Scatter};
use crate::result;
use crate::seccomp::{Call, Sysno};
use crate::socket::{option, set};

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[
    Call::any(Sysno::recvmmsg),
    Call::any(Sysno::recvmsg),
    Call::any(Sysno::sendmmsg),
    Call::only(
        Sysno::setsockopt,
        &[
            option::IP_MTU_DISCOVER,
            option::IP_RECVERR,
            option::IP_RECVTOS,
            option::IP_RECVTTL,
            option::IPV6_MTU_DISCOVER,
            option::IPV6_RECVERR,
            option::IPV6_RECVHOPLIMIT,
            option::IPV6_RECVTCLASS,
            option::SO_RCVBUF,
        ],
    ),
];

/// What [`want_destination`] makes, for those who call it once the process runs.
pub const DESTINATIONS: &[Call] =
    &[Call::only(Sysno::setsockopt, &[option::IP_PKTINFO, option::IPV6_RECVPKTINFO])];

/// The same of [`want_joined`].
pub const JOINED: &[Call] = &[Call::only(Sysno::setsockopt, &[option::UDP_GRO])];

/// Most messages of one call.
pub const BATCH: usize = 32;

/// Most bytes that one received message can have: a datagram, or what the kernel
/// joined to one.
pub const MAX_LEN: usize = 65_536;

/// Bytes that may wait in a socket. The kernel takes twice as many with its own records.
const ROOM: i32 = 1024 * 1024;

/// `UDP_SEGMENT` and `UDP_GRO` of include/uapi/linux/udp.h.
const UDP_SEGMENT: i32 = 103;
pub(crate) const UDP_GRO: i32 = 104;

/// One message to be sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outgoing {
    /// The first of its buffers in the list.
    pub first: usize,
    /// How many buffers it has.
    pub buffers: usize,
    /// The kernel is to cut it into datagrams of this many bytes; zero for none of that.
    pub segment: u16,
}

/// What messages to be sent have in their headers, where the kernel is not to choose it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Envelope {
    /// The receiver, of the socket's family (see [`mapped`]), unless the socket is connected to it.
    pub to: Option<SocketAddr>,
    /// The address to send from.
    pub from: Option<IpAddr>,
    /// Time to live, or hop limit.
    pub ttl: Option<u8>,
    /// Traffic class (RFC 8200, section 7), in IPv4 the byte of differentiated services and ECN
    /// (RFC 2474, RFC 3168); zero is what the kernel chooses.
    pub traffic_class: u8,
}

/// A message that was received.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Bytes of payload.
    pub len: usize,
    /// Bytes of each datagram but the last, if the kernel joined several; else zero.
    pub segment: u16,
    /// Sender.
    pub source: Option<SocketAddr>,
    /// The address that it was sent to, if asked for by [`want_destination`]; for a broadcast to
    /// a network, our address there.
    pub destination: Option<IpAddr>,
    /// For a broadcast to a network, the address that it was sent to.
    pub broadcast: Option<Ipv4Addr>,
    /// The index of the interface that it came by, if asked for by [`want_destination`]; else zero.
    pub interface: u32,
    /// Time to live or hop limit, if asked for by [`want_marks`].
    pub ttl: Option<u8>,
    /// Traffic class, as in [`Envelope`]; zero if not asked for.
    pub traffic_class: u8,
}

/// An entry of a socket's error queue: `struct sock_extended_err`, ip(7).
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// The error number.
    pub errno: i32,
    /// Origin of the error.
    pub origin: Origin,
    /// Type of the ICMP message.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// What goes with it (`ee_info`): the MTU, for a packet that was too big.
    pub info: u32,
    /// Sender of the ICMP message.
    pub offender: Option<IpAddr>,
    /// Where the datagram was sent to.
    pub destination: Option<SocketAddr>,
    /// Bytes of the datagram's payload that came back.
    pub len: usize,
}

/// Where an error comes from (`ee_origin`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This host.
    Host,
    /// An ICMP message.
    Icmp,
    /// An ICMPv6 message.
    Icmpv6,
}

/// Sends messages (at most [`BATCH`]) whose buffers are in `data`, all in envelopes alike, without
/// waiting; returns how many were sent before the first error. `v4` tells the family of the packets
/// that they travel in.
pub fn send(
    fd: BorrowedFd<'_>,
    data: &Gather<'_>,
    messages: &[Outgoing],
    envelope: &Envelope,
    v4: bool,
) -> io::Result<usize> {
    let name = envelope.to.map(SocketName::from);
    let v6_name = name.as_ref().is_some_and(SocketName::is_v6);
    let count = messages.len().min(BATCH);
    #[cfg(feature = "inject")]
    let count = injected(fd, count, messages.first().is_some_and(|first| first.segment != 0))?;
    // Neighbours that are cut alike share their control messages: the kernel only reads them.
    let runs = || messages[..count].chunk_by(|a, b| a.segment == b.segment);
    let controls: Controls = runs().map(|run| control(envelope, run, v6_name, v4)).collect();
    let mut headers = ArrayVec::<_, BATCH>::new();
    for (run, control) in runs().zip(&controls) {
        for message in run {
            let own = data.as_slice().get(message.first..message.first.saturating_add(message.buffers));
            headers.push(outgoing_header(own.ok_or(io::ErrorKind::InvalidInput)?, name.as_ref(), control));
        }
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the headers are valid and point to `name`, `controls` and vectors of `data`, all
    // alive; the kernel only writes `msg_len` of each header.
    result(unsafe {
        libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), headers.len() as _, flags as _) as isize
    })
}

type Controls = ArrayVec<CmsgBuffer, BATCH>;

/// What the kernel is told besides the receiver of messages that are cut alike.
fn control(envelope: &Envelope, run: &[Outgoing], v6_name: bool, v4: bool) -> CmsgBuffer {
    let mut control = CmsgBuffer::EMPTY;
    if let Some(first) = run.first().filter(|first| first.segment != 0) {
        control.push(libc::SOL_UDP, UDP_SEGMENT, &first.segment.to_ne_bytes());
    }
    if let Some(from) = envelope.from {
        control.push_source(from, v6_name);
    }
    control.push_marks(envelope, v4);
    control
}

/// A header to send with; what it points to must outlive its use and is only read.
fn outgoing_header(vecs: &[libc::iovec], name: Option<&SocketName>, control: &CmsgBuffer) -> libc::mmsghdr {
    let mut header = EMPTY;
    let to = &mut header.msg_hdr;
    to.msg_iov = vecs.as_ptr().cast_mut();
    to.msg_iovlen = vecs.len() as _;
    if let Some(name) = name {
        to.msg_name = name.bytes.as_ptr().cast_mut().cast();
        to.msg_namelen = name.len;
    }
    if control.len > 0 {
        to.msg_control = control.bytes.as_ptr().cast_mut().cast();
        to.msg_controllen = control.len as _;
    }
    header
}

/// How many messages the kernel is given, as a script of tests has it.
#[cfg(feature = "inject")]
fn injected(fd: BorrowedFd<'_>, messages: usize, cut: bool) -> io::Result<usize> {
    use crate::inject::{Fate, ask};
    match ask(|script| script.datagrams(fd, messages, cut)) {
        Fate::Pass => Ok(messages),
        Fate::AtMost(most) => Ok(messages.min(most.max(1))),
        Fate::Fail(errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// The form of an address that sockets of both families take, `::ffff:a.b.c.d` for IPv4.
pub fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(a) => SocketAddrV6::new(a.ip().to_ipv6_mapped(), a.port(), 0, 0).into(),
        SocketAddr::V6(_) => addr,
    }
}

/// An address in the kernel's layout, and how many of these bytes it has.
pub(crate) fn name_bytes(addr: SocketAddr) -> ([u8; size_of::<libc::sockaddr_in6>()], usize) {
    let name = SocketName::from(addr);
    (name.bytes, name.len as usize)
}

/// Receives one message into `into` without waiting.
pub fn receive(fd: BorrowedFd<'_>, into: &Scatter<'_>) -> io::Result<Received> {
    let mut beside = Beside::EMPTY;
    let mut message = header(&mut beside, into.as_slice());
    // SAFETY: `message` points to `beside` and vectors that `into` keeps alive, of
    // memory that it borrows mutably or that nothing in this process refers to.
    let len = result(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })?;
    Ok(beside.received(&message, len))
}

/// What [`receive`] would return next; the message stays in the queue.
pub fn peek(fd: BorrowedFd<'_>) -> io::Result<Received> {
    let mut beside = Beside::EMPTY;
    let mut message = header(&mut beside, &[]);
    // With MSG_TRUNC the length is that of the message, not of the room for it.
    let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK | libc::MSG_TRUNC;
    // SAFETY: as in `receive`, without vectors.
    let len = result(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) })?;
    Ok(beside.received(&message, len))
}

/// Takes the oldest entry of the error queue, and the start of the datagram that it is about.
pub fn receive_failure(fd: BorrowedFd<'_>, payload: &mut [u8]) -> io::Result<Failure> {
    let mut beside = Beside::EMPTY;
    let mut into = Scatter::new();
    into.push(payload);
    let mut message = header(&mut beside, into.as_slice());
    let flags = libc::MSG_DONTWAIT | libc::MSG_ERRQUEUE;
    // SAFETY: as in `receive`; `payload` is borrowed mutably.
    let len = result(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) })?;
    (beside.name.len, beside.control.len) = (message.msg_namelen, control_len(&message));
    Failure::new(len, &beside.name, &beside.control)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Memory of our own to receive batches into. Only what is used of it is ever touched.
pub struct Inbox {
    arena: Vec<u8>,
    /// What comes beside the payloads. It is not cleared between batches: the kernel tells how much
    /// of it it wrote.
    beside: Vec<Beside>,
    received: [Option<Received>; BATCH],
}

/// Where the kernel writes a message's sender and control messages.
struct Beside {
    name: SocketName,
    control: CmsgBuffer,
}

impl Beside {
    const EMPTY: Self = Self { name: SocketName::EMPTY, control: CmsgBuffer::EMPTY };

    /// Takes over how much the kernel wrote, which is in the header that pointed here.
    fn received(&mut self, header: &libc::msghdr, len: usize) -> Received {
        (self.name.len, self.control.len) = (header.msg_namelen, control_len(header));
        Received::new(len, &self.name, &self.control)
    }
}

impl Inbox {
    /// Reserves the memory.
    pub fn new() -> Self {
        let beside = std::iter::repeat_with(|| Beside::EMPTY).take(BATCH).collect();
        Self { arena: vec![0; BATCH * MAX_LEN], beside, received: [None; BATCH] }
    }

    /// Receives up to [`BATCH`] messages without waiting; returns how many, at least one.
    pub fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.receive_some(fd, BATCH)
    }

    /// [`Inbox::receive`], but for no more than `most` messages.
    pub fn receive_some(&mut self, fd: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        let rooms = self.arena.chunks_exact_mut(MAX_LEN).take(most);
        let vecs: ArrayVec<_, BATCH> = rooms
            .map(|room| libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() })
            .collect();
        let mut headers = ArrayVec::<_, BATCH>::new();
        for (beside, vec) in self.beside.iter_mut().zip(&vecs) {
            let msg_hdr = header(beside, std::slice::from_ref(vec));
            headers.push(libc::mmsghdr { msg_hdr, msg_len: 0 });
        }
        // SAFETY: all headers point to parts of `beside`, to `vecs` and through these to separate
        // parts of the arena, both borrowed mutably; no time-out is given.
        let count = result(unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as _,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            ) as isize
        })?;
        let messages = headers.iter().zip(&mut self.beside).zip(&mut self.received);
        for ((header, beside), received) in messages.take(count) {
            *received = Some(beside.received(&header.msg_hdr, header.msg_len as usize));
        }
        Ok(count)
    }

    /// Bytes of message `index` of the last batch, and of each datagram in it as in [`Received`].
    pub fn size(&self, index: usize) -> Option<(usize, u16)> {
        self.received.get(index)?.as_ref().map(|received| (received.len, received.segment))
    }

    /// The sender of message `index` of the last batch.
    pub fn source(&self, index: usize) -> Option<SocketAddr> {
        self.received.get(index)?.as_ref()?.source
    }

    /// Message `index` of the last batch with its payload.
    pub fn message(&self, index: usize) -> Option<(Received, &[u8])> {
        Some(((*self.received.get(index)?)?, self.payload(index)?))
    }

    /// The payload of message `index` of the last batch.
    pub fn payload(&self, index: usize) -> Option<&[u8]> {
        let (len, _) = self.size(index)?;
        self.arena.get(index * MAX_LEN..)?.get(..len)
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

/// Errors of the network are queued, to be taken by [`receive_failure`], ip(7) and ipv6(7).
pub fn want_failures(fd: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    if v6 {
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1i32)?;
    }
    set(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1i32)
}

/// Room for what comes while the process waits for a CPU: as much of this as the system allows
/// (`net.core.rmem_max`), socket(7). The kernel's default is gone in two milliseconds at 50 000
/// full frames a second.
pub fn want_room(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, ROOM)
}

/// Messages are to come with the address that they were sent to. A socket of both families needs to
/// be told for IPv4, too, to know broadcasts to a network.
pub fn want_destination(fd: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    if v6 {
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1i32)?;
    }
    set(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1i32)
}

/// The kernel may join datagrams of equal size (Linux 5.0). There is no way back: what is in the
/// receive queue joined would come as one datagram, without the size of those that it is made of
/// (`udp_recvmsg()` of Linux).
pub fn want_joined(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::SOL_UDP, UDP_GRO, 1i32)
}

/// Messages are to come with their time to live and traffic class, ip(7) and ipv6(7). A socket of
/// IPv6 may receive both families.
pub fn want_marks(fd: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    if v6 {
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1i32)?;
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1i32)?;
    }
    set(fd, libc::IPPROTO_IP, libc::IP_RECVTTL, 1i32)?;
    set(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1i32)
}

/// Whether nobody may cut what is sent to an IPv4 or IPv6 destination, ip(7) and ipv6(7): then what
/// exceeds the MTU of the interface that it leaves through is refused (`EMSGSIZE`), and a router
/// that it is too big for says so. What the kernel knows of the path's MTU does not matter: a
/// sender may try more than that from time to time (RFC 8899, section 5). Otherwise the kernel cuts
/// what is too big for the path, and IPv4's routers do.
pub fn set_dont_fragment(fd: BorrowedFd<'_>, v6: bool, dont: bool) -> io::Result<()> {
    if v6 {
        let how = if dont { libc::IPV6_PMTUDISC_PROBE } else { libc::IPV6_PMTUDISC_DONT };
        return set(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, how);
    }
    let how = if dont { libc::IP_PMTUDISC_PROBE } else { libc::IP_PMTUDISC_DONT };
    set(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, how)
}

/// No message: null pointers, zero lengths.
const EMPTY: libc::mmsghdr = {
    // SAFETY: all-zero is a valid mmsghdr.
    unsafe { std::mem::zeroed() }
};

/// Bytes of control messages that the kernel wrote.
#[allow(clippy::unnecessary_cast, reason = "the type differs between C libraries")]
fn control_len(header: &libc::msghdr) -> usize {
    header.msg_controllen as usize
}

/// A header to receive with; what it points to must outlive its use.
fn header(beside: &mut Beside, vecs: &[libc::iovec]) -> libc::msghdr {
    let Beside { name, control } = beside;
    let mut header = EMPTY.msg_hdr;
    header.msg_name = name.bytes.as_mut_ptr().cast();
    header.msg_namelen = name.bytes.len() as _;
    header.msg_control = control.bytes.as_mut_ptr().cast();
    header.msg_controllen = control.bytes.len() as _;
    header.msg_iov = vecs.as_ptr().cast_mut();
    header.msg_iovlen = vecs.len() as _;
    header
}

impl Received {
    fn new(len: usize, name: &SocketName, control: &CmsgBuffer) -> Self {
        let mut received = Self {
            len,
            segment: 0,
            source: name.get(),
            destination: None,
            broadcast: None,
            interface: 0,
            ttl: None,
            traffic_class: 0,
        };
        for (level, kind, data) in control.messages() {
            match (level, kind) {
                (libc::SOL_UDP, UDP_GRO) => {
                    let size = data.first_chunk().map_or(0, |&b| i32::from_ne_bytes(b));
                    received.segment = u16::try_from(size).unwrap_or(0);
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let to = data.first_chunk().map(destination_v4);
                    received.destination = to.map(|(addr, _)| addr);
                    received.broadcast = to.and_then(|(_, broadcast)| broadcast);
                    received.interface = index(data);
                }
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    let ttl = data.first_chunk().map(|&b| i32::from_ne_bytes(b));
                    received.ttl = ttl.and_then(|ttl| u8::try_from(ttl).ok());
                }
                // A socket of both families is told the same of IPv4 in two ways, of which this one
                // has less.
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if received.destination.is_none() => {
                    let addr = data.first_chunk::<16>();
                    received.destination = addr.map(|&a| Ipv6Addr::from(a).to_canonical());
                    received.interface = data.get(16..).map_or(0, index);
                }
                // A single byte.
                (libc::IPPROTO_IP, libc::IP_TOS) => {
                    received.traffic_class = data.first().copied().unwrap_or(0);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    received.traffic_class = number(data).unwrap_or(0);
                }
                _ => {}
            }
        }
        received
    }
}

/// The index of an interface that data begins with.
fn index(data: &[u8]) -> u32 {
    data.first_chunk().map_or(0, |&bytes| u32::from_ne_bytes(bytes))
}

/// A byte that the kernel tells as an `int`.
fn number(data: &[u8]) -> Option<u8> {
    data.first_chunk().and_then(|&bytes| u8::try_from(i32::from_ne_bytes(bytes)).ok())
}

/// The destination from `struct in_pktinfo`: interface, local address, address in the header; and
/// that in the header if it is a network's broadcast address: what is for us alone goes to our own
/// (`fib_compute_spec_dst()` of Linux).
fn destination_v4(info: &[u8; 12]) -> (IpAddr, Option<Ipv4Addr>) {
    let &[_, _, _, _, l0, l1, l2, l3, a0, a1, a2, a3] = info;
    let (local, header) = (Ipv4Addr::new(l0, l1, l2, l3), Ipv4Addr::new(a0, a1, a2, a3));
    if header.is_multicast() || header.is_broadcast() {
        return (header.into(), None);
    }
    (local.into(), (header != local && !local.is_unspecified()).then_some(header))
}

impl Failure {
    fn new(len: usize, name: &SocketName, control: &CmsgBuffer) -> Option<Self> {
        let is_error = |&(level, kind, _): &(i32, i32, &[u8])| {
            matches!(
                (level, kind),
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
            )
        };
        let (_, _, data) = control.messages().find(is_error)?;
        // struct sock_extended_err, then the offender's address.
        let (error, offender) = data.split_first_chunk::<16>()?;
        let &[e0, e1, e2, e3, origin, kind, code, _, i0, i1, i2, i3, ..] = error;
        Some(Self {
            errno: i32::from_ne_bytes([e0, e1, e2, e3]),
            origin: match origin {
                libc::SO_EE_ORIGIN_ICMP => Origin::Icmp,
                libc::SO_EE_ORIGIN_ICMP6 => Origin::Icmpv6,
                _ => Origin::Host,
            },
            kind,
            code,
            info: u32::from_ne_bytes([i0, i1, i2, i3]),
            offender: parse_name(offender).map(|a| a.ip()),
            destination: name.get(),
            len,
        })
    }
}

#[cfg(test)]
mod tests;
