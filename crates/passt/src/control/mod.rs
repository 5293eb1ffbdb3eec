//! The control socket (`--conf-path`): what runs is looked into and changed by it.
//!
//! It belongs to the worker's thread, which calls it between two events; so nothing here waits, and
//! everything is done a part at a time. Clients are read and written as far as their sockets go,
//! and a few of their requests are answered each round, by turns. Changes of the rules are
//! transactions, one after the other, whose sockets are opened in as many rounds as that takes.
//!
//! Memory is that of a sealed process: what has not enough of it is refused, and a client that
//! does not read what it asked for is asked for nothing more.
//!
//! What is said is in the crate `passt_control`; how it is put is in `convert`. A socket may be one for
//! slirp4netns's requests instead, which are in `hostfwd`: the same clients and transactions, with
//! another language.

mod client;
mod convert;
mod door;
mod hostfwd;
mod requests;
mod settings;
mod transactions;

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context as _;
use passt_control::reply::{Code, Event, Failure};
use passt_control::{Rule, request};
use passt_engine::control::Control;
use passt_engine::core::{Core, Token};
use passt_engine::link::Link;
use passt_engine::worker::Worker;
use passt_proto::time::{Duration, Instant};
use passt_sys::alloc;
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::socket::option;
use rustix::event::epoll::EventFlags;

use self::client::{Client, Language, Request};
use self::convert::Terms;
pub use self::convert::{engine_rule, rule as rule_of};
use self::door::Door;
use self::transactions::{Owner, Transactions};
use crate::cli::Config;
use crate::life::leftovers::Leftovers;
use crate::log;

/// Clients at most. Whoever comes then takes the place of the one that was silent for longest.
const MAX_CLIENTS: usize = 128;
/// How long a client may say nothing before others may take its place.
const SILENCE: Duration = Duration::from_millis(50);
/// Requests answered each round: some of them take a while.
const REQUESTS: usize = 2;
/// Number of the socket among what is outside of the engine.
const DOOR: u32 = 32;
/// The same of the first client.
const CLIENTS: u32 = 64;

/// System calls made here once the process runs, beside those of [`passt_engine::control`] and
/// [`passt_engine::forward`].
pub const CALLS: &[Call] = &[
    Call::any(Sysno::accept4),
    Call::any(Sysno::fstat),
    Call::only(Sysno::getsockopt, &[option::SO_PEERCRED, option::SO_TYPE]),
    Call::any(Sysno::recvmsg),
    Call::any(Sysno::sendmsg),
];

/// The socket, its clients, and what they have asked for.
pub(crate) struct Server {
    door: Door,
    terms: Terms,
    /// What was asked for in slirp4netns's language, if that is the one.
    hostfwd: Option<hostfwd::Table>,
    clients: Vec<Option<Client>>,
    transactions: Transactions,
    /// Number of the next client since the start.
    serial: u64,
    /// Whose turn it is.
    turn: usize,
    /// When there is something to do.
    due: Option<Instant>,
    begun: Instant,
    /// A guest is at the link.
    connected: bool,
    /// Whose recording it is, if a client's.
    recorder: Option<u64>,
    /// That one is gone.
    recorder_left: bool,
    /// Who wants events.
    subscribers: usize,
    /// Sockets of rules that follow services, when that was last looked at.
    services: Option<usize>,
    /// When to look at them again.
    look: Option<Instant>,
}

impl Server {
    /// Listens where the command line says, if it does. The file is one of `leftovers`.
    pub(crate) fn open(config: &Config, leftovers: &mut Leftovers) -> anyhow::Result<Option<Self>> {
        if let Some(path) = &config.control_socket {
            return Self::at(path, None, config, leftovers).map(Some);
        }
        let Some(path) = &config.api_socket else { return Ok(None) };
        let guest = config.guest.addr.v4.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let terms = hostfwd::Terms { guest, v6: config.families.v6() };
        Self::at(path, Some(hostfwd::Table::new(terms)), config, leftovers).map(Some)
    }

