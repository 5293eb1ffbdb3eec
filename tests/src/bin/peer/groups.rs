//! Members of multicast groups, and those who send to groups and to all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use passt_sys::iovec::Scatter;
use passt_sys::{dgram, groups};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketType, bind, netdevice, socket, sockopt};

use crate::say;

/// Tells each datagram that comes to a port, of a group if there is one: from whom, to where, with
/// which time to live. One that asks is answered.
pub(crate) fn listen(at: &str, interface: &str) -> Result<()> {
    let at: SocketAddr = at.parse()?;
    let fd = shared(at.port(), at.is_ipv6())?;
    let index = netdevice::name_to_index(&fd, interface)?;
    dgram::want_destination(fd.as_fd(), at.is_ipv6())?;
    dgram::want_marks(fd.as_fd(), at.is_ipv6())?;
    if at.ip().is_multicast() {
        groups::only_own(fd.as_fd(), at.is_ipv6())?;
        groups::join(fd.as_fd(), at.ip(), index)?;
    }
    say(&format!("LISTENING {at}"))?;
    let mut buffer = vec![0; 65_536];
    loop {
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], None)?;
        let mut into = Scatter::new();
        into.push(&mut buffer);
        let Ok(received) = dgram::receive(fd.as_fd(), &into) else { continue };
        let source = received.source.context("a source")?;
        let to = received.broadcast.map(IpAddr::from).or(received.destination).context("a destination")?;
        let text = String::from_utf8_lossy(&buffer[..received.len]).into_owned();
        let (shown, port) = (source.ip().to_canonical(), source.port());
        say(&format!("{text} from {shown} port {port} to {to} ttl {}", received.ttl.unwrap_or(0)))?;
        if text.contains("anybody") {
            let socket = UdpSocket::from(fd.try_clone()?);
            socket.send_to(b"here", source)?;
        }
    }
}

/// Sends a text, from a port or from any, and waits for an answer: who it is from, and what.
pub(crate) fn say_to(to: &str, interface: &str, from: u16, ttl: u8, text: &str) -> Result<String> {
    let to: SocketAddr = to.parse()?;
    let fd = shared(from, to.is_ipv6())?;
    let index = netdevice::name_to_index(&fd, interface)?;
    groups::leave_by(fd.as_fd(), to.is_ipv6(), index)?;
    passt_sys::socket::bind_to_device(fd.as_fd(), interface)?;
    set_ttl(&fd, to.is_ipv6(), ttl)?;
    sockopt::set_socket_broadcast(&fd, true)?;
    let socket = UdpSocket::from(fd);
    socket.send_to(text.as_bytes(), to).with_context(|| format!("to {to}"))?;
    if !text.contains("anybody") {
        return Ok("sent".to_owned());
    }
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut buffer = [0; 100];
    let answer = socket.recv_from(&mut buffer);
    Ok(answer.map_or_else(
        |error| format!("{:?}", error.kind()),
        |(len, source)| format!("{} from {source}", String::from_utf8_lossy(&buffer[..len])),
    ))
}

/// Sets time to live or hop limit of what is sent, to single stations and to groups.
fn set_ttl(fd: &OwnedFd, v6: bool, ttl: u8) -> Result<()> {
    if v6 {
        sockopt::set_ipv6_multicast_hops(fd, ttl.into())?;
        sockopt::set_ipv6_unicast_hops(fd, Some(ttl))?;
    } else {
        sockopt::set_ip_multicast_ttl(fd, ttl.into())?;
        sockopt::set_ip_ttl(fd, ttl.into())?;
    }
    Ok(())
}

/// A socket at a port that others may have, too.
fn shared(port: u16, v6: bool) -> Result<OwnedFd> {
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let fd = socket(family, SocketType::DGRAM, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    bind(&fd, &SocketAddr::new(any, port))?;
    Ok(fd)
}
