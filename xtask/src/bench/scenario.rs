//! What is measured: a kind of traffic in one place of a grid.

use std::fmt;

use anyhow::{Result, ensure};

/// One thing to measure. Its name is its parts joined by dashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub(crate) kind: Kind,
    /// The guest's MTU in bytes.
    pub(crate) mtu: u32,
    pub(crate) server: Server,
    /// Congestion control of every namespace, by the kernel's name.
    pub(crate) control: &'static str,
}

/// The traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One TCP stream from the guest.
    StreamOut,
    /// One TCP stream to the guest.
    StreamIn,
    /// A byte to the server and one back, again and again.
    Rr,
    /// The same with a connection for each.
    Crr,
}

/// Where the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// On another host, behind a veth.
    Far,
    /// On the host itself.
    Local,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::StreamOut, Self::StreamIn, Self::Rr, Self::Crr];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::StreamOut => "tcp-out",
            Self::StreamIn => "tcp-in",
            Self::Rr => "tcp-rr",
            Self::Crr => "tcp-crr",
        }
    }

    /// Whether a rate of bytes is measured, not of transactions.
    pub(crate) fn is_bulk(self) -> bool {
        matches!(self, Self::StreamOut | Self::StreamIn)
    }
}

impl Scenario {
    /// The unit of the rate.
    pub(crate) fn unit(&self) -> &'static str {
        if self.kind.is_bulk() { "Gbit/s" } else { "1/s" }
    }

    /// Whether every word is one of the name's parts, in any order.
    fn matches(&self, words: &str) -> bool {
        let name = self.to_string();
        words.split('-').all(|word| name.split('-').any(|part| part == word))
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = match self.server {
            Server::Far => "far",
            Server::Local => "local",
        };
        write!(f, "{}-{}-{server}-{}", self.kind.name(), self.mtu, self.control)
    }
}

/// The scenarios that one of `wanted` names, or all.
pub(crate) fn select(wanted: &[String]) -> Result<Vec<Scenario>> {
    let mut chosen = all();
    for words in wanted {
        ensure!(chosen.iter().any(|scenario| scenario.matches(words)), "no scenario is called {words}");
    }
    chosen.retain(|scenario| wanted.is_empty() || wanted.iter().any(|words| scenario.matches(words)));
    Ok(chosen)
}

/// A name's place in the grid, behind it if it is none of today's.
pub(crate) fn rank(name: &str) -> usize {
    let grid = all();
    grid.iter().position(|scenario| scenario.to_string() == name).unwrap_or(grid.len())
}

/// The whole grid.
fn all() -> Vec<Scenario> {
    let mut grid = Vec::new();
    for kind in Kind::ALL {
        // One byte at a time knows no MTU and no congestion.
        let (mtus, controls): (&[u32], &[_]) =
            if kind.is_bulk() { (&[65_520, 1500], &["cubic", "bbr"]) } else { (&[65_520], &["cubic"]) };
        for &mtu in mtus {
            for server in [Server::Far, Server::Local] {
                grid.extend(controls.iter().map(|&control| Scenario { kind, mtu, server, control }));
            }
        }
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &str) -> Vec<String> {
        let chosen = select(&[words.to_owned()]).unwrap();
        chosen.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_select() {
        assert_eq!(names("crr-far"), ["tcp-crr-65520-far-cubic"]);
        assert_eq!(names("tcp-in-1500-bbr"), ["tcp-in-1500-far-bbr", "tcp-in-1500-local-bbr"]);
        assert_eq!(select(&[]).unwrap(), all());
        assert!(select(&["udp".to_owned()]).is_err());
    }
}
