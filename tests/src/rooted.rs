//! A root directory of a test's own, in mount and PID namespaces that end whatever runs there.

use std::ffi::OsStr;
use std::process::Command;

use crate::Process;

/// What follows the lines that make the directory.
const ENTER: &str = include_str!("rooted.sh");

/// Such a directory, while there is a process that holds it.
pub(crate) struct Rooted {
    pid: u32,
    _holder: Process,
}

impl Rooted {
    /// Starts `unshare`, which is to be that program, in the network namespace that is wanted. `setup`
    /// are lines of the shell that make a file system, with a directory `old`, and go there; they get
    /// `arguments`.
    pub(crate) fn start(mut unshare: Command, setup: &str, arguments: &[&OsStr]) -> Self {
        unshare.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-euc"]);
        unshare.arg(format!("{setup}\n{ENTER}")).arg("sh").args(arguments);
        let mut holder = Process::start(&mut unshare);
        let line = holder.wait_for("READY");
        let pid = line.split_whitespace().nth(1).and_then(|pid| pid.parse().ok()).expect("a process id");
        Self { pid, _holder: holder }
    }

    /// A command there, as root, which is to be given a program.
    pub(crate) fn enter(&self, directory: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "--mount", "--pid", "--net"]);
        command.args([&format!("--wdns={directory}"), "--"]);
        command
    }
}
