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
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use passt_sys::event::Event;
use passt_sys::shared::{Memory, Region};

pub use self::guest::{Guest, Shape};
pub use super::virtio::Layout;
use super::virtio::queue::QueueFeatures;
use super::virtio::{Device, Kicked};
use super::{Caps, Link};

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

    super::virtio::methods_of_device!();

    fn flush(&mut self) -> Option<u32> {
        self.device.flush();
        None
    }
}
