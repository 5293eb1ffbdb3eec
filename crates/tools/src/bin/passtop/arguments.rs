//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lexopt::{Arg, Parser, ValueExt as _};
use passt::cli::{see_help, unrecognized};
use passt_tools::{PASSTOP, listed, long, two_dashes};

/// A command line.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    pub(crate) path: Option<PathBuf>,
    /// Show everything once, as text.
    pub(crate) once: bool,
    /// The same as JSON.
    pub(crate) json: bool,
    /// Time between two looks.
    pub(crate) interval: Option<Duration>,
}

/// What a command line asks for.
#[derive(Debug)]
pub(crate) enum Outcome {
    Run(Arguments),
    Print(String),
    Fail(String),
}

const KEYS: &str = "
Keys: Tab, or 1 to 4, another view; s order; r reverse; / filter by text; p pause; up, down scroll; q quit
";

impl Arguments {
    /// Reads a command line, without the program's name.
    pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Outcome {
        match Self::read(words) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Fail(see_help(&format!("{error:#}"), "passtop")),
        }
    }

    fn read(words: impl Iterator<Item = OsString>) -> anyhow::Result<Outcome> {
        let mut words = Parser::from_args(words);
        let mut arguments = Self::default();
        loop {
            let wrong = words.try_raw_args().and_then(|next| two_dashes(next.peek()?, PASSTOP));
            let Some(word) = words.next()? else { break };
            // Behind -- it is a path.
            if let (Some(wrong), Arg::Short(_)) = (wrong, &word) {
                bail!(wrong);
            }
            match word {
                Arg::Short('h') | Arg::Long("help") => return Ok(Outcome::Print(usage())),
                Arg::Long("version") => {
                    return Ok(Outcome::Print(format!("passtop {}\n", passt::VERSION)));
                }
                Arg::Short('1') | Arg::Long("once") => arguments.once = true,
                Arg::Short('j') | Arg::Long("json") => {
                    (arguments.once, arguments.json) = (true, true);
                }
                Arg::Short('i') | Arg::Long("interval") => {
                    let text = words.value()?.string()?;
                    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
                    let seconds = seconds.with_context(|| format!("not an interval in seconds: {text}"))?;
                    arguments.interval = Some(Duration::from_secs_f64(seconds));
                }
                Arg::Value(path) if arguments.path.is_none() => arguments.path = Some(path.into()),
                Arg::Long(name) => {
                    bail!(unrecognized(name, &PASSTOP.iter().map(long).collect::<Vec<_>>()))
                }
                other => bail!("{}", other.unexpected()),
            }
        }
        Ok(Outcome::Run(arguments))
    }
}

/// The usage and all options.
fn usage() -> String {
    let mut text = "Usage: passtop [OPTION]... [PATH]\n\n\
        Shows what the passt or pasta with --conf-path PATH does; without a path the only one found.\n\n"
        .to_owned();
    text.push_str(&listed(PASSTOP));
    text + KEYS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let parse = |line: &str| match Arguments::parse(line.split_whitespace().map(OsString::from)) {
            Outcome::Run(arguments) => Ok(arguments),
            Outcome::Fail(text) | Outcome::Print(text) => Err(text),
        };
        let arguments = parse("-j -i 0.5 /run/x").expect("a command line");
        assert!(arguments.once && arguments.json && arguments.path == Some("/run/x".into()));
        assert_eq!(arguments.interval, Some(Duration::from_millis(500)));
        for (line, expected) in [
            ("-i 0", "not an interval"),
            ("a b", "unexpected argument \"b\""),
            ("--nix", "unrecognized option '--nix'; try 'passtop --help'"),
            ("-json S", "-json is several options of one letter: the long one is --json, with two dashes"),
            ("-once", "the long one is --once"),
            ("S -interval=2", "the long one is --interval"),
            ("-help", "Usage"),
            ("--intervall 1", "did you mean '--interval'? Try"),
        ] {
            assert!(parse(line).is_err_and(|text| text.contains(expected)), "{line}");
        }
    }
}
