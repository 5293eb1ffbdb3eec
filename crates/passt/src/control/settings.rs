//! What can be set while the program runs, and what happens meanwhile.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use arrayvec::ArrayVec;
use log::LevelFilter;
use passt_control::reply::{Code, Event, Failure, Settings};
use passt_control::request::Set;
use passt_engine::control::Control;
use passt_engine::link::Link;
use passt_proto::responder::Name;
use passt_proto::time::{Duration, Instant};

use super::Server;
use crate::cli::domain;
use crate::log as sink;
use crate::pcap::Recording;

/// How often it is looked whether services have changed, where somebody wants to know.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Levels by their names.
const LEVELS: [(&str, LevelFilter); 4] = [
    ("warning", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

/// What can be set, as it is.
pub(super) fn settings<L: Link>(control: &Control<'_, L>) -> Settings {
    let core = &control.engine.ctx.core;
    let services = &core.services;
    let v4 = services.v4.iter().flat_map(|v4| v4.dns.iter().map(ToString::to_string));
    let v6 = services.v6.iter().flat_map(|v6| v6.dns.iter().map(ToString::to_string));
    let level = LEVELS.iter().find(|(_, level)| *level == log::max_level());
    Settings {
        log_level: level.map_or("error", |(name, _)| name).into(),
        capture: core.capture.is_some(),
        resolvers: v4.chain(v6).collect(),
        search: services.search.iter().map(ToString::to_string).collect(),
        host_name: services.hostname.as_ref().map(ToString::to_string),
    }
}

fn invalid(what: &str, value: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Invalid, format!("Invalid {what}: {value}"))
}

/// Sets some of it, or nothing.
pub(super) fn set<L: Link>(set: &Set, control: &mut Control<'_, L>) -> Result<Settings, Failure> {
    let Set { log_level, resolvers, search, host_name: name } = set;
    let level = log_level.as_ref().map(|wanted| {
        let level = LEVELS.iter().find(|(name, _)| name == wanted);
        level
            .map(|(_, level)| *level)
            .ok_or_else(|| invalid("log level", format_args!("{wanted}: one of warning, info, debug, trace")))
    });
    let level = level.transpose()?;
    let resolvers = resolvers.as_deref().map(divide).transpose()?;
    let search = search.as_deref().map(domains).transpose()?;
    let name = name.as_ref().map(|name| match name.as_str() {
        "" => Ok(None),
        name => {
            let name = domain(name).and_then(|name| Name::from(&name).ok());
            name.map(Some).ok_or_else(|| invalid("host name", set.host_name.as_deref().unwrap_or_default()))
        }
    });
    let name = name.transpose()?;
    // Nothing fails from here on.
    if let Some(level) = level {
        log::set_max_level(level);
    }
    let services = &mut control.engine.ctx.core.services;
    if let Some((v4, v6)) = resolvers {
        if let Some(of) = &mut services.v4 {
            of.dns = v4;
        }
        if let Some(of) = &mut services.v6 {
            of.dns = v6;
        }
    }
    if let Some(search) = search {
        services.search = search;
    }
    if let Some(name) = name {
        services.hostname = name;
    }
    if set.resolvers.is_some() || set.search.is_some() {
        control.advertise();
    }
    Ok(settings(control))
}

type Resolvers = (ArrayVec<std::net::Ipv4Addr, 3>, ArrayVec<std::net::Ipv6Addr, 3>);

/// Name servers by family.
fn divide(resolvers: &[IpAddr]) -> Result<Resolvers, Failure> {
    let (mut v4, mut v6) = (ArrayVec::new(), ArrayVec::new());
    for addr in resolvers {
        let fits = !addr.is_unspecified() && !addr.is_multicast();
        let added = match addr {
            IpAddr::V4(addr) => fits && !addr.is_broadcast() && v4.try_push(*addr).is_ok(),
            IpAddr::V6(addr) => fits && v6.try_push(*addr).is_ok(),
        };
        if !added {
            return Err(invalid("name server, or more than three of a family", addr));
        }
    }
    Ok((v4, v6))
}

fn domains(domains: &[String]) -> Result<ArrayVec<Name, 6>, Failure> {
    let mut names = ArrayVec::new();
    for text in domains {
        let name = domain(text).and_then(|name| Name::from(&name).ok());
        let added = name.is_some_and(|name| names.try_push(name).is_ok());
        if !added {
            return Err(invalid("search domain, or more than six of them", text));
        }
    }
    Ok(names)
}

/// Records frames to a descriptor of the client's from now on.
pub(super) fn capture<L: Link>(descriptor: OwnedFd, control: &mut Control<'_, L>) -> Result<(), Failure> {
    let core = &mut control.engine.ctx.core;
    let wall = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let origin = wall.saturating_sub(core.now.since(Instant::ZERO));
    let recording = Recording::given(descriptor, origin);
    let recording = recording
        .map_err(|error| Failure::new(Code::Refused, format!("Couldn't record frames there: {error}")))?;
    core.capture = Some(Arc::new(recording));
    Ok(())
}

/// Sockets of rules that follow services.
pub(super) fn services<L: Link>(control: &Control<'_, L>) -> usize {
    control.rules().filter(|(entry, _)| entry.rule.scan).map(|(_, sockets)| sockets).sum()
}

impl Server {
    /// Tells subscribers what has happened since they were told last.
    pub(super) fn tell_events<L: Link>(&mut self, control: &mut Control<'_, L>) {
        if self.subscribers == 0 {
            return;
        }
        let now = control.engine.ctx.core.now;
        while let Some(text) = sink::overheard() {
            self.tell(&Event::Warning { text }, &control.engine.ctx.core);
        }
        if self.look.take_if(|look| *look <= now).is_some() {
            let sockets = services(control);
            if self.services.replace(sockets).is_some_and(|before| before != sockets) {
                self.tell(&Event::ServicesChanged { sockets }, &control.engine.ctx.core);
            }
        }
    }

    /// A guest has come to the link, or left it.
    pub(crate) fn guest_is<L: Link>(&mut self, connected: bool, control: &Control<'_, L>) {
        if std::mem::replace(&mut self.connected, connected) != connected {
            let event = if connected { Event::GuestCame } else { Event::GuestLeft };
            self.tell(&event, &control.engine.ctx.core);
        }
    }
}
