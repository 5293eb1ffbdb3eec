//! How it finds the namespace and the device, what it configures, when it is ready and how it ends.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Command;

use passt_sys::tun::Tap;
use passt_tests::transfer::{at, exchange};
use passt_tests::{FAR4, Place, Process, User};

use crate::rig::{Rig, before_tapfd, inherited, original};

/// A user's namespaces, kept by a process.
pub(crate) struct Users {
    pub(crate) holder: Process,
    peer: PathBuf,
}

/// What has the program started by a user without privileges.
pub(crate) const BY_USER: &str = "setpriv --reuid=65533 --regid=65533 --clear-groups --inh-caps=-all";

impl Users {
    pub(crate) fn new(rig: &Rig) -> Self {
        assert!(BY_USER.contains(&User::NORMAL_ID.to_string()));
        let peer = rig.guest.peer_path();
        let line = format!("{BY_USER} unshare --user --map-root-user --net {} hold", peer.display());
        let mut holder = rig.net.host.start(&line);
        holder.wait_for("READY");
        Self { holder, peer }
    }
}

impl Place for Users {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.pid().to_string(), "-U", "-n", "--"]);
        command.arg(program);
        command
    }

    fn peer_path(&self) -> PathBuf {
        self.peer.clone()
    }
}

/// As root, by each way to name it.
#[test]
fn a_namespace_by_its_process_or_path() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    let mut holder = rig.guest.start_peer("hold");
    holder.wait_for("READY");
    let (pid, name) = (holder.pid(), rig.guest.name());
    for words in [
        format!("{pid} tap0"),
        format!("--netns-type=pid {pid} tap0"),
        format!("--netns-type=path /proc/{pid}/ns/net tap0"),
        // Anything else is a path as well.
        format!("--netns-type=other /run/netns/{name} tap0"),
        format!("--userns-path=/proc/self/ns/user --netns-type=path /run/netns/{name} tap0"),
    ] {
        let slirp = rig.launch(&format!("-c {words}"));
        exchange(&rig.guest, &at(FAR4, 5001));
        slirp.stop();
    }
}

/// As a user, in a user namespace: by a process, as `RootlessKit` does it for a namespace that no
/// process is in, and as Podman does it from within its own.
#[test]
fn a_namespace_of_a_user() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    let users = Users::new(&rig);
    let pid = users.holder.pid();
    let within = format!("{BY_USER} nsenter -t {pid} -U --preserve-credentials");
    let path = format!("--netns-type=path /proc/{pid}/ns/net tap0");
    let confined = "--enable-sandbox --enable-seccomp";
    for (wrapper, words) in [
        (BY_USER, format!("{pid} tap0")),
        (BY_USER, format!("{confined} {pid} tap0")),
        (BY_USER, format!("--userns-path=/proc/{pid}/ns/user {path}")),
        (&within, path.clone()),
        // The original can't confine itself then, and ends.
        (BY_USER, format!("{confined} --userns-path=/proc/{pid}/ns/user {path}")),
    ] {
        if original() && words.starts_with(confined) && words.ends_with(&path) {
            continue;
        }
        let slirp = rig.launch_through(wrapper, &format!("-c {words}"));
        assert!(users.run("ip -o -4 addr show dev tap0").contains("inet 10.0.2.100/24"), "{words}");
        exchange(&users, &at(FAR4, 5001));
        slirp.stop();
    }
}

/// `RootlessKit` makes the device and configures it itself.
#[test]
fn a_device_that_is_there_already() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    rig.guest.ip("tuntap add tap0 mode tap");
    rig.guest.ip("link set tap0 address 02:00:00:00:00:07 mtu 1400 up");
    rig.guest.ip("addr add 10.0.2.100/24 dev tap0");
    rig.guest.ip("route add default via 10.0.2.2");
    for _ in 0..2 {
        let slirp = rig.launch(&format!("--mtu=1400 {}", rig.by_path()));
        exchange(&rig.guest, &at(FAR4, 5001));
        let link = rig.guest.run("ip addr show dev tap0");
        let kept = ["mtu 1400 ", "02:00:00:00:00:07", "inet 10.0.2.100/24"];
        assert!(kept.iter().all(|part| link.contains(part)), "{link}");
        slirp.stop();
    }
    // It is the caller's, and stays.
    assert!(rig.guest.run("ip link show dev tap0").contains("mtu 1400 "));
}

