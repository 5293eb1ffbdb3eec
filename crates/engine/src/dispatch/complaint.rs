//! ICMP errors of the guest, or of routers behind it: to which flow one belongs, and what becomes
//! of that.

use passt_proto::drop::DropReason;
use passt_proto::wire::complaint::{Complaint, Quoted};

use super::{Engine, Flow};
use crate::flow::{Key, Protocol, Via};
use crate::link::Link;
use crate::protocols::Verdict;

impl<L: Link> Engine<L> {
    /// Has the flow heed an error about something that it sent to the guest.
    #[cold]
    pub(super) fn complaint(&mut self, complaint: &Complaint) -> Result<(), DropReason> {
        let core = &mut self.ctx.core;
        if !core.complaints.is_allowed(core.now) {
            return Err(DropReason::IcmpLimit);
        }
        let Complaint { trouble, from, to, packet } = *complaint;
        let protocol = if packet == Quoted::Udp { Protocol::Udp } else { Protocol::Tcp };
        let key = Key { via: Via::Link, protocol, guest: to, remote: from };
        let handle = self.flows.find(&key).ok_or(DropReason::NoFlow)?;
        // What came before in the batch may have ended it, and is to be sent if this does.
        if protocol == Protocol::Tcp {
            self.settle(handle);
        } else {
            self.udp_end_batch();
        }
        let mut heeded = Err(DropReason::NoFlow);
        self.with_flow(handle, |ctx, common, handle, key, flow| {
            heeded = match (flow, packet) {
                (Flow::Tcp(flow), Quoted::Tcp { seq }) => {
                    flow.complaint(ctx, &mut common.tcp, handle, seq, trouble)
                }
                (Flow::Udp(flow), Quoted::Udp) => flow.complaint(&mut ctx.core, key, trouble),
                _ => Err(DropReason::NoFlow),
            };
            heeded.unwrap_or(Verdict::Keep)
        });
        heeded.map(drop)
    }
}
