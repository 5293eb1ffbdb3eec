//! Options for what guests are told by DHCP, DHCPv6 and router advertisements beyond their network.
//!
//! Options of DHCP and DHCPv6 by code come first: they replace what shorter options here, or the
//! network, would make of the same code. Left out: name servers, search domains, host names, MTU,
//! which have options of their own, though a code replaces them, too.

mod codes;
mod router;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use arrayvec::ArrayString;
use passt_proto::responder::Name;
use passt_proto::responder::custom::{Advertised, Boot, Custom, INFINITE, Lease, MAX_OPTIONS, Options};
use thiserror::Error;

use super::Error;
use super::draft::Draft;
use super::option::{Arg, Opt, value};
use super::values;
use codes::Protocol;
use value::Kind;

/// Why an option of DHCP or DHCPv6 was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum AnnounceError {
    /// Neither a number nor a known name.
    #[error("Unknown {protocol} option: {option}")]
    Unknown { protocol: &'static str, option: String },
    /// An option that is not the user's to set.
    #[error("{protocol} option {option} can't be set: {reason}")]
    Refused { protocol: &'static str, option: String, reason: &'static str },
    /// A value of another type.
    #[error("Invalid value of {protocol} option {option}: {value} is not {expected}")]
    Value { protocol: &'static str, option: String, value: String, expected: &'static str },
    /// More than is kept.
    #[error("{0} options are too long, together they can have {MAX_OPTIONS} bytes")]
    TooLong(&'static str),
}

/// Options of the command line.
pub(super) const OPTIONS: &[Opt] = &[
    value(
        "--dhcp-opt CODE=VALUE",
        "Send DHCP option CODE, a number or name, rather than what\nfollows from the network; may be repeated, empty for none",
        |d, arg| set_option(&mut d.announce.dhcp, Protocol::Dhcp, arg, "--dhcp-opt, not CODE=VALUE"),
    ),
    value("--dhcpv6-opt CODE=VALUE", "Send DHCPv6 option CODE, likewise", |d, arg| {
        set_option(&mut d.announce.dhcpv6, Protocol::Dhcpv6, arg, "--dhcpv6-opt, not CODE=VALUE")
    }),
    value(
        "--dhcp-lease TIME[,T1[,T2]]",
        "Seconds of an IPv4 lease, until renewal, until rebinding\ndefault: infinite; or a half and 7/8 of TIME",
        |d, arg| {
            let lease = |text: &str| lease(text, false);
            arg.parse("--dhcp-lease", lease).map(|lease| d.announce.custom.dhcp_lease = lease)
        },
    ),
    value(
        "--dhcpv6-lease VALID[,PREFERRED[,T1[,T2]]]",
        "Lifetimes of an IPv6 lease and those times, in seconds\ndefault: infinite; or VALID, and 1/2 and 4/5 of PREFERRED",
        |d, arg| {
            let lease = |text: &str| lease(text, true);
            arg.parse("--dhcpv6-lease", lease).map(|lease| d.announce.custom.dhcpv6_lease = lease)
        },
    ),
    value(
        "--dhcp-boot FILE[,SERVER[,NAME]]",
        "File to boot from by IPv4, address and name of its server\ndefault: the gateway's address, or ours",
        |d, arg| arg.parse("--dhcp-boot", BootFile::parse).map(|boot| d.announce.boot = Some(boot)),
    ),
    value("--domain NAME", "Domain name to assign by DHCP", |d, arg| {
        arg.parse("domain name", values::domain).map(|name| d.announce.domain = Some(name))
    }),
    value("--ntp ADDR", "Time server to announce by DHCP or DHCPv6, may be repeated", |d, arg| {
        arg.parse("time server", values::remote).map(|addr| d.announce.ntp.push(addr))
    }),
    value("--captive-portal URI", "URI of a captive portal's API to announce", |d, arg| {
        arg.parse("captive portal URI", uri).map(|uri| d.announce.portal = Some(uri))
    }),
    value(
        "--ra-lifetime SECONDS",
        "Time to use us as IPv6 router for, 0 for none\ndefault: 65535",
        |d, arg| arg.parse("--ra-lifetime", router::lifetime).map(|time| d.announce.ra().lifetime = time),
    ),
    value(
        "--ra-preference LEVEL",
        "Preference as IPv6 router: high, medium or low\ndefault: medium",
        |d, arg| {
            let level = arg.parse("--ra-preference", router::preference);
            level.map(|level| d.announce.ra().preference = level)
        },
    ),
    value(
        "--ra-dns-lifetime SECONDS",
        "Time to use announced name servers and domains for\ndefault: infinite",
        |d, arg| arg.parse("--ra-dns-lifetime", seconds).map(|time| d.announce.ra().dns_lifetime = time),
    ),
    value(
        "--ra-route PREFIX/LEN[,LEVEL[,SECONDS]]",
        "IPv6 route to announce, may be repeated\ndefault: medium,infinite",
        |d, arg| router::add_route(d.announce.ra(), arg.parse("--ra-route", router::route)?),
    ),
    value(
        "--ra-pref64 PREFIX/LEN[,SECONDS]",
        "Prefix of NAT64 to announce, may be repeated\ndefault: 1800",
        |d, arg| router::add_pref64(d.announce.ra(), arg.parse("--ra-pref64", router::pref64)?),
    ),
];

/// An option of DHCP or DHCPv6 that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedOption {
    /// Its number.
    pub code: u16,
    /// Its names with blanks between them, that of IANA's registry first.
    pub names: &'static str,
    /// What its value is.
    pub value: &'static str,
}

