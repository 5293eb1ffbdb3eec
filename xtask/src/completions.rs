//! Completions for shells, of all programs, from their tables of options.
//!
//! They are kept in `contrib/completions`; a test here fails while they are older than the tables.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, Command, ValueHint};
use clap_complete::Shell;
use passt::cli;
use passt_tools::{Described, PASSTOP, PESTO};

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Fish, Shell::Zsh];
const PROGRAMS: [&str; 4] = ["passt", "pasta", "passtop", "pesto"];

/// Writes all of them.
pub(crate) fn write(root: &Path) -> Result<()> {
    for (path, text) in all(root) {
        fs::create_dir_all(path.parent().context("a directory")?)?;
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Files and what they should say.
fn all(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = PROGRAMS.iter().flat_map(|name| SHELLS.map(|shell| (*name, shell)));
    let file = |(name, shell): (&'static str, Shell)| {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command(name), name, &mut text);
        (root.join(format!("contrib/completions/{name}.{shell}")), text)
    };
    files.map(file).collect()
}

fn command(name: &'static str) -> Command {
    let mut command = Command::new(name).disable_help_flag(true).disable_version_flag(true);
    let options: Vec<Described> = match name {
        "pesto" => PESTO.to_vec(),
        "passtop" => PASSTOP.to_vec(),
        _ => {
            let groups = cli::described(name == "pasta");
            groups.into_iter().flat_map(|(_, group)| group).map(|one| (one.names, one.help)).collect()
        }
    };
    for (names, help) in options {
        command = command.arg(option(names, help));
    }
    let hint = if name == "pasta" { ValueHint::CommandString } else { ValueHint::FilePath };
    if name == "passt" { command } else { command.arg(Arg::new("operand").value_hint(hint)) }
}

/// An option, from its names as the help shows them.
fn option(names: &'static str, help: &'static str) -> Arg {
    let (_, long) = names.split_once("--").unwrap_or_default();
    let (long, value) = long.split_once(' ').unwrap_or((long, ""));
    let short = names.chars().nth(1).filter(|&letter| letter != '-');
    let mut arg = Arg::new(long).long(long).help(help.lines().next().unwrap_or_default());
    // Two names of one option have one letter.
    if let Some(short) = short.filter(|_| long != "socket-path") {
        arg = arg.short(short);
    }
    let is_file = ["FILE", "PATH", "PATH|NAME", "PATH|none"].contains(&value);
    let hint = if is_file { ValueHint::AnyPath } else { ValueHint::Other };
    if value.is_empty() {
        arg.action(ArgAction::Count)
    } else {
        arg.action(ArgAction::Append).value_hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise: `cargo xtask completions`.
    #[test]
    fn completions_are_those_of_these_programs() {
        let root = crate::root().expect("workspace");
        for (path, text) in all(root) {
            let kept = fs::read(&path).unwrap_or_default();
            assert!(kept == text, "{} is out of date: cargo xtask completions", path.display());
        }
    }

    #[test]
    fn every_option_is_there() {
        let mut text = Vec::new();
        clap_complete::generate(Shell::Bash, &mut command("pasta"), "pasta", &mut text);
        let text = String::from_utf8(text).expect("text");
        for option in ["--config-net", "--tcp-ports", "-t"] {
            assert!(text.contains(option), "{option}");
        }
    }
}