    fn at(
        path: &Path,
        hostfwd: Option<hostfwd::Table>,
        config: &Config,
        leftovers: &mut Leftovers,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            door: Door::open(path, hostfwd.is_some(), leftovers)?,
            terms: Terms::new(config),
            hostfwd,
            clients: Vec::new(),
            transactions: Transactions::default(),
            serial: 0,
            turn: 0,
            due: None,
            begun: Instant::ZERO,
            connected: config.pasta().is_some(),
            recorder: None,
            recorder_left: false,
            subscribers: 0,
            services: None,
            look: None,
        })
    }

    /// Has the loop watch the socket. To be called in the process that will run, after its last
    /// change of user namespace.
    pub(crate) fn begin<L: Link>(&mut self, worker: &mut Worker<L>) -> anyhow::Result<()> {
        if self.terms.has_namespace() {
            // Rules that come later may follow services.
            if let Err(error) = worker.prepare_to_follow() {
                ::log::warn!("Ports that follow services can't be added: {error}");
            }
        }
        self.begun = worker.context().core.now;
        self.door.enter();
        let watched = worker.context().core.watch(&self.door, Token::External(DOOR), EventFlags::IN);
        watched.context("Couldn't watch the control socket")
    }

    /// Whether this number among what is outside of the engine is one of the server's.
    pub(crate) fn concerns(number: u32) -> bool {
        number == DOOR || number >= CLIENTS
    }

    /// The descriptor with this number is readable, or takes something again.
    pub(crate) fn ready<L: Link>(&mut self, number: u32, control: &mut Control<'_, L>) {
        let core = &mut control.engine.ctx.core;
        if number == DOOR {
            self.admit(control);
        } else {
            let slot = usize::try_from(number - CLIENTS).unwrap_or(usize::MAX);
            if let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut) {
                client.ready(core.now);
            }
            self.settle(slot, core);
        }
        self.plan_ahead(control);
    }

    /// The thread in the namespace has done something.
    pub(crate) fn progressed<L: Link>(&mut self, control: &mut Control<'_, L>) {
        if self.transactions.wait_for_namespace() {
            self.transact(control);
            self.plan_ahead(control);
        }
    }

    /// When [`Server::tick`] has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        let told = (self.subscribers > 0 && log::has_overheard()).then_some(Instant::ZERO);
        [self.due, told].into_iter().flatten().min()
    }

    /// Does some of what was asked for.
    pub(crate) fn tick<L: Link>(&mut self, control: &mut Control<'_, L>) {
        self.tell_events(control);
        let now = control.engine.ctx.core.now;
        for client in self.clients.iter_mut().flatten() {
            if client.patience().is_some_and(|end| end <= now) {
                client.give_up();
            }
        }
        let mut answered = 0;
        for _ in 0..self.clients.len() {
            if answered == REQUESTS {
                break;
            }
            let slot = self.turn % self.clients.len();
            self.turn = slot + 1;
            answered += usize::from(self.serve(slot, control));
        }
        self.transact(control);
        self.plan_ahead(control);
    }

    /// Something has happened.
    pub(crate) fn tell<L: Link>(&mut self, event: &Event, core: &Core<L>) {
        for slot in 0..self.clients.len() {
            if let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut)
                && client.subscribed
            {
                client.tell(event);
                self.settle(slot, core);
            }
        }
        // What became of clients by that is looked at.
        self.due = Some(Instant::ZERO);
    }

    /// The process ends with this status, for this reason.
    pub(crate) fn farewell<L: Link>(&mut self, reason: String, status: u8, core: &Core<L>) {
        self.tell(&Event::Exit { reason, status }, core);
    }

    /// Lets in who waits at the socket.
    fn admit<L: Link>(&mut self, control: &mut Control<'_, L>) {
        // More come in the next round.
        let core = &mut control.engine.ctx.core;
        if !self.has_place(core.now) {
            // All others wait for us: who comes is let in when one of them is done.
            return self.door.pause(core, DOOR);
        }
        let Some(socket) = self.door.admit(core, DOOR) else { return };
        if !alloc::has_room_for(client::MEMORY) {
            ::log::warn!("Too little memory for another client of the control socket");
            return;
        }
        let Some(slot) = self.free_slot(control.engine.ctx.core.now) else { return };
        let language = match &self.hostfwd {
            Some(table) => Language::Hostfwd(table.terms),
            None => Language::Control(self.terms.tables(control)),
        };
        let core = &control.engine.ctx.core;
        self.serial += 1;
        let token = Token::External(CLIENTS + u32::try_from(slot).unwrap_or(0));
        let client = match Client::new(socket, token, self.serial, language, core) {
            Ok(client) => client,
            Err(error) => return ::log::warn!("Couldn't serve a client of the control socket: {error}"),
        };
        if let Some(place) = self.clients.get_mut(slot) {
            *place = Some(client);
        }
        self.settle(slot, core);
    }

    /// Whether nobody has come to any harm yet if another client comes: one place is free.
    fn has_free_place(&self) -> bool {
        self.clients.len() < MAX_CLIENTS || self.clients.iter().any(Option::is_none)
    }

    /// Whether there is a place for another client, perhaps that of one.
    fn has_place(&self, now: Instant) -> bool {
        self.has_free_place() || self.dispensable(now).is_some()
    }

    /// The client that has said nothing for longest, but for those that have just come or are waited
    /// for; if all wait for something, the oldest of those that wait for events.
    fn dispensable(&self, now: Instant) -> Option<usize> {
        let silent = |(slot, client): (usize, &Option<Client>)| {
            let since = client.as_ref()?.silent_since().filter(|since| *since + SILENCE <= now)?;
            Some((since, slot))
        };
        let all = || self.clients.iter().enumerate();
        let subscribed = |(slot, client): (usize, &Option<Client>)| {
            client.as_ref().filter(|client| client.subscribed).map(|client| (client.serial, slot))
        };
        let silent = all().filter_map(silent).min().map(|(_, slot)| slot);
        silent.or_else(|| all().filter_map(subscribed).min().map(|(_, slot)| slot))
    }

    /// A place for a client: perhaps that of another one.
    fn free_slot(&mut self, now: Instant) -> Option<usize> {
        if let Some(slot) = self.clients.iter().position(Option::is_none) {
            return Some(slot);
        }
        if self.clients.len() < MAX_CLIENTS {
            self.clients.push(None);
            return Some(self.clients.len() - 1);
        }
        let slot = self.dispensable(now)?;
        ::log::info!(
            "More than {MAX_CLIENTS} clients of the control socket: the most silent one is sent away"
        );
        self.forget(slot);
        Some(slot)
    }

    /// Answers the next request of a client; whether there was one.
    fn serve<L: Link>(&mut self, slot: usize, control: &mut Control<'_, L>) -> bool {
        let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut) else { return false };
        let request = client.next_request();
        let had_one = request.is_some();
        match request {
            None => {}
            Some(Request::Tables { .. }) if self.transactions.is_full() => {
                ::log::warn!("Client of the control socket: too many others wait");
                client.leave();
            }
            Some(Request::Tables { shown, wanted }) => {
                let owner = client.wait();
                self.transactions.replace(owner, shown, wanted);
            }
            Some(Request::Message(message, descriptor)) => {
                let id = message.id;
                match self.answer(slot, *message, descriptor, control) {
                    Ok(Some(answer)) => self.reply(slot, id, Ok(answer)),
                    Ok(None) => {}
                    Err(failure) => self.reply(slot, id, Err(failure)),
                }
            }
            Some(Request::Hostfwd(request)) => {
                let owner = client.wait();
                if let Some(answer) = self.hostfwd(owner, request) {
                    self.conclude(slot, &answer);
                }
            }
            Some(Request::Invalid(id, reason)) => {
                client.spoil();
                self.reply(slot, id, Err(Failure::new(Code::Invalid, reason)));
            }
        }
        self.settle(slot, &control.engine.ctx.core);
        had_one
    }

    /// Does what a client asks in slirp4netns's language; the answer, if there is one yet.
    fn hostfwd(&mut self, owner: Owner, request: hostfwd::Request) -> Option<Vec<u8>> {
        let table = self.hostfwd.as_mut()?;
        let (change, make): (_, fn(Rule) -> request::Change) = match request {
            hostfwd::Request::List => return Some(table.list()),
            hostfwd::Request::Add(forward) => (hostfwd::Change::Add(forward), request::Change::Add),
            hostfwd::Request::Remove(id) => (hostfwd::Change::Remove(id), request::Change::Delete),
        };
        match table.begin(owner.serial, change) {
            Ok(_) if self.transactions.is_full() => table.end(owner.serial, false),
            Ok(rule) => {
                self.transactions.change(owner, 0, vec![make(rule)], false);
                None
            }
            Err(reason) => Some(hostfwd::error(reason)),
        }
    }

    /// Answers the only request of a client.
    fn conclude(&mut self, slot: usize, answer: &[u8]) {
        if let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut) {
            client.conclude(answer);
        }
    }

    fn reply(&mut self, slot: usize, id: u64, answer: Result<passt_control::reply::Answer, Failure>) {
        if let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut) {
            client.reply(id, answer);
        }
    }

    /// Goes on with transactions, and tells clients what became of theirs.
    fn transact<L: Link>(&mut self, control: &mut Control<'_, L>) {
        let Some(done) = self.transactions.go_on(control, &self.terms) else { return };
        let core = &control.engine.ctx.core;
        ::log::debug!("Rules: {} added, {} deleted", done.added, done.deleted);
        if done.added + done.deleted > 0 {
            self.tell(&Event::RulesChanged { added: done.added, deleted: done.deleted }, core);
        }
        let Owner { serial } = done.owner;
        // It is in the table whether its client waits or not.
        let answer = self.hostfwd.as_mut().and_then(|table| table.end(serial, done.is_whole()));
        let slot = self.clients.iter().position(|client| client.as_ref().is_some_and(|c| c.serial == serial));
        if let Some(slot) = slot
            && let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut)
        {
            client.go_on();
            match (answer, done.id) {
                (Some(answer), _) => client.conclude(&answer),
                (None, Some(id)) => client.reply(id, done.answer),
                (None, None) => client.leave(),
            }
            self.settle(slot, core);
        }
    }

    /// Sends what a client was answered, and sees it off if it is done.
    fn settle<L: Link>(&mut self, slot: usize, core: &Core<L>) {
        let is_over = match self.clients.get_mut(slot).and_then(Option::as_mut) {
            Some(client) => client.settle(core).is_break(),
            None => false,
        };
        if is_over {
            self.forget(slot);
        }
    }

    fn forget(&mut self, slot: usize) {
        let Some(client) = self.clients.get_mut(slot).and_then(Option::take) else { return };
        if client.subscribed {
            self.subscribe(false);
        }
        self.recorder_left |= self.recorder.take_if(|serial| *serial == client.serial).is_some();
    }

    fn is_recorded_by_another(&self, slot: usize) -> bool {
        let own = self.clients.get(slot).and_then(Option::as_ref).map(|client| client.serial);
        self.recorder.is_some_and(|serial| Some(serial) != own)
    }

    fn subscribe(&mut self, more: bool) {
        self.subscribers = if more { self.subscribers + 1 } else { self.subscribers.saturating_sub(1) };
        if self.subscribers == 0 {
            (self.services, self.look) = (None, None);
        }
        log::overhear(self.subscribers > 0);
    }

    /// Decides when there is something to do.
    fn plan_ahead<L: Link>(&mut self, control: &mut Control<'_, L>) {
        let core = &mut control.engine.ctx.core;
        if std::mem::take(&mut self.recorder_left) {
            core.capture = None;
        }
        let now = core.now;
        if self.has_free_place() {
            self.door.resume(core, DOOR);
        }
        let has_requests = self.clients.iter().flatten().any(Client::has_request);
        let is_busy = has_requests || self.transactions.has_more();
        if self.subscribers > 0 && self.terms.has_namespace() && self.look.is_none() {
            self.look = Some(now + settings::LOOK);
        }
        let patience = self.clients.iter().flatten().filter_map(Client::patience).min();
        let later = [self.look, patience].into_iter().flatten().min();
        self.due = if is_busy { Some(Instant::ZERO) } else { later };
    }
}
