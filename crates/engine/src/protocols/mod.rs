//! Floor `protocols`: what flows of each protocol do with their sockets.
//!
//! A flow is told of events, one at a time, and says whether it lives on; it does
//! not see the table that it is in, nor flows of other protocols.

pub mod echo;
pub mod facts;
pub mod groups;
pub(crate) mod marks;
mod put;
pub(crate) mod quote;
pub(crate) mod socket;
pub mod splice;
pub mod tcp;
pub mod udp;

use passt_proto::time::Instant;
use passt_proto::wire::build::{DEFAULT_TTL, Path};
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::option;

use crate::core::{Core, Station};
use crate::flow::{Handle, Key};
use crate::link::Link;

/// System calls on the host's sockets that the modules here make themselves, once the process runs.
pub const CALLS: &[Call] = &[
    Call::any(Sysno::accept4),
    Call::any(Sysno::bind),
    Call::any(Sysno::close),
    Call::any(Sysno::connect),
    Call::any(Sysno::getsockname),
    Call::any(Sysno::shutdown),
    Call::only(Sysno::getsockopt, &[option::SO_ERROR]),
    Call::only(Sysno::setsockopt, &[option::IPV6_V6ONLY, option::SO_BINDTODEVICE]),
    Call::only(Sysno::socket, passt_sys::socket::SOCKETS),
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

/// The timer of a flow of datagrams fired, which lives until `due`.
fn expire<L>(core: &mut Core<L>, handle: Handle, due: Instant) -> Verdict {
    if due <= core.now {
        return Verdict::Remove;
    }
    core.timers.set(handle.index, due);
    Verdict::Keep
}

/// The path of packets of a flow to the guest's `station`.
pub(crate) fn path_to_guest<L: Link>(core: &Core<L>, key: &Key, station: &Station) -> Path {
    let guest = key.guest.addr;
    core.path(key.remote.addr, guest, station.mac(&core.guest.learnt, guest))
}

/// The path of packets of a flow from the guest's `station`.
pub(crate) fn path_from_guest<L: Link>(core: &Core<L>, key: &Key, station: &Station) -> Path {
    let Path { src_mac, dst_mac, src, dst, .. } = path_to_guest(core, key, station);
    Path { src_mac: dst_mac, dst_mac: src_mac, src: dst, dst: src, ttl: DEFAULT_TTL, traffic_class: 0 }
}
