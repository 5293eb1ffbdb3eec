//! What slirp4netns says of itself, and of the network, on standard output.

use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;

use super::super::config::Addresses;
use super::super::subnet::SubnetV4;
use super::Draft;
use super::options::OPTIONS;

/// The version whose command line and behaviour this is.
const LIKE: &str = "1.3.3";
/// Its library's, and the number of the form that its settings have: callers ask for 3 at least.
const LIKE_LIBRARY: &str = "4.9.5";
const CONFIG_VERSION: u32 = 6;
/// Version of the library for filters whose abilities ours has.
const LIKE_SECCOMP: &str = "2.6.1";

/// Column in which descriptions begin.
const COLUMN: usize = 25;

/// The usage and every option.
pub(super) fn usage(name: &str) -> String {
    let mut text = format!(
        "Usage: {name} [OPTION]... PID|PATH|FD [TAPNAME]\n\
         A network namespace's way to the network, without privilege.\n\n"
    );
    for option in OPTIONS.iter().filter(|option| !option.help.is_empty()) {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{:COLUMN$}{}", option.names, option.help);
    }
    text
}

/// The lines by which callers tell what there is.
pub(super) fn version(_: &str) -> String {
    let own = crate::VERSION;
    format!(
        "slirp4netns version {LIKE}+passt.{own}\n\
         commit: unknown\n\
         libslirp: {LIKE_LIBRARY}+passt.{own}\n\
         SLIRP_CONFIG_VERSION_MAX: {CONFIG_VERSION}\n\
         libseccomp: {LIKE_SECCOMP}+passt.{own}\n"
    )
}

/// What is said of the network at the start.
pub(super) struct Banner<'a> {
    pub(super) draft: &'a Draft,
    pub(super) v4: SubnetV4,
    pub(super) network: Ipv4Addr,
    pub(super) mtu: u16,
    pub(super) outbound: Addresses,
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { draft, v4, network, mtu, outbound } = self;
        let (first, count) = v4.leases;
        let last = Ipv4Addr::from_bits(first.to_bits() + u32::try_from(count).unwrap_or(1) - 1);
        let mask = Ipv4Addr::from_bits(u32::MAX << (32 - u32::from(v4.prefix_len)));
        writeln!(f, "Starting slirp")?;
        writeln!(f, "* MTU:             {mtu}")?;
        for (what, addr) in [
            ("Network:", *network),
            ("Netmask:", mask),
            ("Gateway:", v4.gateway),
            ("DNS:", v4.resolver),
            ("DHCP begin:", first),
            ("DHCP end:", last),
            ("Recommended IP:", v4.guest),
        ] {
            writeln!(f, "* {what:16} {addr}")?;
        }
        if let Some(path) = &draft.api_socket {
            writeln!(f, "* API Socket:      {}", path.display())?;
        }
        if let Some(addr) = outbound.v4 {
            writeln!(f, "* Outbound IPv4:    {addr}")?;
        }
        if let Some(addr) = outbound.v6 {
            writeln!(f, "* Outbound IPv6:    {addr}")?;
        }
        if let Some(mac) = &draft.mac {
            writeln!(f, "* MAC address:     {mac}")?;
        }
        if !draft.closed_host {
            writeln!(
                f,
                "WARNING: 127.0.0.1:* on the host is accessible as {} (set --disable-host-loopback to \
                 prohibit connecting to 127.0.0.1:*)",
                v4.gateway
            )?;
        }
        if draft.seccomp {
            writeln!(f, "seccomp: The following syscalls are blocked: all that are not needed")?;
        }
        Ok(())
    }
}
