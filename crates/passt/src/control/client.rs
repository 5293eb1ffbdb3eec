//! One client: what came from it, what it is to get, and how far it is.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, OwnedFd};

use arrayvec::ArrayVec;
use passt_control::reply::{self, Answer, Code, Event, Failure};
use passt_control::v2::{self, Greeting, Table};
use passt_control::{Rule, frame, request};
use passt_engine::core::{Core, Token};
use passt_engine::link::Link;
use passt_proto::time::{Duration, Instant};
use passt_sys::{alloc, msg};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use super::hostfwd;
use super::transactions::Owner;

/// Memory that a client takes at most until that is looked at again: what it asks for, and what it is
/// told, each in a vector that doubles.
pub(super) const MEMORY: usize = 3 << 19;
/// Descriptors that wait for the requests which they belong to, at most.
const DESCRIPTORS: usize = 8;
/// Bytes read at once.
const CHUNK: usize = 1 << 14;
/// Bytes that a client has not read, above which it is not asked for more.
const FULL: usize = 1 << 16;
/// The same above which a client that wants events has none: it does not read.
const DEAF: usize = 1 << 18;

/// How long the rest of a request in slirp4netns's language may take, which has no other end.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a client has asked for.
#[derive(Debug)]
pub(super) enum Request {
    /// All rules as they should be, of those that it was shown.
    Tables { shown: Vec<Rule>, wanted: Vec<Rule> },
    /// A request, and the descriptor that came with it.
    Message(Box<request::Message>, Option<OwnedFd>),
    /// One in slirp4netns's language.
    Hostfwd(hostfwd::Request),
    /// Something that is no request, with its number if it has one.
    Invalid(u64, String),
}

/// How far the conversation is.
#[derive(Debug)]
enum Stage {
    /// The client has yet to choose how to go on. `None`: it can't be told all rules.
    Greeted(Option<Vec<Rule>>),
    Messages,
    /// One request in slirp4netns's language has yet to come.
    Hostfwd(hostfwd::Terms),
    /// Nothing more is expected from it.
    Leaving,
}

/// How a client is spoken to.
#[derive(Debug)]
pub(super) enum Language {
    /// It is told what the rules are, and then decides.
    Control(Vec<Table>),
    /// It makes a request as slirp4netns has it.
    Hostfwd(hostfwd::Terms),
}

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    socket: OwnedFd,
    token: Token,
    pub(super) serial: u64,
    stage: Stage,
    input: Vec<u8>,
    output: Vec<u8>,
    descriptors: ArrayVec<OwnedFd, DESCRIPTORS>,
    /// What the loop watches for; if that is nothing it does not watch the socket.
    interest: EventFlags,
    /// Nothing more comes.
    ended: bool,
    /// One of its transactions is under way.
    waits: bool,
    /// It wants events.
    pub(super) subscribed: bool,
    /// Changes that are to be made together with more of them.
    pub(super) staged: Vec<request::Change>,
    /// One of the changes that are made together was refused: so are the others that come with it.
    pub(super) spoilt: bool,
    heard: Instant,
}

impl Client {
    /// A client, which is told what the rules are if it is to know.
    pub(super) fn new<L: Link>(
        socket: OwnedFd,
        token: Token,
        serial: u64,
        language: Language,
        core: &Core<L>,
    ) -> io::Result<Self> {
        core.watch(&socket, token, EventFlags::IN)?;
        let (stage, output) = match language {
            Language::Control(tables) => greet(tables),
            Language::Hostfwd(terms) => (Stage::Hostfwd(terms), Vec::new()),
        };
        Ok(Self {
            socket,
            token,
            serial,
            stage,
            input: Vec::new(),
            output,
            descriptors: ArrayVec::new(),
            interest: EventFlags::IN,
            ended: false,
            waits: false,
            subscribed: false,
            staged: Vec::new(),
            spoilt: false,
            heard: core.now,
        })
    }

