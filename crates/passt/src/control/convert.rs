//! The engine's values as the protocols put them, and back.

use std::net::IpAddr;

use passt_control::reply::{self, Refused};
use passt_control::request::Which;
use passt_control::v2::{Caps, Table};
use passt_control::{self as said, Rule, Side};
use passt_engine::control::Control;
use passt_engine::dispatch::Description;
use passt_engine::flow::{self, Handle, Protocol, Via};
use passt_engine::forward::rule::{Families, Listen, PortRange};
use passt_engine::forward::{self, Entry, Extent, Refusal};
use passt_engine::link::Link;
use passt_proto::addr::Endpoint;
use passt_proto::time::Duration;

use super::transactions;
use crate::cli::{self, Config, GuestSocket, Mode, PasstOptions};

/// What rules can be had with this configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    families: Families,
    tcp: bool,
    udp: bool,
    /// There is a namespace, where rules can listen, and whose services they can follow.
    namespace: bool,
    /// Nothing leads to the host's loopback, and the guest does not choose the host's ports.
    closed: bool,
    /// How the guest is connected.
    pub(super) link: &'static str,
}

impl Terms {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            families: config.families,
            tcp: config.services.tcp,
            udp: config.services.udp,
            namespace: config.pasta().is_some(),
            closed: config.host.closed,
            link: match &config.mode {
                Mode::Pasta(_) | Mode::Passt(PasstOptions { socket: GuestSocket::Tap(_), .. }) => "tap",
                Mode::Passt(passt) if passt.vhost_user => "vhost-user",
                Mode::Passt(_) => "stream",
            },
        }
    }

    pub(super) fn has_namespace(&self) -> bool {
        self.namespace
    }

    /// All rules as the C program's protocol tells them.
    pub(super) fn tables<L: Link>(&self, control: &Control<'_, L>) -> Vec<Table> {
        let flags = [
            (self.families.v4(), Caps::V4),
            (self.families.v6(), Caps::V6),
            (self.tcp, Caps::TCP),
            (self.udp, Caps::UDP),
            (self.namespace, Caps::SCAN),
            (true, Caps::INTERFACE | Caps::MESSAGES),
        ];
        let on = flags.into_iter().filter(|(on, _)| *on).map(|(_, flag)| flag);
        let caps = on.fold(Caps::empty(), |all, flag| all | flag);
        let sides = [(Side::Host, true), (Side::Namespace, self.namespace)];
        let table = |(side, _): (Side, bool)| {
            let on_side = || control.rules().filter(move |(entry, _)| side_of(entry.side) == side);
            let is_short = on_side().take(said::v2::MAX_RULES + 1).count() <= said::v2::MAX_RULES;
            let rules = is_short.then(|| on_side().map(|(entry, _)| rule(entry)).collect());
            Table { side, name: side.pif_name().into(), caps, rules }
        };
        sides.into_iter().filter(|(_, there)| *there).map(table).collect()
    }

    /// A rule for the engine; else why it can't be one.
    pub(super) fn entry(&self, rule: &Rule) -> Result<Entry, &'static str> {
        let converted = engine_rule(rule).ok_or("ports out of range")?;
        if rule.side == Side::Namespace && !self.namespace {
            return Err("there is no namespace");
        }
        // Who is isolated may have a way to the socket.
        if self.closed && (rule.side == Side::Namespace || rule.auto) {
            return Err("--isolate-host excludes ports of the namespace, and automatic ones");
        }
        let (protocol, on) = match rule.protocol {
            said::Protocol::Tcp => (Protocol::Tcp, self.tcp),
            said::Protocol::Udp => (Protocol::Udp, self.udp),
        };
        if !on {
            return Err("a protocol that is off");
        }
        if rule.interface.as_deref().is_some_and(|name| cli::interface(name).is_none()) {
            return Err("not a name that an interface can have");
        }
        if let (Some(IpAddr::V6(addr)), None) = (rule.address, &rule.interface)
            && addr.is_unicast_link_local()
        {
            return Err("a link-local address needs an interface");
        }
        // Where one family is on, any address of it is any address.
        let is_any = |addr: &IpAddr| addr.is_unspecified() && self.families != Families::Both;
        let addr = rule.address.filter(|addr| !(is_any(addr) && self.families.has(*addr)));
        Ok(Entry {
            side: match rule.side {
                Side::Host => flow::Side::Host,
                Side::Namespace => flow::Side::Namespace,
            },
            protocol,
            rule: forward::rule::Rule { listen: Listen { addr, ..converted.listen }, ..converted },
        })
    }
}

