//! What a server says: replies, each to one request, and events.
//!
//! Tools may be newer than servers that run, and what a server doesn't know yet is missing from
//! what it says. So whatever may grow has defaults: a field that is added later has one.

use serde::{Deserialize, Serialize};

use crate::rule::{self, Rule};

/// A frame of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", untagged)]
pub enum Message {
    /// What was asked for.
    Reply {
        /// The request's.
        id: u64,
        /// What it is.
        answer: Answer,
    },
    /// It can't be had, and nothing happened.
    Failure {
        /// The request's; zero if it had none that could be read.
        id: u64,
        /// Why.
        error: Failure,
    },
    /// Something happened.
    Event {
        /// What.
        event: Event,
    },
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For programs.
    pub code: Code,
    /// For people: one line.
    pub message: String,
}

/// Kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// Not a request, or not one that this version knows. The message says what is known.
    Invalid,
    /// What it is about is not there.
    NotFound,
    /// There is too little memory, or there are too many clients or requests, for now.
    Busy,
    /// The kernel, or what the command line said, does not allow it.
    Refused,
    /// What a newer server says. The message tells it.
    #[serde(other)]
    Unknown,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is done.
    Done,
    /// Who is there.
    Hello(Hello),
    /// A page of rules.
    Rules(Rules),
    /// What became of changes.
    Changed(Changed),
    /// More changes are to come: so many are there.
    Staged(usize),
    /// A page of flows.
    Flows(Flows),
    /// A page of what flows have carried.
    Carried(Carried),
    /// What was counted.
    Counters(Box<Counters>),
    /// The guest.
    Guest(Box<Guest>),
    /// What can be set.
    Settings(Settings),
}

/// Who is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hello {
    /// `passt` or `pasta`.
    pub program: String,
    /// Its version.
    pub version: String,
    /// How the guest is connected: `tap`, `stream`, `vhost-user` or `none`.
    pub link: String,
    /// Milliseconds since it began to serve.
    pub uptime_ms: u64,
}

/// A page of rules, in the order in which they were added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The rules.
    pub rules: Vec<RuleNow>,
    /// Where the next page begins, if there is one.
    pub next: Option<u32>,
}

/// A rule, and what it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleNow {
    /// The rule.
    #[serde(deserialize_with = "rule::told")]
    pub rule: Rule,
    /// Sockets that listen for it.
    #[serde(default)]
    pub sockets: usize,
}

/// What became of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Changed {
    /// They took effect, at least in part.
    pub committed: bool,
    /// What became of each, in their order; the same one after the other is told once, with its
    /// count.
    pub outcomes: Vec<(Outcome, usize)>,
    /// There are more outcomes, for which there was no room.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// Reasons of refusals; only the first where there are very many.
    pub refused: Vec<Refused>,
    /// Listening sockets that were closed.
    pub closed: usize,
    /// Flows of datagrams that ended with the last of them.
    pub ended: usize,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The rule is new.
    Added,
    /// The rule was there.
    Present,
    /// The rule is gone.
    Deleted,
    /// The rule was not there.
    Absent,
    /// The rule can't be had.
    Refused,
    /// Rules were taken out, or there were none.
    Cleared,
    /// What a newer server says.
    #[serde(other)]
    Unknown,
}

/// Why a rule can't be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The rule.
    #[serde(deserialize_with = "rule::told")]
    pub rule: Rule,
    /// The port that it lacks, if it is for want of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The kernel's error number, if it was the kernel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// One line.
    pub reason: String,
    /// Others of its ports could be had, and the rule is there.
    #[serde(default)]
    pub part: bool,
}

/// A page of flows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flows {
    /// Some flows, perhaps none.
    pub flows: Vec<Flow>,
    /// Where the next page begins, if there is one.
    pub next: Option<u32>,
}

/// A flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flow {
    /// Its name, for as long as it lives.
    pub flow: String,
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// `link`, or past it from a client there: `host`, `namespace`.
    pub via: String,
    /// The guest's address and port as it sees them; past the link those that the client reached.
    pub guest: String,
    /// The remote address and port as the guest sees them; past the link the client's own.
    pub remote: String,
    /// Peer of our socket.
    pub target: Option<String>,
    /// Address of our socket.
    pub local: Option<String>,
    /// How far it is.
    pub state: String,
    /// Milliseconds since it began.
    pub age_ms: u64,
    /// Milliseconds since it carried payload.
    pub idle_ms: u64,
    /// Bytes of payload from the guest, or from the client past the link.
    pub out_bytes: u64,
    /// Frames, datagrams or messages with it.
    pub out_units: u64,
    /// Bytes of payload to the guest, or to the client past the link.
    pub in_bytes: u64,
    /// Frames, datagrams or messages with it.
    pub in_units: u64,
    /// TCP segments sent to the guest again.
    pub retransmitted: u32,
    /// What TCP knows of the way, if it is TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
}

