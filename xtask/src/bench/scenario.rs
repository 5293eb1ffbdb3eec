//! What is measured: a kind of traffic or a cost, in one place of a grid.

use std::fmt;

use anyhow::{Result, ensure};

/// One thing to measure. Its name is its parts joined by dashes, without those
/// that are as usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub(crate) kind: Kind,
    pub(crate) path: Path,
    /// The guest's MTU in bytes.
    pub(crate) mtu: u32,
    /// Congestion control of every namespace, by the kernel's name.
    pub(crate) control: &'static str,
    pub(crate) family: Family,
    /// Streams at once.
    pub(crate) streams: u32,
    pub(crate) load: Load,
    /// Idle connections meanwhile.
    pub(crate) held: u32,
}

/// The traffic, or the cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// TCP from the guest.
    TcpOut,
    /// TCP to the guest.
    TcpIn,
    /// A byte to the server and one back, again and again.
    TcpRr,
    /// The same with a connection for each.
    TcpCrr,
    /// Datagrams from the guest, counted where they arrive.
    UdpOut,
    /// Datagrams to the guest.
    UdpIn,
    /// A datagram to the server and one back, again and again.
    UdpRr,
    /// From the start until a command run in a new namespace has ended.
    StartCommand,
    /// From the start until the process in the foreground ends.
    StartBackground,
    /// Resident memory.
    IdleRss,
    /// The same, with what processes share divided among them.
    IdlePss,
    /// How often the scheduler has the translator run.
    IdleWakeups,
    /// The same while it looks for ports to forward, as pasta does unless told otherwise.
    IdleDetecting,
    /// Memory that idle connections take.
    Flows,
}

/// Between whom data goes, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// To a server on another host, behind a veth.
    Far,
    /// To a server on the host itself.
    Local,
    /// From the guest's loopback to a server on the host's, a port of which is
    /// forwarded.
    LoopbackOut,
    /// From the host's loopback to a server on the guest's.
    LoopbackIn,
    /// As [`Self::Far`], from a virtual machine at a socket that frames go through.
    Machine,
    /// As [`Self::Far`], from a virtual machine whose memory the translator shares.
    SharedMemory,
    /// The same from a driver alone, which costs less than a machine.
    Driver,
}

/// The addresses that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// How datagrams are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// One by one, as fast as they go.
    Single,
    /// Many by each system call, with `UDP_SEGMENT`.
    Segmented,
    /// One by one, 50 000 a second.
    Paced,
}

/// A chapter of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Tcp,
    Bypass,
    Udp,
    Stream,
    VhostUser,
    Driver,
    Cost,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::TcpOut => "tcp-out",
            Self::TcpIn => "tcp-in",
            Self::TcpRr => "tcp-rr",
            Self::TcpCrr => "tcp-crr",
            Self::UdpOut => "udp-out",
            Self::UdpIn => "udp-in",
            Self::UdpRr => "udp-rr",
            Self::StartCommand => "start-command",
            Self::StartBackground => "start-background",
            Self::IdleRss => "idle-rss",
            Self::IdlePss => "idle-pss",
            Self::IdleWakeups => "idle-wakeups",
            Self::IdleDetecting => "idle-detecting",
            Self::Flows => "flows",
        }
    }

    /// Whether a rate of bytes is measured.
    pub(crate) fn is_bulk(self) -> bool {
        matches!(self, Self::TcpOut | Self::TcpIn)
    }

    /// Whether one thing is done after the other, and the rate of that is measured.
    pub(crate) fn is_rr(self) -> bool {
        matches!(self, Self::TcpRr | Self::TcpCrr | Self::UdpRr)
    }

    /// Whether it is datagrams.
    pub(crate) fn is_udp(self) -> bool {
        matches!(self, Self::UdpOut | Self::UdpIn | Self::UdpRr)
    }

    fn section(self) -> Section {
        match self {
            Self::TcpOut | Self::TcpIn | Self::TcpRr | Self::TcpCrr => Section::Tcp,
            _ if self.is_udp() => Section::Udp,
            _ => Section::Cost,
        }
    }
}

impl Path {
    /// Whether no link is between, but only loopback interfaces.
    pub(crate) fn is_loopback(self) -> bool {
        matches!(self, Self::LoopbackOut | Self::LoopbackIn)
    }
}

impl Load {
    /// Datagrams that the kernel makes of one `send`: 1, or as many as it can.
    pub(crate) fn segments(self) -> u32 {
        if self == Self::Segmented { 45 } else { 1 }
    }

    /// Datagrams a second, 0 for as many as possible.
    pub(crate) fn rate(self) -> u32 {
        if self == Self::Paced { 50_000 } else { 0 }
    }
}

