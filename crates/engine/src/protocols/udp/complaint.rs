//! What the guest's side says of datagrams that it did not take.

use passt_proto::drop::DropReason;
use passt_proto::wire::complaint::Trouble;

use super::UdpFlow;
use crate::core::Core;
use crate::flow::Key;
use crate::flow::account::Direction;
use crate::link::Link;
use crate::protocols::Verdict;

impl UdpFlow {
    /// An ICMP error about a datagram of the flow: one that nobody takes ends it, as a connected
    /// socket has such an error from Linux, and with the flow's own socket gone its peer hears the
    /// same from the host's kernel, of the next datagram. A peer of a listening socket can't be
    /// told: that takes a raw socket. What is too large is fragmented from now on.
    pub(crate) fn complaint<L: Link>(
        &self,
        core: &mut Core<L>,
        key: &Key,
        trouble: Trouble,
    ) -> Result<Verdict, DropReason> {
        if self.account.of(Direction::In).units == 0 {
            return Err(DropReason::IcmpInvalid);
        }
        match trouble {
            Trouble::Refused => Ok(Verdict::Remove),
            Trouble::TooBig { mtu } if usize::from(mtu) < core.mtu_to(key.guest.addr) => {
                core.paths.bound(key.guest.addr, mtu, core.now);
                Ok(Verdict::Keep)
            }
            Trouble::Lost | Trouble::TooBig { .. } => Err(DropReason::IcmpIgnored),
        }
    }
}
