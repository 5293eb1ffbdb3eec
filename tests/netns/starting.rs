//! Starting in odd places: on kernels that lack things, with little memory, few descriptors, and
//! where something is refused. What cannot start says why in one line and leaves nothing behind.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use passt_tests::transfer::{at, exchange};
use passt_tests::{
    FAR4, Finished, HOST4, Launch, Machine, Net, Place as _, Process, User, eventually, have, stream, uml,
};

/// What [`on_user_mode_linux`] does there.
const SCRIPT: &str = r"
peer serve '[::]:5001' &
until peer connect 127.0.0.1:5001 | grep -q connected; do sleep 0.1; done
cat >/tmp/inside <<'END'
for host in 192.0.2.1 '[2001:db8::1]'; do
    echo OUT-UP $(peer up $host:5001 3000000 1)
    echo OUT-DOWN $(peer down $host:5001 3000000 1)
done
peer serve '[::]:5002' >/tmp/served &
until [ -e /tmp/done ]; do sleep 0.1; done
END
pasta --config-net --chroot-fallback -f -t 5002 sh /tmp/inside &
pasta=$!
until grep -qs LISTENING /tmp/served; do kill -0 $pasta || break; sleep 0.1; done
for host in 192.0.2.2 '[2001:db8::2]' 127.0.0.1; do
    echo IN-UP $(peer up $host:5002 3000000 1)
    echo IN-DOWN $(peer down $host:5002 3000000 1)
done
touch /tmp/done
wait $pasta
echo STATUS $?
# No more memory is promised than half of what there is.
echo 2 >/proc/sys/vm/overcommit_memory
pasta --config-net --chroot-fallback -f sh -c 'echo STRICT $(peer up 192.0.2.1:5001 3000000 1)'
";

/// A host whose vDSO has hardly a function, which has no Landlock, only a ramdisk, and little
/// memory.
#[test]
fn on_user_mode_linux() {
    let Some(net) = Net::isolated() else { return };
    let programs = ["pasta", "peer"].map(|name| net.dir().join(name));
    let Some(output) = uml::run(&net, 192, &programs, SCRIPT) else { return };
    let expected = stream::expected(3_000_000, 1);
    for (label, count) in [("OUT-UP", 2), ("OUT-DOWN", 2), ("IN-UP", 3), ("IN-DOWN", 3), ("STRICT", 1)] {
        let found = output.lines().filter(|line| line.trim() == format!("{label} {expected}")).count();
        assert_eq!(found, count, "{label}\n{output}");
    }
    assert!(output.contains("STATUS 0"), "{output}");
}

/// What the environment says of stacks is about threads that do not say it themselves.
#[test]
fn stacks_have_their_own_size() {
    let Some(net) = Net::new() else { return };
    for size in ["0", "1", "100000000000", "18446744073709551615", "much"] {
        let mut command = net.pasta(User::Normal).with("--config-net --quiet").command("true");
        let finished = Process::start(command.env("RUST_MIN_STACK", size)).finish();
        assert!(finished.status.success() && finished.stderr.is_empty(), "{size}: {finished:?}");
    }
}

/// The least that is allowed is enough for connections through the link and past it.
#[test]
fn with_few_descriptors() {
    let Some(net) = Net::new() else { return };
    for limit in [10, 12, 13, 14, 15, 16, 32, 63] {
        for (launch, operand) in
            [(net.pasta(User::Normal), "true"), (net.passt(User::Normal), "--foreground")]
        {
            let finished = launch.through(&format!("prlimit --nofile={limit}:{limit}")).run(operand);
            let line = one_line(&finished);
            assert!(line.contains("open files") && line.contains("at least 64"), "{line}");
        }
    }
    works(&net, "prlimit --nofile=64:64");
}

#[test]
fn with_little_memory() {
    let Some(net) = Net::new() else { return };
    for kind in ["as", "data"] {
        for kib in [300_000_u64, 150_000, 80_000] {
            works(&net, &format!("prlimit --{kind}={}", kib * 1024));
        }
        for launch in [net.pasta(User::Normal), net.passt(User::Normal).with("--foreground --quiet")] {
            let finished = launch.through(&format!("prlimit --{kind}=20000000")).run("");
            let line = one_line(&finished);
            assert!(line.contains("memory"), "{line}");
        }
    }
    works(&net, "prlimit --stack=262144 --memlock=0");
    let finished = net.pasta(User::Normal).through("prlimit --stack=65536").run("true");
    assert!(one_line(&finished).contains("bytes of stack"), "{finished:?}");
}

