//! passt's socket: where it is, who may come, what happens when they leave; and the life of the
//! process.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use passt_tests::client::{Client, MAC};
use passt_tests::frame::{self, arp, ethernet, fix_checksums, ip4, ip6, tcp, udp};
use passt_tests::transfer::at;
use passt_tests::{FAR4, GATEWAY4, HOST4, HOST6, Net, Place as _, Process, User, eventually, skip};
use rustix::io::{FdFlags, fcntl_setfd};

/// The MAC address that passt shows unless told otherwise.
const OURS: [u8; 6] = [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55];

/// Starts passt in the foreground, and waits until it listens at `socket` of the test's directory.
fn start(net: &Net, user: User, options: &str) -> (Process, PathBuf) {
    let socket = net.dir().join(format!("socket-{user:?}"));
    let launch = net.passt(user).with(options).with(&format!("--foreground --socket {}", socket.display()));
    let mut passt = Process::start(&mut launch.command(""));
    passt.wait_for(&format!("UNIX domain socket bound at {}", socket.display()));
    (passt, socket)
}

fn served(socket: &Path) -> Client {
    let mut client = Client::wait_for(socket);
    assert_eq!(client.ask_for_gateway(), OURS);
    client
}

/// A background process, ended with the value.
struct Daemon(u32);

impl Daemon {
    fn of(pid_file: &Path) -> Self {
        let text = fs::read_to_string(pid_file).expect("PID file");
        Self(text.strip_suffix('\n').expect("one line").parse().expect("a PID"))
    }

    fn has_ended(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(Command::new("kill").args(["-KILL", &self.0.to_string()]).output());
        // Until then its ports are taken.
        eventually("end of passt", || self.has_ended().then_some(()));
    }
}

#[test]
fn default_names_are_taken_in_order() {
    let Some(net) = Net::new() else { return };
    for user in User::BOTH {
        let start = || {
            let mut passt = Process::start(&mut net.passt(user).with("--foreground").command(""));
            let line = passt.wait_for("UNIX domain socket bound at ");
            let path = PathBuf::from(line.rsplit(' ').next().expect("a path"));
            drop(served(&path));
            (passt, path)
        };
        let number = |path: &Path| {
            let text = path.to_str().expect("text").strip_prefix("/tmp/passt_").expect("a default name");
            text.strip_suffix(".socket").expect("a default name").parse::<u32>().expect("a number")
        };
        let (first, second) = (start(), start());
        assert!(number(&first.1) >= 1 && number(&first.1) < number(&second.1), "{user:?}");
        let free = first.1.clone();
        drop(first);
        assert!(free.exists(), "the file of a killed process is stale");
        let third = start();
        assert_eq!(third.1, free, "{user:?}");
        for (_, path) in [second, third] {
            fs::remove_file(path).expect("our socket");
        }
    }
}

#[test]
fn a_live_socket_is_refused_and_a_stale_one_replaced() {
    let Some(net) = Net::new() else { return };
    for user in User::BOTH {
        // An instance that serves one client only must not take a question for it.
        let (mut first, socket) = start(&net, user, "--one-off");
        let launch = net.passt(user).with(&format!("--quiet --socket {}", socket.display()));
        let second = launch.run("");
        assert_eq!(second.status.code(), Some(1));
        let told = format!("Socket path {} already in use; ", socket.display());
        assert!(second.stderr.starts_with(&told) && second.stderr.lines().count() == 1, "{second:?}");
        served(&socket);
        assert!(eventually("end of passt", || first.try_wait()).success());
        assert!(fs::symlink_metadata(&socket).expect("stale").file_type().is_socket());
        let (_third, socket) = start(&net, user, "");
        served(&socket);
    }
}

