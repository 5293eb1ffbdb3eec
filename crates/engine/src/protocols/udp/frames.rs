//! Datagrams on their way to the guest: super-frames where the link takes them, fragments where
//! they exceed its MTU.

use std::ops::Range;

use arrayvec::ArrayVec;
use passt_proto::drop::DropReason;
use passt_proto::wire::build::{MAX_HEADERS, Path};
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::ip::protocol;
use passt_proto::wire::{ethernet, udp};
use passt_sys::dgram::BATCH;
use zerocopy::IntoBytes;

use super::send::{Item, alike};
use super::{Udp, UdpFlow, errors};
use crate::core::payload::own;
use crate::core::{Core, Payload};
use crate::flow::Key;
use crate::link::{Link, MAX_PAYLOAD};
use crate::protocols::put::{put, put_fragments};
use crate::protocols::{marks, path_from_guest, path_to_guest};

/// Most datagrams in a super-frame (`UDP_MAX_SEGMENTS` of Linux).
const MAX_DATAGRAMS: usize = 64;

impl Udp {
    /// Sends the datagrams in the inbox at `messages`, all of one flow, in super-frames
    /// where the link takes them, in fragments where they exceed the guest's MTU.
    pub(crate) fn send_frames<L: Link>(
        &mut self,
        core: &mut Core<L>,
        path: &Path,
        ports: (u16, u16),
        messages: Range<usize>,
    ) {
        let mut items = ArrayVec::<_, BATCH>::new();
        items.extend(messages.filter_map(|index| Item::received(&core.inbox, index)));
        let fits = core.mtu_to(path.dst).saturating_sub(path.header_len() - ethernet::LEN + udp::LEN);
        let most = if core.caps.udp_segmentation { MAX_DATAGRAMS } else { 1 };
        let mut rest = items.as_slice();
        while let Some(Item { payload, segment }) = rest.first() {
            let size = if *segment == 0 { payload.len() } else { usize::from(*segment) };
            let mut count = 1;
            if size > fits {
                for part in parts(payload, size) {
                    if part.len() > fits {
                        self.next_id = self.next_id.wrapping_add(1);
                        fragments(core, path, (ports, self.next_id), &part);
                    } else {
                        super_frame(core, path, ports, [part], 0);
                    }
                }
            } else if *segment != 0 {
                for part in parts(payload, MAX_PAYLOAD / size * size) {
                    super_frame(core, path, ports, [part], *segment);
                }
            } else {
                count = alike(rest, most, MAX_PAYLOAD);
                let joined = rest.iter().take(count).map(|item| item.payload.clone());
                super_frame(core, path, ports, joined, u16::try_from(size).unwrap_or(0));
            }
            rest = rest.get(count..).unwrap_or_default();
        }
    }
}

/// Sends one datagram that exceeds the guest's MTU.
fn fragments<L: Link>(
    core: &mut Core<L>,
    path: &Path,
    ((from, to), id): ((u16, u16), u32),
    payload: &Payload,
) {
    let len = payload.len() + udp::LEN;
    let mut transport =
        udp::Header { src_port: from.into(), dst_port: to.into(), len: 0.into(), checksum: 0.into() };
    transport.len = u16::try_from(len).unwrap_or(0).into();
    let sum = Sum::pseudo(path.src, path.dst, protocol::UDP, len).bytes(transport.as_bytes());
    let sum = sum.bytes(own(&core.inbox, &core.pool, payload).unwrap_or_default());
    transport.checksum = sum.finish_nonzero().into();
    put_fragments(core, path, (protocol::UDP, id), transport.as_bytes(), payload);
}

impl UdpFlow {
    /// Passes on the errors that its own socket has. Whether there were any.
    pub(super) fn failures<L: Link>(&self, core: &mut Core<L>, key: &Key) -> bool {
        let path = self.path_from_guest(core, key);
        self.fd().is_some_and(|fd| errors::own(core, key, &path, fd))
    }

    /// The path of what it sent.
    pub(super) fn path_from_guest<L: Link>(&self, core: &Core<L>, key: &Key) -> Path {
        path_from_guest(core, key, &self.station).marked(self.marks)
    }

    /// Sends the datagrams in the inbox at `messages` to the guest.
    pub(super) fn send_frames<L: Link>(
        &self,
        udp: &mut Udp,
        core: &mut Core<L>,
        key: &Key,
        messages: Range<usize>,
    ) {
        let Some((first, _)) = core.inbox.message(messages.start) else { return };
        core.link.steer(self.station.queue());
        let path = path_to_guest(core, key, &self.station).marked(marks::received(&first));
        udp.send_frames(core, &path, (key.remote.port, key.guest.port), messages);
    }
}

/// Sends a datagram, or several of `segment` bytes, the last perhaps shorter, as one frame.
fn super_frame<L: Link>(
    core: &mut Core<L>,
    path: &Path,
    ports: (u16, u16),
    payload: impl IntoIterator<Item = Payload> + Clone,
    segment: u16,
) {
    let mut header = [0; MAX_HEADERS];
    let len = payload.clone().into_iter().map(|part| part.len()).sum();
    match path.emit_udp(&mut header, ports, len, segment) {
        Some((end, offload)) => put(core, &header[..end], &offload, payload),
        None => core.dropped_all(DropReason::Unmapped, len.div_ceil(usize::from(segment).max(1)).max(1)),
    }
}

/// Payload in parts of `size` bytes, the last perhaps shorter.
fn parts(payload: &Payload, size: usize) -> impl Iterator<Item = Payload> {
    let size = size.max(1);
    (0..payload.len()).step_by(size).map(move |start| payload.part(start..start + size))
}
