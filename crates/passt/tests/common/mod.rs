//! What tests of the whole engine begin with: an engine's options, rules of forwarded ports, and payload.
#![allow(dead_code, reason = "each test uses a part")]

use std::net::IpAddr;

use passt::cli::{Listen, PortRange, Rule};
use passt::worker::{Options, Protocols};
use passt_proto::addr::{Addr, Mac};
use passt_proto::responder;
use passt_proto::rules::AddressMap;

/// Link-layer address of the engine.
pub(crate) const ENGINE: Mac = Mac([2; 6]);

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn addr(text: &str) -> Addr {
    ip(text).into()
}

/// All protocols, and no responder.
pub(crate) fn options(mtu: u16, map: &AddressMap, max_flows: usize) -> Options {
    Options {
        services: responder::Config {
            our_mac: ENGINE,
            mtu,
            v4: None,
            v6: None,
            search: arrayvec::ArrayVec::new(),
            hostname: None,
            fqdn: None,
            services: responder::Services::empty(),
        },
        map: *map,
        outbound_if: [None, None],
        protocols: Protocols { tcp: true, udp: true, icmp: true },
        max_flows,
        stats: None,
        secrets: [1, 2, 3, 4],
    }
}

/// Forwards `port` of an address, or of all, to port `to`.
pub(crate) fn rule(address: Option<&str>, port: u16, to: u16) -> Rule {
    let listen = Listen { addr: address.map(ip), interface: None };
    let ports = PortRange::new(port, port).unwrap();
    Rule { listen, ports, to, target: None, weak: false, scan: false }
}

pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
}
