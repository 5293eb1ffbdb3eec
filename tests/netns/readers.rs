//! Who should read what the program writes, and doesn't: the network goes on, and what is missing
//! is counted. And files that are something else.

use std::fs::{self, File};
use std::io::{PipeReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use passt_tests::client::Client;
use passt_tests::transfer::{MIB, at, download, exchange, upload};
use passt_tests::{FAR4, Guest, Net, Place as _, Process, User, eventually};
use rustix::fs::OFlags;

/// A FIFO that everybody may use.
fn fifo(net: &Net, name: &str) -> PathBuf {
    let path = net.dir().join(name);
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("mode");
    path
}

/// Opens the end of a FIFO to read from, without waiting for who writes or what they write.
fn reader(path: &Path) -> File {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(path).expect("a FIFO")
}

/// What is there to read.
fn content(mut reader: &File) -> Vec<u8> {
    let mut content = Vec::new();
    let mut part = vec![0; 65536];
    while let Ok(len @ 1..) = reader.read(&mut part) {
        content.extend_from_slice(&part[..len]);
    }
    content
}

/// Numbers of bytes in the records of a capture, which must all be whole.
fn records(mut bytes: &[u8]) -> Vec<usize> {
    let word = |at: usize, bytes: &[u8]| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four"));
    assert_eq!(word(0, bytes), 0xa1b2_3c4d, "a capture");
    bytes = &bytes[24..];
    let mut records = Vec::new();
    while !bytes.is_empty() {
        assert!(bytes.len() >= 16, "{} bytes of a header, after {records:?}", bytes.len());
        let len = word(8, bytes) as usize;
        assert!(len <= 1 << 17 && bytes.len() >= 16 + len, "a torn record, after {} others", records.len());
        records.push(len);
        bytes = &bytes[16 + len..];
    }
    records
}

fn transfers(guest: &Guest) {
    upload(guest, &at(FAR4, 5001), 4 * MIB);
    download(guest, &at(FAR4, 5001), 4 * MIB);
}

/// A FIFO that nobody has opened, and one that somebody has opened and doesn't read.
#[test]
fn a_capture_that_nobody_reads() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    for is_open in [false, true] {
        let path = fifo(&net, &format!("capture-{is_open}"));
        let early = is_open.then(|| reader(&path));
        let options = format!("--config-net --pcap {}", path.display());
        let guest = net.pasta(User::Normal).with(&options).start();
        transfers(&guest);
        let reader = early.unwrap_or_else(|| reader(&path));
        let mut bytes = content(&reader);
        assert!(!records(&bytes).is_empty());
        // It is recorded again now.
        exchange(&guest, &at(FAR4, 5001));
        let more = content(&reader);
        bytes.extend(&more);
        assert!(!more.is_empty());
        transfers(&guest);
        let finished = guest.stop();
        bytes.extend(content(&reader));
        assert!(finished.status.success(), "{}", finished.stderr);
        records(&bytes);
        for line in [
            "missing from the capture from here on",
            "before this one",
            "frames are missing from the capture\n",
        ] {
            assert!(finished.stderr.contains(line), "{line}: {}", finished.stderr);
        }
    }
}

/// The same of passt, which has no command whose end it could miss.
#[test]
fn a_client_is_served_whoever_reads_the_capture() {
    let Some(net) = Net::new() else { return };
    let path = fifo(&net, "capture");
    let options = format!("--one-off --pcap {}", path.display());
    let passt = net.passt(User::Normal).with(&options).listen("socket");
    let mut client = Client::connect(&net.dir().join("socket"));
    let reader = reader(&path);
    for _ in 0..20_000 {
        client.ask_for_gateway();
    }
    drop(client);
    let finished = passt.finish();
    assert!(finished.stderr.contains("frames are missing from the capture\n"), "{}", finished.stderr);
    let records = records(&content(&reader));
    assert!(records.len() > 1000, "{}", records.len());
}

/// What a pipe holds now, under a description of our own.
fn drained(pipe: &PipeReader) -> String {
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    String::from_utf8_lossy(&content(&reader(Path::new(&path)))).into_owned()
}

/// Writes empty lines to a pipe until it takes no more.
fn fill(pipe: &Path) {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut writer = File::options().read(true).write(true).custom_flags(flags).open(pipe).expect("a pipe");
    while writer.write(&[b'\n'; 4096]).is_ok() {}
}

/// A command that transfers data, and ends; its standard output and error are nowhere.
fn transferring(net: &Net, user: User, options: &str) -> Command {
    let peer = net.dir().join("peer").display().to_string();
    let script = format!("exec >/dev/null 2>&1; {peer} up {} {} 7 && exit 5", at(FAR4, 5001), 64 * MIB);
    let mut command = net.pasta(user).with(options).command("");
    command.args(["--", "sh", "-c", &script]).stdin(Stdio::null());
    command
}

