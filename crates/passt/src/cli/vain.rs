//! Options without effect, as another one switches off what they are for: each is told, once.
//!
//! For what an option is, the table of options has; what is on is known when all of them are read.
//! Left out: what has no effect on this host, which is found when the host is looked at.

use std::ffi::OsStr;

use super::config::{Config, Splice};
use super::draft::Draft;
use super::getopt::Spec as _;
use super::option::{Family, Needs, Opt};

/// Options that were given and may be in vain, each with the family that it is for, if one.
#[derive(Default)]
pub(super) struct Given(Vec<(&'static Opt, Option<bool>)>);

impl Given {
    /// Notes an option with its argument; `none` takes back what it was given before.
    pub(super) fn note(&mut self, option: &'static Opt, value: &OsStr) {
        if value == "none" {
            self.0.retain(|(other, _)| other.long() != option.long());
        } else {
            self.0.push((option, option.family.is_v4(value)));
        }
    }
}

impl Draft {
    /// Warns of options that were given in vain.
    pub(super) fn warn_of_vain_options(&mut self) {
        let mut told: Vec<&str> = Vec::new();
        for (option, v4) in std::mem::take(&mut self.given).0 {
            let Some(line) = in_vain(&self.config, option, v4) else { continue };
            if !told.contains(&option.long()) {
                told.push(option.long());
                self.warn(line);
            }
        }
    }
}

/// Why an option, given for IPv4 or for IPv6 or for both, has no effect.
fn in_vain(config: &Config, option: &Opt, v4: Option<bool>) -> Option<String> {
    let families = config.families;
    let name = option.long();
    let family = match v4 {
        Some(true) if !families.v4() => Some("IPv4"),
        Some(false) if !families.v6() => Some("IPv6"),
        _ => None,
    };
    if let Some(family) = family {
        let which = if option.family == Family::OfAddress { " of that family" } else { "" };
        return Some(format!("{family} is off: --{name}{which} has no effect"));
    }
    let on = config.services;
    let (dhcp, dhcpv6) = (on.dhcp && families.v4(), on.dhcpv6 && families.v6());
    let pasta = config.pasta();
    let is_unused = pasta.is_some_and(|pasta| pasta.splice == Splice::Only);
    let is_apart = config.host.apart;
    let configures = pasta.is_some_and(|pasta| pasta.config_net) && !is_apart;
    let (is_on, what) = match (option.needs, v4) {
        (Needs::Link | Needs::Resolver, _) if is_unused => {
            return Some(format!("--splice-only leaves the interface unused: --{name} has no effect"));
        }
        (Needs::Nothing | Needs::Link, _) => return None,
        (Needs::Tcp, _) => (on.tcp, "TCP is"),
        (Needs::Udp, _) => (on.udp, "UDP is"),
        (Needs::Resolver, _) => {
            return match (on.tcp, on.udp) {
                (_, true) => None,
                (true, false) => Some(format!(
                    "UDP is off: what --{name} leads to is asked by TCP alone, as by 'options use-vc' of resolv.conf"
                )),
                (false, false) => {
                    Some(format!("TCP and UDP are off: nothing answers where --{name} leads to"))
                }
            };
        }
        (Needs::Lease, Some(true)) => (dhcp, "DHCP is"),
        (Needs::Lease, Some(false)) if is_apart => (dhcpv6, "With --subnet DHCPv6 is"),
        (Needs::Lease, None) if families.v4() && families.v6() => (dhcp || dhcpv6, "DHCP and DHCPv6 are"),
        (Needs::Lease, None) if families.v4() => (dhcp, "DHCP is"),
        (Needs::Lease, _) => (dhcpv6, "DHCPv6 is"),
        (Needs::Advertisement, _) if configures => {
            (on.advertises(), "With --config-net router advertisements are")
        }
        (Needs::Advertisement, _) => (on.advertises(), "Router advertisements are"),
        (Needs::Announcement, _) => {
            let advertises = on.advertises() && families.v6();
            (dhcp || dhcpv6 || advertises, "DHCP, DHCPv6 and router advertisements are")
        }
    };
    (!is_on).then(|| format!("{what} off: --{name} has no effect"))
}
