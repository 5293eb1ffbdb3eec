//! `passt --framing`: machines whose frames come and go as others than qemu have it.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Stdio;

use passt_proto::wire::stream::Framing;
use passt_tests::device::{Attached, Device, both};
use passt_tests::transfer::{MIB, at, download, exchange, upload};
use passt_tests::{
    FAR4, GATEWAY4, HOST4, Launch, Net, Place as _, Process, User, dhcp, eventually, have, stream, uml,
};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Servers of the peer.
fn servers(net: &Net) -> [Process; 2] {
    let udp = net.peer.listening(&format!("udp-serve {}", at(FAR4, 6001)));
    [net.peer.serve(&at(FAR4, 5001)), udp]
}

/// What every machine does: it gets an address, and uses the network.
fn use_network(net: &Net, device: &Device) {
    let lease = dhcp::udhcpc(net, device);
    assert!(lease.contains(&format!("LEASE {HOST4}/24 {GATEWAY4}")), "{lease}");
    exchange(device, &at(FAR4, 5001));
    upload(device, &at(FAR4, 5001), 64 * MIB);
    download(device, &at(FAR4, 5001), 64 * MIB);
    // More than it takes until a flow gets a socket of its own.
    device.peer(&format!("udp-sweep {} 1472", at(FAR4, 6001)));
    assert_eq!(device.peer(&format!("udp-ask {} hello", at(FAR4, 9))).trim(), "ConnectionRefused");
    assert_eq!(device.peer(&format!("many {} 100", at(FAR4, 5001))).trim(), "100");
}

/// Has the machine stop reading in the middle of a download until the server's queue stands still,
/// and go on.
fn stall(net: &Net, device: &Device, attached: &Attached) {
    let before = attached.seen();
    let download = device.start_peer(&format!("down {} {} 1", at(FAR4, 5001), 256 * MIB));
    eventually("frames come", || (attached.seen() > before + 4 * MIB).then_some(()));
    attached.pause();
    let queue = || {
        let table = net.peer.run("ss -tnH state established");
        let sent = table.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        sent.max().unwrap_or(0)
    };
    let (mut last, mut times) = (0, 0);
    eventually("the server can send nothing more", || {
        let now = queue();
        times = if now > 0 && now == last { times + 1 } else { 0 };
        last = now;
        (times > 10).then_some(())
    });
    attached.resume();
    assert_eq!(download.succeed().trim(), stream::expected(256 * MIB, 1));
}

/// A descriptor that the next program started has, too.
fn inheritable(fd: impl Into<OwnedFd>) -> OwnedFd {
    let fd = fd.into();
    fcntl_setfd(&fd, FdFlags::empty()).expect("a descriptor");
    fd
}

fn seqpacket(path: &Path) -> OwnedFd {
    let address = SocketAddrUnix::new(path).expect("a short path");
    eventually("a listening socket", || {
        let flags = SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let fd = fd.expect("a socket");
        rustix::net::connect(&fd, &address).ok().map(|()| fd)
    })
}

fn attach(device: &Device, socket: impl Into<OwnedFd>, framing: Framing) -> Attached {
    let (input, output) = both(socket);
    device.attach(input, output, framing)
}

#[test]
fn bess_at_a_path() {
    let Some(net) = Net::new() else { return };
    let _servers = servers(&net);
    let mut passt = net.passt(User::Normal).with("--framing bess -t 7001 -u none").listen("socket");
    let path = net.dir().join("socket");
    for mtu in [1500, 65_520] {
        let device = Device::new(&net, "guest", mtu);
        let attached = attach(&device, seqpacket(&path), Framing::Message);
        use_network(&net, &device);
        let _server = device.serve("0.0.0.0:7001");
        exchange(&net.peer, &at(HOST4, 7001));
        stall(&net, &device, &attached);
        // There is one at a time.
        let second = attach(&Device::new(&net, "second", 1500), seqpacket(&path), Framing::Message);
        second.wait_for_end();
        exchange(&device, &at(FAR4, 5001));
    }
    assert!(passt.try_wait().is_none(), "it serves the next when one has left");
}

