//! A front end and the driver of its guest in one, for tests and fuzzing: it speaks the protocol on
//! a socket, and has queues in memory that it shares.
//!
//! It relies on the back end, and panics where that breaks a rule. What a hostile one does is sent
//! by [`Machine::request`], and what a hostile guest does is written to its
//! [region](Machine::region).
#![expect(clippy::missing_panics_doc, reason = "for tests alone")]

use std::cell::RefCell;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use passt_sys::event::Event;
use passt_sys::msg;
use passt_sys::shared::{self, Region};

use super::message::{Header, Reply};
use super::{Features, ProtocolFeatures, VhostUserLink};
use crate::link::channel::Packet;
use crate::link::virtio::Layout;
use crate::link::virtio::driver::{ARENA, Receive, Terms, Transmit};

/// The guest's address of its memory.
pub const GUEST: u64 = 0x4000_0000;
/// The front end's addresses of its two halves.
pub const USER: [u64; 2] = [0x7f12_0000_0000, 0x7f55_0000_0000];
/// Number of the first pair's queue of frames for the guest; those of the next pair follow.
pub const RECEIVE: u32 = 0;
/// Number of the first pair's queue of frames from it.
pub const TRANSMIT: u32 = 1;

const VERSION: u32 = 1;
const NEED_REPLY: u32 = 1 << 3;

/// What the guest has, and what it takes of what is offered.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Features of the device that the driver knows.
    pub features: Features,
    /// Features of the protocol that the front end knows.
    pub protocol: ProtocolFeatures,
    /// Pairs of queues.
    pub pairs: usize,
    /// Descriptors of the queue of frames from the guest.
    pub transmit: u16,
    /// Buffers that the guest can post for frames.
    pub receive: u16,
    /// Bytes of each of these.
    pub buffer: usize,
}

impl Shape {
    /// All features of the device, one pair of queues, and buffers for Ethernet's frames.
    pub fn usual(protocol: ProtocolFeatures) -> Self {
        let features = Features::OFFERED;
        Self { features, protocol, pairs: 1, transmit: 256, receive: 256, buffer: 1600 }
    }
}

/// A virtual machine.
pub struct Machine {
    shape: Shape,
    line: Line,
    memory: OwnedFd,
    region: Region,
    pairs: Vec<Pair>,
    /// By number of the queue.
    kicks: Vec<Event>,
    calls: Vec<Event>,
    errors: Vec<Event>,
    /// Kicks so far.
    kicked: u64,
}

/// How messages travel.
enum Line {
    Socket(UnixStream),
    /// Not by themselves: they wait for [`Machine::deliver`].
    Hand(RefCell<Vec<Letter>>),
}

/// A message that was not delivered so far.
struct Letter {
    header: Header,
    payload: Vec<u8>,
    files: Vec<OwnedFd>,
}

/// A pair of queues.
struct Pair {
    transmit: Transmit,
    receive: Receive,
}

impl Machine {
    /// A machine, and the back end's end of its socket.
    pub fn pair(shape: Shape) -> io::Result<(Self, OwnedFd)> {
        let (socket, theirs) = UnixStream::pair()?;
        Ok((Self::new(shape, socket)?, theirs.into()))
    }

    /// A machine that is connected to a back end.
    pub fn new(shape: Shape, socket: UnixStream) -> io::Result<Self> {
        Self::with(shape, Self::line(socket)?, None)
    }

    /// The same with a file of the caller's as memory, as long as it is.
    pub fn in_file(shape: Shape, socket: UnixStream, file: OwnedFd) -> io::Result<Self> {
        Self::with(shape, Self::line(socket)?, Some(file))
    }

    fn line(socket: UnixStream) -> io::Result<Line> {
        socket.set_nonblocking(true)?;
        Ok(Line::Socket(socket))
    }

    /// A machine without a socket, for those who have many after each other: its messages are
    /// [delivered](Self::deliver) by hand.
    pub fn apart(shape: Shape) -> io::Result<Self> {
        Self::with(shape, Line::Hand(RefCell::default()), None)
    }

    fn with(shape: Shape, line: Line, file: Option<OwnedFd>) -> io::Result<Self> {
        let (_, end) = layouts(shape);
        let buffers = usize::from(Layout::at(0, shape.receive).size) * shape.buffer;
        // Queues are in the first half.
        let least = (end + shape.pairs * (ARENA + buffers)).next_multiple_of(2 * 4096);
        let memory = file.map_or_else(|| shared::memory(least), Ok)?;
        let size = usize::try_from(rustix::fs::fstat(&memory)?.st_size).unwrap_or(0);
        assert!(size >= least, "{size} bytes are not enough");
        let region = Region::map(memory.as_fd(), 0, size)?;
        let events = || (0..2 * shape.pairs).map(|_| Event::new()).collect::<io::Result<Vec<_>>>();
        Ok(Self {
            shape,
            line,
            kicks: events()?,
            calls: events()?,
            errors: events()?,
            pairs: pairs(shape, &region),
            memory,
            region,
            kicked: 0,
        })
    }

