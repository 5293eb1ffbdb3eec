//! The host's neighbours, followed while the process runs: which link-layer addresses the hosts on
//! its links have.
//!
//! One socket asks for all there are, and is told what changes. Both arrive as the same messages
//! (`RTM_NEWNEIGH`, rtnetlink(7)), so the tables are read by the loop like any change. Where
//! notifications were lost they are asked for again.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NlasIterator, parse_ip};
use passt_proto::addr::{Addr, Mac};
use passt_sys::netlink::{FOLLOWING, HEADER_LEN, Message, NetlinkSocket, messages, u32_at};
use passt_sys::seccomp::Call;
use rustix::io::Errno;

/// System calls made here once the process runs.
pub const CALLS: &[Call] = FOLLOWING;

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
/// Length of `struct ndmsg`.
const BODY_LEN: usize = 12;
/// Attribute: the address.
const NDA_DST: u16 = 1;
/// Attribute: the link-layer address.
const NDA_LLADDR: u16 = 2;
/// States of a neighbour whose link-layer address is known: reachable, stale, delay, probe,
/// permanent (`include/uapi/linux/neighbour.h`).
const VALID: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;
/// Longest datagram of the kernel's.
const ROOM: usize = 32 << 10;
/// Datagrams read at once.
const BURST: usize = 64;

/// The tables of neighbours of the network namespace in which this was opened.
#[derive(Debug)]
pub struct Neighbours {
    socket: NetlinkSocket,
    /// Interfaces whose neighbours these are.
    interfaces: Vec<u32>,
    buf: Box<[u8]>,
}

/// A neighbour, and its link-layer address if that is known.
pub type Neighbour = (Addr, Option<Mac>);

impl Neighbours {
    /// Follows those on some interfaces. What there are already are changes as well.
    pub fn follow(interfaces: Vec<u32>) -> io::Result<Self> {
        let socket = NetlinkSocket::follow_neighbours()?;
        let following = Self { socket, interfaces, buf: vec![0; ROOM].into() };
        following.ask()?;
        Ok(following)
    }

    /// Asks for all of them.
    fn ask(&self) -> io::Result<()> {
        let mut request = [0; HEADER_LEN + BODY_LEN];
        let (len, flags) = (HEADER_LEN + BODY_LEN, NLM_F_REQUEST | NLM_F_DUMP);
        request[..4].copy_from_slice(&u32::try_from(len).unwrap_or_default().to_ne_bytes());
        request[4..6].copy_from_slice(&RTM_GETNEIGH.to_ne_bytes());
        request[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.socket.send(&request)
    }

    /// Has `tell` know what has changed. What is left is reported by the loop again.
    pub fn read(&mut self, mut tell: impl FnMut(Neighbour)) {
        for _ in 0..BURST {
            match self.socket.recv_now(&mut self.buf) {
                Ok(datagram) => {
                    messages(datagram).filter_map(|m| change(&m, &self.interfaces)).for_each(&mut tell);
                }
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {
                    // Where that fails, what changes from now on is known all the same.
                    let _ = self.ask();
                }
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Neighbours {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What a message says about a neighbour on one of `interfaces`.
fn change(message: &Message<'_>, interfaces: &[u32]) -> Option<Neighbour> {
    if !matches!(message.kind, RTM_NEWNEIGH | RTM_DELNEIGH) || !interfaces.contains(&u32_at(message.body, 4)?)
    {
        return None;
    }
    let state = u16::from_ne_bytes(*message.body.get(8..)?.first_chunk()?);
    let (mut addr, mut mac) = (None, None);
    for attribute in NlasIterator::new(message.body.get(BODY_LEN..)?).map_while(Result::ok) {
        match attribute.kind() {
            NDA_DST => addr = parse_ip(attribute.value()).ok(),
            NDA_LLADDR => mac = attribute.value().try_into().ok().map(Mac),
            _ => {}
        }
    }
    let addr: IpAddr = addr?;
    let is_known = message.kind == RTM_NEWNEIGH && state & VALID != 0;
    Some((addr.into(), mac.filter(|mac| is_known && !mac.is_group() && !mac.is_zero())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_messages_say() {
        let mac = [2, 0, 0, 0, 0, 9];
        let body = |interface: u32, state: u16, address: &[u8]| {
            let attribute = |kind: u16, value: &[u8]| {
                let len = u16::try_from(4 + value.len()).unwrap();
                let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
                bytes.resize(bytes.len().next_multiple_of(4), 0);
                bytes
            };
            let head = [&[2, 0, 0, 0][..], &interface.to_ne_bytes(), &state.to_ne_bytes(), &[0, 1]].concat();
            [head, attribute(NDA_DST, address), attribute(NDA_LLADDR, &mac), attribute(9, &[7])].concat()
        };
        let (v4, v6) = ([192, 0, 2, 9], std::net::Ipv6Addr::LOCALHOST.octets());
        let known = |addr: IpAddr| Some((Addr::from(addr), Some(Mac(mac))));
        let gone = |addr: IpAddr| Some((Addr::from(addr), None));
        for (kind, body, expected) in [
            (RTM_NEWNEIGH, body(3, 0x02, &v4), known(v4.into())),
            (RTM_NEWNEIGH, body(4, 0x80, &v6), known(v6.into())),
            (RTM_NEWNEIGH, body(5, 0x02, &v4), None),
            (RTM_NEWNEIGH, body(3, 0x01, &v4), gone(v4.into())),
            (RTM_NEWNEIGH, body(3, 0x20, &v4), gone(v4.into())),
            (RTM_NEWNEIGH, body(3, 0x40, &v4), gone(v4.into())),
            (RTM_DELNEIGH, body(3, 0x04, &v4), gone(v4.into())),
            (RTM_DELNEIGH + 9, body(3, 0x04, &v4), None),
            (RTM_NEWNEIGH, body(3, 0x02, &v4[..3]), None),
            (RTM_NEWNEIGH, body(3, 0x02, &v4)[..9].to_vec(), None),
        ] {
            let message = Message { kind, flags: 0, seq: 0, body: &body };
            assert_eq!(change(&message, &[3, 4]), expected, "{kind} {body:?}");
        }
    }
}
