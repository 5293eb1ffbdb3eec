//! No state of a socket keeps a core busy, and nobody fills the log.

use std::fs;
use std::io::Read as _;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use passt_tests::client::{Client, MAC};
use passt_tests::frame::{self, ethernet, ip4, udp};
use passt_tests::transfer::{at, exchange};
use passt_tests::{DEADLINE, FAR4, HOST4, Net, Place as _, Process, User, eventually};
use rustix::net::{AddressFamily, Shutdown, shutdown, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Clock ticks of CPU time that a process has used, a hundred a second (`proc_pid_stat(5)`).
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let (_, fields) = stat.rsplit_once(") ").expect("fields");
    fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum()
}

/// Rounds of the loop, as the last line of statistics has them.
fn rounds(process: &Process) -> Option<u64> {
    let text = process.stdout();
    let (_, last) = text.rsplit_once("| rounds ")?;
    last.split(' ').next()?.parse().ok()
}

/// Requires that a process that prints statistics each second has next to nothing to do for two
/// seconds.
fn assert_idle(process: &Process, state: &str) {
    let wait = |number: usize| {
        eventually("statistics", || {
            (process.stdout().matches("| rounds ").count() >= number).then(|| rounds(process)).flatten()
        })
    };
    let lines = process.stdout().matches("| rounds ").count();
    let first = wait(lines + 1);
    let before = ticks(process.pid());
    sleep(Duration::from_secs(2));
    let used = ticks(process.pid()) - before;
    let last = wait(lines + 3);
    assert!(used < 40, "{state}: {used} hundredths of a second in two");
    assert!(last - first < 400, "{state}: {} rounds in two seconds", last - first);
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").count()
}

/// passt that may have `limit` descriptors, and its socket.
fn limited(net: &Net, limit: u32, options: &str) -> (Process, PathBuf) {
    let program = net.dir().join("passt");
    let launch = net.passt(User::Normal).program(Path::new("/usr/bin/prlimit"));
    let launch = launch.with(&format!("--nofile={limit}:{limit} {} {options}", program.display()));
    (launch.listen("socket"), net.dir().join("socket"))
}

/// Sets the soft limit of a process of the user's, who may do that without privilege.
fn set_limit(process: &Process, limit: u32) {
    let id = User::NORMAL_ID;
    let mut command = std::process::Command::new("setpriv");
    command.args([&format!("--reuid={id}"), &format!("--regid={id}"), "--clear-groups", "prlimit"]);
    command.args([&format!("--pid={}", process.pid()), &format!("--nofile={limit}:")]);
    assert!(command.status().expect("prlimit").success());
}

/// Requires that the other end closes the connection.
fn assert_sent_away(mut stream: &UnixStream) {
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    assert_eq!(stream.read(&mut [0]).expect("an end"), 0);
}

/// A guest uses up all descriptors, and somebody comes to the socket: they are sent away, or let in
/// if it is free. If the kernel has no descriptor even for that, they wait, and passt does, too.
#[test]
fn clients_come_while_descriptors_are_used_up() {
    let Some(net) = Net::new() else { return };
    let (passt, socket) = limited(&net, 64, "--foreground --stats 1");
    let mut client = Client::connect(&socket);
    client.ask_for_gateway();
    for port in 7001..7081 {
        client.send(&ethernet(MAC, 0x0800, &ip4(HOST4, FAR4, frame::UDP, &udp(port, 6001, b"x"))));
    }
    client.ask_for_gateway();
    eventually("all descriptors are used", || (descriptors(passt.pid()) == 64).then_some(()));
    let second = UnixStream::connect(&socket).expect("a connection");
    assert_sent_away(&second);
    assert_idle(&passt, "after one was sent away");

    set_limit(&passt, 3);
    let third = UnixStream::connect(&socket).expect("a connection");
    eventually("a warning", || passt.stderr().contains("Couldn't accept a connection").then_some(()));
    assert_idle(&passt, "while one can't be");
    assert_eq!(client.ask_for_gateway().len(), 6, "the client is served");
    set_limit(&passt, 64);
    assert_sent_away(&third);
    let warnings = passt.stderr().matches("Couldn't accept a connection").count();
    assert!(warnings < 25, "{warnings} lines");

    drop(client);
    let mut client = Client::wait_for(&socket);
    client.ask_for_gateway();
    assert_idle(&passt, "with another client");
}

