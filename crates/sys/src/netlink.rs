//! Netlink sockets (netlink(7)): datagrams, and the messages in them.
//!
//! Bodies of messages are the business of the crates above. What comes from anybody but the kernel
//! is not handed on.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSG_DONE, NlasIterator};
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, Protocol, RecvAncillaryBuffer, RecvFlags, SocketFlags, SocketType, bind, recvfrom,
    recvmsg, socket_with,
};

use crate::iovec::Gather;
use crate::msg;
use crate::plain::Plain;
use crate::seccomp::{Call, Sysno};

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[Call::any(Sysno::sendmsg)];

/// Those made by a socket that [follows](NetlinkSocket::follow_neighbours) something.
pub const FOLLOWING: &[Call] = &[Call::any(Sysno::sendmsg), Call::any(Sysno::recvmsg)];

/// The longest datagram taken. The kernel's own limit is 32 KiB, or one message.
pub const MAX_DATAGRAM: usize = 1 << 20;

/// Length of `struct nlmsghdr`.
pub const HEADER_LEN: usize = 16;
/// The attribute of an error that holds the kernel's explanation.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The kernel's own address; bound to, it asks for any free one.
const KERNEL: SocketAddrNetlink = SocketAddrNetlink::new(0, 0);

/// Any free address, in the group that is told of neighbours (`RTMGRP_NEIGH`).
const NEIGHBOURS: SocketAddrNetlink = SocketAddrNetlink::new(0, 4);

/// A blocking socket for requests to a subsystem of the network namespace in which it was opened.
#[derive(Debug)]
pub struct NetlinkSocket(OwnedFd);

impl NetlinkSocket {
    /// Opens a socket for the routing subsystem (rtnetlink(7)). The kernel is asked for
    /// explanations with its errors and to apply filters of dump requests; older kernels do
    /// without.
    pub fn open() -> io::Result<Self> {
        let Self(fd) = Self::bound(None, KERNEL)?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK, libc::NETLINK_GET_STRICT_CHK] {
            enable(fd.as_fd(), option);
        }
        Ok(Self(fd))
    }

    /// Opens a socket for questions about sockets (`sock_diag(7)`).
    pub fn open_diag() -> io::Result<Self> {
        Self::bound(Some(SOCK_DIAG), KERNEL)
    }

    /// Opens a socket for the routing subsystem that is told of changes in the tables of
    /// neighbours.
    pub fn follow_neighbours() -> io::Result<Self> {
        Self::bound(None, NEIGHBOURS)
    }

    fn bound(protocol: Option<Protocol>, address: SocketAddrNetlink) -> io::Result<Self> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&fd, &address)?;
        Ok(Self(fd))
    }

    /// Sends one message, complete with its header.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        // Without an address it goes to the kernel.
        msg::send(self.0.as_fd(), &Gather::of(message)).map(drop)
    }

    /// Waits for the kernel's next datagram and makes it the content of `buf`,
    /// which grows as needed. One over [`MAX_DATAGRAM`] is discarded: `EMSGSIZE`.
    pub fn recv(&self, buf: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let (len, _) = self.recv_flags(&mut [], RecvFlags::PEEK)?;
            buf.resize(len.min(MAX_DATAGRAM), 0);
            let (len, from) = self.recv_flags(buf, RecvFlags::empty())?;
            if from != Some(KERNEL) {
                continue;
            }
            if len > buf.len() {
                return Err(rustix::io::Errno::MSGSIZE.into());
            }
            return Ok(());
        }
    }

    /// The next datagram of the kernel's, if one is there and `buf` has room for all of it; where
    /// it has not, it is an empty one. Notifications that were lost for want of memory are an
    /// error: `ENOBUFS`.
    pub fn recv_now<'a>(&self, buf: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.0, &mut [IoSliceMut::new(buf)], &mut RecvAncillaryBuffer::default(), flags)
        })?;
        let from = received.address.and_then(|from| SocketAddrNetlink::try_from(from).ok());
        let is_kernels = from.is_some_and(|from| from.pid() == KERNEL.pid());
        Ok(buf.get(..received.bytes).filter(|_| is_kernels).unwrap_or_default())
    }

    /// One `recvfrom`: the datagram's whole length and its sender.
    fn recv_flags(&self, buf: &mut [u8], flags: RecvFlags) -> io::Result<(usize, Option<SocketAddrNetlink>)> {
        let (_, len, from) =
            rustix::io::retry_on_intr(|| recvfrom(&self.0, &mut *buf, flags | RecvFlags::TRUNC))?;
        Ok((len, from.and_then(|a| a.try_into().ok())))
    }
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Switches a netlink option on, if the kernel knows it.
fn enable(fd: BorrowedFd<'_>, option: libc::c_int) {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length describe `on`, which outlives the call; the kernel only
    // reads it.
    let _unknown_to_old_kernels =
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), 4) };
}

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its type, `nlmsg_type`.
    pub kind: u16,
    /// Its flags, `NLM_F_*`.
    pub flags: u16,
    /// The number of the request that it answers.
    pub seq: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

