//! qrap starts a qemu before 7.2, which can't connect to a UNIX socket by itself, with a connection
//! to passt as an open descriptor.
//!
//! `qrap FDNUM COMMAND [ARG]...` runs the command, whose arguments refer to descriptor FDNUM
//! themselves, as in `-netdev socket,fd=5,id=n0`. `qrap ARG...` finds qemu, and sees to its
//! arguments ([`arguments`]): for programs that start qemu and can be given another name for it.
//!
//! passt is looked for at its default names, or at the path in `PASST_SOCKET`, for 2.5 s. It has
//! one client at a time and sends others away at once: the first that doesn't is taken.

mod arguments;

use std::ffi::OsString;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, bail};
use passt::life::socket;
use passt_sys::fd;
use passt_sys::plain::Plain;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};

use arguments::{Mistake, Plan};

/// Overrides the default names.
const SOCKET: &str = "PASST_SOCKET";
/// How often all names are tried, and the time between.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(50);
/// How long a passt that has a client may take to say so.
const VERDICT: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

const USAGE: &str = "Usage: qrap FDNUM COMMAND [ARG]...\n       qrap QEMU_ARG...\n\n\
    Connects to passt, then runs COMMAND with the connection as descriptor FDNUM,\n\
    or qemu with arguments for a network device that uses the connection.";

fn main() -> ExitCode {
    let Err(error) = run(std::env::args_os().skip(1).collect());
    eprintln!("qrap: {}", Plain(format_args!("{error:#}")));
    ExitCode::FAILURE
}

/// Becomes the other program. Returns only errors.
fn run(args: Vec<OsString>) -> anyhow::Result<std::convert::Infallible> {
    let plan = Plan::new(args).map_err(|mistake| match mistake {
        Mistake::Nothing => anyhow::anyhow!(USAGE),
        Mistake::Descriptor(text) => {
            anyhow::anyhow!("{text} is no descriptor to give away: take 3 or more, as in 'qrap 5 COMMAND'")
        }
        Mistake::NoCommand(number) => anyhow::anyhow!("no command to run with descriptor {number}"),
    })?;
    if let Some(number) = plan.fd {
        fd::place(connect()?, number).with_context(|| format!("Couldn't use descriptor {number}"))?;
    }
    for program in &plan.programs {
        let error = Command::new(program).args(&plan.args).exec();
        if error.kind() != io::ErrorKind::NotFound {
            return Err(error).with_context(|| format!("Couldn't start {}", program.display()));
        }
    }
    let names: Vec<_> = plan.programs.iter().map(|name| name.to_string_lossy()).collect();
    bail!("Couldn't find {}", names.join(", "))
}

/// A connection to a passt that has no other client.
fn connect() -> anyhow::Result<OwnedFd> {
    let given = std::env::var_os(SOCKET).map(PathBuf::from);
    for _ in 0..ATTEMPTS {
        let mut paths = given.clone().into_iter().chain(socket::names().filter(|_| given.is_none()));
        if let Some(connection) = paths.find_map(|path| connect_to(&path)) {
            return Ok(connection);
        }
        sleep(PAUSE);
    }
    match given {
        Some(path) => bail!("Couldn't connect to passt at {}", path.display()),
        None => bail!("Couldn't find a passt that waits for a client; {SOCKET} can name its socket"),
    }
}

fn connect_to(path: &Path) -> Option<OwnedFd> {
    let connection = UnixStream::connect(path).ok()?;
    let mut polled = [PollFd::new(&connection, PollFlags::IN)];
    let says_nothing = poll(&mut polled, Some(&VERDICT)).ok()? == 0;
    // A frame is left for qemu.
    let sends_frames = || matches!(recv(&connection, &mut [0_u8], RecvFlags::PEEK), Ok((1.., _)));
    (says_nothing || sends_frames()).then(|| connection.into())
}

/// A descriptor that can be given away: not one of the standard three.
fn descriptor(number: &str) -> Option<RawFd> {
    number.parse().ok().filter(|number| *number > 2)
}
