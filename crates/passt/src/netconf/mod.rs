//! Network configuration: what the host has, and what a namespace is given.
//!
//! [`host`] looks up the interface that serves as template, its addresses and
//! routes; [`route`] knows what these lead to; [`resolv`] reads the host's resolver configuration;
//! [`guest`] configures a namespace. All of it happens once, at start; [`neighbours`] goes on to
//! follow who is on the host's links. What is to be done with what
//! was found is decided by [`crate::setup`].

pub mod guest;
pub mod host;
pub mod neighbours;
mod parse;
pub mod resolv;
pub mod route;
mod rtnl;

use passt_engine::forward::rule::PortRange;
pub use rtnl::{Error, Rtnl};

/// Ports of this network namespace that the kernel gives out by itself
/// (`Documentation/networking/ip-sysctl.rst` in the kernel, `ip_local_port_range`).
pub fn ephemeral_ports() -> PortRange {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let range = text.ok().and_then(|text| {
        let mut ports = text.split_whitespace().map_while(|port| port.parse().ok());
        PortRange::new(ports.next()?, ports.next()?)
    });
    range.unwrap_or(PortRange::DYNAMIC)
}

#[cfg(test)]
mod tests;
