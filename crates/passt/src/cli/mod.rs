//! The command line of both programs, from its words to an immutable [`Config`].
//!
//! Nothing here does I/O, and nothing depends on the host: [`parse`] is a function of its
//! arguments, so that tables can test it and a fuzzer can run it. One table of options
//! (`options`) yields the parser's behaviour and the help. Splitting follows `getopt_long`
//! to the letter of its messages, because Podman reads them.
//!
//! Left out: whatever needs the host (interfaces, users, paths that may not exist).

mod advice;
mod announce;
mod config;
mod draft;
mod getopt;
mod help;
mod nearest;
mod option;
mod options;
mod ports;
mod slirp4netns;
mod subnet;
#[cfg(test)]
mod tests;
mod vain;
mod values;
mod vpnkit;

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::IpAddr;
use std::path::Path;

pub use announce::{NamedOption, named_options};
pub use config::{
    Addresses, Config, DEFAULT_MAC, DnsOptions, GuestOptions, GuestSocket, HostOptions, LogOptions, MAX_MTU,
    MapOptions, Mode, PasstOptions, PastaOptions, PerFamily, PortOptions, RepairSocket, ResolvConf, RunAs,
    Services, Source, Splice, Starter, Target, Userns, Verbosity, Wire,
};
pub use getopt::{Name, with_one_dash};
pub use ports::{Item, PortContext, PortError, PortSpec, Ports};

use draft::Draft;
use getopt::{Getopt, Order, Spec as _, Word};
use nearest::nearest;
use option::{Action, Arg};

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Run with this configuration.
    Run(Box<Config>),
    /// Write this to standard output and exit with status 0.
    Print(String),
    /// Write this to standard error and exit with status 1.
    Fail(String),
    /// Write this to standard output and standard error, and exit with this status.
    Refuse {
        /// For standard output.
        stdout: String,
        /// For standard error.
        stderr: String,
        /// The exit status.
        status: u8,
    },
}

/// What some command lines name that only the host knows.
pub trait Host {
    /// Whether something is there at a path.
    fn exists(&self, path: &Path) -> io::Result<()>;

    /// The first address of a family that an interface has.
    fn address_of(&self, interface: &str, v6: bool) -> Option<IpAddr>;
}

/// No host in particular: there is nothing at any path, and no interface.
#[derive(Clone, Copy, Debug)]
pub struct NoHost;

impl Host for NoHost {
    fn exists(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn address_of(&self, _: &str, _: bool) -> Option<IpAddr> {
        None
    }
}

/// Turns the arguments of passt or pasta, the program's name first, into what they ask for. Options
/// are taken in their order, so that one which prints (`--version`) does so if no earlier one was
/// wrong, and whatever follows it.
pub fn parse(argv: Vec<OsString>) -> Outcome {
    parse_on(argv, &NoHost)
}

/// The same for any of the programs, on a host.
pub fn parse_on(argv: Vec<OsString>, host: &dyn Host) -> Outcome {
    let name = argv.first().cloned().unwrap_or_default();
    if has_name(&name, b"slirp4netns") {
        return slirp4netns::parse(argv, host);
    }
    if has_name(&name, b"vpnkit") {
        return vpnkit::parse(argv);
    }
    let Some(program) = Program::detect(&name, &argv) else {
        return Outcome::Fail(format!("{}\n", Error::Program));
    };
    let mut words = Getopt::new(argv, options::all(), Order::First);
    match read(program, &mut words) {
        Ok(outcome) => outcome,
        Err(error) => {
            let line = match &error {
                Error::Getopt(message) => advice::see_help(message, &name.to_string_lossy()),
                Error::Invalid { what, .. } => format!("{error}{}", advice::expected(what)),
                Error::Conflict(text) => format!("{error}{}", advice::together(text)),
                _ => error.to_string(),
            };
            Outcome::Fail(printable(&line) + "\n")
        }
    }
}

/// Whether a character is not seen as itself on a terminal: controls, separators of lines, and what
/// Unicode has nobody show, as it joins, turns or marks others (UAX 44,
/// `Default_Ignorable_Code_Point`).
pub fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}')
        || matches!(letter, '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}')
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(letter, '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}')
        || matches!(letter, '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}')
        || matches!(letter, '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// A line for a terminal: what is hidden, in arguments that are named, is written as its number.
pub fn printable(line: &str) -> String {
    line.chars().fold(String::new(), |mut all, letter| {
        if is_hidden(letter) {
            all.extend(letter.escape_default());
        } else {
            all.push(letter);
        }
        all
    })
}

/// An option as documentation shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// Letter, long name and argument: `-m, --mtu MTU`.
    pub names: &'static str,
    /// What it does, in lines; the last may begin with `default:`.
    pub help: &'static str,
}

