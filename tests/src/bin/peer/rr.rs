//! Requests and responses of one byte, counted: what small exchanges cost.
#![expect(clippy::disallowed_methods, reason = "transactions are timed in real time")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::say;

/// Answers each byte with one, a connection at a time, for ever. Prints
/// `LISTENING` when it does.
pub(crate) fn serve(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
    say(&format!("LISTENING {}", listener.local_addr()?))?;
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut byte = [0];
        // A client that ends by a reset has ended all the same.
        while stream.read(&mut byte).is_ok_and(|count| count == 1) && stream.write_all(&byte).is_ok() {}
    }
}

/// Exchanges bytes over one connection; returns how many, and in how many seconds.
pub(crate) fn request_response(to: &str, seconds: u64) -> Result<String> {
    let mut stream = connect(to)?;
    repeat(seconds, || exchange(&mut stream))
}

/// Exchanges bytes over one connection; returns how long the longest exchange took, in
/// microseconds.
pub(crate) fn longest(to: &str, seconds: u64) -> Result<String> {
    let mut stream = connect(to)?;
    let (start, mut longest) = (Instant::now(), Duration::ZERO);
    while start.elapsed() < Duration::from_secs(seconds) {
        let before = Instant::now();
        exchange(&mut stream)?;
        longest = longest.max(before.elapsed());
    }
    Ok(longest.as_micros().to_string())
}

/// Exchanges a byte over each of many connections, one after the other.
pub(crate) fn connect_request_response(to: &str, seconds: u64) -> Result<String> {
    repeat(seconds, || exchange(&mut connect(to)?))
}

/// Has the kernel take all connections to `address`, and does nothing with
/// them. Prints `LISTENING` when it does.
pub(crate) fn never_accept(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
    rustix::net::listen(&listener, i32::from(u16::MAX))?;
    say(&format!("LISTENING {}", listener.local_addr()?))?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Opens up to `count` connections and keeps them until standard input ends.
/// Prints `CROWDED` and how many are open when all are, or when one takes long.
pub(crate) fn crowd(to: &str, count: usize) -> Result<()> {
    let to = to.parse()?;
    let connect = |_| TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok();
    let connections: Vec<_> = (0..count).map_while(connect).collect();
    say(&format!("CROWDED {}", connections.len()))?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Calls `once` again and again for a time; returns how often, and in how many
/// seconds.
pub(crate) fn repeat(seconds: u64, mut once: impl FnMut() -> Result<()>) -> Result<String> {
    let start = Instant::now();
    let mut count = 0_u64;
    while start.elapsed() < Duration::from_secs(seconds) {
        once().with_context(|| format!("transaction {count}"))?;
        count += 1;
    }
    Ok(format!("{count} {}", start.elapsed().as_secs_f64()))
}

fn connect(to: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"?")?;
    ensure!(stream.read(&mut [0])? == 1, "the connection ended");
    Ok(())
}
