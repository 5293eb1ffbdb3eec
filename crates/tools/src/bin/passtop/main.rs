//! passtop shows what a running passt or pasta does, in the terminal: rates now and before, flows by
//! rate, forwarded ports and who uses them, and what is dropped, in words.
//!
//! `passtop [OPTION]... [PATH]` looks at the socket that `--conf-path` has made; without a path at
//! the only one that it finds where such sockets usually are. It needs no right but to connect there.
//!
//! What is asked for once a second is little: what each flow has carried, in numbers; then the flows
//! that are shown are asked for by their names.

mod arguments;
mod find;
mod keys;
mod looks;
mod once;
mod output;
mod sample;
mod screen;
mod view;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use passt::advice;
use passt_control::client::{Error, Greeted};
use passt_sys::plain::Plain;
use passt_tools::connect;
use passt_tools::visible::tell;

use arguments::{Arguments, Outcome};
use sample::Monitor;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let outcome = match Arguments::parse(std::env::args_os().skip(1)) {
        Outcome::Run(arguments) => run(&arguments),
        Outcome::Print(text) => passt_tools::print(&text).map(drop).context("Couldn't write"),
        Outcome::Fail(text) => Err(anyhow::anyhow!(text)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("passtop: {}", Plain(format_args!("{error:#}"))));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = match &arguments.path {
        Some(path) => path.clone(),
        None => find::only()?,
    };
    watch(&path, arguments).map_err(|error| connect::plainly(&path, error))
}

fn watch(path: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    let client = connect::greeted(path, PATIENCE).and_then(Greeted::speak).map_err(|error| {
        let advice = match &error {
            Error::Io(error) => advice::control_socket(error),
            Error::Unexpected(_) => return error.into(),
            _ => None,
        };
        anyhow::anyhow!(advice::with(format_args!("{}: {error}", path.display()), advice))
    })?;
    let monitor = Monitor::new(client)?;
    if arguments.once {
        return once::run(monitor, path, arguments);
    }
    screen::run(monitor, path, arguments.interval.unwrap_or(Duration::from_secs(1)))
}