/// A real kernel, whose device for this is where the framing comes from.
#[test]
fn user_mode_linux() {
    let Some(net) = Net::new() else { return };
    let _servers = servers(&net);
    let mut passt = net.passt(User::Normal).with("--framing bess -m 1500 -D 192.0.2.53").listen("socket");
    // The next one comes when the first has ended.
    for number in 1..=2 {
        let Some(guest) = uml::boot_bess(&net, &format!("uml{number}"), "socket") else { return };
        assert_eq!(guest.configure(), format!("LEASE {HOST4}/24 {GATEWAY4} 192.0.2.53 1500 example.test"));
        use_guest(&guest);
    }
    assert!(passt.try_wait().is_none());
}

/// The same kernel at the socket that another program of ours has for it.
#[test]
fn user_mode_linux_of_slirp4netns() {
    let Some(net) = Net::new() else { return };
    let _servers = servers(&net);
    let path = net.dir().join("socket");
    let mut slirp = net.host.command("env");
    let line = format!("--target-type=bess --mtu=1500 {}", path.display());
    let mut slirp = Process::start(slirp.arg(net.tool("slirp4netns")).args(line.split(' ')));
    slirp.wait_for("Waiting for connection to");
    let Some(guest) = uml::boot_bess(&net, "uml", "socket") else { return };
    let lease = guest.configure();
    assert!(lease.starts_with("LEASE 10.0.2.15/24 10.0.2.2 10.0.2.3"), "{lease}");
    use_guest(&guest);
    assert!(slirp.try_wait().is_none());
}

/// What a guest does that has its address.
fn use_guest(guest: &uml::Guest) {
    upload(guest, &at(FAR4, 5001), 64 * MIB);
    download(guest, &at(FAR4, 5001), 64 * MIB);
    guest.peer(&format!("udp-sweep {} 1472", at(FAR4, 6001)));
    assert_eq!(guest.peer(&format!("many {} 100", at(FAR4, 5001))).trim(), "100");
}

#[test]
fn bess_once() {
    let Some(net) = Net::new() else { return };
    let passt = net.passt(User::Normal).with("--framing bess --one-off").listen("socket");
    drop(seqpacket(&net.dir().join("socket")));
    assert_eq!(passt.finish().status.code(), Some(0));
}

/// A program with descriptor `theirs` as `--fd`.
fn with_fd(net: &Net, options: &str, theirs: impl Into<OwnedFd>) -> Process {
    let theirs = inheritable(theirs);
    let options = format!("--foreground {options} --fd {}", theirs.as_raw_fd());
    Process::start(&mut net.passt(User::Normal).with(&options).command(""))
}

#[test]
fn bess_on_a_descriptor() {
    let Some(net) = Net::new() else { return };
    let _servers = servers(&net);
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None).expect("sockets");
    let passt = with_fd(&net, "--framing bess --no-multicast", theirs);
    let device = Device::new(&net, "guest", 1500);
    let attached = attach(&device, ours, Framing::Message);
    use_network(&net, &device);
    stall(&net, &device, &attached);
    drop(attached);
    assert_eq!(passt.finish().status.code(), Some(0));
}

#[test]
fn vfkit() {
    let Some(net) = Net::new() else { return };
    let _servers = servers(&net);
    for mtu in [1500, 65_520] {
        let (ours, theirs) = UnixDatagram::pair().expect("sockets");
        let mut passt = with_fd(&net, "--framing vfkit -t 7001", theirs);
        let device = Device::new(&net, "guest", mtu);
        let attached = attach(&device, ours, Framing::Message);
        use_network(&net, &device);
        stall(&net, &device, &attached);
        drop(attached);
        // That nobody is there is seen as soon as there is something to send.
        eventually("the end of passt", || {
            let outcome = net.peer.start_peer(&format!("connect {}", at(HOST4, 7001))).finish();
            assert!(outcome.status.success(), "{outcome:?}");
            passt.try_wait()
        });
        assert_eq!(passt.finish().status.code(), Some(0));
    }
}

