//! Listening sockets for forwarded ports, TCP and UDP.
//!
//! They are opened once, before privileges are given up, and their number is the
//! one in the loop. What comes in through one becomes a flow towards the guest.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};

use passt_proto::addr::{Addr, Endpoint};
use passt_proto::drop::DropReason;
use passt_proto::rules::AddressMap;
use passt_sys::dgram;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, sockopt};

use super::{tcp, udp};
use crate::cli::{Families, Listen, Rule};
use crate::flow::{Flow, Key, Protocol, Side, Table, Via};
use crate::link::Link;
use crate::worker::{Context, Token};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Connections accepted from one socket before others get their turn.
const BURST: usize = 32;

/// A forwarded port.
#[derive(Debug)]
pub struct Listener {
    pub(super) fd: OwnedFd,
    /// The address that it is bound to.
    pub(super) addr: Addr,
    /// Where it is.
    pub side: Side,
    protocol: Protocol,
    family: AddressFamily,
    /// The port of the guest.
    target_port: u16,
    /// The guest's address, if the user chose one.
    target: Option<Addr>,
}

/// What sockets are opened for.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// The namespace of the thread that opens them.
    pub side: Side,
    /// [`Protocol::Tcp`] or [`Protocol::Udp`].
    pub protocol: Protocol,
    /// Families that are on.
    pub families: Families,
    /// Addresses need not be the host's (`--freebind`).
    pub freebind: bool,
}

/// Why ports are not forwarded; which ones was logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Couldn't listen on requested ports")]
pub struct Error;

/// Opens the sockets of `rules`, but for those that follow what listens elsewhere. A port that
/// cannot be had is a warning and an error, unless its rule takes what there is.
pub fn open(rules: &[Rule], scope: Scope) -> Result<Vec<Listener>, Error> {
    let mut listeners = Vec::new();
    let mut complete = true;
    for rule in rules.iter().filter(|rule| !rule.scan) {
        let before = listeners.len();
        let (mut refused, mut strict) = (None, !rule.weak);
        for port in rule.ports.first()..=rule.ports.last() {
            match Listener::open(rule, port, scope) {
                Ok(listener) => listeners.push(listener),
                Err(error) => {
                    // Taking what there is must leave descriptors for what comes in.
                    let exhausted = matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE));
                    strict |= exhausted;
                    refused = Some((port, error));
                    if strict {
                        break;
                    }
                }
            }
        }
        if let Some((port, error)) = refused
            && (strict || listeners.len() == before)
        {
            warn(&rule.listen, port, scope.protocol, &error);
            complete = false;
        }
    }
    complete.then_some(listeners).ok_or(Error)
}

fn warn(listen: &Listen, port: u16, protocol: Protocol, error: &io::Error) {
    let protocol = if protocol == Protocol::Tcp { "TCP" } else { "UDP" };
    let reason = Errno::from_io_error(error).map_or_else(|| error.to_string(), |e| e.to_string());
    let reason = reason.split(" (os error").next().unwrap_or_default();
    if *listen == Listen::default() {
        log::warn!("Listen failed for HOST {protocol} port {port}: {reason}");
    } else {
        log::warn!("Listen failed for HOST {protocol} port {listen}/{port}: {reason}");
    }
}

impl Listener {
    fn open(rule: &Rule, port: u16, scope: Scope) -> io::Result<Self> {
        let any_v4 = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let any_v6 = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        let (ip, both) = match (rule.listen.addr, scope.families) {
            (Some(ip), _) => (ip, false),
            (None, Families::V4Only) => (any_v4, false),
            (None, Families::V6Only) => (any_v6, false),
            (None, Families::Both) => (any_v6, true),
        };
        let opened = match bound(ip, port, both, rule.listen.interface.as_deref(), scope) {
            // A host without IPv6.
            Err(e) if both && Errno::from_io_error(&e) == Some(Errno::AFNOSUPPORT) => {
                bound(any_v4, port, false, rule.listen.interface.as_deref(), scope)
            }
            opened => opened,
        };
        let (fd, family) = opened?;
        let target_port = rule.to + (port - rule.ports.first());
        let target = rule.target.map(Addr::from);
        Ok(Self {
            fd,
            addr: ip.into(),
            side: scope.side,
            protocol: scope.protocol,
            family,
            target_port,
            target,
        })
    }

    /// A peer's address in the form that the socket takes.
    pub(super) fn form(&self, addr: SocketAddr) -> SocketAddr {
        if self.family == AddressFamily::INET6 { dgram::mapped(addr) } else { addr }
    }

    /// The flow of what `source` sends to `destination`, as the guest sees it.
    pub(super) fn key(
        &self,
        map: &AddressMap,
        source: Endpoint,
        destination: Addr,
    ) -> Result<Key, DropReason> {
        let side = map.to_guest(self.protocol, source, destination, self.target)?;
        let guest = Endpoint::new(side.guest, self.target_port);
        Ok(Key { via: Via::Link, protocol: self.protocol, guest, remote: side.remote })
    }