/// A log that may not grow (`ulimit -f`) ends neither pasta nor its command, for which the limit is
/// as it was.
#[test]
fn with_files_that_may_not_grow() {
    let Some(net) = Net::new() else { return };
    let log = net.dir().join("log");
    let options = format!("--config-net --trace --log-file {}", log.display());
    let mut command = net.pasta(User::Normal).through("prlimit --fsize=4096").command(&options);
    command.args(["sh", "-c", "ip address; ip -6 address; grep SigIgn /proc/self/status; exit 5"]);
    let finished = Process::start(&mut command).finish();
    assert_eq!(finished.status.code(), Some(5), "{finished:?}");
    let ignored = finished.stdout.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
    let ignored = u64::from_str_radix(ignored.trim(), 16).expect("a mask");
    assert_eq!(
        ignored & (1 << (rustix::process::Signal::XFSZ.as_raw() - 1)),
        0,
        "the command has the default"
    );
    assert!(fs::metadata(&log).is_ok_and(|log| log.len() <= 4096));
    // One that can't even begin.
    let finished = net.pasta(User::Normal).through("prlimit --fsize=0").with(&options).run("true");
    let line = one_line(&finished);
    assert!(line.contains("File too large"), "{line}");
}

/// What is reserved is not promised by the kernel: many instances fit a small machine.
#[test]
fn hardly_any_memory_is_committed() {
    let Some(net) = Net::new() else { return };
    let guest = net.pasta(User::Normal).with("--config-net").start();
    let passt = net.passt(User::Normal).listen("socket");
    for pid in [guest.pasta.pid(), passt.pid()] {
        let kib = eventually("a sealed process", || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
            status.contains("Seccomp:\t2").then(|| committed(pid))
        });
        assert!(kib < COMMITTED, "{kib} KiB");
    }
}

#[test]
fn what_is_refused_is_named() {
    let Some(net) = Net::new() else { return };
    if !have(&["strace"]) {
        return;
    }
    let log = net.dir().join("strace");
    let pasta = || net.pasta(User::Root).with("--quiet");
    let trace = |what: &str| pasta().through(&format!("strace -f -q -o {} -e inject={what}", log.display()));
    let peer = net.peer.name();
    let join = format!("--foreground --ns-ifname link0 --netns {peer}");
    let mut first = Process::start(&mut net.pasta(User::Root).with("--pid first").command(&join));
    eventually("a first pasta", || {
        assert!(first.try_wait().is_none(), "{}", first.stderr());
        fs::read_to_string(net.dir().join("first")).is_ok_and(|text| text.ends_with('\n')).then_some(())
    });
    let new = "--config-net true";
    let other = format!("--ns-ifname link9 --netns {peer}");
    let cases = [
        (trace("clone3:error=EPERM"), new, "clone3"),
        (trace("clone:error=ENOSPC:when=1"), new, "max_*_namespaces"),
        (trace("unshare:error=ENOSPC:when=1"), new, "max_*_namespaces"),
        (trace("unshare:error=EPERM:when=1"), new, "user namespace: not allowed"),
        (trace("unshare:error=EINVAL:when=1"), new, "not supported by this kernel"),
        (pasta().with_mounts("mount -t tmpfs none /dev/net"), new, "/dev/net/tun: No such file"),
        (trace("openat:error=ENOENT -P /dev/null"), &other, "/dev/null: No such file"),
        (pasta().with_mounts("mount -t tmpfs none /proc"), new, "No file system of type proc at /proc"),
        (pasta(), &join, "second one of this"),
        (pasta(), &join.replace("link0", "eth0"), "interface of another kind"),
    ];
    for (number, (launch, operands, cause)) in cases.into_iter().enumerate() {
        let line = one_line(&launch.run(operands));
        assert!(line.contains(cause), "case {number}, {operands}: {line}");
    }
    // These are no reason to fail.
    for launch in [
        trace("clone3:error=ENOSYS"),
        trace("openat:error=ENOENT -P /dev/null"),
        pasta().with_mounts("mount --bind /dev/null /etc/passwd"),
    ] {
        let finished = launch.run(new);
        assert!(finished.status.success(), "{finished:?}");
    }
}

