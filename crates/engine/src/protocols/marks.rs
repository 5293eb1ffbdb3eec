//! Time to live and traffic class of datagrams: each arrives with those that it was sent with.

use passt_proto::addr::Addr;
use passt_proto::wire::build::DEFAULT_TTL;
use passt_proto::wire::ip::Marks;
use passt_sys::dgram::{Envelope, Received};

/// The marks of what came from the host's side.
pub(crate) fn received(message: &Received) -> Marks {
    let (ttl, traffic_class) = (message.ttl.unwrap_or(DEFAULT_TTL).max(1), message.traffic_class);
    Marks { ttl, traffic_class, ..Marks::USUAL }
}

/// An envelope with these marks, for packets to `to`. To a group the kernel would let nothing
/// travel beyond the network.
pub(crate) fn envelope(marks: Marks, to: Addr) -> Envelope {
    let Marks { ttl, traffic_class, .. } = marks;
    let is_usual = ttl == DEFAULT_TTL && !to.is_group();
    Envelope { ttl: (!is_usual).then_some(ttl), traffic_class, ..Envelope::default() }
}
