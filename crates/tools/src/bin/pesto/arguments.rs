//! The command line, and what it means for the rules of a server.
//!
//! `-A` and `-D` say what becomes of the specifiers behind them. One before any of these replaces
//! all rules of its side, as the first of that side; a `-C` clears a side.

use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use lexopt::{Arg, Parser, ValueExt as _};
use passt::cli::{PortContext, Ports, see_help, unrecognized};
use passt::control::rule_of;
use passt::netconf::ephemeral_ports;
use passt_control::request::{Change, Which};
use passt_control::v2::{Caps, Greeting};
use passt_control::{Protocol, Side};
use passt_engine::flow;
use passt_engine::forward::Entry;
use passt_engine::forward::rule::Families;
use passt_tools::{PESTO, listed, long, two_dashes};

/// A command line.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) path: PathBuf,
    pub(crate) command: Command,
    pub(crate) actions: Vec<Action>,
    pub(crate) show: bool,
    pub(crate) debug: bool,
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Show rules, or change them.
    Rules,
    /// Print counters for Prometheus.
    Metrics,
    /// Serve these.
    MetricsServer(SocketAddr),
    /// Send a request as it is, and print the answer.
    Request(String),
    /// Print events as they come.
    Events,
    /// Record frames in a file, or on standard output.
    Capture(PathBuf),
}

/// What a command line asks for.
#[derive(Debug)]
pub(crate) enum Outcome {
    Run(Box<Arguments>),
    /// Print this on standard output.
    Print(String),
    /// It is wrong: one line.
    Fail(String),
}

/// A change of rules.
#[derive(Debug)]
pub(crate) enum Action {
    Ports { spec: OsString, option: &'static str, what: What },
    Clear(String),
}

/// What becomes of the rules of a specifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// They are all that there is on their side.
    Replace,
    Add,
    Delete,
}

const SPECS: &str = "
SPEC is as for passt and pasta: \"none\", \"all\", \"auto\", or [ADDR[%IF]/]PORTS, where PORTS is
a list of FIRST[-LAST][:[TADDR/]TO[-TOLAST]] and, to be left out, ~FIRST[-LAST].
Without --add or --delete, what is given replaces all rules of its interface.
";

/// The usage and all options.
fn usage() -> String {
    let mut text = "Usage: pesto [OPTION]... PATH\n\n\
        Shows or changes the forwarded ports of the passt or pasta with --conf-path PATH.\n\n"
        .to_owned();
    text.push_str(&listed(PESTO));
    text + SPECS
}

impl Arguments {
    /// Reads a command line, without the program's name.
    pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Outcome {
        match Self::read(words) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Fail(see_help(&format!("pesto: {error:#}"), "pesto")),
        }
    }

    fn read(words: impl Iterator<Item = OsString>) -> anyhow::Result<Outcome> {
        let mut words = Parser::from_args(words);
        // As getopt has it: "-t=80" is no way to give a value.
        words.set_short_equals(false);
        let (mut what, mut path) = (What::Replace, None);
        let mut arguments = Self {
            path: PathBuf::new(),
            command: Command::Rules,
            actions: Vec::new(),
            show: false,
            debug: false,
        };
        loop {
            let wrong = words.try_raw_args().and_then(|next| two_dashes(next.peek()?, PESTO));
            let Some(word) = words.next()? else { break };
            // Behind -- it is a path.
            if let (Some(wrong), Arg::Short(_)) = (wrong, &word) {
                bail!(wrong);
            }
            let name = match word {
                Arg::Short(letter) => by_letter(letter)?,
                Arg::Long(name) => by_prefix(name)?,
                Arg::Value(value) => {
                    if let Some(other) = path.replace(PathBuf::from(&value)) {
                        bail!(more_than_one(other.as_os_str(), &value));
                    }
                    continue;
                }
            };
            let mut ports = |option| -> anyhow::Result<()> {
                arguments.actions.push(Action::Ports { spec: words.value()?, option, what });
                Ok(())
            };
            match name {
                "help" => return Ok(Outcome::Print(usage())),
                "version" => return Ok(Outcome::Print(version())),
                "add" => what = What::Add,
                "delete" => what = What::Delete,
                "tcp-ports" => ports("-t")?,
                "udp-ports" => ports("-u")?,
                "tcp-ns" => ports("-T")?,
                "udp-ns" => ports("-U")?,
                "clear" => arguments.actions.push(Action::Clear(words.value()?.string()?)),
                "show" => arguments.show = true,
                "debug" => arguments.debug = true,
                "metrics" => arguments.command = Command::Metrics,
                "metrics-listen" => {
                    arguments.command = Command::MetricsServer(listen(&words.value()?)?);
                }
                "events" => arguments.command = Command::Events,
                "capture" => arguments.command = Command::Capture(words.value()?.into()),
                _ => arguments.command = Command::Request(words.value()?.string()?),
            }
        }
        if !matches!(arguments.command, Command::Rules) && !arguments.actions.is_empty() {
            bail!("changes of rules and other requests don't go together");
        }
        let path = path.context("no PATH of a control socket, which passt or pasta have with --conf-path")?;
        Ok(Outcome::Run(Box::new(Self { path, ..arguments })))
    }

    /// The changes that are meant, to the rules of a server.
    pub(crate) fn wanted(&self, server: &Greeting) -> anyhow::Result<Vec<Change>> {
        let (mut changes, mut replaced, mut given) = (Vec::new(), Vec::new(), Vec::new());
        for action in &self.actions {
            let (spec, option, what) = match action {
                Action::Clear(name) => {
                    let table = server.tables.iter().find(|table| table.name == *name);
                    let side = table
                        .with_context(|| {
                            format!("Unsupported pif name {name}; there are HOST and, of pasta, SPLICE")
                        })?
                        .side;
                    changes.push(Change::Clear(Which { side: Some(side), protocol: None }));
                    continue;
                }
                Action::Ports { spec, option, what } => (spec, *option, *what),
            };
            let (side, protocol) = meaning(option);
            let table = server.table(side);
            let caps = table.with_context(|| format!("{option} is for pasta mode only"))?.caps;
            if what == What::Replace {
                if spec == "none" && given.contains(&option) {
                    bail!("{option} none conflicts with previous options");
                }
                given.push(option);
                if !replaced.contains(&side) {
                    replaced.push(side);
                    changes.push(Change::Clear(Which { side: Some(side), protocol: None }));
                }
            }
            for rule in rules(spec, option, caps)? {
                let side = if side == Side::Host { flow::Side::Host } else { flow::Side::Namespace };
                let protocol = match protocol {
                    Protocol::Tcp => flow::Protocol::Tcp,
                    Protocol::Udp => flow::Protocol::Udp,
                };
                let rule = rule_of(&Entry { side, protocol, rule });
                changes.push(if what == What::Delete { Change::Delete(rule) } else { Change::Add(rule) });
            }
        }
        Ok(changes)
    }
}

