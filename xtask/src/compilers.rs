//! Commands in a root directory that has compilers of Debian unstable, for what this machine's own
//! compiler can't build.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use passt_tests::roots::Root;

/// Lines of the shell that make the root directory's copy and go there.
const ENTER: &str = include_str!("enter.sh");

/// A command in a copy of the root directory that ends with it. It has this machine's network, the
/// workspace, which it begins in, and cargo's directories.
pub(crate) fn command(root: &Root, workspace: &Path, target: &Path) -> Result<Command> {
    let cargo_home = cargo_home()?;
    std::fs::create_dir_all(target).with_context(|| target.display().to_string())?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", ENTER, "sh"]);
    command.arg(root.path()).args([workspace, &cargo_home, target]).arg("--");
    command.arg("env").arg(format!("--chdir={}", workspace.display()));
    command.args(["-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=/tmp"]);
    command.args(["CARGO_INCREMENTAL=0", &format!("CARGO_HOME={}", cargo_home.display())]);
    command.arg(format!("CARGO_TARGET_DIR={}", target.display()));
    command.stdin(Stdio::null());
    Ok(command)
}

/// An argument of [`command`] that sets a variable for what follows.
pub(crate) fn variable(name: &str, value: impl AsRef<OsStr>) -> std::ffi::OsString {
    let mut both = std::ffi::OsString::from(name);
    both.push("=");
    both.push(value);
    both
}

/// Where cargo keeps what it fetched.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home).context("no HOME")
}
