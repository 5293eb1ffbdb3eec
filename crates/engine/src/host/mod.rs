//! The host's side: what flows do with their sockets.

mod crowd;
pub mod echo;
pub(crate) mod listen;
pub(crate) mod sockets;
pub mod splice;
pub mod tcp;
pub mod udp;

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use passt_proto::addr::{Addr, Endpoint};
use passt_proto::drop::DropReason;
use passt_proto::rules::Protocol;
use passt_proto::time::Instant;
use passt_proto::wire::icmp;
use passt_proto::wire::report::Quoted;
use passt_sys::dgram::{Failure, Origin};
use passt_sys::namespace::{self, Kind};
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::option;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::flow::{Flow, Handle, Key, Side, Table};
use crate::link::Link;
use crate::worker::{Context, Token};

/// System calls on the host's sockets that the modules here make themselves, once the process runs.
pub const CALLS: &[Call] = &[
    Call::any(Sysno::accept4),
    Call::any(Sysno::bind),
    Call::any(Sysno::close),
    Call::any(Sysno::connect),
    Call::any(Sysno::shutdown),
    Call::only(Sysno::getsockopt, &[option::SO_ERROR]),
    Call::only(Sysno::setsockopt, &[option::IPV6_V6ONLY, option::SO_BINDTODEVICE]),
    Call::only(Sysno::socket, namespace::SOCKETS),
];

/// Whether a flow lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It does.
    Keep,
    /// It has ended.
    Remove,
}

/// Events of one socket that led to nothing, one after the other. A socket that is watched level-triggered and always ready,
/// for a call that always fails, would keep the loop busy: a socket that somebody shut down, or that a security
/// module took away.
#[derive(Debug, Default)]
pub(crate) struct Futile(Cell<u8>);

impl Futile {
    /// More than happen by chance: what an event was about may have been dealt with before.
    const MOST: u8 = 16;

    /// Takes note of an event, and whether anything was `taken` from the socket; returns whether to give up.
    pub(crate) fn note(&self, taken: bool) -> bool {
        self.0.set(if taken { 0 } else { self.0.get().saturating_add(1) });
        self.0.get() > Self::MOST
    }
}

/// What sockets of datagrams are watched for, level-triggered. Not for room to send: nothing waits for that.
pub(crate) const DATAGRAMS: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);

/// Whether a call after `events` took something from a socket of datagrams. If nothing was there something had been, such as a
/// datagram with a wrong checksum, unless the socket is shut down, which it stays.
pub(crate) fn has_taken<T>(result: &io::Result<T>, events: EventFlags) -> bool {
    let is_shut = events.intersects(EventFlags::RDHUP | EventFlags::HUP);
    result.as_ref().map_or_else(|error| error.kind() == io::ErrorKind::WouldBlock && !is_shut, |_| true)
}

/// A flow's socket has something to tell.
pub(crate) fn event<L: Link>(
    ctx: &mut Context<L>,
    handle: Handle,
    key: &Key,
    flow: &mut Flow,
    events: EventFlags,
) -> Verdict {
    match flow {
        Flow::Tcp(flow) => flow.event(ctx, handle, key, events),
        Flow::Splice(flow) => flow.event(ctx, handle, key, false, events),
        Flow::Udp(flow) => flow.event(ctx, handle, key, events),
        Flow::Echo(flow) => flow.event(ctx, key, events),
    }
}

/// The second socket of a flow that bypasses the link has something to tell.
pub(crate) fn second_event<L: Link>(
    ctx: &mut Context<L>,
    handle: Handle,
    key: &Key,
    flow: &mut Flow,
    events: EventFlags,
) -> Verdict {
    match flow {
        Flow::Splice(flow) => flow.event(ctx, handle, key, true, events),
        Flow::Tcp(_) | Flow::Udp(_) | Flow::Echo(_) => Verdict::Keep,
    }
}

