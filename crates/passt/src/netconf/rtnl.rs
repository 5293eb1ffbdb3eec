//! Requests to the kernel's routing subsystem (rtnetlink(7)): changes, dumps, errors.
//!
//! Bodies are built and read with `netlink-packet-route`. Headers are not, so that one body which
//! that crate cannot read costs only itself, and an error keeps the kernel's explanation.

use std::io;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
};
use passt_sys::netlink::{HEADER_LEN, NetlinkSocket, Refused, messages};
use thiserror::Error;

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_GETADDR: u16 = 22;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_GETROUTE: u16 = 26;
pub(super) const RTM_GETNEXTHOP: u16 = 106;

/// How often a dump is repeated when the configuration changed meanwhile.
const DUMP_ATTEMPTS: usize = 5;

/// What can go wrong between us and the routing subsystem.
#[derive(Debug, Error)]
pub enum Error {
    /// The socket failed.
    #[error("Netlink socket: {0}")]
    Socket(io::Error),
    /// The kernel refused a request.
    #[error(transparent)]
    Refused(#[from] Refused),
}

// The message has the reason, and no source would say it again.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

impl Error {
    /// The error code of a refused request.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused(refused) => refused.errno.raw_os_error(),
            Self::Socket(_) => None,
        }
    }
}

/// A connection to the routing subsystem of one network namespace: the one
/// in which it was opened, wherever the thread goes later.
#[derive(Debug)]
pub struct Rtnl {
    socket: NetlinkSocket,
    seq: u32,
    buf: Vec<u8>,
}

impl Rtnl {
    /// Opens a connection in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: NetlinkSocket::open()?, seq: 0, buf: Vec::new() })
    }

    /// Makes a change and waits until it is done. `flags` say what is wanted
    /// beside the request itself (`NLM_F_CREATE` and the like).
    pub(super) fn change(&mut self, kind: u16, flags: u16, body: &dyn Emitable) -> Result<(), Error> {
        self.send(kind, flags | NLM_F_ACK, body)?;
        loop {
            self.socket.recv(&mut self.buf)?;
            if let Some(m) = messages(&self.buf).find(|m| m.seq == self.seq) {
                return Ok(m.result()?);
            }
        }
    }

    /// Asks for everything there is of a kind. `parse` gets the body of each
    /// message and picks what it wants.
    ///
    /// A dump that the kernel marks as interrupted by a change is repeated; on a
    /// host that never rests the last one is taken as it is.
    pub(super) fn dump<T>(
        &mut self,
        kind: u16,
        body: &dyn Emitable,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut found = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            found.clear();
            if self.dump_once(kind, body, &parse, &mut found)? {
                break;
            }
        }
        Ok(found)
    }

    /// One attempt of a dump: whether it shows one state of the host.
    fn dump_once<T>(
        &mut self,
        kind: u16,
        body: &dyn Emitable,
        parse: &impl Fn(&[u8]) -> Option<T>,
        found: &mut Vec<T>,
    ) -> Result<bool, Error> {
        self.send(kind, NLM_F_DUMP, body)?;
        let mut consistent = true;
        loop {
            self.socket.recv(&mut self.buf)?;
            for message in messages(&self.buf).filter(|m| m.seq == self.seq) {
                consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                if matches!(message.kind, NLMSG_DONE | NLMSG_ERROR) {
                    message.result()?;
                    return Ok(consistent);
                }
                found.extend(parse(message.body));
            }
        }
    }

    fn send(&mut self, kind: u16, flags: u16, body: &dyn Emitable) -> Result<(), Error> {
        self.seq = self.seq.wrapping_add(1);
        let len = HEADER_LEN + body.buffer_len();
        let mut message = vec![0; len];
        let (header, rest) = message.split_at_mut(HEADER_LEN);
        body.emit(rest);
        let len = u32::try_from(len).map_err(io::Error::other)?;
        header[..4].copy_from_slice(&len.to_ne_bytes());
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        header[8..12].copy_from_slice(&self.seq.to_ne_bytes());
        Ok(self.socket.send(&message)?)
    }
}