/// Standard error and output that nobody reads: the transfer is made, the command's end is noticed.
/// Root can open a pipe of the test's once more, another user cannot.
#[test]
fn standard_streams_that_nobody_reads() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    for user in User::BOTH {
        for (options, is_full) in
            [("--config-net --trace", false), ("--config-net --foreground --stats 1", true)]
        {
            let (stdout, out) = std::io::pipe().expect("a pipe");
            let (stderr, err) = std::io::pipe().expect("a pipe");
            if is_full {
                fill(Path::new(&format!("/proc/self/fd/{}", out.as_raw_fd())));
            }
            let mut command = transferring(&net, user, options);
            let mut child = command.stdout(out).stderr(err).spawn().expect("pasta");
            let status = eventually("end of pasta", || child.try_wait().expect("own child"));
            assert_eq!(status.code(), Some(5), "{user:?} {options}");
            drop(command);
            let (out, err) = (drained(&stdout), drained(&stderr));
            if is_full {
                assert_eq!(out.trim(), "");
                continue;
            }
            assert!(err.len() > 50_000, "{} bytes", err.len());
            let is_stamped =
                |line: &str| line.split_once(": ").is_some_and(|(time, _)| time.parse::<f64>().is_ok());
            let torn = err.lines().filter(|line| !line.is_empty()).find(|line| !is_stamped(line));
            assert!(torn.is_none_or(|line| line.contains("as root")), "{torn:?}");
            assert!(err.ends_with('\n'), "a torn line at the end");
        }
    }
}

/// Who reads again is told how many lines are missing.
#[test]
fn missing_lines_are_told() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    let path = fifo(&net, "log");
    let options = format!("--config-net --trace --log-file {}", path.display());
    let guest = net.pasta(User::Normal).with(&options).start();
    fill(&path);
    transfers(&guest);
    let reader = reader(&path);
    let text = String::from_utf8_lossy(&content(&reader)).into_owned();
    assert!(text.starts_with("pasta ") && text.ends_with('\n'), "{}", &text[..100]);
    exchange(&guest, &at(FAR4, 5001));
    let text = String::from_utf8_lossy(&content(&reader)).into_owned();
    let first = text.lines().next().expect("a line");
    assert!(first.ends_with("lines are missing here"), "{first}");
    assert!(guest.stop().status.success());
}

#[test]
fn devices_are_files_too() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    let guest = net.pasta(User::Normal).with("--config-net --log-file /dev/null --pcap /dev/null").start();
    exchange(&guest, &at(FAR4, 5001));
    assert!(guest.stop().status.success());
    let (mut stdout, out) = std::io::pipe().expect("a pipe");
    let mut command = transferring(&net, User::Root, "--config-net --quiet --pcap /dev/stdout");
    let mut child = command.stdout(out).stderr(Stdio::null()).spawn().expect("pasta");
    drop(command);
    let mut bytes = Vec::new();
    stdout.read_to_end(&mut bytes).expect("a capture");
    assert_eq!(child.wait().expect("own child").code(), Some(5));
    assert!(records(&bytes).iter().sum::<usize>() > 0);
}

/// What should be files and are FIFOs that nobody has at the other end.
#[test]
fn fifos_keep_no_start_waiting() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    net.host.resolv_conf_fifo();
    let path = fifo(&net, "pid");
    let guest = net.pasta(User::Normal).with(&format!("--config-net --pid {}", path.display())).start();
    exchange(&guest, &at(FAR4, 5001));
    let pid = content(&reader(&path));
    assert_eq!(pid, format!("{}\n", guest.pasta.pid()).as_bytes());
    assert!(guest.stop().status.success());

    let other = fifo(&net, "namespace");
    for option in ["--netns", "--userns"] {
        let line = format!("--config-net {option} {}", other.display());
        let operand = if option == "--userns" { std::process::id().to_string() } else { String::new() };
        let finished = net.pasta(User::Root).with(&line).run(&operand);
        assert_eq!(finished.status.code(), Some(1));
        assert!(finished.stderr.contains(&*other.to_string_lossy()), "{option}: {}", finished.stderr);
    }
}

/// In the background, too, the PID is there for who reads it later.
#[test]
fn a_pid_file_that_is_read_later() {
    let Some(net) = Net::new() else { return };
    let path = fifo(&net, "pid");
    let options = format!("--pid {} --socket {}", path.display(), net.dir().join("socket").display());
    let finished = Process::start(&mut net.passt(User::Normal).with(&options).command("")).finish();
    assert!(finished.status.success(), "{}", finished.stderr);
    let pid = String::from_utf8(content(&reader(&path))).expect("text");
    let pid = pid.trim();
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).expect("a process");
    assert_eq!(name.trim(), "passt");
    assert!(Command::new("kill").arg(pid).status().expect("kill").success());
}