#[test]
fn the_socket_is_whose_who_starts_us() {
    let Some(net) = Net::new() else { return };
    for (user, id) in [(User::Root, 0), (User::Normal, User::NORMAL_ID)] {
        for (umask, mode) in [("022", 0o755), ("002", 0o775), ("077", 0o700), ("000", 0o777)] {
            let socket = net.dir().join("socket");
            let script = format!("umask {umask}; exec \"$@\"");
            let launch = net.passt(user).with("--foreground --pid pid --socket socket");
            let command = launch.command("");
            let mut shell = Command::new("sh");
            shell.args(["-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
            let mut passt = Process::start(shell.current_dir(net.dir()));
            passt.wait_for("UNIX domain socket bound at");
            let file = fs::symlink_metadata(&socket).expect("socket");
            assert_eq!((file.uid(), file.permissions().mode() & 0o777), (id, mode), "{user:?}");
            let pid = eventually("the PID file", || fs::metadata(net.dir().join("pid")).ok());
            assert_eq!(pid.permissions().mode() & 0o777, 0o600, "{user:?}");
            for name in ["socket", "pid"] {
                fs::remove_file(net.dir().join(name)).expect("a file");
            }
        }
    }
}

#[test]
fn only_a_socket_is_replaced() {
    let Some(net) = Net::new() else { return };
    let file = net.dir().join("file");
    fs::write(&file, "text").expect("file");
    let missing = net.dir().join("missing/socket");
    for path in [&file, &missing] {
        let finished = net.passt(User::Root).with("--quiet --socket").with(&path.to_string_lossy()).run("");
        assert_eq!(finished.status.code(), Some(1));
        assert!(finished.stderr.contains(path.to_str().expect("text")), "{}", finished.stderr);
    }
    assert_eq!(fs::read_to_string(file).expect("file"), "text");
}

#[test]
fn who_comes_second_is_sent_away() {
    let Some(net) = Net::new() else { return };
    let (mut passt, socket) = start(&net, User::Root, "");
    let mut first = served(&socket);
    for _ in 0..2 {
        Client::connect(&socket).wait_for_end();
    }
    passt.wait_for(&format!("discarding connection from PID {}", std::process::id()));
    first.ask_for_gateway();
}

/// Also from a PID namespace in which nobody else is.
#[test]
fn who_comes_is_named_in_the_background() {
    let Some(net) = Net::new() else { return };
    if !knows_processes() {
        skip("clients have no PID in the background before Linux 6.5");
        return;
    }
    for user in User::BOTH {
        let dir = net.dir().display();
        let options =
            format!("--socket {dir}/{user:?} --pid {dir}/pid-{user:?} --log-file {dir}/log-{user:?}");
        let finished = net.passt(user).with(&options).run("");
        assert!(finished.status.success(), "{}", finished.stderr);
        let _daemon = Daemon::of(&net.dir().join(format!("pid-{user:?}")));
        let socket = net.dir().join(format!("{user:?}"));
        let _first = served(&socket);
        Client::connect(&socket).wait_for_end();
        Client::connect(&socket).wait_for_end();
        let log = fs::read_to_string(net.dir().join(format!("log-{user:?}"))).expect("log");
        for what in ["accepted", "discarding"] {
            let line = format!("{what} connection from PID {}\n", std::process::id());
            assert!(log.contains(&line), "{user:?}: {log}");
        }
    }
}

fn knows_processes() -> bool {
    passt_sys::socket::peer_process(UnixStream::pair().expect("sockets").0).is_ok()
}

/// A client that wants to hear no more is still the one that we have.
#[test]
fn who_comes_after_a_deaf_client_is_sent_away() {
    let Some(net) = Net::new() else { return };
    let (mut passt, socket) = start(&net, User::Root, "");
    let mut first = served(&socket);
    first.stop_reading();
    Client::connect(&socket).wait_for_end();
    passt.wait_for("discarding connection from PID");
    drop(first);
    served(&socket);
}

#[test]
fn one_client_after_the_other_is_served() {
    let Some(net) = Net::new() else { return };
    for user in User::BOTH {
        let (mut passt, socket) = start(&net, user, "");
        for _ in 0..20 {
            served(&socket);
        }
        passt.wait_for("Client connection closed");
        assert!(passt.try_wait().is_none());
    }
}

#[test]
fn a_one_off_ends_with_its_client() {
    let Some(net) = Net::new() else { return };
    for user in User::BOTH {
        let (mut passt, socket) = start(&net, user, "--one-off");
        let mut client = served(&socket);
        Client::connect(&socket).wait_for_end();
        client.ask_for_gateway();
        drop(client);
        passt.wait_for("Client connection closed, exiting");
        assert_eq!(passt.finish().status.code(), Some(0));
    }
}

#[test]
fn a_length_that_no_frame_has_ends_the_connection() {
    let Some(net) = Net::new() else { return };
    let (mut passt, socket) = start(&net, User::Normal, "");
    for length in [0_u32, 1, 13, 70_000, 1 << 24, u32::MAX] {
        let mut client = served(&socket);
        client.send_raw(&length.to_be_bytes());
        client.wait_for_end();
    }
    // A frame that is cut off is no worse than none.
    served(&socket).send_raw(&[0, 0, 0, 100, 1, 2, 3]);
    served(&socket);
    assert!(passt.try_wait().is_none());
}

/// Who does not speak as it should, and comes again at once whenever it is sent away, as QEMU does, is
/// let in once a second: neither log is full of it. Another one is served soon.
#[test]
#[expect(clippy::disallowed_methods, reason = "how long somebody waits is what this is about")]
fn who_comes_again_and_again() {
    let Some(net) = Net::new() else { return };
    let (passt, socket) = start(&net, User::Normal, "");
    let wrong = || {
        let mut client = Client::wait_for(&socket);
        client.send_raw(&[0xff; 4]);
        client
    };
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        wrong().wait_for_end();
        rounds += 1;
    }
    assert!((2..=5).contains(&rounds), "{rounds} rounds in {:?}", begun.elapsed());
    // Another one waits for its turn, and is not sent away for one that will be.
    for others in 1..4 {
        wrong().wait_for_end();
        let wrong: Vec<_> = (0..others).map(|_| wrong()).collect();
        let begun = Instant::now();
        served(&socket);
        assert!(begun.elapsed() < Duration::from_secs(others + 3), "{:?}", begun.elapsed());
        for mut client in wrong {
            client.wait_for_end();
        }
    }
    // Who speaks as it should, or leaves, is no reason for others to wait.
    wrong().wait_for_end();
    let begun_good = Instant::now();
    for _ in 0..10 {
        drop(UnixStream::connect(&socket).expect("passt"));
        drop(served(&socket));
    }
    assert!(begun_good.elapsed() < Duration::from_secs(5), "{:?}", begun_good.elapsed());
    wrong().wait_for_end();
    // Nor for one that goes on coming.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_mins(1) {
                wrong().wait_for_end();
            }
        });
        for _ in 0..4 {
            drop(served(&socket));
        }
        done.store(true, Ordering::Relaxed);
    });
    passt.signal("TERM");
    let said = passt.finish().stderr;
    assert!(said.matches("Client: ").count() <= 25, "{said}");
}

