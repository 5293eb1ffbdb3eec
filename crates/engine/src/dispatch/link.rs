//! What follows the link: its descriptors, and what it does by itself, which may change with each
//! client and, where features are negotiated, between two batches.
//!
//! Frames of either kind go on to be right. What the guest sent before says itself what is left to
//! do to it. A link completes and cuts what it is given, if it has to ([`Link::commit`]), as a
//! socket may still have joined datagrams.

use std::io;

use super::{Engine, Flow};
use crate::link::{Caps, Link};
use crate::protocols::udp::mapping::Mapping;

impl<L: Link> Engine<L> {
    /// Watches other descriptors, and has everyone adapt who works with what the link does by
    /// itself, if that is not what it was.
    pub(crate) fn follow_link(&mut self) -> io::Result<()> {
        self.ctx.core.follow_link_fds()?;
        let caps = self.ctx.core.link.caps();
        if caps != self.ctx.core.caps {
            self.adapt(caps);
        }
        Ok(())
    }

    #[cold]
    fn adapt(&mut self, caps: Caps) {
        log::debug!("The link takes {caps}");
        let before = std::mem::replace(&mut self.ctx.core.caps, caps);
        self.common.tcp.adapt(&caps);
        if caps.udp_segmentation && !before.udp_segmentation {
            self.join_datagrams();
        }
    }

    /// Has the kernel join datagrams for the guest on sockets that were opened when this was of no
    /// use.
    fn join_datagrams(&mut self) {
        self.ctx.ports.listeners.iter().for_each(|(_, listener)| listener.join());
        self.common.udp.mappings.iter().for_each(Mapping::join);
        for (_, _, flow) in self.flows.iter() {
            if let Flow::Udp(flow) = flow {
                flow.join();
            }
        }
    }
}
