//! What users are told when something is wrong: on the command line, and about the host.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use passt_tests::{Finished, Net, Place, Process, User, have, program_path};

/// A mistake: arguments, words split at blanks, and what is said of them.
type Mistake = (&'static str, &'static str);

/// On pasta's command line.
const PASTA: &[Mistake] = &[
    ("--confg-net true", "unrecognized option '--confg-net'; did you mean '--config-net'? Try '"),
    ("--foo true", "unrecognized option '--foo'; try '"),
    ("--publish 8080:80 true", "unrecognized option '--publish'; did you mean '--tcp-ports'? Try '"),
    ("-x true", "invalid option -- 'x'; try '"),
    ("--mtu", "option '--mtu' requires an argument; try '"),
    ("--config-net=yes true", "option '--config-net' doesn't allow an argument; try '"),
    ("--no-d true", "option '--no-d' is ambiguous; possibilities: '--no-d"),
    ("-mtu 1500 true", "-mtu is several options of one letter: the long one is --mtu"),
    ("-config-net true", "-config-net is several options of one letter: the long one is --config-net"),
    ("-conf x true", "-conf is several options of one letter: long ones have two dashes, as in --conf-path"),
    ("-t 8080:localhost:80 true", "Invalid port specifier 8080:localhost:80; write 8080:80, for"),
    ("-t 8080:127.0.0.1:80 true", "Invalid port specifier 8080:127.0.0.1:80; write 8080:80, for ports lead"),
    ("-t 8080:10.0.0.2:80 true", "Invalid port specifier 8080:10.0.0.2:80; write 0.0.0.0/8080:10.0.0.2/80"),
    (
        "-t 2001:db8::1 true",
        "Invalid port specifier 2001:db8::1: an address needs ports behind it, as in [2001:",
    ),
    ("-t 224.0.0.1/80 true", "Invalid port specifier 224.0.0.1/80: 224.0.0.1 is of a group or for all hosts"),
    ("-t 80,none true", "Invalid port specifier 80,none; none stands alone, for no ports"),
    ("--dhcp-opt ruoter=10.0.0.1 true", "Unknown DHCP option: ruoter; did you mean router?"),
    ("--dhcp-opt 256=1 true", "Unknown DHCP option: 256; numbers go to 254"),
    ("--mtu 9k true", "Invalid MTU: 9k; it is a number of bytes up to 65520, or 0 for none"),
    ("--mtu 70000 true", "MTU 70000 too large (max 65520)"),
    ("--log-size 1000 true", "Invalid --log-size: 1000; it is a number of bytes, 40960 or more"),
    ("-t 127.0.0.1:8080:80 true", "Invalid port specifier 127.0.0.1:8080:80; write 127.0.0.1/8080:80"),
    ("-t [::1]:8080:80 true", "Invalid port specifier [::1]:8080:80; write [::1]/8080:80"),
    ("-t 8080:80/tcp true", "Invalid port specifier 8080:80/tcp; write -t 8080:80"),
    ("-t 53/udp true", "Invalid port specifier 53/udp; write -u 53"),
    ("-t 70000 true", "Invalid port specifier 70000; ports are 1 to 65535"),
    (
        "-t 8000-8010:80 true",
        "Invalid port specifier 8000-8010:80; a range is forwarded to one of the same length",
    ),
    ("-t http true", "Invalid port specifier http; write PORT, FIRST-LAST, PORT:PORT or ADDRESS/PORT:PORT"),
    (
        "-t 80 -t 80:8080 true",
        "Forwarding configuration conflict: HOST TCP port 80 versus HOST TCP port 80; \
         -t 80 and -t 80:8080 name the same port",
    ),
    (
        "-u 53,50-60 true",
        "Forwarding configuration conflict: HOST UDP port 53 versus HOST UDP port 50-60; -u 53,50-60 ",
    ),
    (
        "-T 127.0.0.1/80 true",
        "Listening address not allowed for -T: 127.0.0.1/80; it is that of the namespace's",
    ),
    ("-t 80 -t none true", "-t none conflicts with previous options"),
    ("-4 -t ::1/80 true", "Invalid port specifier ::1/80: ::1 is of IPv6, which --ipv4-only switches off"),
    ("-a 127.0.0.1 true", "Invalid guest address: 127.0.0.1; write the address of one host"),
    ("-a 192.0.2.2/24 -n 24 true", "Redundant prefix length specification; "),
    ("-n 255.0.255.0 true", "Invalid netmask: 255.0.255.0; write a number of bits or a mask"),
    ("-M 02:00 true", "Invalid MAC address: 02:00; write six pairs of hexadecimal digits"),
    ("-g x true", "Invalid gateway address: x; write the address of one host"),
    ("-D resolver true", "Cannot use DNS address resolver; write the address of a resolver"),
    ("-S a..b true", "Cannot use DNS search domain a..b; write a domain"),
    ("--dns-forward 127.0.0.1 true", "Invalid DNS forwarding address: 127.0.0.1; write an address that"),
    ("--subnet 10.0.2.0/30 true", "Invalid subnet: 10.0.2.0/30; write a network of 128 addresses or more"),
    ("-H a..b true", "Invalid hostname: a..b; names have up to 253 characters"),
    ("--stats 1 -f true", "Can't display statistics if not running in foreground; put --foreground before"),
    ("--netns x true", "Both --netns and PID or command given; leave one out"),
    ("0", "Invalid PID: 0; it is the number of a process"),
    ("--socket x true", "--socket is for passt mode only"),
    ("--no-pidns 1", "--no-pidns is incompatible with PID or --netns"),
    (
        "4194305",
        "Couldn't open network namespace /proc/4194305/ns/net: No such file or directory; there is no process 4194305",
    ),
    (
        "--netns nothing-here",
        "/run/netns/nothing-here: No such file or directory; as root, 'ip netns add nothing-here'",
    ),
    (
        "--netns /no/such",
        "Couldn't open network namespace /no/such: No such file or directory; a process's are in",
    ),
    ("-q --netns file", "Couldn't open network namespace /run/netns/file: No such file or directory; "),
    (
        "-q --netns ./file",
        "Couldn't enter network namespace ./file: Invalid argument; the file is no network namespace",
    ),
    (
        "--userns ./file true",
        "Couldn't enter user namespace ./file: Invalid argument; the file is no user namespace",
    ),
    ("--userns /no/such true", "Couldn't open user namespace /no/such: No such file or directory; "),
    (
        "/no/such/program",
        "Failed to start command or shell /no/such/program: No such file or directory; there is no",
    ),
    ("./file", "Failed to start command or shell ./file: Permission denied; the file is no program"),
    (
        "--pid /no/such/pid true",
        "PID file /no/such/pid: No such file or directory; its directory has to be there",
    ),
    (
        "--log-file /no/such/log true",
        "Couldn't open log file /no/such/log: No such file or directory; its directory",
    ),
    (
        "--pid pid -c /no/such/c true",
        "Couldn't bind UNIX domain socket /no/such/c: No such file or directory; its directory",
    ),
    ("--interface missing0 true", "Invalid interface name missing0: No such device; 'ip link' shows"),
    ("--pid pid --interface lo true", "External interface not usable; it needs an address and a route"),
    (
        "--ns-ifname lo true",
        "Couldn't create tap device lo: the name is taken by an interface of another kind",
    ),
    (
        "--pid pid -t 192.0.2.99/5003 true",
        "HOST TCP port 192.0.2.99/5003: Cannot assign requested address; 'ip address'",
    ),
    (
        "-t %missing0/5003 true",
        "HOST TCP port *%missing0/5003: No such device; 'ip link' shows the interfaces",
    ),
    (
        "--pid pid -u none -t 5001 true",
        "HOST TCP port 5001: Address already in use; 'ss -lntp sport = :5001' shows",
    ),
    ("--runas no-such-user true", "Invalid --runas option: no-such-user; names have to be in /etc/passwd"),
];

