//! How the program starts, who it is then, and what ends it.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use passt_tests::{Net, Process, User, eventually, eventually_within, have};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// How soon the end of a namespace has to be noticed: what starts us waits no longer.
const NOTICED: Duration = Duration::from_secs(5);

#[test]
fn a_command_gives_its_status() {
    let Some(net) = Net::new() else { return };
    for user in User::BOTH {
        for status in [0, 3, 255] {
            let finished = shell(&net, user, "", &format!("exit {status}")).finish();
            assert_eq!(finished.status.code(), Some(status), "{user:?}: {}", finished.stderr);
        }
        let guest = net.pasta(user).start();
        kill("KILL", guest.holder());
        assert_eq!(guest.stop().status.code(), Some(128 + 9), "{user:?}");
    }
}

#[test]
fn a_command_finds_its_namespaces_prepared() {
    let Some(net) = Net::new() else { return };
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("host name");
    let script = "echo $$ $(id -u) $(id -g); hostname; cat /proc/sys/net/ipv4/ping_group_range; \
                  cat /proc/self/uid_map; grep SigBlk /proc/self/status; ls /proc/self/fd | wc -l; \
                  umask; ulimit -n; echo /proc/[0-9]*; \
                  trap 'echo pipe' PIPE; kill -s PIPE $$";
    for (user, id) in [(User::Root, 65_534), (User::Normal, User::NORMAL_ID)] {
        let out = shell(&net, user, "", script).succeed();
        let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
        let host = format!("pasta-{}", host.trim());
        // `ls` has its directory open; the shell expands the last line itself.
        let expected = [
            vec!["1", "0", "0"],
            vec![&host],
            vec!["0", "0"],
            vec!["0", &id.to_string(), "1"],
            vec!["SigBlk:", "0000000000000000"],
            vec!["4"],
        ]
        .map(|line| line.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(lines[..6], expected, "{user:?}");
        let own = Command::new("sh").args(["-c", "umask; ulimit -n"]).output().expect("sh");
        let own = String::from_utf8_lossy(&own.stdout).into_owned();
        assert_eq!(own.split_whitespace().collect::<Vec<_>>(), [lines[6][0], lines[7][0]], "inherited");
        assert_eq!(lines[8], ["/proc/1"], "a /proc of its own");
        assert_eq!(lines[9], ["pipe"], "SIGPIPE is no longer ignored");
    }
    let out = shell(&net, User::Normal, "--hostname somewhere", "hostname").succeed();
    assert_eq!(out.trim(), "somewhere");
}

/// With `--no-pidns` the command is a process like ours, and what it leaves behind stays.
#[test]
fn a_command_in_our_pid_namespace() {
    let Some(net) = Net::new() else { return };
    let script = "readlink /proc/self/ns/pid; hostname; cat /proc/sys/net/ipv4/ping_group_range; echo $$; \
                  sleep 1000 </dev/null >/dev/null 2>&1 & echo $!; exit 7";
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("host name");
    let namespace = fs::read_link("/proc/self/ns/pid").expect("namespace");
    for user in User::BOTH {
        let finished = shell(&net, user, "--config-net --no-pidns", script).finish();
        assert_eq!(finished.status.code(), Some(7), "{user:?}: {}", finished.stderr);
        let lines: Vec<&str> = finished.stdout.lines().collect();
        let expected = [&namespace.to_string_lossy(), &*format!("pasta-{}", host.trim()), "0\t0"];
        assert_eq!(lines[..3], expected, "{user:?}: {}", finished.stderr);
        let [shell, left] = [lines[3], lines[4]].map(|pid| pid.parse().expect("a PID"));
        assert!(has_ended(shell) && !has_ended(left), "{user:?}");
        kill("KILL", left);
    }
    for (signal, status) in [("TERM", Some(0)), ("INT", Some(128 + 2)), ("KILL", None)] {
        let guest = net.pasta(User::Normal).with("--no-pidns").start();
        let holder = guest.holder();
        guest.pasta.signal(signal);
        eventually("end of the command", || has_ended(holder).then_some(()));
        assert_eq!(guest.stop().status.code(), status, "SIG{signal}");
    }
}

/// Without the right to enter a network namespace from outside, `--netns-only` is of no use: it is
/// entered by its user namespace, if that may be entered.
#[test]
fn a_process_without_privilege() {
    let Some(net) = Net::new() else { return };
    let mut command = normal(&net, "unshare");
    let script = "echo ready; exec sleep 1000";
    let mut theirs = Process::start(command.args(["--user", "--map-root-user", "--net", "sh", "-c", script]));
    theirs.wait_for("ready");
    let mut pasta = join(&net, User::Normal, &format!("--config-net --netns-only {}", theirs.pid()));
    let mut inside = Command::new("nsenter");
    inside.args(["-t", &theirs.pid().to_string(), "-U", "-n", "ip", "-o", "link", "show", "link0"]);
    assert!(Process::start(&mut inside).succeed().contains("LOWER_UP"));
    pasta.signal("TERM");
    eventually("end of pasta", || pasta.try_wait());

    let mut unshare = Command::new("unshare");
    let mut roots = Process::start(unshare.args(["--net", "sh", "-c", script]));
    roots.wait_for("ready");
    let launch = net.pasta(User::Normal).with("--quiet --foreground --netns-only");
    let finished = launch.run(&roots.pid().to_string());
    assert_eq!(finished.status.code(), Some(1));
    let path = format!("/proc/{}/ns/user", roots.pid());
    let told =
        format!("Couldn't open user namespace {path}: Permission denied; process {} is another", roots.pid());
    assert!(finished.stderr.starts_with(&told) && finished.stderr.lines().count() == 1, "{finished:?}");
}

#[test]
fn without_a_command_the_login_shell_runs() {
    let Some(net) = Net::new() else { return };
    for user in User::BOTH {
        let mut pasta = Process::start(&mut net.pasta(user).command(""));
        pasta.write("echo name=$0 pid=$$\nexit 6\n");
        pasta.wait_for("name=-sh pid=1");
        assert_eq!(pasta.finish().status.code(), Some(6));
    }
}

#[test]
fn the_command_ends_with_us() {
    let Some(net) = Net::new() else { return };
    for (signal, status) in [("TERM", Some(0)), ("QUIT", Some(0)), ("KILL", None)] {
        let guest = net.pasta(User::Normal).start();
        let holder = guest.holder();
        guest.pasta.signal(signal);
        eventually("end of the command", || has_ended(holder).then_some(()));
        assert_eq!(guest.stop().status.code(), status, "SIG{signal}");
    }
}

/// The first process of a PID namespace is spared signals that it does not
/// handle; from outside it should look like any other command.
#[test]
fn an_interrupt_does_what_it_does_to_the_command() {
    let Some(net) = Net::new() else { return };
    let guest = net.pasta(User::Normal).start();
    let holder = guest.holder();
    guest.pasta.signal("INT");
    assert_eq!(guest.stop().status.code(), Some(128 + 2));
    eventually("end of the command", || has_ended(holder).then_some(()));

    let script = "trap 'echo caught' INT; echo waiting; read line; read line; echo \"got $line\"; exit 5";
    let mut pasta = shell(&net, User::Normal, "", script);
    pasta.wait_for("waiting");
    pasta.signal("INT");
    pasta.write("one\ntwo\n");
    pasta.wait_for("got two");
    assert_eq!(pasta.finish().status.code(), Some(5));
}

#[test]
fn an_interactive_shell_owns_its_terminal() {
    let Some(net) = Net::new() else { return };
    for user in User::BOTH {
        let mut terminal = Terminal::start(&net.pasta(user).command(""));
        // The quotes keep the terminal's echo from looking like the answer.
        terminal.write("echo re''ady\n");
        terminal.wait_for("ready");
        terminal.write("sleep 1000; echo 'after'' sleep' $?\n");
        eventually("the shell's sleep", || find_in_session(terminal.child.id(), "sleep"));
        terminal.write("\x03");
        terminal.write("echo al''ive\n");
        terminal.wait_for("alive");
        terminal.write("exit 9\n");
        assert_eq!(terminal.finish().code(), Some(9), "{user:?}");
    }
}

#[test]
fn in_the_background_all_is_ready_when_the_parent_ends() {
    let Some(net) = Net::new() else { return };
    let file = net.dir().join("pid");
    let options = format!("--config-net --ns-ifname link0 --pid {}", file.display());
    let peer = net.peer.name();
    let finished = net.pasta(User::Root).with(&options).run(&format!("--netns {peer}"));
    assert!(finished.status.success(), "{}", finished.stderr);
    let text = fs::read_to_string(&file).expect("PID file");
    let pid: u32 = text.strip_suffix('\n').expect("one line").parse().expect("a PID");
    assert_eq!(fs::metadata(&file).expect("PID file").permissions().mode() & 0o777, 0o600);

    let shown =
        Process::start(Command::new("ip").args(["-n", peer, "addr", "show", "dev", "link0"])).succeed();
    assert!(shown.contains("192.0.2.2/24") && shown.contains("mtu 65520"), "{shown}");
    assert!(shown.contains("LOWER_UP") && !shown.contains("tentative"), "{shown}");
    for fd in 0..3 {
        let open = fs::read_link(format!("/proc/{pid}/fd/{fd}")).expect("a descriptor");
        // Its mount is out of reach, and so is the first part of the name.
        assert!(open.ends_with("null"), "{}", open.display());
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
    assert!(status.contains("Groups:\t \n"), "{status}");
    assert_eq!(session(pid), Some(pid), "a session of its own");

    kill("TERM", pid);
    eventually("end of pasta", || has_ended(pid).then_some(()));
}

#[test]
fn the_foreground_writes_its_own_pid() {
    let Some(net) = Net::new() else { return };
    let file = net.dir().join("pid");
    fs::write(&file, "a longer line of old contents\n").expect("PID file");
    let guest = net.pasta(User::Root).with(&format!("--pid {}", file.display())).start();
    assert_eq!(fs::read_to_string(file).expect("PID file"), format!("{}\n", guest.pasta.pid()));
}

#[test]
fn interrupting_the_foreground_without_a_command_kills() {
    let Some(net) = Net::new() else { return };
    let mut pasta = join(&net, User::Root, "");
    pasta.signal("INT");
    let status = eventually("end of pasta", || pasta.try_wait());
    assert_eq!(status.code(), None);
}

#[test]
fn the_end_of_a_named_namespace_is_noticed() {
    let Some(net) = Net::new() else { return };
    let ip = |args: [&str; 3]| drop(Process::start(Command::new("ip").args(args)).succeed());
    let name = format!("{}-mine", net.peer.name());
    for keep in [false, true] {
        ip(["netns", "add", &name]);
        let options = format!("{} --netns {name}", if keep { "--no-netns-quit" } else { "" });
        let mut pasta = join(&net, User::Root, &options);
        ip(["netns", "del", &name]);
        if keep {
            std::thread::sleep(Duration::from_millis(1500));
            assert!(pasta.try_wait().is_none(), "should stay");
        } else {
            let finished = pasta.finish_within(NOTICED);
            assert!(finished.status.success(), "{}", finished.stderr);
            let line = format!("Namespace /run/netns/{name} is gone, exiting");
            assert!(finished.stderr.contains(&line), "{}", finished.stderr);
        }
    }
}

/// Whoever unmounts a namespace may not be told that we keep it busy.
#[test]
fn a_mounted_namespace_can_be_unmounted() {
    let Some(net) = Net::new() else { return };
    let path = net.dir().join("ns");
    let script = "set -e; touch ns; unshare -n mount --bind /proc/self/ns/net ns; \
                  ./pasta --config-net --quiet --pid pid --netns ./ns; nsenter --net=./ns ip addr; \
                  umount ns; rm ns";
    let mut command = normal(&net, "unshare");
    let shown = Process::start(command.args(["-Urm", "sh", "-c", script])).succeed();
    assert!(shown.contains("127.0.0.1/8") && shown.contains("mtu 65520"), "{shown}");
    assert!(!path.exists());
    let pid = fs::read_to_string(net.dir().join("pid")).expect("PID file").trim().parse().expect("a PID");
    eventually_within(NOTICED, "end of pasta", || has_ended(pid).then_some(()));
}

/// By its number or by the path of its namespace, which may also be one that
/// can only be polled.
#[test]
fn the_end_of_a_process_is_noticed() {
    let Some(net) = Net::new() else { return };
    for (user, paths) in [(User::Normal, false), (User::Root, false), (User::Normal, true)] {
        for polled in [false, true] {
            let mut holder =
                normal(&net, "unshare").args(["-Urn", "sleep", "1000"]).spawn().expect("unshare");
            let pid = holder.id();
            let proc = format!("/proc/{pid}");
            eventually("the holder", || {
                fs::read_to_string(format!("{proc}/comm")).is_ok_and(|comm| comm == "sleep\n").then_some(())
            });
            let path = if polled { format!("{proc}/task/{pid}/ns/net") } else { format!("{proc}/ns/net") };
            let operands = match (paths, polled) {
                (false, false) => pid.to_string(),
                _ => format!("--userns {proc}/ns/user --netns {path}"),
            };
            let pasta = join(&net, user, &operands);
            holder.kill().expect("our child");
            holder.wait().expect("our child");
            let finished = pasta.finish_within(NOTICED);
            assert!(finished.status.success(), "{user:?} {operands}: {}", finished.stderr);
            assert!(finished.stderr.contains("is gone, exiting"), "{}", finished.stderr);
        }
    }
}

#[test]
fn what_fails_before_it_is_ready_says_why() {
    let Some(net) = Net::new() else { return };
    net.host.resolv_conf("nameserver 192.0.2.1\n");
    let cases = [
        ("--netns no-such-namespace", "/run/netns/no-such-namespace"),
        ("--netns /etc/passwd", "/etc/passwd"),
        ("--pid /no/such/directory/pid true", "/no/such/directory/pid"),
        ("--runas no-such-user true", "Invalid --runas option: no-such-user"),
        // To the kernel these mean that nothing changes.
        ("--runas 4294967295 true", "Invalid --runas option: 4294967295"),
        ("--runas daemon:4294967295 true", "Invalid --runas option: daemon:4294967295"),
        ("--runas -1 true", "Invalid --runas option: -1"),
        ("4194305", "/proc/4194305/ns"),
        ("/no/such/program", "No such file"),
    ];
    for (operands, reason) in cases {
        let finished = net.pasta(User::Root).with("--quiet").run(operands);
        assert_eq!(finished.status.code(), Some(1), "{operands}");
        let lines: Vec<&str> =
            finished.stderr.lines().filter(|line| !line.starts_with("Started as root")).collect();
        assert!(lines.len() == 1 && lines[0].contains(reason), "{operands}: {lines:?}");
        assert_eq!(finished.stdout, "");
    }
}

#[test]
fn root_can_choose_who_to_be() {
    let Some(net) = Net::new() else { return };
    for (run_as, id) in [("1234:5678", ["1234", "5678"]), ("root", ["0", "0"]), ("daemon:root", ["1", "0"])] {
        let script = "echo $(cat /proc/self/uid_map /proc/self/gid_map)";
        let out = shell(&net, User::Root, &format!("--runas {run_as}"), script).succeed();
        let words: Vec<&str> = out.split_whitespace().collect();
        assert_eq!(words, ["0", id[0], "1", "0", id[1], "1"], "{run_as}");
    }
    // Nothing of the user namespace changes on request.
    let out = shell(&net, User::Root, "--netns-only --runas root", "readlink /proc/self/ns/user").succeed();
    assert_eq!(out.trim(), fs::read_link("/proc/self/ns/user").expect("link").to_str().expect("text"));
}

/// All IDs are those asked for and no group is left; where groups can't be dropped, nobody is
/// changed to.
#[test]
fn who_root_becomes_it_is_altogether() {
    let Some(net) = Net::new() else { return };
    if !have(&["setpriv"]) {
        return;
    }
    let setpriv = passt_tests::find_program("setpriv").expect("found");
    for name in ["pasta", "passt"] {
        let program = net.dir().join(name);
        let operands = if name == "pasta" {
            format!("--config-net {} hold", net.dir().join("peer").display())
        } else {
            format!("--foreground --socket {}", net.dir().join("socket").display())
        };
        let command = |lost: &str| {
            let line = format!("--groups 4,24 {lost} {} --runas 1234:0", program.display());
            net.pasta(User::Root).program(&setpriv).with(&line).command(&operands)
        };
        let mut process = Process::start(&mut command(""));
        process.wait_for(if name == "pasta" { "READY" } else { "UNIX domain socket bound" });
        eventually("another user", || {
            let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).ok()?;
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or("none").split_whitespace().collect::<Vec<_>>().join(" ")
            };
            if field("Seccomp:") != "2" {
                return None;
            }
            assert_eq!(field("Uid:"), "1234 1234 1234 1234", "{name}");
            assert_eq!(field("Gid:"), "0 0 0 0", "{name}");
            assert_eq!(field("Groups:"), "", "{name}");
            Some(())
        });
        drop(process);
        let finished = Process::start(&mut command("--bounding-set=-setgid")).finish();
        assert_eq!(finished.status.code(), Some(1), "{name}: {}", finished.stderr);
        let reason = "Can't change to user 1234, group 0: supplementary groups can't be dropped";
        assert!(finished.stderr.contains(reason), "{name}: {}", finished.stderr);
    }
}