/// Two thousand options of one port each take no noticeable time.
#[test]
#[expect(clippy::disallowed_methods, reason = "real programs live in real time")]
fn thousands_of_options() {
    let Some(net) = Net::new() else { return };
    let options: String =
        (20_001..=21_000).flat_map(|port| [" -t ", " -u "].map(|option| format!("{option}{port}"))).collect();
    let launch = net.pasta(User::Normal).with("--config-net -T none -U none");
    let none = launch.clone().with("-t none -u none");
    let time = |launch: &Launch<'_>| {
        let start = Instant::now();
        let finished = launch.run("true");
        assert!(finished.status.success(), "{}", finished.stderr);
        start.elapsed()
    };
    let few = (0..3).map(|_| time(&none)).min().expect("a time");
    let launch = launch.with(&options);
    let many = (0..3).map(|_| time(&launch)).min().expect("a time");
    assert!(many < few + Duration::from_millis(200), "{few:?} {many:?}");
}

/// IDs that can't be mapped leave the command without a name, which it may not need.
#[test]
fn identities_that_cannot_be_mapped() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    let read_only = "mount --bind /proc /proc && mount -o remount,bind,ro /proc";
    let launch = net.pasta(User::Root).with_mounts(read_only).with("--config-net");
    let finished = launch.run(&format!("{} connect {}", net.dir().join("peer").display(), at(FAR4, 5001)));
    assert!(finished.stdout.starts_with("connected") && finished.status.success(), "{finished:?}");
    assert!(
        finished.stderr.contains("Couldn't configure user mappings: Read-only file system\n"),
        "{finished:?}"
    );
}

/// What users read are the kernel's words without its numbers, and no names of Rust's types.
#[test]
fn reasons_in_plain_words() {
    let Some(net) = Net::new() else { return };
    let file = net.dir().join("file");
    fs::write(&file, "text").expect("file");
    let file = file.display();
    let pasta = |operands: &str| net.pasta(User::Normal).run(operands);
    let passt = |operands: &str| net.passt(User::Normal).run(operands);
    for finished in [
        pasta("--pid /no/such/pid true"),
        pasta("--log-file /no/such/log true"),
        pasta("--netns /no/such/namespace"),
        pasta(&format!("--netns {file}")),
        pasta("--userns /no/such/namespace true"),
        pasta(&format!("--userns {file} true")),
        pasta("4194305"),
        pasta("1"),
        pasta("/no/such/program"),
        pasta(&file.to_string()),
        pasta("--interface missing0 true"),
        pasta("--ns-ifname lo true"),
        pasta("-t 192.0.2.99/80 true"),
        pasta("-t %missing0/80 true"),
        pasta("--runas 1:2 true"),
        passt("--foreground --fd 99"),
        passt("--foreground --socket /no/such/socket"),
        passt(&format!("--foreground --socket {file}")),
        passt("--foreground --socket socket -t 192.0.2.99/80"),
        net.pasta(User::Normal).with_mounts("mount -t tmpfs none /dev/net").run("true"),
    ] {
        assert_eq!(finished.status.code(), Some(1), "{finished:?}");
        for sign in ["os error", "Os {", "Errno(", "Some(", "Error {"] {
            assert!(!finished.stderr.contains(sign), "{finished:?}");
        }
        assert!(!finished.stderr.is_empty());
    }
}

/// Each call of a start fails in turn, or the process is killed there.
#[test]
fn a_start_that_fails_leaves_nothing() {
    let Some(net) = Net::new() else { return };
    if !have(&["strace"]) {
        return;
    }
    // To be removed only by whoever makes them, not by the user that we become.
    let dir = net.dir().join("private");
    fs::create_dir(&dir).expect("directory");
    let peer = format!("--ns-ifname link0 -t 5001 --netns {}", net.peer.name());
    let socket = format!("--socket {}", dir.join("socket").display());
    let starts = [
        (net.passt(User::Root), socket.clone()),
        (net.passt(User::Root), format!("{socket} --foreground")),
        (net.pasta(User::Root), peer.clone()),
        (net.pasta(User::Root), format!("{peer} --foreground")),
        (net.pasta(User::Root), "--config-net -t 5001 cat".to_owned()),
    ];
    let faults =
        CALLS.iter().map(|call| format!("{call}:error=ENOMEM")).chain(["unshare:signal=KILL".to_owned()]);
    let faults: Vec<String> = faults.collect();
    for (launch, operands) in starts {
        for fault in &faults {
            for time in 1.. {
                if !fails(&dir, &launch, &operands, &format!("{fault}:when={time}")) {
                    break;
                }
            }
        }
    }
}

/// System calls whose failure ends a start, or which it can go on without.
const CALLS: [&str; 17] = [
    "bind",
    "capset",
    "clone",
    "dup2",
    "epoll_create1",
    "epoll_ctl",
    "ftruncate",
    "listen",
    "mount",
    "pipe2",
    "pivot_root",
    "setresuid",
    "setsid",
    "signalfd4",
    "socket",
    "umount2",
    "unshare",
];

