//! What a process has left once it runs, looked at from outside.

use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::process::Command;

use passt_tests::transfer::{at, exchange};
use passt_tests::{FAR4, HOST4, Machine, Net, Place, Process, User, eventually, skip};

/// `CAP_NET_BIND_SERVICE`, as a mask.
const BIND: u64 = 1 << 10;

/// How an instance was started, for what that changes.
#[derive(Clone, Copy, Debug)]
struct Expected {
    user: User,
    /// It has a user namespace that isn't ours.
    users: bool,
    /// It is in the background, and so in a PID namespace of its own.
    background: bool,
    /// What is open besides the standard streams, in the order of the alphabet.
    open: &'static [&'static str],
}

/// Requires that process `pid` has nothing that a guest could use.
fn assert_isolated(pid: u32, expected: Expected) {
    // The last thing that it does; it tells of being ready before.
    eventually("a filter", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.contains("Seccomp:\t2").then_some(())
    });
    let link = |pid: &str, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("a namespace");
    let id = pid.to_string();
    let mut own = vec!["mnt", "ipc", "uts"];
    own.extend(expected.users.then_some("user"));
    own.extend(expected.background.then_some("pid"));
    for name in own {
        assert_ne!(link(&id, name), link("self", name), "{expected:?}: {name} namespace");
    }
    if !expected.background {
        assert_eq!(link(&id, "pid"), link("self", "pid"), "{expected:?}: a process can't leave it");
    }
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("threads") {
        assert_task(&task.expect("a thread").path().display().to_string(), expected);
    }
    assert_empty_root(pid, expected);
    assert_hidden(pid, expected);
    assert_descriptors(pid, expected);
}

fn assert_task(task: &str, expected: Expected) {
    let status = fs::read_to_string(format!("{task}/status")).expect("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":"));
        line.unwrap_or_else(|| panic!("no {name}: {status}")).trim().to_owned()
    };
    let id = id_of(expected.user);
    for ids in ["Uid", "Gid"] {
        let all: Vec<String> = field(ids).split_whitespace().map(str::to_owned).collect();
        assert_eq!(all, [id.as_str(); 4], "{expected:?}: {ids} of {task}");
    }
    assert_eq!(field("Groups"), "", "{expected:?}: groups of {task}");
    for (set, most) in [("CapInh", 0), ("CapPrm", BIND), ("CapEff", BIND), ("CapBnd", 0), ("CapAmb", 0)] {
        let mask = u64::from_str_radix(&field(set), 16).expect("a mask");
        assert_eq!(mask & !most, 0, "{expected:?}: {set} of {task} is {mask:x}");
    }
    assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"), "{expected:?}");
}

fn assert_empty_root(pid: u32, expected: Expected) {
    let entries = fs::read_dir(format!("/proc/{pid}/root")).expect("its root").count();
    assert_eq!(entries, 0, "{expected:?}: entries of the root directory");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("its mounts");
    let mounts: Vec<&str> = mounts.lines().collect();
    assert_eq!(mounts.len(), 1, "{expected:?}: {mounts:?}");
    let options = mounts[0].split_whitespace().nth(5).expect("options");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(options.split(',').any(|has| has == option), "{expected:?}: {}", mounts[0]);
    }
    assert!(mounts[0].contains(" - tmpfs "), "{expected:?}: {}", mounts[0]);
}

/// Who an instance is that this user has started: root becomes nobody.
fn id_of(user: User) -> String {
    if user == User::Root { "65534".to_owned() } else { User::NORMAL_ID.to_string() }
}

/// Another process of the same user can neither see its descriptors nor trace it.
fn assert_hidden(pid: u32, expected: Expected) {
    let owner = fs::metadata(format!("/proc/{pid}/status")).expect("a process").uid();
    assert_eq!(owner, 0, "{expected:?}: /proc/{pid} belongs to root where it can't be dumped");
    let id = id_of(expected.user);
    for look in [&["ls", "fd"][..], &["cat", "maps"], &["readlink", "ns/net"], &["cat", "environ"]] {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={id}"), &format!("--regid={id}"), "--clear-groups"]);
        command.args(["--inh-caps=-all", "--bounding-set=-all"]);
        let output = command.args([look[0], &format!("/proc/{pid}/{}", look[1])]).output().expect("setpriv");
        assert!(!output.status.success(), "{expected:?}: {look:?} says {output:?}");
    }
    if passt_tests::find_program("strace").is_some() {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={id}"), &format!("--regid={id}"), "--clear-groups"]);
        let output = command.args(["strace", "-p", &pid.to_string()]).output().expect("setpriv");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(errors.contains("Operation not permitted"), "{expected:?}: {errors}");
    }
}

