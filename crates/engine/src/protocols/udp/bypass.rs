//! Datagrams that bypass the link: what comes from the loopback interface of either side goes
//! from socket to socket, never in frames.
//!
//! Clients talk to a listening socket. For each there is a flow with a socket on the other side that
//! has the client's port where it is free; so answers find the client for whom they are, and it sees
//! the address that it sent to as their source. Batches stay batches, and what the kernel joined
//! stays joined.
//!
//! The socket is connected to the server when that has answered. A server may also go on from a
//! port of its own for each client (RFC 1350, section 4). Then the flow has a socket on the client's
//! side as well, with a port that stands for that one of the server. But it may be somebody else's on
//! the same host: until the client has sent to it, it keeps nothing alive, another one may take its
//! place, and it is given up when the port that was asked answers.
//!
//! Left out: errors. A client on loopback would hear of a closed port at once, but nothing makes
//! a listening socket say so to a single client. They are counted, and the flow
//! goes on, since a server may come.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};

use arrayvec::ArrayVec;
use passt_proto::addr::{Addr, Endpoint};
use passt_proto::drop::DropReason;
use passt_proto::time::Instant;
use passt_sys::dgram::{BATCH, Envelope};
use passt_sys::sender;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::SocketType;

use super::send::{Cuts, Item, Position, Sender, datagrams, tally};
use super::way::{Shared, Sockets, Ways};
use super::{Udp, UdpFlow, errors, used};
use crate::core::readiness::{DATAGRAMS, has_taken};
use crate::core::{Core, Station, Token};
use crate::flow::account::Direction;
use crate::flow::{Handle, Key, Side, Via};
use crate::forward::{Context, PortNote, Ports};
use crate::link::Link;
use crate::protocols::socket::{any, connect, prepare};
use crate::protocols::{Verdict, facts};

/// The sockets of a flow.
pub(crate) struct Across {
    server: OwnedFd,
    /// Its port is no service, until the socket is connected.
    unconnected: Option<PortNote>,
    /// The one that listens for clients.
    listening: Shared,
    second: Option<Second>,
}

/// What stands for another port of the server.
struct Second {
    /// The port.
    server: Endpoint,
    /// Connected to the client.
    fd: OwnedFd,
    /// The client has sent there.
    is_used: bool,
}

/// The lowest port that programs have of the kernel by default (`ip_local_port_range` of ip(7)).
/// Lower ones are those of services: the client's side may have use for them itself.
const EPHEMERAL: u16 = 32_768;

impl Across {
    /// For what came in on side `from` through `client`, on the other side, where the server is at
    /// `target`; if possible from `port`. And whether its descriptor is one of those that are kept
    /// from whoever is outside.
    pub(crate) fn open(
        ports: &mut Ports,
        from: Side,
        client: Shared,
        (target, port): (Addr, u16),
    ) -> Result<(Self, bool), DropReason> {
        let made = ports.socket_across(from, SocketType::DGRAM, target);
        let server = made.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NETUNREACH) => DropReason::Unmapped,
            _ => DropReason::Socket,
        })?;
        // Clients in the namespace are the guest's own.
        let kept = from == Side::Host && ports.pressure.keeps(&server);
        let local = Endpoint::new(any(target), port);
        if from == Side::Namespace {
            ports.order(SocketType::DGRAM, target);
        }
        let has_port = prepare(&server, local.socket_addr(), true).map_err(|_| DropReason::Socket)?;
        sender::mark(server.as_fd(), !target.is_v4()).map_err(|_| DropReason::Socket)?;
        let port = if has_port { Some(port) } else { facts::local(&server).map(|at| at.port) };
        let port = port.ok_or(DropReason::Socket)?;
        let unconnected = Some(ports.ours.note_port(from.other(), port, !target.is_v4()));
        Ok((Self { server, unconnected, listening: client, second: None }, kept))
    }

    /// The one on the server's side.
    pub(super) fn server(&self) -> &OwnedFd {
        &self.server
    }

    /// The one that listens for clients.
    pub(super) fn listening(&self) -> &Shared {
        &self.listening
    }

    /// The client was heard through another listening socket.
    pub(super) fn reopened(&mut self, listener: Shared) {
        self.listening = listener;
    }

    /// The way to the server at `remote`.
    pub(super) fn to_server(&self, remote: Endpoint) -> Sender<'_> {
        let to = self.unconnected.is_some().then(|| remote.socket_addr());
        let envelope = Envelope { to, ..Envelope::default() };
        Sender { fd: self.server.as_fd(), envelope, v4: remote.addr.is_v4(), shared: None }
    }

    /// The way to the client, who is to see what the server sent from `source`.
    fn to_client<'a>(&'a self, ways: Ways<'a>, source: Endpoint) -> Option<Sender<'a>> {
        let envelope = Envelope::default();
        match &self.second {
            Some(second) if second.server == source => {
                let v4 = Endpoint::from(self.listening.to).addr.is_v4();
                Some(Sender { fd: second.fd.as_fd(), envelope, v4, shared: None })
            }
            _ => self.listening.way(ways, envelope),
        }
    }

    /// Whether the client has something to do with the server's port at `source`.
    fn is_known(&self, source: Endpoint) -> bool {
        self.second.as_ref().is_none_or(|second| second.server != source || second.is_used)
    }

    /// The server has answered from `remote`, where it was asked: nobody else may from now on, if it
    /// has no other port.
    fn answered(&mut self, remote: Endpoint) {
        self.second.take_if(|second| !second.is_used);
        if self.second.is_none()
            && self.unconnected.is_some()
            && rustix::net::connect(&self.server, &remote.socket_addr()).is_ok()
        {
            self.unconnected = None;
        }
    }
}

