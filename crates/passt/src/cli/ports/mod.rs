//! The grammar of forwarded ports: what `-t`, `-u`, `-T` and `-U` take.
//!
//! ```text
//! SPEC := "none" | [ADDR|"*"]["%"IF]"/"LIST | LIST
//! LIST := ITEM{","ITEM}
//! ITEM := "all"[":"TADDR] | "auto" | "~"A["-"B]
//!       | A["-"B][":"[TADDR"/"]C["-"D]] | A["-"B]":"TADDR
//! ADDR, TADDR := v4 | v6 | "["v6"]" | "["v4"]"
//! ```
//!
//! Parsing does no I/O. What `all` covers depends on the host's range of ephemeral ports, so a
//! specifier is kept as it was written and becomes [`Rule`]s by [`Ports::rules`], once that range
//! is known. Whether an address is the host's, or a port is free, is for those who bind it.

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;

use passt_engine::flow::{Protocol, Side};
use passt_engine::forward::Entry;
use passt_engine::forward::by_port::ByPort;
use passt_engine::forward::rule::{Families, Listen, PortRange, Rule, is_group, is_host};

use super::{advice, values};

/// Why port options were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The specifier doesn't follow the grammar.
    #[error("Invalid port specifier {0}{how}", how = advice::ports(.0, *.1))]
    Invalid(String, PortContext),
    /// The addresses in it don't go together, or with the families that are on.
    #[error("Invalid port specifier {spec}: {reason}")]
    Addresses {
        /// The specifier.
        spec: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// `none` behind specifiers.
    #[error("{option} {spec} conflicts with previous options")]
    Exclusive {
        /// The option's short form.
        option: &'static str,
        /// Its argument.
        spec: String,
    },
    /// `auto` in a mode that can't watch its other side.
    #[error("{0} auto is for pasta mode only")]
    AutoInPasst(&'static str),
    /// A listening address where it's always loopback.
    #[error("Listening address not allowed for {option}: {spec}; it is that of the namespace's loopback")]
    AddressOutbound {
        /// The option's short form.
        option: &'static str,
        /// Its argument.
        spec: String,
    },
    /// Two rules for the same port.
    #[error("Forwarding configuration conflict: {} versus {}; {}", .rules[0], .rules[1], culprits(.options))]
    Overlap {
        /// What each forwards.
        rules: [String; 2],
        /// The option of each, as it was given.
        options: [String; 2],
    },
}

/// Which options name the same port.
fn culprits([one, other]: &[String; 2]) -> String {
    if one == other {
        format!("{one} names a port twice")
    } else {
        format!("{one} and {other} name the same port")
    }
}

/// What one of the four options amounts to, all its occurrences taken together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Nothing is forwarded.
    None,
    /// These are; never empty.
    Specs(Vec<PortSpec>),
}

/// Where specifiers are found, for what depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortContext {
    /// The option's short form, for messages.
    pub option: &'static str,
    /// From the namespace to the host: `-T` and `-U`.
    pub outbound: bool,
    /// `auto` is possible, and the default.
    pub pasta: bool,
    /// The protocols in use.
    pub families: Families,
}

impl Ports {
    /// Parses the arguments of all occurrences of one option, in their order.
    pub fn parse(specs: &[OsString], context: PortContext) -> Result<Self, PortError> {
        if specs.is_empty() {
            return Ok(if context.pasta {
                Self::Specs(vec![PortSpec::auto(context.option)])
            } else {
                Self::None
            });
        }
        // What follows `none` counts: a file may say it, and the command line more.
        let is_none = |spec: &&OsString| *spec == "none";
        if specs.iter().skip_while(is_none).any(|spec| spec == "none") {
            return Err(PortError::Exclusive { option: context.option, spec: "none".into() });
        }
        if specs.iter().all(|spec| spec == "none") {
            return Ok(Self::None);
        }
        let ports = specs
            .iter()
            .skip_while(is_none)
            .map(|spec| PortSpec::parse(spec, context))
            .collect::<Result<_, _>>()
            .map(Self::Specs)?;
        // With every port ephemeral `all` is nothing, and what is left was written explicitly:
        // conflicts among these exist on any host.
        ports.rules(PortRange::ALL)?;
        Ok(ports)
    }

    /// Options with a target that is a loopback address, and that.
    pub(super) fn loopback_targets(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        let specs = match self {
            Self::None => &[][..],
            Self::Specs(specs) => specs,
        };
        specs.iter().filter_map(|spec| {
            let target = spec.items.iter().filter_map(Item::target).find(IpAddr::is_loopback)?;
            Some((spec.given.as_str(), target))
        })
    }

