//! Answers to requests, but for [settings](super::settings).

use std::os::fd::OwnedFd;

use passt_control::reply::{self, Answer, Code, Failure, Level};
use passt_control::request::{self, Message, Page, Request};
use passt_engine::control::{Control, Cursor, MAX_CARRIED, MAX_PAGE};
use passt_engine::dispatch::Description;
use passt_engine::flow::Handle;
use passt_engine::forward::MAX_RULES;
use passt_engine::link::{Link, Notifications};
use passt_proto::time::Duration;
use passt_sys::alloc;

use super::{Server, convert, transactions};

/// Rules of a page at most.
const RULES: usize = 512;
/// Changes of a transaction at most: every rule there may be goes, and as many come.
const CHANGES: usize = 2 * MAX_RULES;

/// Changes of a transaction at most that clear rules.
const CLEARS: usize = 16;

/// Where a page begins.
fn most(wanted: Option<u32>, most: usize) -> usize {
    wanted.map_or(most, |wanted| usize::try_from(wanted).unwrap_or(most).min(most))
}

impl Server {
    /// Answers a request, with which a descriptor may have come; `None` if that is done later.
    pub(super) fn answer<L: Link>(
        &mut self,
        slot: usize,
        message: Message,
        descriptor: Option<OwnedFd>,
        control: &mut Control<'_, L>,
    ) -> Result<Option<Answer>, Failure> {
        let Message { id, request } = message;
        let answer = match request {
            Request::Hello => self.hello(control),
            Request::Rules(page) => rules(page, control),
            Request::Change(changes) => return self.change(slot, id, changes),
            Request::Flows(wanted) => flows(&wanted, control),
            Request::Carried(wanted) => carried(wanted, control),
            Request::Describe(names) => describe(&names, control)?,
            Request::End(name) => {
                let handle = handle(&name.flow)?;
                control.end(handle).map_err(|error| Failure::new(Code::NotFound, error.to_string()))?;
                Answer::Done
            }
            Request::Counters => self.counters(control),
            Request::Guest => self.guest(control),
            Request::Settings => Answer::Settings(super::settings::settings(control)),
            Request::Set(set) => super::settings::set(&set, control).map(Answer::Settings)?,
            Request::Capture | Request::EndCapture if self.is_recorded_by_another(slot) => {
                return Err(Failure::new(Code::Busy, "Another client has frames recorded"));
            }
            Request::Capture => {
                let descriptor = descriptor
                    .ok_or_else(|| Failure::new(Code::Invalid, "No descriptor came with the request"))?;
                super::settings::capture(descriptor, control)?;
                self.recorder_left = false;
                self.recorder = self.clients.get(slot).and_then(Option::as_ref).map(|client| client.serial);
                Answer::Done
            }
            Request::EndCapture => {
                control.engine.ctx.core.capture = None;
                (self.recorder, self.recorder_left) = (None, false);
                Answer::Done
            }
            Request::Events => {
                self.begin_events(slot, control);
                Answer::Done
            }
        };
        Ok(Some(answer))
    }

    fn hello<L: Link>(&self, control: &Control<'_, L>) -> Answer {
        let program = if self.terms.has_namespace() { "pasta" } else { "passt" };
        Answer::Hello(reply::Hello {
            program: program.into(),
            version: crate::VERSION.into(),
            link: self.terms.link.into(),
            uptime_ms: self.uptime(control),
        })
    }

    fn uptime<L: Link>(&self, control: &Control<'_, L>) -> u64 {
        convert::millis(control.engine.ctx.core.now.since(self.begun))
    }

