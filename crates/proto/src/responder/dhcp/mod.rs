//! A DHCP server (RFC 2131) with a lease without end, unless the user wants one, of a single address
//! or of a [range](leases).
//!
//! As a lease without end is never renewed, it has no renewal times. Clients of BOOTP (RFC 951) are
//! answered in its form. Relays are left out.

pub mod leases;

use core::net::Ipv4Addr;

use zerocopy::{FromBytes, IntoBytes};

use self::leases::Leases;
use super::custom::INFINITE;
use super::{Config, V4, frame};
use crate::addr::{Addr, Mac};
use crate::drop::DropReason;
use crate::wire::build::{DEFAULT_TTL, Path};
use crate::wire::dhcp::{self, Header, message, option};
use crate::wire::domain::put_names;
use crate::wire::writer::Writer;
use crate::wire::{ipv4, udp};

/// The largest packet that every client takes (RFC 2131, section 2), and the
/// largest that we make for one that takes more.
const MAX_PACKET: core::ops::RangeInclusive<u16> = 576..=1500;

/// What must be there, in this order, before what the client would like.
const MANDATORY: [u8; 7] = [
    option::MESSAGE_TYPE,
    option::SERVER_ID,
    option::CLIENT_ID,
    option::LEASE_TIME,
    option::RENEWAL_TIME,
    option::REBINDING_TIME,
    option::RAPID_COMMIT,
];

/// What is sent even if nobody asked, before what the user adds: without it there is no network.
const BASIC: [u8; 3] = [option::SUBNET_MASK, option::ROUTER, option::CLASSLESS_ROUTES];

/// What is sent even if nobody asked, after all else, as far as it fits.
const OPTIONAL: [u8; 5] =
    [option::DNS_SERVERS, option::MTU, option::HOST_NAME, option::FQDN, option::DOMAIN_SEARCH];

/// Answers the message in `bytes`.
pub fn respond(
    cfg: &Config,
    leases: Option<&mut Leases>,
    source: Mac,
    bytes: &[u8],
    out: &mut [u8],
) -> Result<usize, DropReason> {
    let v4 = cfg.v4()?;
    let request = Request::parse(bytes).ok_or(DropReason::DhcpFormat)?;
    let addr = leases.map_or(v4.addr, |leases| leases.of(request.client(), request.wanted()));
    let answer = request.answer(v4, addr)?;
    let reply = Reply { cfg, v4, addr, request, answer };
    let dst = reply.destination();
    let path = Path {
        src_mac: cfg.our_mac,
        dst_mac: if dst.is_broadcast() { Mac::BROADCAST } else { source },
        src: v4.our_addr.into(),
        dst: dst.into(),
        ttl: DEFAULT_TTL,
        traffic_class: 0,
    };
    let ports = (dhcp::SERVER_PORT, dhcp::CLIENT_PORT);
    frame::udp(&path, ports, out, |w| reply.write(w))
}

/// Whether a server at `dst` is us: requests to others are none of ours.
pub(super) fn is_for_us(v4: &V4, dst: Addr) -> bool {
    is_ours(v4, dst) || dst.is_group() || Some(dst) == directed_broadcast(v4)
}

/// Whether `dst` is the address by which clients know us alone.
pub(super) fn is_ours(v4: &V4, dst: Addr) -> bool {
    dst == v4.our_addr.into()
}

/// The broadcast address of the guest's network, if that has one (RFC 3021).
fn directed_broadcast(v4: &V4) -> Option<Addr> {
    let network = v4.addr.to_bits() | !mask(v4.prefix_len);
    (v4.prefix_len < 31).then(|| Ipv4Addr::from_bits(network).into())
}

/// A message from a client.
struct Request<'a> {
    header: &'a Header,
    /// None of a client whose vendor area has another form, or nothing in it (RFC 951).
    options: &'a [u8],
    /// Bytes of the message.
    len: usize,
}

