//! A DHCPv6 server (RFC 8415) with a single address and a lease without end, unless the user wants
//! one.
//!
//! Prefix delegation and temporary addresses are refused, relays are left out.

use core::net::Ipv6Addr;

use super::{Config, V6, frame};
use crate::addr::{Addr, Mac};
use crate::drop::DropReason;
use crate::wire::build::{DEFAULT_TTL, Path};
use crate::wire::dhcpv6::{self, MAX_DUID, Status, message, option, options, put_option, put_status};
use crate::wire::domain::put_names;
use crate::wire::writer::Writer;

/// Answers the message in `bytes`, from the address `src`.
pub fn respond(
    cfg: &Config,
    source: Mac,
    src: Addr,
    bytes: &[u8],
    out: &mut [u8],
) -> Result<usize, DropReason> {
    let v6 = cfg.v6()?;
    let request = Request::parse(bytes).ok_or(DropReason::Dhcpv6Format)?;
    request.verify(&duid(cfg))?;
    let reply = Reply { cfg, v6, request };
    let path = Path {
        src_mac: cfg.our_mac,
        dst_mac: source,
        src: v6.our_ll.into(),
        dst: src,
        ttl: DEFAULT_TTL,
        traffic_class: 0,
    };
    let ports = (dhcpv6::SERVER_PORT, dhcpv6::CLIENT_PORT);
    let out = frame::within_mtu(cfg.mtu, out);
    frame::udp(&path, ports, out, |w| reply.write(w))
}

/// Our identifier, DUID-LL (RFC 8415, section 11.4): the same after a restart.
fn duid(cfg: &Config) -> [u8; 10] {
    let [a, b, c, d, e, f] = cfg.our_mac.0;
    [0, 3, 0, 1, a, b, c, d, e, f]
}

/// A message from a client.
#[derive(Clone, Copy)]
struct Request<'a> {
    kind: u8,
    transaction: [u8; 3],
    options: &'a [u8],
}

impl<'a> Request<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (&[kind, a, b, c], options) = bytes.split_first_chunk()?;
        Some(Self { kind, transaction: [a, b, c], options })
    }

    fn find(&self, code: u16) -> Option<&'a [u8]> {
        options(self.options).find_map(|(c, body)| (c == code).then_some(body))
    }

    /// Checks which identifiers are there (RFC 8415, section 16).
    fn verify(&self, ours: &[u8]) -> Result<(), DropReason> {
        let client = self.find(option::CLIENT_ID);
        let server = self.find(option::SERVER_ID);
        let (client_ok, server_ok) = match self.kind {
            message::SOLICIT | message::CONFIRM | message::REBIND => (client.is_some(), server.is_none()),
            message::REQUEST | message::RENEW | message::RELEASE | message::DECLINE => {
                (client.is_some(), server.is_some())
            }
            message::INFORMATION_REQUEST => (true, true),
            _ => return Err(DropReason::Dhcpv6Unanswered),
        };
        let too_long = client.is_some_and(|id| id.len() > MAX_DUID);
        let association = [option::IA_NA, option::IA_TA, option::IA_PD];
        let unwanted = self.kind == message::INFORMATION_REQUEST
            && options(self.options).any(|(code, _)| association.contains(&code));
        let unknown = self.kind == message::CONFIRM && self.addresses().next().is_none();
        if !client_ok || !server_ok || too_long || unwanted || unknown {
            return Err(DropReason::Dhcpv6Format);
        }
        if server.is_some_and(|id| id != ours) {
            return Err(DropReason::Dhcpv6Unanswered);
        }
        Ok(())
    }

    /// The addresses in all associations.
    fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> + use<'a> {
        options(self.options).flat_map(|(code, body)| {
            let head = match code {
                option::IA_NA => 12,
                option::IA_TA => 4,
                _ => body.len(),
            };
            addresses(body.get(head..).unwrap_or_default())
        })
    }

    /// Whether the client asks for an option by its number (RFC 8415, section 21.7).
    fn wants(&self, code: u16) -> bool {
        let named = self.find(option::REQUESTED).unwrap_or_default();
        named.as_chunks().0.contains(&code.to_be_bytes())
    }
}

