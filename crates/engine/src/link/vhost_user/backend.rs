//! What the front end has set up, and what becomes of a message: the back end's end of the protocol
//! without its socket.
//!
//! Messages come in any order that a front end likes: where a queue is becomes known by several of
//! them, and is looked up again after each. A message that can't be obeyed changes nothing, and is
//! answered so if an answer is wanted. None is fatal.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use passt_sys::event::Event;
use passt_sys::shared::{DirtyLog, MAX_REGIONS, Memory, Place};

use super::config::Config;
use super::features::{Features, ProtocolFeatures};
use super::front::Descriptors;
use super::message::{
    ConfigRange, Header, LogPlace, MAX_CONFIG, Message, Reply, SET_LOG_BASE, VringAddr, VringDescriptor,
    VringState,
};
use crate::link::Caps;
use crate::link::virtio::Device;
use crate::link::virtio::queue::{Layout, MAX_SIZE, Virtqueue};

/// Queues of a pair: frames for the guest, frames from it.
const PAIR: usize = 2;
/// An answer that says no.
const FAILED: u64 = 1;
/// Answer to a descriptor for the device's state: an error, and there is none (bit 8).
const NO_STATE: u64 = 1 << 8 | FAILED;

/// Why a message was not obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct Refusal(&'static str);

/// A device as the front end sees it.
pub(super) struct Backend {
    config: Config,
    /// Who the front end is, as far as can be told.
    manner: Manner,
    features: Features,
    protocol: ProtocolFeatures,
    status: u64,
    vrings: Vec<Vring>,
}

/// What a front end of a machine without shared memory is to be told; by the words of QEMU.
const UNSHARED: &str = "The machine's memory is not shared, so its frames are out of reach; QEMU takes \
                        -object memory-backend-memfd,id=m,size=SIZE,share=on and -machine memory-backend=m";

/// How a front end begins, which tells what kind it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// It has said nothing so far.
    Silent,
    /// As QEMU: it asks first. It has a configuration of its own, and the control queue.
    Asks,
    /// As user-mode Linux, crosvm or cloud-hypervisor: it claims the device first. The guest's
    /// driver sees what the back end offers and nothing else.
    Claims,
}

/// What was said about a queue.
#[derive(Clone, Debug, Default)]
struct Vring {
    size: u16,
    address: Option<VringAddr>,
    /// The entry that it begins with.
    base: u16,
    /// There is a kick: it is to be used once it can be.
    started: bool,
}

impl Backend {
    /// Of a device with so many pairs of queues.
    pub(super) fn new(config: Config, pairs: usize) -> Self {
        Self {
            config,
            manner: Manner::Silent,
            features: Features::empty(),
            protocol: ProtocolFeatures::empty(),
            status: 0,
            // As many as there are to the one who takes the number of queues for that of pairs.
            vrings: vec![Vring::default(); PAIR * PAIR * pairs],
        }
    }

    /// Forgets a front end, and leaves a device without queues and memory.
    pub(super) fn leave(&mut self, device: &mut Device) {
        self.reset(device);
        (self.manner, self.protocol) = (Manner::Silent, ProtocolFeatures::empty());
        for queue in queues(device) {
            (queue.call, queue.error) = (None, None);
        }
        device.memory = Memory::new();
    }

    /// Stops the device, as it was before it was set up.
    fn reset(&mut self, device: &mut Device) {
        for (index, vring) in self.vrings.iter_mut().enumerate() {
            stop(device, index);
            *vring = Vring::default();
        }
        for queue in queues(device) {
            queue.enabled = false;
        }
        (self.features, self.status, device.caps) = (Features::empty(), 0, Caps::PLAIN);
        // Before the next start the front end brings another log, if it wants one.
        device.memory.log_writes(false);
        device.memory.set_log(None);
    }

    fn offered(&self) -> Features {
        let mtu = if self.tells_mtu() { Features::MTU } else { Features::empty() };
        // A driver refuses a device that has these, and no control queue.
        let controlled = Features::MQ | Features::GUEST_ANNOUNCE;
        let without = if self.manner == Manner::Claims { controlled } else { Features::empty() };
        (Features::OFFERED | Features::LOG_ALL | mtu).difference(without)
    }

    /// Whether the device says what its MTU is. A front end with an MTU of its own goes without the
    /// network where a back end has a larger one, but does not ask one that says nothing.
    fn tells_mtu(&self) -> bool {
        self.config.mtu.is_some() && (self.config.is_chosen || self.manner == Manner::Claims)
    }

