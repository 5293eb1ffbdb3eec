//! Requests to forward ports as slirp4netns has them: one of JSON on each connection, and its
//! answer.
//!
//! What callers compare are the words of the answers, in the order in which the arguments are
//! looked at. Numbers are cut to integers, what is of another type counts as missing, and what
//! follows the request is not looked at. Beyond that, addresses may be of IPv6 where the guest has
//! it. Here is no socket and no rule: those are the [server's](super::Server).

use std::net::{IpAddr, Ipv4Addr};

use passt_control::{Protocol, Rule, Side};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Bytes of a request that are too many.
pub(super) const TOO_LONG: usize = 4096;
/// Entries at most: each has a rule, of which there are no more.
const MAX_ENTRIES: usize = 16_384;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Add(Forward),
    List,
    Remove(u64),
}

/// A port of the host's that leads to one of the guest's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Forward {
    #[serde(rename = "proto")]
    protocol: &'static str,
    host_addr: IpAddr,
    host_port: u16,
    guest_addr: IpAddr,
    guest_port: u16,
}

/// What guests have that requests need not name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The guest's address unless another is given.
    pub(super) guest: Ipv4Addr,
    /// The guest has IPv6.
    pub(super) v6: bool,
}

/// What came so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// More has to come.
    Incomplete,
    Request(Request),
    /// No request: the reason.
    Bad(&'static str),
}

/// Looks at what came, which is all if it has `ended`.
pub(super) fn parse(bytes: &[u8], ended: bool, terms: Terms) -> Parsed {
    if bytes.len() >= TOO_LONG {
        return Parsed::Bad("bad request: too large message");
    }
    let first = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>().next();
    let value = match first {
        // A number may go on.
        Some(Ok(value)) if ended || !value.is_number() => value,
        Some(Err(error)) if ended || !error.is_eof() => {
            return Parsed::Bad("bad request: cannot parse JSON");
        }
        None if ended => return Parsed::Bad("bad request: cannot parse JSON"),
        _ => return Parsed::Incomplete,
    };
    match request(&value, terms) {
        Ok(request) => Parsed::Request(request),
        Err(reason) => Parsed::Bad(reason),
    }
}

fn request(value: &Value, terms: Terms) -> Result<Request, &'static str> {
    let object = value.as_object().ok_or("bad request: json_object() failed")?;
    let execute = object.get("execute").and_then(Value::as_str).ok_or("bad request: no execute found")?;
    let none = Map::new();
    let arguments = object.get("arguments").and_then(Value::as_object).unwrap_or(&none);
    match execute {
        "add_hostfwd" => Forward::new(arguments, terms).map(Request::Add),
        "list_hostfwd" => Ok(Request::List),
        "remove_hostfwd" => {
            let id = number(arguments, "id").filter(|id| *id > 0);
            id.map(Request::Remove).ok_or("bad request: remove_hostfwd: bad arguments.id")
        }
        _ => Err("bad request: unknown execute"),
    }
}

impl Forward {
    fn new(arguments: &Map<String, Value>, terms: Terms) -> Result<Self, &'static str> {
        let text = |name: &str| arguments.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let port = |name: &str| number(arguments, name).and_then(|port| u16::try_from(port).ok());
        let port = |name: &str| port(name).filter(|port| *port > 0);
        let is_on = |addr: &IpAddr| addr.is_ipv4() || terms.v6;
        let protocol = match text("proto") {
            Some("tcp") => "tcp",
            Some("udp") => "udp",
            _ => return Err("bad request: add_hostfwd: bad arguments.proto"),
        };
        let host_addr: IpAddr = text("host_addr")
            .map_or(Ok(Ipv4Addr::UNSPECIFIED.into()), str::parse)
            .ok()
            .filter(is_on)
            .ok_or("bad request: add_hostfwd: bad arguments.host_addr")?;
        let host_port = port("host_port").ok_or("bad request: add_hostfwd: bad arguments.host_port")?;
        let guest: IpAddr = if host_addr.is_ipv4() {
            terms.guest.into()
        } else {
            // Whatever the guest has formed for itself.
            std::net::Ipv6Addr::UNSPECIFIED.into()
        };
        let guest_addr = text("guest_addr")
            .map_or(Ok(guest), str::parse)
            .ok()
            .filter(|addr: &IpAddr| addr.is_ipv4() == host_addr.is_ipv4() && !addr.is_multicast())
            .ok_or("bad request: add_hostfwd: bad arguments.guest_addr")?;
        let guest_port = port("guest_port").ok_or("bad request: add_hostfwd: bad arguments.guest_port")?;
        Ok(Self { protocol, host_addr, host_port, guest_addr, guest_port })
    }

    /// The rule that does this.
    pub(super) fn rule(&self) -> Rule {
        Rule {
            side: Side::Host,
            protocol: if self.protocol == "udp" { Protocol::Udp } else { Protocol::Tcp },
            address: Some(self.host_addr),
            interface: None,
            first: self.host_port,
            last: Some(self.host_port),
            to: Some(self.guest_port),
            target: Some(self.guest_addr).filter(|addr| !addr.is_unspecified()),
            weak: false,
            auto: false,
        }
    }
}

