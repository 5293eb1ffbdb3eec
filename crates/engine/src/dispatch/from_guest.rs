//! The direction from the guest: a batch of frames from the link, each classified
//! and handed to a responder or to the flow that it belongs to.

use std::io;

use passt_proto::addr::{Addr, Endpoint, Mac};
use passt_proto::classify::{self, Class, classify};
use passt_proto::drop::DropReason;
use passt_proto::responder;
use passt_proto::wire::offload::Offload;
use passt_sys::iovec::Gather;

use super::Engine;
use super::echo::EchoRequest;
use crate::core::capture::{self, Capture};
use crate::core::{Core, Neighbours, Storage};
use crate::link::{Frame, Link};

/// Longest frame of a responder.
pub(crate) const REPLY_ROOM: usize = 1514;

/// Protocols that are on.
#[derive(Clone, Copy, Debug)]
pub struct Protocols {
    /// Not `--no-tcp`.
    pub tcp: bool,
    /// Not `--no-udp`.
    pub udp: bool,
    /// Not `--no-icmp`.
    pub icmp: bool,
}

impl<L: Link> Engine<L> {
    /// Takes a batch of frames from the link, whose descriptor `ready` is readable. An error means
    /// that the link is gone.
    pub(crate) fn receive(&mut self, ready: u32) -> io::Result<()> {
        let received = self.ctx.core.link.receive(ready);
        // Also of a client that has gone: what it passed on is open elsewhere, and would be told of.
        self.follow_link()?;
        let frames = received?;
        let mut reply = std::mem::take(&mut self.reply);
        for index in 0..frames {
            if let Err(reason) = self.frame(index, &mut reply) {
                self.ctx.core.dropped(reason);
            }
        }
        self.reply = reply;
        self.tcp_end_batch();
        self.udp_end_batch();
        Ok(())
    }

    fn frame(&mut self, index: usize, reply: &mut [u8]) -> Result<(), DropReason> {
        let core = &mut self.ctx.core;
        let queue = core.link.queue(index);
        core.guest.queue = queue;
        core.link.steer(queue);
        let frame = core.link.frame(index).ok_or(DropReason::Offload)?;
        core.counters.received(frame.len);
        if let Some(capture) = &core.capture {
            core.record_received(capture.as_ref(), index, &frame);
        }
        let offload = frame.offload;
        let source = station(frame.head, core.services.our_mac, &mut core.neighbours)?;
        let class = match classify(frame.head, frame.len) {
            Ok(class) => class,
            Err(DropReason::Fragment) => return self.fragment(index, source),
            Err(reason) => {
                // Whatever it sends tells where it is: some guests announce themselves by RARP or
                // MLD alone.
                core.guest.heard(source, None);
                return Err(reason);
            }
        };
        log::trace!("from guest: {} bytes, {class}", frame.len);
        let is_request =
            matches!(class, Class::Arp { .. } | Class::Ndp { .. } | Class::Dhcp(_) | Class::Dhcpv6(_));
        if is_request && let Some(answered) = self.request(index, source, &class, reply) {
            return answered;
        }
        self.ctx.core.guest.heard(source, sender(&class));
        self.packet(Storage::Frame(index), class, &offload)
    }

    /// Answers frame `index` of the batch, which is of `class` and came from the station `source`.
    /// `None` if it is for no responder.
    #[cold]
    fn request(
        &mut self,
        index: usize,
        source: Mac,
        class: &Class,
        reply: &mut [u8],
    ) -> Option<Result<(), DropReason>> {
        let core = &mut self.ctx.core;
        let frame = core.link.frame(index)?.head;
        let mut leases = core.leases.take();
        let holder = |addr| core.holder(addr, source);
        let response =
            responder::respond(&core.services, leases.as_deref_mut(), source, class, frame, holder, reply);
        core.leases = leases;
        let response = response?;
        let reply = response.reply.and_then(|len| reply.get(..len).ok_or(DropReason::Truncated));
        log::debug!("{}", responder::Told { source, class, frame, reply });
        match response.claimed {
            Some(addr) => core.guest.claimed(source, addr),
            None => core.guest.heard(source, sender(class)),
        }
        Some(reply.map(|reply| core.send(reply)))
    }

    /// Hands the packet at `place` to its protocol.
    pub(super) fn packet(
        &mut self,
        place: Storage,
        class: Class,
        offload: &Offload,
    ) -> Result<(), DropReason> {
        let is_off = class.sender().is_some_and(|sender| self.ctx.core.guest.family(*sender).off);
        enabled(!is_off)?;
        match class {
            Class::Tcp { src, dst, segment, marks, payload } => {
                enabled(self.protocols.tcp)?;
                self.segment((src, dst), &segment, marks, &place.piece(payload))
            }
            // Requests to servers that are switched off here, but perhaps not elsewhere.
            Class::Udp(datagram) | Class::Dhcp(datagram) | Class::Dhcpv6(datagram) => {
                if datagram.src.addr.is_unspecified() {
                    return Err(DropReason::IpSource);
                }
                enabled(self.protocols.udp)?;
                self.datagram(&datagram, place.piece(datagram.payload.clone()), offload)
            }
            Class::Echo { src, dst, id, marks, payload, .. } => {
                enabled(self.protocols.icmp)?;
                let (guest, message) = (Endpoint::new(src, id), place.piece(payload));
                self.echo_request(&EchoRequest { guest, dst, marks, message })
            }
            Class::Complaint { complaint, .. } => {
                enabled(self.protocols.icmp)?;
                self.complaint(&complaint)
            }
            Class::Membership { src, dst, ttl, message } => {
                self.common.groups.report(&mut self.ctx, (src, dst, ttl), &place.piece(message))
            }
            Class::Arp { .. } | Class::Ndp { .. } => Err(DropReason::ServiceOff),
        }
    }
}

/// Who sent a packet. What looks whether others have its address has none yet (RFC 4862, section
/// 5.4.2).
pub(super) fn sender(class: &Class) -> Option<&Addr> {
    class.sender().filter(|sender| !sender.is_unspecified())
}

/// Refuses what is switched off.
fn enabled(is_on: bool) -> Result<(), DropReason> {
    if is_on { Ok(()) } else { Err(DropReason::Disabled) }
}

impl<L: Link> Core<L> {
    /// Records frame `index` of the batch.
    #[cold]
    fn record_received(&self, capture: &dyn Capture, index: usize, frame: &Frame<'_>) {
        let headers = frame.len.min(capture::HEADERS).min(frame.head.len());
        let mut rest = Gather::new();
        self.link.payload(index, headers..frame.len, &mut rest);
        capture::record(capture, self.now, (&frame.head[..headers], &rest), &frame.offload);
    }
}

/// The station of the guest that sent a frame, which is not the one that is ours. A frame for
/// another station than those that the guest knows from us is none of ours: a bridge floods what
/// stations behind it send each other until it knows where these are. It says nothing about the
/// guest either, as what it carries was not meant for us.
#[inline]
fn station(head: &[u8], ours: Mac, neighbours: &mut Neighbours) -> Result<Mac, DropReason> {
    let (destination, source) = classify::stations(head)?;
    if source == ours {
        log::warn!(
            "A frame is dropped that comes from {ours}, which is our own MAC address: the guest's has to differ"
        );
        Err(DropReason::MacSource)
    } else if destination == ours || destination.is_group() || neighbours.has(destination) {
        Ok(source)
    } else {
        Err(DropReason::MacDestination)
    }
}