    /// Has the loop call [`event`] for this socket, by its number.
    pub(crate) fn watch<L: Link>(&self, ctx: &Context<L>, number: u32) -> io::Result<()> {
        let events = match self.protocol {
            // Without descriptors for new connections, waiting ones must not keep the loop busy.
            Protocol::Tcp => EventFlags::IN | EventFlags::ET,
            _ => EventFlags::IN,
        };
        if self.protocol == Protocol::Udp && ctx.link.caps().udp_segmentation {
            // Linux before 5.0 does not know how to.
            let _ = dgram::want_joined(self.fd.as_fd());
        }
        ctx.watch(&self.fd, Token::Listener(number), events)
    }
}

/// A socket that listens, and its family.
fn bound(
    ip: IpAddr,
    port: u16,
    both: bool,
    interface: Option<&str>,
    scope: Scope,
) -> io::Result<(OwnedFd, AddressFamily)> {
    let tcp = scope.protocol == Protocol::Tcp;
    let v6 = ip.is_ipv6();
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let kind = if tcp { SocketType::STREAM } else { SocketType::DGRAM };
    let fd = rustix::net::socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    if v6 {
        sockopt::set_ipv6_v6only(&fd, !both)?;
    }
    if tcp {
        // Old connections in TIME_WAIT do not keep the port; for UDP this would share it.
        sockopt::set_socket_reuseaddr(&fd, true)?;
    } else {
        dgram::want_failures(fd.as_fd(), v6)?;
        if ip.is_unspecified() {
            dgram::want_destination(fd.as_fd(), v6)?;
        }
    }
    if scope.freebind {
        sockopt::set_ip_freebind(&fd, true)?;
    }
    let mut index = 0;
    if let Some(name) = interface {
        passt_sys::socket::bind_to_device(fd.as_fd(), name)?;
        index = netdevice::name_to_index(&fd, name)?;
    }
    let at = match ip {
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, index).into(),
        IpAddr::V4(_) => SocketAddr::new(ip, port),
    };
    rustix::net::bind(&fd, &at)?;
    if tcp {
        rustix::net::listen(&fd, BACKLOG)?;
    }
    Ok((fd, family))
}

/// The listening socket that forwards to the guest's UDP `port` and can reach `remote`: what
/// the guest sends from there looks, to the outside, as if it came from the forwarded port.
pub(super) fn answering(listeners: &[Listener], port: u16, remote: Addr) -> Option<(usize, &Listener)> {
    listeners.iter().enumerate().find(|(_, l)| {
        l.protocol == Protocol::Udp
            && l.target_port == port
            && l.addr.is_unspecified()
            && (remote.is_v4() == l.addr.is_v4()
                || remote.is_v4() && sockopt::ipv6_v6only(&l.fd) == Ok(false))
    })
}

/// The listening socket `number` has something to tell.
pub(crate) fn event<L: Link>(ctx: &mut Context<L>, flows: &mut Table<Flow>, number: u32, events: EventFlags) {
    let Some(listener) = ctx.listeners.get(number as usize) else { return };
    if listener.protocol == Protocol::Tcp {
        return accept(ctx, flows, number);
    }
    if events.contains(EventFlags::ERR) {
        udp::failures(ctx, flows, number as usize);
    }
    let Some(listener) = ctx.listeners.get(number as usize) else { return };
    if events.contains(EventFlags::IN)
        && let Ok(count) = ctx.udp.inbox.receive(listener.fd.as_fd())
    {
        udp::received(ctx, flows, number as usize, count);
    }
}

fn accept<L: Link>(ctx: &mut Context<L>, flows: &mut Table<Flow>, number: u32) {
    for _ in 0..BURST {
        let Some(listener) = ctx.listeners.get(number as usize) else { return };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (fd, source) = match rustix::net::acceptfrom_with(&listener.fd, flags) {
            Ok((fd, source)) => (fd, source.and_then(|a| SocketAddr::try_from(a).ok())),
            Err(Errno::AGAIN) => return,
            Err(Errno::CONNABORTED | Errno::INTR) => continue,
            Err(_) => return ctx.dropped(DropReason::Socket),
        };
        let key = source
            .ok_or(DropReason::Socket)
            .and_then(|source| listener.key(&ctx.map, source.into(), listener.addr));
        let accepted = key.and_then(|key| tcp::accepted(ctx, flows, fd, key.remote, key.guest));
        if let Err(reason) = accepted {
            ctx.dropped(reason);
        }
    }
    // There may be more: has the kernel say so again.
    let watched = ctx
        .listeners
        .get(number as usize)
        .map(|listener| ctx.rewatch(&listener.fd, Token::Listener(number), EventFlags::IN | EventFlags::ET));
    if let Some(Err(_)) = watched {
        ctx.dropped(DropReason::Socket);
    }
}
