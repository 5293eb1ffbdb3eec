//! Runs commands inside a virtual machine: the agent there, and who asks it.
//!
//! They talk in lines by one of several ports. A request is `run ID` and the
//! words of a command, separated by [`SEPARATOR`]; `close` ends its standard
//! input. The answer is lines `ID out TEXT`, `ID err TEXT`, and at last
//! `ID exit STATUS`. Who leaves or asks for something else has the command killed.
//!
//! A virtio port tells of connections apart from its data: that one asker left
//! may be seen among the bytes of the next one. So nothing but lines divides
//! the data, and a port has to stay without an asker before it counts as left.
//! A serial line tells of none: whoever serves it says `left`.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use passt_tests::eventually;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use crate::say;

const SEPARATOR: char = '\u{1f}';

/// How often in a row a port is seen without an asker until it counts as left.
const LEFT: u32 = 10;

/// Serves all these ports for ever. Prints `AGENT` when it does.
pub(crate) fn agent(ports: &[&str]) -> Result<()> {
    let mut threads = Vec::new();
    for path in ports {
        let port = open_port(path).with_context(|| (*path).to_owned())?;
        threads.push(std::thread::spawn(move || Agent { port: Arc::new(port), running: None }.serve()));
    }
    say("AGENT")?;
    threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
}

/// A virtio port, or a serial line, which then passes on all bytes as they are.
fn open_port(path: &str) -> Result<File> {
    let flags = OFlags::NOCTTY.bits().cast_signed();
    // A port has a node shortly before it is there.
    let port = eventually("a port", || {
        match File::options().read(true).write(true).custom_flags(flags).open(path) {
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => None,
            outcome => Some(outcome),
        }
    })?;
    if let Ok(mut mode) = tcgetattr(&port) {
        mode.make_raw();
        tcsetattr(&port, OptionalActions::Now, &mode)?;
    }
    Ok(port)
}

/// What serves one port.
struct Agent {
    port: Arc<File>,
    running: Option<Running>,
}

/// A command that nobody has waited for yet.
struct Running {
    group: Pid,
    stdin: Option<ChildStdin>,
    ended: Arc<AtomicBool>,
}

impl Agent {
    fn serve(mut self) -> Result<()> {
        let mut line = Vec::new();
        let mut unconnected = 0;
        loop {
            let mut ready = [PollFd::new(&*self.port, PollFlags::IN)];
            poll(&mut ready, None)?;
            if ready[0].revents().contains(PollFlags::HUP) {
                unconnected += 1;
                if unconnected == LEFT {
                    self.running = None;
                }
                // Nothing tells when somebody connects.
                std::thread::sleep(Duration::from_millis(30));
                continue;
            }
            unconnected = 0;
            let mut byte = [0];
            if (&*self.port).read(&mut byte)? == 0 {
                continue;
            }
            if byte == *b"\n" {
                self.request(&String::from_utf8_lossy(&line));
                line.clear();
            } else {
                line.extend(byte);
            }
        }
    }

    fn request(&mut self, line: &str) {
        let mut words = line.split(SEPARATOR);
        match (words.next(), words.next()) {
            (Some("run"), Some(id)) => {
                self.running = None;
                match self.run(id, &words.collect::<Vec<_>>()) {
                    Ok(running) => self.running = Some(running),
                    Err(error) => {
                        answer(&self.port, &format!("{id} err {error:#}"));
                        answer(&self.port, &format!("{id} exit 127"));
                    }
                }
            }
            (Some("close"), None) => {
                if let Some(running) = &mut self.running {
                    running.stdin = None;
                }
            }
            (Some("left"), None) => self.running = None,
            (Some(""), None) => (),
            _ => eprintln!("unknown request: {line:?}"),
        }
    }

    fn run(&self, id: &str, words: &[&str]) -> Result<Running> {
        let (program, arguments) = words.split_first().context("no command")?;
        let mut command = Command::new(program);
        command.args(arguments).process_group(0);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().with_context(|| (*program).to_owned())?;
        let group = Pid::from_child(&child);
        let stdin = child.stdin.take();
        let ended = Arc::new(AtomicBool::new(false));
        let (port, id, set_ended) = (Arc::clone(&self.port), id.to_owned(), Arc::clone(&ended));
        std::thread::spawn(move || wait_for(child, &port, &id, &set_ended));
        Ok(Running { group, stdin, ended })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = kill_process_group(self.group, Signal::KILL) {
            eprintln!("kill: {error}");
        }
    }
}

/// Passes on what a command writes, and its end.
fn wait_for(mut child: Child, port: &Arc<File>, id: &str, ended: &AtomicBool) {
    let relays = [
        relay(child.stdout.take().expect("piped"), port, format!("{id} out")),
        relay(child.stderr.take().expect("piped"), port, format!("{id} err")),
    ];
    for relay in relays {
        relay.join().expect("no panic");
    }
    let status = child.wait().expect("own child");
    // A signal's number as a shell tells it.
    let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    ended.store(true, Ordering::Release);
    answer(port, &format!("{id} exit {status}"));
}

fn relay(pipe: impl Read + Send + 'static, port: &Arc<File>, prefix: String) -> std::thread::JoinHandle<()> {
    let port = Arc::clone(port);
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            answer(&port, &format!("{prefix} {}", String::from_utf8_lossy(&line).trim_end_matches('\n')));
            line.clear();
        }
    })
}

/// Writes a line at once, so that lines of several threads do not mix.
fn answer(mut port: &File, line: &str) {
    if let Err(error) = port.write_all(format!("{line}\n").as_bytes()) {
        eprintln!("answer: {error}");
    }
}

/// Runs a command in the virtual machine whose ports are in `dir`, as if it
/// ran here; returns its status.
pub(crate) fn in_vm(dir: &Path, words: &[&str]) -> Result<i32> {
    let (_lock, mut stream) = free_port(dir)?;
    let id = std::process::id().to_string();
    let request = [&["run", &id], words].concat().join(&SEPARATOR.to_string());
    ensure!(!request.contains('\n'), "a command of one line");
    // Whoever was killed at this port may have left a line without its end.
    stream.write_all(format!("\n{request}\n").as_bytes())?;
    let mut sender = stream.try_clone()?;
    std::thread::spawn(move || {
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        drop(sender.write_all(b"close\n"));
    });
    for line in BufReader::new(stream).lines() {
        let line = line?;
        // What another's command wrote late is not for us.
        let Some(line) = line.strip_prefix(&id).and_then(|line| line.strip_prefix(' ')) else { continue };
        match line.split_once(' ').unwrap_or((line, "")) {
            ("out", text) => say(text)?,
            ("err", text) => eprintln!("{text}"),
            (_, status) => return Ok(status.parse()?),
        }
    }
    anyhow::bail!("the virtual machine ended")
}

/// A port that nobody uses, and what keeps others from it.
fn free_port(dir: &Path) -> Result<(File, UnixStream)> {
    for number in 0.. {
        let path = dir.join(format!("port{number}"));
        if !path.exists() {
            break;
        }
        let lock = File::create(path.with_extension("lock"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok((lock, UnixStream::connect(path)?));
        }
    }
    anyhow::bail!("as many commands as there are ports run in this virtual machine")
}
