//! A forwarding rule as both protocols tell it.
//!
//! Plain data: whether it can be had is for the server to say.

use std::fmt;
use std::net::IpAddr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Where we listen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// On the host, for what is in the guest.
    #[default]
    Host,
    /// On the loopback interface of the namespace, for what is on the host (pasta alone).
    Namespace,
}

/// What is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Network protocols in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

/// Consecutive ports that are forwarded the same way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Where to listen.
    #[serde(default)]
    pub side: Side,
    /// What for.
    pub protocol: Protocol,
    /// Address to listen on; none is any, of all families that are in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Interface to listen on.
    #[serde(default, deserialize_with = "interface", skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The lowest port to listen on.
    pub first: u16,
    /// The highest one; by default `first`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u16>,
    /// The target's port for `first`; by default the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u16>,
    /// Address to connect to, rather than the one that the guest has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<IpAddr>,
    /// Ports that can't be bound are left out.
    #[serde(default, skip_serializing_if = "is_false")]
    pub weak: bool,
    /// A port is bound only while something listens to its target.
    #[serde(default, skip_serializing_if = "is_false")]
    pub auto: bool,
}

/// Fields of a rule.
const FIELDS: &[&str] =
    &["side", "protocol", "address", "interface", "first", "last", "to", "target", "weak", "auto"];

/// A rule of an answer: what a newer server tells of it beyond this is passed over. Who asks for what is
/// unknown here is told so, and gets no other rule.
pub(crate) fn told<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Rule, D::Error> {
    let mut fields = Map::<String, Value>::deserialize(deserializer)?;
    fields.retain(|name, _| FIELDS.contains(&name.as_str()));
    Rule::deserialize(Value::Object(fields)).map_err(D::Error::custom)
}

/// A name no longer than an interface's can be (`IFNAMSIZ`): whoever stages many rules must not have
/// them be of any size.
fn interface<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    if name.as_ref().is_some_and(|name| name.len() > 15) {
        return Err(D::Error::custom("an interface's name of more than 15 bytes"));
    }
    Ok(name)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Side {
    /// Name of the interface in the C program's listings.
    pub fn pif_name(self) -> &'static str {
        match self {
            Self::Host => "HOST",
            Self::Namespace => "SPLICE",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

impl Rule {
    /// The highest port to listen on.
    pub fn last(&self) -> u16 {
        self.last.unwrap_or(self.first)
    }

    /// The target's port for the lowest.
    pub fn to(&self) -> u16 {
        self.to.unwrap_or(self.first)
    }

    /// The same rule, with nothing left to defaults.
    #[must_use]
    pub fn explicit(mut self) -> Self {
        (self.last, self.to) = (Some(self.last()), Some(self.to()));
        self
    }
}

/// A range of ports.
struct Ports(u16, u16);

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 { write!(f, "{}", self.0) } else { write!(f, "{}-{}", self.0, self.1) }
    }
}

impl fmt::Display for Rule {
    /// As the C program's pesto lists it, which scripts may read: `TCP [*]:8080  =>  80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [", self.protocol)?;
        match self.address {
            Some(address) => write!(f, "{address}]")?,
            None => f.write_str("*]")?,
        }
        match (&self.interface, self.side) {
            (Some(name), _) => write!(f, "%{name}")?,
            (None, Side::Namespace) => f.write_str("%lo")?,
            (None, Side::Host) => {}
        }
        let (first, last, to) = (self.first, self.last(), self.to());
        write!(f, ":{}  =>  ", Ports(first, last))?;
        if let Some(target) = self.target {
            write!(f, "{target}:")?;
        }
        write!(f, "{} ", Ports(to, to.saturating_add(last.saturating_sub(first))))?;
        let kinds = [(self.weak, "(best effort)"), (self.auto, "(auto-scan)")];
        let mut kinds = kinds.into_iter().filter_map(|(is, kind)| is.then_some(kind));
        kinds.try_for_each(|kind| write!(f, " {kind}"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// A rule for some ports of any address.
    pub(crate) fn rule(first: u16, last: u16) -> Rule {
        Rule {
            side: Side::Host,
            protocol: Protocol::Tcp,
            address: None,
            interface: None,
            first,
            last: Some(last),
            to: Some(first),
            target: None,
            weak: false,
            auto: false,
        }
    }

    /// What the C program prints for the same rules (version of October 2026).
    #[test]
    fn lists_are_those_of_the_c_program() {
        let host = rule(18080, 18080);
        for (rule, expected) in [
            (Rule { to: Some(80), ..host.clone() }, "TCP [*]:18080  =>  80 "),
            (
                Rule { side: Side::Namespace, protocol: Protocol::Udp, ..host.clone() },
                "UDP [*]%lo:18080  =>  18080 ",
            ),
            (
                Rule {
                    address: "::".parse().ok(),
                    target: "fd00::5".parse().ok(),
                    to: Some(80),
                    ..host.clone()
                },
                "TCP [::]:18080  =>  fd00::5:80 ",
            ),
            (
                Rule { weak: true, auto: true, ..rule(1, 32767) },
                "TCP [*]:1-32767  =>  1-32767  (best effort) (auto-scan)",
            ),
        ] {
            assert_eq!(rule.to_string(), expected);
        }
    }

    #[test]
    fn what_is_left_out_is_what_one_expects() {
        let read: Rule = serde_json::from_str(r#"{"protocol":"tcp","first":80}"#).expect("a rule");
        assert_eq!(read.clone().explicit(), rule(80, 80));
        assert_eq!(
            serde_json::to_string(&read).expect("text"),
            r#"{"side":"host","protocol":"tcp","first":80}"#
        );
    }

    #[test]
    fn fields_are_those_that_there_are() {
        let whole = Rule {
            address: Some(Ipv4Addr::LOCALHOST.into()),
            interface: Some("eth0".into()),
            last: Some(80),
            to: Some(80),
            target: Some(Ipv4Addr::LOCALHOST.into()),
            weak: true,
            auto: true,
            ..rule(80, 80)
        };
        let text = serde_json::to_string(&whole).expect("text");
        let known = |field: &&str| text.contains(&format!("\"{field}\":"));
        assert_eq!(
            (FIELDS.iter().filter(|field| known(field)).count(), text.matches("\":").count()),
            (10, 10)
        );
    }
}