    /// Some front ends get configuration from the back end alone, others complain if one has any.
    fn offered_protocol(&self) -> ProtocolFeatures {
        let mtu = if self.tells_mtu() { ProtocolFeatures::NET_MTU } else { ProtocolFeatures::empty() };
        let claims = self.manner == Manner::Claims;
        let config = if claims { ProtocolFeatures::CONFIG } else { ProtocolFeatures::empty() };
        let without = if claims { ProtocolFeatures::MQ } else { ProtocolFeatures::empty() };
        (ProtocolFeatures::OFFERED | mtu | config).difference(without)
    }

    /// Does what a message says; the answer, if there is one. The device gives nothing to the guest
    /// meanwhile, and takes nothing from it.
    pub(super) fn handle(
        &mut self,
        device: &mut Device,
        header: Header,
        payload: &[u8],
        descriptors: Descriptors,
    ) -> Option<Reply> {
        let request = header.request;
        let outcome = match Message::parse(request, payload) {
            Ok(message) => match self.question(device, request, &message) {
                Some(reply) => {
                    if self.manner == Manner::Silent {
                        self.manner = Manner::Asks;
                    }
                    return Some(reply);
                }
                None => self.order(device, message, descriptors),
            },
            Err(error) => {
                log::warn!("Front end: request {request}: {error}");
                Err(Refusal("malformed"))
            }
        };
        self.settle(device);
        if let Err(refusal) = outcome {
            log::warn!("Front end: request {request} refused: {refusal}");
        }
        let wanted = self.is_answered(header);
        let number = outcome.map_or(FAILED, |()| 0);
        wanted.then(|| Reply::number(request, number))
    }

    /// Whether there is an answer to an order.
    fn is_answered(&self, header: Header) -> bool {
        let always = header.request == SET_LOG_BASE && self.protocol.contains(ProtocolFeatures::LOG_SHMFD);
        always || header.need_reply && self.protocol.contains(ProtocolFeatures::REPLY_ACK)
    }

    /// Messages that are always answered.
    fn question(&mut self, device: &mut Device, request: u32, message: &Message) -> Option<Reply> {
        let number = match message {
            Message::GetFeatures => self.offered().bits(),
            Message::GetProtocolFeatures => self.offered_protocol().bits(),
            // To QEMU a number of pairs, to others one of queues.
            Message::GetQueueNum => (PAIR * device.pairs.len()) as u64,
            Message::GetMaxMemSlots => MAX_REGIONS as u64,
            Message::GetStatus => self.status,
            // A device's state was not offered: flows stay where they are.
            Message::SetDeviceStateFd => NO_STATE,
            Message::CheckDeviceState => FAILED,
            Message::GetVringBase(index) => return Some(self.base(device, request, *index)),
            Message::GetConfig(range) => return Some(self.configuration(device, request, *range)),
            // Frames are given back in order: there is nothing that another back end had to know.
            Message::GetInflightFd => return Some(Reply::no_inflight(request)),
            _ => return None,
        };
        Some(Reply::number(request, number))
    }

    /// Messages that are obeyed or not.
    fn order(
        &mut self,
        device: &mut Device,
        message: Message,
        descriptors: Descriptors,
    ) -> Result<(), Refusal> {
        match message {
            Message::SetFeatures(bits) => self.set_features(device, Features::from_bits_retain(bits)),
            Message::SetProtocolFeatures(bits) => {
                let wanted = ProtocolFeatures::from_bits_retain(bits);
                if !self.offered_protocol().contains(wanted) {
                    return Err(Refusal("features that were not offered"));
                }
                self.protocol = wanted;
                Ok(())
            }
            Message::SetOwner => {
                if self.manner == Manner::Silent {
                    self.manner = Manner::Claims;
                }
                Ok(())
            }
            // "It is no longer used", and other back ends do this.
            Message::ResetOwner => {
                queues(device).for_each(|queue| queue.enabled = false);
                Ok(())
            }
            Message::SetMemTable(places) => set_memory(device, &places, &descriptors),
            Message::AddMemReg(place) => {
                let file = descriptors.first().ok_or(Refusal("no descriptor"))?;
                add_memory(&mut device.memory, file.as_fd(), place)
            }
            Message::RemMemReg(place) => {
                device.memory.remove(&place).then_some(()).ok_or(Refusal("no such region"))
            }
            Message::SetVringNum(state) => {
                let size = u16::try_from(state.num).ok();
                let size = size.filter(|size| size.is_power_of_two() && *size <= MAX_SIZE);
                self.vring(state.index)?.size = size.ok_or(Refusal("no size of a queue"))?;
                Ok(())
            }
            Message::SetVringAddr(address) => {
                self.vring(address.index)?.address = Some(address);
                Ok(())
            }
            Message::SetVringBase(state) => {
                let base = u16::try_from(state.num).map_err(|_| Refusal("no index of a queue"))?;
                self.vring(state.index)?.base = base;
                Ok(())
            }
            Message::SetVringEnable(state) => {
                self.vring(state.index)?;
                if let Some(queue) = queue(device, state.index) {
                    queue.enabled = state.num != 0;
                }
                Ok(())
            }
            Message::SetVringKick(vring) => self.set_kick(device, vring, descriptors),
            Message::SetVringCall(vring) => {
                self.vring(vring.index)?;
                let call = event(vring, descriptors, Event::adopt_to_signal)?;
                if let Some(queue) = queue(device, vring.index) {
                    queue.call = call;
                    // What was to be told before may have been lost.
                    queue.interrupt();
                }
                Ok(())
            }
            Message::SetVringErr(vring) => {
                self.vring(vring.index)?;
                let error = event(vring, descriptors, Event::adopt_to_signal)?;
                if let Some(queue) = queue(device, vring.index) {
                    queue.error = error;
                }
                Ok(())
            }
            // The guest announces itself, whoever asks it to. Nobody is told of writes that are noted:
            // a front end looks at the log when it likes.
            Message::SendRarp | Message::SetLogFd => Ok(()),
            Message::NetSetMtu(mtu) => {
                let ours = self.config.mtu.map(u64::from).ok_or(Refusal("no MTU"))?;
                // Frames for the guest are as long as what it is told by other means.
                (mtu >= ours).then_some(()).ok_or(Refusal("an MTU below that which the guest is told"))
            }
            Message::ResetDevice | Message::SetStatus(0) => {
                self.reset(device);
                Ok(())
            }
            Message::SetStatus(status) => {
                self.status = status;
                Ok(())
            }
            Message::SetLogBase(place) => set_log(device, place, &descriptors),
            Message::SetConfig => Err(Refusal("nothing to configure")),
            Message::SetInflightFd => Err(Refusal("nothing is under way")),
            _ => Err(Refusal("unknown")),
        }
    }