/// A machine's monitor with a socket at a path of its own, whose end is passt's; what comes from a
/// socket without a name can't be answered, and harms nobody.
#[test]
fn vfkit_at_a_path() {
    let Some(net) = Net::new() else { return };
    let _servers = servers(&net);
    let mut passt = net.passt(User::Normal).with("--framing vfkit -t 7001").listen("socket");
    let (path, device) = (net.dir().join("socket"), Device::new(&net, "guest", 1500));
    let nameless = UnixDatagram::unbound().expect("a socket");
    nameless.send_to(b"VFKT", &path).expect("a socket there");
    let own = net.dir().join("monitor");
    let ours = UnixDatagram::bind(&own).expect("a free path");
    // passt, which is another user, sends there.
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o777)).expect("own file");
    ours.connect(&path).expect("a socket that is nobody else's");
    ours.send(b"VFKT").expect("a reader");
    let attached = attach(&device, ours, Framing::Message);
    use_network(&net, &device);
    drop(attached);
    // That nobody is there is seen as soon as there is something to send.
    eventually("the end of passt", || {
        net.peer.start_peer(&format!("connect {}", at(HOST4, 7001))).finish();
        passt.try_wait()
    });
}

/// Clients introduce themselves as they do to VPNKit, and keep the network that passt has.
#[test]
fn hyperkit() {
    let Some(net) = Net::new() else { return };
    let _servers = servers(&net);
    let mut passt = net.passt(User::Normal).with("--framing hyperkit -m 1500 -t 7001").listen("socket");
    for number in 1..=2 {
        let introduced = || {
            let mut ours = UnixStream::connect(net.dir().join("socket")).expect("a socket");
            ours.write_all(&[&b"VMN3T\x16\0\0\0"[..], &[b'0'; 40]].concat()).expect("a reader");
            let name = format!("1b4e28ba-2fa1-11d2-883f-0016d3cca42{number}");
            ours.write_all(&[&[1], name.as_bytes(), &[0; 4]].concat()).expect("a reader");
            let mut answers = [0; 49 + 258];
            ours.read_exact(&mut answers).expect("answers");
            let served = answers[49] == 1;
            if served {
                assert_eq!(answers[49..60], [1, 0xdc, 5, 0x0e, 6, 2, 0x50, 0, 0, 0, number]);
            }
            served.then_some(ours)
        };
        let ours = eventually("the client is served", introduced);
        let device = Device::new(&net, "guest", 1500);
        device.set_mac([2, 0x50, 0, 0, 0, number]);
        let attached = attach(&device, ours, Framing::Le16);
        use_network(&net, &device);
        let _server = device.serve("0.0.0.0:7001");
        exchange(&net.peer, &at(HOST4, 7001));
        stall(&net, &device, &attached);
    }
    assert!(passt.try_wait().is_none());
}