/// After the change to another user the working directory and the files given may be out of reach.
#[test]
fn root_works_in_a_directory_of_its_own() {
    let Some(net) = Net::new() else { return };
    let dir = net.dir().join("closed");
    fs::create_dir(&dir).expect("directory");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("mode");
    let mut command = net.pasta(User::Root).with("--config-net --pid pid --log-file log").command("true");
    Process::start(command.current_dir(&dir)).succeed();
    assert!(fs::read_to_string(dir.join("pid")).expect("PID file").ends_with('\n'));
    assert!(fs::read_to_string(dir.join("log")).expect("log").starts_with("pasta "));
}

#[test]
fn descriptors_are_neither_lacking_nor_leaked() {
    let Some(net) = Net::new() else { return };
    let pasta = net.dir().join("pasta");
    for closed in ["<&-", ">&-", "<&- >&- 2>&-"] {
        let line = format!(
            "exec 7</dev/zero; exec {} sh -c '[ ! -e /proc/self/fd/7 ] && exit 4' {closed}",
            pasta.display()
        );
        let finished = Process::start(normal(&net, "sh").args(["-c", &line])).finish();
        assert_eq!(finished.status.code(), Some(4), "{closed}: {}", finished.stderr);
    }
}

/// Whoever started us may ignore or block the signals that we live by.
#[test]
fn inherited_signal_settings_do_no_harm() {
    let Some(net) = Net::new() else { return };
    let pasta = net.dir().join("pasta");
    for how in ["--ignore-signal=CHLD,TERM", "--block-signal=CHLD,TERM"] {
        let run = |script: &str| {
            Process::start(normal(&net, "env").arg(how).arg(&pasta).args(["sh", "-c", script]))
        };
        assert_eq!(run("exit 3").finish().status.code(), Some(3), "{how}");
        let mut waiting = run("echo waiting; read line");
        waiting.wait_for("waiting");
        waiting.signal("TERM");
        let status = eventually_within(NOTICED, "end of pasta", || waiting.try_wait());
        assert_eq!(status.code(), Some(0), "{how}");
    }
}