    /// The rules on a host with this range of ephemeral ports, free of overlaps.
    pub fn rules(&self, ephemeral: PortRange) -> Result<Vec<Rule>, PortError> {
        let specs = match self {
            Self::None => &[][..],
            Self::Specs(specs) => specs,
        };
        let mut rules: Vec<(Rule, &PortSpec)> = Vec::new();
        for spec in specs {
            rules.extend(spec.rules(ephemeral).map(|rule| (rule, spec)));
        }
        let mut earlier = ByPort::default();
        let at = |number: u32| rules.get(usize::try_from(number).ok()?);
        for (number, found @ (rule, _)) in (0..).zip(&rules) {
            let addr = rule.listen.addr;
            let overlaps = |&other: &u32| at(other).is_some_and(|(other, _)| other.overlaps(rule));
            let other = earlier.meeting(rule.ports, addr).filter(overlaps).min();
            if let Some(other) = other.and_then(at) {
                return Err(PortError::Overlap {
                    rules: [other, found].map(|(rule, spec)| spec.name(rule)),
                    options: [other, found].map(|(_, spec)| spec.given.clone()),
                });
            }
            earlier.insert(rule.ports, addr, number);
        }
        Ok(rules.into_iter().map(|(rule, _)| rule).collect())
    }
}

/// One specifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// Where to listen.
    pub listen: Listen,
    /// What to forward; never empty.
    pub items: Vec<Item>,
    /// Bind a port only while something listens to its target.
    pub auto: bool,
    /// Ports left out.
    pub exclude: Vec<PortRange>,
    /// The option as it was given, for messages.
    pub given: String,
}

impl PortSpec {
    /// `auto` alone, as if it were given by an option: pasta's default.
    pub fn auto(option: &str) -> Self {
        Self {
            listen: Listen::default(),
            items: vec![Item::All { target: None }],
            auto: true,
            exclude: Vec::new(),
            given: format!("{option} auto"),
        }
    }

    /// Parses one argument other than `none`.
    pub fn parse(spec: &OsStr, context: PortContext) -> Result<Self, PortError> {
        let shown = || spec.to_string_lossy().into_owned();
        let text = spec.to_str().ok_or_else(|| PortError::Invalid(shown(), context))?;
        let (listen, list) = match split_listen(text) {
            Some(_) if context.outbound => {
                return Err(PortError::AddressOutbound { option: context.option, spec: shown() });
            }
            Some(split) => split,
            None => (Listen::default(), text),
        };
        let parsed = Self::parse_list(listen, list);
        let mut parsed = parsed.ok_or_else(|| PortError::Invalid(shown(), context))?;
        parsed.given = format!("{} {text}", context.option);
        if parsed.auto && !context.pasta {
            return Err(PortError::AutoInPasst(context.option));
        }
        let misfit = parsed.misfit(context);
        if misfit.is_some() && is_global(text) {
            let reason = format!("an address needs ports behind it, as in [{text}]/8080");
            return Err(PortError::Addresses { spec: shown(), reason });
        }
        match misfit {
            Some(reason) => Err(PortError::Addresses { spec: shown(), reason }),
            None => Ok(parsed),
        }
    }

    fn parse_list(listen: Listen, list: &str) -> Option<Self> {
        let mut spec =
            Self { listen, items: Vec::new(), auto: false, exclude: Vec::new(), given: String::new() };
        for item in list.split(',') {
            if item == "auto" {
                spec.auto = true;
            } else if let Some(left_out) = item.strip_prefix('~') {
                spec.exclude.push(range(left_out)?);
            } else {
                spec.items.push(Item::parse(item)?);
            }
        }
        if spec.items.is_empty() {
            spec.items.push(Item::All { target: None });
        }
        Some(spec)
    }

    /// Why its addresses can't be had, and what can.
    fn misfit(&self, context: PortContext) -> Option<String> {
        match self.listen.addr {
            Some(addr) if !context.families.has(addr) => Some(is_off(addr)),
            Some(IpAddr::V6(addr)) if addr.is_unicast_link_local() && self.listen.interface.is_none() => {
                Some(format!("{addr} needs an interface, as in {addr}%eth0/"))
            }
            Some(addr) if is_group(addr) && matches!(context.option, "-t" | "-T") => {
                Some(format!("{addr} is of a group or for all hosts, and TCP is between two"))
            }
            _ => self.items.iter().filter_map(Item::target).find_map(|to| self.misfit_of(to, context)),
        }
    }

    /// The same of a target: it needs a listening socket of its own family alone, and a host behind
    /// it.
    fn misfit_of(&self, target: IpAddr, context: PortContext) -> Option<String> {
        if !is_host(target) {
            return Some(format!("{target} is not the address of a host"));
        }
        if !context.families.has(target) {
            return Some(is_off(target));
        }
        let (family, any, option) =
            if target.is_ipv4() { ("IPv4", "0.0.0.0", "-4") } else { ("IPv6", "[::]", "-6") };
        match self.listen.addr {
            Some(addr) if addr.is_ipv4() == target.is_ipv4() => None,
            Some(addr) => Some(format!("{addr} can't forward to {target}, of the other family")),
            None if context.families != Families::Both => None,
            None if context.outbound => {
                Some(format!("{target} needs {option}, or clients of the other family could not be served"))
            }
            None => Some(format!("{target} needs a listening address of {family}, such as {any}/")),
        }
    }

