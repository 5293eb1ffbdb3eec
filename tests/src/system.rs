//! A system to install packages in: a [`Root`] with changes that are gone at the end.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rooted::Rooted;
use crate::{DEADLINE, Net, Place, Process, Root, User};

const SETUP: &str = include_str!("system.sh");

/// The system, in the network namespace of the host. There is a user beside root,
/// [`User::NORMAL_ID`], whose home directory is `/home/user`; as such commands run by [`Place`].
pub struct System {
    rooted: Rooted,
    dir: PathBuf,
}

impl System {
    /// With the files of `root`, and `given` at `/mnt`.
    pub fn start(net: &Net, root: &Root, given: &Path) -> Self {
        let dir = net.dir();
        let base = dir.join(format!("system-{}", root.path().parent().map_or_else(String::new, name)));
        std::fs::create_dir_all(&base).expect("a mount point");
        let arguments: [&OsStr; 3] = [root.path().as_ref(), base.as_ref(), given.as_ref()];
        let rooted = Rooted::start(net.host.command("unshare"), SETUP, &arguments);
        let system = Self { rooted, dir: dir.to_owned() };
        let id = User::NORMAL_ID;
        system.sh(&format!(
            "useradd --create-home --uid {id} user
             install -d -m 700 -o user -g user /run/user/{id}"
        ));
        system
    }

    /// Runs lines in the shell as root, to their successful end, and returns their output.
    pub fn sh(&self, lines: &str) -> String {
        self.start_sh(lines).succeed_within(DEADLINE * 4)
    }

    /// Starts lines in the shell as root.
    pub fn start_sh(&self, lines: &str) -> Process {
        let mut command = self.rooted.enter("/");
        clean(&mut command, "/root");
        Process::start(command.args(["sh", "-euc", lines]))
    }

    /// The same as the user.
    pub fn sh_as_user(&self, lines: &str) -> String {
        Process::start(self.command("sh").args(["-euc", lines])).succeed_within(DEADLINE * 2)
    }
}

impl Place for System {
    fn command(&self, program: &str) -> Command {
        let id = User::NORMAL_ID;
        let mut command = self.rooted.enter("/home/user");
        command.args(["setpriv", &format!("--reuid={id}"), &format!("--regid={id}"), "--clear-groups"]);
        clean(&mut command, "/home/user");
        command.args([&format!("XDG_RUNTIME_DIR=/run/user/{id}"), program]);
        command
    }

    fn peer_path(&self) -> PathBuf {
        self.dir.join("peer")
    }
}

/// Nothing of the environment of tests.
fn clean(command: &mut Command, home: &str) {
    command.args(["env", "-i", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "TERM=dumb"]);
    command
        .args(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", &format!("HOME={home}")]);
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