/// What is said to a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Offer,
    Ack,
    /// To a DISCOVER, in place of an OFFER (RFC 4039).
    RapidAck,
    Nak,
    /// To a client that has its address from elsewhere: an ACK without a lease.
    Inform,
    /// To a client that knows nothing of DHCP (RFC 1534).
    Bootp,
}

impl<'a> Request<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, options) = Header::ref_from_prefix(bytes).ok()?;
        let ethernet = header.htype == 1 && header.hlen == 6;
        let options = if header.magic.get() == dhcp::MAGIC { options } else { &[] };
        let valid = header.op == dhcp::BOOTREQUEST && ethernet;
        valid.then_some(Self { header, options, len: bytes.len() })
    }

    /// Whether the client's vendor area has a form that we don't know: one with nothing in it says
    /// nothing about what the client reads.
    fn is_foreign(&self) -> bool {
        !matches!(self.header.magic.get(), 0 | dhcp::MAGIC)
    }

    fn find(&self, code: u8) -> Option<&'a [u8]> {
        dhcp::options(self.options).find_map(|(c, body)| (c == code).then_some(body))
    }

    fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.find(code).and_then(dhcp::address)
    }

    /// The address that the client has, if it says so.
    fn client_address(&self) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::from(self.header.ciaddr)).filter(|a| !a.is_unspecified())
    }

    /// The client's link-layer address.
    fn client(&self) -> Mac {
        let [a, b, c, d, e, f, ..] = self.header.chaddr;
        Mac([a, b, c, d, e, f])
    }

    /// The address that the client would like to have, or has.
    fn wanted(&self) -> Option<Ipv4Addr> {
        self.address(option::REQUESTED_ADDRESS).or(self.client_address())
    }

    /// What to say (RFC 2131, section 4.3) to the client whose address is `addr`.
    fn answer(&self, v4: &V4, addr: Ipv4Addr) -> Result<Answer, DropReason> {
        let Some(kind) = self.find(option::MESSAGE_TYPE) else {
            return Ok(Answer::Bootp);
        };
        match *kind {
            [message::DISCOVER] if self.find(option::RAPID_COMMIT).is_some() => Ok(Answer::RapidAck),
            [message::DISCOVER] => Ok(Answer::Offer),
            [message::REQUEST] => self.answer_request(v4, addr),
            [message::INFORM] => Ok(Answer::Inform),
            [_] => Err(DropReason::DhcpUnanswered),
            _ => Err(DropReason::DhcpFormat),
        }
    }

    /// A client that wants another address is told at once, so that it starts over
    /// instead of using what it remembers from another network.
    fn answer_request(&self, v4: &V4, addr: Ipv4Addr) -> Result<Answer, DropReason> {
        let server = self.address(option::SERVER_ID);
        if server.is_some_and(|server| server != v4.our_addr) {
            return Err(DropReason::DhcpUnanswered);
        }
        match self.wanted() {
            Some(wanted) if wanted != addr => Ok(Answer::Nak),
            _ => Ok(Answer::Ack),
        }
    }
}

/// An answer to be written.
struct Reply<'a> {
    cfg: &'a Config,
    v4: &'a V4,
    /// The client's.
    addr: Ipv4Addr,
    request: Request<'a>,
    answer: Answer,
}