    /// One of its rules as other messages have it.
    fn name(&self, rule: &Rule) -> String {
        let option = self.given.as_bytes().get(1);
        let side = if matches!(option, Some(b't' | b'u')) { Side::Host } else { Side::Namespace };
        let protocol = if matches!(option, Some(b't' | b'T')) { Protocol::Tcp } else { Protocol::Udp };
        Entry { side, protocol, rule: rule.clone() }.name(rule.ports)
    }

    fn rules(&self, ephemeral: PortRange) -> impl Iterator<Item = Rule> {
        self.items.iter().flat_map(move |item| {
            let (ports, to, weak) = match *item {
                Item::All { .. } => (PortRange::ALL, PortRange::ALL.first(), true),
                Item::Range { ports, to, .. } => (ports, to, false),
            };
            let ephemeral = weak.then_some(ephemeral);
            let cuts = self.exclude.iter().copied().chain(ephemeral);
            ports.without(cuts).into_iter().map(move |left| Rule {
                listen: self.listen.clone(),
                ports: left,
                to: to + (left.first() - ports.first()),
                target: item.target(),
                weak: weak || self.auto,
                scan: self.auto,
            })
        })
    }
}

/// Whether this is a global address of IPv6 (RFC 4291, section 2.4), which may be read as a port and a
/// target, too.
fn is_global(text: &str) -> bool {
    matches!(values::addr(text), Some(IpAddr::V6(addr)) if addr.segments()[0] >> 13 == 1)
}

/// Says that the family of an address is switched off.
fn is_off(addr: IpAddr) -> String {
    let (family, option) = if addr.is_ipv4() { ("IPv4", "--ipv6-only") } else { ("IPv6", "--ipv4-only") };
    format!("{addr} is of {family}, which {option} switches off")
}

/// Splits `[ADDR|"*"]["%"IF]"/"` from a specifier; `None` if it doesn't begin so. A target's
/// address may be followed by a slash as well, but what precedes that isn't an address.
fn split_listen(text: &str) -> Option<(Listen, &str)> {
    let (head, list) = text.split_once('/')?;
    let (addr, interface) = match head.split_once('%') {
        Some((addr, name)) => (addr, Some(values::interface(name)?)),
        None => (head, None),
    };
    let addr = match addr {
        "" | "*" => None,
        addr => Some(bracketed(addr)?),
    };
    Some((Listen { addr, interface }, list))
}

/// One port or several, as `first-last`.
fn range(text: &str) -> Option<PortRange> {
    // As `strtoul(3)` reads numbers, which scripts rely on.
    let port = |text: &str| {
        let text = text.trim_ascii_start();
        values::digits(text.strip_prefix('+').unwrap_or(text))?.parse().ok()
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    PortRange::new(first, last)
}

/// An address, in brackets or not.
pub(super) fn bracketed(text: &str) -> Option<IpAddr> {
    let inner = match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None => text,
    };
    values::addr(inner)
}

/// Ports that are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// Every port that isn't ephemeral, as far as it can be bound.
    All {
        /// Address to connect to instead of the default one.
        target: Option<IpAddr>,
    },
    /// These ports, without fail.
    Range {
        /// Ports to listen on.
        ports: PortRange,
        /// The target's port for the first of them.
        to: u16,
        /// Address to connect to instead of the default one.
        target: Option<IpAddr>,
    },
}

impl Item {
    fn parse(text: &str) -> Option<Self> {
        let (head, tail) = match text.split_once(':') {
            Some((head, tail)) => (head, Some(tail)),
            None => (text, None),
        };
        if head == "all" {
            let target = tail.map(|t| bracketed(t).ok_or(())).transpose().ok()?;
            return Some(Self::All { target });
        }
        let ports = range(head)?;
        let (target, to) = match tail {
            None => (None, ports),
            Some(tail) => match tail.rsplit_once('/') {
                Some((addr, to)) => (Some(bracketed(addr)?), range(to)?),
                None => match range(tail) {
                    Some(to) => (None, to),
                    None => (Some(bracketed(tail)?), ports),
                },
            },
        };
        (ports.span() == to.span()).then_some(Self::Range { ports, to: to.first(), target })
    }

    fn target(&self) -> Option<IpAddr> {
        match *self {
            Self::All { target } | Self::Range { target, .. } => target,
        }
    }
}

#[cfg(test)]
mod tests;
