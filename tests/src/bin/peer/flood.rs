//! Datagrams as fast as they go or at a rate, and a receiver that counts them.
//! The size is that of a full Ethernet frame in a tunnel: what protocols on
//! UDP send. Sent and received are printed as a count and the seconds it took.
#![expect(clippy::disallowed_methods, reason = "datagrams are sent and timed in real time")]

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt};

use crate::{say, udp};

/// Of each datagram, in bytes.
const SIZE: usize = 1400;
/// After how long without a datagram there will be no more.
const QUIET: Duration = Duration::from_millis(300);
/// How long until the first.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to send.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) seconds: u64,
    /// Datagrams that the kernel makes of each `send`, by `UDP_SEGMENT`.
    pub(crate) segments: u16,
    /// Datagrams a second, or 0 for as many as possible.
    pub(crate) rate: u64,
}

impl Load {
    pub(crate) fn parse(seconds: &str, segments: &str, rate: &str) -> Result<Self> {
        Ok(Self { seconds: seconds.parse()?, segments: segments.parse()?, rate: rate.parse()? })
    }
}

/// Counts what comes to `address` until no more does.
pub(crate) fn sink(address: &str) -> Result<String> {
    count(&listen(address)?)
}

/// Sends to whoever sends a first datagram to `address`.
pub(crate) fn source(address: &str, load: Load) -> Result<String> {
    let socket = listen(address)?;
    let (_, client) = socket.recv_from(&mut [0; 16])?;
    socket.connect(client)?;
    flood(&socket, load)
}

/// Sends to a [`sink`].
pub(crate) fn send(to: &str, load: Load) -> Result<String> {
    flood(&udp::connected(to)?, load)
}

/// Counts what a [`source`] sends.
pub(crate) fn fetch(from: &str) -> Result<String> {
    let socket = udp::connected(from)?;
    socket.send(b"send")?;
    count(&socket)
}

fn listen(address: &str) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| address.to_owned())?;
    say(&format!("LISTENING {}", socket.local_addr()?))?;
    Ok(socket)
}

fn flood(socket: &UdpSocket, load: Load) -> Result<String> {
    if load.segments > 1 {
        setsockopt(socket, sockopt::UdpGsoSegment, &i32::try_from(SIZE)?)?;
    }
    let datagrams = vec![0; SIZE * usize::from(load.segments)];
    let (start, mut sent) = (Instant::now(), 0);
    loop {
        let elapsed = start.elapsed();
        if elapsed >= Duration::from_secs(load.seconds) {
            return Ok(format!("{sent} {}", elapsed.as_secs_f64()));
        }
        if load.rate > 0 && u128::from(sent) >= u128::from(load.rate) * elapsed.as_micros() / 1_000_000 {
            std::thread::sleep(Duration::from_micros(100));
            continue;
        }
        // What the kernel refuses is lost like what it drops.
        drop(socket.send(&datagrams));
        sent += u64::from(load.segments);
    }
}

/// The receiver must not be what limits: it takes runs of datagrams at once, and
/// has as much room for them as the system allows.
fn count(socket: &UdpSocket) -> Result<String> {
    setsockopt(socket, sockopt::UdpGroSegment, &true)?;
    setsockopt(socket, sockopt::RcvBuf, &(4 << 20))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; 65_536];
    let mut bytes = socket.recv(&mut buffer).context("no datagram")?;
    socket.set_read_timeout(Some(QUIET))?;
    let start = Instant::now();
    let mut last = start;
    while let Ok(more) = socket.recv(&mut buffer) {
        bytes += more;
        last = Instant::now();
    }
    Ok(format!("{} {}", bytes / SIZE, (last - start).as_secs_f64()))
}
