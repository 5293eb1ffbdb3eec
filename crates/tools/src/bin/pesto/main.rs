//! pesto changes the forwarded ports of a running passt or pasta, and shows what is known there.
//!
//! `pesto [OPTION]... PATH` talks to the socket that `--conf-path` has made. Its options are those
//! of the C program's tool of that name, which Podman and `RootlessKit` call, with the same meaning;
//! what is added twice, or deleted without being there, is no error.
//!
//! With this project's servers it speaks in messages: changes take effect as a whole or not at all,
//! and what can't be had is told. With a server of the C program it replaces tables, and waits until
//! the server is done: what could not be had is not told there.

mod arguments;
mod capture;
mod holder;
mod messages;
mod metrics;
mod tables;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use passt::advice;
use passt_control::Rule;
use passt_control::client::Greeted;
use passt_control::v2::Greeting;
use passt_sys::plain::Plain;
use passt_tools::visible::{line, tell};

use arguments::{Arguments, Command, Outcome};

fn main() -> ExitCode {
    let outcome = match Arguments::parse(std::env::args_os().skip(1)) {
        Outcome::Run(arguments) => {
            run(&arguments).map_err(|error| passt_tools::connect::plainly(&arguments.path, error))
        }
        Outcome::Print(text) => print(&text),
        Outcome::Fail(text) => Err(anyhow::anyhow!(text)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match error.downcast_ref::<Several>() {
                Some(Several(lines)) => lines.iter().for_each(|line| tell(Plain(line))),
                None => tell(Plain(format_args!("{error:#}"))),
            }
            ExitCode::FAILURE
        }
    }
}

/// Several errors, a line each. What is within one of them does not begin another line.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(crate) struct Several(pub(crate) Vec<String>);

/// Does what the command line asks for.
fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = arguments.path.as_path();
    if let Command::MetricsServer(address) = &arguments.command {
        return metrics::serve(path, *address);
    }
    if let Command::Capture(file) = &arguments.command {
        capture::check(file)?;
    }
    let greeted = connect(path)?;
    match &arguments.command {
        Command::Rules => rules(greeted, arguments),
        Command::Metrics => print(&metrics::text(&mut speak(greeted)?)?),
        Command::Request(request) => messages::request(speak(greeted)?, request),
        Command::Events => messages::events(speak(greeted)?),
        Command::Capture(file) => capture::run(speak(greeted)?, file),
        Command::MetricsServer(_) => Ok(()),
    }
}

fn connect(path: &Path) -> anyhow::Result<Greeted> {
    use passt_control::client::{Error, PATIENCE};
    passt_tools::connect::greeted(path, PATIENCE).map_err(|error| match error {
        Error::Io(error) => {
            let message = format!("Failed to connect to {}: {error}", path.display());
            anyhow::anyhow!(advice::with(message, advice::control_socket(&error)))
        }
        error @ Error::Unexpected(_) => error.into(),
        error => anyhow::anyhow!("{}: {error}", path.display()),
    })
}

fn speak(greeted: Greeted) -> anyhow::Result<passt_control::client::Client> {
    greeted.speak().context("This needs a server of this project")
}

/// Shows the rules, changes them, or both.
fn rules(greeted: Greeted, arguments: &Arguments) -> anyhow::Result<()> {
    let path = arguments.path.as_path();
    let before = greeted.greeting().clone();
    if arguments.actions.is_empty() {
        let title = format!("passt/pasta configuration ({})", path.display());
        return show(&title, before, path);
    }
    let wanted = arguments.wanted(&before)?;
    if arguments.show {
        show(&format!("Previous configuration ({})", path.display()), before.clone(), path)?;
    }
    if before.has_messages() {
        messages::change(greeted.speak()?, &wanted, arguments.debug)?;
    } else {
        tables::change(greeted, &wanted)?;
    }
    if arguments.show {
        let after = connect(path)?.greeting().clone();
        show(&format!("Updated configuration ({})", path.display()), after, path)?;
    }
    Ok(())
}

/// Lists all rules. Those that a greeting has no room for are asked for.
fn show(title: &str, greeting: Greeting, path: &Path) -> anyhow::Result<()> {
    // Writing to a string can't fail.
    let mut text = line(title) + "\n";
    let all = if greeting.tables.iter().any(|table| table.rules.is_none()) {
        speak(connect(path)?)?.rules()?
    } else {
        Vec::new()
    };
    for table in greeting.tables {
        let _ = writeln!(text, "  {}", table.name);
        let of_side = all.iter().map(|now| &now.rule).filter(|rule| rule.side == table.side);
        let of_side = of_side.cloned().collect();
        for rule in table.rules.unwrap_or(of_side) {
            let _ = writeln!(text, "    {}", shown(&rule));
        }
    }
    print(&text)
}

/// A rule as the C program's pesto lists it, with the blank that is at the end of most.
fn shown(rule: &Rule) -> String {
    let text = rule.to_string();
    let blank = if text.ends_with(' ') { " " } else { "" };
    line(text) + blank
}

fn print(text: &str) -> anyhow::Result<()> {
    passt_tools::print(text).map(drop).context("Couldn't write")
}