    /// Since when it says nothing, unless it waits for us, or for events.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        (!self.waits && !self.subscribed && !self.is_complete()).then_some(self.heard)
    }

    /// When it will have had the time that there is for the rest of a request in slirp4netns's
    /// language; `None` if none has begun.
    pub(super) fn patience(&self) -> Option<Instant> {
        let is_begun = matches!(self.stage, Stage::Hostfwd(_)) && !self.input.is_empty();
        (is_begun && !self.waits && !self.is_complete()).then_some(self.heard + PATIENCE)
    }

    /// Nothing more is waited for: what came is all of its request.
    pub(super) fn give_up(&mut self) {
        self.ended = true;
    }

    /// Reads some of what came, if there is room for it.
    pub(super) fn ready(&mut self, now: Instant) {
        if !self.wants_more() || self.starves() {
            return;
        }
        let mut bytes = [0; CHUNK];
        let mut descriptors = ArrayVec::<OwnedFd, 1>::new();
        match msg::receive_with(self.socket.as_fd(), &mut bytes, &mut descriptors) {
            Ok(0) => self.ended = true,
            Ok(length) => {
                self.heard = now;
                self.input.extend(bytes.get(..length).unwrap_or_default());
                // Of more than belong to requests the last are closed.
                self.descriptors
                    .extend(descriptors.take().into_iter().take(self.descriptors.remaining_capacity()));
            }
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN | Errno::INTR) => {}
                _ => self.ended = true,
            },
        }
    }

    /// Whether more can be read.
    fn wants_more(&self) -> bool {
        let most = match self.stage {
            Stage::Greeted(_) => v2::MAX_TABLES_LEN,
            Stage::Messages => frame::HEADER + frame::MAX_REQUEST,
            Stage::Hostfwd(_) => hostfwd::TOO_LONG,
            Stage::Leaving => 0,
        };
        !self.ended && self.input.len() < most && self.output.len() < FULL
    }

    /// Whether there is something to be done for it.
    pub(super) fn has_request(&self) -> bool {
        !self.waits && self.output.len() < FULL && self.is_complete()
    }

    /// Whether a request has come as a whole, or one that can't be.
    fn is_complete(&self) -> bool {
        match &self.stage {
            Stage::Greeted(_) if is_hello(&self.input) => self.input.len() >= frame::HELLO.len(),
            Stage::Greeted(_) => {
                !self.input.is_empty() && !matches!(v2::decode_tables(&self.input), Ok(None))
            }
            Stage::Hostfwd(terms) => {
                hostfwd::parse(&self.input, self.ended, *terms) != hostfwd::Parsed::Incomplete
            }
            Stage::Messages => !matches!(frame::first(&self.input, frame::MAX_REQUEST), Ok(None)),
            Stage::Leaving => false,
        }
    }

    /// What it asks for next, if it can be answered.
    pub(super) fn next_request(&mut self) -> Option<Request> {
        if self.waits || self.output.len() >= FULL || self.starves() {
            return None;
        }
        if let Stage::Greeted(shown) = &mut self.stage {
            if is_hello(&self.input) {
                if self.input.len() < frame::HELLO.len() {
                    return None;
                }
                self.input.drain(..frame::HELLO.len());
                self.stage = Stage::Messages;
            } else {
                let tables = if self.input.is_empty() { Ok(None) } else { v2::decode_tables(&self.input) };
                return match (tables, shown.take()) {
                    (Ok(None), before) => {
                        *shown = before;
                        None
                    }
                    (Ok(Some((wanted, _))), Some(shown)) => {
                        self.stage = Stage::Leaving;
                        self.input = Vec::new();
                        Some(Request::Tables { shown, wanted })
                    }
                    (Ok(Some(_)), None) => self.mistake("there are more rules than can be replaced so"),
                    (Err(error), _) => self.mistake(&error.to_string()),
                };
            }
        }
        if let Stage::Hostfwd(terms) = &self.stage {
            let parsed = hostfwd::parse(&self.input, self.ended, *terms);
            return self.obey(parsed);
        }
        self.next_message()
    }

    /// What a client asks for in slirp4netns's language; one that is not understood is told at
    /// once.
    fn obey(&mut self, parsed: hostfwd::Parsed) -> Option<Request> {
        match parsed {
            hostfwd::Parsed::Incomplete => None,
            hostfwd::Parsed::Request(request) => Some(Request::Hostfwd(request)),
            hostfwd::Parsed::Bad(reason) => {
                self.conclude(&hostfwd::error(reason));
                None
            }
        }
    }

    /// Tells it what became of its only request.
    pub(super) fn conclude(&mut self, answer: &[u8]) {
        self.go_on();
        self.output.extend_from_slice(answer);
        self.leave();
    }

    /// Tells the log of a client that is not understood, which can't be told itself.
    fn mistake(&mut self, reason: &str) -> Option<Request> {
        log::warn!("Client of the control socket: {reason}");
        self.leave();
        None
    }

    fn next_message(&mut self) -> Option<Request> {
        let Stage::Messages = self.stage else { return None };
        let (request, length) = match frame::first(&self.input, frame::MAX_REQUEST) {
            Ok(None) => return None,
            Ok(Some((json, length))) => match serde_json::from_slice::<request::Message>(json) {
                Ok(message) => (Request::Message(Box::new(message), None), length),
                Err(error) => (Request::Invalid(id_of(json), error.to_string()), length),
            },
            Err(error) => {
                // Where the next one begins is not known.
                self.reply(0, Err(Failure::new(Code::Invalid, error.to_string())));
                self.leave();
                return None;
            }
        };
        self.input.drain(..length);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        match request {
            // The kernel may join what came with a descriptor to what came before (unix(7)), so they
            // are kept, in their order, until requests need them.
            Request::Message(message, _) if message.request.has_descriptor() => {
                Some(Request::Message(message, self.descriptors.pop_at(0)))
            }
            other => Some(other),
        }
    }

    /// It has a transaction, and nothing more is answered before that is over.
    pub(super) fn wait(&mut self) -> Owner {
        self.waits = true;
        Owner { serial: self.serial }
    }

    /// Something came that is no request: it may have been a part of what is to be made together.
    pub(super) fn spoil(&mut self) {
        self.spoilt |= !self.staged.is_empty();
        self.staged = Vec::new();
    }

    /// Its transaction is over.
    pub(super) fn go_on(&mut self) {
        self.waits = false;
    }

    /// Nothing more is expected from it: it is seen off when it has what it is to get.
    pub(super) fn leave(&mut self) {
        self.stage = Stage::Leaving;
        (self.input, self.staged) = (Vec::new(), Vec::new());
    }

    /// Whether there is too little memory for more of it: then it is sent away, as the others together
    /// have so much that they don't read.
    fn starves(&mut self) -> bool {
        if alloc::has_room_for(MEMORY) {
            return false;
        }
        log::warn!("Too little memory for a client of the control socket, which is sent away");
        self.send_away();
        true
    }

    fn send_away(&mut self) {
        (self.ended, self.output) = (true, Vec::new());
        self.leave();
    }

    /// Tells it what it asked for.
    pub(super) fn reply(&mut self, id: u64, answer: Result<Answer, Failure>) {
        let message = match answer {
            Ok(answer) => reply::Message::Reply { id, answer },
            Err(error) => reply::Message::Failure { id, error },
        };
        self.put(&message);
    }

    /// Tells it of an event.
    pub(super) fn tell(&mut self, event: &Event) {
        if self.starves() {
            return;
        }
        if self.output.len() > DEAF {
            log::warn!("A client of the control socket does not read its events, and is sent away");
            return self.send_away();
        }
        self.put(&reply::Message::Event { event: event.clone() });
    }

    fn put(&mut self, message: &reply::Message) {
        if let Err(error) = frame::append(&mut self.output, message) {
            log::warn!("Couldn't tell a client of the control socket: {error}");
            self.leave();
        }
    }

    /// Sends what there is, and has the loop tell what is of interest then. Breaks when the client
    /// is done.
    pub(super) fn settle<L: Link>(&mut self, core: &Core<L>) -> ControlFlow<()> {
        while !self.output.is_empty() {
            match msg::send_slice(self.socket.as_fd(), &self.output) {
                Ok(sent) if sent == self.output.len() => self.output = Vec::new(),
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN) => break,
                    Some(Errno::INTR) => {}
                    // It is gone, and nobody is left to be answered.
                    _ => self.send_away(),
                },
            }
        }
        let is_done = matches!(self.stage, Stage::Leaving) || self.ended && !self.is_complete();
        if is_done && !self.waits && self.output.is_empty() {
            return ControlFlow::Break(());
        }
        match self.watch(core) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                log::warn!("Couldn't watch a client of the control socket: {error}");
                ControlFlow::Break(())
            }
        }
    }

    /// Has the loop watch for what is of interest now. An end of the peer would be told each round
    /// where nothing is (`epoll_ctl(2)`): then the socket is not watched.
    fn watch<L: Link>(&mut self, core: &Core<L>) -> io::Result<()> {
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, self.wants_more());
        wanted.set(EventFlags::OUT, !self.output.is_empty());
        match (self.interest.is_empty(), wanted.is_empty()) {
            _ if wanted == self.interest => {}
            (_, true) => core.unwatch(&self.socket)?,
            (true, false) => core.watch(&self.socket, self.token, wanted)?,
            (false, false) => core.rewatch(&self.socket, self.token, wanted)?,
        }
        self.interest = wanted;
        Ok(())
    }
}

/// What a client is told first, and what is expected of it then.
fn greet(tables: Vec<Table>) -> (Stage, Vec<u8>) {
    let greeting = Greeting { tables };
    let output = greeting.encode();
    let shown: Option<Vec<_>> = greeting.tables.into_iter().map(|table| table.rules).collect();
    let shown = shown.map(|tables| tables.into_iter().flatten().collect());
    (Stage::Greeted(shown), output)
}

/// Whether bytes begin as a client does that speaks in frames.
fn is_hello(bytes: &[u8]) -> bool {
    let length = bytes.len().min(frame::HELLO.len());
    length > 0 && bytes.get(..length) == frame::HELLO.get(..length)
}

/// The number of a request that is not understood.
fn id_of(json: &[u8]) -> u64 {
    #[derive(serde::Deserialize)]
    struct Numbered {
        id: u64,
    }
    serde_json::from_slice::<Numbered>(json).map_or(0, |numbered| numbered.id)
}
