//! As whom a server sees a client that comes from a certain address.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::Result;
use rustix::net::{AddressFamily, SocketType};

use crate::tcp::read_line;

/// How long a server has for its answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What servers of both protocols at `to` say, or what went wrong: `TCP UDP`. A datagram's answer
/// counts only if it comes from there.
pub(crate) fn seen(from: &str, to: &str) -> Result<String> {
    let (from, to) = (SocketAddr::new(from.parse::<IpAddr>()?, 0), to.parse()?);
    let [tcp, udp] = [by_tcp(from, to), by_udp(from, to)].map(|seen| {
        let kind = |error: anyhow::Error| match error.downcast::<std::io::Error>() {
            Ok(error) => format!("{:?}", error.kind()),
            Err(error) => error.to_string(),
        };
        seen.unwrap_or_else(kind)
    });
    Ok(format!("{tcp} {udp}"))
}

fn by_tcp(from: SocketAddr, to: SocketAddr) -> Result<String> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None).map_err(std::io::Error::from)?;
    rustix::net::bind(&socket, &from).map_err(std::io::Error::from)?;
    let mut stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    rustix::net::connect(&stream, &to).map_err(std::io::Error::from)?;
    stream.write_all(b"who\n")?;
    read_line(&mut stream)
}

fn by_udp(from: SocketAddr, to: SocketAddr) -> Result<String> {
    let socket = UdpSocket::bind(from)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"who")?;
    let mut buffer = [0; 100];
    let count = socket.recv(&mut buffer)?;
    let seen: SocketAddr = String::from_utf8_lossy(&buffer[..count]).parse()?;
    Ok(seen.ip().to_canonical().to_string())
}
