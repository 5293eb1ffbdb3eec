//! A UDP server that echoes, and clients.

use std::collections::HashSet;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use passt_tests::stream::Stream;

use crate::{rr, say};

/// Echoes datagrams for ever; `who` is answered with the client's address.
pub(crate) fn serve(address: &str) -> Result<()> {
    let socket = UdpSocket::bind(address).with_context(|| address.to_owned())?;
    say(&format!("LISTENING {}", socket.local_addr()?))?;
    let mut buffer = vec![0; 65_536];
    loop {
        let (count, client) = socket.recv_from(&mut buffer)?;
        let reply = if &buffer[..count] == b"who" {
            client.to_string().into_bytes()
        } else {
            buffer[..count].to_vec()
        };
        socket.send_to(&reply, client)?;
    }
}

/// Has datagrams of 1 to `largest` bytes echoed, each once; returns how many.
/// Every length up to 1 600, then ever sparser ones, and the largest. The first that is too big for
/// the path may be lost, as the kernel learns of that by it, or the first answer.
pub(crate) fn sweep(to: &str, largest: usize) -> Result<String> {
    let socket = connected(to)?;
    let content = Stream::new(3).next_chunk().to_vec();
    let sizes: Vec<usize> =
        (1..largest.min(1600)).chain((1600..largest).step_by(509)).chain([largest]).collect();
    let (mut buffer, mut has_learnt) = (vec![0; 65_536], false);
    for (offset, size) in sizes.iter().enumerate() {
        let datagram = &content[offset..offset + size];
        let mut exchange = || socket.send(datagram).and_then(|_| socket.recv(&mut buffer));
        let count = match exchange() {
            Err(error) if is_loss(&error) && !std::mem::replace(&mut has_learnt, true) => exchange(),
            outcome => outcome,
        };
        let count = count.with_context(|| format!("echo of {size}"))?;
        ensure!(&buffer[..count] == datagram, "wrong echo of {size}: {count} bytes");
    }
    Ok(sizes.len().to_string())
}

/// `EMSGSIZE`, as what was sent is larger than the path takes, or no answer.
fn is_loss(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(90) || error.kind() == std::io::ErrorKind::WouldBlock
}

/// Sends a text and returns the reply, or the error's kind.
pub(crate) fn ask(to: &str, text: &str) -> Result<String> {
    let socket = connected(to)?;
    let mut buffer = vec![0; 65_536];
    Ok(match socket.send(text.as_bytes()).and_then(|_| socket.recv(&mut buffer)) {
        Ok(count) => String::from_utf8_lossy(&buffer[..count]).into_owned(),
        Err(error) => format!("{:?}", error.kind()),
    })
}

/// Has `count` clients at once, each with a socket of its own, get their own datagrams back, twice.
pub(crate) fn many(to: &str, count: usize) -> Result<()> {
    let clients = (0..count).map(|_| connected(to)).collect::<Result<Vec<_>>>()?;
    for round in 0..2 {
        // No more at once than fit a socket's queue anywhere on the way.
        for (group, members) in clients.chunks(50).enumerate() {
            let text = |member| format!("{round}: client {group}/{member}");
            for (member, client) in members.iter().enumerate() {
                client.send(text(member).as_bytes())?;
            }
            for (member, client) in members.iter().enumerate().rev() {
                let mut buffer = [0; 64];
                let count = client.recv(&mut buffer).with_context(|| text(member))?;
                ensure!(&buffer[..count] == text(member).as_bytes(), "not for {}", text(member));
            }
        }
    }
    Ok(())
}

/// Sends a datagram from each of `count` ports, and waits for no answer.
pub(crate) fn spray(to: &str, count: usize) -> Result<()> {
    for _ in 0..count {
        connected(to)?.send(b"?")?;
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Sends a datagram from one port to each of `count` addresses, and stays until its input ends.
pub(crate) fn scatter(first: &str, count: u32, port: u16, from: u16) -> Result<()> {
    let first: IpAddr = first.parse()?;
    let any: IpAddr =
        if first.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, from))?;
    for number in 0..count {
        let to = match first {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + number).into(),
            IpAddr::V6(first) => IpAddr::from(Ipv6Addr::from_bits(first.to_bits() + u128::from(number))),
        };
        socket.send_to(&number.to_be_bytes(), (to, port))?;
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(std::io::stdin().read_to_end(&mut Vec::new()).map(drop)?)
}

/// Receives datagrams of [`scatter`] until all have come; returns whom they came from.
pub(crate) fn gather(address: &str, count: usize) -> Result<String> {
    let socket = UdpSocket::bind(address)?;
    say("LISTENING")?;
    let (mut numbers, mut sources) = (HashSet::new(), HashSet::new());
    while numbers.len() < count {
        let mut number = [0; 4];
        let (_, source) = socket.recv_from(&mut number)?;
        numbers.insert(number);
        sources.insert(source.to_string());
    }
    Ok(sources.into_iter().collect::<Vec<_>>().join(" "))
}

/// Exchanges a byte each way again and again; returns how often, and in how
/// many seconds.
pub(crate) fn request_response(to: &str, seconds: u64) -> Result<String> {
    let socket = connected(to)?;
    rr::repeat(seconds, || {
        socket.send(b"?")?;
        ensure!(socket.recv(&mut [0])? == 1, "an empty response");
        Ok(())
    })
}

/// A socket that sends to `to` and waits for no reply longer than 3 seconds.
pub(crate) fn connected(to: &str) -> Result<UdpSocket> {
    let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to).with_context(|| format!("connect to {to}"))?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    Ok(socket)
}
