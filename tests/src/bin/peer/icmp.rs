//! ICMP and ICMPv6 messages that a kernel would not send by itself, and what of them arrives.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, bail};
use nix::ifaddrs::getifaddrs;
use passt_proto::wire::checksum::Sum;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, ipproto, recvfrom, sendto,
    socket_with, sockopt,
};

use crate::say;

/// Bytes of an IPv4 and of an IPv6 header.
const V4: usize = 20;
const V6: usize = 40;
/// Redirect of IPv6: it has a format of its own (RFC 4861, section 4.5).
const REDIRECT_V6: u8 = 137;

/// Waits for an echo request, given as `v4` or `v6`, and answers it with messages of these types,
/// each of which quotes it as errors do. Those of IPv6 come from the link-local address of `eth0`,
/// as a redirect must.
pub(crate) fn forge(family: &str, kinds: &[&str]) -> Result<()> {
    let v4 = is_v4(family)?;
    let socket = open(v4)?;
    if !v4 {
        let (address, scope) = link_local("eth0").context("no link-local address")?;
        bind(&socket, &SocketAddrV6::new(address, 0, 0, scope))?;
        sockopt::set_ipv6_unicast_hops(&socket, Some(255))?;
    }
    // What is bound to an address does not hear what is sent to another.
    let heard = open(v4)?;
    say("LISTENING")?;
    let (request, source) = loop {
        let (packet, source) = receive(&heard)?;
        if packet.get(if v4 { V4 } else { 0 }) == Some(if v4 { &8 } else { &128 }) {
            break (packet, source);
        }
    };
    let quote = if v4 { request } else { quote_v6(&request, source)? };
    for kind in kinds {
        let message = message(v4, kind.parse()?, &quote);
        match source {
            SocketAddr::V4(to) => sendto(&socket, &message, SendFlags::empty(), &to)?,
            SocketAddr::V6(to) => sendto(&socket, &message, SendFlags::empty(), &to)?,
        };
    }
    Ok(())
}

/// Prints the types of the messages that arrive here, up to the first one of type `last`.
pub(crate) fn watch(family: &str, last: u8) -> Result<()> {
    let v4 = is_v4(family)?;
    let socket = open(v4)?;
    say("LISTENING")?;
    let mut kinds = Vec::new();
    while kinds.last() != Some(&last) {
        let (packet, _) = receive(&socket)?;
        kinds.extend(packet.get(if v4 { V4 } else { 0 }));
    }
    say(&format!("{kinds:?}"))
}

fn is_v4(family: &str) -> Result<bool> {
    match family {
        "v4" => Ok(true),
        "v6" => Ok(false),
        other => bail!("no family: {other}"),
    }
}

fn open(v4: bool) -> Result<OwnedFd> {
    let (family, protocol) =
        if v4 { (AddressFamily::INET, ipproto::ICMP) } else { (AddressFamily::INET6, ipproto::ICMPV6) };
    Ok(socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?)
}

fn receive(socket: &OwnedFd) -> Result<(Vec<u8>, SocketAddr)> {
    let mut buffer = vec![0; 2048];
    let (_, len, from) = recvfrom(socket, &mut buffer[..], RecvFlags::empty())?;
    buffer.truncate(len);
    Ok((buffer, from.context("no source")?.try_into()?))
}

/// A message of this type about the packet `quote`; the kernel computes the checksum of ICMPv6.
fn message(v4: bool, kind: u8, quote: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, u8::from((v4, kind) == (true, 5)), 0, 0, 192, 0, 2, 66];
    if (v4, kind) == (false, REDIRECT_V6) {
        let destination = &quote[24..V6];
        message
            .extend([Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 66).octets().as_slice(), destination].concat());
        let units = (quote.len() + 8) / 8;
        message.extend([4, u8::try_from(units).unwrap_or(0), 0, 0, 0, 0, 0, 0]);
        message.extend(&quote[..units * 8 - 8]);
        return message;
    }
    message.extend(quote);
    if v4 {
        let sum = Sum::new().bytes(&message).finish();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// The packet of an echo request of IPv6 to the far server, whose header raw sockets don't show.
fn quote_v6(request: &[u8], source: SocketAddr) -> Result<Vec<u8>> {
    let SocketAddr::V6(source) = source else { bail!("not IPv6: {source}") };
    let [a, b] = u16::try_from(request.len())?.to_be_bytes();
    let far: Ipv6Addr = passt_tests::FAR6.parse()?;
    let header = [&[0x60, 0, 0, 0, a, b, 58, 64][..], &source.ip().octets(), &far.octets()].concat();
    Ok([header.as_slice(), request].concat())
}

fn link_local(interface: &str) -> Option<(Ipv6Addr, u32)> {
    let mut entries = getifaddrs().ok()?.filter(|entry| entry.interface_name == interface);
    entries.find_map(|entry| {
        let address = *entry.address?.as_sockaddr_in6()?;
        address.ip().is_unicast_link_local().then(|| (address.ip(), address.scope_id()))
    })
}