/// The rules that a specifier stands for.
fn rules(
    spec: &OsStr,
    option: &'static str,
    caps: Caps,
) -> anyhow::Result<Vec<passt_engine::forward::rule::Rule>> {
    let (side, protocol) = meaning(option);
    let on = if protocol == Protocol::Tcp { Caps::TCP } else { Caps::UDP };
    if !caps.contains(on) {
        bail!("{option}: {protocol} is switched off");
    }
    let families = Families::of(caps.contains(Caps::V4), caps.contains(Caps::V6));
    let context = PortContext {
        option,
        outbound: side == Side::Namespace,
        pasta: caps.contains(Caps::SCAN),
        families: families.context("The server has neither IPv4 nor IPv6")?,
    };
    Ok(Ports::parse(&[spec.to_owned()], context)?.rules(ephemeral_ports())?)
}

/// Where the rules of an option listen, and what for.
fn meaning(option: &str) -> (Side, Protocol) {
    match option {
        "-t" => (Side::Host, Protocol::Tcp),
        "-u" => (Side::Host, Protocol::Udp),
        "-T" => (Side::Namespace, Protocol::Tcp),
        _ => (Side::Namespace, Protocol::Udp),
    }
}

/// What is said of two operands, where there is one: the path.
fn more_than_one(first: &OsStr, second: &OsStr) -> String {
    let is_ports = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_digit() || ":-/,.".contains(c))
    };
    let [first, second] = [first.to_string_lossy(), second.to_string_lossy()];
    match [&first, &second].into_iter().find(|text| is_ports(text)) {
        Some(ports) => format!("{ports}: ports take -t or -u"),
        None => format!("more than one path: {second}"),
    }
}

/// An address and a port, or a port on loopback.
fn listen(value: &OsStr) -> anyhow::Result<SocketAddr> {
    let text = value.to_string_lossy();
    let on_loopback = || Some(SocketAddr::from((Ipv4Addr::LOCALHOST, text.parse().ok()?)));
    let address = text.parse().ok().or_else(on_loopback);
    address.with_context(|| format!("not an address and a port: {text}"))
}

fn version() -> String {
    format!(
        "pesto {}\nLicence: GNU General Public License, version 2 or (at your option) later\n",
        passt::VERSION
    )
}

fn by_letter(letter: char) -> anyhow::Result<&'static str> {
    let begins = format!("-{letter},");
    let option = PESTO.iter().find(|(names, _)| names.starts_with(&begins));
    Ok(long(option.with_context(|| format!("invalid option -- '{letter}'"))?))
}

/// The option that a long name means, perhaps abbreviated.
fn by_prefix(name: &str) -> anyhow::Result<&'static str> {
    let all = || PESTO.iter().map(long);
    if let Some(exact) = all().find(|long| *long == name) {
        return Ok(exact);
    }
    let found: Vec<_> = all().filter(|long| long.starts_with(name)).collect();
    match found.as_slice() {
        [] => bail!(unrecognized(name, &all().collect::<Vec<_>>())),
        [one] => Ok(one),
        several => bail!("option '--{name}' is ambiguous: --{}", several.join(", --")),
    }
}