impl Section {
    /// Whether the translator has to speak vhost-user.
    pub(crate) fn is_vhost_user(self) -> bool {
        matches!(self, Self::VhostUser | Self::Driver)
    }

    /// What the report calls it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Tcp => "TCP through the tap device",
            Self::Bypass => "Loopback traffic, which bypasses the tap device",
            Self::Udp => "UDP through the tap device",
            Self::Stream => "TCP of a virtual machine, at passt's socket",
            Self::VhostUser => "A virtual machine in user-mode Linux, by vhost-user",
            Self::Driver => "A driver alone, by vhost-user",
            Self::Cost => "Start, idleness, and connections that are only held",
        }
    }
}

impl Scenario {
    /// One stream, and all else as usual.
    const USUAL: Self = Self {
        kind: Kind::TcpOut,
        path: Path::Far,
        mtu: 65_520,
        control: "cubic",
        family: Family::V4,
        streams: 1,
        load: Load::Single,
        held: 0,
    };

    /// Where the report has it.
    pub(crate) fn section(&self) -> Section {
        match self.path {
            Path::LoopbackOut | Path::LoopbackIn => Section::Bypass,
            Path::Machine => Section::Stream,
            Path::SharedMemory => Section::VhostUser,
            Path::Driver => Section::Driver,
            Path::Far | Path::Local => self.kind.section(),
        }
    }

