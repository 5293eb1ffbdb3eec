//! Echo flows: the guest's pings leave from a ping socket of the host (icmp(7)), which
//! needs no privilege but a group in `net.ipv4.ping_group_range`. The kernel
//! puts the socket's port in place of the identifier; the guest gets its own back.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use passt_proto::addr::{Addr, Endpoint};
use passt_proto::drop::DropReason;
use passt_proto::rules::HostSide;
use passt_proto::time::{Duration, Instant};
use passt_proto::wire::build::{DEFAULT_TTL, Path};
use passt_proto::wire::icmp;
use passt_proto::wire::ip::protocol;
use passt_proto::wire::report::Quoted;
use passt_sys::dgram::{self, Outgoing};
use passt_sys::iovec::Gather;
use passt_sys::namespace;
use passt_sys::seccomp::{Call, Sysno};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::ipproto;
use zerocopy::FromBytes;

use super::{Futile, Verdict, has_taken, udp};
use crate::flow::{Flow, Handle, Key, Protocol, Table, Via};
use crate::link::Link;
use crate::worker::Context;

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[Call::only(Sysno::socket, namespace::PING_SOCKETS)];

/// How long an unused flow lives.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Entries of an error queue that are dealt with at once.
const BURST: usize = 16;

/// An identifier of the guest's, used with one destination.
pub struct EchoFlow {
    fd: OwnedFd,
    /// Whom the guest pings, on the host's side.
    remote: Addr,
    ttl: u8,
    last: Instant,
    futile: Futile,
}

/// An echo request, in frame `index` of the batch.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The guest and its identifier.
    pub(crate) guest: Endpoint,
    /// Whom it pings.
    pub(crate) dst: Addr,
    /// Time to live.
    pub(crate) ttl: u8,
    /// The message in the frame.
    pub(crate) message: Range<usize>,
}

/// Passes on an echo request.
pub(crate) fn request<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    index: usize,
    request: &Request,
) -> Result<(), DropReason> {
    let key = Key {
        via: Via::Link,
        protocol: Protocol::Echo,
        guest: request.guest,
        remote: Endpoint::new(request.dst, 0),
    };
    let handle = flows.find(&key).map_or_else(|| begin(ctx, flows, key), Ok)?;
    let Some((_, Flow::Echo(flow))) = flows.get_mut(handle) else { return Err(DropReason::NoFlow) };
    flow.last = ctx.now;
    if flow.ttl != request.ttl {
        flow.ttl = request.ttl;
        let _ = dgram::set_ttl(flow.fd.as_fd(), !flow.remote.is_v4(), request.ttl);
    }
    let mut data = Gather::new();
    ctx.link.payload(index, request.message.clone(), &mut data);
    let message = [Outgoing { first: 0, buffers: data.len(), segment: 0 }];
    // An error that is pending from an earlier request is in the error queue too.
    let send = || dgram::send(flow.fd.as_fd(), &data, &message, None, None);
    send().or_else(|_| send()).map_err(|_| DropReason::Socket)?;
    Ok(())
}

fn begin<L: Link>(ctx: &mut Context<L>, flows: &mut Table<Flow>, key: Key) -> Result<Handle, DropReason> {
    let side = ctx.from_guest(&key)?;
    let fd = match open(ctx, &side, key.guest.port) {
        Ok(fd) => fd,
        Err(error) => {
            if matches!(error, Errno::PERM | Errno::ACCESS) && !std::mem::replace(&mut ctx.echo_refused, true)
            {
                log::warn!(
                    "Can't open ping sockets: the group is not in net.ipv4.ping_group_range, \
                     the guest's pings will not be answered"
                );
            }
            return Err(DropReason::Socket);
        }
    };
    let flow =
        EchoFlow { fd, remote: side.remote.addr, ttl: DEFAULT_TTL, last: ctx.now, futile: Futile::default() };
    super::insert(ctx, flows, key, Flow::Echo(flow), ctx.now + TIMEOUT)
}

fn open<L: Link>(ctx: &Context<L>, side: &HostSide, id: u16) -> Result<OwnedFd, Errno> {
    let protocol = if side.remote.addr.is_v4() { ipproto::ICMP } else { ipproto::ICMPV6 };
    match udp::open(ctx, Some(protocol), side, id) {
        Ok((fd, _)) => Ok(fd),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    }
}

impl EchoFlow {
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn event<L: Link>(&mut self, ctx: &mut Context<L>, key: &Key, events: EventFlags) -> Verdict {
        let mut taken = events.contains(EventFlags::ERR) && self.failures(ctx, key);
        if events.contains(EventFlags::IN) {
            let received = ctx.udp.inbox.receive(self.fd.as_fd());
            taken |= has_taken(&received, events);
            if received.is_ok() {
                self.last = ctx.now;
            }
            for index in 0..received.unwrap_or(0) {
                self.reply(ctx, key, index);
            }
        }
        if self.futile.note(taken) {
            ctx.dropped(DropReason::Socket);
            return Verdict::Remove;
        }
        Verdict::Keep
    }

    /// Passes on what is in the inbox at `index`, if it is an answer from whom the guest asked.
    fn reply<L: Link>(&self, ctx: &mut Context<L>, key: &Key, index: usize) {
        let Some((received, message)) = ctx.udp.inbox.message(index) else { return };
        let Ok((mut header, _)) = icmp::Header::read_from_prefix(message) else { return };
        let kind = if self.remote.is_v4() { icmp::ECHO_REPLY_V4 } else { icmp::ECHO_REPLY_V6 };
        let source = received.source.map(|a| Addr::from(a.ip()));
        if source != Some(self.remote) || (header.kind, header.code) != (kind, 0) {
            return ctx.dropped(DropReason::IcmpType);
        }
        header.id = key.guest.port.into();
        ctx.icmp_message(key, header, index);
    }

    /// Passes on errors about the guest's requests. Whether there were any.
    fn failures<L: Link>(&self, ctx: &mut Context<L>, key: &Key) -> bool {
        let mut payload = [0; 1280];
        let mut taken = false;
        for _ in 0..BURST {
            let Ok(failure) = dgram::receive_failure(self.fd.as_fd(), &mut payload) else { break };
            taken = true;
            // What comes back begins with the request's header.
            let Some((transport, data)) = payload.get(..failure.len).and_then(<[u8]>::split_first_chunk)
            else {
                continue;
            };
            let &[kind, code, c0, c1, _, _, s0, s1] = transport;
            let [i0, i1] = key.guest.port.to_be_bytes();
            let path = Path { ttl: self.ttl, ..ctx.path(key.guest.addr, key.remote.addr) };
            let protocol = if key.guest.addr.is_v4() { protocol::ICMP } else { protocol::ICMPV6 };
            let transport = [kind, code, c0, c1, i0, i1, s0, s1];
            let quoted = Quoted { path, protocol, transport, len: failure.len };
            super::report(ctx, key, &failure, &quoted, data);
        }
        super::socket_error(&self.fd).is_some() || taken
    }

    pub(super) fn timeout<L: Link>(&self, ctx: &mut Context<L>, handle: Handle) -> Verdict {
        super::expire(ctx, handle, self.last + TIMEOUT)
    }
}
