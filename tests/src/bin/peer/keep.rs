//! A connection on which nothing is said: how long it lives, and what routers see of it.
#![expect(clippy::disallowed_methods, reason = "a connection ends in real time")]

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};

use crate::say;

/// Connects with this type of service, given as a number, and keep-alives (after so many seconds,
/// so many seconds apart, given up after so many; none if that is 0). Prints `CONNECTED`, and then
/// how it ended and after how many milliseconds.
pub(crate) fn keep(to: &str, tos: &str, [idle, pause, count]: [&str; 3]) -> Result<()> {
    let (to, tos): (SocketAddr, u8) = (to.parse()?, tos.parse()?);
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket(family, SocketType::STREAM, None)?;
    if to.is_ipv4() {
        sockopt::set_ip_tos(&fd, tos)?;
    } else {
        sockopt::set_ipv6_tclass(&fd, tos.into())?;
    }
    let count = count.parse()?;
    if count > 0 {
        sockopt::set_tcp_keepidle(&fd, Duration::from_secs(idle.parse()?))?;
        sockopt::set_tcp_keepintvl(&fd, Duration::from_secs(pause.parse()?))?;
        sockopt::set_tcp_keepcnt(&fd, count)?;
        sockopt::set_socket_keepalive(&fd, true)?;
    }
    let start = Instant::now();
    let outcome = connect(&fd, &to).map_err(std::io::Error::from).and_then(|()| {
        say("CONNECTED").map_err(std::io::Error::other)?;
        TcpStream::from(fd).read(&mut [0])
    });
    let outcome = outcome.map_or_else(|error| format!("{:?}", error.kind()), |count| format!("read {count}"));
    say(&format!("{outcome} {}", start.elapsed().as_millis()))
}