/// The next client is told what the first was, without a question.
#[test]
fn every_client_is_greeted() {
    let Some(net) = Net::new() else { return };
    let (_passt, socket) = start(&net, User::Normal, "");
    for _ in 0..2 {
        let mut client = Client::wait_for(&socket);
        client.find("an ARP request", |frame| frame[12..14] == [8, 6] && frame[20..22] == [0, 1]);
        let icmp6 = |kind| move |frame: &[u8]| frame[12..14] == [0x86, 0xdd] && frame[54] == kind;
        client.find("a solicitation", icmp6(135));
        client.find("a router advertisement", icmp6(134));
    }
}

/// What the guest showed of itself is known when it comes again.
#[test]
fn the_addresses_of_the_guest_are_kept() {
    let Some(net) = Net::new() else { return };
    let (_passt, socket) = start(&net, User::Normal, "-t 5001 -u 6001");
    let mut client = served(&socket);
    client.send(&ethernet(MAC, 0x0800, &ip4("192.0.2.99", FAR4, frame::UDP, &udp(1, 9, b"learn"))));
    drop(client);
    let mut client = Client::wait_for(&socket);
    client.find("a greeting", |_| true);
    let _asking = net.peer.start_peer(&format!("udp-ask {} hello", at(HOST4, 6001)));
    let request = client.find("a datagram", |frame| frame.get(42..47) == Some(b"hello"));
    assert_eq!((&request[..6], &request[30..34]), (&MAC[..], &[192, 0, 2, 99][..]));
}

