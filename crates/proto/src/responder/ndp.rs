//! Neighbour discovery and router advertisements (RFC 4861), autoconfiguration (RFC 4862).

use core::net::Ipv6Addr;

use super::{Config, Holder, Response, Services, V6, frame};
use crate::addr::{Addr, Mac};
use crate::drop::DropReason;
use crate::wire::build::{DEFAULT_TTL, Path};
use crate::wire::checksum::Sum;
use crate::wire::ip::protocol;
use crate::wire::ndp;
use crate::wire::writer::Writer;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Flags of a router advertisement: addresses, or only other things, are had from DHCPv6.
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;

/// The only prefix length from which addresses are formed (RFC 4862, section 5.5.3, with 64-bit
/// identifiers).
const AUTOCONF_LEN: u8 = 64;

/// A message from the guest.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Source of the frame.
    pub source: Mac,
    /// Source of the packet.
    pub src: Addr,
    /// Destination of the packet.
    pub dst: Addr,
    /// Hop limit of the packet.
    pub hop_limit: u8,
    /// The `ICMPv6` message from its type on.
    pub message: &'a [u8],
}

/// Answers a solicitation.
pub fn respond(
    cfg: &Config,
    request: &Request<'_>,
    holder: impl FnOnce(Addr) -> Holder,
    out: &mut [u8],
) -> Response {
    let verified = verify(request);
    Response {
        claimed: verified.ok().and_then(|()| claimed(request)),
        reply: answer(cfg, request, verified, holder, out),
    }
}

fn answer(
    cfg: &Config,
    request: &Request<'_>,
    verified: Result<(), DropReason>,
    holder: impl FnOnce(Addr) -> Holder,
    out: &mut [u8],
) -> Result<usize, DropReason> {
    let v6 = cfg.v6()?;
    if !cfg.has(Services::NDP) {
        return Err(DropReason::ServiceOff);
    }
    verified?;
    match *request.message {
        [ndp::NEIGHBOUR_SOLICITATION, 0, ..] => {
            let target = solicited(v6, request)?;
            let holder = if target == v6.our_ll { Holder::Known(cfg.our_mac) } else { holder(target.into()) };
            let mac = holder.answers(cfg.our_mac, request.src.is_unspecified());
            let mac = mac.ok_or(DropReason::NdpUnanswered)?;
            let (to, flags) = advertised_to(request);
            emit_advertisement((mac, target), to, flags, out)
        }
        [ndp::ROUTER_SOLICITATION, 0, ..] => {
            verify_options(request, 8)?;
            if request.src.is_unspecified() {
                unsolicited_ra(cfg, out)
            } else {
                emit_ra(cfg, v6, (request.source, request.src), out)
            }
        }
        _ => Err(DropReason::NdpUnanswered),
    }
}

/// Where the answer to a neighbour solicitation goes, and its flags. What asks in duplicate
/// address detection has no address: all nodes are told (RFC 4861, section 7.2.4).
fn advertised_to(request: &Request<'_>) -> ((Mac, Addr), u32) {
    if request.src.is_unspecified() {
        ((multicast_mac(ALL_NODES), ALL_NODES.into()), ndp::ADVERTISED & !ndp::SOLICITED)
    } else {
        ((request.source, request.src), ndp::ADVERTISED)
    }
}

/// The address that the sender of a message has, or will have once nobody objected (RFC 4862,
/// section 5.4).
fn claimed(request: &Request<'_>) -> Option<Addr> {
    let start = match *request.message {
        [ndp::ROUTER_SOLICITATION, 0, ..] => 8,
        [ndp::NEIGHBOUR_SOLICITATION | ndp::NEIGHBOUR_ADVERTISEMENT, 0, ..] => 24,
        _ => return None,
    };
    verify_options(request, start).ok()?;
    let detection =
        request.src.is_unspecified() && request.message.starts_with(&[ndp::NEIGHBOUR_SOLICITATION]);
    let addr = if detection { target(request).ok()?.into() } else { request.src };
    (!(addr.is_unspecified() || addr.is_loopback())).then_some(addr)
}

/// Announces that `addr` is at `mac` (RFC 4861, section 7.2.6).
pub fn announce(cfg: &Config, addr: Ipv6Addr, mac: Mac, out: &mut [u8]) -> Result<usize, DropReason> {
    cfg.v6()?;
    if !cfg.has(Services::NDP) {
        return Err(DropReason::ServiceOff);
    }
    let to = (multicast_mac(ALL_NODES), ALL_NODES.into());
    emit_advertisement((mac, addr), to, ndp::ADVERTISED & !ndp::SOLICITED, out)
}

/// A router advertisement for all nodes.
pub fn unsolicited_ra(cfg: &Config, out: &mut [u8]) -> Result<usize, DropReason> {
    let to = (multicast_mac(ALL_NODES), ALL_NODES.into());
    emit_ra(cfg, cfg.v6()?, to, out)
}

/// Asks the guest for its link-layer address, so that it learns ours.
pub fn solicit(cfg: &Config, out: &mut [u8]) -> Result<usize, DropReason> {
    let v6 = cfg.v6()?;
    // Without an interface identifier it is the prefix from which the guest forms its own.
    if v6.addr.to_bits() << 64 == 0 {
        return Err(DropReason::NdpUnanswered);
    }
    let [.., a, b, c] = v6.addr.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let path = path((cfg.our_mac, v6.our_ll), (multicast_mac(group), group.into()));
    frame::icmp_v6(&path, out, |w| {
        w.put(&[ndp::NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0])?;
        w.put(&v6.addr.octets())?;
        ndp::put_link(w, ndp::SOURCE_LINK, cfg.our_mac)
    })
}

