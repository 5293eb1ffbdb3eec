//! What an exchange with a responder came to, as one line of a log: who asked for what, and what it
//! was given.
//!
//! Both messages are read as they are on the link, whatever wrote them; what makes no sense is left
//! out.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::ops::Range;

use crate::addr::Mac;
use crate::classify::Class;
use crate::drop::DropReason;
use crate::wire::{dhcp, dhcpv6, ethernet, ipv4, ipv6, ndp, udp};

/// Length of a DHCP message before its options: fixed fields and cookie (RFC 2131, section 2).
const DHCP_FIXED: usize = 240;
/// Where the client's address is in it.
const YIADDR: Range<usize> = 16..20;

/// Where the address that is asked for is in an ARP packet (RFC 826).
const ARP_TARGET: Range<usize> = 24..28;

/// A request in `frame`, which is of `class` and came from `source`, and the frame that answers it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The station that asked.
    pub source: Mac,
    /// What the request is.
    pub class: &'a Class,
    /// The request.
    pub frame: &'a [u8],
    /// The answer, or why there is none.
    pub reply: Result<&'a [u8], DropReason>,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.class {
            Class::Arp { offset } => self.arp(f, *offset),
            Class::Ndp { message, .. } => self.ndp(f, self.part(message)),
            Class::Dhcp(datagram) => self.dhcp(f, self.part(&datagram.payload)),
            Class::Dhcpv6(datagram) => self.dhcpv6(f, self.part(&datagram.payload)),
            _ => write!(f, "request from {}", self.source),
        }
    }
}

impl<'a> Told<'a> {
    fn part(&self, range: &Range<usize>) -> &'a [u8] {
        self.frame.get(range.start..range.end.min(self.frame.len())).unwrap_or_default()
    }

    /// The answer's datagram, behind a network header of this length.
    fn answer(&self, network: usize) -> Result<&'a [u8], DropReason> {
        self.reply.map(|reply| reply.get(ethernet::LEN + network + udp::LEN..).unwrap_or_default())
    }

    /// What became of a request for which it is enough to know that it was answered.
    fn answered(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reply {
            Ok(_) => f.write_str(": answered"),
            Err(reason) => unanswered(f, reason),
        }
    }

    fn arp(&self, f: &mut fmt::Formatter<'_>, offset: usize) -> fmt::Result {
        let packet = self.frame.get(offset..).unwrap_or_default();
        let target = packet.get(ARP_TARGET).and_then(|octets| <[u8; 4]>::try_from(octets).ok());
        let target = target.map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from);
        write!(f, "ARP from {}: who has {target}", self.source)?;
        self.answered(f)
    }

    fn ndp(&self, f: &mut fmt::Formatter<'_>, message: &[u8]) -> fmt::Result {
        write!(f, "NDP from {}: ", self.source)?;
        match message.first() {
            Some(&ndp::ROUTER_SOLICITATION) => f.write_str("router solicitation")?,
            Some(&ndp::NEIGHBOUR_SOLICITATION) => {
                let target = address(message.get(8..)).unwrap_or(Ipv6Addr::UNSPECIFIED);
                write!(f, "neighbour solicitation for {target}")?;
            }
            Some(&ndp::NEIGHBOUR_ADVERTISEMENT) => return f.write_str("neighbour advertisement"),
            kind => write!(f, "message {}", kind.copied().unwrap_or_default())?,
        }
        self.answered(f)
    }

    fn dhcp(&self, f: &mut fmt::Formatter<'_>, message: &[u8]) -> fmt::Result {
        write!(f, "DHCP from {}: {}", self.source, dhcp_name(message))?;
        match self.answer(ipv4::LEN) {
            Ok(answer) => {
                let given = answer.get(YIADDR).and_then(|octets| <[u8; 4]>::try_from(octets).ok());
                let given = given.map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from);
                write!(f, ": {} {given}", dhcp_name(answer))
            }
            Err(reason) => unanswered(f, reason),
        }
    }

    fn dhcpv6(&self, f: &mut fmt::Formatter<'_>, message: &[u8]) -> fmt::Result {
        write!(f, "DHCPv6 from {}: {}", self.source, dhcpv6_name(message))?;
        match self.answer(ipv6::LEN) {
            Ok(answer) => {
                write!(f, ": {}", dhcpv6_name(answer))?;
                assigned(answer).map_or(Ok(()), |given| write!(f, " {given}"))
            }
            Err(reason) => unanswered(f, reason),
        }
    }
}

fn unanswered(f: &mut fmt::Formatter<'_>, reason: DropReason) -> fmt::Result {
    write!(f, ": not answered, {}", reason.name())
}

fn address(bytes: Option<&[u8]>) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes?.get(..16)?.try_into().ok()?;
    Some(octets.into())
}

/// The first address in an identity association (RFC 8415, section 21.4).
fn assigned(message: &[u8]) -> Option<Ipv6Addr> {
    let associations = |bytes| dhcpv6::options(bytes).find(|(code, _)| *code == dhcpv6::option::IA_NA);
    let (_, association) = associations(message.get(4..)?)?;
    let (_, body) =
        dhcpv6::options(association.get(12..)?).find(|(code, _)| *code == dhcpv6::option::IA_ADDRESS)?;
    address(Some(body))
}

