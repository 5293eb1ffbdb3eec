//! Datagrams on their way to the guest: super-frames where the link takes them, fragments where they exceed its MTU.

use std::ops::Range;

use passt_proto::drop::DropReason;
use passt_proto::wire::build::{MAX_HEADERS, Path};
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::ip::protocol;
use passt_proto::wire::offload::Offload;
use passt_proto::wire::{ethernet, udp};
use zerocopy::IntoBytes;

use super::Udp;
use crate::core::Core;
use crate::flow::Key;
use crate::link::{Link, MAX_PAYLOAD};
use crate::protocols::inbox::{put, received};

/// Most datagrams in a super-frame (`UDP_MAX_SEGMENTS` of Linux).
const MAX_DATAGRAMS: usize = 64;

impl Udp {
    /// Sends the datagrams in the inbox at `messages`, all of one flow, in super-frames
    /// where the link takes them, in fragments where they exceed the guest's MTU.
    pub(super) fn send_frames<L: Link>(&mut self, core: &mut Core<L>, key: &Key, messages: Range<usize>) {
        let path = core.path(key.remote.addr, key.guest.addr);
        let ports = (key.remote.port, key.guest.port);
        let fits = core.mtu().saturating_sub(path.header_len() - ethernet::LEN + udp::LEN);
        let mut next = messages.start;
        while next < messages.end {
            let Some((message, _)) = core.inbox.message(next) else { return };
            let (len, joined) = (message.len, message.segment != 0);
            let size = if joined { message.segment.into() } else { len };
            let mut count = 1;
            if size > fits {
                for part in parts(len, size) {
                    if part.len() > fits {
                        self.fragments(core, &path, ports, next, part);
                    } else {
                        super_frame(core, &path, ports, next..next + 1, part, 0);
                    }
                }
            } else if joined {
                for part in parts(len, MAX_PAYLOAD / size * size) {
                    super_frame(core, &path, ports, next..next + 1, part, message.segment);
                }
            } else {
                count = alike(core, next..messages.end);
                let segment = u16::try_from(size).unwrap_or(0);
                super_frame(core, &path, ports, next..next + count, 0..usize::MAX, segment);
            }
            next += count;
        }
    }

    /// Sends one datagram that exceeds the guest's MTU.
    fn fragments<L: Link>(
        &mut self,
        core: &mut Core<L>,
        path: &Path,
        (from, to): (u16, u16),
        index: usize,
        part: Range<usize>,
    ) {
        let len = part.len() + udp::LEN;
        let mut transport =
            udp::Header { src_port: from.into(), dst_port: to.into(), len: 0.into(), checksum: 0.into() };
        transport.len = u16::try_from(len).unwrap_or(0).into();
        let sum = Sum::pseudo(path.src, path.dst, protocol::UDP, len).bytes(transport.as_bytes());
        let sum = sum.bytes(received(core, index, &part));
        transport.checksum = sum.finish_nonzero().into();
        self.next_id = self.next_id.wrapping_add(1);
        for fragment in path.fragments(len, core.mtu()) {
            let mut header = [0; MAX_HEADERS];
            let id = self.next_id;
            let end = path.emit_fragment(&mut header, protocol::UDP, id, &fragment);
            let Some(mut end) = end else { return core.dropped(DropReason::Unmapped) };
            if fragment.offset == 0 {
                header[end..end + udp::LEN].copy_from_slice(transport.as_bytes());
                end += udp::LEN;
            }
            let start = part.start + fragment.offset.saturating_sub(udp::LEN);
            let stop = part.start + fragment.offset + fragment.len - udp::LEN;
            put(core, &header[..end], &Offload::default(), index..index + 1, &(start..stop));
        }
    }
}

/// Sends a datagram, or several of `segment` bytes, the last perhaps shorter, as one frame.
/// Its payload is `within` of each of `messages`.
fn super_frame<L: Link>(
    core: &mut Core<L>,
    path: &Path,
    ports: (u16, u16),
    messages: Range<usize>,
    within: Range<usize>,
    segment: u16,
) {
    let mut header = [0; MAX_HEADERS];
    let len = messages.clone().map(|i| received(core, i, &within).len()).sum();
    match path.emit_udp(&mut header, ports, len, segment) {
        Some((end, offload)) => put(core, &header[..end], &offload, messages, &within),
        None => core.dropped_all(DropReason::Unmapped, len.div_ceil(usize::from(segment).max(1)).max(1)),
    }
}

/// How many datagrams at the start of `messages` fit one super-frame: of one size, but for a
/// shorter one at the end.
fn alike<L: Link>(core: &Core<L>, messages: Range<usize>) -> usize {
    let most = if core.caps.udp_segmentation { MAX_DATAGRAMS } else { 1 };
    let mut sizes = messages.map_while(|i| core.inbox.message(i)).map(|(m, _)| (m.len, m.segment));
    let Some((size, _)) = sizes.next() else { return 0 };
    let (mut count, mut total, mut last) = (1, size, size);
    for (len, segment) in sizes {
        total += len;
        if count == most || segment != 0 || last < size || len > size || len == 0 || total > MAX_PAYLOAD {
            break;
        }
        (count, last) = (count + 1, len);
    }
    count
}

/// `0..len` in steps of `size`, the last perhaps shorter.
fn parts(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(size.max(1)).map(move |start| start..len.min(start + size))
}
