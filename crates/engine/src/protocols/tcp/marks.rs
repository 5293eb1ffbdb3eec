//! What the guest's SYN asks of routers, on the socket that connects in its place.

use std::os::fd::{AsFd as _, OwnedFd};

use passt_proto::wire::build::DEFAULT_TTL;
use passt_proto::wire::ip::{self, ECN};
use passt_sys::socket;

/// Marks of the guest's SYN, and the family of the socket that has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    pub(super) ttl: u8,
    v6: bool,
}

impl Marks {
    /// Those of what nobody marked.
    pub(super) const USUAL: Self = Self { ttl: DEFAULT_TTL, v6: false };

    /// Gives a socket that is about to connect the marks of the guest's SYN. ECN is not among them:
    /// that is between kernels. The usual ones are those of the host's kernel, whatever these are.
    pub(super) fn set(fd: &OwnedFd, v6: bool, marks: ip::Marks) -> Self {
        let class = marks.traffic_class & !ECN;
        if class != 0 {
            let _ = socket::set_class(fd.as_fd(), v6, class);
        }
        if marks.ttl != DEFAULT_TTL {
            let _ = socket::set_hops(fd.as_fd(), v6, Some(marks.ttl));
            if v6 {
                let _ = socket::queue_failures(fd.as_fd(), true);
            }
        }
        Self { ttl: marks.ttl, v6 }
    }

    /// The socket is connected. A SYN that was to reach no farther than some router reached the
    /// peer, and what follows is not to be lost if the path gets longer. A larger number of hops
    /// stays, as a peer may ask for it (RFC 5082). Errors of the network end a connection no more.
    pub(super) fn connected(self, fd: &OwnedFd) {
        if self.ttl < DEFAULT_TTL {
            let _ = socket::set_hops(fd.as_fd(), self.v6, None);
        }
        if self.ttl != DEFAULT_TTL && self.v6 {
            let _ = socket::queue_failures(fd.as_fd(), false);
        }
    }
}
