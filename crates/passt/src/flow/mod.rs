//! Flows: what is known about each conversation of the guest with the outside.
//!
//! One table of fixed size serves every protocol. It is reserved at start and
//! touched only as far as it was ever used. A [`Handle`] carries a generation, so
//! that an event or a timer left over from a flow that ended cannot reach its
//! successor in the same slot.

pub mod table;
pub mod timer;

use passt_proto::addr::Endpoint;
pub use passt_proto::rules::Protocol;
pub use table::{Handle, Table};

/// A flow as the guest sees it: what frames from the guest are looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The guest's own address and port.
    pub guest: Endpoint,
    /// The remote address and port, as the guest sees them.
    pub remote: Endpoint,
}

/// What is known about one conversation.
#[expect(clippy::large_enum_variant, reason = "slots are reserved at start, and most hold connections")]
pub enum Flow {
    /// A TCP connection.
    Tcp(crate::host::tcp::TcpFlow),
    /// A UDP flow.
    Udp(crate::host::udp::UdpFlow),
    /// Pings.
    Echo(crate::host::echo::EchoFlow),
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {} - {}", self.protocol, self.guest, self.remote)
    }
}
