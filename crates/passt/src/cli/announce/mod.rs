//! Options for what guests are told by DHCP, DHCPv6 and router advertisements beyond their network.
//!
//! Options of DHCP and DHCPv6 by code come first: they replace what shorter options here, or the
//! network, would make of the same code. Left out: name servers, search domains, host names, MTU,
//! which have options of their own, though a code replaces them, too.

mod codes;
pub(super) mod router;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr};

use arrayvec::ArrayString;
use passt_proto::responder::Name;
use passt_proto::responder::custom::{Boot, Custom, INFINITE, Lease, MAX_OPTIONS, Options};
use thiserror::Error;

use super::values;
use codes::Protocol;
use value::Kind;

/// Why an option of DHCP or DHCPv6 was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum AnnounceError {
    /// Neither a number nor a known name.
    #[error("Unknown {protocol} option: {option}; {advice}")]
    Unknown { protocol: &'static str, option: String, advice: String },
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
    pub(super) boot: Option<BootFile>,
    pub(super) domain: Option<String>,
    pub(super) ntp: Vec<IpAddr>,
    pub(super) portal: Option<Name>,
    /// Leases and router advertisements, which nothing else replaces.
    pub(super) custom: Custom,
}

impl Announce {
    /// Sets an option of DHCP, by number or name, from text.
    pub(super) fn set_dhcp(&mut self, option: &str, value: &OsStr) -> Result<(), AnnounceError> {
        set_option(&mut self.dhcp, Protocol::Dhcp, option, value)
    }

    /// Sets an option of DHCPv6 likewise.
    pub(super) fn set_dhcpv6(&mut self, option: &str, value: &OsStr) -> Result<(), AnnounceError> {
        set_option(&mut self.dhcpv6, Protocol::Dhcpv6, option, value)
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
            if let Ok(body) = kind.encode(&servers) {
                options.entry(code).or_insert(body);
            }
            if let Ok(body) = Kind::Addresses6.encode(&servers)
                && v6
            {
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

/// Adds `CODE=VALUE`; nothing after `=` is an empty body.
fn set_option(
    to: &mut BTreeMap<u16, Vec<u8>>,
    protocol: Protocol,
    option: &str,
    value: &OsStr,
) -> Result<(), AnnounceError> {
    let code = protocol.find(option)?;
    let body = match value.to_str() {
        Some("") => Ok(Vec::new()),
        Some(text) => code.kind.encode(text),
        None => Err("UTF-8, hex: takes any bytes"),
    };
    let body = body.map_err(|expected| AnnounceError::Value {
        protocol: protocol.name(),
        option: code.shown(),
        value: value.to_string_lossy().into_owned(),
        expected,
    })?;
    to.insert(code.number, body);
    Ok(())
}

/// `FILE[,SERVER[,NAME]]`.
#[derive(Debug)]
pub(super) struct BootFile {
    file: String,
    server: Option<Ipv4Addr>,
    name: Option<String>,
}

impl BootFile {
    /// From its text.
    pub(super) fn parse(text: &str) -> Option<Self> {
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
pub(super) fn seconds(text: &str) -> Option<u32> {
    if text == "infinite" {
        return Some(INFINITE);
    }
    u32::try_from(value::decimal(text)?).ok()
}

/// Times of a lease, with commas: how long it is valid, for IPv6 also preferred, T1, T2. Each is at
/// most the one before, but T1 at most T2.
pub(super) fn lease(text: &str, v6: bool) -> Option<Lease> {
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
pub(super) fn uri(text: &str) -> Option<Name> {
    let (scheme, rest) = text.split_once(':')?;
    let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && !rest.is_empty()
        && text.bytes().all(|b| b.is_ascii_graphic());
    Name::from(text).ok().filter(|_| valid)
}
