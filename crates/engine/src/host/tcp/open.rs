//! How TCP connections begin: a SYN of the guest has the host's kernel connect, a
//! socket that was accepted has a SYN sent to the guest. What belongs to no
//! connection is answered here as well.

use std::os::fd::{AsFd, OwnedFd};

use passt_proto::drop::DropReason;
use passt_proto::seq::Seq;
use passt_proto::tcp::Connection;
use passt_proto::time::Duration;
use passt_proto::wire::tcp::{Flags, Segment};
use passt_sys::socket;
use rustix::io::Errno;
use rustix::net::{SocketType, sockopt};

use super::{TcpFlow, emit};
use crate::flow::inbound::Class;
use crate::flow::{Flow, Handle, Key, Table};
use crate::forward::pressure::Ticket;
use crate::host::{self, Verdict, remove, with_flow};
use crate::link::Link;
use crate::worker::Context;

/// From this round trip on, acknowledgements to the guest are those of the
/// host's peer; a nearer peer would leave the guest waiting for our timer.
const FAR: Duration = Duration::from_millis(2);

/// A segment of no known connection: a new one, or RFC 9293, section 3.10.7.1.
pub(super) fn no_flow<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    key: Key,
    segment: &Segment,
    len: usize,
) -> Result<(), DropReason> {
    let flags = segment.flags;
    if flags.contains(Flags::RST) {
        return Err(DropReason::NoFlow);
    }
    if flags.contains(Flags::SYN) && !flags.contains(Flags::ACK) {
        return connect(ctx, flows, key, segment);
    }
    let reset = Segment { src_port: segment.dst_port, dst_port: segment.src_port, ..Segment::default() };
    let reset = if flags.contains(Flags::ACK) {
        Segment { seq: segment.ack, flags: Flags::RST, ..reset }
    } else {
        let control = u32::from(flags.contains(Flags::SYN)) + u32::from(flags.contains(Flags::FIN));
        let len = u32::try_from(len).unwrap_or(0);
        Segment { seq: Seq(0), ack: segment.seq + len + control, flags: Flags::RST | Flags::ACK, ..reset }
    };
    let path = ctx.path(key.remote.addr, key.guest.addr);
    emit(ctx, &path, &reset);
    Err(DropReason::NoFlow)
}

/// The guest opens a connection: the host's kernel is asked to do the same.
fn connect<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    key: Key,
    syn: &Segment,
) -> Result<(), DropReason> {
    if flows.is_full() {
        // Before the host's peer sees anything of it.
        return Err(DropReason::TableFull);
    }
    let side = ctx.from_guest(&key)?;
    let fd = host::socket(ctx, SocketType::STREAM, None, side.remote.addr, side.bind)
        .map_err(|_| DropReason::Socket)?;
    prepare(&fd);
    let connected = rustix::net::connect(&fd, &ctx.map.socket_addr(side.remote));
    let iss = ctx.tcp.isn.initial(key.guest, key.remote, ctx.now);
    let conn = Connection::from_guest(ctx.tcp.config(key.guest.addr), syn, iss);
    let handle = begin(ctx, flows, key, conn, fd)?;
    with_flow(ctx, flows, handle, |ctx, handle, key, flow| match (flow, connected) {
        (Flow::Tcp(flow), Err(e)) if e != Errno::INPROGRESS => flow.failed(ctx, handle, key, e),
        // The loop tells when it is connected.
        _ => Verdict::Keep,
    });
    Ok(())
}

/// A connection that a listening socket accepted is opened towards the guest,
/// which sees it as `key` says. The ticket is of the listening socket with this number.
pub(crate) fn accepted<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    fd: OwnedFd,
    key: Key,
    (listener, ticket): (u32, Ticket),
) -> Result<(), DropReason> {
    host::make_way(ctx, flows, &key);
    if flows.find(&key).is_some() {
        // Two clients that look the same to the guest cannot both be served.
        return host::splice::refuse(&fd, DropReason::Unmapped);
    }
    let Key { guest, remote, .. } = key;
    let iss = ctx.tcp.isn.initial(guest, remote, ctx.now);
    let config = ctx.tcp.config(guest.addr);
    let conn = Connection::from_host(config, remote.port, guest.port, iss, far(&fd), ctx.now);
    let handle = begin(ctx, flows, key, conn, fd)?;
    ctx.inbound.begun(handle.index, Class::Tcp, listener, ctx.now);
    with_flow(ctx, flows, handle, |ctx, handle, _, flow| match flow {
        Flow::Tcp(flow) => {
            flow.ticket = Some(ticket);
            flow.pull(ctx, handle)
        }
        _ => Verdict::Keep,
    });
    Ok(())
}

/// Adds a flow to the table and its socket to the loop.
fn begin<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    key: Key,
    conn: Connection,
    fd: OwnedFd,
) -> Result<Handle, DropReason> {
    let path = ctx.path(key.remote.addr, key.guest.addr);
    let peek_offset =
        (ctx.tcp.use_peek_offset && socket::set_peek_offset(fd.as_fd(), 0).is_ok()).then_some(0);
    let flow = TcpFlow {
        conn,
        fd,
        path,
        batch: None,
        dirty: false,
        late: false,
        rest: None,
        peek_offset,
        urgent: false,
        ended: false,
        shut: false,
        reset: false,
        owes: false,
        orphan: false,
        ticket: None,
        timer: None,
        waits: false,
    };
    let handle = flows.insert(key, Flow::Tcp(flow)).map_err(|_| DropReason::TableFull)?;
    let Some((_, Flow::Tcp(flow))) = flows.get_mut(handle) else { return Err(DropReason::NoFlow) };
    let watched = ctx.watch_flow(&flow.fd, handle);
    if watched.is_err() {
        remove(ctx, flows, handle);
        return Err(DropReason::Socket);
    }
    ctx.counters.flows += 1;
    log::debug!("{key}: begun");
    Ok(handle)
}

/// Socket options of every connection; one that was accepted has them from the listening socket. None is vital.
fn prepare(fd: &OwnedFd) {
    let _ = sockopt::set_tcp_nodelay(fd, true);
    let _ = socket::set_urgent_inline(fd.as_fd());
    // A peer that vanished is noticed by the host's kernel.
    let _ = sockopt::set_socket_keepalive(fd, true);
}

/// The round trip to a socket's peer, if that is far.
pub(super) fn far(fd: &OwnedFd) -> Option<Duration> {
    let rtt = Duration::from_micros(u64::from(socket::round_trip_us(fd.as_fd()).ok()?));
    (rtt >= FAR).then_some(rtt)
}