/// What TCP knows of both ways of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tcp {
    /// Smoothed round-trip time of the host's connection, in microseconds.
    pub host_rtt_us: u32,
    /// Segments that the host's kernel sent again.
    pub host_retransmitted: u32,
    /// Congestion window of the host's kernel, in segments.
    pub host_cwnd: u32,
    /// Smoothed round-trip time to the guest, in microseconds; zero if not known.
    pub guest_rtt_us: u32,
    /// Bytes that the guest's last window allowed.
    pub guest_window: u32,
}

/// A page of what flows have carried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Each flow's name in two numbers, bytes out, bytes in.
    pub flows: Vec<(u32, u32, u64, u64)>,
    /// Where the next page begins, if there is one.
    pub next: Option<u32>,
}

/// How much of something is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Level {
    /// So much is.
    pub used: u64,
    /// Of so much.
    pub of: u64,
}

/// What was counted since the start, and how full everything is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Milliseconds since the process began to serve.
    pub uptime_ms: u64,
    /// Frames from the guest.
    pub from_guest_frames: u64,
    /// Their bytes.
    pub from_guest_bytes: u64,
    /// Frames to the guest.
    pub to_guest_frames: u64,
    /// Their bytes.
    pub to_guest_bytes: u64,
    /// Flows begun.
    pub flows_begun: u64,
    /// TCP segments sent to the guest again.
    pub retransmitted: u64,
    /// Rounds of the loop.
    pub rounds: u64,
    /// Kicks of a guest that shares memory with us, if one may.
    pub kicks: Option<u64>,
    /// Interrupts for it.
    pub interrupts: Option<u64>,
    /// Frames that a recording lacks.
    pub not_recorded: u64,
    /// Listening sockets.
    pub listeners: u64,
    /// Listening sockets whose clients wait for room.
    pub listeners_waiting: u64,
    /// Bytes of memory in use beside what was reserved at the start.
    pub memory: u64,
    /// Clients of the control socket.
    pub clients: u64,
    /// Levels by their names.
    pub levels: Vec<(String, Level)>,
    /// Reasons to drop something, and how often there was one; those without are left out.
    pub drops: Vec<Drop>,
}

/// A reason to drop something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// Its name.
    pub reason: String,
    /// What it means.
    pub meaning: String,
    /// How often.
    pub count: u64,
}

/// The guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Guest {
    /// Somebody is at the link.
    pub connected: bool,
    /// Its addresses: those that it was given, and others that it uses.
    pub addresses: Vec<String>,
    /// Link-layer addresses that frames came from.
    pub macs: Vec<String>,
    /// What it is told: its IPv4 address with the length of its prefix.
    pub ipv4: Option<String>,
    /// Its IPv4 gateway.
    pub gateway4: Option<String>,
    /// Its IPv6 address with the length of its prefix.
    pub ipv6: Option<String>,
    /// Its IPv6 gateway.
    pub gateway6: Option<String>,
    /// Our link-layer address.
    pub our_mac: String,
    /// MTU; zero if it is told none.
    pub mtu: u16,
}

/// What can be set while the program runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The least level of lines that are logged.
    pub log_level: String,
    /// Frames are being recorded.
    pub capture: bool,
    /// Name servers that the guest is told.
    pub resolvers: Vec<String>,
    /// Domains that it is told to search.
    pub search: Vec<String>,
    /// Its host name.
    pub host_name: Option<String>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// Rules changed: so many were added and deleted.
    RulesChanged {
        /// Added.
        added: usize,
        /// Deleted.
        deleted: usize,
    },
    /// Sockets of rules that follow services changed: so many listen now.
    ServicesChanged {
        /// Sockets.
        sockets: usize,
    },
    /// A guest came to the link.
    GuestCame,
    /// The guest left the link.
    GuestLeft,
    /// A line of the log that somebody should look at.
    Warning {
        /// The line.
        text: String,
    },
    /// The process ends.
    Exit {
        /// Why.
        reason: String,
        /// Exit status.
        status: u8,
    },
}

impl Failure {
    /// A failure of a kind, with its reason.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl Changed {
    /// Notes what became of the next change.
    pub fn note(&mut self, outcome: Outcome) {
        match self.outcomes.last_mut() {
            Some((last, count)) if *last == outcome => *count += 1,
            _ => self.outcomes.push((outcome, 1)),
        }
    }