/// A guest with an address of its own making is reached before it has sent anything from there.
#[test]
fn addresses_are_learnt_from_duplicate_detection() {
    let Some(net) = Net::new() else { return };
    let (_passt, socket) = start(&net, User::Normal, "-u 6001");
    let mut client = Client::connect(&socket);
    let detection = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &frame::v6("2001:db8::77")].concat();
    client.send(&ethernet(MAC, 0x86dd, &ip6("::", "ff02::1:ff00:77", frame::ICMP6, &detection)));
    client.send(&ethernet(MAC, 0x0806, &arp(MAC, "192.0.2.77", GATEWAY4)));
    client.find("an ARP reply", |frame| frame[12..14] == [8, 6] && frame[20..22] == [0, 2]);
    for (to, address, payload) in [(HOST6, &frame::v6("2001:db8::77")[..], 62), (HOST4, &[192, 0, 2, 77], 42)]
    {
        let _asking = net.peer.start_peer(&format!("udp-ask {} hello", at(to, 6001)));
        let datagram = client.find("a datagram", |frame| frame.get(payload..payload + 5) == Some(b"hello"));
        assert_eq!(&datagram[payload - 8 - address.len()..payload - 8], address, "{to}");
    }
}

/// A connection that is older than what we know of the guest is sent where the guest turns out to
/// be.
#[test]
fn what_came_before_the_guest_reaches_it() {
    let Some(net) = Net::new() else { return };
    let (_passt, socket) = start(&net, User::Normal, "-t 5001");
    let mut client = Client::connect(&socket);
    let _connecting = net.peer.start_peer(&format!("begin {} 1", at(HOST4, 5001)));
    assert_eq!(client.find("a SYN", is_syn)[..6], [0xff; 6], "nobody is known");
    for mac in [MAC, [2, 0, 0, 0, 0, 9]] {
        client.send(&ethernet(mac, 0x0806, &arp(mac, HOST4, GATEWAY4)));
        client.find("the SYN again, to where the guest is", |frame| is_syn(frame) && frame[..6] == mac);
        drop(client);
        // The same guest with another network card.
        client = Client::wait_for(&socket);
    }
}

/// Any frame tells where the guest is, also one that nobody answers.
#[test]
fn the_guests_mac_is_learnt_from_whatever_it_sends() {
    let Some(net) = Net::new() else { return };
    let (_passt, socket) = start(&net, User::Normal, "-u 6001");
    let mut client = Client::connect(&socket);
    let report = ip6("fe80::9", "ff02::16", frame::ICMP6, &[143, 0, 0, 0, 0, 0, 0, 0]);
    let cases = [(0x8035, &[0, 1, 8, 0, 6, 4, 0, 3][..]), (0x86dd, &report), (0x88cc, &[2, 7, 4])];
    for (number, (kind, packet)) in (1..).zip(cases) {
        let mac = [2, 0, 0, 0, 9, number];
        client.send(&ethernet(mac, kind, packet));
        // From no station that there can be.
        client.send(&ethernet([1, 0, 0, 0, 9, number], kind, packet));
        client.send(&ethernet([0; 6], kind, packet));
        client.wait_until_read();
        let _asking = net.peer.start_peer(&format!("udp-ask {} hello", at(HOST4, 6001)));
        let datagram = client.find("a datagram", |frame| frame.get(42..47) == Some(b"hello"));
        assert_eq!(datagram[..6], mac, "{kind:#x}");
    }
}

