//! The direction to the guest: what all protocols build alike.

use std::ops::Range;

use passt_proto::addr::Addr;
use passt_proto::drop::DropReason;
use passt_proto::wire::build::{MAX_HEADERS, Path};
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::ip::protocol;
use passt_proto::wire::offload::Offload;
use passt_proto::wire::report::Quoted;
use passt_proto::wire::{ethernet, icmp, udp};
use passt_sys::iovec::Scatter;
use zerocopy::IntoBytes;

use crate::flow::Key;
use crate::link::{Link, MAX_PAYLOAD};
use crate::worker::Context;

/// Longest error: RFC 4443, section 2.4, and an Ethernet header.
const ERROR_ROOM: usize = 1280 + 14;
/// The MTU of a guest that is told none: that of Ethernet.
const DEFAULT_MTU: usize = 1500;
/// Most datagrams in a super-frame (`UDP_MAX_SEGMENTS` of Linux).
const MAX_DATAGRAMS: usize = 64;

impl<L: Link> Context<L> {
    /// Tells the guest on behalf of `from` that its packet `quoted`, which carried at
    /// least `payload`, was not delivered.
    pub(crate) fn icmp_error(&mut self, from: Addr, header: icmp::Header, quoted: &Quoted, payload: &[u8]) {
        let path = self.path(from, quoted.path.src);
        let mut headers = [0; MAX_HEADERS];
        let Some((len, rest)) = path.emit_error(&mut headers, header, quoted, payload) else { return };
        let mut frame = [0; ERROR_ROOM];
        let (head, body) = frame.split_at_mut(len);
        head.copy_from_slice(&headers[..len]);
        body[..rest].copy_from_slice(&payload[..rest]);
        self.send(&frame[..len + rest]);
    }

    /// Sends the ICMP message in the inbox at `index`, with `header` instead of its own.
    pub(crate) fn icmp_message(&mut self, key: &Key, header: icmp::Header, index: usize) {
        let path = self.path(key.remote.addr, key.guest.addr);
        let Some(body) = self.udp.inbox.message(index).and_then(|(_, m)| m.get(icmp::LEN..)) else { return };
        let (sum, len) = (Sum::new().bytes(body), body.len());
        let mut headers = [0; MAX_HEADERS];
        match path.emit_icmp(&mut headers, header, sum, len) {
            Some(end) => {
                self.put(&headers[..end], &Offload::default(), index..index + 1, icmp::LEN..usize::MAX);
            }
            None => self.dropped(DropReason::Unmapped),
        }
    }

    /// Sends the datagrams in the inbox at `messages`, all of one flow, in super-frames
    /// where the link takes them, in fragments where they exceed the guest's MTU.
    pub(crate) fn datagrams(&mut self, key: &Key, messages: Range<usize>) {
        let path = self.path(key.remote.addr, key.guest.addr);
        let ports = (key.remote.port, key.guest.port);
        let fits = self.mtu().saturating_sub(path.header_len() - ethernet::LEN + udp::LEN);
        let mut next = messages.start;
        while next < messages.end {
            let Some((message, _)) = self.udp.inbox.message(next) else { return };
            let (len, joined) = (message.len, message.segment != 0);
            let size = if joined { message.segment.into() } else { len };
            let mut count = 1;
            if size > fits {
                for part in parts(len, size) {
                    if part.len() > fits {
                        self.fragments(&path, ports, next, part);
                    } else {
                        self.super_frame(&path, ports, next..next + 1, part, 0);
                    }
                }
            } else if joined {
                for part in parts(len, MAX_PAYLOAD / size * size) {
                    self.super_frame(&path, ports, next..next + 1, part, message.segment);
                }
            } else {
                count = self.alike(next..messages.end);
                let segment = u16::try_from(size).unwrap_or(0);
                self.super_frame(&path, ports, next..next + count, 0..usize::MAX, segment);
            }
            next += count;
        }
    }

