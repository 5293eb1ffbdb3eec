//! How TCP connections begin: a SYN of the guest has the host's kernel connect, a
//! socket that was accepted has a SYN sent to the guest.

use std::os::fd::{AsFd, OwnedFd};

use passt_proto::drop::DropReason;
use passt_proto::tcp::Connection;
use passt_proto::time::Duration;
use passt_proto::wire::ip;
use passt_proto::wire::tcp::{Flags, Segment};
use passt_sys::socket;
use rustix::io::Errno;
use rustix::net::{SocketType, sockopt};

use super::{KeepAlive, Marks, NEVER, Tcp, TcpFlow};
use crate::core::{Core, Station};
use crate::flow::Key;
use crate::flow::account::Account;
use crate::forward::pressure::Ticket;
use crate::link::Link;
use crate::protocols::{self, path_to_guest};

/// From this round trip on, acknowledgements to the guest are those of the
/// host's peer; a nearer peer would leave the guest waiting for our timer.
const FAR: Duration = Duration::from_millis(2);

/// The answer to a segment with `len` bytes that belongs to no connection and asks for none: RFC
/// 9293, section 3.10.7.1. There is none to a RST.
pub(crate) fn stray(segment: &Segment, len: usize) -> Option<Segment> {
    let flags = segment.flags;
    if flags.contains(Flags::RST) {
        return None;
    }
    let reset = Segment { src_port: segment.dst_port, dst_port: segment.src_port, ..Segment::default() };
    Some(if flags.contains(Flags::ACK) {
        Segment { seq: segment.ack, flags: Flags::RST, ..reset }
    } else {
        let control = u32::from(flags.contains(Flags::SYN)) + u32::from(flags.contains(Flags::FIN));
        let len = u32::try_from(len).unwrap_or(0);
        Segment { ack: segment.seq + len + control, flags: Flags::RST | Flags::ACK, ..reset }
    })
}

impl Tcp {
    /// The guest opens a connection: the host's kernel is asked to do the same. With the flow comes
    /// the error with which that failed at once, if it did.
    pub(crate) fn connect<L: Link>(
        &self,
        core: &mut Core<L>,
        key: &Key,
        syn: &Segment,
        marks: ip::Marks,
    ) -> Result<(TcpFlow, Option<Errno>), DropReason> {
        let side = core.host_side(key.protocol, key.guest.addr, key.remote)?;
        let open = |bind| protocols::socket::socket(core, SocketType::STREAM, None, side.remote.addr, bind);
        // An address to leave from that the host does not have, or that has no port left, is told as
        // any other way that there is not.
        let is_lacking = |error| matches!(error, Errno::ADDRNOTAVAIL | Errno::ADDRINUSE);
        let (opened, no_address) = match open(side.bind) {
            Err(error) if Errno::from_io_error(&error).is_some_and(is_lacking) => (open(None), true),
            opened => (opened, false),
        };
        let fd = opened.map_err(|_| DropReason::Socket)?;
        // A peer that vanished is noticed by the host's kernel. Accepted sockets have it from the listening one.
        let _ = sockopt::set_socket_keepalive(&fd, true);
        let marks = Marks::set(&fd, !side.remote.addr.is_v4(), marks);
        let connect = || rustix::net::connect(&fd, &side.socket_addr(side.remote));
        let connected = match (side.closed, no_address) {
            (true, _) => Err(Errno::NETUNREACH),
            (_, true) => Err(Errno::ADDRNOTAVAIL),
            _ => connect(),
        };
        let iss = self.isn.initial(key.guest, key.remote, core.now);
        let conn = Connection::from_guest(self.config(key.guest.addr), syn, iss);
        // The loop tells when it is connected.
        let error = connected.err().filter(|&error| error != Errno::INPROGRESS);
        Ok((TcpFlow { marks, ..self.flow(core, key, conn, fd) }, error))
    }

    /// A connection that a listening socket accepted is opened towards the guest, which sees it as
    /// `key` says.
    pub(crate) fn accepted<L: Link>(
        &self,
        core: &Core<L>,
        key: &Key,
        fd: OwnedFd,
        ticket: Ticket,
    ) -> TcpFlow {
        let Key { guest, remote, .. } = *key;
        let iss = self.isn.initial(guest, remote, core.now);
        let config = self.config(guest.addr);
        let conn = Connection::from_host(config, remote.port, guest.port, iss, far(&fd), core.now);
        TcpFlow { ticket: Some(ticket), ..self.flow(core, key, conn, fd) }
    }

    fn flow<L: Link>(&self, core: &Core<L>, key: &Key, conn: Connection, fd: OwnedFd) -> TcpFlow {
        let station = Station::of(&core.guest.learnt, key.guest.addr);
        let path = path_to_guest(core, key, &station);
        let peek_offset =
            (self.use_peek_offset && socket::set_peek_offset(fd.as_fd(), 0).is_ok()).then_some(0);
        TcpFlow {
            conn,
            fd,
            path,
            marks: Marks::USUAL,
            keepalive: KeepAlive::default(),
            station,
            account: Account::new(core.now),
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
            timer: NEVER,
            waits: false,
        }
    }
}

/// The round trip to a socket's peer, if that is far.
pub(super) fn far(fd: &OwnedFd) -> Option<Duration> {
    let rtt = Duration::from_micros(u64::from(socket::round_trip_us(fd.as_fd()).ok()?));
    (rtt >= FAR).then_some(rtt)
}