/// All options with names that `--dhcp-opt`, or `--dhcpv6-opt`, can set.
pub fn named_options(v6: bool) -> impl Iterator<Item = NamedOption> {
    let protocol = if v6 { Protocol::Dhcpv6 } else { Protocol::Dhcp };
    protocol.codes().iter().map(|code| NamedOption {
        code: code.number,
        names: code.names,
        value: code.kind.expected(),
    })
}

/// Options read so far.
#[derive(Debug, Default)]
pub(super) struct Announce {
    dhcp: BTreeMap<u16, Vec<u8>>,
    dhcpv6: BTreeMap<u16, Vec<u8>>,
    boot: Option<BootFile>,
    domain: Option<String>,
    ntp: Vec<IpAddr>,
    portal: Option<Name>,
    /// Leases and router advertisements, which nothing else replaces.
    custom: Custom,
}

impl Announce {
    fn ra(&mut self) -> &mut Advertised {
        &mut self.custom.ra
    }

    /// Whether anything concerns router advertisements alone.
    pub(super) fn has_ra(&self) -> bool {
        self.custom.ra != Advertised::default()
    }

    /// What all options together mean.
    pub(super) fn finish(mut self) -> Result<Custom, AnnounceError> {
        self.add_boot();
        if let Some(domain) = &self.domain {
            self.dhcp.entry(15).or_insert_with(|| domain.clone().into_bytes());
        }
        self.add_ntp();
        if let Some(uri) = self.portal {
            self.dhcp.entry(114).or_insert_with(|| uri.bytes().collect());
            self.dhcpv6.entry(103).or_insert_with(|| uri.bytes().collect());
            self.custom.ra.captive_portal = Some(uri);
        }
        self.custom.dhcp = gathered(&self.dhcp, Protocol::Dhcp)?;
        self.custom.dhcpv6 = gathered(&self.dhcpv6, Protocol::Dhcpv6)?;
        Ok(self.custom)
    }

    /// The file to boot: in fields of the message, and as options for those who look there.
    fn add_boot(&mut self) {
        let Some(BootFile { file, server, name }) = self.boot.take() else { return };
        let server_name = name.clone().or_else(|| server.map(|addr| addr.to_string()));
        self.custom.boot = Some(Boot {
            server,
            // What is too long for the field is in the option alone.
            name: name.and_then(|name| ArrayString::from(&name).ok()).unwrap_or_default(),
            file: ArrayString::from(&file).unwrap_or_default(),
        });
        if let Some(name) = server_name {
            self.dhcp.entry(66).or_insert_with(|| name.into_bytes());
        }
        self.dhcp.entry(67).or_insert_with(|| file.into_bytes());
    }

    /// Time servers: in IPv6 for clients of NTP and for those of SNTP (RFC 5908, RFC 4075).
    fn add_ntp(&mut self) {
        let options =
            [(&mut self.dhcp, 42, Kind::Addresses, false), (&mut self.dhcpv6, 56, Kind::Ntp6, true)];
        for (options, code, kind, v6) in options {
            let servers = self.ntp.iter().filter(|addr| addr.is_ipv6() == v6);
            let servers = servers.map(ToString::to_string).collect::<Vec<_>>().join(",");
            if let Some(body) = kind.encode(&servers) {
                options.entry(code).or_insert(body);
            }
            if let Some(body) = Kind::Addresses6.encode(&servers).filter(|_| v6) {
                options.entry(31).or_insert(body);
            }
        }
    }
}