/// A flow asked to be called again ([`Context::call_again`]).
pub(crate) fn again<L: Link>(ctx: &mut Context<L>, handle: Handle, key: &Key, flow: &mut Flow) -> Verdict {
    match flow {
        Flow::Tcp(flow) => flow.pull(ctx, handle),
        Flow::Splice(flow) => flow.again(ctx, handle, key),
        Flow::Udp(_) | Flow::Echo(_) => Verdict::Keep,
    }
}

/// The link has room for a flow that waited for it ([`Context::await_link`]).
pub(crate) fn resume<L: Link>(ctx: &mut Context<L>, handle: Handle, _: &Key, flow: &mut Flow) -> Verdict {
    match flow {
        Flow::Tcp(flow) => flow.resume(ctx, handle),
        Flow::Splice(_) | Flow::Udp(_) | Flow::Echo(_) => Verdict::Keep,
    }
}

/// A flow's timer fired.
pub(crate) fn timeout<L: Link>(ctx: &mut Context<L>, handle: Handle, key: &Key, flow: &mut Flow) -> Verdict {
    match flow {
        Flow::Tcp(flow) => flow.timeout(ctx, handle, key),
        Flow::Splice(_) => Verdict::Keep,
        Flow::Udp(flow) => flow.timeout(ctx, handle),
        Flow::Echo(flow) => flow.timeout(ctx, handle),
    }
}

/// Has `f` do something with a flow, and removes the flow if that ended it.
pub(crate) fn with_flow<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    handle: Handle,
    f: impl FnOnce(&mut Context<L>, Handle, &Key, &mut Flow) -> Verdict,
) {
    let Some((key, flow)) = flows.get_mut(handle) else { return };
    if f(ctx, handle, key, flow) == Verdict::Remove {
        remove(ctx, flows, handle);
    }
}

/// Gives up a flow for another one.
pub(crate) fn displace<L: Link>(ctx: &mut Context<L>, flows: &mut Table<Flow>, slot: u32) {
    let Some(handle) = flows.at(slot) else { return };
    ctx.dropped(DropReason::Displaced);
    with_flow(ctx, flows, handle, |ctx, handle, _, flow| match flow {
        Flow::Tcp(flow) => flow.give_up(ctx, handle),
        Flow::Splice(flow) => flow.abort(),
        Flow::Udp(_) | Flow::Echo(_) => Verdict::Remove,
    });
}

/// A client was accepted whose flow would be `key`. Where there is such a flow, its own client may have been reset a moment ago,
/// and the loop has not been told yet: the flow ends then.
fn make_way<L: Link>(ctx: &mut Context<L>, flows: &mut Table<Flow>, key: &Key) {
    let Some(handle) = flows.find(key) else { return };
    with_flow(ctx, flows, handle, |ctx, handle, _, flow| match flow {
        Flow::Tcp(flow) => flow.succeeded(ctx, handle),
        Flow::Splice(flow) => flow.succeeded(),
        Flow::Udp(_) | Flow::Echo(_) => Verdict::Keep,
    });
}

/// Removes a flow with all that it has.
pub(crate) fn remove<L>(ctx: &mut Context<L>, flows: &mut Table<Flow>, handle: Handle) {
    ctx.timers.cancel(handle.index);
    ctx.inbound.ended(handle.index);
    if let Some((key, _)) = flows.get_mut(handle) {
        log::debug!("{key}: ended");
    }
    match flows.remove(handle) {
        Some(Flow::Tcp(flow)) => flow.give_back(ctx),
        Some(Flow::Splice(flow)) => flow.give_back(ctx),
        Some(Flow::Udp(_) | Flow::Echo(_)) | None => {}
    }
}

/// A socket towards the host's peers, bound to the interface and address that the command line or
/// the way of mapping asks for.
pub(crate) fn socket<L>(
    ctx: &Context<L>,
    kind: SocketType,
    protocol: Option<rustix::net::Protocol>,
    remote: Addr,
    bind: Option<Addr>,
) -> io::Result<OwnedFd> {
    let interface = &ctx.outbound_if[usize::from(!remote.is_v4())];
    let fd = bare_socket(kind, protocol, remote)?;
    if let Some(name) = interface
        && !remote.is_loopback()
    {
        passt_sys::socket::bind_to_device(fd.as_fd(), name)?;
    }
    if let Some(addr) = bind.filter(|addr| !addr.is_loopback()) {
        rustix::net::bind(&fd, &Endpoint::new(addr, 0).socket_addr())?;
    }
    Ok(fd)
}

