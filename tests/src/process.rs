//! Child processes whose output is evidence, and waiting for what they do.
#![expect(clippy::disallowed_methods, reason = "real programs live in real time")]

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long anything in these tests may take unless it says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Polls until `ready` yields a value. Panics after [`DEADLINE`], naming `what`.
pub fn eventually<T>(what: &str, ready: impl FnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, ready)
}

/// [`eventually`] with a deadline of its own, which is later on machines that are slow.
pub fn eventually_within<T>(deadline: Duration, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let deadline = deadline * slowness();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How many times longer than usual anything may take on this machine: `PASST_TEST_SLOWNESS`.
pub fn slowness() -> u32 {
    let given = std::env::var("PASST_TEST_SLOWNESS").ok();
    given.and_then(|given| given.parse().ok()).unwrap_or(1)
}

/// A running program. It is killed at the end of the scope, and if the test
/// is failing by then its output is printed.
pub struct Process {
    name: String,
    child: Child,
    stdout: Collected,
    stderr: Collected,
}

/// How a program ended and what it wrote.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Process {
    /// Starts a program with its three standard streams piped.
    pub fn start(command: &mut Command) -> Self {
        let name = format!("{command:?}").replace('"', "");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let stdout = Collected::from(child.stdout.take().expect("piped"));
        let stderr = Collected::from(child.stderr.take().expect("piped"));
        Self { name, child, stdout, stderr }
    }

    /// The process's id in the initial PID namespace.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits for a line with `part` on either stream and returns it. Panics
    /// if the program ends before.
    pub fn wait_for(&mut self, part: &str) -> String {
        let what = format!("{part:?} from {}", self.name);
        eventually(&what, || {
            let ended = self.try_wait().is_some() && self.stdout.complete() && self.stderr.complete();
            let found = self.stdout.line_with(part).or_else(|| self.stderr.line_with(part));
            assert!(found.is_some() || !ended, "ended without {what}");
            found
        })
    }

    /// Its exit status if it has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("own child")
    }

    /// Writes to its standard input.
    pub fn write(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("standard input is open");
        stdin.write_all(text.as_bytes()).expect("standard input is read");
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// Sends a signal by its name, as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.expect("kill").success());
    }

    /// Waits for its end, at most [`DEADLINE`].
    pub fn finish(self) -> Finished {
        self.finish_within(DEADLINE)
    }

    /// Waits for its end, at most `deadline`.
    pub fn finish_within(mut self, deadline: Duration) -> Finished {
        self.close_stdin();
        let what = format!("end of {}", self.name);
        let status = eventually_within(deadline, &what, || self.try_wait());
        // A descendant that outlives the program may hold the pipes: what it
        // writes later is not waited for.
        let start = Instant::now();
        while !(self.stdout.complete() && self.stderr.complete()) && start.elapsed() < Duration::from_secs(1)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        Finished { status, stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Waits for its end and requires success; returns standard output.
    pub fn succeed(self) -> String {
        self.succeed_within(DEADLINE)
    }

    /// [`Self::succeed`] with a deadline of its own.
    pub fn succeed_within(self, deadline: Duration) -> String {
        let name = self.name.clone();
        let finished = self.finish_within(deadline);
        let Finished { status, stdout, stderr } = finished;
        assert!(status.success(), "{name}: {status}\nstdout: {stdout}\nstderr: {stderr}");
        stdout
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if std::thread::panicking() {
            let (stdout, stderr) = (tail(&self.stdout()), tail(&self.stderr()));
            eprintln!("---- {}\nstdout: {stdout}\nstderr: {stderr}", self.name);
        }
    }
}

/// The last part of a text, enough for evidence.
fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().rev().take(40).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// A stream read to its end by a thread.
struct Collected {
    text: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Collected {
    fn from(pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                sink.lock().expect("no panic").push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self { text, reader }
    }

    fn complete(&self) -> bool {
        self.reader.is_finished()
    }

    fn text(&self) -> String {
        self.text.lock().expect("no panic").clone()
    }

    fn line_with(&self, part: &str) -> Option<String> {
        self.text().lines().find(|line| line.contains(part)).map(str::to_owned)
    }
}
