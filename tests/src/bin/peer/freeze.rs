//! Stops one thread of a process, as nothing but a debugger can.

use std::io::Read as _;

use anyhow::{Context as _, Result};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::say;

/// Stops the thread of this name, prints `FROZEN`, and lets it go on once standard input ends.
pub(crate) fn thread(pid: u32, name: &str) -> Result<()> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))?;
    let named = |path: &std::path::Path| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let path = tasks.filter_map(|task| Some(task.ok()?.path())).find(|path| named(path));
    let path = path.with_context(|| format!("no thread {name}"))?;
    let id = path.file_name().and_then(|id| id.to_str()).context("a number")?.parse()?;
    let thread = Pid::from_raw(id);
    ptrace::seize(thread, ptrace::Options::empty())?;
    ptrace::interrupt(thread)?;
    waitpid(thread, Some(WaitPidFlag::__WALL))?;
    say("FROZEN")?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    ptrace::detach(thread, None)?;
    Ok(())
}