/// The addresses in the options of an association.
fn addresses(bytes: &[u8]) -> impl Iterator<Item = Ipv6Addr> {
    options(bytes)
        .filter(|&(code, _)| code == option::IA_ADDRESS)
        .filter_map(|(_, body)| body.first_chunk::<16>().copied().map(Ipv6Addr::from))
}

/// A reply to be written.
struct Reply<'a> {
    cfg: &'a Config,
    v6: &'a V6,
    request: Request<'a>,
}

impl Reply<'_> {
    fn write(&self, w: &mut Writer<'_>) -> Option<()> {
        let request = &self.request;
        let rapid = request.kind == message::SOLICIT && request.find(option::RAPID_COMMIT).is_some();
        let advertise = request.kind == message::SOLICIT && !rapid;
        let kind = if advertise { message::ADVERTISE } else { message::REPLY };
        w.put(&[kind])?;
        w.put(&request.transaction)?;
        if let Some(client) = request.find(option::CLIENT_ID) {
            put_option(w, option::CLIENT_ID, |w| w.put(client))?;
        }
        put_option(w, option::SERVER_ID, |w| w.put(&duid(self.cfg)))?;
        if advertise {
            // The highest: there is no other server to wait for (RFC 8415, section 18.2.1).
            put_option(w, option::PREFERENCE, |w| w.put(&[255]))?;
        }
        if rapid {
            put_option(w, option::RAPID_COMMIT, |_| Some(()))?;
        }
        match request.kind {
            message::CONFIRM => self.write_confirmation(w),
            message::RELEASE | message::DECLINE => put_status(w, Status::Success, "Done."),
            _ => {
                self.write_associations(w)?;
                self.write_parameters(w);
                Some(())
            }
        }
    }

    /// Says whether all addresses still belong on this link.
    fn write_confirmation(&self, w: &mut Writer<'_>) -> Option<()> {
        if self.request.addresses().all(|a| self.on_link(a)) {
            put_status(w, Status::Success, "Addresses are on the link.")
        } else {
            put_status(w, Status::NotOnLink, NOT_ON_LINK)
        }
    }

    /// Gives the address to the first association that can take it, nothing to the others.
    fn write_associations(&self, w: &mut Writer<'_>) -> Option<()> {
        let mut given = false;
        for (code, body) in options(self.request.options) {
            let Some((id, rest)) = body.split_first_chunk::<4>() else {
                continue;
            };
            match code {
                option::IA_NA if !given && self.may_have(rest) => {
                    given = true;
                    put_option(w, code, |w| self.write_lease(w, *id, rest))?;
                }
                option::IA_NA if !given => {
                    refuse(w, code, *id, Status::NotOnLink, NOT_ON_LINK)?;
                }
                option::IA_NA | option::IA_TA => {
                    refuse(w, code, *id, Status::NoAddrsAvail, "No address available.")?;
                }
                option::IA_PD => {
                    refuse(w, code, *id, Status::NoPrefixAvail, "No prefix available.")?;
                }
                _ => {}
            }
        }
        Some(())
    }

    /// Whether a lease answers an association with the times and options `rest`. Only a REQUEST is
    /// refused for what it names (RFC 8415, section 18.3.2); elsewhere that is a wish, or expires.
    fn may_have(&self, rest: &[u8]) -> bool {
        self.request.kind != message::REQUEST
            || addresses(rest.get(8..).unwrap_or_default()).all(|a| self.on_link(a))
    }

    /// Writes an association with the guest's address. What the client has beside it ends at
    /// once (RFC 8415, sections 18.3.4 and 18.3.5).
    fn write_lease(&self, w: &mut Writer<'_>, id: [u8; 4], rest: &[u8]) -> Option<()> {
        let lease = &self.cfg.custom.dhcpv6_lease;
        w.put(&id)?;
        w.u32(lease.renewal)?;
        w.u32(lease.rebinding)?;
        put_address(w, self.v6.addr, (lease.preferred, lease.valid))?;
        if matches!(self.request.kind, message::RENEW | message::REBIND) {
            addresses(rest.get(8..).unwrap_or_default())
                .filter(|&a| a != self.v6.addr)
                .try_for_each(|a| put_address(w, a, (0, 0)))?;
        }
        Some(())
    }

    /// Writes what there is to know about the network, as far as it fits: name servers, the user's
    /// options with those that are asked for first, names.
    fn write_parameters(&self, w: &mut Writer<'_>) {
        self.write_parameter(w, option::DNS_SERVERS);
        for wanted in [true, false] {
            let custom = self.cfg.custom.dhcpv6.iter();
            let sent = custom.filter(|&(code, body)| !body.is_empty() && self.may_tell(code));
            for (code, body) in sent.filter(|&(code, _)| self.request.wants(code) == wanted) {
                w.attempt(|w| put_option(w, code, |w| w.put(body)));
            }
        }
        // Also to clients that do not ask: the user wants the guest to have this name.
        self.write_parameter(w, option::FQDN);
        self.write_parameter(w, option::DOMAIN_SEARCH);
    }

    /// Whether an option of the user has a place in this reply. When to ask again is said to those
    /// who ask for nothing but information (RFC 8415, section 21.23).
    fn may_tell(&self, code: u16) -> bool {
        let informed = self.request.kind == message::INFORMATION_REQUEST;
        !dhcpv6::is_protocol(code) && (informed || code != option::INFORMATION_REFRESH_TIME)
    }

    /// Writes an option about the network, unless the user has one in its place, it does not fit or
    /// there is nothing to say.
    fn write_parameter(&self, w: &mut Writer<'_>, code: u16) {
        let cfg = self.cfg;
        if cfg.custom.dhcpv6.get(code).is_some() {
            return;
        }
        w.attempt(|w| {
            put_option(w, code, |w| match code {
                option::DNS_SERVERS => {
                    let servers = cfg.dns(&self.v6.dns);
                    servers.first()?;
                    servers.iter().try_for_each(|server| w.put(&server.octets()))
                }
                option::FQDN => {
                    w.put(&[0])?;
                    let name = cfg.fqdn.iter().map(super::Name::as_str);
                    (put_names(w, name, false) != 0).then_some(())
                }
                option::DOMAIN_SEARCH => (put_names(w, cfg.search(), false) != 0).then_some(()),
                _ => None,
            })
        });
    }

    fn on_link(&self, addr: Ipv6Addr) -> bool {
        let host_bits = 128 - u32::from(self.v6.prefix_len.min(128));
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        (addr.to_bits() ^ self.v6.addr.to_bits()) & mask == 0
    }
}

const NOT_ON_LINK: &str = "Address is not on the link.";

/// Writes an address with its preferred and its valid lifetime.
fn put_address(w: &mut Writer<'_>, addr: Ipv6Addr, (preferred, valid): (u32, u32)) -> Option<()> {
    put_option(w, option::IA_ADDRESS, |w| {
        w.put(&addr.octets())?;
        w.u32(preferred)?;
        w.u32(valid)
    })
}

/// Writes an association with nothing but a status.
fn refuse(w: &mut Writer<'_>, code: u16, id: [u8; 4], status: Status, text: &str) -> Option<()> {
    put_option(w, code, |w| {
        w.put(&id)?;
        if code != option::IA_TA {
            w.put(&[0; 8])?;
        }
        put_status(w, status, text)
    })
}

#[cfg(test)]
mod tests;