/// The options of a protocol, unless they are too long.
fn gathered(all: &BTreeMap<u16, Vec<u8>>, protocol: Protocol) -> Result<Options, AnnounceError> {
    let mut options = Options::default();
    for (code, body) in all {
        options.push(*code, body).ok_or(AnnounceError::TooLong(protocol.name()))?;
    }
    Ok(options)
}

/// Takes `CODE=VALUE`; nothing after `=` is an empty body.
fn set_option(
    to: &mut BTreeMap<u16, Vec<u8>>,
    protocol: Protocol,
    arg: &Arg<'_>,
    what: &'static str,
) -> Result<(), Error> {
    let text = arg.value.to_str().ok_or_else(|| arg.invalid(what))?;
    let (option, value) = text.split_once('=').ok_or_else(|| arg.invalid(what))?;
    let code = protocol.find(option)?;
    let body = if value.is_empty() { Some(Vec::new()) } else { code.kind.encode(value) };
    let body = body.ok_or_else(|| AnnounceError::Value {
        protocol: protocol.name(),
        option: code.shown(),
        value: value.to_owned(),
        expected: code.kind.expected(),
    })?;
    to.insert(code.number, body);
    Ok(())
}

/// `FILE[,SERVER[,NAME]]`.
#[derive(Debug)]
struct BootFile {
    file: String,
    server: Option<Ipv4Addr>,
    name: Option<String>,
}

impl BootFile {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ',');
        let file = parts.next().filter(|file| (1..=255).contains(&file.len()))?.to_owned();
        let server = match parts.next().filter(|server| !server.is_empty()) {
            Some(server) => match values::remote(server)? {
                IpAddr::V4(addr) => Some(addr),
                IpAddr::V6(_) => return None,
            },
            None => None,
        };
        let name = match parts.next() {
            Some(name) => Some(values::domain(name)?),
            None => None,
        };
        Some(Self { file, server, name })
    }
}

/// Seconds, or `infinite`.
fn seconds(text: &str) -> Option<u32> {
    if text == "infinite" {
        return Some(INFINITE);
    }
    u32::try_from(value::decimal(text)?).ok()
}

/// Times of a lease, with commas: how long it is valid, for IPv6 also preferred, T1, T2. Each is at
/// most the one before, but T1 at most T2.
fn lease(text: &str, v6: bool) -> Option<Lease> {
    let times: Option<Vec<u32>> = text.split(',').map(seconds).collect();
    let times = times?;
    let (&valid, rest) = times.split_first()?;
    let (preferred, rest) = match rest.split_first() {
        Some((&preferred, rest)) if v6 => (preferred, rest),
        _ => (valid, rest),
    };
    let part = |numerator: u32, denominator: u32| match preferred {
        INFINITE => INFINITE,
        time => time / denominator * numerator + time % denominator * numerator / denominator,
    };
    // RFC 2131, section 4.4.5; RFC 8415, section 21.4.
    let last = if v6 { part(4, 5) } else { part(7, 8) };
    let (renewal, rebinding) = match *rest {
        [] => (part(1, 2), last),
        [renewal] => (renewal, last.max(renewal)),
        [renewal, rebinding] => (renewal, rebinding),
        _ => return None,
    };
    let ordered = 0 < renewal && renewal <= rebinding && rebinding <= preferred && preferred <= valid;
    ordered.then_some(Lease { valid, preferred, renewal, rebinding })
}

/// A URI as options can hold it.
fn uri(text: &str) -> Option<Name> {
    let (scheme, rest) = text.split_once(':')?;
    let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && !rest.is_empty()
        && text.bytes().all(|b| b.is_ascii_graphic());
    Name::from(text).ok().filter(|_| valid)
}

/// Keeps the draft's own part of this in one place.
impl Draft {
    /// Adds what guests are told to the configuration.
    pub(super) fn finish_announce(&mut self) -> Result<(), Error> {
        if self.announce.has_ra() && !(self.config.services.ra && self.config.services.ndp) {
            self.warn("Router advertisements are off: options of theirs have no effect");
        }
        self.config.custom = std::mem::take(&mut self.announce).finish()?;
        Ok(())
    }
}
