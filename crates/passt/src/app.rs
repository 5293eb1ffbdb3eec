//! From the command line to the loop: the order in which a process comes to life.
//!
//! The order is what the programs that start us rely on. When the parent of a background
//! process ends, or a command is released, everything is in place; a failure
//! before that is one line on standard error and status 1.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use passt_sys::tun::Tap;
use rustix::event::{PollFd, PollFlags, poll};

use crate::cli::{self, Config, Mode, Outcome, PastaOptions};
use crate::life::background::{self, PidFile};
use crate::life::namespace::{self, Entered};
use crate::life::start::{self, Inherited};
use crate::life::watch::Watch;

/// The entry of both programs; the name in `argv[0]` tells which one it is.
pub fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    match start::signals().context("Couldn't set up signals").and_then(|()| obey(argv)) {
        Ok(status) => status.into(),
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn report(error: &anyhow::Error) {
    if log::log_enabled!(log::Level::Error) {
        log::error!("{error:#}");
    } else {
        // Without standard error there is nobody to tell.
        let _ = writeln!(io::stderr(), "{error:#}");
    }
}

fn obey(argv: Vec<OsString>) -> anyhow::Result<u8> {
    match cli::parse(argv) {
        Outcome::Run(config) => run(&config),
        Outcome::Print(text) => {
            io::stdout().write_all(text.as_bytes())?;
            Ok(0)
        }
        Outcome::Fail(text) => {
            io::stderr().write_all(text.as_bytes())?;
            Ok(1)
        }
    }
}

/// Runs until something ends the process; the exit status.
fn run(config: &Config) -> anyhow::Result<u8> {
    let inherited = start::limits(None).context("Couldn't set limits")?;
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    if let Some(missing) = config.unsupported() {
        anyhow::bail!(missing);
    }
    match &config.mode {
        Mode::Passt(_) => anyhow::bail!("The side of the virtual machine is not there yet"),
        Mode::Pasta(pasta) => run_pasta(config, pasta, inherited),
    }
}

fn run_pasta(config: &Config, pasta: &PastaOptions, inherited: Inherited) -> anyhow::Result<u8> {
    // Files are opened as whoever started us, before the identity changes.
    let pid_file = config.pid_file.as_deref().map(PidFile::open).transpose()?;
    let Entered { netns, mut watch } = namespace::enter(config, pasta, inherited)?;
    let name = pasta.interface.as_deref().unwrap_or("tap0");
    let tap = netns.run(|| Tap::open(name, false))?;
    let _tap = tap.with_context(|| format!("Couldn't create tap device {name}"))?;

    if config.foreground {
        background::stay(pid_file)?;
    } else {
        background::detach(pid_file)?.ready()?;
    }
    watch.release()?;
    serve(&watch)
}

/// Waits for the end; the exit status.
fn serve(watch: &Watch) -> anyhow::Result<u8> {
    let fd = watch.fd();
    loop {
        let mut fds: Vec<PollFd> = fd.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        poll(&mut fds, None)?;
        if let Some(status) = watch.check()? {
            return Ok(status);
        }
    }
}