/// What somebody can have logged again and again is told a few times, then its number.
#[test]
fn repeated_lines_are_counted() {
    let Some(net) = Net::new() else { return };
    let (mut passt, socket) = limited(&net, 1024, "");
    let mut client = Client::connect(&socket);
    client.ask_for_gateway();
    for _ in 0..500 {
        assert_sent_away(&UnixStream::connect(&socket).expect("a connection"));
    }
    let line = passt.wait_for("were not logged");
    assert!(line.contains("discarding connection from PID"), "{line}");
    let lines = passt.stderr().matches("discarding connection").count();
    assert!(lines < 40, "{lines} lines");
    let counts = passt.stderr();
    let counts = counts
        .lines()
        .filter_map(|line| line.split_once("one of ")?.1.split(' ').next()?.parse::<usize>().ok());
    let counted: usize = counts.sum();
    assert!(counted + lines >= 500, "{counted} counted, {lines} told");
}

/// A process's sockets of internet protocols, each with whether it's TCP's.
fn sockets(pid: u32) -> Vec<(OwnedFd, bool)> {
    let process = Pid::from_raw(pid.try_into().expect("a PID")).expect("a PID");
    let process = pidfd_open(process, PidfdFlags::empty()).expect("a process");
    let numbers = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process");
    let numbers = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let own = numbers.filter_map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok());
    own.filter_map(|fd| {
        let family = sockopt::socket_domain(&fd).ok()?;
        let is_tcp = sockopt::socket_type(&fd).ok()? == rustix::net::SocketType::STREAM;
        [AddressFamily::INET, AddressFamily::INET6].contains(&family).then_some((fd, is_tcp))
    })
    .collect()
}

fn shut(fd: BorrowedFd<'_>, how: Shutdown) {
    // Sockets of UDP that aren't connected say that they aren't, and are shut down nevertheless.
    let _ = shutdown(fd, how);
}

/// Sockets that were shut down under pasta report that for ever, whatever it asks for.
#[test]
fn sockets_that_were_shut_down() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.listening(&format!("udp-serve {}", at(FAR4, 6009)));
    let _server = net.peer.serve(&at(FAR4, 5009));
    for how in [Shutdown::Read, Shutdown::Both] {
        let options = "--config-net --foreground --stats 1 -t 5001 -u 6001 -T 5002 -U 6002";
        let mut guest = net.pasta(User::Normal).with(options).start();
        assert_eq!(guest.peer(&format!("udp-ask {} hello", at(FAR4, 6009))).trim(), "hello");
        guest.run(&format!("ping -c 1 -W 3 {FAR4}"));
        let all = sockets(guest.pasta.pid());
        let tcp = all.iter().filter(|(_, is_tcp)| *is_tcp).count();
        assert!(tcp >= 2 && all.len() - tcp >= 4, "{tcp} of {}", all.len());
        for (fd, _) in &all {
            shut(std::os::fd::AsFd::as_fd(fd), how);
        }
        drop(all);
        assert_idle(&guest.pasta, &format!("{how:?}"));
        assert_eq!(guest.peer(&format!("udp-ask {} hello", at(FAR4, 6009))).trim(), "hello");
        exchange(&guest, &at(FAR4, 5009));
        guest.assert_alive();
    }
}

/// The device is down, with frames on their way in both directions.
#[test]
fn a_device_that_is_down() {
    let Some(net) = Net::new() else { return };
    let mut guest = net.pasta(User::Normal).with("--config-net --foreground --stats 1 -u 6001").start();
    let _asking = net.peer.start_peer(&format!("udp-ask {} hello", at(HOST4, 6001)));
    guest.run("ip link set eth0 down");
    let _other = net.peer.start_peer(&format!("udp-ask {} hello", at(HOST4, 6001)));
    assert_idle(&guest.pasta, "down");
    guest.run("ip link set eth0 up");
    guest.assert_alive();
}

/// A client that takes nothing, one that has shut down a direction.
#[test]
fn clients_with_half_a_connection() {
    let Some(net) = Net::new() else { return };
    let (passt, socket) = limited(&net, 1024, "--foreground --stats 1 -u 6001");
    let mut client = Client::connect(&socket);
    client.ask_for_gateway();
    let _many = net.peer.start_peer(&format!("udp-ask {} hello", at(HOST4, 6001)));
    assert_idle(&passt, "nobody reads");
    client.stop_reading();
    let _more = net.peer.start_peer(&format!("udp-ask {} hello", at(HOST4, 6001)));
    assert_idle(&passt, "nobody will read");
}