    fn begin_events<L: Link>(&mut self, slot: usize, control: &Control<'_, L>) {
        if let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut)
            && !std::mem::replace(&mut client.subscribed, true)
        {
            self.subscribe(true);
            self.services.get_or_insert_with(|| super::settings::services(control));
        }
    }

    /// Adds changes to a client's transaction, which begins with the last of them.
    fn change(&mut self, slot: usize, id: u64, changes: request::Changes) -> Result<Option<Answer>, Failure> {
        let request::Changes { changes, more, partial } = changes;
        let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut) else { return Ok(None) };
        let count = client.staged.len() + changes.len();
        let is_clear = |change: &&request::Change| matches!(change, request::Change::Clear(_));
        let clears = client.staged.iter().chain(&changes).filter(is_clear).count();
        let reason = if client.spoilt {
            Some("Another part of this transaction was refused")
        } else if self.transactions.is_full() {
            Some("Too many transactions wait")
        } else if clears > CLEARS {
            Some("Too many times all rules are cleared in one transaction")
        } else if count > CHANGES {
            Some("Too many changes for one transaction")
        } else if !alloc::has_room_for(count * transactions::CHANGE_MEMORY) {
            Some("Too little memory for so many changes")
        } else {
            None
        };
        if let Some(reason) = reason {
            // Of those that come with these nothing is to be done.
            client.staged = Vec::new();
            client.spoilt = more;
            return Err(Failure::new(Code::Busy, reason));
        }
        client.staged.extend(changes);
        if more {
            return Ok(Some(Answer::Staged(count)));
        }
        let changes = std::mem::take(&mut client.staged);
        let owner = client.wait();
        self.transactions.change(owner, id, changes, partial);
        Ok(None)
    }

    fn counters<L: Link>(&self, control: &Control<'_, L>) -> Answer {
        let counters = control.counters();
        let notifications = control.engine.ctx.core.link.notifications();
        let occupancy = control.occupancy();
        let level = |name: &str, level: passt_engine::control::Level| {
            (name.to_owned(), Level { used: level.used as u64, of: level.of as u64 })
        };
        let levels = vec![
            level("flows", occupancy.flows),
            level("slots", occupancy.slots),
            level("connections-in", occupancy.connections),
            level("datagram-flows-in", occupancy.datagrams),
            level("slack", occupancy.slack),
            level("left-behind", occupancy.left_behind),
            level("pipes", occupancy.pipes),
            level("sockets", occupancy.sockets),
            level("descriptors", occupancy.descriptors),
        ];
        let drops = control.drops().filter(|&(_, count)| count > 0).map(|(reason, count)| reply::Drop {
            reason: reason.name().into(),
            meaning: reason.meaning().trim_start().into(),
            count,
        });
        Answer::Counters(Box::new(reply::Counters {
            uptime_ms: self.uptime(control),
            from_guest_frames: counters.from_guest.frames,
            from_guest_bytes: counters.from_guest.bytes,
            to_guest_frames: counters.to_guest.frames,
            to_guest_bytes: counters.to_guest.bytes,
            flows_begun: counters.flows,
            retransmitted: counters.retransmitted,
            rounds: counters.rounds,
            kicks: notifications.map(|Notifications { kicks, .. }| kicks),
            interrupts: notifications.map(|Notifications { interrupts, .. }| interrupts),
            not_recorded: control.engine.ctx.core.capture.as_ref().map_or(0, |capture| capture.lost()),
            listeners: occupancy.listeners.open as u64,
            listeners_waiting: occupancy.listeners.waiting as u64,
            memory: occupancy.memory,
            clients: self.clients.iter().flatten().count() as u64,
            levels,
            drops: drops.collect(),
        }))
    }

    fn guest<L: Link>(&self, control: &Control<'_, L>) -> Answer {
        let core = &control.engine.ctx.core;
        let services = &core.services;
        let mut addresses: Vec<String> = Vec::new();
        for address in core.guest.addresses().map(|addr| addr.to_string()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let (v4, v6) = (services.v4.as_ref(), services.v6.as_ref());
        let v6_address = v6.filter(|v6| !v6.addr.is_unspecified());
        Answer::Guest(Box::new(reply::Guest {
            connected: self.connected,
            addresses,
            macs: core.guest.learnt.stations().map(|mac| mac.to_string()).collect(),
            ipv4: v4.map(|v4| format!("{}/{}", v4.addr, v4.prefix_len)),
            gateway4: v4.map(|v4| v4.gateway.to_string()),
            ipv6: v6_address.map(|v6| format!("{}/{}", v6.addr, v6.prefix_len)),
            gateway6: v6.map(|v6| v6.our_ll.to_string()),
            our_mac: services.our_mac.to_string(),
            mtu: services.mtu,
        }))
    }
}

fn rules<L: Link>(page: Page, control: &Control<'_, L>) -> Answer {
    let from = usize::try_from(page.from).unwrap_or(usize::MAX);
    let most = most(page.most, RULES).max(1);
    let mut rest = control.rules().skip(from);
    let rules = rest
        .by_ref()
        .take(most)
        .map(|(entry, sockets)| reply::RuleNow { rule: convert::rule(entry), sockets });
    let rules: Vec<_> = rules.collect();
    let next = rest.next().and_then(|_| u32::try_from(from + rules.len()).ok());
    Answer::Rules(reply::Rules { rules, next })
}

fn flows<L: Link>(wanted: &request::Flows, control: &Control<'_, L>) -> Answer {
    let page = control.flows(Cursor::from_number(wanted.from), most(wanted.most, MAX_PAGE));
    let flows = page.flows.iter().filter(|flow| is_wanted(wanted, flow)).map(convert::flow);
    Answer::Flows(reply::Flows { flows: flows.collect(), next: page.next.map(Cursor::to_number) })
}

fn is_wanted(wanted: &request::Flows, flow: &Description) -> bool {
    let request::Flows { protocol, port, address, .. } = wanted;
    let ends = [Some(flow.guest), Some(flow.remote), flow.target, flow.local];
    let mut ends = ends.into_iter().flatten();
    protocol.as_deref().is_none_or(|name| name == convert::protocol(flow.protocol))
        && ends.any(|end| {
            port.is_none_or(|port| port == end.port)
                && address.is_none_or(|address| address == end.socket_addr().ip())
        })
}

fn carried<L: Link>(wanted: request::Carried, control: &Control<'_, L>) -> Answer {
    let request::Carried { from, most: count, within_ms } = wanted;
    let within = within_ms.map(|ms| Duration::from_millis(ms.into()));
    let (flows, next) = control.carried(Cursor::from_number(from), most(count, MAX_CARRIED), within);
    let flow =
        |(Handle { index, generation }, [out, inward]): (Handle, [u64; 2])| (index, generation, out, inward);
    Answer::Carried(reply::Carried {
        flows: flows.into_iter().map(flow).collect(),
        next: next.map(Cursor::to_number),
    })
}

fn describe<L: Link>(names: &request::Names, control: &Control<'_, L>) -> Result<Answer, Failure> {
    if names.flows.len() > MAX_PAGE {
        return Err(Failure::new(Code::Invalid, format!("More than {MAX_PAGE} flows")));
    }
    let mut flows = Vec::with_capacity(names.flows.len());
    for name in &names.flows {
        // Those that have ended are left out.
        flows.extend(control.flow(handle(name)?).ok().as_ref().map(convert::flow));
    }
    Ok(Answer::Flows(reply::Flows { flows, next: None }))
}

fn handle(name: &str) -> Result<Handle, Failure> {
    convert::handle(name)
        .ok_or_else(|| Failure::new(Code::Invalid, format!("Not the name of a flow: {name}")))
}