    /// It may come again while queues are in use, and changes nothing about them then.
    fn set_features(&mut self, device: &mut Device, wanted: Features) -> Result<(), Refusal> {
        if !self.offered().contains(wanted) {
            return Err(Refusal("features that were not offered"));
        }
        if !wanted.contains(Features::VERSION_1) {
            log::warn!("The guest's driver is one of before virtio 1.0, and is not served");
        }
        self.features = wanted;
        device.caps = wanted.caps();
        let is_logged = wanted.contains(Features::LOG_ALL);
        if is_logged != device.memory.is_logged() {
            log::debug!("Written pages are noted from now on: {is_logged}");
        }
        device.memory.log_writes(is_logged);
        for pair in &mut device.pairs {
            pair.receive.mergeable = wanted.contains(Features::MRG_RXBUF);
        }
        if !wanted.contains(Features::PROTOCOL_FEATURES) {
            queues(device).for_each(|queue| queue.enabled = true);
        }
        Ok(())
    }

    fn set_kick(
        &mut self,
        device: &mut Device,
        vring: VringDescriptor,
        descriptors: Descriptors,
    ) -> Result<(), Refusal> {
        let is_first = self.vrings.iter().all(|vring| !vring.started);
        let state = self.vring(vring.index)?;
        // The front end doesn't say so itself: it has no region to tell of.
        if is_first && device.memory.regions() == 0 {
            log::warn!("{UNSHARED}");
        }
        // One that is looked at all the time would keep the loop busy.
        let kick = event(vring, descriptors, Event::adopt)?.ok_or(Refusal("a queue that nobody kicks"))?;
        state.started = true;
        if let Some(queue) = queue(device, vring.index) {
            queue.kick = Some(Arc::new(kick));
        }
        Ok(())
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring, Refusal> {
        let index = usize::try_from(index).ok();
        index.and_then(|index| self.vrings.get_mut(index)).ok_or(Refusal("no such queue"))
    }

    /// Has each queue be where it is by now, and begin if it can. Where pages that are written are to
    /// be noted, and there is no log, no queue is anywhere: QEMU starts queues before it sends one.
    fn settle(&mut self, device: &mut Device) {
        // Drivers of before virtio 1.0 have another header, and another byte order.
        if !self.features.contains(Features::VERSION_1) {
            return;
        }
        let features = self.features.queue();
        for (index, vring) in self.vrings.iter().enumerate().filter(|(_, vring)| vring.started) {
            let layout = vring.layout(&device.memory).filter(|_| !device.memory.lacks_log());
            let Some((memory, queue)) = queue_in(device, index) else { continue };
            queue.log_used(vring.used_log());
            match layout {
                // It goes on once it is somewhere again.
                layout if queue.is_started() => queue.relocate(layout),
                // All of it is in memory, but for one that shrinks.
                Some(layout) => {
                    let _ = queue.start(memory, layout, vring.base, features);
                }
                None => {}
            }
        }
    }

    /// Stops a queue, and says where it is.
    fn base(&mut self, device: &mut Device, request: u32, index: u32) -> Reply {
        let Ok(vring) = self.vring(index) else {
            return Reply::state(request, VringState { index, num: 0 });
        };
        vring.started = false;
        let stopped = usize::try_from(index).ok().and_then(|index| stop(device, index));
        vring.base = stopped.unwrap_or(vring.base);
        Reply::state(request, VringState { index, num: vring.base.into() })
    }

    fn configuration(&self, device: &Device, request: u32, range: ConfigRange) -> Reply {
        let space: [u8; MAX_CONFIG] = self.config.space(device.pairs.len());
        let bounds = usize::try_from(range.offset).ok().zip(usize::try_from(range.size).ok());
        let part = bounds.and_then(|(offset, size)| space.get(offset..offset.checked_add(size)?));
        Reply::config(request, range, part.unwrap_or_default())
    }
}

impl Vring {
    /// Where the queue is, if each part is in a region, and begins where it may (virtio 1.2, section
    /// 2.7).
    fn layout(&self, memory: &Memory) -> Option<Layout> {
        let (size, address) = (self.size, self.address?);
        if size == 0 {
            return None;
        }
        let part =
            |start, len, align: usize| memory.guest_address(start, len).filter(|at| at.is_multiple_of(align));
        Some(Layout {
            size,
            descriptors: part(address.descriptors, Layout::descriptors_len(size), 16)?,
            available: part(address.available, Layout::available_len(size), 2)?,
            used: part(address.used, Layout::used_len(size), 4)?,
        })
    }

