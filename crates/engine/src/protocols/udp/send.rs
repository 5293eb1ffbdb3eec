//! Sending datagrams: as few system calls, and messages, as the kernel allows.
//!
//! Each datagram is sent once or reported as a [`Loss`]. What was sent is remembered as a
//! [`Position`], which stands between two datagrams, as the kernel may take some messages of a call,
//! and may refuse to cut what it would take piece by piece.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use passt_proto::time::{Duration, Instant};
use passt_sys::dgram::{self, BATCH, Envelope, Inbox, Outgoing};
use passt_sys::iovec::Gather;
use rustix::io::Errno;

use super::Which;
use crate::core::{Core, DontFragment, Payload, Storage};
use crate::link::Link;

/// Most datagrams that the kernel cuts one message into (`UDP_MAX_SEGMENTS`), and
/// most that wait in a batch.
pub(super) const MAX_CUTS: usize = 64;
/// Most bytes of such a message.
const MAX_CUT_BYTES: usize = 65_000;
/// How long a flow's messages are not left to the kernel to be cut once it refused: what is too
/// large for a path may be smaller next time, and routes change.
const NO_CUTS: Duration = Duration::from_secs(1);

/// One datagram, or several that were joined: payload that is to be cut every `segment` bytes
/// unless that is zero.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) payload: Payload,
    pub(super) segment: u16,
}

impl Item {
    /// Payload that is cut if it has more than one segment.
    pub(super) fn new(payload: Payload, segment: u16) -> Self {
        let segment = if payload.len() > usize::from(segment) { segment } else { 0 };
        Self { payload, segment }
    }

    /// A message that was received, joined datagrams perhaps.
    pub(super) fn received(inbox: &Inbox, index: usize) -> Option<Self> {
        let (len, segment) = inbox.size(index)?;
        Some(Self::new(Storage::Message(index).piece(0..len), segment))
    }

    /// A tally with this item.
    pub(super) fn add_to(&self, (datagrams, bytes): Tally) -> Tally {
        (datagrams + self.datagrams(), bytes + self.payload.len())
    }

    /// How many datagrams it is.
    pub(crate) fn datagrams(&self) -> usize {
        if self.segment == 0 { 1 } else { self.payload.len().div_ceil(self.segment.into()) }
    }
}

/// How many datagrams some messages of the inbox are.
pub(crate) fn datagrams(inbox: &Inbox, messages: Range<usize>) -> usize {
    messages.filter_map(|index| Item::received(inbox, index)).map(|item| item.datagrams()).sum()
}

/// How many datagrams, and their bytes.
pub(super) type Tally = (usize, usize);

/// How many datagrams some messages of the inbox are, and their bytes.
pub(super) fn tally(inbox: &Inbox, messages: Range<usize>) -> Tally {
    let sizes = messages.filter_map(|index| inbox.size(index));
    sizes.fold((0, 0), |(datagrams, bytes), (len, segment)| {
        let count = if segment == 0 { 1 } else { len.div_ceil(segment.into()).max(1) };
        (datagrams + count, bytes + len)
    })
}

/// Whether messages of a flow are left to the kernel to be cut (`UDP_SEGMENT`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cuts {
    /// Not before this time.
    refused: Option<Instant>,
}

impl Cuts {
    fn allowed(&self, now: Instant) -> bool {
        self.refused.is_none_or(|until| until <= now)
    }

    fn refuse(&mut self, now: Instant) {
        self.refused = Some(now + NO_CUTS);
    }
}

/// A place between the datagrams of a list of items: so many bytes into the payload of one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    item: usize,
    offset: usize,
}

/// Datagrams that could not be sent, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// How many, one after the other.
    pub(super) datagrams: usize,
    /// Payload of the first of them.
    pub(super) payload: Payload,
    pub(super) error: Errno,
}

/// One message to be sent.
#[derive(Clone, Copy, Debug)]
struct Outbound {
    /// Where it ends.
    end: Position,
    datagrams: usize,
    /// Bytes of each datagram if the kernel is to cut it, else zero.
    segment: u16,
}

/// How to send.
pub(super) struct Sender<'a> {
    pub(super) fd: BorrowedFd<'a>,
    pub(super) envelope: Envelope,
    /// The family of the packets.
    pub(super) v4: bool,
    /// What the socket was told about fragments, and which it is, if others send through it.
    pub(super) shared: Option<(Which, &'a DontFragment)>,
}

