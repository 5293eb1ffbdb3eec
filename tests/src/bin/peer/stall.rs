//! Connections on which one end stops in mid-transfer: until the other resets, or until it is told
//! to go on. Everything on the way is full then.
#![expect(clippy::disallowed_methods, reason = "an end stops in real time")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use passt_tests::stream::{CHUNK, Stream};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use crate::say;
use crate::tcp::{read_line, receive, request, send};

/// What is moved before an end stops, at least.
const BEFORE: u64 = 2 << 20;
/// How long nothing moves where everything is full.
const QUIET: Duration = Duration::from_millis(300);
/// How long to wait for the other end's reset.
const PATIENCE: Duration = Duration::from_secs(20);
/// What each transfer of [`crowd`] is.
const SHARE: u64 = 512 << 10;

/// Resets a connection to a server, or has that do so, in mid-transfer: `role` is what the end does
/// that resets, `reading` or `writing`. Returns how that looks to the other end, or nothing
/// if that is the server, which prints it.
pub(crate) fn reset_within(by: &str, role: &str, to: &str) -> Result<String> {
    match by {
        "server" => bear(&mut request(to, &format!("break {role}"))?, role),
        "client" => break_off(request(to, &format!("bear {role}"))?, role).map(|()| String::new()),
        other => bail!("unknown end: {other:?}"),
    }
}

/// Moves data until the other end is blocked, and resets.
pub(crate) fn break_off(mut stream: TcpStream, role: &str) -> Result<()> {
    match role {
        "reading" => {
            read_exactly(&mut stream, BEFORE)?;
            wait_until_full(&stream)?;
        }
        "writing" => {
            let sent = fill(&mut stream)?;
            ensure!(sent >= BEFORE, "blocked after {sent} bytes already");
        }
        other => bail!("unknown role: {other:?}"),
    }
    Ok(sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?)
}

/// Is the other end of [`break_off`]; returns how it ends, by the error's kind.
pub(crate) fn bear(stream: &mut TcpStream, role: &str) -> Result<String> {
    if role == "writing" {
        read_exactly(stream, BEFORE)?;
        let timeout = Timespec { tv_sec: PATIENCE.as_secs().try_into()?, tv_nsec: 0 };
        let told = poll(&mut [PollFd::new(stream, PollFlags::empty())], Some(&timeout))?;
        ensure!(told == 1, "no reset within {PATIENCE:?}");
    }
    let mut buffer = vec![0; CHUNK];
    stream.set_write_timeout(Some(PATIENCE))?;
    loop {
        let moved = if role == "writing" { stream.read(&mut buffer) } else { stream.write(&buffer) };
        match moved {
            Ok(0) => return Ok("end".to_owned()),
            Ok(_) => {}
            Err(error) => return Ok(format!("{:?}", error.kind())),
        }
    }
}

/// Begins `count` transfers, half of them to the server, which don't go on once everything is full.
/// Prints `STALLED` then. After a line of standard input each second one is reset, and others are
/// completed and checked.
pub(crate) fn crowd(to: &str, count: u64) -> Result<()> {
    let mut transfers = Vec::new();
    for number in 0..count {
        let what = match number % 4 {
            0 => format!("down {SHARE} {number}"),
            1 => "stop down".to_owned(),
            2 => "up 0".to_owned(),
            _ => "stop up".to_owned(),
        };
        let mut stream = request(to, &what).with_context(|| format!("transfer {number}"))?;
        match number % 4 {
            3 => drop(fill(&mut stream)?),
            1 | 0 => wait_for_data(&stream)?,
            _ => {}
        }
        transfers.push((number, stream));
    }
    say("STALLED")?;
    std::io::stdin().read_line(&mut String::new())?;
    for (number, mut stream) in transfers {
        match number % 4 {
            0 => {
                let got = receive(&mut stream, 0).with_context(|| format!("transfer {number}"))?;
                ensure!(got == passt_tests::stream::expected(SHARE, number), "transfer {number}: {got}");
            }
            2 => {
                send(&mut stream, SHARE, number)?;
                stream.shutdown(Shutdown::Write)?;
                let got = read_line(&mut stream)?;
                ensure!(got == passt_tests::stream::expected(SHARE, number), "transfer {number}: {got}");
            }
            _ => sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?,
        }
    }
    Ok(())
}

/// Serves the transfers of [`crowd`] that are reset.
pub(crate) fn stop(stream: &mut TcpStream, direction: &str) -> Result<()> {
    let blocked = if direction == "down" { fill(stream).map(drop) } else { Ok(()) };
    blocked.and_then(|()| {
        let timeout = Timespec { tv_sec: 60, tv_nsec: 0 };
        poll(&mut [PollFd::new(stream, PollFlags::empty())], Some(&timeout))?;
        Ok(())
    })
}

/// Connects, prints `READY` once the server is there, and after a line of standard input sends
/// `length` bytes to a server that stops for `pause` seconds, and fetches as many, stopping as
/// long. Prints what either got.
pub(crate) fn later(to: &str, length: u64, pause: u64) -> Result<()> {
    let mut stream = request(to, &format!("later {length} {pause}"))?;
    ensure!(read_line(&mut stream)? == "ready", "not served");
    say("READY")?;
    std::io::stdin().read_line(&mut String::new())?;
    send(&mut stream, length, 1)?;
    stream.shutdown(Shutdown::Write)?;
    say(&read_line(&mut stream)?)?;
    say(&receive(&mut stream, pause)?)
}

/// Serves [`later`].
pub(crate) fn serve_later(stream: &mut TcpStream, length: u64, pause: u64) -> Result<()> {
    writeln!(stream, "ready")?;
    let summary = receive(stream, pause)?;
    writeln!(stream, "{summary}")?;
    send(stream, length, 1)
}

/// Writes until there is no room for a while; returns how much.
fn fill(stream: &mut TcpStream) -> Result<u64> {
    stream.set_write_timeout(Some(QUIET))?;
    let mut content = Stream::new(1);
    let mut sent = 0;
    loop {
        match stream.write(content.next_chunk()) {
            Ok(count) => sent += count as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(sent),
            Err(error) => return Err(error).context("filling"),
        }
    }
}

/// Waits until no more arrives, since there is no room.
fn wait_until_full(stream: &TcpStream) -> Result<()> {
    let (mut queued, mut since) = (0, Instant::now());
    while since.elapsed() < QUIET {
        std::thread::sleep(Duration::from_millis(10));
        let now = rustix::io::ioctl_fionread(stream)?;
        if now != queued {
            (queued, since) = (now, Instant::now());
        }
    }
    ensure!(queued > 0, "nothing is queued");
    Ok(())
}

fn wait_for_data(stream: &TcpStream) -> Result<()> {
    let timeout = Timespec { tv_sec: PATIENCE.as_secs().try_into()?, tv_nsec: 0 };
    ensure!(poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&timeout))? == 1, "nothing arrives");
    Ok(())
}

fn read_exactly(stream: &mut TcpStream, length: u64) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    for _ in 0..length / CHUNK as u64 {
        stream.read_exact(&mut buffer)?;
    }
    Ok(())
}