#[test]
fn the_first_process_of_a_pid_namespace_can_be_ended() {
    let Some(net) = Net::new() else { return };
    let pasta = net.dir().join("pasta");
    let file = net.dir().join("pid");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--"]).arg(pasta).args([
        "-f",
        "--ns-ifname",
        "link0",
        "--netns",
        net.peer.name(),
    ]);
    let mut unshare = Process::start(command.arg("--pid").arg(&file));
    let first = eventually("the first process", || {
        let children = format!("/proc/{0}/task/{0}/children", unshare.pid());
        fs::read_to_string(children).ok()?.split_whitespace().next()?.parse::<u32>().ok()
    });
    eventually("its PID file", || fs::read_to_string(&file).is_ok_and(|text| text == "1\n").then_some(()));
    kill("TERM", first);
    let status = eventually_within(NOTICED, "end of pasta", || unshare.try_wait());
    assert_eq!(status.code(), Some(0));
}

/// A command started through a shell inside: `sh -c SCRIPT`.
fn shell(net: &Net, user: User, options: &str, script: &str) -> Process {
    Process::start(net.pasta(user).with("--quiet").with(options).command("sh -c").arg(script))
}

/// Starts in the foreground for an existing namespace, by default the peer's, and waits until it is
/// ready.
fn join(net: &Net, user: User, operands: &str) -> Process {
    let file = net.dir().join("ready");
    drop(fs::remove_file(&file));
    let peer = format!("--netns {}", net.peer.name());
    let operands = if operands.is_empty() { &peer } else { operands };
    let options = format!("--foreground --ns-ifname link0 --pid {}", file.display());
    let mut pasta = Process::start(&mut net.pasta(user).with(&options).command(operands));
    eventually("the PID file", || {
        assert!(pasta.try_wait().is_none(), "ended: {}", pasta.stderr());
        fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n')).then_some(())
    });
    pasta
}