/// Nothing is open but what has to be: no file of the host but the tap device and the command's
/// status.
fn assert_descriptors(pid: u32, expected: Expected) {
    let mut open = Vec::new();
    let stderr = fs::read_link(format!("/proc/{pid}/fd/2")).expect("standard error");
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors") {
        let path = entry.expect("a descriptor").path();
        let number: u32 = path.file_name().and_then(|n| n.to_str()?.parse().ok()).expect("a number");
        let target = fs::read_link(&path).expect("a descriptor").display().to_string();
        if number > 2 && !expected.background && stderr.as_os_str() == target.as_str() {
            open.push("stderr".to_owned());
        } else if number > 2 {
            // A number is a socket's own; of a path less is left once its mount is out of reach.
            let kind = target.split([':', '/']).find(|kind| ["socket", "fdinfo"].contains(kind));
            let name = || target.rsplit(['/', ':']).next().map(|name| name.trim_matches(['[', ']']));
            open.push(kind.or_else(name).unwrap_or_default().to_owned());
        } else {
            assert!(!expected.background || target.ends_with("/null"), "{expected:?}: {number} is {target}");
        }
    }
    open.sort();
    let mut wanted = expected.open.to_vec();
    if !expected.background {
        // Opened once more, for lines that wait for nobody; another user's can't be, and is asked
        // whether it has room.
        wanted.push("stderr");
        wanted.extend((expected.user == User::Normal).then_some("eventpoll"));
        wanted.sort_unstable();
    }
    assert_eq!(open, wanted, "{expected:?}");
}

/// Of pasta with a command: two sockets ask the kernel what listens, one tells of neighbours, the
/// namespace's thread tells by a counter.
const COMMAND: &[&str] =
    &["eventfd", "eventpoll", "pidfd", "signalfd", "socket", "socket", "socket", "status", "tun"];
/// Of pasta for a namespace that exists, in the background.
const NAMESPACE: &[&str] = &["eventfd", "eventpoll", "inotify", "socket", "socket", "socket", "tun"];
/// Of passt, which listens, keeps a descriptor for who comes, and is told of neighbours.
const MACHINE: &[&str] = &["eventpoll", "socket", "socket", "socket"];
/// The same in the background: the others name who comes.
const MACHINE_BEHIND: &[&str] = &["eventpoll", "fdinfo", "pidfd", "socket", "socket", "socket"];

#[test]
fn pasta_with_a_command() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    for user in User::BOTH {
        let guest = net.pasta(user).with("--config-net").start();
        // The command runs, so all of it was done before.
        let pasta = guest.pasta.pid();
        let status = fs::read_to_string(format!("/proc/{pasta}/status")).expect("status");
        assert!(status.contains("Seccomp:\t2"), "{status}");
        let users = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/user")).expect("a namespace");
        assert_eq!(users(pasta), users(guest.holder()), "the one that owns the guest's network");
        assert_isolated(guest.pasta.pid(), Expected { user, users: true, background: false, open: COMMAND });
        exchange(&guest, &at(FAR4, 5001));
    }
}

/// For a namespace that exists, in the background; without a user namespace of its own there is
/// none to enter.
#[test]
fn pasta_in_the_background() {
    let Some(net) = Net::new() else { return };
    let guest = net.empty_guest();
    let _server = net.peer.serve(&at(FAR4, 5001));
    for options in ["", "--runas 65533:65533"] {
        let pid_file = net.dir().join("pid");
        let line = format!("--config-net {options} --pid {} --netns {}", pid_file.display(), guest.name());
        let finished = net.pasta(User::Root).with(&line).run("");
        assert!(finished.status.success(), "{}", finished.stderr);
        let pid = read_pid(&pid_file);
        let user = if options.is_empty() { User::Root } else { User::Normal };
        assert_isolated(pid, Expected { user, users: false, background: true, open: NAMESPACE });
        exchange(&guest, &at(FAR4, 5001));
        end(pid);
    }
}

#[test]
fn passt() {
    let Some(net) = Net::new() else { return };
    for user in User::BOTH {
        let socket = net.dir().join(format!("socket-{user:?}"));
        let options = format!("--foreground --socket {}", socket.display());
        let mut passt = Process::start(&mut net.passt(user).with(&options).command(""));
        passt.wait_for("UNIX domain socket bound");
        assert_isolated(passt.pid(), Expected { user, users: true, background: false, open: MACHINE });
        drop(passt);
        let pid_file = net.dir().join(format!("pid-{user:?}"));
        let options = format!("--socket {} --pid {}", socket.display(), pid_file.display());
        let finished = net.passt(user).with(&options).run("");
        assert!(finished.status.success(), "{}", finished.stderr);
        let pid = read_pid(&pid_file);
        assert_isolated(pid, Expected { user, users: true, background: true, open: MACHINE_BEHIND });
        end(pid);
    }
}