/// On passt's.
const PASST: &[Mistake] = &[
    ("true", "Extra non-option argument: true; passt has options alone"),
    ("--config-net", "--config-net is for pasta mode only"),
    ("--repair-path x", "--repair-path is for vhost-user mode only"),
    ("-t auto", "-t auto is for pasta mode only"),
    ("--framing x", "Invalid framing: x; it is qemu, bess, vfkit, hyperkit or stdio"),
    ("-f --fd x", "Invalid --fd: x; it is the number of an open descriptor"),
    ("-f --fd 99", "Invalid --fd: 99; it has to be a connected UNIX socket, open when passt starts"),
    (
        "-f --pid pid -s /no/such/socket",
        "Couldn't bind UNIX domain socket /no/such/socket: No such file or directory; its",
    ),
    (
        "--socket file",
        "Couldn't bind UNIX domain socket file: Address already in use; a file is there that is no socket",
    ),
    (
        "-q --pid pid -s socket -t 192.0.2.99/80",
        "HOST TCP port 192.0.2.99/80: Cannot assign requested address; 'ip addr",
    ),
];

/// What only an ordinary user may not do.
const ORDINARY: &[Mistake] = &[
    (
        "-t 80 -u none -T none -U none true",
        "HOST TCP port 80: Permission denied; ports below 1024 take CAP_NET_BIND",
    ),
    ("-q 1", "Couldn't open user namespace /proc/1/ns/user: Permission denied; process 1 is another user's"),
    (
        "-q --netns /proc/1/ns/net",
        "Couldn't open network namespace /proc/1/ns/net: Permission denied; process 1 is",
    ),
    ("--runas 1:2 true", "Can't change to user 1, group 2: Operation not permitted; that takes root"),
    ("--pid /etc/pid true", "PID file /etc/pid: Permission denied; this user can't write there"),
];