/// Starts with a fault, and checks that nothing is left unless it runs none the less. False if the
/// fault was not met.
fn fails(dir: &Path, launch: &Launch<'_>, operands: &str, fault: &str) -> bool {
    let (pid_file, log) = (dir.join("pid"), dir.join("../strace"));
    fs::write(&log, "").expect("file");
    let wrapper = format!("strace -f -q -o {} -e inject={fault}", log.display());
    let options = format!("--quiet --pid {}", pid_file.display());
    let mut process = Process::start(&mut launch.clone().through(&wrapper).with(&options).command(operands));
    let what = format!("{operands}, {fault}: a start");
    let running = eventually(&what, || match process.try_wait() {
        Some(_) => Some(None),
        None => sealed(&pid_file).map(Some),
    });
    let met = fs::read_to_string(&log).expect("strace's").contains("INJECTED");
    if let Some(pid) = running {
        drop(Command::new("kill").args(["-9", &pid.to_string()]).status());
        process.finish();
        remove_files(dir);
        return met;
    }
    let finished = process.finish();
    if finished.status.success() || finished.stderr.contains("System call unknown") {
        // It had started before: a call that strace replaces has the number -1, which ends a sealed
        // process.
        remove_files(dir);
        return met;
    }
    if !fault.contains("KILL") {
        one_line(&finished);
    }
    let left: Vec<_> =
        fs::read_dir(dir).expect("directory").map(|entry| entry.expect("entry").path()).collect();
    assert!(left.is_empty(), "{operands}, {fault}: {left:?}\n{finished:?}");
    true
}

fn remove_files(dir: &Path) {
    let files = fs::read_dir(dir).expect("directory");
    files.for_each(|entry| fs::remove_file(entry.expect("entry").path()).expect("file"));
}

/// The PID in the file, once its process is past the start.
fn sealed(pid_file: &Path) -> Option<u32> {
    let pid = fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.contains("Seccomp:\t2").then_some(pid)
}

/// Files that were there stay, whatever happens.
#[test]
fn what_was_there_before_stays() {
    let Some(net) = Net::new() else { return };
    let file = net.dir().join("pid");
    fs::write(&file, "old").expect("file");
    let options = format!("--quiet --pid {}", file.display());
    for launch in [net.pasta(User::Root), net.passt(User::Root).with("--socket socket")] {
        let finished = launch.with(&options).run("--runas no-such-user");
        one_line(&finished);
        assert_eq!(fs::read_to_string(&file).expect("file"), "old");
    }
    assert!(!net.dir().join("socket").exists());
}

/// Most of what an idle instance may have committed, in KiB; nearly all of it is of the C library.
const COMMITTED: u64 = 4 * 1024;

/// Memory that the kernel counts as committed to a process, in KiB: of the mappings with flag `ac`.
fn committed(pid: u32) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("mappings");
    let mut size = 0;
    let mut sum = 0;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Size:") => size = words.next().and_then(|word| word.parse().ok()).expect("a size"),
            Some("VmFlags:") if words.any(|flag| flag == "ac") => sum += size,
            _ => (),
        }
    }
    sum
}

/// Requires that the program has failed in good order; its reason.
fn one_line(finished: &Finished) -> String {
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    // A warning each time; and one for each port, before the reason.
    let warnings = ["Started as root", "Listen failed for", "in the new namespace"];
    let is_reason = |line: &&str| !warnings.iter().any(|warning| line.contains(warning));
    let lines: Vec<&str> = finished.stderr.lines().filter(is_reason).collect();
    assert_eq!(lines.len(), 1, "{finished:?}");
    lines[0].to_owned()
}

/// Requires that the program, started by this wrapper, carries data in every way.
fn works(net: &Net, wrapper: &str) {
    let _server = net.peer.serve("[::]:5001");
    let mut guest = net.pasta(User::Normal).through(wrapper).with("--config-net -t 5002").start();
    exchange(&guest, &at(FAR4, 5001));
    let _inside = guest.serve("[::]:5002");
    for host in [HOST4, "127.0.0.1"] {
        exchange(&net.host, &at(host, 5002));
    }
    guest.assert_alive();
    let mut passt = net.passt(User::Normal).through(wrapper).listen("socket");
    let machine = Machine::start(net, &net.dir().join("socket"), 1500);
    machine.configure();
    exchange(&machine, &at(FAR4, 5001));
    assert!(passt.try_wait().is_none());
}
