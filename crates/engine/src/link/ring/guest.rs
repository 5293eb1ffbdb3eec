//! The guest's end of a ring link, as a program of tests. What a hostile guest does is written to
//! its [region](Guest::region).

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::mpsc::{self, Sender};

use passt_sys::event::Event;
use passt_sys::shared::{self, Region};

use super::{ControlMessage, Layout, RingLink};
use crate::link::Caps;
use crate::link::channel::Packet;
use crate::link::virtio::driver::{ARENA, Receive, Terms, Transmit};

/// Sizes of queues and buffers.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Descriptors of the queue of frames from the guest.
    pub transmit: u16,
    /// Buffers that the guest can post for frames.
    pub receive: u16,
    /// Bytes of each of these.
    pub buffer: usize,
}

/// The guest.
pub struct Guest {
    region: Region,
    kick: Event,
    control: Event,
    messages: Sender<ControlMessage>,
    transmit: Transmit,
    receive: Receive,
}

impl Guest {
    /// A guest without posted buffers, and the link of its device, that may leave to the guest what
    /// `caps` says.
    pub fn pair(shape: Shape, caps: Caps) -> io::Result<(Self, RingLink)> {
        let transmit = Layout::at(0, shape.transmit);
        let receive = Layout::at(transmit.end(), shape.receive);
        let arena = receive.end();
        let buffers = arena + ARENA;
        let size = (buffers + usize::from(receive.size) * shape.buffer).next_multiple_of(4096);
        let memory = shared::memory(size)?;
        let map = || Region::map(memory.as_fd(), 0, size);
        let (kick, control) = (Event::new()?, Event::new()?);
        let twin = |event: &Event| event.try_clone().and_then(Event::adopt);
        let (sender, messages) = mpsc::channel();
        let link =
            RingLink::new((map()?, transmit, receive), caps, twin(&kick)?, (twin(&control)?, messages));
        let region = map()?;
        let terms = Terms::default();
        let transmit = Transmit::new(transmit, terms, arena);
        let receive = Receive::new(&region, receive, terms, (buffers, shape.buffer));
        Ok((Self { region, kick, control, messages: sender, transmit, receive }, link))
    }

    /// The memory that is shared with the device.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Where the queue of frames from the guest is.
    pub fn transmit(&self) -> Layout {
        self.transmit.layout()
    }

    /// Where the queue of frames for the guest is.
    pub fn receive(&self) -> Layout {
        self.receive.layout()
    }

    /// Tells the device that there is something new.
    pub fn kick(&self) {
        self.kick.signal();
    }

    /// Leaves to the guest what `caps` says, once the device has heard of it.
    pub fn switch(&self, caps: Caps) {
        self.tell(ControlMessage::Offloads(caps));
    }

    /// Kicks by another eventfd from now on. The former one, which the device is to watch no more,
    /// is returned.
    pub fn change_kick(&mut self) -> io::Result<OwnedFd> {
        let new = Event::new()?;
        self.tell(ControlMessage::Kick(new.try_clone().and_then(Event::adopt)?));
        std::mem::replace(&mut self.kick, new).try_clone()
    }

    fn tell(&self, message: ControlMessage) {
        // A device that is gone has no use for it.
        if self.messages.send(message).is_ok() {
            self.control.signal();
        }
    }

    /// Sends a frame in buffers whose first are as long as `cuts` says, metadata included. False if
    /// there is no room; the device does not look before it is [kicked](Self::kick).
    pub fn send(&mut self, packet: &Packet, cuts: &[usize]) -> bool {
        self.transmit.send(&self.region, packet, cuts)
    }

    /// Gives the device all buffers for frames that it does not have, and tells it so.
    pub fn post(&mut self) {
        self.post_some(usize::MAX);
    }

    /// Gives the device some of them, at most `count`.
    pub fn post_some(&mut self, count: usize) {
        if self.receive.post(&self.region, count) {
            self.kick();
        }
    }

    /// What the device has sent since. The buffers are to be [posted](Self::post) again.
    pub fn take(&mut self) -> Vec<Packet> {
        std::iter::from_fn(|| self.receive.take(&self.region)).collect()
    }
}