#[test]
fn on_the_command_line() {
    let Some(net) = Net::new() else { return };
    fs::write(net.dir().join("file"), "text").expect("file");
    let _server = net.host.serve("127.0.0.1:5001");
    let before = listed(net.dir());
    let of =
        |name, user, mistakes: &'static [Mistake]| mistakes.iter().map(move |mistake| (name, user, mistake));
    let cases =
        User::BOTH.into_iter().flat_map(|user| of("pasta", user, PASTA).chain(of("passt", user, PASST)));
    for (name, user, (line, expected)) in cases.chain(of("pasta", User::Normal, ORDINARY)) {
        let launch = if name == "pasta" { net.pasta(user) } else { net.passt(user) };
        let finished = launch.run(line);
        is_told(&format!("{name} {line} as {user:?}"), &finished, expected);
        assert_eq!(listed(net.dir()), before, "{name} {line} as {user:?}");
        assert_eq!(left(net.dir()), Vec::<String>::new(), "{name} {line} as {user:?}");
    }
}

/// One line that says what is wrong and what to do, and status 1.
fn is_told(what: &str, finished: &Finished, expected: &str) {
    assert_eq!(finished.status.code(), Some(1), "{what}: {finished:?}");
    assert!(finished.stdout.is_empty(), "{what}: {finished:?}");
    // These are compared by programs as they are.
    let known = ["Started as root, will change to nobody.", "Couldn't listen on requested ports"];
    let lines: Vec<_> = finished.stderr.lines().filter(|line| !known.contains(line)).collect();
    assert_eq!(lines.len(), 1, "{what}: {finished:?}");
    assert!(lines[0].contains(expected), "{what}: {:?} without {expected:?}", lines[0]);
}

/// What is as it was asked for, but of no use: one line says so, and all else goes on.
#[test]
fn what_has_no_effect() {
    let Some(net) = Net::new() else { return };
    for (line, expected) in [
        ("--no-tcp -t 5003 -- true", "TCP is off: --tcp-ports has no effect"),
        ("--no-udp -U 5003 -- true", "UDP is off: --udp-ns has no effect"),
        ("--no-dhcp --dhcp-boot file -- true", "DHCP is off: --dhcp-boot has no effect"),
        (
            "--ra-lifetime 60 -- true",
            "With --config-net router advertisements are off: --ra-lifetime has no effect",
        ),
        ("-4 --dns-forward fd00::9 -- true", "IPv6 is off: --dns-forward of that family has no effect"),
        ("--no-udp --resolv-conf -- true", "UDP is off: what --resolv-conf leads to is asked by TCP alone"),
        (
            "-a 10.9.9.9/24 -g 10.9.9.1 --dns-forward 10.9.9.9 -- true",
            "10.9.9.9 is the guest's own address, so it can't stand for the host's resolver (--dns-forward), too",
        ),
        (
            "--isolate-host -D 127.0.0.53 -- true",
            "--dns 127.0.0.53 is on the guest's own loopback; in its place --dns-host 127.0.0.53 and --resolv-conf",
        ),
    ] {
        for user in User::BOTH {
            let finished = net.pasta(user).with("--config-net").run(line);
            assert!(finished.status.success(), "{line}: {finished:?}");
            let started = "Started as root, will change to nobody.";
            let lines: Vec<_> = finished.stderr.lines().filter(|line| *line != started).collect();
            assert!(lines.len() == 1 && lines[0].contains(expected), "{line} as {user:?}: {finished:?}");
        }
    }
}

