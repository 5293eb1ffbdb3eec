//! Services answered inside: ARP, neighbour discovery, DHCP and DHCPv6.
//!
//! To its guest each looks like the one router and server of the link. All are pure
//! functions that write a complete frame, checksums included, to the caller's
//! buffer. All that is remembered are [leases](dhcp::leases), where the guest has a range of addresses.

pub mod arp;
pub mod custom;
pub mod dhcp;
pub mod dhcpv6;
mod frame;
pub mod ndp;
mod told;

use core::net::{Ipv4Addr, Ipv6Addr};
use core::ops::Range;

use arrayvec::{ArrayString, ArrayVec};
use bitflags::bitflags;

use self::custom::Custom;
use self::dhcp::leases::Leases;
use crate::addr::{Addr, Mac};
use crate::classify::Class;
use crate::drop::DropReason;

pub use self::told::Told;

/// A domain or host name as text; one that is not valid is never sent.
pub type Name = ArrayString<255>;

/// What the guest is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our address on the link, and that of every neighbour not known better.
    pub our_mac: Mac,
    /// Largest packet of the link, zero to say nothing about it.
    pub mtu: u16,
    /// IPv4, unless it is off.
    pub v4: Option<V4>,
    /// IPv6, unless it is off.
    pub v6: Option<V6>,
    /// Domains to search.
    pub search: ArrayVec<Name, 6>,
    /// Host name for the guest.
    pub hostname: Option<Name>,
    /// Fully qualified name for the guest.
    pub fqdn: Option<Name>,
    /// Services that are on.
    pub services: Services,
    /// What the user adds and replaces.
    pub custom: Custom,
}

/// The guest's IPv4 network.
#[derive(Clone, Debug)]
pub struct V4 {
    /// The guest's address.
    pub addr: Ipv4Addr,
    /// Bits of its network.
    pub prefix_len: u8,
    /// Default gateway.
    pub gateway: Ipv4Addr,
    /// Our own address, from which DHCP answers.
    pub our_addr: Ipv4Addr,
    /// Name servers.
    pub dns: ArrayVec<Ipv4Addr, 3>,
}

/// The guest's IPv6 network.
#[derive(Clone, Debug)]
pub struct V6 {
    /// The guest's address; unspecified if it has none but its link-local one.
    pub addr: Ipv6Addr,
    /// Bits of its network.
    pub prefix_len: u8,
    /// Our link-local address, the guest's default gateway.
    pub our_ll: Ipv6Addr,
    /// Name servers.
    pub dns: ArrayVec<Ipv6Addr, 3>,
}

impl V4 {
    /// Whether this is the broadcast address of the network (RFC 919, section 7).
    pub fn is_broadcast(&self, addr: Addr) -> bool {
        let hosts = u32::MAX.checked_shr(self.prefix_len.into()).unwrap_or(0);
        // A network of two hosts has none (RFC 3021).
        hosts > 1 && addr.v4() == Some(Ipv4Addr::from_bits(self.addr.to_bits() | hosts))
    }
}

bitflags! {
    /// Services, each of which can be switched off.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Services: u8 {
        /// DHCP.
        const DHCP = 0x01;
        /// Neighbour discovery.
        const NDP = 0x02;
        /// Router advertisements, which need neighbour discovery.
        const RA = 0x04;
        /// DHCPv6.
        const DHCPV6 = 0x08;
        /// Name servers in DHCP, DHCPv6 and router advertisements.
        const DNS = 0x10;
        /// Search domains in the same.
        const SEARCH = 0x20;
    }
}

impl Config {
    fn v4(&self) -> Result<&V4, DropReason> {
        self.v4.as_ref().ok_or(DropReason::ServiceOff)
    }

    fn v6(&self) -> Result<&V6, DropReason> {
        self.v6.as_ref().ok_or(DropReason::ServiceOff)
    }

    fn has(&self, services: Services) -> bool {
        self.services.contains(services)
    }

    /// Whether we serve a DHCP client that asks at `dst`; `None` if that is not for us to say.
    fn serves_dhcp(&self, dst: Addr) -> Option<bool> {
        let is_on = self.has(Services::DHCP);
        let is_ours = self.v4.as_ref().is_some_and(|v4| dhcp::is_ours(v4, dst));
        let is_for_us = self.v4.as_ref().is_none_or(|v4| dhcp::is_for_us(v4, dst));
        if is_on && is_for_us || is_ours { Some(is_on) } else { None }
    }

