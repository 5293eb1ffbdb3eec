//! The command or shell that pasta starts in a namespace of its own.
//!
//! It is the first process of a PID namespace, and everything it started ends with it, unless it is
//! to stay in ours. It dies with pasta, because it would have no network without. It shares pasta's
//! terminal and process group, so that an interactive shell has its terminal.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use passt_sys::process::{self, NewNamespaces};
use passt_sys::seccomp::{Call, Sysno};
use passt_sys::signal::SignalFd;
use passt_sys::{fd, msg};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, set_parent_process_death_signal,
    waitpid,
};
use rustix::system::{sethostname, uname};

use super::resolv_conf;
use super::start::Inherited;
use crate::advice;

/// Longest host name (`HOST_NAME_MAX` of limits.h).
const HOST_NAME_MAX: usize = 64;

/// Why the command couldn't be started.
#[derive(Debug, thiserror::Error)]
#[error("Couldn't start command or shell")]
pub struct Error(#[from] pub io::Error);

/// What a command or shell finds around it.
#[derive(Clone, Copy, Debug)]
pub struct Room<'a> {
    /// Namespaces of its own, the network's and that of mounts among them.
    pub namespaces: NewNamespaces,
    /// The host name there; else one that is made from the host's.
    pub hostname: Option<&'a str>,
    /// The text of `/etc/resolv.conf` there; else it is the host's.
    pub resolv_conf: Option<&'a str>,
    /// Level of the message if that can't be had.
    pub without_it: log::Level,
}

/// A command or shell in its own namespaces.
#[derive(Debug)]
pub struct Command {
    pid: Pid,
    signals: SignalFd,
    /// What to end it by, whatever has its PID then. Before Linux 5.3 only our own end does.
    process: Option<OwnedFd>,
    /// `/proc/PID/status`, to see what the command does with SIGINT.
    status: File,
    /// Until the network is ready the command waits for a byte from here.
    release: Option<PipeWriter>,
}

impl Command {
    /// Starts `argv`, or the user's login shell if there is none, in a room of its own, waiting for
    /// [`release`](Self::release).
    ///
    /// The process must have a single thread, and all capabilities in its user namespace.
    pub fn start(argv: &[OsString], room: Room<'_>, inherited: Inherited) -> Result<Self, Error> {
        let namespaces = room.namespaces;
        let signals: &[Signal] =
            if inherited.ignores_interrupt { &[Signal::CHILD] } else { &[Signal::CHILD, Signal::INT] };
        let signals = SignalFd::new(signals)?;
        let (ready, release) = io::pipe()?;
        let Some(pid) = process::fork_into(namespaces)? else {
            drop(release);
            let prepared = prepare(room, inherited);
            process::exit_now(run(argv, prepared, ready));
        };
        let status = format!("/proc/{pid}/status");
        let status = File::open(&status).map_err(|error| fd::at(status, &error))?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok();
        Ok(Self { pid, signals, process, status, release: Some(release) })
    }

    /// System calls made here once the process runs.
    pub fn calls(&self) -> Vec<Call> {
        calls(self.pid, self.process.as_ref().map(AsRawFd::as_raw_fd))
    }