    /// The same machine with a driver that knows these features and has not begun: nothing is in its
    /// queues. What else is in memory stays.
    pub fn renew(&mut self, features: Features) {
        self.shape.features = features;
        let (_, end) = layouts(self.shape);
        assert!(self.region.copy_in(0, &vec![0; end]));
        self.pairs = pairs(self.shape, &self.region);
        for kick in &self.kicks {
            kick.clear();
        }
    }

    /// The memory that is shared with the back end.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Its file.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// Where the queue of frames from the guest is.
    pub fn transmit(&self) -> Layout {
        self.pairs[0].transmit.layout()
    }

    /// Where the queue of frames for the guest is.
    pub fn receive(&self) -> Layout {
        self.pairs[0].receive.layout()
    }

    /// Kicks so far.
    pub fn kicked(&self) -> u64 {
        self.kicked
    }

    /// Sends a message.
    pub fn request(&self, request: u32, need_reply: bool, payload: &[u8], files: &[BorrowedFd<'_>]) {
        let flags = if need_reply { VERSION | NEED_REPLY } else { VERSION };
        let size = u32::try_from(payload.len()).expect("a message");
        match &self.line {
            Line::Socket(socket) => {
                let header = [request, flags, size].map(u32::to_ne_bytes);
                let bytes = [header.as_flattened(), payload].concat();
                // It fails where the back end has left.
                let _ = msg::send_with(socket.as_fd(), &bytes, files);
            }
            Line::Hand(letters) => {
                let header = Header { request, need_reply, size: payload.len() };
                let files = files.iter().map(|file| file.try_clone_to_owned().expect("a descriptor"));
                let letter = Letter { header, payload: payload.to_vec(), files: files.collect() };
                letters.borrow_mut().push(letter);
            }
        }
    }

    /// Has a link without a front end do what was sent by a machine [apart](Self::apart).
    pub fn deliver(&self, link: &mut VhostUserLink) {
        let Line::Hand(letters) = &self.line else { panic!("a socket delivers by itself") };
        for Letter { header, payload, files } in letters.take() {
            link.device.pause();
            let files = files.into_iter().collect();
            let reply = link.backend.handle(&mut link.device, header, &payload, files);
            if let Some(reply) = reply {
                check(&reply, header.request);
            }
        }
        link.changed |= !link.watches_all();
    }

    /// Has the link forget the machine.
    pub fn depart(&self, link: &mut VhostUserLink) {
        link.leave();
    }

    /// Sends a message of numbers of 64 bits.
    pub fn numbers(&self, request: u32, need_reply: bool, numbers: &[u64]) {
        self.request(request, need_reply, &words(numbers), &[]);
    }

    /// The next answer: what it is to, and its content. `None` if there is none.
    pub fn answer(&self) -> Option<(u32, Vec<u8>)> {
        let Line::Socket(socket) = &self.line else { return None };
        let mut socket = socket;
        let mut header = [0; 12];
        socket.read_exact(&mut header).ok()?;
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        assert_eq!(word(4), 5, "flags of an answer");
        let mut content = vec![0; usize::try_from(word(8)).expect("a length")];
        socket.read_exact(&mut content).expect("all of an answer");
        Some((word(0), content))
    }

    /// The same if it is a number.
    pub fn number(&self) -> Option<(u32, u64)> {
        let (request, content) = self.answer()?;
        Some((request, u64::from_ne_bytes(content.first_chunk().copied()?)))
    }

    /// Sets up the device, as QEMU does.
    pub fn start(&self) {
        self.greet();
        self.features();
        self.table();
        for index in self.queues() {
            self.queue(index, 0);
        }
    }

    /// Resets the device, and sets its queues up anew.
    pub fn restart(&self) {
        self.numbers(34, false, &[]);
        self.features();
        for index in self.queues() {
            self.enable(index);
            self.place(index, 0);
            self.event(12, index);
        }
    }

    /// Numbers of all queues.
    fn queues(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.kicks.len()).expect("queues")
    }