    /// The unit of the figure.
    pub(crate) fn unit(&self) -> &'static str {
        match self.kind {
            Kind::TcpOut | Kind::TcpIn => "Gbit/s",
            Kind::StartCommand | Kind::StartBackground => "ms",
            Kind::IdleRss | Kind::IdlePss => "KiB",
            Kind::Flows => "B/flow",
            _ => "1/s",
        }
    }

    /// Whether the figure is a cost, which should be low.
    pub(crate) fn is_cost(&self) -> bool {
        self.section() == Section::Cost
    }

    /// What is drawn together.
    pub(crate) fn group(&self) -> String {
        let kind = self.kind.name();
        match self.section() {
            Section::Bypass if self.kind.is_bulk() => "bypass".to_owned(),
            Section::Bypass => kind.replace("tcp", "bypass"),
            Section::Stream => kind.replace("tcp", "stream"),
            Section::VhostUser => format!("vhost-{}", kind.trim_start_matches("tcp-")),
            Section::Driver => kind.replace("tcp", "driver"),
            Section::Tcp if self.held > 0 => format!("{kind}-held"),
            _ => kind.to_owned(),
        }
    }

    /// Whether this is the name, or none is and every word is one of the name's parts, in any
    /// order.
    fn matches(&self, words: &str) -> bool {
        let name = self.to_string();
        if all().iter().any(|scenario| scenario.to_string() == words) {
            return name == words;
        }
        words.split('-').all(|word| name.split('-').any(|part| part == word))
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (section, path) = (
            self.section(),
            match self.path {
                Path::Far => "far",
                Path::Local => "local",
                Path::LoopbackOut => "out",
                Path::LoopbackIn => "in",
                Path::Machine | Path::SharedMemory | Path::Driver => "machine",
            },
        );
        match section {
            Section::Bypass => write!(f, "{}-{path}", self.group())?,
            Section::Stream | Section::VhostUser | Section::Driver => {
                write!(f, "{}-{}", self.group(), self.mtu)?;
            }
            Section::Cost => f.write_str(self.kind.name())?,
            Section::Tcp | Section::Udp => write!(f, "{}-{}-{path}", self.kind.name(), self.mtu)?,
        }
        if section == Section::Tcp || self.control != Self::USUAL.control {
            write!(f, "-{}", self.control)?;
        }
        if self.family == Family::V6 {
            f.write_str("-v6")?;
        }
        if self.streams > 1 {
            write!(f, "-{}", self.streams)?;
        }
        match (self.kind, self.held) {
            (_, 0) => {}
            (Kind::Flows, held) => write!(f, "-{held}")?,
            (_, held) => write!(f, "-held-{held}")?,
        }
        f.write_str(match self.load {
            Load::Single => "",
            Load::Segmented => "-segmented",
            Load::Paced => "-50k",
        })
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

/// The whole grid: not every combination, but each dimension where it matters.
pub(crate) fn all() -> Vec<Scenario> {
    const USUAL: Scenario = Scenario::USUAL;
    let mut grid = Vec::new();
    for kind in [Kind::TcpOut, Kind::TcpIn] {
        for mtu in [65_520, 1500] {
            for path in [Path::Far, Path::Local] {
                grid.extend(["cubic", "bbr"].map(|control| Scenario { kind, path, mtu, control, ..USUAL }));
            }
        }
        grid.extend([9000, 1280].map(|mtu| Scenario { kind, mtu, ..USUAL }));
        grid.extend([65_520, 1500].map(|mtu| Scenario { kind, mtu, family: Family::V6, ..USUAL }));
        grid.extend([65_520, 1500].map(|mtu| Scenario { kind, mtu, streams: 8, ..USUAL }));
    }
    for kind in [Kind::TcpRr, Kind::TcpCrr] {
        grid.extend([Path::Far, Path::Local].map(|path| Scenario { kind, path, ..USUAL }));
    }
    let rr = Scenario { kind: Kind::TcpRr, ..USUAL };
    grid.extend([1, 1000, 10_000].map(|held| Scenario { held, ..rr }));
    for kind in [Kind::TcpOut, Kind::TcpRr, Kind::TcpCrr] {
        for path in [Path::LoopbackOut, Path::LoopbackIn] {
            let usual = Scenario { kind, path, ..USUAL };
            grid.extend([usual, Scenario { family: Family::V6, ..usual }]);
            if kind.is_bulk() {
                grid.extend([Scenario { control: "bbr", ..usual }, Scenario { streams: 8, ..usual }]);
            }
        }
    }
    for kind in [Kind::UdpOut, Kind::UdpIn] {
        let loads = [Load::Single, Load::Segmented, Load::Paced];
        grid.extend(loads.map(|load| Scenario { kind, load, mtu: 1500, ..USUAL }));
    }
    grid.push(Scenario { kind: Kind::UdpRr, mtu: 1500, ..USUAL });
    for kind in [Kind::TcpOut, Kind::TcpIn, Kind::TcpRr] {
        let mtus: &[u32] = if kind.is_bulk() { &[65_520, 1500] } else { &[65_520] };
        grid.extend(mtus.iter().map(|&mtu| Scenario { kind, path: Path::Machine, mtu, ..USUAL }));
    }
    let shared = Scenario { path: Path::SharedMemory, ..USUAL };
    for kind in [Kind::TcpOut, Kind::TcpIn] {
        grid.extend([65_520, 1500].map(|mtu| Scenario { kind, mtu, ..shared }));
    }
    for kind in [Kind::TcpOut, Kind::TcpIn] {
        grid.extend([65_520, 1500].map(|mtu| Scenario { kind, path: Path::Driver, mtu, ..USUAL }));
    }
    grid.extend([Kind::TcpRr, Kind::TcpCrr].map(|kind| Scenario { kind, ..shared }));
    for kind in [Kind::UdpOut, Kind::UdpIn] {
        let loads = [Load::Single, Load::Segmented];
        grid.extend(loads.map(|load| Scenario { kind, load, mtu: 1500, ..shared }));
    }
    grid.push(Scenario { kind: Kind::UdpRr, mtu: 1500, ..shared });
    let starts = [Kind::StartCommand, Kind::StartBackground];
    let idle = [Kind::IdleRss, Kind::IdlePss, Kind::IdleWakeups, Kind::IdleDetecting];
    let costs = starts.into_iter().chain(idle);
    grid.extend(costs.map(|kind| Scenario { kind, ..USUAL }));
    grid.extend([1000, 10_000].map(|held| Scenario { kind: Kind::Flows, held, ..USUAL }));
    grid
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn names(words: &str) -> Vec<String> {
        let chosen = select(&[words.to_owned()]).unwrap();
        chosen.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_select() {
        assert_eq!(names("crr-far"), ["tcp-crr-65520-far-cubic"]);
        assert_eq!(names("tcp-in-1500-bbr"), ["tcp-in-1500-far-bbr", "tcp-in-1500-local-bbr"]);
        assert_eq!(names("tcp-out-8-1500"), ["tcp-out-1500-far-cubic-8"]);
        assert_eq!(names("bypass-out"), ["bypass-out"]);
        assert_eq!(names("bypass-bbr"), ["bypass-out-bbr", "bypass-in-bbr"]);
        assert_eq!(names("bypass-crr-v6"), ["bypass-crr-out-v6", "bypass-crr-in-v6"]);
        assert_eq!(
            names("stream"),
            ["stream-out-65520", "stream-out-1500", "stream-in-65520", "stream-in-1500", "stream-rr-65520"]
        );
        assert_eq!(names("vhost-rr"), ["vhost-rr-65520", "vhost-udp-rr-1500"]);
        assert_eq!(names("vhost-udp-in"), ["vhost-udp-in-1500", "vhost-udp-in-1500-segmented"]);
        assert_eq!(names("udp-in-50k"), ["udp-in-1500-far-50k"]);
        assert_eq!(names("10000"), ["tcp-rr-65520-far-cubic-held-10000", "flows-10000"]);
        assert_eq!(select(&[]).unwrap(), all());
        assert!(select(&["sctp".to_owned()]).is_err());
    }

    #[test]
    fn names_differ() {
        let names: HashSet<String> = all().iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), all().len());
    }
}