/// A connection outlives a client that goes and comes again.
#[test]
fn flows_are_kept() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    let (_passt, socket) = start(&net, User::Normal, "");
    let segment = |seq: u32, ack: u32, flags, payload: &[u8]| {
        let mut frame =
            ethernet(MAC, 0x0800, &ip4(HOST4, FAR4, frame::TCP, &tcp(2000, 5001, flags, &[], payload)));
        frame[38..42].copy_from_slice(&seq.to_be_bytes());
        frame[42..46].copy_from_slice(&ack.to_be_bytes());
        fix_checksums(&mut frame);
        frame
    };
    let is_segment = |frame: &[u8]| frame[12..14] == [8, 0] && frame[23] == frame::TCP;
    let mut client = served(&socket);
    client.send(&segment(1000, 0, 2, b""));
    let answer = client.find("SYN-ACK", is_segment);
    assert_eq!(answer[47] & 0x17, 0x12, "SYN and ACK");
    let next = u32::from_be_bytes(answer[38..42].try_into().expect("a number")).wrapping_add(1);
    client.send(&segment(1001, next, 0x10, b""));
    drop(client);
    let mut client = Client::wait_for(&socket);
    client.send(&segment(1001, next, 0x18, b"once\n!"));
    let echo = client.find("the echo", |frame| is_segment(frame) && frame[54] == b'!');
    assert_eq!(echo[38..42], next.to_be_bytes());
}

#[test]
fn a_connection_can_be_inherited() {
    let Some(net) = Net::new() else { return };
    for user in User::BOTH {
        let (mut client, theirs) = pair();
        let options = format!("--foreground --fd {}", theirs.as_raw_fd());
        let passt = Process::start(&mut net.passt(user).with(&options).command(""));
        drop(theirs);
        assert_eq!(client.ask_for_gateway(), OURS);
        drop(client);
        let finished = passt.finish();
        assert_eq!(finished.status.code(), Some(0));
        assert!(finished.stderr.contains("Client connection closed, exiting"), "{}", finished.stderr);
        assert!(!finished.stderr.contains("bound at"), "{}", finished.stderr);

        // As qemu does it: in the background, and the end of the connection is the end of us.
        let (mut client, theirs) = pair();
        let file = net.dir().join(format!("pid-{user:?}"));
        let options = format!("--quiet --pid {} --fd {}", file.display(), theirs.as_raw_fd());
        assert!(net.passt(user).with(&options).run("").status.success());
        drop(theirs);
        let daemon = Daemon::of(&file);
        assert_eq!(client.ask_for_gateway(), OURS);
        drop(client);
        eventually("end of passt", || daemon.has_ended().then_some(()));
    }
}

/// A client and what passt is to inherit as its other end.
fn pair() -> (Client, OwnedFd) {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    (ours.into(), inheritable(theirs))
}

fn inheritable(fd: impl Into<OwnedFd>) -> OwnedFd {
    let fd = fd.into();
    fcntl_setfd(&fd, FdFlags::empty()).expect("a descriptor");
    fd
}

#[test]
fn only_a_connection_can_be_inherited() {
    let Some(net) = Net::new() else { return };
    let listening = inheritable(UnixListener::bind(net.dir().join("listening")).expect("socket"));
    let datagrams = inheritable(std::os::unix::net::UnixDatagram::pair().expect("sockets").0);
    let file = inheritable(fs::File::open("/dev/null").expect("file"));
    let numbers = [&listening, &datagrams, &file].map(std::os::fd::AsRawFd::as_raw_fd);
    for fd in numbers.into_iter().chain([0, 1, 999, i32::MAX]) {
        let finished = net.passt(User::Normal).with(&format!("--quiet --foreground --fd {fd}")).run("");
        assert_eq!(finished.status.code(), Some(1), "{fd}");
        assert!(finished.stderr.starts_with(&format!("Invalid --fd: {fd}; ")), "{finished:?}");
    }
}