    /// Under which address writes to the used ring are noted. Those that there are not have no bit.
    fn used_log(&self) -> Option<usize> {
        Some(usize::try_from(self.address?.log?).unwrap_or(usize::MAX))
    }
}

/// Replaces the log of pages that are written, or leaves it as it is.
fn set_log(device: &mut Device, place: LogPlace, files: &[OwnedFd]) -> Result<(), Refusal> {
    let [file] = files else { return Err(Refusal("not one descriptor for the log")) };
    let log = DirtyLog::map(file.as_fd(), place.offset, place.size);
    device.memory.set_log(Some(log.map_err(|_| Refusal("no such log"))?));
    Ok(())
}

/// Replaces the guest's memory, or leaves it as it is.
fn set_memory(device: &mut Device, places: &[Place], files: &[OwnedFd]) -> Result<(), Refusal> {
    if places.len() != files.len() {
        return Err(Refusal("not one descriptor for each region"));
    }
    let mut memory = Memory::new();
    for (place, file) in places.iter().zip(files) {
        add_memory(&mut memory, file.as_fd(), *place)?;
    }
    device.memory.replace(memory);
    Ok(())
}

/// Adds a region to the guest's memory.
fn add_memory(memory: &mut Memory, file: BorrowedFd<'_>, place: Place) -> Result<(), Refusal> {
    memory.add(file, place).map_err(|error| {
        log::debug!("{place:x?} is not to be had beside {} regions: {error}", memory.regions());
        Refusal("no such memory")
    })
}

/// The descriptor of a message that is to have one, or says that it has none.
fn event(
    vring: VringDescriptor,
    descriptors: Descriptors,
    adopt: fn(OwnedFd) -> std::io::Result<Event>,
) -> Result<Option<Event>, Refusal> {
    if !vring.is_there {
        return Ok(None);
    }
    let first = descriptors.into_iter().next().ok_or(Refusal("no descriptor"))?;
    adopt(first).map(Some).map_err(|_| Refusal("no eventfd"))
}

/// A queue, if there is one: front ends may set up more than they use.
fn queue(device: &mut Device, index: u32) -> Option<&mut Virtqueue> {
    queue_in(device, usize::try_from(index).ok()?).map(|(_, queue)| queue)
}

/// A queue by its number, and the memory that it is in.
fn queue_in(device: &mut Device, index: usize) -> Option<(&Memory, &mut Virtqueue)> {
    let Device { memory, pairs, .. } = device;
    let pair = pairs.get_mut(index / PAIR)?;
    Some((memory, if index.is_multiple_of(PAIR) { &mut pair.receive.queue } else { &mut pair.transmit }))
}

fn queues(device: &mut Device) -> impl Iterator<Item = &mut Virtqueue> {
    device.pairs.iter_mut().flat_map(|pair| [&mut pair.receive.queue, &mut pair.transmit])
}

/// Stops a queue; where it goes on, if it was in use.
fn stop(device: &mut Device, index: usize) -> Option<u16> {
    let pair = device.pairs.get_mut(index / PAIR)?;
    if index.is_multiple_of(PAIR) {
        pair.receive.queue.kick = None;
        pair.receive.stop()
    } else {
        pair.transmit.kick = None;
        pair.transmit.stop()
    }
}