/// A socket of the family of `target`, on the side that what comes in on side `from` goes to;
/// `ENETUNREACH` if there is no way into the namespace.
fn socket_across<L>(ctx: &mut Context<L>, from: Side, kind: SocketType, target: Addr) -> io::Result<OwnedFd> {
    let family = if target.is_v4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = Kind { kind, family };
    match (from, &ctx.inside) {
        (Side::Namespace, _) => namespace::socket(kind),
        (Side::Host, Some(inside)) => ctx.sockets.take(inside, kind),
        (Side::Host, None) => Err(Errno::NETUNREACH.into()),
    }
}

/// A socket of the family of `remote`, in the network namespace of this thread.
fn bare_socket(
    kind: SocketType,
    protocol: Option<rustix::net::Protocol>,
    remote: Addr,
) -> io::Result<OwnedFd> {
    let family = if remote.is_v4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, kind, flags, protocol)?;
    if family == AddressFamily::INET6 {
        // Or a port in use with IPv4 could not be had.
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    Ok(fd)
}

/// Adds a flow of datagrams that lives until `due`, to the table, and its socket to the loop.
fn insert<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    key: Key,
    flow: Flow,
    due: Instant,
) -> Result<Handle, DropReason> {
    let handle = flows.insert(key, flow).map_err(|_| DropReason::TableFull)?;
    let fd = match flows.get_mut(handle) {
        Some((_, Flow::Udp(flow))) => flow.fd(),
        Some((_, Flow::Echo(flow))) => Some(flow.fd()),
        _ => None,
    };
    if fd.is_some_and(|fd| ctx.watch(fd, Token::Flow(handle), DATAGRAMS).is_err()) {
        remove(ctx, flows, handle);
        return Err(DropReason::Socket);
    }
    ctx.timers.set(handle.index, due);
    ctx.counters.flows += 1;
    log::debug!("{key}: begun");
    Ok(handle)
}

/// The timer of a flow of datagrams fired, which lives until `due`.
fn expire<L>(ctx: &mut Context<L>, handle: Handle, due: Instant) -> Verdict {
    if due <= ctx.now {
        return Verdict::Remove;
    }
    ctx.timers.set(handle.index, due);
    Verdict::Keep
}

/// Tells the guest what happened to its packet `quoted`, which carried (at least) `payload`.
fn report<L: Link>(ctx: &mut Context<L>, key: &Key, failure: &Failure, quoted: &Quoted, payload: &[u8]) {
    let v4 = key.guest.addr.is_v4();
    let header = match header(failure, v4) {
        Ok(header) => header,
        Err(reason) => return ctx.dropped(reason),
    };
    let offender = failure.offender.map(|ip| Endpoint::new(ip, 0));
    let shown = offender.and_then(|at| ctx.map.shown(Protocol::Echo, at));
    let from = shown.filter(|a| a.is_v4() == v4).unwrap_or(key.remote.addr);
    ctx.icmp_error(from, header, quoted, payload);
}

/// The header of the message that tells of `failure`: the network's own where it is for the guest, or else what
/// the kernel makes of it.
fn header(failure: &Failure, v4: bool) -> Result<icmp::Header, DropReason> {
    if matches!((failure.origin, v4), (Origin::Icmp, true) | (Origin::Icmpv6, false)) {
        let relayed = icmp::Header::relayed(v4, failure.kind, failure.code, failure.info);
        return relayed.ok_or(DropReason::IcmpForHost);
    }
    let error = match Errno::from_raw_os_error(failure.errno) {
        Errno::MSGSIZE => Some(icmp::Error::TooBig { mtu: failure.info }),
        errno => unreachable(errno),
    };
    error.map(|error| error.header(v4)).ok_or(DropReason::Socket)
}

