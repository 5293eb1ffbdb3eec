//! A server whose connections begin with a line that says what to do, and the
//! clients for each of these.
#![expect(clippy::disallowed_methods, reason = "transfers are timed in real time")]

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use passt_tests::stream::{CHUNK, Stream, Summary};
use rustix::net::sockopt;

use crate::{say, stall};

/// After how much a slow reader stops for a while.
const SLOW_AFTER: u64 = 1 << 20;
/// What each of many connections echoes.
const SHARE: usize = 4096;

/// Serves connections on `address` for ever. Prints `LISTENING`, later lines
/// about what clients can't be told.
pub(crate) fn serve(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
    // The library's default is few for a thousand at once.
    rustix::net::listen(&listener, 4096)?;
    say(&format!("LISTENING {}", listener.local_addr()?))?;
    accept_all(&listener)
}

/// Listens on `address`, but serves only once there is a line of standard input.
pub(crate) fn serve_late(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
    say(&format!("LISTENING {}", listener.local_addr()?))?;
    std::io::stdin().read_line(&mut String::new())?;
    accept_all(&listener)
}

/// Serves one connection on `address`, and stops listening when that has come.
pub(crate) fn serve_one(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
    say(&format!("LISTENING {}", listener.local_addr()?))?;
    let (stream, _) = listener.accept()?;
    drop(listener);
    answer(stream)
}

fn accept_all(listener: &TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        let serve_one = move || {
            if let Err(error) = answer(stream) {
                let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
                say(&format!("ERROR {kind:?} {error:#}")).expect("standard output");
            }
        };
        std::thread::Builder::new().stack_size(256 * 1024).spawn(serve_one)?;
    }
}

fn answer(mut stream: TcpStream) -> Result<()> {
    let request = read_line(&mut stream)?;
    let words: Vec<&str> = request.split_whitespace().collect();
    match words.as_slice() {
        ["up", pause] => {
            let summary = receive(&mut stream, pause.parse()?)?;
            stream.write_all(summary.as_bytes())?;
        }
        ["down", length, seed] => {
            send(&mut stream, length.parse()?, seed.parse()?)?;
            stream.shutdown(Shutdown::Write)?;
            receive(&mut stream, 0)?;
        }
        ["late", length] => {
            send(&mut stream, length.parse()?, 1)?;
            stream.shutdown(Shutdown::Write)?;
            say(&format!("LATE {}", receive(&mut stream, 0)?))?;
        }
        ["echo"] => echo(&mut stream)?,
        ["once"] => {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            stream.write_all(&byte)?;
        }
        ["reset"] => sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?,
        ["who"] => writeln!(stream, "{}", stream.peer_addr()?.ip().to_canonical())?,
        ["sink"] => {
            let total = drain(&mut stream)?;
            writeln!(stream, "{total}")?;
        }
        ["break", role] => stall::break_off(stream, role)?,
        ["bear", role] => say(&format!("BORNE {}", stall::bear(&mut stream, role)?))?,
        ["stop", direction] => stall::stop(&mut stream, direction)?,
        ["later", length, pause] => stall::serve_later(&mut stream, length.parse()?, pause.parse()?)?,
        ["flood"] => while stream.write_all(&[0; 16 * 1024]).is_ok() {},
        other => bail!("unknown request: {other:?}"),
    }
    Ok(())
}

/// Sends a stream, ends that direction, returns what the server got.
pub(crate) fn up(to: &str, length: u64, seed: u64) -> Result<String> {
    let mut stream = request(to, "up 0")?;
    send(&mut stream, length, seed)?;
    stream.shutdown(Shutdown::Write)?;
    read_line(&mut stream)
}

/// [`up`] to a server that stops reading for a while.
pub(crate) fn up_slow(to: &str, length: u64, seconds: u64) -> Result<String> {
    let mut stream = request(to, &format!("up {seconds}"))?;
    send(&mut stream, length, 1)?;
    stream.shutdown(Shutdown::Write)?;
    read_line(&mut stream)
}

