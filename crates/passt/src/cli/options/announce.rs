//! Options for what guests are told by DHCP, DHCPv6 and router advertisements beyond their network.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::super::Error;
use super::super::announce::{BootFile, lease, router, seconds, uri};
use super::super::option::{Arg, Family, Needs, Opt, value};
use super::super::values;

/// Options of the command line.
pub(super) const ANNOUNCE: &[Opt] = &[
    value(
        "--dhcp-opt CODE=VALUE",
        "Send DHCP option CODE, a number or name, rather than what\nfollows from the network; may be repeated, empty for none",
        |d, arg| {
            let (code, value) = code_and_value(arg, "--dhcp-opt, not CODE=VALUE")?;
            Ok(d.announce.set_dhcp(&code, value)?)
        },
    ).of(Family::V4).needing(Needs::Lease),
    value("--dhcpv6-opt CODE=VALUE", "Send DHCPv6 option CODE, likewise", |d, arg| {
        let (code, value) = code_and_value(arg, "--dhcpv6-opt, not CODE=VALUE")?;
        Ok(d.announce.set_dhcpv6(&code, value)?)
    }).of(Family::V6).needing(Needs::Lease),
    value(
        "--dhcp-lease TIME[,T1[,T2]]",
        "Seconds of an IPv4 lease, until renewal, until rebinding\ndefault: infinite; or a half and 7/8 of TIME",
        |d, arg| {
            let lease = |text: &str| lease(text, false);
            arg.parse("--dhcp-lease", lease).map(|lease| d.announce.custom.dhcp_lease = lease)
        },
    ).of(Family::V4).needing(Needs::Lease),
    value(
        "--dhcpv6-lease VALID[,PREFERRED[,T1[,T2]]]",
        "Lifetimes of an IPv6 lease and those times, in seconds\ndefault: infinite; or VALID, and 1/2 and 4/5 of PREFERRED",
        |d, arg| {
            let lease = |text: &str| lease(text, true);
            arg.parse("--dhcpv6-lease", lease).map(|lease| d.announce.custom.dhcpv6_lease = lease)
        },
    ).of(Family::V6).needing(Needs::Lease),
    value(
        "--dhcp-boot FILE[,SERVER[,NAME]]",
        "File to boot from by IPv4, address and name of its server\ndefault: our own address",
        |d, arg| arg.parse("--dhcp-boot", BootFile::parse).map(|boot| d.announce.boot = Some(boot)),
    ).of(Family::V4).needing(Needs::Lease),
    value("--domain NAME", "Domain name to assign by DHCP", |d, arg| {
        arg.parse("domain name", values::domain).map(|name| d.announce.domain = Some(name))
    }).of(Family::V4).needing(Needs::Lease),
    value("--ntp ADDR", "Time server to announce by DHCP or DHCPv6, may be repeated", |d, arg| {
        arg.parse("time server", values::remote).map(|addr| d.announce.ntp.push(addr))
    }).of(Family::OfAddress).needing(Needs::Lease),
    value("--captive-portal URI", "URI of a captive portal's API to announce", |d, arg| {
        arg.parse("captive portal URI", uri).map(|uri| d.announce.portal = Some(uri))
    }).needing(Needs::Announcement),
    value(
        "--ra-lifetime SECONDS",
        "Time to use us as IPv6 router for, 0 for none\ndefault: 65535",
        |d, arg| {
            arg.parse("--ra-lifetime", router::lifetime).map(|time| d.announce.custom.ra.lifetime = time)
        },
    ).of(Family::V6).needing(Needs::Advertisement),
    value(
        "--ra-preference LEVEL",
        "Preference as IPv6 router: high, medium or low\ndefault: medium",
        |d, arg| {
            let level = arg.parse("--ra-preference", router::preference);
            level.map(|level| d.announce.custom.ra.preference = level)
        },
    ).of(Family::V6).needing(Needs::Advertisement),
    value(
        "--ra-dns-lifetime SECONDS",
        "Time to use announced name servers and domains for\ndefault: infinite",
        |d, arg| arg.parse("--ra-dns-lifetime", seconds).map(|time| d.announce.custom.ra.dns_lifetime = time),
    ).of(Family::V6).needing(Needs::Advertisement),
    value(
        "--ra-route PREFIX/LEN[,LEVEL[,SECONDS]]",
        "IPv6 route to announce, may be repeated\ndefault: medium,infinite",
        |d, arg| router::add_route(&mut d.announce.custom.ra, arg.parse("--ra-route", router::route)?),
    ).of(Family::V6).needing(Needs::Advertisement),
    value(
        "--ra-pref64 PREFIX/LEN[,SECONDS]",
        "Prefix of NAT64 to announce, may be repeated\ndefault: 1800",
        |d, arg| router::add_pref64(&mut d.announce.custom.ra, arg.parse("--ra-pref64", router::pref64)?),
    ).of(Family::V6).needing(Needs::Advertisement),
];

/// `CODE=VALUE`, of which the value may be any bytes for now; a code that is no text is none.
fn code_and_value<'a>(arg: &Arg<'a>, what: &'static str) -> Result<(Cow<'a, str>, &'a OsStr), Error> {
    let bytes = arg.value.as_bytes();
    let at = bytes.iter().position(|&b| b == b'=').ok_or_else(|| arg.invalid(what))?;
    let (code, value) = (bytes.get(..at), bytes.get(at + 1..));
    Ok((String::from_utf8_lossy(code.unwrap_or_default()), OsStr::from_bytes(value.unwrap_or_default())))
}