/// A number that is not negative, without what it has behind the point.
fn number(arguments: &Map<String, Value>, name: &str) -> Option<u64> {
    let value = arguments.get(name)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "cut, and in range")]
    let cut = |number: f64| (0.0..9e15).contains(&number).then_some(number as u64);
    value.as_u64().or_else(|| value.as_f64().and_then(cut))
}

/// What is to become of the table once a transaction is over.
#[derive(Debug)]
pub(super) enum Change {
    Add(Forward),
    Remove(u64),
}

/// Forwards that were asked for, by their numbers, and changes that are under way.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) terms: Terms,
    next: u64,
    entries: Vec<(u64, Forward)>,
    /// By the number of the client, in the order of their transactions.
    changes: Vec<(u64, Change)>,
}

impl Table {
    pub(super) fn new(terms: Terms) -> Self {
        Self { terms, next: 1, entries: Vec::new(), changes: Vec::new() }
    }

    /// All entries, as an answer: in the place where the document of the API has them, and where its
    /// first server put them.
    pub(super) fn list(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Entry<'a> {
            id: u64,
            #[serde(flatten)]
            forward: &'a Forward,
        }
        let entries: Vec<_> = self.entries.iter().map(|(id, forward)| Entry { id: *id, forward }).collect();
        let entries = serde_json::to_string(&entries).unwrap_or_default();
        format!("{{\"return\":{{\"entries\":{entries}}},\"entries\":{entries}}}").into_bytes()
    }

    /// Notes a change that a client's transaction makes, and returns its rule, if it can be made.
    pub(super) fn begin(&mut self, client: u64, change: Change) -> Result<Rule, &'static str> {
        let rule = match &change {
            Change::Add(_) if self.entries.len() >= MAX_ENTRIES => {
                return Err("bad request: add_hostfwd: slirp_add_hostfwd failed");
            }
            Change::Add(forward) => forward.rule(),
            Change::Remove(id) => {
                let known = self.entries.iter().find(|(known, _)| known == id);
                known.ok_or("bad request: remove_hostfwd: bad arguments.id")?.1.rule()
            }
        };
        self.changes.push((client, change));
        Ok(rule)
    }

    /// A client's transaction is over, and was done or not: the answer to it.
    pub(super) fn end(&mut self, client: u64, is_done: bool) -> Option<Vec<u8>> {
        let index = self.changes.iter().position(|(known, _)| *known == client)?;
        Some(match self.changes.remove(index).1 {
            Change::Add(forward) if is_done => {
                let id = self.next;
                self.next += 1;
                self.entries.push((id, forward));
                json!({"return": {"id": id}}).to_string().into_bytes()
            }
            Change::Remove(id) if is_done => {
                self.entries.retain(|(known, _)| *known != id);
                json!({"return": {}}).to_string().into_bytes()
            }
            Change::Add(_) => error("bad request: add_hostfwd: slirp_add_hostfwd failed"),
            Change::Remove(_) => error("bad request: remove_hostfwd: slirp_remove_hostfwd failed"),
        })
    }
}

/// An answer that says why there is no other.
pub(super) fn error(reason: &str) -> Vec<u8> {
    json!({"error": {"desc": reason}}).to_string().into_bytes()
}

#[cfg(test)]
mod tests;
