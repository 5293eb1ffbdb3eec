//! What a worker is given.

use passt_proto::guest::Configured;
use passt_proto::responder;
use passt_proto::responder::dhcp::leases::Leases;

use crate::core::Outbound;
use crate::dispatch::Protocols;

/// What the engine has to know, from the command line and the host's configuration.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// What the guest is told; also its MTU, our address and families that are on.
    pub services: responder::Config,
    /// Addresses for DHCP clients, where there is more than one.
    pub leases: Option<Leases>,
    /// What the guest was given, and which addresses mean something else on the other side.
    pub guest: Configured,
    /// Interfaces that IPv4 and IPv6 sockets are bound to (`--outbound-if4`, `-if6`).
    pub outbound: [Option<Outbound>; 2],
    /// Protocols that are on.
    pub protocols: Protocols,
    /// Flows at most; fewer where memory is limited.
    pub max_flows: usize,
    /// Random keys for flow table and sequence numbers.
    pub secrets: [u64; 4],
}
