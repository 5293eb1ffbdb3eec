//! Floor `flow`: what is known about each conversation of the guest with the outside.
//!
//! One table of fixed size serves every protocol. It is reserved at start and
//! touched only as far as it was ever used. A [`Handle`] carries a generation, so
//! that an event or a timer left over from a flow that ended cannot reach its
//! successor in the same slot.

pub mod account;
pub(crate) mod inbound;
pub mod table;

use passt_proto::addr::Endpoint;
pub use passt_proto::rules::Protocol;
pub use table::Table;

pub use crate::core::token::Handle;

/// What a flow is looked up by. One on the link: as the guest sees it. One that bypasses the
/// link: as the client sees it, on whose side it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// How its data travels.
    pub via: Via,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The guest's own address and port; on the bypass those that the client reached.
    pub guest: Endpoint,
    /// The remote address and port, as the guest sees them; on the bypass the client's own.
    pub remote: Endpoint,
}

/// How the data of a flow travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// In frames.
    Link,
    /// From socket to socket, from a client on this side to the other one.
    Bypass(Side),
}

/// Where sockets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// In the host's network namespace.
    Host,
    /// In the guest's network namespace.
    Namespace,
}

impl Side {
    /// The side across.
    pub fn other(self) -> Self {
        match self {
            Self::Host => Self::Namespace,
            Self::Namespace => Self::Host,
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { via, protocol, guest, remote } = self;
        match via {
            Via::Link => write!(f, "{protocol} {guest} - {remote}"),
            Via::Bypass(Side::Host) => write!(f, "{protocol} host {remote} - {guest}"),
            Via::Bypass(Side::Namespace) => write!(f, "{protocol} namespace {remote} - {guest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    /// What log lines begin with: whoever began the flow stands first, where that is known.
    #[test]
    fn names_of_flows() {
        let (guest, remote) =
            (Endpoint::new(Ipv4Addr::new(192, 0, 2, 2), 80), Endpoint::new(Ipv6Addr::LOCALHOST, 7));
        for (via, expected) in [
            (Via::Link, "TCP 192.0.2.2:80 - [::1]:7"),
            (Via::Bypass(Side::Host), "TCP host [::1]:7 - 192.0.2.2:80"),
            (Via::Bypass(Side::Namespace), "TCP namespace [::1]:7 - 192.0.2.2:80"),
        ] {
            assert_eq!(Key { via, protocol: Protocol::Tcp, guest, remote }.to_string(), expected);
        }
    }
}