/// The type of a DHCP message (RFC 2132, section 9.6); one without is of BOOTP.
fn dhcp_name(message: &[u8]) -> &'static str {
    let mut options = dhcp::options(message.get(DHCP_FIXED..).unwrap_or_default());
    let kind = options.find(|(code, _)| *code == dhcp::option::MESSAGE_TYPE);
    match kind.and_then(|(_, body)| body.first()) {
        Some(1) => "DISCOVER",
        Some(2) => "OFFER",
        Some(3) => "REQUEST",
        Some(4) => "DECLINE",
        Some(5) => "ACK",
        Some(6) => "NAK",
        Some(7) => "RELEASE",
        Some(8) => "INFORM",
        Some(_) => "message of another type",
        None => "BOOTP",
    }
}

/// The type of a DHCPv6 message (RFC 8415, section 7.3).
fn dhcpv6_name(message: &[u8]) -> &'static str {
    match message.first() {
        Some(1) => "SOLICIT",
        Some(2) => "ADVERTISE",
        Some(3) => "REQUEST",
        Some(4) => "CONFIRM",
        Some(5) => "RENEW",
        Some(6) => "REBIND",
        Some(7) => "REPLY",
        Some(8) => "RELEASE",
        Some(9) => "DECLINE",
        Some(11) => "INFORMATION-REQUEST",
        _ => "message of another type",
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::vec::Vec;

    use super::*;
    use crate::classify::from_station;
    use crate::responder::tests::{GUEST, GUEST_LL, OUR_LL, config};
    use crate::responder::{Holder, respond};
    use crate::wire::build::{MAX_HEADERS, Path};

    fn path(src: Ipv6Addr, dst: Ipv6Addr) -> Path {
        Path {
            src_mac: GUEST,
            dst_mac: Mac([0xff; 6]),
            src: src.into(),
            dst: dst.into(),
            ttl: 255,
            traffic_class: 0,
        }
    }

    fn datagram(path: &Path, ports: (u16, u16), message: &[u8]) -> Vec<u8> {
        let mut header = [0; MAX_HEADERS];
        let (len, _) = path.emit_udp(&mut header, ports, message.len(), 0).unwrap();
        [&header[..len], message].concat()
    }

    /// What is told of the exchange that a frame begins.
    fn told(frame: &[u8]) -> std::string::String {
        let (source, class) = from_station(frame).unwrap();
        let mut out = [0; 1600];
        let response =
            respond(&config(), None, source, &class, frame, |_| Holder::Unknown, &mut out).unwrap();
        let reply = response.reply.map(|len| &out[..len]);
        Told { source, class: &class, frame, reply }.to_string()
    }

    fn dhcp(kind: u8) -> Vec<u8> {
        let v4 = |last| Ipv4Addr::new(0, 0, 0, last).into();
        let path = Path { src: v4(0), dst: Ipv4Addr::BROADCAST.into(), ..path(GUEST_LL, OUR_LL) };
        let mut message = std::vec![0; DHCP_FIXED];
        message[..4].copy_from_slice(&[1, 1, 6, 0]);
        message[28..34].copy_from_slice(&GUEST.0);
        message[236..].copy_from_slice(&dhcp::MAGIC.to_be_bytes());
        message.extend([53, 1, kind, 255]);
        datagram(&path, (68, 67), &message)
    }

    #[test]
    fn exchanges() {
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
        let solicit = [&[1, 0, 0, 1, 0, 1, 0, 4, 0, 1, 0, 7][..], &[0, 3, 0, 12], &[0; 12]].concat();
        let mut arp = [&[0xff; 6][..], &GUEST.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &GUEST.0].concat();
        arp.extend([192, 0, 2, 15, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
        let cases = [
            (dhcp(1), "DHCP from 02:00:00:00:00:02: DISCOVER: OFFER 192.0.2.15"),
            (
                datagram(&path(GUEST_LL, all), (546, 547), &solicit),
                "DHCPv6 from 02:00:00:00:00:02: SOLICIT: ADVERTISE 2001:db8:0:1::15",
            ),
            (arp, "ARP from 02:00:00:00:00:02: who has 192.0.2.1: answered"),
        ];
        for (frame, expected) in cases {
            assert_eq!(told(&frame), expected);
        }
        let refused = told(&dhcp(77));
        assert!(refused.starts_with("DHCP from 02:00:00:00:00:02: message of another type: not answered"));
    }

    /// Whatever is read, nothing is looked for behind its end.
    #[test]
    fn parts_of_messages() {
        let frame = dhcp(1);
        let (source, class) = from_station(&frame).unwrap();
        for end in 0..frame.len() {
            let frame = &frame[..end];
            let line = Told { source, class: &class, frame, reply: Ok(frame) }.to_string();
            assert!(line.starts_with("DHCP from"));
        }
    }
}