/// A rule without side and protocol as the engine has it; `None` if its ports are none.
pub fn engine_rule(rule: &Rule) -> Option<forward::rule::Rule> {
    Some(forward::rule::Rule {
        listen: Listen { addr: rule.address, interface: rule.interface.clone() },
        ports: PortRange::new(rule.first, rule.last())?,
        to: rule.to(),
        target: rule.target,
        // What follows services can't insist on its ports.
        weak: rule.weak || rule.auto,
        scan: rule.auto,
    })
}

fn side_of(side: flow::Side) -> Side {
    match side {
        flow::Side::Host => Side::Host,
        flow::Side::Namespace => Side::Namespace,
    }
}

/// A rule of the engine's.
pub fn rule(entry: &Entry) -> Rule {
    let Entry { side, protocol, rule } = entry;
    Rule {
        side: side_of(*side),
        protocol: if *protocol == Protocol::Udp { said::Protocol::Udp } else { said::Protocol::Tcp },
        address: rule.listen.addr,
        interface: rule.listen.interface.clone(),
        first: rule.ports.first(),
        last: Some(rule.ports.last()),
        to: Some(rule.to),
        target: rule.target,
        weak: rule.weak,
        auto: rule.scan,
    }
}

/// Whether a rule is one of those.
pub(super) fn is_meant(which: Which, entry: &Entry) -> bool {
    let rule = rule(entry);
    which.side.is_none_or(|side| side == rule.side)
        && which.protocol.is_none_or(|protocol| protocol == rule.protocol)
}

/// A rule that can't be had.
pub(super) fn refused(refusal: &Refusal) -> Refused {
    let (reason, port, errno) = transactions::reason(refusal);
    Refused { rule: rule(&refusal.entry), port, errno, reason, part: refusal.extent == Extent::Part }
}

/// A rule that can't be one.
pub(super) fn invalid(rule: &Rule, reason: &'static str) -> Refused {
    let reason = format!("Invalid forwarding rule: {reason}");
    Refused { rule: rule.clone(), port: None, errno: None, reason, part: false }
}

/// A flow's name.
fn name(handle: Handle) -> String {
    format!("{}.{}", handle.index, handle.generation)
}

/// The flow that has this name.
pub(super) fn handle(name: &str) -> Option<Handle> {
    let (index, generation) = name.split_once('.')?;
    Some(Handle { index: index.parse().ok()?, generation: generation.parse().ok()? })
}

/// A flow.
pub(super) fn flow(flow: &Description) -> reply::Flow {
    let tcp = flow.ways.map(|ways| reply::Tcp {
        host_rtt_us: ways.host.rtt_us,
        host_retransmitted: ways.host.retransmitted,
        host_cwnd: ways.host.cwnd,
        guest_rtt_us: ways.guest_rtt.map_or(0, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX)),
        guest_window: ways.guest_window,
    });
    reply::Flow {
        flow: name(flow.handle),
        protocol: protocol(flow.protocol).into(),
        via: match flow.via {
            Via::Link => "link",
            Via::Bypass(flow::Side::Host) => "host",
            Via::Bypass(flow::Side::Namespace) => "namespace",
        }
        .into(),
        guest: endpoint(flow.guest),
        remote: endpoint(flow.remote),
        target: flow.target.map(endpoint),
        local: flow.local.map(endpoint),
        state: flow.state.name().into(),
        age_ms: millis(flow.age),
        idle_ms: millis(flow.idle),
        out_bytes: flow.out.bytes,
        out_units: flow.out.units,
        in_bytes: flow.inward.bytes,
        in_units: flow.inward.units,
        retransmitted: flow.retransmitted,
        tcp,
    }
}

/// A protocol's name in lists of flows.
pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Echo => "icmp",
    }
}

fn endpoint(endpoint: Endpoint) -> String {
    endpoint.to_string()
}

/// Milliseconds.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