fn read_pid(file: &std::path::Path) -> u32 {
    fs::read_to_string(file).expect("PID file").trim().parse().expect("a PID")
}

fn end(pid: u32) {
    Command::new("kill").arg(pid.to_string()).status().expect("kill");
    eventually("its end", || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
}

/// What a guest would do that has taken the process over, and the system call that ends the process
/// for it.
const DEEDS: [(&str, &str); 27] = [
    ("open", "openat"),
    ("execve", "execve"),
    ("brk", "brk"),
    ("mmap", "mmap"),
    ("ptrace", "ptrace"),
    ("ioctl", "ioctl"),
    // Of another family, type or protocol.
    ("socket", "socket"),
    ("mptcp", "socket"),
    ("mptcp6", "socket"),
    ("udplite", "socket"),
    ("sctp", "socket"),
    ("raw", "socket"),
    ("ping6-of-4", "socket"),
    ("inherited", "socket"),
    // Of another level, or name.
    ("setsockopt", "setsockopt"),
    ("ulp", "setsockopt"),
    ("attach-filter", "setsockopt"),
    ("mark", "setsockopt"),
    ("header", "setsockopt"),
    ("level", "setsockopt"),
    ("getsockopt", "getsockopt"),
    // Another process of the same user.
    ("kill", "kill"),
    ("tgkill", "tgkill"),
    ("sigqueue", "rt_sigqueueinfo"),
    ("pidfd", "pidfd_send_signal"),
    ("pidfd-open", "pidfd_open"),
    ("wait", "wait4"),
];

/// What it is told that does not end the process: there is no memory, and what there is to connect
/// to is none of our business.
const REFUSED: [(&str, &str); 2] = [("memory", "Err("), ("connect", "Err(Os { code: 1,")];

/// What Landlock alone refuses of these; with a command signals are left to the filter.
const LANDLOCKED: [(&str, &str, &[&str]); 3] = [
    ("open", "Err(Os { code: 13,", &["pasta", "passt"]),
    ("connect", "Err(Os { code: 1,", &["pasta", "passt"]),
    ("kill", "Err(Os { code: 1,", &["passt"]),
];

/// Builds that do what they are told, and somebody to do it to.
struct Intruder<'n> {
    net: &'n Net,
    victim: Process,
    _listener: UnixListener,
}

impl<'n> Intruder<'n> {
    fn new(net: &'n Net) -> Self {
        for name in ["pasta", "passt"] {
            let program = Self::program(net, name);
            fs::create_dir_all(program.parent().expect("a directory")).expect("a directory");
            fs::copy(passt_tests::built("intruder"), &program).expect("room");
        }
        let id = User::NORMAL_ID;
        let line = format!("setpriv --reuid={id} --regid={id} --clear-groups sleep 1000");
        let name = SocketAddr::from_abstract_name(b"provoked").expect("a name");
        let listener = inside(net, move || UnixListener::bind_addr(&name).expect("a free name"));
        Self { net, victim: net.host.start(&line), _listener: listener }
    }

    fn program(net: &Net, name: &str) -> PathBuf {
        net.dir().join(format!("provoke-{name}")).join(name)
    }

    /// Starts program `name`, which does `deed` once it is sealed, or `early`: before there is a
    /// filter.
    fn start(&self, name: &str, deed: &str, early: bool) -> Process {
        let launch = self.net.pasta(User::Normal).program(&Self::program(self.net, name));
        let (options, operands) = match name {
            "pasta" => ("--config-net".to_owned(), "sleep 1"),
            _ => (format!("--foreground --socket {}", self.net.dir().join("provoked-socket").display()), ""),
        };
        let mut command = launch.with(&options).command(operands);
        command.env("PASST_PROVOKE", deed).env("PASST_PROVOKE_VICTIM", self.victim.pid().to_string());
        command.envs(early.then_some(("PASST_PROVOKE_EARLY", "1")));
        Process::start(&mut command)
    }

    fn assert_harmless(&mut self, deed: &str) {
        assert!(self.victim.try_wait().is_none(), "{deed}: another process has ended");
    }
}

