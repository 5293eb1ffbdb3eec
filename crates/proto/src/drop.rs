//! Why a frame, or what it asked for, was not served.
//!
//! One list for the whole program: each worker keeps an array of counters
//! indexed by reason, and `--debug`, the statistics and the control socket
//! show it. To drop is normal; a reason is never an error of ours.

/// Declares the reasons with their printable names, so that a new one needs one line.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $reason:ident = $name:literal,)*) => {
        /// A reason to drop something. `reason as usize` indexes an array of [`DropReason::COUNT`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])* $reason,)*
        }

        impl DropReason {
            /// Every reason, in the order of their values.
            pub const ALL: &'static [Self] = &[$(Self::$reason,)*];

            /// The name shown to users: lower case, words joined by hyphens.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)*
                }
            }

            /// What it means, in a sentence or two: a blank, then words.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$reason => concat!($($doc),*),)*
                }
            }
        }
    };
}

reasons! {
    /// The frame ends before the headers that it announces.
    Truncated = "truncated",
    /// The source of the frame is the zero or a group address, or our own.
    MacSource = "mac-source",
    /// The frame is for another station: some bridge did not know where that is.
    MacDestination = "mac-destination",
    /// Of a VLAN, or tagged twice.
    Vlan = "vlan",
    /// Neither ARP, IPv4 nor IPv6.
    EtherType = "ether-type",
    /// Wrong version, or a header length that cannot be.
    IpHeader = "ip-header",
    /// The IPv4 header's checksum does not match.
    IpChecksum = "ip-checksum",
    /// The packet's length is more than the frame holds, or less than its header.
    IpLength = "ip-length",
    /// A fragment that no packet can have, or whose first has not all headers; or one of a message
    /// that may not come in fragments.
    Fragment = "fragment",
    /// A fragment that was there already.
    FragmentDuplicate = "fragment-duplicate",
    /// A fragment of a packet whose fragments overlap, or contradict each other about its end.
    FragmentOverlap = "fragment-overlap",
    /// A packet whose fragments did not all come in time.
    FragmentTimeout = "fragment-timeout",
    /// A packet in fragments that made room for another one.
    FragmentRoom = "fragment-room",
    /// A packet that was put together of fragments, whose checksum does not match.
    FragmentChecksum = "fragment-checksum",
    /// IPv6 extension headers that are malformed, too many, or route on.
    IpExtension = "ip-extension",
    /// A transport protocol that is not translated.
    IpProtocol = "ip-protocol",
    /// The source address is no unicast address that a guest may use.
    IpSource = "ip-source",
    /// The destination address makes no sense for the protocol.
    IpDestination = "ip-destination",
    /// It would come back to us for ever: a port is forwarded both ways between loopbacks.
    Circular = "circular",
    /// A loopback address on a link, or a group that does not leave an interface.
    Loopback = "loopback",
    /// Malformed TCP header.
    TcpHeader = "tcp-header",
    /// The UDP length is more than the packet holds, or less than its header.
    UdpLength = "udp-length",
    /// Source or destination port zero.
    PortZero = "port-zero",
    /// An ICMP message that is neither an echo request, an error nor neighbour discovery.
    IcmpType = "icmp-type",
    /// An ICMP message of the host's network that is no error about a packet of the guest: a
    /// redirect, source quench.
    IcmpForHost = "icmp-for-host",
    /// The checksum of an ICMP error, or of an ICMPv6 message we would answer, does not match.
    IcmpChecksum = "icmp-checksum",
    /// An ICMP error that is malformed, or about a packet that we could not have sent.
    IcmpInvalid = "icmp-invalid",
    /// An ICMP error about a flow that goes on nevertheless.
    IcmpIgnored = "icmp-ignored",
    /// One ICMP error of too many in a short time.
    IcmpLimit = "icmp-limit",
    /// The service, or its address family, is switched off.
    ServiceOff = "service-off",
    /// A reply does not fit into the buffer for it.
    NoRoom = "no-room",
    /// Malformed ARP packet, or not for IPv4 over Ethernet.
    ArpFormat = "arp-format",
    /// ARP that wants no answer: a reply, an announcement, a request for the guest's own address,
    /// a probe for one that nobody is known to have.
    ArpUnanswered = "arp-unanswered",
    /// A message of neighbour discovery that fails the checks of RFC 4861.
    NdpInvalid = "ndp-invalid",
    /// Neighbour discovery that wants no answer: advertisements, duplicate detection.
    NdpUnanswered = "ndp-unanswered",
    /// Malformed DHCP message.
    DhcpFormat = "dhcp-format",
    /// DHCP that wants no answer: a release, a decline, a request to another server.
    DhcpUnanswered = "dhcp-unanswered",
    /// Malformed DHCPv6 message, or one without the identifiers it must have.
    Dhcpv6Format = "dhcpv6-format",
    /// A DHCPv6 message that is for another server, or not for a server.
    Dhcpv6Unanswered = "dhcpv6-unanswered",
    /// Metadata of a link (checksum and segmentation offload) that contradicts itself.
    Offload = "offload",
    /// The link did not take a frame for the guest.
    LinkWrite = "link-write",
    /// The link has no room for a frame for the guest now.
    LinkBusy = "link-busy",
    /// The table of flows is full.
    TableFull = "table-full",
    /// A flow from outside that nobody had answered made room for another one.
    Displaced = "displaced",
    /// The kernel refused a socket, or what was asked of it.
    Socket = "socket",
    /// A segment of a connection that does not exist, or an error about a flow that does not.
    NoFlow = "no-flow",
    /// What the guest sent within its window found no room after all.
    WindowOverrun = "window-overrun",
    /// A protocol or family that is switched off.
    Disabled = "disabled",
    /// A report of group membership that fails the checks of IGMP or MLD: time to live, source,
    /// checksum, format.
    GroupInvalid = "group-invalid",
    /// The guest asks for group membership, which is for us to do.
    GroupQuery = "group-query",
    /// More multicast groups, sources or ports than are kept, or no socket for one.
    GroupLimit = "group-limit",
    /// To a multicast group that the guest has not joined, or from a source that it has not asked
    /// for there.
    GroupUnwanted = "group-unwanted",
    /// The guest's own datagram to a group or to all, as the host's kernel has it come back.
    GroupEcho = "group-echo",
    /// There is no address for one of the sides: the guest's is not known yet, or there is
    /// none by which it could reach the other side.
    Unmapped = "unmapped",
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();
}

impl core::fmt::Display for DropReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString as _;

    use super::DropReason;

    #[test]
    fn a_reason_indexes_its_counter() {
        for (i, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, i);
            assert_eq!(reason.to_string(), reason.name());
        }
    }
}
