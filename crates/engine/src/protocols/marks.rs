//! Time to live and traffic class of datagrams: each arrives with those that it was sent with.

use passt_proto::addr::Addr;
use passt_proto::classify::Datagram;
use passt_proto::wire::build::{DEFAULT_TTL, Path};
use passt_sys::dgram::{Envelope, Received};

/// What packets have in their headers besides addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Time to live, or hop limit.
    pub(crate) ttl: u8,
    /// Traffic class (RFC 8200, section 7), in IPv4 the byte of differentiated services and ECN.
    pub(crate) traffic_class: u8,
}

impl Marks {
    /// What a host chooses.
    pub(crate) const USUAL: Self = Self { ttl: DEFAULT_TTL, traffic_class: 0 };

    /// Of what came from the host's side.
    pub(crate) fn of(message: &Received) -> Self {
        Self { ttl: message.ttl.unwrap_or(DEFAULT_TTL).max(1), traffic_class: message.traffic_class }
    }

    /// Of what the guest sends.
    pub(crate) fn of_guest(datagram: &Datagram) -> Self {
        Self { ttl: datagram.ttl, traffic_class: datagram.traffic_class }
    }

    /// The path of packets with these marks.
    pub(crate) fn on(self, path: Path) -> Path {
        let Self { ttl, traffic_class } = self;
        Path { ttl, traffic_class, ..path }
    }

    /// An envelope with these marks, for packets to `to`. To a group the kernel would let nothing
    /// travel beyond the network.
    pub(crate) fn envelope(self, to: Addr) -> Envelope {
        let Self { ttl, traffic_class } = self;
        let is_usual = ttl == DEFAULT_TTL && !to.is_group();
        Envelope { ttl: (!is_usual).then_some(ttl), traffic_class, ..Envelope::default() }
    }
}