#[test]
fn in_the_background_all_is_ready_when_the_parent_ends() {
    let Some(net) = Net::new() else { return };
    for (user, id) in [(User::Root, 65_534), (User::Normal, User::NORMAL_ID)] {
        // Root may start us where nobody else may look; names are relative to it.
        let dir = net.dir().join(format!("{user:?}"));
        fs::create_dir(&dir).expect("directory");
        if user == User::Normal {
            std::os::unix::fs::chown(&dir, Some(id), None).expect("directory");
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("mode");
        let launch = net.passt(user).with("--socket socket --pid pid -t 5001 --log-file log");
        let finished = Process::start(launch.command("").current_dir(&dir)).finish();
        assert!(finished.status.success(), "{}", finished.stderr);
        let mut client = Client::connect(&dir.join("socket"));
        assert_eq!(client.ask_for_gateway(), OURS);
        assert!(net.peer.peer(&format!("connect {}", at(HOST4, 5001))).starts_with("connected"));

        let daemon = Daemon::of(&dir.join("pid"));
        assert_eq!(fs::metadata(dir.join("pid")).expect("PID file").permissions().mode() & 0o777, 0o600);
        for fd in 0..3 {
            let open = fs::read_link(format!("/proc/{}/fd/{fd}", daemon.0)).expect("a descriptor");
            assert!(open.ends_with("null"), "{}", open.display());
        }
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.0)).expect("status");
        assert!(status.contains(&format!("Uid:\t{id}\t{id}\t{id}\t{id}")), "{status}");
        assert!(Command::new("kill").arg(daemon.0.to_string()).status().expect("kill").success());
        eventually("end of passt", || daemon.has_ended().then_some(()));
        client.wait_for_end();
        assert!(dir.join("socket").exists() && dir.join("pid").exists(), "files stay");
        // Who comes after us needs neither removed.
        let again = Process::start(launch.command("").current_dir(&dir)).finish();
        assert!(again.status.success(), "{}", again.stderr);
        drop(Daemon::of(&dir.join("pid")));
    }
}

/// libvirt's command line, and what it relies on.
#[test]
fn libvirt_gets_what_it_asks_for() {
    let Some(net) = Net::new() else { return };
    let dir = net.dir().display();
    let options = format!(
        "--one-off --socket {dir}/vm.socket --pid {dir}/vm.pid --mtu 1500 --interface eth0 \
         --log-file {dir}/vm.log --hostname box --fqdn box.example.test --address 192.0.2.7 --netmask 24 \
         --tcp-ports {HOST4}%eth0/2222:22 --tcp-ports 8000-8100:9000-9100,~8050 --tcp-ports {HOST4}/8222,8443 \
         --udp-ports %eth0/5353 --udp-ports 7000-7010:7100-7110,~7005"
    );
    let finished = net.passt(User::Normal).with(&options).run("");
    assert!(finished.status.success(), "{}", finished.stderr);
    let daemon = Daemon::of(&net.dir().join("vm.pid"));
    let mut client = Client::connect(&net.dir().join("vm.socket"));
    let offer = client.discover();
    assert_eq!(offer[58..62], [192, 0, 2, 7]);
    assert_forwarded(&net, &mut client);
    drop(client);
    eventually("end of passt", || daemon.has_ended().then_some(()));
    let log = fs::read_to_string(net.dir().join("vm.log")).expect("log");
    assert!(log.contains("Client connection closed, exiting"), "{log}");
}

