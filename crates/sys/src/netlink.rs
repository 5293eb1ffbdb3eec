//! A netlink socket that carries bytes (netlink(7)).
//!
//! What the bytes say is the business of the crate above. Messages from
//! anybody but the kernel are not handed on.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};

use crate::iovec::Gather;
use crate::msg;
use crate::seccomp::{Call, Sysno};

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[Call::any(Sysno::sendmsg)];

/// The longest datagram taken. The kernel's own limit is 32 KiB, or one message.
pub const MAX_DATAGRAM: usize = 1 << 20;

/// The kernel's own address; bound to, it asks for any free one.
const KERNEL: SocketAddrNetlink = SocketAddrNetlink::new(0, 0);

/// A blocking socket for requests to a subsystem of the network namespace in which it was opened.
#[derive(Debug)]
pub struct NetlinkSocket(OwnedFd);

impl NetlinkSocket {
    /// Opens a socket for the routing subsystem (rtnetlink(7)). The kernel is asked for explanations with
    /// its errors and to apply filters of dump requests; older kernels do without.
    pub fn open() -> io::Result<Self> {
        let Self(fd) = Self::bound(None)?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK, libc::NETLINK_GET_STRICT_CHK] {
            enable(fd.as_fd(), option);
        }
        Ok(Self(fd))
    }

    /// Opens a socket for questions about sockets (`sock_diag(7)`).
    pub fn open_diag() -> io::Result<Self> {
        Self::bound(Some(SOCK_DIAG))
    }

    fn bound(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&fd, &KERNEL)?;
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
    // SAFETY: the pointer and the length describe `on`, which outlives the call; the kernel only reads it.
    let _unknown_to_old_kernels =
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), 4) };
}

#[cfg(test)]
mod tests {
    use super::NetlinkSocket;

    /// The answer to an `RTM_GETLINK` dump begins with a link and is whole, whatever the buffer was.
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
}