/// A program run by an ordinary user, outside of all test namespaces.
fn normal(net: &Net, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    let id = User::NORMAL_ID;
    command.args([&format!("--reuid={id}"), &format!("--regid={id}"), "--clear-groups", program]);
    command.current_dir(net.dir());
    command
}

fn kill(signal: &str, pid: u32) {
    let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(status.expect("kill").success());
}

/// Whether a process is gone, or only its status is left.
fn has_ended(pid: u32) -> bool {
    stat(pid).is_none_or(|fields| matches!(fields[0].as_str(), "Z" | "X"))
}

fn session(pid: u32) -> Option<u32> {
    stat(pid)?.get(3)?.parse().ok()
}

/// Fields of `/proc/PID/stat` from the state on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat.rsplit_once(") ")?.1.split_whitespace();
    Some(fields.map(str::to_owned).collect())
}

/// A process called `name` in the session whose leader is `leader`.
fn find_in_session(leader: u32, name: &str) -> Option<u32> {
    let processes = fs::read_dir("/proc").expect("/proc");
    let mut pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|&pid| {
        session(pid) == Some(leader)
            && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
    })
}

/// A program with a terminal of its own.
struct Terminal {
    child: Child,
    master: File,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    fn start(command: &Command) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).expect("a terminal");
        unlockpt(&master).expect("a terminal");
        let name = ptsname(&master, Vec::new()).expect("its name").into_string().expect("text");
        let slave = || File::options().read(true).write(true).open(&name).expect("terminal");
        let mut child = Command::new("setsid");
        child.arg("--ctty").arg(command.get_program()).args(command.get_args());
        child.current_dir(command.get_current_dir().expect("given")).env("SHELL", "/bin/bash");
        let child = child.stdin(slave()).stdout(slave()).stderr(slave()).spawn().expect("setsid");
        let (master, shown) = (File::from(master), Arc::new(Mutex::new(String::new())));
        let (mut reader, sink) = (master.try_clone().expect("a copy"), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = reader.read(&mut bytes) {
                sink.lock().expect("no panic").push_str(&String::from_utf8_lossy(&bytes[..len]));
            }
        });
        Self { child, master, shown }
    }

    fn write(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("terminal");
    }

    fn wait_for(&self, part: &str) {
        eventually(part, || self.shown.lock().expect("no panic").contains(part).then_some(()));
    }

    fn finish(&mut self) -> ExitStatus {
        eventually("end of the program", || self.child.try_wait().expect("our child"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("---- terminal\n{}", self.shown.lock().expect("no panic"));
        }
    }
}