/// The same with the address left to `--configure`.
#[test]
fn a_device_that_is_there_is_configured() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    rig.guest.ip("tuntap add tap0 mode tap");
    let slirp = rig.start("");
    assert!(rig.guest.run("ip -o -4 addr show dev tap0").contains("inet 10.0.2.100/24"));
    exchange(&rig.guest, &at(FAR4, 5001));
    slirp.stop();
}

/// The caller opened the device, in whatever namespace, and passes the descriptor.
#[test]
fn a_descriptor_instead_of_a_namespace() {
    if before_tapfd() {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    let path = format!("/run/netns/{}", rig.guest.name());
    let opened = std::thread::spawn(move || {
        let namespace = std::fs::File::open(path).expect("the namespace");
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("the namespace");
        Tap::open("tap0", true).expect("a device")
    });
    let tap = opened.join().expect("a device");
    rig.guest.ip("link set tap0 up");
    rig.guest.ip("addr add 10.0.2.100/24 dev tap0");
    rig.guest.ip("route add default via 10.0.2.2");
    for name in ["", "tap0"] {
        let slirp = rig.launch(&format!("--netns-type=tapfd {} {name}", inherited(&tap)));
        exchange(&rig.guest, &at(FAR4, 5001));
        slirp.stop();
    }
}

/// The caller configures the device that the program has made.
#[test]
fn a_device_that_is_configured_later() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    let slirp = rig.launch(&rig.by_path().replace("tap0", "other9"));
    rig.guest.ip("link set other9 up");
    rig.guest.ip("addr add 10.0.2.7/24 dev other9");
    rig.guest.ip("route add default via 10.0.2.2");
    exchange(&rig.guest, &at(FAR4, 5001));
    slirp.stop();
}

/// Options, and what `ip addr` and `ip route` show.
const CONFIGURED: [(&str, &[&str], &str); 6] = [
    ("", &["mtu 1500 ", "inet 10.0.2.100/24 brd 10.0.2.255"], "default via 10.0.2.2 dev tap0"),
    ("--mtu=65520", &["mtu 65520 ", "inet 10.0.2.100/24"], "default via 10.0.2.2 dev tap0"),
    ("--mtu=65521", &["mtu 65521 ", "inet 10.0.2.100/24"], "default via 10.0.2.2 dev tap0"),
    ("--macaddress=0a:11:22:33:44:55", &["0a:11:22:33:44:55"], "default via 10.0.2.2 dev tap0"),
    (
        "--cidr=10.0.135.128/25",
        &["inet 10.0.135.228/25 brd 10.0.135.255"],
        "default via 10.0.135.130 dev tap0",
    ),
    ("--cidr=10.0.0.0/8", &["inet 10.0.0.100/8 "], "default via 10.0.0.2 dev tap0"),
];

#[test]
fn what_is_configured() {
    let Some(rig) = Rig::new() else { return };
    for (options, shown, route) in CONFIGURED {
        // So that it can be seen who sets this.
        rig.guest.ip("link set lo down");
        let slirp = rig.start(options);
        let addresses = rig.guest.run("ip addr show dev tap0");
        assert!(shown.iter().all(|part| addresses.contains(part)), "{options}: {addresses}");
        assert!(addresses.contains(",UP,"), "{options}: {addresses}");
        let routes = rig.guest.run("ip route");
        assert!(routes.contains(route), "{options}: {routes}");
        assert!(rig.guest.run("ip link show dev lo").contains(",UP,"));
        slirp.stop();
        // The device was its own, and ends with it.
        assert!(!rig.guest.run("ip link").contains("tap0"));
    }
}