/// The command that passes frames by its standard input and output.
fn stdio(launch: Launch<'_>) -> Launch<'_> {
    launch.with("--framing stdio")
}

/// Starts it, with descriptors of any kind. Its standard error is the test's.
struct Child(std::process::Child);

impl Child {
    fn start(net: &Net, input: impl Into<Stdio>, output: impl Into<Stdio>) -> Self {
        let mut command = stdio(net.passt(User::Normal)).with("--quiet").command("");
        Self(command.stdin(input).stdout(output).spawn().expect("passt"))
    }

    fn wait_for_end(mut self) -> Option<i32> {
        let status = eventually("the end of passt", || self.0.try_wait().expect("a child"));
        status.code()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn stdio_by_pipes() {
    let Some(net) = Net::new() else { return };
    let _servers = servers(&net);
    for mtu in [1500, 65_520] {
        let (input, to) = std::io::pipe().expect("a pipe");
        let (from, output) = std::io::pipe().expect("a pipe");
        let passt = Child::start(&net, input, output);
        let device = Device::new(&net, "guest", mtu);
        let attached = device.attach(from.into(), to.into(), Framing::Le16);
        use_network(&net, &device);
        stall(&net, &device, &attached);
        drop(attached);
        assert_eq!(passt.wait_for_end(), Some(0));
    }
}

#[test]
fn stdio_by_sockets() {
    let Some(net) = Net::new() else { return };
    let _servers = servers(&net);
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let both_theirs = both(theirs);
    let passt = Child::start(&net, both_theirs.0, both_theirs.1);
    let device = Device::new(&net, "guest", 1500);
    let attached = attach(&device, ours, Framing::Le16);
    use_network(&net, &device);
    stall(&net, &device, &attached);
    drop(attached);
    assert_eq!(passt.wait_for_end(), Some(0));
}

/// Another program starts it and copies what comes and goes, by sockets or by pipes.
#[test]
fn stdio_of_a_relay() {
    if !have(&["socat"]) {
        return;
    }
    let Some(net) = Net::new() else { return };
    let _servers = servers(&net);
    for (number, option) in ["", ",pipes"].into_iter().enumerate() {
        let path = net.dir().join(format!("relay{number}"));
        let line = format!("EXEC:{} --framing stdio{option}", net.dir().join("passt").display());
        let mut socat = net.host.command("socat");
        let listen = format!("UNIX-LISTEN:{}", path.display());
        let socat = Process::start(socat.args(["-b65536", &listen, &line]).current_dir(net.dir()));
        let ours = eventually("the relay", || UnixStream::connect(&path).ok());
        let device = Device::new(&net, "guest", 1500);
        let attached = attach(&device, ours, Framing::Le16);
        use_network(&net, &device);
        assert!(is_running(&net.dir().join("passt")));
        drop(attached);
        // What the relay ends with depends on whether it had something left for the machine.
        socat.finish();
        eventually("the end of passt", || (!is_running(&net.dir().join("passt"))).then_some(()));
    }
}

/// Whether a process has this as its command.
fn is_running(program: &Path) -> bool {
    let processes = std::fs::read_dir("/proc").expect("/proc");
    let mut lines = processes.filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
    lines.any(|line| line.starts_with(program.as_os_str().as_encoded_bytes()))
}

/// Who ends only its writing has left, too.
#[test]
fn stdio_ends_with_its_input() {
    let Some(net) = Net::new() else { return };
    let (input, to) = std::io::pipe().expect("a pipe");
    let (_from, output) = std::io::pipe().expect("a pipe");
    let passt = Child::start(&net, input, output);
    drop(to);
    assert_eq!(passt.wait_for_end(), Some(0));
}

#[test]
fn what_is_no_frame_ends_a_stream() {
    let Some(net) = Net::new() else { return };
    let finished = {
        let mut passt = Process::start(&mut stdio(net.passt(User::Normal)).command(""));
        passt.write("\u{5}\0hello");
        eventually("the end of passt", || passt.try_wait());
        passt.finish()
    };
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    assert!(finished.stderr.contains("frame of 5 bytes"), "{finished:?}");
}

#[test]
fn what_cannot_be_together() {
    let Some(net) = Net::new() else { return };
    for (options, expected) in [
        ("--framing stdio -s socket", "--framing stdio is for no socket"),
        ("--framing stdio --fd 0", "--framing stdio is for no socket"),
        ("--framing stdio --stats 1", "--framing stdio leaves standard output to frames: no --stats"),
        ("--framing bess --vhost-user", "--framing and --vhost-user exclude each other"),
        ("--vhost-user --framing stdio", "--framing and --vhost-user exclude each other"),
        ("--framing vde", "vde"),
        // Sockets of another type than the framing needs, and none.
        ("--framing bess --fd 999", "Invalid --fd: 999"),
        ("--framing vfkit --fd 0", "Invalid --fd: 0"),
    ] {
        let finished = net.passt(User::Normal).with(&format!("--foreground {options}")).run("");
        assert_eq!((finished.status.code(), finished.stdout.as_str()), (Some(1), ""), "{options}");
        assert!(finished.stderr.contains(expected), "{options}: {}", finished.stderr);
    }
    let (_ours, theirs) = UnixStream::pair().expect("sockets");
    let theirs = inheritable(theirs);
    for name in ["bess", "vfkit"] {
        let options = format!("--foreground --framing {name} --fd {}", theirs.as_raw_fd());
        let finished = net.passt(User::Normal).with(&options).run("");
        assert_eq!(finished.status.code(), Some(1), "{name}");
        let told = format!("Invalid --fd: {}; ", theirs.as_raw_fd());
        assert!(finished.stderr.starts_with(&told), "{finished:?}");
    }
}