/// A socket on side `side`, connected to the `client` there, with an address that it knows the
/// server by, and with `port` if possible and not a service's.
fn client_socket(ports: &mut Ports, side: Side, client: &Shared, port: u16) -> io::Result<OwnedFd> {
    let to = Endpoint::from(client.to);
    let from = client.from.map_or_else(|| any(to.addr), Addr::from);
    let fd = ports.socket_across(side.other(), SocketType::DGRAM, to.addr)?;
    // Whoever answers may be from outside.
    if ports.pressure.keeps(&fd) {
        return Err(Errno::MFILE.into());
    }
    let port = if port < EPHEMERAL { 0 } else { port };
    connect(&fd, Endpoint::new(from, port).socket_addr(), to.socket_addr(), true)?;
    Ok(fd)
}

impl UdpFlow {
    /// What came in through a listening socket, for a server.
    pub(crate) fn across(across: Across, server: Endpoint, now: Instant) -> Self {
        Self::new(Sockets::Across(across), server, Station::EVERY, now)
    }

    /// Whether `source` is the server, or another port of it that this one goes on from.
    pub(super) fn is_server<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        (handle, key): (Handle, &Key),
        source: Endpoint,
    ) -> bool {
        if source == self.remote {
            return true;
        }
        let (Sockets::Across(across), Via::Bypass(side)) = (&mut self.sockets, key.via) else { return false };
        if let Some(second) =
            across.second.as_ref().filter(|second| second.is_used || second.server == source)
        {
            return second.server == source;
        }
        if across.unconnected.is_none() || source.addr != self.remote.addr {
            return false;
        }
        let made = client_socket(&mut ctx.ports, side, &across.listening, source.port);
        let watched = made.and_then(|fd| ctx.core.watch(&fd, Token::Second(handle), DATAGRAMS).map(|()| fd));
        across.second = watched.ok().map(|fd| Second { server: source, fd, is_used: false });
        across.second.is_some()
    }

    /// The second socket on the client's side has something to tell.
    pub(crate) fn second_event<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        handle: Handle,
        key: &Key,
        events: EventFlags,
    ) -> Verdict {
        let Sockets::Across(Across { second: Some(second), .. }) = &self.sockets else {
            return Verdict::Keep;
        };
        let path = self.path_from_guest(&ctx.core, key);
        let mut taken =
            events.contains(EventFlags::ERR) && errors::own(&mut ctx.core, key, &path, second.fd.as_fd());
        if events.contains(EventFlags::IN) {
            let received = ctx.core.inbox.receive(second.fd.as_fd());
            taken |= has_taken(&received, events);
            if let Ok(count) = received {
                self.serve_second(ctx, handle, key, count);
            }
        }
        if self.futile.note(taken) {
            ctx.core.dropped(DropReason::Socket);
            return Verdict::Remove;
        }
        Verdict::Keep
    }

    /// Passes on what the client sent to the server's other port, which is in the inbox.
    fn serve_second<L: Link>(&mut self, ctx: &mut Context<L>, handle: Handle, key: &Key, count: usize) {
        let before = self.seen;
        for index in 0..count {
            let source = ctx.core.inbox.message(index).and_then(|(m, _)| m.source.map(Endpoint::from));
            // Before the socket was connected, others could send to it.
            if source != Some(key.remote) {
                ctx.core.dropped_all(DropReason::NoFlow, datagrams(&ctx.core.inbox, index..index + 1));
                continue;
            }
            self.used(Direction::Out, tally(&ctx.core.inbox, index..index + 1), ctx.core.now);
            let mut cuts = self.cuts;
            if let Sockets::Across(across) = &mut self.sockets
                && let Some(second) = &mut across.second
            {
                second.is_used = true;
                let server = second.server;
                let lost = relay(&across.to_server(server), &ctx.core, index..index + 1, &mut cuts);
                ctx.core.dropped_all(DropReason::Socket, lost);
            }
            self.cuts = cuts;
        }
        self.note(&mut ctx.ports, handle, key, before);
    }

    /// Passes on what is in the inbox at `messages`, from the client.
    pub(super) fn serve<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        udp: &Udp,
        messages: Range<usize>,
    ) -> Verdict {
        self.used(Direction::Out, tally(&ctx.core.inbox, messages.clone()), ctx.core.now);
        let mut cuts = self.cuts;
        let way = self.way(Ways { listeners: &ctx.ports.listeners, mappings: &udp.mappings });
        let lost = way.map(|way| relay(&way, &ctx.core, messages.clone(), &mut cuts));
        self.cuts = cuts;
        count(ctx, lost, messages)
    }

    /// Passes on what is in the inbox at `messages`, from the server at `source`.
    pub(super) fn answer<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        udp: &Udp,
        source: Endpoint,
        messages: Range<usize>,
    ) -> Verdict {
        let Sockets::Across(across) = &mut self.sockets else { return Verdict::Remove };
        let (is_known, tally) = (across.is_known(source), tally(&ctx.core.inbox, messages.clone()));
        if is_known {
            used((&mut self.last, &mut self.seen, &mut self.account), Direction::In, tally, ctx.core.now);
        } else {
            self.account.carried(Direction::In, tally.0, tally.1, ctx.core.now);
        }
        if source == self.remote {
            across.answered(source);
        }
        let ways = Ways { listeners: &ctx.ports.listeners, mappings: &udp.mappings };
        let way = across.to_client(ways, source);
        let lost = way.map(|way| relay(&way, &ctx.core, messages.clone(), &mut self.cuts));
        count(ctx, lost, messages)
    }
}

/// Sends messages of the inbox; returns how many datagrams could not be sent.
fn relay<L: Link>(way: &Sender<'_>, core: &Core<L>, messages: Range<usize>, cuts: &mut Cuts) -> usize {
    let mut items = ArrayVec::<_, BATCH>::new();
    items.extend(messages.filter_map(|index| Item::received(&core.inbox, index)));
    // Loopback carries whatever there is: nobody there asks for a path's MTU.
    if let Some((_, told)) = way.shared {
        told.clear(way.fd);
    }
    let (mut at, mut lost) = (Position::default(), 0);
    while let Some(loss) = way.deliver(core, &items, &mut at, cuts) {
        lost += loss.datagrams;
    }
    lost
}

/// Counts what was lost of messages; all of them where the listening socket is closed, which ends
/// the flow.
fn count<L: Link>(ctx: &mut Context<L>, lost: Option<usize>, messages: Range<usize>) -> Verdict {
    let all = lost.unwrap_or_else(|| datagrams(&ctx.core.inbox, messages));
    ctx.core.dropped_all(DropReason::Socket, all);
    if lost.is_some() { Verdict::Keep } else { Verdict::Remove }
}
