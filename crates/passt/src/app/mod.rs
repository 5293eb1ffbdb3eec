//! From the command line to the loop: the order in which a process comes to life.
//!
//! The order is what the programs that start us rely on. When the parent of a background
//! process ends, or a command is released, everything is in place; a failure
//! before that is one line on standard error and status 1.

mod advice;
mod door;
mod outbound;
mod outside;
mod passt;
mod pasta;
mod resolver;
mod system;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use passt_engine::clock;
use passt_engine::core::{Capture, Outbound};
use passt_engine::dispatch::Protocols;
use passt_engine::flow::{Protocol, Side};
use passt_engine::forward::{Change, Entry, Extent, Forward, Listener, Reason, listener};
use passt_engine::link::Link;
use passt_engine::worker::{EngineOptions, Worker};
use passt_proto::time::Instant;
use passt_sys::namespace::Resident;
use passt_sys::plain::Plain;
use passt_sys::process::exit_now;
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::cli::{self, Config, GuestSocket, Mode, Outcome, PasstOptions};
use crate::control::Server;
use crate::isolate;
use crate::life::background::{self, Launch, PidFile};
use crate::life::identity::Identity;
use crate::life::leftovers::Leftovers;
use crate::life::starter::Starter;
use crate::life::{socket, start};
use crate::netconf::host::{self, HostNetwork};
use crate::netconf::neighbours::Neighbours;
use crate::netconf::resolv::Resolv;
use crate::netconf::{self, Rtnl};
use crate::pcap::Recording;
use crate::setup::{self, Setup};
use crate::stats::Stats;

use self::resolver::Outsider;
use self::system::System;

/// Flows at most; the table takes memory only as it is used.
const MAX_FLOWS: usize = 1 << 17;

/// The entry of both programs; the name in `argv[0]` tells which one it is.
pub fn main() -> ExitCode {
    passt_sys::alloc::share_heap();
    let argv: Vec<OsString> = std::env::args_os().collect();
    let ready = start::sufficient().map_err(anyhow::Error::from);
    let ready = ready.and_then(|()| start::signals().context("Couldn't set up signals"));
    match ready.and_then(|()| obey(argv)) {
        Ok(status) => status.into(),
        Err(error) => report(&error).into(),
    }
}