#[test]
fn nothing_is_configured_unless_asked() {
    let Some(rig) = Rig::new() else { return };
    rig.guest.ip("link set lo down");
    let _slirp = rig.launch(&format!("--mtu=65520 {}", rig.by_path()));
    let addresses = rig.guest.run("ip addr show");
    assert!(addresses.contains("tap0: <BROADCAST,MULTICAST> mtu 1500 "), "{addresses}");
    assert!(!addresses.contains("inet 10.") && !addresses.contains(",UP"), "{addresses}");
    assert_eq!(rig.guest.run("ip route"), "");
}

/// The end of whoever holds the other end of the pipe, and not what that writes.
#[test]
fn the_exit_descriptor() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    let socket = rig.net.dir().join("api");
    for writes in [false, true] {
        let mut slirp = rig.start(&format!("--api-socket={}", socket.display()));
        if writes {
            slirp.write_exit();
        }
        exchange(&rig.guest, &at(FAR4, 5001));
        slirp.assert_alive();
        assert!(socket.exists());
        slirp.stop();
        assert!(!socket.exists(), "written: {writes}");
    }
}

/// One that is not open has ended already: a caller that closed it too early is served no more.
#[test]
fn an_exit_descriptor_that_is_none() {
    let Some(rig) = Rig::new() else { return };
    let slirp = rig.begin("", &format!("-c --exit-fd=777 {}", rig.by_path()));
    let ended = slirp.process.finish();
    assert!(ended.status.success(), "{ended:?}");
}

/// A signal is no order to tidy up; the next start replaces the socket.
#[test]
fn signals_end_it() {
    let Some(rig) = Rig::new() else { return };
    let socket = rig.net.dir().join("api");
    for (signal, number) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("KILL", 9)] {
        let options = format!("-c --api-socket={} {}", socket.display(), rig.by_path());
        let slirp = rig.launch_through("--default-signal=INT,HUP", &options);
        slirp.process.signal(signal);
        let ended = slirp.process.finish();
        assert_eq!(ended.status.signal(), Some(number), "{signal}: {ended:?}");
        assert!(socket.exists(), "{signal}");
    }
}

/// Ours only: the original goes on without its namespace.
#[test]
fn the_end_of_the_namespace_is_its_own() {
    if original() {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let users = Users::new(&rig);
    let socket = rig.net.dir().join("api");
    let options = format!("-c --api-socket={} {} tap0", socket.display(), users.holder.pid());
    let slirp = rig.launch_through(BY_USER, &options);
    assert!(socket.exists());
    users.holder.finish();
    let ended = slirp.process.finish();
    assert!(ended.status.success(), "{ended:?}");
    assert!(!socket.exists(), "nobody is left to ask there");
}

/// What it can't have ends it before it is ready.
#[test]
fn what_it_cannot_have() {
    let Some(rig) = Rig::new() else { return };
    rig.guest.ip("tuntap add tun0 mode tun");
    rig.guest.ip("link add veth0 type veth peer name veth1");
    for device in ["tun0", "veth0", "lo"] {
        let ended = rig.fails(&format!("-c {}", rig.by_path().replace("tap0", device)));
        assert_eq!(ended.status.code(), Some(1), "{device}: {ended:?}");
    }
    let long = format!("--api-socket={}/{} ", rig.net.dir().display(), "a".repeat(108));
    let ended = rig.fails(&format!("-c {long} {}", rig.by_path()));
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("the specified API socket path is too long (>= 108)"), "{ended:?}");
    for (words, reason) in [
        (format!("-c --api-socket=/no/such/socket {}", rig.by_path()), "No such file or directory"),
        ("-c 4194304 tap0".to_owned(), "/proc/4194304/ns/net: No such file or directory"),
        ("-c --netns-type=path /etc/hostname tap0".to_owned(), "Invalid argument"),
    ] {
        let ended = rig.fails(&words);
        assert_eq!(ended.status.code(), Some(1), "{words}: {ended:?}");
        assert!(ended.stderr.contains(reason), "{words}: {ended:?}");
    }
}