#[test]
fn deeds_of_an_intruder() {
    let Some(net) = Net::new() else { return };
    let mut intruder = Intruder::new(&net);
    for name in ["pasta", "passt"] {
        for (deed, call) in DEEDS {
            let mut process = intruder.start(name, deed, false);
            process.wait_for("is not allowed, exiting");
            let finished = process.finish();
            assert_eq!(finished.status.code(), Some(128 + 31), "{name} {deed}: {}", finished.stderr);
            let said: Vec<_> = finished.stderr.lines().filter(|line| line.contains("not allowed")).collect();
            let line = format!("System call {call} is not allowed, exiting");
            assert!(said.len() == 1 && said[0].contains(&line), "{name} {deed}: {said:?}");
            intruder.assert_harmless(deed);
        }
        for (deed, result) in REFUSED {
            let line = intruder.start(name, deed, false).wait_for(&format!("provoked {deed}"));
            if deed == "connect" && !has_scopes() {
                skip("this kernel's Landlock knows no abstract sockets");
            } else {
                assert!(line.contains(result), "{name} {deed}: {line}");
            }
        }
    }
}

/// What Landlock adds, before there is a filter.
#[test]
fn files_names_and_processes_are_out_of_reach() {
    let Some(net) = Net::new() else { return };
    if !has_scopes() {
        skip("this kernel's Landlock knows no scopes");
        return;
    }
    let mut intruder = Intruder::new(&net);
    for (deed, result, programs) in LANDLOCKED {
        for name in programs {
            let line = intruder.start(name, deed, true).wait_for(&format!("provoked {deed}"));
            assert!(line.contains(result), "{name} {deed}: {line}");
            intruder.assert_harmless(deed);
        }
    }
}

/// Runs in the host's network namespace, whose abstract names are its own.
fn inside<T: Send>(net: &Net, work: impl FnOnce() -> T + Send) -> T {
    let path = std::path::Path::new("/run/netns").join(net.host.name());
    passt_sys::namespace::Netns::open(&path).and_then(|netns| netns.run(work)).expect("a namespace")
}

/// Whether Landlock knows of abstract sockets: since Linux 6.12.
fn has_scopes() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's version");
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    symbols.contains("landlock_restrict_self") && (numbers.next(), numbers.next()) >= (Some(6), Some(12))
}

/// What is switched off takes no system call from what is left: a flow of many datagrams, for which
/// there is a socket of its own, connections both ways, pings, an end by a reset.
#[test]
fn what_is_off_takes_nothing_from_the_rest() {
    let Some(net) = Net::new() else { return };
    net.host.sysctl("net.ipv4.ping_group_range=0 2147483647");
    let _tcp = net.peer.serve(&at(FAR4, 5001));
    let _udp = net.peer.listening(&format!("udp-serve {}", at(FAR4, 6001)));
    let none = "-t none -u none";
    for options in [
        "--no-multicast",
        "--no-udp --no-multicast",
        "--no-tcp --no-multicast",
        "--no-icmp",
        "--no-ndp --no-ra --no-dhcpv6 --no-multicast",
        "-4 --no-multicast",
    ] {
        let outer = [format!("{none} {options}"), format!("-t 7001 -u 8001 {options}")];
        for options in outer {
            let namespace =
                net.pasta(User::Normal).with("--config-net -T none -U none").with(&options).start();
            use_what_is_left(&net, &namespace, &options);
            assert!(namespace.stop().status.success(), "pasta {options}");
            let mut passt = net.passt(User::Normal).with("--one-off").with(&options).listen("socket");
            let machine = Machine::start(&net, &net.dir().join("socket"), 1500);
            machine.configure();
            use_what_is_left(&net, &machine, &options);
            assert!(passt.try_wait().is_none(), "passt {options}: {}", passt.stderr());
            drop(machine);
            let ended = passt.finish();
            assert!(ended.status.success(), "passt {options}: {ended:?}");
        }
    }
}

fn use_what_is_left(net: &Net, guest: &impl Place, options: &str) {
    if !options.contains("--no-udp") {
        guest.peer(&format!("udp-sweep {} 1472", at(FAR4, 6001)));
        guest.peer(&format!("udp-ask {} hello", at(FAR4, 6002)));
    }
    if !options.contains("--no-tcp") {
        exchange(guest, &at(FAR4, 5001));
        guest.peer(&format!("abort {}", at(FAR4, 5001)));
        if options.contains("7001") {
            let _server = guest.serve(&at("0.0.0.0", 7001));
            exchange(&net.peer, &at(HOST4, 7001));
        }
    }
    if !options.contains("--no-icmp") {
        guest.run(&format!("ping -c 1 -W 3 {FAR4}"));
    }
}