    /// How many changes came out so.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.outcomes.iter().filter(|(other, _)| *other == outcome).map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let mut changed = Changed { committed: true, ..Changed::default() };
        for outcome in [Outcome::Added, Outcome::Added, Outcome::Present] {
            changed.note(outcome);
        }
        assert_eq!(changed.outcomes, [(Outcome::Added, 2), (Outcome::Present, 1)]);
        for (message, expected) in [
            (Message::Reply { id: 1, answer: Answer::Done }, r#"{"id":1,"answer":"done"}"#),
            (
                Message::Failure { id: 2, error: Failure::new(Code::NotFound, "no") },
                r#"{"id":2,"error":{"code":"not-found","message":"no"}}"#,
            ),
            (Message::Event { event: Event::GuestCame }, r#"{"event":"guest-came"}"#),
            (
                Message::Reply { id: 3, answer: Answer::Changed(changed) },
                r#"{"id":3,"answer":{"changed":{"committed":true,"outcomes":[["added",2],["present",1]],"refused":[],"closed":0,"ended":0}}}"#,
            ),
        ] {
            let text = serde_json::to_string(&message).expect("text");
            assert_eq!(text, expected);
            assert_eq!(serde_json::from_str::<Message>(&text).expect("a message"), message);
        }
    }

    /// Each object in a value, by the names and numbers that lead there.
    fn objects(value: &Value, path: &str, found: &mut Vec<(String, Vec<String>)>) {
        if let Value::Object(fields) = value {
            found.push((path.to_owned(), fields.keys().cloned().collect()));
        }
        let parts: Vec<(String, &Value)> = match value {
            Value::Object(fields) => fields.iter().map(|(name, part)| (name.clone(), part)).collect(),
            Value::Array(parts) => parts.iter().enumerate().map(|(i, part)| (i.to_string(), part)).collect(),
            _ => Vec::new(),
        };
        for (name, part) in parts {
            objects(part, &format!("{path}/{name}"), found);
        }
    }

    /// Fields that an answer can't be read without.
    fn needed(answer: Answer) -> Vec<String> {
        let whole = serde_json::to_value(Message::Reply { id: 1, answer }).expect("a value");
        let mut found = Vec::new();
        objects(&whole["answer"], "/answer", &mut found);
        // What a newer server adds anywhere is no error either.
        for (path, _) in &found {
            let mut more = whole.clone();
            if let Some(object) = more.pointer_mut(path).and_then(Value::as_object_mut)
                && path != "/answer"
            {
                object.insert("newer".into(), Value::Null);
            }
            assert!(serde_json::from_value::<Message>(more).is_ok(), "{path}");
        }
        let fields = found.iter().flat_map(|(path, names)| names.iter().map(move |name| (path, name)));
        let is_needed = |(path, name): &(&String, &String)| {
            let mut less = whole.clone();
            let object = less.pointer_mut(path).and_then(Value::as_object_mut).expect("an object");
            object.remove(*name).expect("a field");
            serde_json::from_value::<Message>(less).is_err()
        };
        fields.filter(is_needed).map(|(path, name)| format!("{path}/{name}")).collect()
    }

    /// What a server that is older than we are leaves out is no error. Needed is only what each answer
    /// had from the beginning, and means nothing without: none may be added.
    #[test]
    fn answers_are_read_with_fields_missing() {
        let rule: Rule =
            serde_json::from_str(r#"{"protocol":"tcp","first":80,"weak":true}"#).expect("a rule");
        let refused = Refused {
            rule: rule.clone(),
            port: Some(80),
            errno: Some(98),
            reason: "Address in use".into(),
            part: true,
        };
        let drop = Drop { reason: "short".into(), meaning: "too short".into(), count: 1 };
        let text = || Some(String::new());
        for (answer, expected) in [
            (Answer::Hello(Hello::default()), &["hello"][..]),
            (
                Answer::Rules(Rules { rules: vec![RuleNow { rule, sockets: 1 }], next: Some(1) }),
                &["rules", "rules/rules", "rules/0/rule", "rules/0/rule/first", "rules/0/rule/protocol"],
            ),
            (
                Answer::Changed(Changed { cut: true, refused: vec![refused], ..Changed::default() }),
                &[
                    "changed",
                    "refused/0/reason",
                    "refused/0/rule",
                    "refused/0/rule/first",
                    "refused/0/rule/protocol",
                ],
            ),
            (
                Answer::Flows(Flows {
                    flows: vec![Flow {
                        target: text(),
                        local: text(),
                        tcp: Some(Tcp::default()),
                        ..Flow::default()
                    }],
                    next: Some(1),
                }),
                &["flows", "flows/flows"],
            ),
            (
                Answer::Carried(Carried { flows: vec![(1, 2, 3, 4)], next: Some(1) }),
                &["carried", "carried/flows"],
            ),
            (
                Answer::Counters(Box::new(Counters {
                    kicks: Some(1),
                    interrupts: Some(1),
                    levels: vec![("flows".into(), Level::default())],
                    drops: vec![drop],
                    ..Counters::default()
                })),
                &["counters", "drops/0/count", "drops/0/meaning", "drops/0/reason"],
            ),
            (
                Answer::Guest(Box::new(Guest {
                    ipv4: text(),
                    gateway4: text(),
                    ipv6: text(),
                    gateway6: text(),
                    ..Guest::default()
                })),
                &["guest"],
            ),
            (Answer::Settings(Settings { host_name: text(), ..Settings::default() }), &["settings"]),
        ] {
            let needed = needed(answer);
            let is_same = needed.len() == expected.len()
                && needed.iter().zip(expected).all(|(path, end)| path.ends_with(&format!("/{end}")));
            assert!(is_same, "needed {needed:?}, expected {expected:?}");
        }
    }
}
