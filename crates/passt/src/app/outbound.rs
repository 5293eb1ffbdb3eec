//! Interfaces and addresses that outgoing connections are bound to, as the host has them at the start.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd as _;

use passt_engine::core::Outbound;
use passt_sys::process;
use passt_sys::socket::{self, Kind};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use rustix::thread::CapabilitySet;

use crate::cli::{Addresses, Config, PerFamily};

/// Those that the command line names for IPv4 and IPv6. One that nothing can be bound to is no
/// failure: the user is told, and the engine goes without it as long as that is so.
pub(super) fn interfaces(config: &Config) -> [Option<Outbound>; 2] {
    let PerFamily { v4, v6 } = &config.host.outbound_interface;
    let v4 = (v4, "IPv4", AddressFamily::INET, config.families.v4());
    let v6 = (v6, "IPv6", AddressFamily::INET6, config.families.v6());
    [v4, v6].map(|(name, family, number, on)| {
        let interface = name.clone().filter(|_| on)?;
        // Before Linux 5.7 that takes a right, which is given up.
        let probed = process::without(CapabilitySet::NET_RAW, || probe(&interface, number)).and_then(|probed| probed);
        if let Err(error) = &probed {
            log::warn!(
                "Outgoing {family} connections can't be bound to interface {interface}, and go by any: {error}"
            );
        }
        Some(Outbound { interface, strict: probed.is_ok() })
    })
}

/// Tells of addresses to leave from that the host does not have: nothing leaves from there until it
/// does.
pub(super) fn check_addresses(config: &Config) {
    let Addresses { v4, v6 } = config.host.outbound;
    let of_both = [(v4.map(IpAddr::V4), config.families.v4()), (v6.map(IpAddr::V6), config.families.v6())];
    for addr in of_both.into_iter().filter_map(|(addr, on)| addr.filter(|_| on)) {
        if let Err(error) = UdpSocket::bind((addr, 0))
            && error.kind() == io::ErrorKind::AddrNotAvailable
        {
            log::warn!(
                "The host doesn't have the address {addr}, or not yet: nothing leaves from there until it does"
            );
        }
    }
}

/// The command line as it is for the choice of a template, which an interface can't be that does
/// not exist.
pub(super) fn template_config(config: &Config) -> Config {
    let mut config = config.clone();
    let PerFamily { v4, v6 } = &mut config.host.outbound_interface;
    for name in [v4, v6] {
        let is_missing = |name: &String| {
            let error = probe(name, AddressFamily::INET).err();
            error.is_some_and(|error| Errno::from_io_error(&error) == Some(Errno::NODEV))
        };
        *name = name.take().filter(|name| !is_missing(name));
    }
    config
}

/// Whether a socket can be bound to an interface.
fn probe(interface: &str, family: AddressFamily) -> io::Result<()> {
    let socket = socket::open(Kind { kind: SocketType::DGRAM, family }, None)?;
    socket::bind_to_device(socket.as_fd(), interface)
}