impl Reply<'_> {
    /// Where it goes (RFC 2131, section 4.1); not to an address that no client can have.
    fn destination(&self) -> Ipv4Addr {
        let broadcast = self.request.header.flags.get() & dhcp::BROADCAST != 0;
        let unicast = |a: &Ipv4Addr| !(a.is_multicast() || a.is_broadcast() || a.is_loopback());
        match (self.answer, self.request.client_address().filter(unicast)) {
            (Answer::Nak, _) | (Answer::Inform, None) => Ipv4Addr::BROADCAST,
            (_, Some(client)) => client,
            (_, None) if broadcast => Ipv4Addr::BROADCAST,
            (_, None) => self.addr,
        }
    }

    fn write(&self, w: &mut Writer<'_>) -> Option<()> {
        let request = self.request.header;
        let lease = !matches!(self.answer, Answer::Nak | Answer::Inform);
        let boot = self.cfg.custom.boot.as_ref().filter(|_| self.answer != Answer::Nak);
        let header = Header {
            op: dhcp::BOOTREPLY,
            hops: 0,
            secs: 0.into(),
            ciaddr: if self.answer == Answer::Nak { [0; 4] } else { request.ciaddr },
            yiaddr: if lease { self.addr.octets() } else { [0; 4] },
            siaddr: boot.map_or([0; 4], |boot| boot.server.unwrap_or(self.v4.our_addr).octets()),
            sname: boot.map_or([[0; 32]; 2], |boot| padded(&boot.name)),
            file: boot.map_or([[0; 32]; 4], |boot| padded(&boot.file)),
            magic: if self.request.is_foreign() { 0 } else { dhcp::MAGIC }.into(),
            ..*request
        };
        w.put(header.as_bytes())?;
        if !self.request.is_foreign() {
            self.write_options(w);
            w.put(&[option::END])?;
        }
        w.zero_to(dhcp::MIN_LEN)
    }

    /// Writes each option once, as far as it fits: first those that must be there, then those that
    /// the client asks for in its order, the basic ones, the user's, and the others.
    fn write_options(&self, w: &mut Writer<'_>) {
        let limit = self.limit();
        let asked = self.request.find(option::PARAMETERS).unwrap_or_default();
        let mut seen = [false; 256];
        let custom = self.cfg.custom.dhcp.iter().filter_map(|(code, _)| u8::try_from(code).ok());
        let first = MANDATORY.iter().chain(asked).chain(&BASIC).copied();
        for code in first.chain(custom).chain(OPTIONAL) {
            let Some(seen) = seen.get_mut(usize::from(code)) else {
                continue;
            };
            if !core::mem::replace(seen, true) {
                w.attempt(|w| {
                    self.put_option(w, code)?;
                    (w.written() < limit).then_some(())
                });
            }
        }
    }

    /// Writes an option: that of the user if there is one, which may be long and is then sent in
    /// parts (RFC 3396, section 5).
    fn put_option(&self, w: &mut Writer<'_>, code: u8) -> Option<()> {
        let settable = self.answer != Answer::Nak && !dhcp::is_protocol(code);
        match self.cfg.custom.dhcp.get(code.into()).filter(|_| settable) {
            Some(body) => body
                .chunks(usize::from(u8::MAX))
                .try_for_each(|part| dhcp::put_option(w, code, |w| w.put(part))),
            None => dhcp::put_option(w, code, |w| self.write_option(w, code)),
        }
    }

    /// Bytes of the longest message that the client and the link take.
    fn limit(&self) -> usize {
        let size = self.request.find(option::MAX_SIZE);
        let size = size.and_then(|body| <[u8; 2]>::try_from(body).ok());
        let size = u16::from_be_bytes(size.unwrap_or_default());
        let link = if self.cfg.mtu == 0 { u16::MAX } else { self.cfg.mtu };
        let packet = size.min(link).clamp(*MAX_PACKET.start(), *MAX_PACKET.end());
        let limit = usize::from(packet).saturating_sub(ipv4::LEN + udp::LEN);
        // The messages of BOOTP are as long as its client's (RFC 1542, section 2.1).
        if self.answer == Answer::Bootp { self.request.len.max(dhcp::MIN_LEN).min(limit) } else { limit }
    }

    /// Writes the body of an option; `None` if it has no place in this answer or there is nothing
    /// to say.
    fn write_option(&self, w: &mut Writer<'_>, code: u8) -> Option<()> {
        use Answer::{Ack, Bootp, Inform, Nak, Offer, RapidAck};
        let lease = &self.cfg.custom.dhcp_lease;
        match (code, self.answer) {
            (option::MESSAGE_TYPE, Offer) => w.put(&[message::OFFER]),
            (option::MESSAGE_TYPE, Ack | RapidAck | Inform) => w.put(&[message::ACK]),
            (option::MESSAGE_TYPE, Nak) => w.put(&[message::NAK]),
            (option::SERVER_ID, Offer | Ack | RapidAck | Inform | Nak) => w.put(&self.v4.our_addr.octets()),
            (option::LEASE_TIME, Offer | Ack | RapidAck) => w.u32(lease.valid),
            (option::RENEWAL_TIME, Offer | Ack | RapidAck) if lease.renewal != INFINITE => {
                w.u32(lease.renewal)
            }
            (option::REBINDING_TIME, Offer | Ack | RapidAck) if lease.rebinding != INFINITE => {
                w.u32(lease.rebinding)
            }
            (option::RAPID_COMMIT, RapidAck) => Some(()),
            // RFC 6842, section 3: returned as it came.
            (option::CLIENT_ID, Offer | Ack | RapidAck | Inform | Nak) => {
                w.put(self.request.find(option::CLIENT_ID)?)
            }
            (_, Offer | Ack | RapidAck | Inform | Bootp) => self.write_parameter(w, code),
            _ => None,
        }
    }

    /// Writes the body of an option that tells something about the network.
    fn write_parameter(&self, w: &mut Writer<'_>, code: u8) -> Option<()> {
        let (cfg, v4) = (self.cfg, self.v4);
        match code {
            option::SUBNET_MASK => w.put(&mask(v4.prefix_len).to_be_bytes()),
            option::ROUTER => w.put(&v4.gateway.octets()),
            option::CLASSLESS_ROUTES if !on_link(v4) => {
                // RFC 3442: the gateway on the link, everything else through it.
                w.put(&[32])?;
                w.put(&v4.gateway.octets())?;
                w.put(&[0; 5])?;
                w.put(&v4.gateway.octets())
            }
            option::DNS_SERVERS => {
                let servers = cfg.dns(&v4.dns);
                servers.first()?;
                servers.iter().try_for_each(|s| w.put(&s.octets()))
            }
            option::MTU if cfg.mtu != 0 => w.u16(cfg.mtu),
            option::HOST_NAME => w.put(cfg.hostname.as_ref()?.as_bytes()),
            option::FQDN => {
                // RFC 4702, section 2: name in DNS form, the two deprecated codes all ones.
                w.put(&[0x04, 255, 255])?;
                let name = cfg.fqdn.as_ref()?;
                (put_names(w, core::iter::once(name.as_str()), false) != 0).then_some(())
            }
            option::DOMAIN_SEARCH => {
                // A room of its own, so that only the names that are too many are lost.
                let mut room = [0; u8::MAX as usize];
                let mut names = Writer::new(&mut room);
                if put_names(&mut names, cfg.search(), true) == 0 {
                    return None;
                }
                let len = names.written();
                w.put(room.get(..len)?)
            }
            _ => None,
        }
    }
}

/// Text in a field of the fixed part, with zeroes behind it.
fn padded<const N: usize>(text: &str) -> [[u8; 32]; N] {
    let mut field = [[0; 32]; N];
    field.as_flattened_mut().iter_mut().zip(text.bytes()).for_each(|(to, byte)| *to = byte);
    field
}

/// Whether the guest reaches its gateway without a route to it.
fn on_link(v4: &V4) -> bool {
    (v4.addr.to_bits() ^ v4.gateway.to_bits()) & mask(v4.prefix_len) == 0
}

fn mask(prefix_len: u8) -> u32 {
    let host_bits = 32 - u32::from(prefix_len.min(32));
    u32::MAX.checked_shl(host_bits).unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests;