impl Sender<'_> {
    /// Sends what `items` have from `at` on, up to the end, or up to what cannot be sent. That is
    /// returned, and `at` is behind it then.
    pub(super) fn deliver<L: Link>(
        &self,
        core: &Core<L>,
        items: &[Item],
        at: &mut Position,
        cuts: &mut Cuts,
    ) -> Option<Loss> {
        let mut again = true;
        while at.item < items.len() {
            let cut = cuts.allowed(core.now);
            let error = match self.send(core, items, *at, cut) {
                Ok(end) => {
                    (*at, again) = (end, true);
                    continue;
                }
                Err(error) => error,
            };
            let Some(first) = Outbound::next(items, *at, cut) else { break };
            if again && !is_shortage(error) {
                // It may be about an earlier datagram: that is in the error queue.
                again = false;
            } else if first.segment != 0 && refuses_cuts(error) {
                cuts.refuse(core.now);
                again = true;
            } else {
                let start = std::mem::replace(at, first.end);
                return Some(Loss::new(items, start, first.datagrams, error));
            }
        }
        None
    }

    /// Sends messages in one call, and returns where those end that the kernel took: one at least.
    fn send<L: Link>(
        &self,
        core: &Core<L>,
        items: &[Item],
        at: Position,
        cuts: bool,
    ) -> Result<Position, Errno> {
        let mut data = Gather::new();
        let mut messages = ArrayVec::<_, BATCH>::new();
        let mut ends = ArrayVec::<_, BATCH>::new();
        let mut next = at;
        while let Some(message) = Outbound::next(items, next, cuts)
            && !messages.is_full()
        {
            let first = data.len();
            if !gather(core, items, next..message.end, &mut data) {
                break;
            }
            messages.push(Outgoing { first, buffers: data.len() - first, segment: message.segment });
            ends.push(message.end);
            next = message.end;
        }
        if messages.is_empty() {
            return Err(Errno::MSGSIZE);
        }
        let sent = dgram::send(self.fd, &data, &messages, &self.envelope, self.v4)
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        ends.get(sent.wrapping_sub(1)).copied().ok_or(Errno::AGAIN)
    }
}

/// Appends what items have within `range`; false if it does not fit.
fn gather<'a, L: Link>(
    core: &'a Core<L>,
    items: &[Item],
    range: Range<Position>,
    data: &mut Gather<'a>,
) -> bool {
    let Range { start, end } = range;
    (start.item..=end.item).zip(items.get(start.item..).unwrap_or_default()).all(|(place, item)| {
        let from = if place == start.item { start.offset } else { 0 };
        let to = if place == end.item { end.offset } else { item.payload.len() };
        from == to || core.append(&item.payload.part(from..to), data)
    })
}

impl Outbound {
    /// The message that begins at a place; several datagrams only if the kernel `cuts` it.
    fn next(items: &[Item], at: Position, cuts: bool) -> Option<Self> {
        let rest = items.get(at.item..).unwrap_or_default();
        let first = rest.first()?;
        let left = first.payload.len().saturating_sub(at.offset);
        if first.segment != 0 {
            let segment = usize::from(first.segment);
            let most = if cuts { (MAX_CUT_BYTES / segment).clamp(1, MAX_CUTS) } else { 1 };
            let len = left.min(most * segment);
            let datagrams = len.div_ceil(segment);
            let segment = if datagrams > 1 { first.segment } else { 0 };
            return Some(Self { end: at.moved(len, len == left), datagrams, segment });
        }
        let datagrams = if cuts { alike(rest, MAX_CUTS, MAX_CUT_BYTES) } else { 1 };
        let segment = if datagrams > 1 { u16::try_from(left).ok()? } else { 0 };
        let end = Position { item: at.item + datagrams, offset: 0 };
        Some(Self { end, datagrams, segment })
    }
}

impl Position {
    /// The place `len` bytes on, which `ends` the item.
    fn moved(self, len: usize, ends: bool) -> Self {
        if ends {
            Self { item: self.item + 1, offset: 0 }
        } else {
            Self { offset: self.offset + len, ..self }
        }
    }
}

/// How many items at the start are alike, so that they can be joined: each as long as the first,
/// but for a shorter one at the end; no more than `most`, and with no more than so many `bytes`.
pub(super) fn alike(items: &[Item], most: usize, bytes: usize) -> usize {
    let Some((first, others)) = items.split_first() else { return 0 };
    let size = first.payload.len();
    let (mut count, mut total, mut last) = (1, size, size);
    for item in others {
        let len = item.payload.len();
        total += len;
        let end = last < size || len > size || len == 0;
        if end || item.segment != 0 || total > bytes || count == most {
            break;
        }
        (count, last) = (count + 1, len);
    }
    count
}

impl Loss {
    fn new(items: &[Item], at: Position, datagrams: usize, error: Errno) -> Self {
        let payload = items.get(at.item).map_or(Payload::NONE, |item| {
            let whole = if item.segment == 0 { usize::MAX } else { item.segment.into() };
            item.payload.part(at.offset..at.offset.saturating_add(whole))
        });
        Self { datagrams, payload, error }
    }
}

/// There is no room now. What does not fit is lost, as on a network.
fn is_shortage(error: Errno) -> bool {
    matches!(error, Errno::AGAIN | Errno::NOBUFS)
}