    /// What is said before the guest's driver is there.
    pub fn greet(&self) {
        self.numbers(1, false, &[]);
        self.numbers(15, false, &[]);
        self.numbers(16, false, &[self.shape.protocol.bits()]);
        self.numbers(3, false, &[]);
        for index in self.queues() {
            self.event(13, index);
            self.event(14, index);
            self.enable(index);
        }
    }

    /// Lets a queue be used, where that has to be said.
    fn enable(&self, index: u32) {
        if self.shape.features.contains(Features::PROTOCOL_FEATURES) {
            self.numbers(18, false, &[pair(index, 1)]);
        }
    }

    /// Features that the driver takes.
    pub fn features(&self) {
        self.numbers(2, false, &[self.shape.features.bits()]);
    }

    /// The guest's memory, in two regions.
    pub fn table(&self) {
        let files = [self.memory.as_fd(); 2];
        self.request(
            5,
            false,
            &[words(&[pair(2, 0)]), words(self.regions().as_flattened())].concat(),
            &files,
        );
    }

    /// The regions as messages have them.
    pub fn regions(&self) -> [[u64; 4]; 2] {
        let half = self.region.size() as u64 / 2;
        [[GUEST, half, USER[0], 0], [GUEST + half, half, USER[1], half]]
    }

    /// A queue that begins at entry `base`.
    pub fn queue(&self, index: u32, base: u16) {
        self.place(index, base);
        self.event(12, index);
        self.event(13, index);
    }

    /// Where it is, and how long.
    fn place(&self, index: u32, base: u16) {
        let layout = self.layout(index);
        self.numbers(8, false, &[pair(index, layout.size.into())]);
        self.numbers(10, false, &[pair(index, base.into())]);
        self.address(index, None);
    }

    /// Says where a queue is, and under which address of the guest writes to its used ring are
    /// noted, if they are.
    pub fn address(&self, index: u32, log: Option<u64>) {
        let layout = self.layout(index);
        let parts = [layout.descriptors, layout.used, layout.available].map(|at| USER[0] + at as u64);
        let first = pair(index, log.is_some().into());
        self.numbers(9, false, &[&[first], parts.as_slice(), &[log.unwrap_or(0)]].concat());
    }

    /// Where a queue is.
    fn layout(&self, index: u32) -> Layout {
        let Pair { transmit, receive } = &self.pairs[number(index) / 2];
        if index.is_multiple_of(2) { receive.layout() } else { transmit.layout() }
    }

    /// Has pages that are written noted in the `size` bytes of a file from `offset` on.
    pub fn log_base(&self, file: BorrowedFd<'_>, size: u64, offset: u64) {
        self.request(6, false, &words(&[size, offset]), &[file]);
    }

    /// Says whether pages that are written are to be noted, as QEMU does: by features of the driver,
    /// and for the used ring of each queue.
    pub fn log(&self, wanted: bool) {
        let logged = if wanted { Features::LOG_ALL } else { Features::empty() };
        self.numbers(2, false, &[(self.shape.features | logged).bits()]);
        for index in self.queues() {
            let used = GUEST + self.layout(index).used as u64;
            self.address(index, wanted.then_some(used));
        }
    }

    /// Sends the descriptor of a queue that a message is about.
    pub fn event(&self, request: u32, index: u32) {
        let events = match request {
            12 => &self.kicks,
            13 => &self.calls,
            _ => &self.errors,
        };
        let event = &events[number(index)];
        self.request(request, false, &words(&[index.into()]), &[event.as_fd()]);
    }

    /// Whether the device said that a queue is broken, since that was asked last.
    pub fn is_broken(&self, index: u32) -> bool {
        self.errors[number(index)].clear()
    }

    /// Whether the guest was interrupted for a queue, since that was asked last.
    pub fn is_interrupted(&self, index: u32) -> bool {
        self.calls[number(index)].clear()
    }

