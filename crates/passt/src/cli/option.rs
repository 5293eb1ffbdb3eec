//! What an option is: its names, where it belongs, what it does with its argument.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::draft::Draft;
use super::getopt::Spec;
use super::values;
use super::{Error, Program};

/// One option.
pub(super) struct Opt {
    /// Letter, long name and argument as the help shows them: `-m, --mtu MTU`, `--pid FILE`.
    pub(super) names: &'static str,
    /// Modes that have it.
    pub(super) scope: Scope,
    /// What it does, and whether it takes an argument.
    pub(super) action: Action,
    /// Families that it means something for.
    pub(super) family: Family,
    /// What has to be on for it to mean anything.
    pub(super) needs: Needs,
    /// Description for the help, in lines.
    pub(super) help: &'static str,
}

/// Modes that have an option.
#[derive(Clone, Copy)]
pub(super) enum Scope {
    Both,
    Passt,
    VhostUser,
    Pasta,
    /// pasta; passt takes it, and does what it says anyway.
    PastaForAll,
}

impl Scope {
    /// Whether the option means something to this program.
    pub(super) fn concerns(self, program: Program) -> bool {
        self.refuses(program).is_none() && (!matches!(self, Self::PastaForAll) || program == Program::Pasta)
    }

    /// The mode's name if the option isn't for this program.
    pub(super) fn refuses(self, program: Program) -> Option<&'static str> {
        let fits = match self {
            Self::Both | Self::PastaForAll => true,
            Self::Passt => program != Program::Pasta,
            Self::VhostUser => program == Program::VhostUser,
            Self::Pasta => program == Program::Pasta,
        };
        (!fits).then_some(match self {
            Self::Both | Self::Passt => "passt",
            Self::VhostUser => "vhost-user",
            Self::Pasta | Self::PastaForAll => "pasta",
        })
    }
}

/// Families that an option means something for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Any,
    V4,
    V6,
    /// That of the address which is its argument, with or without a length.
    OfAddress,
}

impl Family {
    /// Of an option with this argument, whether it is for IPv4 alone, or for IPv6; `None` if for
    /// both, or neither.
    pub(super) fn is_v4(self, value: &OsStr) -> Option<bool> {
        match self {
            Self::Any => None,
            Self::V4 => Some(true),
            Self::V6 => Some(false),
            Self::OfAddress => {
                let addr = value.to_str()?.split('/').next()?;
                values::addr(addr).map(|addr| addr.is_ipv4())
            }
        }
    }
}

/// What has to be on for an option to mean anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    /// Ports are forwarded by TCP.
    Tcp,
    /// The same by UDP.
    Udp,
    /// Name servers are asked by either.
    Resolver,
    /// DHCP or, by the option's family, DHCPv6.
    Lease,
    /// Router advertisements.
    Advertisement,
    /// Any of these.
    Announcement,
    /// The tap device, or the machine's.
    Link,
}

/// The effect of an option.
pub(super) enum Action {
    /// Takes no argument.
    Flag(fn(&mut Draft)),
    /// Takes an argument.
    Value(fn(&mut Draft, &Arg<'_>) -> Result<(), Error>),
    /// Ends the program with this text, made for a program and the name it was called by.
    Print(fn(Program, &str) -> String),
}

/// The argument of an option.
pub(super) struct Arg<'a> {
    /// The option as it was given.
    pub(super) shown: &'a str,
    /// The argument.
    pub(super) value: &'a OsStr,
}

impl<'a> Arg<'a> {
    /// The argument `value` of the option that was given as `shown`.
    pub(super) fn new(shown: &'a str, value: &'a OsStr) -> Self {
        Self { shown, value }
    }

    /// The value that `read` makes of it, or an error that says `what` it should be.
    pub(super) fn parse<T>(&self, what: &'static str, read: impl Fn(&str) -> Option<T>) -> Result<T, Error> {
        let value = self.value.to_str().and_then(read);
        value.ok_or_else(|| self.invalid(what))
    }

    /// The name of an interface.
    pub(super) fn interface(&self) -> Result<String, Error> {
        let name = self.value.to_str().and_then(values::interface);
        name.ok_or_else(|| Error::Interface(self.lossy()))
    }

    /// A path of at most `max` bytes.
    pub(super) fn path(&self, what: &'static str, max: usize) -> Result<PathBuf, Error> {
        let valid = (1..=max).contains(&self.value.len());
        valid.then(|| self.value.into()).ok_or_else(|| self.invalid(what))
    }

    /// Adds it to a list that is read later.
    #[expect(clippy::unnecessary_wraps, reason = "all options with an argument look the same")]
    pub(super) fn push_to(&self, list: &mut Vec<OsString>) -> Result<(), Error> {
        list.push(self.value.to_owned());
        Ok(())
    }

    /// Whether it is this word.
    pub(super) fn is(&self, text: &str) -> bool {
        self.value == text
    }

    /// The argument for a message.
    pub(super) fn lossy(&self) -> String {
        self.value.to_string_lossy().into_owned()
    }

    /// The error that says `what` it should have been.
    pub(super) fn invalid(&self, what: &'static str) -> Error {
        Error::Invalid { what, value: self.lossy() }
    }
}

/// An option without argument.
pub(super) const fn flag(names: &'static str, help: &'static str, set: fn(&mut Draft)) -> Opt {
    Opt {
        names,
        scope: Scope::Both,
        action: Action::Flag(set),
        family: Family::Any,
        needs: Needs::Nothing,
        help,
    }
}

/// An option with an argument.
pub(super) const fn value(
    names: &'static str,
    help: &'static str,
    set: fn(&mut Draft, &Arg<'_>) -> Result<(), Error>,
) -> Opt {
    Opt {
        names,
        scope: Scope::Both,
        action: Action::Value(set),
        family: Family::Any,
        needs: Needs::Nothing,
        help,
    }
}

/// An option that ends the program with a text.
pub(super) const fn print(names: &'static str, help: &'static str, text: fn(Program, &str) -> String) -> Opt {
    Opt {
        names,
        scope: Scope::Both,
        action: Action::Print(text),
        family: Family::Any,
        needs: Needs::Nothing,
        help,
    }
}

/// Gives options to some modes alone, apart from those that are limited already.
pub(super) const fn all_only<const N: usize>(scope: Scope, mut options: [Opt; N]) -> [Opt; N] {
    let mut i = 0;
    while i < N {
        if matches!(options[i].scope, Scope::Both) {
            options[i].scope = scope;
        }
        i += 1;
    }
    options
}

impl Opt {
    /// Gives it to some modes alone.
    pub(super) const fn only(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Has it mean something for some families alone.
    pub(super) const fn of(mut self, family: Family) -> Self {
        self.family = family;
        self
    }

    /// Has it mean nothing unless that is on.
    pub(super) const fn needing(mut self, needs: Needs) -> Self {
        self.needs = needs;
        self
    }
}

impl Spec for Opt {
    fn names(&self) -> &'static str {
        self.names
    }

    fn takes_argument(&self) -> bool {
        matches!(self.action, Action::Value(_))
    }

    fn prints(&self) -> bool {
        matches!(self.action, Action::Print(_))
    }
}