/// What every message must have (RFC 4861, sections 6.1.1 and 7.1.1).
fn verify(request: &Request<'_>) -> Result<(), DropReason> {
    if request.hop_limit != ndp::HOP_LIMIT {
        return Err(DropReason::NdpInvalid);
    }
    let len = request.message.len();
    let sum = Sum::pseudo(request.src, request.dst, protocol::ICMPV6, len);
    if sum.bytes(request.message).finish() != 0 {
        return Err(DropReason::IcmpChecksum);
    }
    Ok(())
}

/// Options from `start` on are whole, and a node without an address names no link-layer address.
fn verify_options(request: &Request<'_>, start: usize) -> Result<(), DropReason> {
    let options = request.message.get(start..);
    let named = options.and_then(|options| ndp::has_option(options, ndp::SOURCE_LINK));
    match named {
        Some(named) if !(named && request.src.is_unspecified()) => Ok(()),
        _ => Err(DropReason::NdpInvalid),
    }
}

/// The address that is asked for, if that is for us to answer.
fn solicited(v6: &V6, request: &Request<'_>) -> Result<Ipv6Addr, DropReason> {
    verify_options(request, 24)?;
    let target = target(request)?;
    if target == v6.addr || target.is_unspecified() || target.is_loopback() {
        return Err(DropReason::NdpUnanswered);
    }
    Ok(target)
}

/// The target address of a solicitation (RFC 4861, section 4.3).
fn target(request: &Request<'_>) -> Result<Ipv6Addr, DropReason> {
    let target = request.message.get(8..).and_then(<[u8]>::first_chunk::<16>);
    let target = target.map(|octets| Ipv6Addr::from(*octets)).filter(|target| !target.is_multicast());
    target.ok_or(DropReason::NdpInvalid)
}

/// Writes an advertisement that `from` has its address.
fn emit_advertisement(
    from: (Mac, Ipv6Addr),
    to: (Mac, Addr),
    flags: u32,
    out: &mut [u8],
) -> Result<usize, DropReason> {
    frame::icmp_v6(&path(from, to), out, |w| {
        w.put(&[ndp::NEIGHBOUR_ADVERTISEMENT, 0, 0, 0])?;
        w.u32(flags)?;
        w.put(&from.1.octets())?;
        ndp::put_link(w, ndp::TARGET_LINK, from.0)
    })
}

/// Writes a router advertisement.
fn emit_ra(cfg: &Config, v6: &V6, to: (Mac, Addr), out: &mut [u8]) -> Result<usize, DropReason> {
    if !cfg.has(Services::NDP | Services::RA) {
        return Err(DropReason::ServiceOff);
    }
    let custom = &cfg.custom.ra;
    let mut flags = custom.preference_bits();
    if cfg.has(Services::DHCPV6) {
        flags |= MANAGED;
        let named = !cfg.dns(&v6.dns).is_empty() || cfg.search().next().is_some();
        if named || cfg.custom.dhcpv6.any() {
            flags |= OTHER;
        }
    }
    let path = path((cfg.our_mac, v6.our_ll), to);
    frame::icmp_v6(&path, frame::within_mtu(cfg.mtu, out), |w| {
        w.put(&[ndp::ROUTER_ADVERTISEMENT, 0, 0, 0, DEFAULT_TTL, flags])?;
        w.u16(custom.lifetime)?;
        w.put(&[0; 8])?;
        put_prefixes(w, v6)?;
        if cfg.mtu >= 1280 {
            ndp::put_mtu(w, cfg.mtu)?;
        }
        ndp::put_link(w, ndp::SOURCE_LINK, cfg.our_mac)?;
        ndp::put_dns_servers(w, cfg.dns(&v6.dns), custom.dns_lifetime)?;
        custom.write(w)?;
        // Last, because it takes what room there is.
        ndp::put_dns_search(w, cfg.search(), custom.dns_lifetime);
        Some(())
    })
}

/// Writes the prefix that the guest may form its address from and, if the network
/// has another size, that of the network.
fn put_prefixes(w: &mut Writer<'_>, v6: &V6) -> Option<()> {
    if v6.addr.is_unspecified() {
        return Some(());
    }
    let prefix = |len: u8| {
        let mask = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
        Ipv6Addr::from_bits(v6.addr.to_bits() & mask)
    };
    let (len, formed) = (v6.prefix_len, prefix(AUTOCONF_LEN));
    if len == AUTOCONF_LEN {
        return ndp::put_prefix(w, formed, len, ndp::ON_LINK | ndp::AUTONOMOUS);
    }
    ndp::put_prefix(w, formed, AUTOCONF_LEN, ndp::AUTONOMOUS)?;
    if (1..128).contains(&len) {
        ndp::put_prefix(w, prefix(len), len, ndp::ON_LINK)?;
    }
    Some(())
}

fn path(from: (Mac, Ipv6Addr), to: (Mac, Addr)) -> Path {
    Path {
        src_mac: from.0,
        dst_mac: to.0,
        src: from.1.into(),
        dst: to.1,
        ttl: ndp::HOP_LIMIT,
        traffic_class: 0,
    }
}

/// The Ethernet group of an IPv6 group (RFC 2464, section 7).
fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}