    /// The name servers to announce.
    fn dns<'a, T>(&self, servers: &'a [T]) -> &'a [T] {
        if self.has(Services::DNS) { servers } else { &[] }
    }

    /// The search domains to announce.
    fn search(&self) -> impl Iterator<Item = &str> {
        let on = self.has(Services::SEARCH);
        self.search.iter().filter(move |_| on).map(Name::as_str)
    }
}

/// What a request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The address that the guest says is its own (ARP, and neighbour discovery).
    pub claimed: Option<Addr>,
    /// Bytes of the frame that answers, or why there is none.
    pub reply: Result<usize, DropReason>,
}

/// Who has an address, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody that is known: whoever it is, we are the way there.
    Unknown,
    /// One beyond us, known to have it, whom the guest reaches at this link-layer address.
    Known(Mac),
    /// A station of the guest's, which answers for itself.
    Guest,
}

impl Holder {
    /// The link-layer address that answers a request, or a question whether anybody has the
    /// address (`is_probe`), in the name of the holder; `None` if it is not for us to answer.
    fn answers(self, ours: Mac, is_probe: bool) -> Option<Mac> {
        match self {
            Self::Known(mac) => Some(mac),
            Self::Unknown if !is_probe => Some(ours),
            Self::Unknown | Self::Guest => None,
        }
    }
}

/// Answers `frame`, from the station `source`, which is of `class`: writes the reply to
/// `out` and returns its length. `holder` knows who has an address other than the gateway's and
/// our own, `leases` which DHCP client has which, if there is more than one address.
///
/// `None` if the frame is none of a responder, of DHCP that is off, or to another DHCP server: that
/// is ordinary UDP.
pub fn respond(
    cfg: &Config,
    leases: Option<&mut Leases>,
    source: Mac,
    class: &Class,
    frame: &[u8],
    holder: impl FnOnce(Addr) -> Holder,
    out: &mut [u8],
) -> Option<Response> {
    let bytes = |range: &Range<usize>| frame.get(range.clone()).ok_or(DropReason::Truncated);
    let truncated = Response { claimed: None, reply: Err(DropReason::Truncated) };
    let reply = match class {
        Class::Arp { offset } => {
            let packet = frame.get(*offset..);
            return Some(packet.map_or(truncated, |packet| arp::respond(cfg, packet, holder, out)));
        }
        Class::Ndp { .. } => {
            let request = ndp_request(source, class, frame);
            return Some(request.map_or(truncated, |request| ndp::respond(cfg, &request, holder, out)));
        }
        Class::Dhcp(datagram) if cfg.serves_dhcp(datagram.dst.addr)? => {
            bytes(&datagram.payload).and_then(|message| dhcp::respond(cfg, leases, source, message, out))
        }
        // A renewal of a client that we served before: nobody else has the address.
        Class::Dhcp(_) => Err(DropReason::ServiceOff),
        Class::Dhcpv6(datagram) if cfg.has(Services::DHCPV6) => bytes(&datagram.payload)
            .and_then(|message| dhcpv6::respond(cfg, source, datagram.src.addr, message, out)),
        _ => return None,
    };
    Some(Response { claimed: None, reply })
}

/// Tells the guest, without being asked, that `addr` is at `mac` now.
pub fn announce(cfg: &Config, addr: Addr, mac: Mac, out: &mut [u8]) -> Result<usize, DropReason> {
    match addr.v4() {
        Some(addr) => arp::announce(cfg, addr, mac, out),
        None => ndp::announce(cfg, addr.octets().into(), mac, out),
    }
}

/// A message of neighbour discovery, if it is all there.
fn ndp_request<'a>(source: Mac, class: &Class, frame: &'a [u8]) -> Option<ndp::Request<'a>> {
    let Class::Ndp { src, dst, hop_limit, message } = class else { return None };
    let message = frame.get(message.clone())?;
    Some(ndp::Request { source, src: *src, dst: *dst, hop_limit: *hop_limit, message })
}

#[cfg(test)]
pub(crate) mod tests;