/// Each of the forms in which ports are forwarded to 192.0.2.7 leads there, and none further.
fn assert_forwarded(net: &Net, client: &mut Client) {
    let tcp = [
        (&net.peer, HOST4, 2222, 22),
        (&net.peer, HOST4, 8000, 9000),
        (&net.host, "127.0.0.1", 8001, 9001),
        (&net.peer, HOST4, 8100, 9100),
        (&net.peer, HOST4, 8222, 8222),
        (&net.peer, HOST4, 8443, 8443),
    ];
    let mut seen = Vec::new();
    for (place, address, port, inside) in tcp {
        let _connecting = place.start_peer(&format!("connect {}", at(address, port)));
        // One that nobody answers is sent again.
        let syn = client.find("a SYN", |frame| is_syn(frame) && !seen.contains(&reaches(frame)));
        seen.push(reaches(&syn));
        assert_eq!(seen.last(), Some(&("192.0.2.7".into(), inside)), "{address} {port}");
    }
    for (port, inside) in [(5353, 5353), (7000, 7100), (7010, 7110)] {
        let _asking = net.peer.start_peer(&format!("udp-ask {} hello", at(HOST4, port)));
        let datagram = client.find("a datagram", |frame| frame.get(42..47) == Some(b"hello"));
        assert_eq!(reaches(&datagram), ("192.0.2.7".into(), inside), "{port}");
    }
    let nowhere = [(&net.peer, HOST4, &[8050, 7999, 8101][..]), (&net.host, "127.0.0.1", &[2222, 8222])];
    for (place, address, ports) in nowhere {
        for port in ports {
            let outcome = place.peer(&format!("connect {}", at(address, *port)));
            assert!(outcome.starts_with("ConnectionRefused"), "{address} {port}: {outcome}");
        }
    }
    for port in [7005, 7011] {
        let outcome = net.peer.peer(&format!("udp-ask {} hello", at(HOST4, port)));
        assert_eq!(outcome.trim(), "ConnectionRefused", "{port}");
    }
}

fn is_syn(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0] && frame[23] == frame::TCP && frame[47] == 2
}

/// Address and port that a packet of IPv4 is for.
fn reaches(frame: &[u8]) -> (String, u16) {
    let address: [u8; 4] = frame[30..34].try_into().expect("an address");
    (Ipv4Addr::from(address).to_string(), u16::from_be_bytes([frame[36], frame[37]]))
}

/// With and without a client.
#[test]
fn signals_end_us() {
    let Some(net) = Net::new() else { return };
    for (signal, status) in [("TERM", Some(0)), ("QUIT", Some(0)), ("INT", None)] {
        for connected in [false, true] {
            let file = net.dir().join("pid");
            let (mut passt, socket) = start(&net, User::Normal, &format!("--pid {}", file.display()));
            eventually("the PID file", || {
                fs::read_to_string(&file).is_ok_and(|text| text == format!("{}\n", passt.pid())).then_some(())
            });
            let client = connected.then(|| served(&socket));
            passt.signal(signal);
            let ended = eventually("end of passt", || passt.try_wait());
            assert_eq!(ended.code(), status, "{signal}");
            assert!(socket.exists());
            drop(client);
            fs::remove_file(&file).expect("PID file");
        }
    }
}

#[test]
fn what_fails_before_it_is_ready_says_why() {
    let Some(net) = Net::new() else { return };
    let (passt, socket) = start(&net, User::Root, "-t 5001");
    let pid_file = net.dir().join("pid");
    fs::write(&pid_file, "old").expect("file");
    let taken = format!("--pid {} --socket {}", pid_file.display(), socket.display());
    let cases = [
        ("-t 5001 --one-off", "5001"),
        ("extra", "Extra non-option argument: extra"),
        ("--conf-path /no/such/directory/x", "Couldn't bind UNIX domain socket /no/such/directory/x"),
        ("-T 53", "-T is for pasta mode only"),
        ("-t auto", "auto"),
        ("--pid /no/such/directory/pid", "/no/such/directory/pid"),
        ("--interface no-such", "Invalid interface name no-such"),
        (&taken, "already in use"),
    ];
    for (options, reason) in cases {
        let socket = if options == taken { "" } else { " --socket other" };
        let finished = net.passt(User::Root).with("--quiet").run(&format!("{socket} {options}"));
        assert_eq!(finished.status.code(), Some(1), "{options}");
        let lines: Vec<&str> =
            finished.stderr.lines().filter(|line| !line.starts_with("Started as root")).collect();
        assert!(lines.first().is_some_and(|line| line.contains(reason)), "{options}: {lines:?}");
        assert_eq!(finished.stdout, "");
    }
    assert_eq!(
        fs::read_to_string(pid_file).expect("file"),
        "old",
        "another instance's PID file is left alone"
    );
    drop(passt);
    let finished = net.passt(User::Normal).with("--print-capabilities").run("");
    assert_eq!(finished.stdout, "{\n  \"type\": \"net\"\n}\n");
}