    /// What is readable once the guest is interrupted for a queue.
    pub fn call(&self, index: u32) -> BorrowedFd<'_> {
        self.calls[number(index)].as_fd()
    }

    /// Tells the device that there is something new, whether it wants that or not.
    pub fn kick(&mut self, index: u32) {
        self.kicks[number(index)].signal();
        self.kicked += 1;
    }

    /// Sends a frame in buffers whose first are as long as `cuts` says, metadata included, and kicks
    /// if the device wants that. False if there is no room.
    pub fn send(&mut self, packet: &Packet, cuts: &[usize]) -> bool {
        self.send_by(0, packet, cuts)
    }

    /// The same by the queue of a pair.
    pub fn send_by(&mut self, pair: usize, packet: &Packet, cuts: &[usize]) -> bool {
        self.kicking(pair, |transmit, region| transmit.send(region, packet, cuts))
    }

    /// Sends frames with these headers and as many bytes of payload, whatever they are, as long as
    /// there is room, and kicks once if the device wants that; how many went.
    pub fn send_any(&mut self, frames: &[(Packet, usize)]) -> usize {
        self.kicking(0, |transmit, region| {
            frames
                .iter()
                .take_while(|(headers, payload)| transmit.send_any(region, headers, *payload))
                .count()
        })
    }

    fn kicking<T>(&mut self, pair: usize, send: impl FnOnce(&mut Transmit, &Region) -> T) -> T {
        let transmit = &mut self.pairs[pair].transmit;
        let before = transmit.available();
        let sent = send(transmit, &self.region);
        if transmit.wants_kick(&self.region, before) {
            self.kick(2 * u32::try_from(pair).expect("a pair") + TRANSMIT);
        }
        sent
    }

    /// Gives the device all buffers for frames that it does not have, and kicks if it wants that.
    pub fn post(&mut self) {
        self.post_some(usize::MAX);
    }

    /// Gives the device some of them, at most `count`.
    pub fn post_some(&mut self, count: usize) {
        (0..self.pairs.len()).for_each(|pair| self.post_by(pair, count));
    }

    /// The same in the queue of a pair.
    pub fn post_by(&mut self, pair: usize, count: usize) {
        let receive = &mut self.pairs[pair].receive;
        let before = receive.available();
        receive.post(&self.region, count);
        if receive.wants_kick(&self.region, before) {
            self.kick(2 * u32::try_from(pair).expect("a pair") + RECEIVE);
        }
    }

    /// What the device has sent since. The buffers are to be [posted](Self::post) again.
    pub fn take(&mut self) -> Vec<Packet> {
        (0..self.pairs.len()).flat_map(|pair| self.take_from(pair)).collect()
    }

    /// The same by the queue of a pair.
    pub fn take_from(&mut self, pair: usize) -> Vec<Packet> {
        let Self { pairs, region, .. } = self;
        std::iter::from_fn(|| pairs[pair].receive.take(region)).collect()
    }

    /// The next frame's headers, `most` bytes of it at most, and how long it is.
    pub fn take_head(&mut self, most: usize) -> Option<(Vec<u8>, usize)> {
        self.pairs[0].receive.take_head(&self.region, most)
    }

    /// Closes the socket, and keeps the descriptors that the back end has too: kicks, which are
    /// readable if the back end has not cleared them.
    pub fn leave(self) -> Vec<Event> {
        self.kicks
    }

    /// The front end's socket, which the machine has no more.
    pub fn hang_up(self) -> UnixStream {
        let Line::Socket(socket) = self.line else { panic!("no socket") };
        socket
    }
}

/// Where the queues of each pair are, and the end of all.
fn layouts(shape: Shape) -> (Vec<[Layout; 2]>, usize) {
    let mut end = 0;
    let layouts = (0..shape.pairs).map(|_| {
        let transmit = Layout::at(end, shape.transmit);
        let receive = Layout::at(transmit.end(), shape.receive);
        end = receive.end();
        [transmit, receive]
    });
    (layouts.collect(), end)
}

/// All pairs of queues, of which nothing is in use.
fn pairs(shape: Shape, region: &Region) -> Vec<Pair> {
    let terms = Terms {
        base: usize::try_from(GUEST).unwrap_or(0),
        indirect: shape.features.contains(Features::INDIRECT_DESC),
        event_index: shape.features.contains(Features::EVENT_IDX),
    };
    let (layouts, mut end) = layouts(shape);
    let pair = |[transmit, receive]: [Layout; 2]| {
        let buffers = end + ARENA;
        let transmit = Transmit::new(transmit, terms, end);
        end = buffers + usize::from(receive.size) * shape.buffer;
        Pair { transmit, receive: Receive::new(region, receive, terms, (buffers, shape.buffer)) }
    };
    layouts.into_iter().map(pair).collect()
}

/// An answer is whole, and to what was asked.
fn check(reply: &Reply, request: u32) {
    let word = |number| reply.bytes().as_chunks().0.get(number).copied().map(u32::from_ne_bytes);
    let size = u32::try_from(reply.bytes().len()).ok().and_then(|len| len.checked_sub(12));
    assert_eq!([word(0), word(1), word(2)], [Some(request), Some(VERSION | 1 << 2), size]);
}

/// A queue's number as an index.
fn number(index: u32) -> usize {
    usize::try_from(index).expect("a queue")
}

/// Two numbers of 32 bits that lie one behind the other, as one of 64 bits.
pub fn pair(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// Numbers of 64 bits in a message.
pub fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