    /// Sends a datagram, or several of `segment` bytes, the last perhaps shorter, as one frame.
    /// Its payload is `within` of each of `messages`.
    fn super_frame(
        &mut self,
        path: &Path,
        ports: (u16, u16),
        messages: Range<usize>,
        within: Range<usize>,
        segment: u16,
    ) {
        let mut header = [0; MAX_HEADERS];
        let len = messages.clone().map(|i| self.received(i, &within).len()).sum();
        match path.emit_udp(&mut header, ports, len, segment) {
            Some((end, offload)) => self.put(&header[..end], &offload, messages, within),
            None => self.dropped_all(DropReason::Unmapped, len.div_ceil(usize::from(segment).max(1)).max(1)),
        }
    }

    /// How many datagrams at the start of `messages` fit one super-frame: of one size, but for a
    /// shorter one at the end.
    fn alike(&self, messages: Range<usize>) -> usize {
        let most = if self.link.caps().udp_segmentation { MAX_DATAGRAMS } else { 1 };
        let mut sizes = messages.map_while(|i| self.udp.inbox.message(i)).map(|(m, _)| (m.len, m.segment));
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

    /// Sends one datagram that exceeds the guest's MTU.
    fn fragments(&mut self, path: &Path, (from, to): (u16, u16), index: usize, part: Range<usize>) {
        let len = part.len() + udp::LEN;
        let mut transport =
            udp::Header { src_port: from.into(), dst_port: to.into(), len: 0.into(), checksum: 0.into() };
        transport.len = u16::try_from(len).unwrap_or(0).into();
        let sum = Sum::pseudo(path.src, path.dst, protocol::UDP, len).bytes(transport.as_bytes());
        let sum = sum.bytes(self.received(index, &part));
        transport.checksum = sum.finish_nonzero().into();
        self.udp.next_id = self.udp.next_id.wrapping_add(1);
        for fragment in path.fragments(len, self.mtu()) {
            let mut header = [0; MAX_HEADERS];
            let id = self.udp.next_id;
            let end = path.emit_fragment(&mut header, protocol::UDP, id, &fragment);
            let Some(mut end) = end else { return self.dropped(DropReason::Unmapped) };
            if fragment.offset == 0 {
                header[end..end + udp::LEN].copy_from_slice(transport.as_bytes());
                end += udp::LEN;
            }
            let start = part.start + fragment.offset.saturating_sub(udp::LEN);
            let stop = part.start + fragment.offset + fragment.len - udp::LEN;
            self.put(&header[..end], &Offload::default(), index..index + 1, start..stop);
        }
    }

    /// Sends a frame of `header` and what is `within` each of `messages`.
    fn put(&mut self, header: &[u8], offload: &Offload, messages: Range<usize>, within: Range<usize>) {
        let total = messages.clone().map(|i| self.received(i, &within).len()).sum();
        let mut done = 0;
        if total > 0 {
            let mut room = Scatter::new();
            let (link, inbox) = (&mut self.link, &self.udp.inbox);
            if !link.reserve(header.len(), total, offload.gso_size.into(), &mut room) {
                return self.dropped_all(DropReason::LinkBusy, offload.pieces(total).count());
            }
            for (_, payload) in messages.filter_map(|i| inbox.message(i)) {
                done += room.copy_in(done, slice(payload, &within));
            }
        }
        if done < total {
            return self.dropped_all(DropReason::Offload, offload.pieces(total).count());
        }
        self.commit(header, offload, total);
    }

    fn received(&self, index: usize, within: &Range<usize>) -> &[u8] {
        self.udp.inbox.message(index).map_or(&[], |(_, payload)| slice(payload, within))
    }

    /// Bytes of the largest packet that the guest's link takes, whatever the link here does.
    pub(crate) fn mtu(&self) -> usize {
        match self.services.mtu {
            0 => DEFAULT_MTU,
            mtu => mtu.into(),
        }
    }
}

/// What of `range` there is in `bytes`.
fn slice<'a>(bytes: &'a [u8], range: &Range<usize>) -> &'a [u8] {
    bytes.get(range.start..range.end.min(bytes.len())).unwrap_or_default()
}

/// `0..len` in steps of `size`, the last perhaps shorter.
fn parts(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(size.max(1)).map(move |start| start..len.min(start + size))
}