/// All options of pasta, or of passt in any mode, under titles.
pub fn described(pasta: bool) -> Vec<(&'static str, Vec<Described>)> {
    let program = if pasta { Program::Pasta } else { Program::VhostUser };
    let describe = |option: &option::Opt| Described { names: option.names, help: option.help };
    help::groups(program)
        .map(|(title, options)| (title, options.into_iter().map(describe).collect()))
        .collect()
}

/// All options of slirp4netns.
pub fn described_slirp4netns() -> Vec<Described> {
    slirp4netns::described()
}

/// All options of vpnkit that have an effect, or none but are let pass.
pub fn described_vpnkit() -> Vec<Described> {
    vpnkit::described()
}

/// What is said of an option that there is not, by its long name, where these are `known`. The same
/// for other programs of this project.
pub fn unrecognized(name: &str, known: &[&str]) -> String {
    format!("unrecognized option '--{name}'{}", advice::meant(nearest(name, known)))
}

/// A message about a program's options, and where they are listed.
pub fn see_help(message: &str, program: &str) -> String {
    advice::see_help(message, program)
}

/// A name that an interface can have.
pub fn interface(text: &str) -> Option<String> {
    values::interface(text)
}

/// A host or domain name, as `--hostname` and `--search` take it.
pub fn domain(text: &str) -> Option<String> {
    values::domain(text)
}

fn read(program: Program, words: &mut Getopt<option::Opt>) -> Result<Outcome, Error> {
    let mut draft = Draft::new(program);
    let mut operands = Vec::new();
    while let Some(token) = words.next().map_err(Error::Getopt)? {
        let (option, shown, value) = match token {
            Word::Operands(words) => {
                operands = words;
                break;
            }
            Word::Operand(word) => {
                operands.push(word);
                continue;
            }
            Word::Option(option, shown, value) => (option, shown, value),
        };
        if let Some(mode) = option.scope.refuses(program) {
            return Err(Error::Scope { shown, mode });
        }
        draft.given.note(option, value.as_deref().unwrap_or_default());
        match option.action {
            Action::Flag(set) => set(&mut draft),
            Action::Value(set) => {
                let value = value.unwrap_or_default();
                set(&mut draft, &Arg::new(&shown, &value))?;
            }
            Action::Print(text) => {
                return Ok(Outcome::Print(text(program, words.name())));
            }
        }
    }
    let config = draft.finish(operands)?;
    Ok(Outcome::Run(Box::new(config)))
}

/// The program that the command line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// passt, with a stream socket.
    Passt,
    /// passt, with a vhost-user socket.
    VhostUser,
    /// pasta.
    Pasta,
}

impl Program {
    /// An option may say it, wherever it stands; else the name does.
    fn detect(name: &OsStr, argv: &[OsString]) -> Option<Self> {
        let mut words = Getopt::new(argv.to_vec(), options::all(), Order::First);
        while let Ok(Some(Word::Option(option, ..))) = words.next() {
            if option.long() == "vhost-user" {
                return Some(Self::VhostUser);
            }
        }
        if has_name(name, b"pasta") {
            Some(Self::Pasta)
        } else {
            has_name(name, b"passt").then_some(Self::Passt)
        }
    }
}

/// Whether a program was called by a name with this part.
fn has_name(path: &OsStr, part: &[u8]) -> bool {
    let path = path.as_encoded_bytes();
    let base = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
    base.windows(part.len()).any(|window| window == part)
}

/// Why a command line was refused: the line to show for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Error {
    /// As `getopt_long` says it; a hint follows.
    #[error("{0}")]
    Getopt(String),
    /// The program's name says nothing.
    #[error(
        "Cannot determine mode, invoke as \"passt\" or \"pasta\"; the program's name says which it is, \
         and so do links to it by these names"
    )]
    Program,
    /// An option of another mode.
    #[error("{shown} is for {mode} mode only")]
    Scope { shown: String, mode: &'static str },
    /// A value that the option can't take.
    #[error("Invalid {what}: {value}")]
    Invalid { what: &'static str, value: String },
    /// A value that isn't the name of an interface.
    #[error("Invalid interface name {0}: not a name that an interface can have")]
    Interface(String),
    /// An operand where none is taken.
    #[error("Extra non-option argument: {0}; passt has options alone, and pasta runs commands")]
    Operand(String),
    /// An MTU above the limit.
    #[error("MTU {0} too large (max {MAX_MTU})")]
    Mtu(u64),
    /// A DNS server or search domain that can't be one.
    #[error("Cannot use DNS {what} {value}; write {example}, or none")]
    Dns { what: &'static str, value: String, example: &'static str },
    /// An option that says the opposite of `--isolate-host`, and in what.
    #[error("{0} and --isolate-host exclude each other: {1}")]
    Isolated(String, &'static str),
    /// Options that exclude or lack each other.
    #[error("{0}")]
    Conflict(&'static str),
    /// Options of DHCP and DHCPv6.
    #[error(transparent)]
    Announce(#[from] announce::AnnounceError),
    /// Port options.
    #[error(transparent)]
    Ports(#[from] PortError),
}