/// Fetches a stream, stopping for `pause` seconds within, returns what came.
pub(crate) fn down(from: &str, length: u64, seed: u64, pause: u64) -> Result<String> {
    let mut stream = request(from, &format!("down {length} {seed}"))?;
    receive(&mut stream, pause)
}

/// Fetches `first` bytes until the server ends its direction, and only then
/// sends `second` bytes. Returns what came.
pub(crate) fn late(to: &str, first: u64, second: u64) -> Result<String> {
    let mut stream = request(to, &format!("late {first}"))?;
    let received = receive(&mut stream, 0)?;
    send(&mut stream, second, 2)?;
    Ok(received)
}

/// How connecting ends: `connected`, or the error's kind, and milliseconds.
pub(crate) fn connect(to: &str) -> String {
    let start = Instant::now();
    let outcome = match TcpStream::connect(to) {
        Ok(_) => "connected".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    };
    format!("{outcome} {}", start.elapsed().as_millis())
}

/// How a read ends on a connection that the server resets.
pub(crate) fn reset_by_server(to: &str) -> Result<String> {
    let mut stream = request(to, "reset")?;
    Ok(match stream.read(&mut [0]) {
        Ok(count) => format!("read {count}"),
        Err(error) => format!("{:?}", error.kind()),
    })
}

/// Resets an established connection from this side.
pub(crate) fn abort(to: &str) -> Result<()> {
    let mut stream = request(to, "echo")?;
    check_echo(&mut stream, b"before the reset")?;
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    Ok(())
}

/// Begins `count` connections at once, waits for none of them, prints `BEGUN`, and keeps
/// them until standard input ends.
pub(crate) fn begin(to: &str, count: u64) -> Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
    let to: SocketAddr = to.parse()?;
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut sockets = Vec::new();
    for _ in 0..count {
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK, None)?;
        match connect(&socket, &to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => sockets.push(socket),
            Err(error) => return Err(error).context("connect"),
        }
    }
    say("BEGUN")?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Connects from an address `count` times, ends each connection at once, and prints `GONE`.
pub(crate) fn gone(from: &str, to: &str, count: u64) -> Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
    let (from, to): (std::net::IpAddr, SocketAddr) = (from.parse()?, to.parse()?);
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    for _ in 0..count {
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddr::new(from, 0))?;
        connect(&socket, &to).context("connect")?;
    }
    say("GONE")
}

/// Listens on as many ports from `first` to `last` as can be had, at any address, prints how many
/// these are behind a word, and keeps them until standard input ends.
pub(crate) fn listen(first: u16, last: u16, announced: &str) -> Result<()> {
    let sockets: Vec<_> = (first..=last).filter_map(|port| TcpListener::bind(("::", port)).ok()).collect();
    say(&format!("{announced} {}", sockets.len()))?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The address that the server sees this end as.
pub(crate) fn who(to: &str) -> Result<String> {
    read_line(&mut request(to, "who")?)
}

/// Opens `count` connections, all open together, and has each echo something
/// else. Returns how many did.
pub(crate) fn many(to: &str, count: u64) -> Result<String> {
    let mut streams = Vec::new();
    for number in 0..count {
        streams.push(request(to, "echo").with_context(|| format!("connection {number}"))?);
    }
    let share = |seed| Stream::new(seed).next_chunk()[..SHARE].to_vec();
    for (seed, stream) in (0..).zip(&mut streams) {
        stream.write_all(&share(seed))?;
    }
    for (seed, stream) in (0..).zip(&mut streams) {
        let mut reply = [0; SHARE];
        stream.read_exact(&mut reply).with_context(|| format!("echo of {seed}"))?;
        ensure!(reply == *share(seed), "echo of {seed} is another's");
    }
    Ok(streams.len().to_string())
}

/// Connects, exchanges a byte and closes, `count` times. Server and client
/// take turns at closing first.
pub(crate) fn churn(to: &str, count: u64) -> Result<()> {
    for number in 0..count {
        let server_closes = number % 2 == 0;
        let mut stream = request(to, if server_closes { "once" } else { "echo" })?;
        check_echo(&mut stream, b"x").with_context(|| format!("connection {number}"))?;
        if server_closes {
            ensure!(stream.read(&mut [0])? == 0, "data after the end of connection {number}");
        }
    }
    Ok(())
}

/// Leaves a connection idle while this side's kernel probes every second and
/// gives up after two failures, then uses it.
pub(crate) fn idle(to: &str, seconds: u64) -> Result<()> {
    let mut stream = request(to, "echo")?;
    check_echo(&mut stream, b"before")?;
    sockopt::set_tcp_keepidle(&stream, Duration::from_secs(1))?;
    sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(1))?;
    sockopt::set_tcp_keepcnt(&stream, 2)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    std::thread::sleep(Duration::from_secs(seconds));
    check_echo(&mut stream, b"after")
}

