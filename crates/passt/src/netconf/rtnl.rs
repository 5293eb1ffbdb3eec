//! Requests to the kernel's routing subsystem (rtnetlink(7)): framing, dumps, errors.
//!
//! Bodies are built and read with `netlink-packet-route`. Headers are handled
//! here, so that one body which that crate cannot read costs only itself,
//! and an error keeps the kernel's explanation.

use std::io;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NlasIterator,
};
use passt_sys::netlink::NetlinkSocket;
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
/// Length of `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// The attribute of an error that holds the kernel's explanation.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// What can go wrong between us and the routing subsystem.
#[derive(Debug, Error)]
pub enum Error {
    /// The socket failed.
    #[error("Netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused a request, perhaps with an explanation.
    #[error("{errno}{}", explained(explanation))]
    Refused {
        /// The error code.
        errno: io::Error,
        /// The kernel's text, empty if it gave none.
        explanation: String,
    },
}

impl Error {
    /// The error code of a refused request.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => errno.raw_os_error(),
            Self::Socket(_) => None,
        }
    }
}

fn explained(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
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
                return m.result();
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

/// One message of a datagram.
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    flags: u16,
    pub(crate) seq: u32,
    pub(crate) body: &'a [u8],
}

impl Message<'_> {
    /// What `NLMSG_ERROR` and `NLMSG_DONE` say: their body begins with a negated
    /// error code, zero for success.
    pub(crate) fn result(&self) -> Result<(), Error> {
        match u32_at(self.body, 0).map(u32::cast_signed) {
            Some(code) if code < 0 => Err(Error::Refused {
                errno: io::Error::from_raw_os_error(code.saturating_neg()),
                explanation: self.explanation().unwrap_or_default(),
            }),
            _ => Ok(()),
        }
    }

    /// The kernel's words: in attributes after the echoed request, or after
    /// the code alone in `NLMSG_DONE`.
    fn explanation(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let echoed = match self.kind {
            NLMSG_DONE => 0,
            _ if self.flags & NLM_F_CAPPED != 0 => HEADER_LEN,
            _ => u32_at(self.body, 4)? as usize,
        };
        let attributes = self.body.get(echoed.checked_add(4)?.next_multiple_of(4)..)?;
        let text =
            NlasIterator::new(attributes).map_while(Result::ok).find(|a| a.kind() == NLMSGERR_ATTR_MSG)?;
        let text = String::from_utf8_lossy(text.value()).into_owned();
        Some(text.trim_end_matches('\0').to_owned())
    }
}

/// The messages of a datagram. Ends at the first that is not whole.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let len = u32_at(rest, 0)? as usize;
        let message = Message {
            kind: u16_at(rest, 4)?,
            flags: u16_at(rest, 6)?,
            seq: u32_at(rest, 8)?,
            body: rest.get(HEADER_LEN..len)?,
        };
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let (value, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_ne_bytes(*value))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let (value, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u16::from_ne_bytes(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut m = Vec::new();
        let len = u32::try_from(HEADER_LEN + body.len()).unwrap();
        m.extend(len.to_ne_bytes());
        m.extend(kind.to_ne_bytes());
        m.extend(flags.to_ne_bytes());
        m.extend(7_u32.to_ne_bytes());
        m.extend([0; 4]);
        m.extend(body);
        m.resize(m.len().next_multiple_of(4), 0);
        m
    }

    #[test]
    fn datagrams_are_split() {
        let mut datagram = message(RTM_NEWLINK, 0, &[1, 2, 3]);
        datagram.extend(message(RTM_NEWADDR, 0, &[4]));
        let bodies = [(RTM_NEWLINK, &[1, 2, 3][..]), (RTM_NEWADDR, &[4][..])];
        assert_eq!(messages(&datagram).map(|m| (m.kind, m.body)).collect::<Vec<_>>(), bodies);
        // The first has 19 bytes and one of padding, the second 17 and three.
        assert_eq!(datagram.len(), 40);
        for (cuts, whole) in [(0..19, 0), (19..37, 1), (37..40, 2)] {
            for cut in cuts {
                let found: Vec<_> = messages(&datagram[..cut]).map(|m| (m.kind, m.body)).collect();
                assert_eq!(found, bodies[..whole], "cut at {cut}");
            }
        }
        for len in [0_u32, 15, 41, u32::MAX] {
            datagram[20..24].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(messages(&datagram).count(), 1, "a length of {len} ends it");
        }
    }

    #[test]
    fn refusals_are_explained() {
        let mut body = Vec::from((-22_i32).to_ne_bytes());
        body.extend([0; HEADER_LEN]);
        body.extend(9_u16.to_ne_bytes());
        body.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        body.extend(b"odd!\0");
        let datagram = message(NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, &body);
        let error = messages(&datagram).next().unwrap().result().unwrap_err();
        assert_eq!(error.errno(), Some(22));
        assert_eq!(error.to_string(), "Invalid argument (os error 22) (odd!)");

        let datagram = message(NLMSG_ERROR, 0, &0_i32.to_ne_bytes());
        assert!(messages(&datagram).next().unwrap().result().is_ok());
    }
}