/// The kernel refused a request.
#[derive(Debug, thiserror::Error)]
#[error("{}{}", Plain(errno), explained(explanation))]
pub struct Refused {
    /// The error code.
    pub errno: io::Error,
    /// The kernel's words, empty if it gave none.
    pub explanation: String,
}

fn explained(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

impl Message<'_> {
    /// What `NLMSG_ERROR` and `NLMSG_DONE` say: their body begins with a negated
    /// error code, zero for success.
    pub fn result(&self) -> Result<(), Refused> {
        match u32_at(self.body, 0).map(u32::cast_signed) {
            Some(code) if code < 0 => Err(Refused {
                errno: io::Error::from_raw_os_error(code.saturating_neg()),
                explanation: self.explanation().unwrap_or_default(),
            }),
            _ => Ok(()),
        }
    }

    /// The kernel's words: in attributes after the echoed request, or after
    /// the code alone in `NLMSG_DONE`.
    fn explanation(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let echoed = match self.kind {
            NLMSG_DONE => 0,
            _ if self.flags & NLM_F_CAPPED != 0 => HEADER_LEN,
            _ => u32_at(self.body, 4)? as usize,
        };
        let attributes = self.body.get(echoed.checked_add(4)?.next_multiple_of(4)..)?;
        let text =
            NlasIterator::new(attributes).map_while(Result::ok).find(|a| a.kind() == NLMSGERR_ATTR_MSG)?;
        let text = String::from_utf8_lossy(text.value()).into_owned();
        Some(text.trim_end_matches('\0').to_owned())
    }
}

/// The messages of a datagram. Ends at the first that is not whole.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let len = u32_at(rest, 0)? as usize;
        let message = Message {
            kind: u16_at(rest, 4)?,
            flags: u16_at(rest, 6)?,
            seq: u32_at(rest, 8)?,
            body: rest.get(HEADER_LEN..len)?,
        };
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The 32-bit number `at` bytes from the start, in the byte order of the machine.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let (value, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_ne_bytes(*value))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let (value, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u16::from_ne_bytes(*value))
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NLMSG_ERROR;

    use super::*;

    /// The answer to an `RTM_GETLINK` dump begins with a link and is whole, whatever the buffer
    /// was.
    #[test]
    fn buffer_grows() {
        let socket = NetlinkSocket::open().expect("netlink is there");
        let mut request = [0; 32];
        request[..4].copy_from_slice(&32_u32.to_ne_bytes());
        request[4..6].copy_from_slice(&18_u16.to_ne_bytes());
        request[6..8].copy_from_slice(&0x301_u16.to_ne_bytes());
        socket.send(&request).expect("a valid request");
        let mut buf = Vec::new();
        socket.recv(&mut buf).expect("loopback exists");
        assert_eq!(u16::from_ne_bytes([buf[4], buf[5]]), 16, "RTM_NEWLINK");
        let mut rest = buf.as_slice();
        while let Some(len) = rest.first_chunk().map(|len| u32::from_ne_bytes(*len) as usize) {
            assert!(len >= 16, "a header's length");
            rest = rest.get(len.next_multiple_of(4)..).expect("whole messages");
        }
        assert_eq!(rest, [0; 0]);
    }

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut m = Vec::new();
        let len = u32::try_from(HEADER_LEN + body.len()).unwrap();
        m.extend(len.to_ne_bytes());
        m.extend(kind.to_ne_bytes());
        m.extend(flags.to_ne_bytes());
        m.extend(7_u32.to_ne_bytes());
        m.extend([0; 4]);
        m.extend(body);
        m.resize(m.len().next_multiple_of(4), 0);
        m
    }

    #[test]
    fn datagrams_are_split() {
        let mut datagram = message(16, 0, &[1, 2, 3]);
        datagram.extend(message(20, 0, &[4]));
        let bodies = [(16, &[1, 2, 3][..]), (20, &[4][..])];
        assert_eq!(messages(&datagram).map(|m| (m.kind, m.body)).collect::<Vec<_>>(), bodies);
        // The first has 19 bytes and one of padding, the second 17 and three.
        assert_eq!(datagram.len(), 40);
        for (cuts, whole) in [(0..19, 0), (19..37, 1), (37..40, 2)] {
            for cut in cuts {
                let found: Vec<_> = messages(&datagram[..cut]).map(|m| (m.kind, m.body)).collect();
                assert_eq!(found, bodies[..whole], "cut at {cut}");
            }
        }
        for len in [0_u32, 15, 41, u32::MAX] {
            datagram[20..24].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(messages(&datagram).count(), 1, "a length of {len} ends it");
        }
    }

    #[test]
    fn refusals_are_explained() {
        let mut body = Vec::from((-22_i32).to_ne_bytes());
        body.extend([0; HEADER_LEN]);
        body.extend(9_u16.to_ne_bytes());
        body.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        body.extend(b"odd!\0");
        let datagram = message(NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, &body);
        let error = messages(&datagram).next().unwrap().result().unwrap_err();
        assert_eq!(error.errno.raw_os_error(), Some(22));
        assert_eq!(error.to_string(), "Invalid argument (odd!)");

        let datagram = message(NLMSG_ERROR, 0, &0_i32.to_ne_bytes());
        assert!(messages(&datagram).next().unwrap().result().is_ok());
    }
}