#[cfg(test)]
mod tests {
    use passt_control::v2::Table;

    use super::*;

    fn server(caps: Caps) -> Greeting {
        let table = |side: Side| Table {
            side,
            name: side.pif_name().into(),
            caps: caps | Caps::TCP | Caps::UDP,
            rules: Some(Vec::new()),
        };
        Greeting { tables: vec![table(Side::Host), table(Side::Namespace)] }
    }

    /// The changes that a command line means, as text.
    fn wanted(line: &str) -> Result<Vec<String>, String> {
        let words = line.split_whitespace().map(OsString::from);
        let Outcome::Run(arguments) = Arguments::parse(words) else { return Err("not run".into()) };
        let changes = arguments.wanted(&server(Caps::V4 | Caps::V6 | Caps::SCAN));
        let changes = changes.map_err(|error| format!("{error:#}"))?;
        Ok(changes
            .iter()
            .map(|change| match change {
                Change::Add(rule) => format!("+{rule}"),
                Change::Delete(rule) => format!("-{rule}"),
                Change::Clear(which) => format!("0{}", which.side.expect("a side").pif_name()),
            })
            .collect())
    }

    /// What Podman and `RootlessKit` send.
    #[test]
    fn spellings_of_callers() {
        for (line, expected) in [
            ("--add -t [::]/8080:fd00::5/80 S", "+TCP [::]:8080  =>  fd00::5:80 "),
            ("--add -t 0.0.0.0/8080:10.89.0.2/80 S", "+TCP [0.0.0.0]:8080  =>  10.89.0.2:80 "),
            ("--delete -u 0.0.0.0/53-54:10.89.0.2/53-54 S", "-UDP [0.0.0.0]:53-54  =>  10.89.0.2:53-54 "),
            ("-A --tcp-ports=::/8080:80 S", "+TCP [::]:8080  =>  80 "),
            ("-A --udp-ports=127.0.0.1/5353:53 S", "+UDP [127.0.0.1]:5353  =>  53 "),
            ("-D --tcp-ports=0.0.0.0/8080:80 S", "-TCP [0.0.0.0]:8080  =>  80 "),
        ] {
            assert_eq!(wanted(line), Ok(vec![expected.to_owned()]), "{line}");
        }
    }

    #[test]
    fn what_follows_what() {
        let list = |line| wanted(line).map(|changes| changes.join("|"));
        assert_eq!(
            list("-t 80 -u 53 -D -t 81 -A -T 82 S").as_deref(),
            Ok(
                "0HOST|+TCP [*]:80  =>  80 |+UDP [*]:53  =>  53 |-TCP [*]:81  =>  81 |+TCP [*]%lo:82  =>  82 "
            )
        );
        assert_eq!(list("-T none S").as_deref(), Ok("0SPLICE"));
        assert_eq!(list("-C HOST -A -t none S").as_deref(), Ok("0HOST"));
        assert_eq!(list("-t 80 -t none S"), Err("-t none conflicts with previous options".into()));
        assert_eq!(
            list("-C FOO S"),
            Err("Unsupported pif name FOO; there are HOST and, of pasta, SPLICE".into())
        );
        assert_eq!(list("-t 0 S"), Err("Invalid port specifier 0; ports are 1 to 65535".into()));
        let of_passt = Greeting { tables: vec![server(Caps::V4).tables.remove(0)] };
        let Outcome::Run(arguments) =
            Arguments::parse(["-A", "-t", "auto", "S"].map(OsString::from).into_iter())
        else {
            panic!("not run")
        };
        let error = arguments.wanted(&of_passt).expect_err("auto");
        assert_eq!(error.to_string(), "-t auto is for pasta mode only");
    }

    #[test]
    fn what_is_wrong() {
        for (line, expected) in [
            ("--ad -t 80", "no PATH"),
            (
                "--mettrics S",
                "unrecognized option '--mettrics'; did you mean '--metrics'? Try 'pesto --help'",
            ),
            ("--x S", "unrecognized option '--x'"),
            ("-x S", "invalid option -- 'x'"),
            ("--tcp=80 S", "option '--tcp' is ambiguous: --tcp-ports, --tcp-ns"),
            ("S T", "more than one path: T"),
            ("--add 8083:80 S", "pesto: 8083:80: ports take -t or -u"),
            ("S 127.0.0.1/80-81,90", "pesto: 127.0.0.1/80-81,90: ports take -t or -u"),
            ("-A -t 80 --metrics S", "don't go together"),
            (
                "-tcp-ports 80 S",
                "pesto: -tcp-ports is several options of one letter: the long one is --tcp-ports, with two",
            ),
            ("-add -t 80 S", "the long one is --add"),
            ("S -show", "the long one is --show"),
            ("--metrics-listen x S", "not an address and a port: x"),
        ] {
            match Arguments::parse(line.split_whitespace().map(OsString::from)) {
                Outcome::Fail(text) => {
                    assert!(text.contains(expected) && text.lines().count() == 1, "{text}");
                }
                other => panic!("{line}: {other:?}"),
            }
        }
    }
}