/// What an error of the host's kernel is called in ICMP.
fn unreachable(error: Errno) -> Option<icmp::Error> {
    match error {
        Errno::CONNREFUSED => Some(icmp::Error::PortUnreachable),
        Errno::HOSTUNREACH | Errno::HOSTDOWN => Some(icmp::Error::HostUnreachable),
        Errno::NETUNREACH | Errno::NETDOWN => Some(icmp::Error::NetUnreachable),
        Errno::ACCESS | Errno::PERM => Some(icmp::Error::Prohibited),
        _ => None,
    }
}

/// The pending error of a socket, if there is one; the kernel forgets it.
pub(crate) fn socket_error(fd: &OwnedFd) -> Option<Errno> {
    sockopt::socket_error(fd).unwrap_or_else(Err).err()
}

/// Whether a connection was reset. One that ended in order has no error, and ICMP errors end none.
fn is_reset(fd: &OwnedFd) -> bool {
    passt_sys::socket::is_closed(fd.as_fd()) && socket_error(fd).is_some()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};

    use super::*;

    /// Two ends of a connection, the first of which is looked at.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        (listener.accept().expect("a client").0, peer)
    }

    #[test]
    fn what_a_reset_is() {
        let (own, _peer) = pair();
        assert!(!is_reset(&own.into()), "it goes on");

        let (mut own, peer) = pair();
        drop(peer);
        assert_eq!(own.read(&mut [0]).expect("the end"), 0);
        assert!(!is_reset(&own.try_clone().expect("descriptor").into()), "only one way has ended");
        own.shutdown(Shutdown::Write).expect("shut down");
        let own = OwnedFd::from(own);
        while !passt_sys::socket::is_closed(own.as_fd()) {
            std::thread::yield_now();
        }
        assert!(!is_reset(&own), "both ways ended in order");

        let (own, peer) = pair();
        sockopt::set_socket_linger(&peer, Some(std::time::Duration::ZERO)).expect("linger");
        drop(peer);
        assert!(is_reset(&own.into()));
    }

    #[test]
    fn events_that_lead_to_nothing() {
        let futile = Futile::default();
        for _ in 0..3 {
            assert!(!(0..Futile::MOST).any(|_| futile.note(false)));
            assert!(!futile.note(true));
        }
        assert!(!(0..Futile::MOST).any(|_| futile.note(false)));
        assert!(futile.note(false));
        for _ in 0..500 {
            assert!(futile.note(false));
        }

        let nothing = || Err::<(), _>(io::Error::from(io::ErrorKind::WouldBlock));
        let failure = || Err::<(), _>(io::Error::from(io::ErrorKind::NotConnected));
        for (result, events, taken) in [
            (Ok(()), EventFlags::IN, true),
            (Ok(()), EventFlags::IN | EventFlags::HUP, true),
            (nothing(), EventFlags::IN, true),
            (nothing(), EventFlags::IN | EventFlags::HUP, false),
            (nothing(), EventFlags::IN | EventFlags::RDHUP, false),
            (failure(), EventFlags::IN, false),
        ] {
            assert_eq!(has_taken(&result, events), taken, "{result:?} {events:?}");
        }
    }

    #[test]
    fn errors_have_their_counterparts_in_icmp() {
        let table = [
            (Errno::CONNREFUSED, Some(icmp::Error::PortUnreachable)),
            (Errno::HOSTUNREACH, Some(icmp::Error::HostUnreachable)),
            (Errno::HOSTDOWN, Some(icmp::Error::HostUnreachable)),
            (Errno::NETUNREACH, Some(icmp::Error::NetUnreachable)),
            (Errno::NETDOWN, Some(icmp::Error::NetUnreachable)),
            (Errno::ACCESS, Some(icmp::Error::Prohibited)),
            (Errno::PERM, Some(icmp::Error::Prohibited)),
            (Errno::TIMEDOUT, None),
        ];
        for (errno, error) in table {
            assert_eq!(unreachable(errno), error, "{errno}");
        }
    }
}
