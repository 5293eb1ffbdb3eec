//! The ring link: a virtio network device and its guest in one process, for tests and fuzzing.
//!
//! What such a link has to be asked about, this one shows without a virtual machine. Its device end
//! is the one of every such link (`link::virtio`); a pair of queues lies in memory that
//! is shared with the guest. There are two descriptors: the guest's kick, and a control channel by
//! which it switches offloads, or changes the first.
//!
//! Left out: notifications of the guest, which looks by itself, features of queues (indirect
//! descriptors, event indices), and the protocol by which all this is set up.

mod guest;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use passt_proto::drop::DropReason;
use passt_proto::wire::offload::Offload;
use passt_sys::event::Event;
use passt_sys::iovec::{Gather, Scatter};
use passt_sys::shared::{Memory, Region};

pub use self::guest::{Guest, Shape};
pub use super::virtio::Layout;
use super::virtio::queue::QueueFeatures;
use super::virtio::{Device, Kicked};
use super::{Caps, Frame, Link};

/// Numbers of the descriptors.
const KICK: u32 = 0;
const CONTROL: u32 = 1;

/// The device's end.
pub struct RingLink {
    device: Device,
    kick: Arc<Event>,
    /// The guest kicks by this one from now on.
    new_kick: Option<Event>,
    control: Event,
    messages: Receiver<ControlMessage>,
}

/// What the guest says on the control channel.
enum ControlMessage {
    Offloads(Caps),
    Kick(Event),
}

impl RingLink {
    /// A device with queues in `region`, whose guest takes what `caps` says.
    fn new(
        (region, transmit, receive): (Region, Layout, Layout),
        caps: Caps,
        kick: Event,
        (control, messages): (Event, Receiver<ControlMessage>),
    ) -> Self {
        let (mut device, kick) = (Device::new(1), Arc::new(kick));
        (device.memory, device.caps) = (Memory::of(region), caps);
        for pair in &mut device.pairs {
            for (queue, layout) in [(&mut pair.transmit, transmit), (&mut pair.receive.queue, receive)] {
                queue.enabled = true;
                // It is in the region, as all of it is.
                let _ = queue.start(&device.memory, layout, 0, QueueFeatures::default());
            }
            pair.transmit.kick = Some(Arc::clone(&kick));
        }
        Self { device, kick, new_kick: None, control, messages }
    }

    /// Does what the guest said on the control channel.
    fn obey(&mut self) {
        self.control.clear();
        self.device.pause();
        for message in self.messages.try_iter() {
            match message {
                ControlMessage::Offloads(caps) => self.device.caps = caps,
                ControlMessage::Kick(kick) => self.new_kick = Some(kick),
            }
        }
    }
}

impl Link for RingLink {
    fn caps(&self) -> Caps {
        self.device.caps
    }

    fn fd(&self, number: u32) -> Option<BorrowedFd<'_>> {
        match number {
            KICK => Some(self.kick.as_fd()),
            CONTROL => Some(self.control.as_fd()),
            _ => None,
        }
    }

    fn has_new_fds(&self) -> bool {
        self.new_kick.is_some()
    }

    fn renew_fds(&mut self) {
        if let Some(kick) = self.new_kick.take() {
            self.kick = Arc::new(kick);
            for pair in &mut self.device.pairs {
                pair.transmit.kick = Some(Arc::clone(&self.kick));
            }
            // What did not fit the last batch was announced by the former.
            if self.device.is_backlogged() {
                self.kick.signal();
            }
        }
    }

    fn receive(&mut self, ready: u32) -> io::Result<usize> {
        if ready == CONTROL {
            self.obey();
        }
        Ok(self.device.receive(Kicked::Transmit(0)))
    }

    fn is_backlogged(&self) -> bool {
        self.device.is_backlogged()
    }

    fn frame(&self, index: usize) -> Option<Frame<'_>> {
        self.device.frame(index)
    }

    fn payload<'a>(&'a self, index: usize, range: Range<usize>, into: &mut Gather<'a>) -> bool {
        self.device.payload(index, range, into)
    }

    fn lendable(&mut self, header: usize, segment: usize) -> usize {
        self.device.lendable(header, segment)
    }

    fn reserve<'a>(
        &'a mut self,
        header: usize,
        payload: usize,
        segment: usize,
        into: &mut Scatter<'a>,
    ) -> bool {
        self.device.reserve(header, payload, segment, into)
    }

    fn reserved<'a>(&'a self, payload: usize, into: &mut Gather<'a>) {
        self.device.reserved(payload, into);
    }

    fn commit(&mut self, header: &[u8], offload: &Offload, payload: usize) -> Result<(), DropReason> {
        self.device.commit(header, offload, payload)
    }

    fn send(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        self.device.send(frame)
    }

    fn flush(&mut self) -> Option<u32> {
        self.device.flush();
        None
    }

    fn is_congested(&self) -> bool {
        self.device.is_congested()
    }

    fn queue(&self, index: usize) -> u8 {
        u8::try_from(self.device.queue(index)).unwrap_or(0)
    }

    fn steer(&mut self, queue: u8) {
        self.device.steer(queue.into());
    }

    fn is_blocked(&self) -> bool {
        self.device.is_blocked()
    }

    fn resumed(&mut self) {
        self.device.resumed();
    }
}