/// Has a stream echoed and compares it, until standard input ends. Prints
/// `STEADY` once it flows.
pub(crate) fn steady(to: &str) -> Result<()> {
    let input = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let mut stream = request(to, "echo")?;
    let mut content = Stream::new(4);
    let mut rounds = 0_u64;
    while !input.is_finished() {
        // No more than the echo can hold, for this end does not read meanwhile.
        check_echo(&mut stream, &content.next_chunk()[..16 * 1024])
            .with_context(|| format!("round {rounds}"))?;
        if rounds == 10 {
            say("STEADY")?;
        }
        rounds += 1;
    }
    say(&format!("{rounds} rounds"))
}

/// Moves zeros `up` or `down` for a time; returns Mbit/s.
pub(crate) fn pump(direction: &str, to: &str, seconds: u64) -> Result<String> {
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    if direction == "up" {
        let mut stream = request(to, "sink")?;
        while Instant::now() < end {
            stream.write_all(&buffer)?;
        }
        stream.shutdown(Shutdown::Write)?;
        bytes = read_line(&mut stream)?.parse()?;
    } else {
        let mut stream = request(to, "flood")?;
        while Instant::now() < end {
            let count = stream.read(&mut buffer)?;
            ensure!(count > 0, "ended early");
            bytes += count as u64;
        }
    }
    let millis = u64::try_from(start.elapsed().as_millis())?;
    Ok((bytes * 8 / 1000 / millis).to_string())
}

/// Connects and says what the connection is for.
pub(crate) fn request(to: &str, what: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.write_all(format!("{what}\n").as_bytes())?;
    Ok(stream)
}

pub(crate) fn send(stream: &mut TcpStream, length: u64, seed: u64) -> Result<()> {
    Ok(Stream::new(seed).take(length, |bytes| stream.write_all(bytes))?)
}

/// Reads to the end, stopping once for `pause` seconds.
pub(crate) fn receive(stream: &mut TcpStream, mut pause: u64) -> Result<String> {
    let mut summary = Summary::default();
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = stream.read(&mut buffer)?;
        summary.update(&buffer[..count]);
        if count == 0 {
            return Ok(summary.finish());
        }
        if pause > 0 && summary.length() >= SLOW_AFTER {
            std::thread::sleep(Duration::from_secs(pause));
            pause = 0;
        }
    }
}

fn drain(stream: &mut TcpStream) -> Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(total),
            count => total += count as u64,
        }
    }
}

fn echo(stream: &mut TcpStream) -> Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

fn check_echo(stream: &mut TcpStream, text: &[u8]) -> Result<()> {
    stream.write_all(text)?;
    let mut reply = vec![0; text.len()];
    stream.read_exact(&mut reply)?;
    ensure!(reply == text, "wrong echo");
    Ok(())
}

/// Reads a line and nothing behind it.
pub(crate) fn read_line(stream: &mut TcpStream) -> Result<String> {
    let mut line = String::new();
    BufReader::with_capacity(1, stream).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}
