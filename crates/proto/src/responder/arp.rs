//! Address resolution for IPv4 (RFC 826): every address but the guest's own is ours to answer for,
//! unless the guest only asks whether anybody has it.

use core::net::Ipv4Addr;

use zerocopy::IntoBytes;

use super::{Config, Holder, Response, V4};
use crate::addr::{Addr, Mac};
use crate::drop::DropReason;
use crate::wire::arp::{ArpPacket, REPLY, REQUEST};
use crate::wire::ethernet;
use crate::wire::writer::Writer;

/// Answers the ARP packet at the start of `bytes`.
///
/// Probes (RFC 5227, section 2.1) are answered for addresses that somebody is known to have: a
/// guest may take any other one.
pub fn respond(cfg: &Config, bytes: &[u8], holder: impl FnOnce(Addr) -> Holder, out: &mut [u8]) -> Response {
    let request = ArpPacket::parse(bytes);
    Response { claimed: request.and_then(claimed), reply: answer(cfg, request, holder, out) }
}

fn answer(
    cfg: &Config,
    request: Option<&ArpPacket>,
    holder: impl FnOnce(Addr) -> Holder,
    out: &mut [u8],
) -> Result<usize, DropReason> {
    let v4 = cfg.v4()?;
    let request = request.ok_or(DropReason::ArpFormat)?;
    let target = Ipv4Addr::from(request.target);
    let answerable =
        !(target.is_unspecified() || target.is_multicast() || target.is_broadcast() || target.is_loopback());
    let announced = request.sender == request.target;
    if request.operation.get() != REQUEST || !answerable || announced || target == v4.addr {
        return Err(DropReason::ArpUnanswered);
    }
    let is_probe = Ipv4Addr::from(request.sender).is_unspecified();
    let mac = holder_of(cfg, v4, target, holder).answers(cfg.our_mac, is_probe);
    let mac = mac.ok_or(DropReason::ArpUnanswered)?;
    let guest = (request.sender_mac, request.sender);
    let reply = ArpPacket::new(REPLY, (mac.0, request.target), guest);
    emit(Mac(request.sender_mac), &reply, out)
}

/// Who has `target`. The gateway is always there: without a better one known, it is us.
fn holder_of(cfg: &Config, v4: &V4, target: Ipv4Addr, holder: impl FnOnce(Addr) -> Holder) -> Holder {
    match holder(target.into()) {
        Holder::Known(mac) => Holder::Known(mac),
        _ if target == v4.gateway || target == v4.our_addr => Holder::Known(cfg.our_mac),
        other => other,
    }
}

/// The address that the sender of a packet says it has.
fn claimed(packet: &ArpPacket) -> Option<Addr> {
    let sender = Addr::from(Ipv4Addr::from(packet.sender));
    // One that only probes names none.
    (!(sender.is_unspecified() || sender.is_group() || sender.is_loopback())).then_some(sender)
}

/// Asks the guest for its link-layer address, so that it learns ours.
pub fn request(cfg: &Config, out: &mut [u8]) -> Result<usize, DropReason> {
    let v4 = cfg.v4()?;
    let ours = (cfg.our_mac.0, v4.our_addr.octets());
    let request = ArpPacket::new(REQUEST, ours, ([0; 6], v4.addr.octets()));
    emit(Mac::BROADCAST, &request, out)
}

/// Announces that `addr` is at `mac` (RFC 5227, section 3).
pub fn announce(cfg: &Config, addr: Ipv4Addr, mac: Mac, out: &mut [u8]) -> Result<usize, DropReason> {
    cfg.v4()?;
    let announcement = ArpPacket::new(REQUEST, (mac.0, addr.octets()), ([0; 6], addr.octets()));
    emit(Mac::BROADCAST, &announcement, out)
}

fn emit(dst: Mac, packet: &ArpPacket, out: &mut [u8]) -> Result<usize, DropReason> {
    let header = ethernet::Header::new(Mac(packet.sender_mac), dst, ethernet::ARP);
    let mut w = Writer::new(out);
    w.put(header.as_bytes())
        .and_then(|()| w.put(packet.as_bytes()))
        .and_then(|()| w.zero_to(ethernet::MIN_FRAME))
        .ok_or(DropReason::NoRoom)?;
    Ok(w.written())
}