    /// Path of its network namespace.
    pub fn netns_path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pid).into()
    }

    /// Lets it go: the network is ready.
    pub fn release(&mut self) -> io::Result<()> {
        match self.release.take() {
            // If it has ended already, its status will tell.
            Some(pipe) => match msg::write_slice(pipe.as_fd(), &[0]) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// Handles pending signals; the exit status that we should end with, if it is time.
    pub fn poll(&self) -> io::Result<Option<u8>> {
        while let Some(signal) = self.signals.next()? {
            if signal == Signal::INT && !self.handles(signal)? {
                // What would have happened to it outside: the first process of a
                // PID namespace is spared the default effect of a signal.
                if let Some(process) = &self.process {
                    pidfd_send_signal(process, Signal::KILL)?;
                }
                return Ok(Some(128 + 2));
            }
        }
        self.ended()
    }

    /// Its exit status, or 128 and the signal that ended it, `None` while it runs.
    fn ended(&self) -> io::Result<Option<u8>> {
        let Some((_, status)) = waitpid(Some(self.pid), WaitOptions::NOHANG)? else {
            return Ok(None);
        };
        let code = status.exit_status().or_else(|| Some(128 + status.terminating_signal()?));
        Ok(code.and_then(|code| u8::try_from(code).ok()))
    }

    /// Whether it catches or ignores `signal`.
    fn handles(&self, signal: Signal) -> io::Result<bool> {
        let mut text = [0; 4096];
        let len = self.status.read_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(text.get(..len).unwrap_or_default());
        Ok(dispositions(&text) & (1 << (signal.as_raw() - 1)) != 0)
    }
}

/// System calls for a command that has this PID and descriptor: no other process can be signalled.
pub fn calls(pid: Pid, process: Option<RawFd>) -> Vec<Call> {
    let signal = |process: RawFd| {
        let kill = Signal::KILL.as_raw().into();
        Call::with(Sysno::pidfd_send_signal, [(0, process.into()), (1, kill)])
    };
    let wait = [(0, pid.as_raw_nonzero().get().into()), (2, WaitOptions::NOHANG.bits().into())];
    let others = [Call::any(Sysno::pread64), Call::any(Sysno::read), Call::with(Sysno::wait4, wait)];
    others.into_iter().chain(process.map(signal)).collect()
}

impl AsFd for Command {
    /// Readable when [`poll`](Self::poll) should be called.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

/// Signals that the process with this `/proc/PID/status` catches or ignores, number 1 as the lowest
/// bit.
fn dispositions(status: &str) -> u64 {
    let masks = status.lines().filter_map(|line| {
        let mask = line.strip_prefix("SigCgt:").or_else(|| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    masks.fold(0, |all, mask| all | mask)
}

fn default_hostname() -> String {
    let name = format!("pasta-{}", uname().nodename().to_string_lossy());
    name.chars().take(HOST_NAME_MAX).collect()
}

/// The life of the new process; the status is for when it never becomes the command.
fn run(argv: &[OsString], prepared: io::Result<()>, mut ready: PipeReader) -> u8 {
    if let Err(error) = prepared {
        log::error!("Couldn't prepare for command or shell: {error}");
        return 1;
    }
    // Nothing to read means that pasta has ended before it was ready.
    if !matches!(ready.read(&mut [0]), Ok(1)) {
        return 1;
    }
    let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
    let mut command = to_command(argv, shell.unwrap_or_else(|| "/bin/sh".into()));
    let error = command.exec();
    let program = command.get_program();
    let message = format!("Failed to start command or shell {}: {error}", program.display());
    log::error!("{}", advice::with(message, advice::program(Path::new(program), &error)));
    1
}

fn prepare(room: Room<'_>, inherited: Inherited) -> io::Result<()> {
    let Room { namespaces, hostname, resolv_conf, without_it } = room;
    let hostname = hostname.map_or_else(default_hostname, str::to_owned);
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // In the user namespace we came from, its mounts would be seen outside.
    let separate = mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC);
    let separate = separate.map_err(io::Error::from);
    if let (Ok(()), Some(text)) = (&separate, resolv_conf)
        && let Err(error) = resolv_conf::cover(text)
    {
        log::log!(without_it, "Couldn't give the command a resolv.conf of its own: {error}");
    }
    let proc = || if namespaces.contains(NewNamespaces::PID) { mount_proc() } else { Ok(()) };
    // Without these most commands run as well, so they are tried only.
    let tries = [
        ("mount /proc", separate.and_then(|()| proc())),
        ("set host name", sethostname(hostname.as_bytes()).map_err(io::Error::from)),
        ("set ping_group_range", fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")),
    ];
    for (what, result) in tries {
        if let Err(error) = result {
            log::warn!("Couldn't {what} in the new namespace: {error}");
        }
    }
    // With the limit that the command is to have nothing can be opened any more where many ports are.
    inherited.restore()
}

fn mount_proc() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None::<&std::ffi::CStr>)?;
    Ok(())
}

/// `argv`, or else `shell` as a login shell: its name starts with a dash.
fn to_command(argv: &[OsString], shell: OsString) -> std::process::Command {
    if let Some((program, arguments)) = argv.split_first() {
        let mut command = std::process::Command::new(program);
        command.args(arguments);
        return command;
    }
    let mut name = OsString::from("-");
    name.push(Path::new(&shell).file_name().unwrap_or(OsStr::new("sh")));
    let mut command = std::process::Command::new(shell);
    command.arg0(name);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispositions_are_caught_and_ignored_signals() {
        let status = "Name:\tsh\nSigBlk:\tffff\nSigIgn:\t0000000000000004\nSigCgt:\t0000000000000002\n";
        assert_eq!(dispositions(status), 6);
        assert_eq!(dispositions("SigCgt:\tzz\n"), 0);
    }

    #[test]
    fn a_shell_is_a_login_shell() {
        let shell = to_command(&[], "/usr/bin/zsh".into());
        assert!(format!("{shell:?}").contains("\"-zsh\""));
        let command = to_command(&["echo".into(), "-n".into()], "/bin/sh".into());
        assert_eq!(command.get_program(), "echo");
    }
}
