//! Sockets that are bound to a port and not connected, but serve nobody: others on this host, who
//! ask the kernel what listens (`sock_diag(7)`), would take them for services of datagrams.
//!
//! They have a mark: three options that no service has together, of which the kernel tells with
//! each socket (`struct inet_diag_sockopt` of `include/uapi/linux/inet_diag.h`, Linux 5.10). Two of
//! them are of use besides, and the third does nothing once a socket is bound.

use std::io;
use std::os::fd::BorrowedFd;

use crate::groups;
use crate::seccomp::{Call, Sysno};
use crate::socket::{option, set};

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[Call::only(
    Sysno::setsockopt,
    &[option::IP_BIND_ADDRESS_NO_PORT, option::IP_MULTICAST_ALL, option::IPV6_MULTICAST_ALL],
)];

/// Where an answer has the options, and their bits: `recverr`, `mc_all` in the first byte,
/// `bind_address_no_port` in the second.
pub const ATTRIBUTE: u16 = 22;
const RECVERR: u8 = 1 << 0;
const MC_ALL: u8 = 1 << 6;
const BIND_ADDRESS_NO_PORT: u8 = 1 << 0;

/// Marks a socket, which is bound and [reports errors](crate::dgram::want_failures): it gets nothing
/// of groups that it is no member of.
pub fn mark(fd: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    groups::only_own(fd, false)?;
    if v6 {
        // Linux before 4.20 does not know how to.
        let _ = groups::only_own(fd, true);
    }
    set(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1i32)
}

/// Whether a socket with these options is marked.
pub fn is_marked(options: &[u8]) -> bool {
    let &[first, second, ..] = options else { return false };
    first & (RECVERR | MC_ALL) == RECVERR && second & BIND_ADDRESS_NO_PORT != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks() {
        let table = [
            (&[][..], false),
            (&[0b0001], false),
            (&[0b0001, 0b001], true),
            (&[0b1111_1111, 0b001], false),
            (&[0b1011_1111, 0b111], true),
            (&[0b0000, 0b001], false),
            (&[0b0001, 0b110], false),
        ];
        for (options, marked) in table {
            assert_eq!(is_marked(options), marked, "{options:?}");
        }
    }
}
