//! Packets of the guest as the log shows them.

use std::fmt;

use passt_proto::addr::Endpoint;
use passt_proto::classify::{Class, Datagram};
use passt_proto::wire::tcp::{Flags, Segment};

/// Control bits of TCP with their usual names, in the order of tcpdump's.
const FLAGS: [(Flags, &str); 6] = [
    (Flags::SYN, " SYN"),
    (Flags::FIN, " FIN"),
    (Flags::RST, " RST"),
    (Flags::PSH, " PSH"),
    (Flags::URG, " URG"),
    (Flags::ACK, " ACK"),
];

/// Shows protocol, addresses and what else tells packets apart, in one line.
pub(super) struct Trace<'a>(pub(super) &'a Class);

impl fmt::Display for Trace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Class::Arp { .. } => f.write_str("ARP"),
            Class::Ndp { src, dst, .. } => write!(f, "NDP {src} - {dst}"),
            Class::Dhcp(datagram) => write_datagram(f, "DHCP", datagram),
            Class::Dhcpv6(datagram) => write_datagram(f, "DHCPv6", datagram),
            Class::Udp(datagram) => write_datagram(f, "UDP", datagram),
            Class::Echo { src, dst, id, seq, .. } => {
                write!(f, "echo request {src} - {dst} identifier {id} sequence {seq}")
            }
            Class::Tcp { src, dst, segment, payload } => {
                let (src, dst) =
                    (Endpoint::new(*src, segment.src_port), Endpoint::new(*dst, segment.dst_port));
                write!(f, "TCP {src} - {dst}")?;
                write_segment(f, segment)?;
                write!(f, ", {} bytes of payload", payload.len())
            }
        }
    }
}

fn write_datagram(f: &mut fmt::Formatter<'_>, name: &str, datagram: &Datagram) -> fmt::Result {
    let Datagram { src, dst, payload, .. } = datagram;
    write!(f, "{name} {src} - {dst}, {} bytes of payload", payload.len())
}

fn write_segment(f: &mut fmt::Formatter<'_>, segment: &Segment) -> fmt::Result {
    for (flag, name) in FLAGS {
        if segment.flags.contains(flag) {
            f.write_str(name)?;
        }
    }
    write!(f, " seq {} ack {} window {}", segment.seq.0, segment.ack.0, segment.window)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use passt_proto::seq::Seq;
    use passt_proto::wire::tcp::Options;

    use super::*;

    #[test]
    fn packets_in_a_line() {
        let [a, b] = [[192, 0, 2, 2], [198, 51, 100, 1]].map(Ipv4Addr::from);
        let segment = Segment {
            src_port: 1024,
            dst_port: 80,
            seq: Seq(7),
            ack: Seq(9),
            flags: Flags::SYN | Flags::ACK,
            window: 500,
            options: Options::default(),
        };
        let class = Class::Tcp { src: a.into(), dst: b.into(), segment, payload: 54..154 };
        assert_eq!(
            Trace(&class).to_string(),
            "TCP 192.0.2.2:1024 - 198.51.100.1:80 SYN ACK seq 7 ack 9 window 500, 100 bytes of payload"
        );
        let datagram =
            Datagram { src: Endpoint::new(a, 1), dst: Endpoint::new(b, 2), ttl: 64, payload: 42..45 };
        assert_eq!(
            Trace(&Class::Udp(datagram)).to_string(),
            "UDP 192.0.2.2:1 - 198.51.100.1:2, 3 bytes of payload"
        );
        assert_eq!(Trace(&Class::Arp { offset: 14 }).to_string(), "ARP");
    }
}
