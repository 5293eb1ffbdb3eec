//! The program under test in a host's namespace, and the guest's namespace that it serves.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::PathBuf;
use std::process::Command;

use passt_tests::{Finished, Net, Ns, Place as _, Process, eventually, program_path};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};

/// Whether the original is tested in our program's place, which then is judged by fewer rows.
pub(crate) fn original() -> bool {
    std::env::var_os("SLIRP4NETNS").is_some()
}

/// Whether it is one that can't yet be given a descriptor instead of a namespace (before 1.3).
pub(crate) fn before_tapfd() -> bool {
    original() && !run("--help").stdout.contains("tapfd")
}

/// Runs the program with these arguments to its end, for which it needs no namespace.
pub(crate) fn run(arguments: &str) -> Finished {
    let mut command = Command::new(program_path("slirp4netns"));
    Process::start(command.args(arguments.split_whitespace())).finish()
}

/// The namespaces: guest, host and peer.
pub(crate) struct Rig {
    pub(crate) guest: Ns,
    pub(crate) net: Net,
}

impl Rig {
    /// All of them; none if the test had to be skipped.
    pub(crate) fn new() -> Option<Self> {
        let net = Net::new()?;
        let guest = net.empty_guest();
        Some(Self { guest, net })
    }

    /// The words that name the guest's namespace by its path, and the device.
    pub(crate) fn by_path(&self) -> String {
        format!("--netns-type=path /run/netns/{} tap0", self.guest.name())
    }

    /// The program's own file, where every user can run it.
    pub(crate) fn program(&self) -> PathBuf {
        self.net.tool("slirp4netns")
    }

    /// Configures the guest's device and waits until the network is there.
    pub(crate) fn start(&self, options: &str) -> Slirp {
        self.launch(&format!("--configure {options} {}", self.by_path()))
    }

    /// Starts the program with these arguments and waits until it says that it is ready.
    pub(crate) fn launch(&self, arguments: &str) -> Slirp {
        self.launch_through("", arguments)
    }

    /// The same, started by another program that is given as a line.
    pub(crate) fn launch_through(&self, wrapper: &str, arguments: &str) -> Slirp {
        let mut slirp = self.begin(wrapper, arguments);
        let said = slirp.wait_until_ready();
        assert_eq!(said, b"1", "ready: {arguments}: {}", slirp.process.stderr());
        slirp
    }

    /// Starts the program with these arguments, whatever comes of it.
    pub(crate) fn begin(&self, wrapper: &str, arguments: &str) -> Slirp {
        let (ready, told) = std::io::pipe().expect("a pipe");
        let (watched, exit) = std::io::pipe().expect("a pipe");
        let fds = format!("--ready-fd={} --exit-fd={}", inherited(&told), inherited(&watched));
        let mut command = self.net.host.command("env");
        command.args(wrapper.split_whitespace()).arg(self.program());
        command.args(fds.split_whitespace()).args(arguments.split_whitespace());
        let process = Process::start(command.current_dir(self.net.dir()));
        Slirp { process, ready, exit: Some(exit) }
    }

    /// Starts the program, which has to end by itself.
    pub(crate) fn fails(&self, arguments: &str) -> Finished {
        let mut slirp = self.begin("", arguments);
        assert_eq!(slirp.wait_until_ready(), b"", "{arguments}: never ready");
        slirp.process.finish()
    }
}

/// Echoes datagrams at an address of a place.
pub(crate) fn udp_server(place: &Ns, address: &str) -> Process {
    place.listening(&format!("udp-serve {address}"))
}

/// A descriptor's number, which the next program that is started has too.
pub(crate) fn inherited(fd: &impl AsFd) -> i32 {
    fcntl_setfd(fd, FdFlags::empty()).expect("a descriptor");
    fd.as_fd().as_raw_fd()
}

/// The program as it runs, and what its caller holds of it.
pub(crate) struct Slirp {
    pub(crate) process: Process,
    ready: PipeReader,
    exit: Option<PipeWriter>,
}

impl Slirp {
    /// All that it writes until it closes the descriptor, by which its caller learns that it is
    /// ready, or that it has ended.
    pub(crate) fn wait_until_ready(&mut self) -> Vec<u8> {
        let flags = fcntl_getfl(&self.ready).expect("a pipe");
        fcntl_setfl(&self.ready, flags | OFlags::NONBLOCK).expect("a pipe");
        let mut said = Vec::new();
        eventually("the ready descriptor's end", || self.ready.read_to_end(&mut said).ok());
        said
    }

    /// Ends it as the end of whoever holds the pipe would.
    pub(crate) fn close_exit(&mut self) {
        self.exit = None;
    }

    /// Writes to the pipe that it watches.
    pub(crate) fn write_exit(&mut self) {
        self.exit.as_mut().expect("still open").write_all(b"x").expect("room in a pipe");
    }

    /// Ends it by its caller's end, which is success; what it wrote until then.
    pub(crate) fn stop(mut self) -> Finished {
        self.close_exit();
        let finished = self.process.finish();
        assert!(finished.status.success(), "{finished:?}");
        finished
    }

    /// Requires that it still runs.
    pub(crate) fn assert_alive(&mut self) {
        let status = self.process.try_wait();
        assert!(status.is_none(), "ended: {status:?}");
    }

    /// A line of `/proc/PID/status`.
    pub(crate) fn status(&self, key: &str) -> String {
        let mut text = String::new();
        let path = format!("/proc/{}/status", self.process.pid());
        File::open(path).and_then(|mut file| file.read_to_string(&mut text)).expect("it runs");
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("{key}:")));
        value.expect("the key").trim().to_owned()
    }
}
