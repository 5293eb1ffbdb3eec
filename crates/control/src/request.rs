//! What a client asks for. Each request is answered, in the order in which they came, by a
//! [reply](crate::reply) with the same number.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::rule::{Protocol, Rule, Side};

/// A frame of a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Any number; the reply has it, too.
    #[serde(default)]
    pub id: u64,
    /// What is asked for.
    pub request: Request,
}

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Who is there: [`Hello`](crate::reply::Hello).
    Hello,
    /// Forwarding rules, a page at a time: [`Rules`](crate::reply::Rules).
    Rules(Page),
    /// Changes of the rules: [`Changed`](crate::reply::Changed).
    Change(Changes),
    /// Flows, a page at a time: [`Flows`](crate::reply::Flows).
    Flows(Flows),
    /// What flows have carried, a page at a time: [`Carried`](crate::reply::Carried). It costs the
    /// server far less than [`Request::Flows`].
    Carried(Carried),
    /// Some flows by their names: [`Flows`](crate::reply::Flows) without those that have ended.
    Describe(Names),
    /// Ends a flow: [`Done`](crate::reply::Answer::Done).
    End(Name),
    /// What was counted, what was dropped, and how full everything is:
    /// [`Counters`](crate::reply::Counters).
    Counters,
    /// The guest: [`Guest`](crate::reply::Guest).
    Guest,
    /// What can be set: [`Settings`](crate::reply::Settings).
    Settings,
    /// Sets some of it, or nothing if any of it can't be: [`Settings`](crate::reply::Settings) as
    /// they are then.
    Set(Set),
    /// Records frames from now on to the descriptor that came with this request (`SCM_RIGHTS`,
    /// unix(7)), until this client is gone: [`Done`](crate::reply::Answer::Done). In the place of
    /// another recording, but not of one of another client, which is there.
    Capture,
    /// Records no more, unless another client has it recorded: [`Done`](crate::reply::Answer::Done).
    EndCapture,
    /// Tells of [events](crate::reply::Event) from now on: [`Done`](crate::reply::Answer::Done).
    Events,
}

impl Request {
    /// Whether a descriptor belongs to it.
    pub fn has_descriptor(&self) -> bool {
        matches!(self, Self::Capture)
    }
}

/// A part of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Page {
    /// Where it begins: zero, or what the page before it said.
    pub from: u32,
    /// Elements at most. There may be fewer, even none, before the last page.
    pub most: Option<u32>,
}

/// A part of the list of what flows have carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Carried {
    /// As for any [`Page`].
    pub from: u32,
    /// As for any [`Page`].
    pub most: Option<u32>,
    /// Only flows that have carried payload, or begun, in so many milliseconds, to a sixteenth of a
    /// second; all without it.
    pub within_ms: Option<u32>,
}

/// Changes of the rules that take effect together, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Changes {
    /// One after the other.
    pub changes: Vec<Change>,
    /// More of them come with the next request, which is to be one of this kind: nothing happens
    /// before the last.
    pub more: bool,
    /// Rules that can't be had are left out, and the others take effect.
    pub partial: bool,
}

/// What is to become of rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// This one is to be there. That it was already is no error.
    Add(Rule),
    /// This one is not. That it was not is no error.
    Delete(Rule),
    /// None of these is.
    Clear(Which),
}

/// Rules of a side and a protocol, or of any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Which {
    /// Those of this side alone.
    pub side: Option<Side>,
    /// Those of this protocol alone.
    pub protocol: Option<Protocol>,
}

/// Some flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Flows {
    /// Where the page begins: zero, or what the page before it said.
    pub from: u32,
    /// Flows at most.
    pub most: Option<u32>,
    /// Those of this protocol alone: `tcp`, `udp` or `icmp`.
    pub protocol: Option<String>,
    /// Those with this port alone, on either side.
    pub port: Option<u16>,
    /// Those with this address alone, on either side.
    pub address: Option<IpAddr>,
}

/// A flow's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Name {
    /// As a list of flows has it.
    pub flow: String,
}

/// Names of flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// At most 256.
    pub flows: Vec<String>,
}

/// What is to be set; what is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Set {
    /// `warning`, `info`, `debug` or `trace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// Name servers that the guest is told from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolvers: Option<Vec<IpAddr>>,
    /// Domains that it is told to search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Vec<String>>,
    /// Its host name; an empty one is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Message, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn requests_as_one_writes_them() {
        let request = |text| read(text).map(|message| message.request);
        assert_eq!(request(r#"{"request":"hello"}"#), Ok(Request::Hello));
        assert_eq!(request(r#"{"id":7,"request":{"rules":{}}}"#), Ok(Request::Rules(Page::default())));
        let Ok(Request::Change(changes)) = request(
            r#"{"request":{"change":{"changes":[{"add":{"protocol":"tcp","first":80}},{"clear":{"side":"host"}}]}}}"#,
        ) else {
            panic!("not a change")
        };
        assert_eq!(changes.changes.len(), 2);
    }

    /// Who says something unknown is told what is known.
    #[test]
    fn what_is_unknown() {
        for (text, expected) in [
            (r#"{"request":"rule"}"#, "unknown variant `rule`, expected one of `hello`, `rules`, "),
            (r#"{"request":{"rules":{"form":1}}}"#, "unknown field `form`, expected `from` or `most`"),
            (r#"{"request":"hello","x":1}"#, "unknown field `x`"),
            (
                r#"{"request":{"change":{"changes":[{"add":{"protocol":"tcp","fist":1,"first":80}}]}}}"#,
                "unknown field `fist`, expected one of `side`, `protocol`, ",
            ),
            (
                r#"{"request":{"change":{"changes":[{"delete":{"protocol":"tcp","first":80,"":{}}}]}}}"#,
                "unknown field ``",
            ),
            ("[", "EOF"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
        let deep = "[".repeat(60_000);
        assert!(read(&deep).is_err());
    }
}