/// Ends a sealed process, after what is still to be said.
fn end<L: Link>(worker: &mut Worker<L>, server: Option<&mut Server>, result: anyhow::Result<u8>) -> ! {
    let lost = worker.context().core.capture.as_ref().map_or(0, |capture| capture.lost());
    if lost > 0 {
        log::warn!("{lost} frames are missing from the capture");
    }
    crate::log::account(Instant::from_nanos(u64::MAX));
    let reason = match &result {
        Ok(_) => "it has nothing more to serve".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    let status = result.unwrap_or_else(|error| report(&error));
    if let Some(server) = server {
        server.farewell(reason, status, &worker.context().core);
    }
    exit_now(status)
}

/// Says why there is a failure; its exit status.
fn report(error: &anyhow::Error) -> u8 {
    let line = crate::advice::with(format_args!("{error:#}"), advice::on(error));
    if log::log_enabled!(log::Level::Error) {
        log::error!("{line}");
    } else {
        // Without standard error there is nobody to tell.
        let _ = writeln!(io::stderr(), "{}", cli::printable(&Plain(line).to_string()));
    }
    1
}

// Apart, or its frame may be more than the stack that `main` looks at first.
#[inline(never)]
fn obey(argv: Vec<OsString>) -> anyhow::Result<u8> {
    match cli::parse_on(argv, &System) {
        Outcome::Run(config) => run(&config),
        Outcome::Print(text) => {
            io::stdout().write_all(text.as_bytes())?;
            Ok(0)
        }
        Outcome::Fail(text) => {
            io::stderr().write_all(text.as_bytes())?;
            Ok(1)
        }
        Outcome::Refuse { stdout, stderr, status } => {
            // Nobody is left who could be told that this was not said.
            let _ = io::stderr().write_all(stderr.as_bytes());
            let _ = io::stdout().write_all(stdout.as_bytes());
            Ok(status)
        }
    }
}

/// Runs until something ends the process; the exit status.
fn run(config: &Config) -> anyhow::Result<u8> {
    let given = match &config.mode {
        Mode::Passt(PasstOptions {
            socket: GuestSocket::Fd(fd) | GuestSocket::Tap(fd) | GuestSocket::Listening(fd),
            ..
        }) => Some(*fd),
        _ => None,
    };
    let keep: Vec<_> = given.into_iter().chain(config.starter.descriptors()).collect();
    let inherited = start::limits(&keep).context("Couldn't set limits")?;
    if config.starter.default_signals {
        start::default_signals().context("Couldn't set up signals")?;
    }
    let client = match &config.mode {
        Mode::Passt(PasstOptions { socket: GuestSocket::Tap(fd), .. }) => Some(socket::inherit_device(*fd)?),
        Mode::Passt(passt) if !matches!(passt.socket, GuestSocket::Listening(_)) => {
            given.map(|fd| socket::inherit(fd, passt.wire)).transpose()?
        }
        _ => None,
    };
    crate::log::init(config.name, &config.log)?;
    let starter = Starter::new(&config.starter);
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    // Programs may expect nothing on standard error.
    let hints = config.hints.iter().filter(|_| rustix::termios::isatty(rustix::stdio::stderr()));
    for hint in hints {
        log::warn!("{hint}");
    }
    match &config.mode {
        Mode::Passt(passt) => passt::run(config, passt, starter, client),
        Mode::Pasta(pasta) => pasta::run(config, pasta, starter, inherited),
    }
}

/// What is opened and read as whoever started us, for passt and pasta alike.
struct Prepared {
    leftovers: Leftovers,
    pid_file: Option<PidFile>,
    capture: Option<Arc<dyn Capture>>,
    stats: Option<Stats>,
    setup: Setup,
    outbound: [Option<Outbound>; 2],
    neighbours: Option<Neighbours>,
    outsider: Option<Outsider>,
    forward: Forward,
    listeners: Vec<Listener>,
    server: Option<Server>,
}

impl Prepared {
    /// `leftovers` are what was made already.
    fn new(config: &Config, mut leftovers: Leftovers) -> anyhow::Result<Self> {
        let options = listener::ListenOptions { families: config.families, freebind: config.freebind };
        let mut forward = Forward::new(options);
        let pid_file = config.pid_file.as_deref().map(|path| PidFile::open(path, &mut leftovers));
        let pid_file = pid_file.transpose()?;
        let server = Server::open(config, &mut leftovers)?;
        let attendant = Outsider::start(config)?;
        leftovers.entrust().context("Couldn't start a process")?;
        let (setup, neighbours, host) = set_up(&outbound::template_config(config))?;
        outbound::check_addresses(config);
        let prepared = Self {
            leftovers,
            pid_file,
            capture: capture(config),
            stats: stats(config)?,
            outbound: outbound::interfaces(config),
            setup,
            neighbours,
            outsider: attendant.map(|attendant| Outsider::new(attendant, config, host)),
            listeners: listen(config, Side::Host, &mut forward)?,
            forward,
            server,
        };
        // Behind what may fail: an error is found more easily with nothing before it.
        prepared.setup.tell();
        Ok(prepared)
    }
}

/// Has sockets belong to who this process becomes. One that stays another's is of use, too: but not
/// together with those that are opened later.
fn hand_over(listeners: &[Listener], Identity { uid, gid }: Identity) {
    for listener in listeners {
        if let Err(error) = listener.belong_to(uid, gid) {
            log::debug!("{listener}: not handed over: {error}");
        }
    }
}

/// Descriptors that there is room for from the start: traffic waits for none of these. The kernel
/// has 8 bytes for each.
const DESCRIPTORS: RawFd = 1 << 12;
/// The same where many rules may come later.
const DESCRIPTORS_CHANGING: RawFd = 1 << 15;

/// Goes to the background, or stays, and isolates the process that goes on once it has opened the
/// rest with `open` and before it starts a thread with `inside`. Whoever started us may go on once
/// the place returned is [ready](Launch::ready), which is the last that can fail.
fn settle(
    config: &Config,
    leftovers: &mut Leftovers,
    pid_file: Option<PidFile>,
    open: impl FnOnce() -> anyhow::Result<()>,
    inside: impl FnOnce() -> anyhow::Result<Option<Resident>>,
) -> anyhow::Result<(Launch, Option<Resident>)> {
    let isolate = || {
        let count = if config.has_control() { DESCRIPTORS_CHANGING } else { DESCRIPTORS };
        if let Err(error) = passt_sys::process::reserve_descriptors(count) {
            log::debug!("No room made for descriptors ahead: {error}");
        }
        open()?;
        isolate::names(config)?;
        let resident = inside()?;
        isolate::privileges(resident.as_ref())?;
        anyhow::Ok(resident)
    };
    if config.foreground {
        let resident = isolate()?;
        return Ok((Launch::Foreground(pid_file), resident));
    }
    isolate::processes()?;
    let detached = background::detach(pid_file, leftovers)?;
    let resident = isolate()?;
    Ok((Launch::Background(detached), resident))
}

/// Adds the rules for one side, whose network namespace is this thread's, and opens their sockets.
fn listen(config: &Config, side: Side, forward: &mut Forward) -> anyhow::Result<Vec<Listener>> {
    let ephemeral = netconf::ephemeral_ports();
    let mut listeners = Vec::new();
    let ports = &config.ports;
    let (tcp, udp) = match side {
        Side::Host => (&ports.tcp_in, &ports.udp_in),
        Side::Namespace => (&ports.tcp_out, &ports.udp_out),
    };
    for (protocol, enabled, ports) in
        [(Protocol::Tcp, config.services.tcp, tcp), (Protocol::Udp, config.services.udp, udp)]
    {
        let rules = if enabled { ports.rules(ephemeral)? } else { Vec::new() };
        let entries: Vec<_> = rules.into_iter().map(|rule| Entry { side, protocol, rule }).collect();
        for entry in &entries {
            log::debug!("Rule: {entry}");
        }
        listeners.append(&mut open(forward, entries.into_iter().map(Change::Add))?);
    }
    Ok(listeners)
}

/// Opens the sockets of rules from this thread; the first that can't be had is an error.
fn open(forward: &mut Forward, add: impl Iterator<Item = Change>) -> anyhow::Result<Vec<Listener>> {
    let applied = forward.apply_here(forward.plan(add));
    for refusal in applied.refused() {
        match &refusal.reason {
            // Of a range less what is left out some ports may be in use by others.
            Reason::Port { error, .. } if refusal.extent == Extent::Part && !is_shortage(error) => {}
            Reason::Port { port, error } => {
                let protocol = if refusal.entry.protocol == Protocol::Tcp { "t" } else { "u" };
                let advice = crate::advice::port(*port, protocol, error, crate::advice::setting);
                // What has a port of the namespace can't be seen from the host.
                let advice = advice.filter(|_| refusal.entry.side == Side::Host || is_shortage(error));
                log::warn!("{}", crate::advice::with(refusal, advice));
            }
            _ => anyhow::bail!("{refusal}"),
        }
        if refusal.extent == Extent::Whole {
            anyhow::bail!("Couldn't listen on requested ports");
        }
    }
    Ok(forward.commit(applied)?.open)
}

/// Whether it is for want of descriptors or memory that something can't be had.
fn is_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

/// Begins the recording that was asked for. The network is there without it.
fn capture(config: &Config) -> Option<Arc<dyn Capture>> {
    let path = config.pcap.as_ref()?;
    let wall = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let origin = wall.saturating_sub(clock().since(Instant::ZERO));
    match Recording::create(path, origin) {
        Ok(recording) => Some(Arc::new(recording)),
        Err(error) => {
            let message = format!("Couldn't record frames in {}: {error}", path.display());
            log::warn!("{}", crate::advice::with(message, crate::advice::file(&error)));
            None
        }
    }
}

/// The statistics that were asked for.
fn stats(config: &Config) -> anyhow::Result<Option<Stats>> {
    let every = config.stats.filter(|every| !every.is_zero());
    let stats = every.map(|every| Stats::new(every, clock())).transpose();
    stats.context("Couldn't write statistics")
}

/// Looks at the host's network, and decides what the guest's is like.
fn set_up(config: &Config) -> anyhow::Result<(Setup, Option<Neighbours>, HostNetwork)> {
    let host = host::read(&mut Rtnl::open()?, &setup::select(config))?;
    let resolv = Resolv::read(Path::new(resolver::RESOLV));
    let (setup, warnings) = Setup::new(config, &host, &resolv)?;
    for warning in warnings {
        log::warn!("{warning}");
    }
    let neighbours = if config.host.apart { None } else { neighbours(&host) };
    Ok((setup, neighbours, host))
}

/// Follows who is on the links that the guest's network is like.
fn neighbours(host: &HostNetwork) -> Option<Neighbours> {
    let interfaces: Vec<_> = [&host.v4, &host.v6].into_iter().flatten().map(|t| t.link.index).collect();
    if interfaces.is_empty() {
        return None;
    }
    let following = Neighbours::follow(interfaces);
    following.inspect_err(|error| log::warn!("Couldn't follow the host's neighbours: {error}")).ok()
}

fn engine_options(
    config: &Config,
    setup: Setup,
    outbound: [Option<Outbound>; 2],
) -> anyhow::Result<EngineOptions> {
    let mut secrets = [0_u64; 4];
    for secret in &mut secrets {
        let mut bytes = [0; 8];
        getrandom(&mut bytes, GetRandomFlags::empty()).context("Couldn't get random numbers")?;
        *secret = u64::from_ne_bytes(bytes);
    }
    let cli::Services { tcp, udp, icmp, .. } = config.services;
    Ok(EngineOptions {
        services: *setup.responder,
        leases: setup.leases,
        guest: setup.guest,
        outbound,
        protocols: Protocols { tcp, udp, icmp },
        max_flows: MAX_FLOWS,
        secrets,
    })
}