/// The kernel, or the device it would send through, cannot cut a message.
fn refuses_cuts(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::MSGSIZE | Errno::IO | Errno::OPNOTSUPP | Errno::NOPROTOOPT)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd as _;

    use passt_proto::addr::Mac;
    use passt_proto::guest::Configured;
    use passt_proto::responder;

    use super::*;
    use crate::core::Pools;
    use crate::link::channel::Channel;

    fn items(sizes: &[usize]) -> Vec<Item> {
        sizes.iter().map(|&len| Item { payload: Storage::Message(0).piece(0..len), segment: 0 }).collect()
    }

    /// One message has datagrams of one size, but for a shorter one at the end, none of them empty,
    /// and no more than the kernel cuts (`UDP_MAX_SEGMENTS`, and what a packet's length can say).
    #[test]
    fn what_goes_into_one_message() {
        let many = [100; 100];
        let exact = MAX_CUT_BYTES / 10;
        for (sizes, count) in [
            (&[100][..], 1),
            (&[100, 100, 100], 3),
            (&[100, 100, 50, 50], 3),
            (&[100, 50, 100], 2),
            (&[100, 101], 1),
            (&[100, 100, 101], 2),
            (&[100, 0, 100], 1),
            (&[0, 0], 1),
            (&[0, 100], 1),
            (&many, MAX_CUTS),
            (&[30_000, 30_000, 30_000], 2),
            (&[exact; 11], 10),
            (&[exact + 1; 11], 9),
        ] {
            let items = items(sizes);
            assert_eq!(alike(&items, MAX_CUTS, MAX_CUT_BYTES), count, "{sizes:?}");
            let uncut = Outbound::next(&items, Position::default(), false).expect("a message");
            assert_eq!((uncut.datagrams, uncut.segment), (1, 0));
        }
        let mut joined = items(&[100, 100, 100]);
        joined[1].segment = 10;
        assert_eq!(alike(&joined, MAX_CUTS, MAX_CUT_BYTES), 1, "it has several itself");
    }

    #[test]
    fn joined_datagrams_are_cut_into_as_few_messages_as_may_be() {
        for (len, segment, datagrams, cut) in [
            (14_000, 1400, 10, 1400),
            (65_507, 1400, 46, 1400),
            (65_507, 100, 64, 100),
            (1000, 1000, 1, 0),
            (900, 1000, 1, 0),
        ] {
            let items = [Item { payload: Storage::Message(0).piece(0..len), segment }];
            let message = Outbound::next(&items, Position::default(), true).expect("a message");
            assert_eq!((message.datagrams, message.segment), (datagrams, cut), "{len} {segment}");
        }
        assert!(Outbound::next(&[], Position::default(), true).is_none());
    }

    /// Datagrams that lie in a frame, in a message and in a block leave in one go, each whole and
    /// in order.
    #[test]
    fn payload_lies_anywhere() {
        let pools = Pools::new(1, Instant::from_millis(1)).unwrap();
        let services = responder::Config {
            our_mac: Mac([2; 6]),
            mtu: 1500,
            v4: None,
            v6: None,
            search: ArrayVec::new(),
            hostname: None,
            fqdn: None,
            services: responder::Services::empty(),
            custom: responder::custom::Custom::default(),
        };
        let (guest, none) = (Configured::default(), [None, None]);
        let link = Channel::plain();
        let mut core = Core::new(link, &services, &guest, &none, Instant::from_millis(1), pools).unwrap();
        let [peer, host] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        peer.connect(host.local_addr().unwrap()).unwrap();
        host.connect(peer.local_addr().unwrap()).unwrap();
        core.link.from_guest.push_back(b"....a frame".to_vec().into());
        core.link.receive(0).unwrap();
        peer.send(b"a message").unwrap();
        core.inbox.receive(host.as_fd()).unwrap();
        let block = core.pool.take().unwrap();
        core.pool.bytes_mut(block)[100..107].copy_from_slice(b"a block");
        let items = [
            Storage::Frame(0).piece(4..11),
            Storage::Message(0).piece(0..9),
            Storage::Block(block).piece(100..107),
            Storage::Frame(0).piece(6..11),
        ];
        let items = items.map(|payload| Item::new(payload, 0));
        let way = Sender { fd: host.as_fd(), envelope: Envelope::default(), v4: true, shared: None };
        let (mut at, mut cuts) = (Position::default(), Cuts::default());
        assert_eq!(way.deliver(&core, &items, &mut at, &mut cuts), None);
        for expected in ["a frame", "a message", "a block", "frame"] {
            let mut datagram = [0; 99];
            let len = peer.recv(&mut datagram).unwrap();
            assert_eq!(str::from_utf8(&datagram[..len]), Ok(expected));
        }
        // What is not there is not sent.
        let gone = [Item::new(Storage::Frame(7).piece(0..3), 0)];
        let loss = way.deliver(&core, &gone, &mut Position::default(), &mut cuts).unwrap();
        assert_eq!((loss.datagrams, loss.error), (1, Errno::MSGSIZE));
    }

    #[test]
    fn whose_errors_these_are() {
        for (error, shortage, cuts) in [
            (Errno::AGAIN, true, false),
            (Errno::NOBUFS, true, false),
            (Errno::INVAL, false, true),
            (Errno::MSGSIZE, false, true),
            (Errno::IO, false, true),
            (Errno::OPNOTSUPP, false, true),
            (Errno::NOPROTOOPT, false, true),
            (Errno::CONNREFUSED, false, false),
        ] {
            assert_eq!((is_shortage(error), refuses_cuts(error)), (shortage, cuts), "{error}");
        }
    }
}
