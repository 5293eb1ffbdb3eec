//! Sockets of the host that flows have: how they are made, and how they ended.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use passt_proto::addr::{Addr, Endpoint};
use passt_proto::rules::HostSide;
use passt_sys::dgram;
use passt_sys::socket::Kind;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::core::{Core, Outbound};
use crate::link::Link;

/// A socket towards the host's peers, bound to the interface and address that the command line or
/// the way of mapping asks for.
pub(crate) fn socket<L>(
    core: &Core<L>,
    kind: SocketType,
    protocol: Option<rustix::net::Protocol>,
    remote: Addr,
    bind: Option<Addr>,
) -> io::Result<OwnedFd> {
    let outbound = &core.outbound[usize::from(!remote.is_v4())];
    let family = if remote.is_v4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = passt_sys::socket::open(Kind { kind, family }, protocol)?;
    if let Some(Outbound { interface, strict }) = outbound
        && !remote.is_loopback()
    {
        let bound = passt_sys::socket::bind_to_device(fd.as_fd(), interface);
        bound.or_else(|error| if *strict { Err(error) } else { Ok(()) })?;
    }
    // The kernel chooses loopback for itself where it leads there.
    if let Some(addr) = bind.filter(|addr| !(addr.is_loopback() && remote.is_loopback())) {
        rustix::net::bind(&fd, &Endpoint::new(addr, 0).socket_addr())?;
    }
    Ok(fd)
}

/// A datagram socket connected to `side`, and whether it got the guest's own port (or identifier).
/// It reports errors of the network, and joins datagrams if that is of use to the link.
pub(super) fn datagram_socket<L: Link>(
    core: &Core<L>,
    protocol: Option<rustix::net::Protocol>,
    side: &HostSide,
    port: u16,
) -> io::Result<(OwnedFd, bool)> {
    let fd = socket(core, SocketType::DGRAM, protocol, side.remote.addr, None)?;
    let from = side.bind.unwrap_or_else(|| any(side.remote.addr));
    let (from, to) = (side.socket_addr(Endpoint::new(from, port)), side.socket_addr(side.remote));
    let kept = connect(&fd, from, to, protocol.is_none() && core.caps.udp_segmentation)?;
    Ok((fd, kept))
}

/// The unspecified address of `like`'s family.
pub(crate) fn any(like: Addr) -> Addr {
    if like.is_v4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Connects a datagram socket to `to`, bound to `from`, or another port if that is taken; returns
/// whether it is not. It reports errors of the network, and gets datagrams `joined` if that is
/// asked for.
pub(super) fn connect(fd: &OwnedFd, from: SocketAddr, to: SocketAddr, joined: bool) -> io::Result<bool> {
    let kept = prepare(fd, from, joined)?;
    rustix::net::connect(fd, &to)?;
    Ok(kept)
}

/// [`connect`] without a peer.
pub(super) fn prepare(fd: &OwnedFd, mut from: SocketAddr, joined: bool) -> io::Result<bool> {
    let kept = rustix::net::bind(fd, &from).is_ok();
    if !kept {
        from.set_port(0);
        rustix::net::bind(fd, &from)?;
    }
    if from.is_ipv4() {
        sockopt::set_socket_broadcast(fd, true)?;
    }
    equip(fd, from.is_ipv6(), joined)?;
    Ok(kept)
}

/// Has a datagram socket report errors of the network and marks, and gives it room; it gets
/// datagrams `joined` if that is asked for.
pub(super) fn equip(fd: &OwnedFd, v6: bool, joined: bool) -> io::Result<()> {
    let fd = fd.as_fd();
    dgram::want_failures(fd, v6)?;
    dgram::want_marks(fd, v6)?;
    dgram::want_room(fd)?;
    if joined {
        // Linux before 5.0 does not know how to.
        let _ = dgram::want_joined(fd);
    }
    Ok(())
}

/// The pending error of a socket, if there is one; the kernel forgets it.
pub(crate) fn socket_error(fd: impl AsFd) -> Option<Errno> {
    sockopt::socket_error(fd).unwrap_or_else(Err).err()
}

/// Whether a connection was reset. One that ended in order has no error, and ICMP errors end none.
pub(super) fn is_reset(fd: &OwnedFd) -> bool {
    passt_sys::socket::is_closed(fd.as_fd()) && socket_error(fd).is_some()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};

    use super::*;

    /// Two ends of a connection, the first of which is looked at.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        (listener.accept().expect("a client").0, peer)
    }

    #[test]
    fn what_a_reset_is() {
        let (own, _peer) = pair();
        assert!(!is_reset(&own.into()), "it goes on");

        let (mut own, peer) = pair();
        drop(peer);
        assert_eq!(own.read(&mut [0]).expect("the end"), 0);
        assert!(!is_reset(&own.try_clone().expect("descriptor").into()), "only one way has ended");
        own.shutdown(Shutdown::Write).expect("shut down");
        let own = OwnedFd::from(own);
        while !passt_sys::socket::is_closed(own.as_fd()) {
            std::thread::yield_now();
        }
        assert!(!is_reset(&own), "both ways ended in order");

        let (own, peer) = pair();
        sockopt::set_socket_linger(&peer, Some(std::time::Duration::ZERO)).expect("linger");
        drop(peer);
        assert!(is_reset(&own.into()));
    }
}