/// Names in a directory.
fn listed(dir: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(dir).expect("directory").filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Processes that still run a program of this directory, but for what serves others.
fn left(dir: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("/proc").filter_map(|entry| Some(entry.ok()?.path()));
    let programs = processes.filter_map(|process| fs::read_link(process.join("exe")).ok());
    let ours = programs.filter(|program| program.starts_with(dir) && !program.ends_with("peer"));
    ours.map(|program| program.display().to_string()).collect()
}

/// What is missing on the host.
#[test]
fn on_the_host() {
    let Some(net) = Net::new() else { return };
    let without_tun = net.pasta(User::Root).with_mounts("mount -t tmpfs none /dev/net").run("true");
    is_told("no device", &without_tun, "/dev/net/tun: No such file or directory; as root, 'modprobe tun'");
    let closed = net.pasta(User::Root).with_mounts("mount --bind file /dev/net/tun");
    fs::write(net.dir().join("file"), "text").expect("file");
    fs::set_permissions(net.dir().join("file"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("mode");
    is_told(
        "closed device",
        &closed.run("true"),
        "Permission denied; /dev/net/tun has to be open to this user",
    );
    let script = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"";
    let mut command = net.host.command("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]);
    let finished = Process::start(command.arg(net.dir().join("pasta")).arg("true")).finish();
    is_told(
        "no namespaces",
        &finished,
        "; as root, 'sysctl user.max_user_namespaces=15000' allows user namespaces",
    );
    let name = net.host.name().to_owned();
    let named = net.pasta(User::Root).run(&name);
    is_told("a namespace's name", &named, &format!("for the network namespace of this name: --netns {name}"));
    let mut live = net.passt(User::Root).listen("socket");
    let second = net.passt(User::Root).with("-q --socket socket").run("");
    is_told("a live socket", &second, "Socket path socket already in use; a process listens there");
    assert!(live.try_wait().is_none());
}

/// Of the other programs, with their exit status.
#[test]
fn of_the_other_programs() {
    let Some(net) = Net::new() else { return };
    let cases: &[(&str, &str, &str, i32)] = &[
        (
            "slirp4netns",
            "--confgure 1 tap0",
            "unrecognized option '--confgure'; did you mean '--configure'?",
            1,
        ),
        (
            "slirp4netns",
            "4194304 tap0",
            "/proc/4194304/ns/net: No such file or directory; there is no process",
            1,
        ),
        (
            "vpnkit",
            "--ethrnet x",
            "unrecognized option '--ethrnet'; did you mean '--ethernet'? Try 'vpnkit",
            124,
        ),
        ("vpnkit", "", "Please provide an --ethernet argument", 1),
        (
            "vpnkit",
            "--ethernet /no/such/socket",
            "No such file or directory; its directory has to be there",
            1,
        ),
        ("qrap", "5", "qrap: no command to run with descriptor 5", 1),
        ("qrap", "1 true", "qrap: 1 is no descriptor to give away: take 3 or more", 1),
        (
            "pesto",
            "",
            "pesto: no PATH of a control socket, which passt or pasta have with --conf-path; try 'pesto",
            1,
        ),
        (
            "pesto",
            "--delte x",
            "pesto: unrecognized option '--delte'; did you mean '--delete'? Try 'pesto",
            1,
        ),
        (
            "pesto",
            "/no/such",
            "Failed to connect to /no/such: No such file or directory; passt or pasta makes it",
            1,
        ),
        (
            "passtop",
            "--jsno",
            "passtop: unrecognized option '--jsno'; did you mean '--json'? Try 'passtop",
            1,
        ),
        ("passtop", "/no/such", "passtop: /no/such: No such file or directory; passt or pasta makes it", 1),
    ];
    for (name, line, expected, status) in cases {
        let mut command = net.host.command(&program_path(name).display().to_string());
        let finished = Process::start(command.args(line.split_whitespace())).finish();
        assert_eq!(finished.status.code(), Some(*status), "{name} {line}: {finished:?}");
        let known = "Started as root, will change to nobody.";
        let lines: Vec<_> = finished.stderr.lines().filter(|line| *line != known).collect();
        assert_eq!(lines.len(), 1, "{name} {line}: {finished:?}");
        assert!(lines[0].contains(expected), "{name} {line}: {:?}", lines[0]);
    }
}

/// `-p` is for ports elsewhere: here it records frames, and says so before it does.
#[test]
fn ports_for_a_capture() {
    let Some(net) = Net::new() else { return };
    for user in User::BOTH {
        let finished = net.pasta(user).with("--config-net -p 8080:80").run("true");
        assert!(finished.status.success(), "{finished:?}");
        let told =
            "-p is --pcap: frames are recorded in the file 8080:80; ports are forwarded with -t 8080:80\n";
        assert!(finished.stderr.starts_with(told), "{finished:?}");
        fs::remove_file(net.dir().join("8080:80")).expect("capture");
    }
}

/// Somebody at a terminal is told that there is no network yet; a program is not.
#[test]
fn an_interface_that_is_down() {
    let Some(net) = Net::new() else { return };
    if !have(&["script"]) {
        return;
    }
    let told = "The network interface in the new namespace is down until something there configures it: --config-net";
    for (options, expected) in
        [("", true), ("--quiet", false), ("--config-net", false), ("--splice-only", false)]
    {
        let launch = net.pasta(User::Normal).with(options);
        let finished = launch.run("true");
        assert!(finished.status.success() && finished.stderr.is_empty(), "{options}: {finished:?}");
        let command = launch.command("true");
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let line = format!("{} {}", command.get_program().display(), words.join(" "));
        let mut script = Command::new("script");
        let shown =
            Process::start(script.args(["-qec", &line, "/dev/null"]).current_dir(net.dir())).succeed();
        assert_eq!(shown.contains(told), expected, "{options}: {shown}");
    }
}
