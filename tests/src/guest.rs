//! The program under test and the namespace it serves.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Finished, Net, Place, Process, eventually};

/// Who starts the program under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Root, which the program gives up by itself.
    Root,
    /// A user with no privilege at all.
    Normal,
}

impl User {
    /// The numeric id of [`User::Normal`], which owns nothing on any system.
    pub const NORMAL_ID: u32 = 65_533;
    /// Both, for tests that hold for both.
    pub const BOTH: [Self; 2] = [Self::Root, Self::Normal];
}

/// The command line of the program under test, before it is started.
#[derive(Clone)]
pub struct Launch<'n> {
    net: &'n Net,
    user: User,
    outer: Vec<String>,
    wrapper: Vec<String>,
    program: PathBuf,
    options: Vec<String>,
}

impl<'n> Launch<'n> {
    pub(crate) fn new(net: &'n Net, user: User, name: &str) -> Self {
        Self {
            net,
            user,
            outer: Vec::new(),
            wrapper: Vec::new(),
            program: net.dir().join(name),
            options: Vec::new(),
        }
    }

    /// Starts another program instead, to compare with.
    #[must_use]
    pub fn program(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.program);
        self
    }

    /// Has another program start it, as `prlimit --nofile=16`, given as a line that is split at
    /// spaces.
    #[must_use]
    pub fn through(mut self, wrapper: &str) -> Self {
        self.wrapper.extend(wrapper.split_whitespace().map(str::to_owned));
        self
    }

    /// Like [`Self::through`], but by the user who runs the tests, before it becomes this one.
    #[must_use]
    pub fn under(mut self, wrapper: &str) -> Self {
        self.outer.extend(wrapper.split_whitespace().map(str::to_owned));
        self
    }

    /// Has `script` change the mounts that it sees.
    #[must_use]
    pub fn with_mounts(mut self, script: &str) -> Self {
        let script = format!("{script} && exec \"$@\"");
        self.wrapper.extend(["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned));
        self
    }

    /// Adds options, given as a line that is split at spaces.
    #[must_use]
    pub fn with(mut self, options: &str) -> Self {
        self.options.extend(options.split_whitespace().map(str::to_owned));
        self
    }

    /// The command, with `operands` after the options.
    pub fn command(&self, operands: &str) -> Command {
        let mut command = self.net.host.command("env");
        command.args(&self.outer);
        if self.user == User::Normal {
            let id = User::NORMAL_ID;
            command.args(["setpriv", &format!("--reuid={id}"), &format!("--regid={id}")]);
            command.args(["--clear-groups", "--inh-caps=-all"]);
        }
        command.args(&self.wrapper).arg(&self.program).args(&self.options).args(operands.split_whitespace());
        command.current_dir(self.net.dir()).env("SHELL", "/bin/sh");
        command
    }

    /// Runs the program with `operands` to its end, whatever that is.
    pub fn run(&self, operands: &str) -> Finished {
        Process::start(&mut self.command(operands)).finish()
    }

    /// Starts the program with a command that keeps the namespace, and waits
    /// until that runs, which is when the network is ready.
    pub fn start(&self) -> Guest {
        let peer = self.net.dir().join("peer");
        let mut pasta = Process::start(&mut self.command(&format!("{} hold", peer.display())));
        let line = pasta.wait_for("READY");
        let ns = line.split_whitespace().nth(1).expect("namespace").to_owned();
        let holder = eventually("the holder's process id", || process_in(&ns));
        Guest { pasta, holder, own_users: true, peer }
    }

    /// Starts the program in the foreground as passt, and waits until it
    /// listens at a socket of this name in the test's directory.
    pub fn listen(&self, socket: &str) -> Process {
        self.try_listen(socket).unwrap_or_else(|reason| panic!("passt ended: {reason}"))
    }

    /// [`Self::listen`], for options that the program may not have: if it ends instead, the error
    /// is what it wrote.
    pub fn try_listen(&self, socket: &str) -> Result<Process, String> {
        let path = self.net.dir().join(socket);
        // The C program makes the second one beside it for vhost-user, and ends if it is there.
        for ending in ["", ".repair"] {
            drop(std::fs::remove_file(format!("{}{ending}", path.display())));
        }
        let mut passt =
            Process::start(&mut self.command(&format!("--foreground --socket {}", path.display())));
        let ended = eventually("passt listens or ends", || {
            let ended = passt.try_wait().is_some();
            (ended || passt.stderr().contains("UNIX domain socket bound at")).then_some(ended)
        });
        if !ended {
            return Ok(passt);
        }
        Err(passt.finish().stderr)
    }

    /// Starts the program in the foreground for an existing namespace that
    /// process `holder` is in. It is ready when the caller's condition says so.
    pub fn join(&self, operands: &str, holder: u32) -> Guest {
        let pasta = Process::start(&mut self.command(&format!("--foreground {operands}")));
        let users = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).expect("a process");
        let own_users = users(&holder.to_string()) != users("self");
        Guest { pasta, holder, own_users, peer: self.net.dir().join("peer") }
    }
}

/// The namespace that the program under test serves, and that program.
pub struct Guest {
    /// The program under test.
    pub pasta: Process,
    holder: u32,
    own_users: bool,
    peer: PathBuf,
}

impl Guest {
    /// The process id of a program inside that keeps the namespace.
    pub fn holder(&self) -> u32 {
        self.holder
    }

    /// How many descriptors the program under test has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pasta.pid())).expect("pasta lives").count()
    }

    /// How many of these are ends of pipes.
    pub fn pipe_ends(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pasta.pid())).expect("pasta lives");
        let links = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("pipe:")).count()
    }

    /// Frames that passed interface `name` inside so far, either way.
    pub fn frames(&self, name: &str) -> u64 {
        let table = self.run("cat /proc/net/dev");
        let line = table.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}:")));
        let counters: Vec<&str> = line.expect("the interface").split_whitespace().collect();
        let count = |column: usize| counters[column].parse::<u64>().expect("a number");
        count(1) + count(9)
    }

    /// Requires that the program under test still runs.
    pub fn assert_alive(&mut self) {
        let status = self.pasta.try_wait();
        assert!(status.is_none(), "pasta ended: {status:?}");
    }

    /// Lets the command inside end, and the program under test with it.
    pub fn stop(self) -> Finished {
        self.pasta.finish()
    }
}

impl Place for Guest {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.to_string()]);
        command.args(self.own_users.then_some("-U")).args(["-n", "--", program]);
        command
    }

    fn peer_path(&self) -> PathBuf {
        self.peer.clone()
    }
}

/// A process in this network namespace, given as the link in /proc reads.
fn process_in(ns: &str) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").expect("/proc");
    let mut ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.find(|pid: &u32| {
        let is_holder =
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "peer\n");
        is_holder
            && std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|link| link.as_os_str() == ns)
    })
}
