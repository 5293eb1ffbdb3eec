//! Where the lines of the `log` crate go: standard error, the system's log, a file.
//!
//! Until the process goes to the background a line appears on standard error, for whoever started
//! us, and also in the log file or, without one, in the system's log. Everything is opened by
//! [`init`], since nothing can be later; a line is put together in a buffer of fixed size, and
//! the system's log drops it rather than keep the network waiting.
//!
//! Left out: a system's log that is restarted isn't found again. Its lines carry no time, which
//! the daemon adds, and no PID, which it learns from the socket: ours is from another namespace.

mod file;

use std::fmt::{self, Write as _};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ::log::{Level, LevelFilter, Log, Metadata, Record};

use passt_sys::msg;
use passt_sys::seccomp::{Call, Sysno};

use crate::cli::{LogOptions, Verbosity};
use file::LogFile;

/// Socket of the system's log.
const SYSLOG: &str = "/dev/log";
/// Facility of daemons (RFC 3164, section 4.1.1).
const LOG_DAEMON: u8 = 3;
/// Longest line; what is longer is cut. RFC 3164, section 4.1, allows packets of this size.
const MAX_LINE: usize = 1024;

/// System calls for a line.
pub const CALLS: &[Call] = &[Call::any(Sysno::sendmsg), Call::any(Sysno::writev)];

/// System calls for a line in a file of limited size.
pub const FILE_CALLS: &[Call] = file::CALLS;

static LOGGER: Logger = Logger(Mutex::new(None));

/// Why logging can't begin.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log file can't be opened or written.
    #[error("Couldn't open log file {path}: {error}")]
    File {
        /// Its name.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
}

/// Begins to log under a name, to standard error as well. Whoever calls it may still open files.
pub fn init(name: &'static str, options: &LogOptions) -> Result<(), LogError> {
    let sink = Sink::open(name, options, Path::new(SYSLOG))?;
    *LOGGER.lock() = Some(sink);
    // It is set already if `init` was called before.
    let _ = ::log::set_logger(&LOGGER);
    ::log::set_max_level(match options.verbosity {
        Verbosity::Quiet => LevelFilter::Warn,
        Verbosity::Normal => LevelFilter::Info,
        Verbosity::Debug => LevelFilter::Debug,
        Verbosity::Trace => LevelFilter::Trace,
    });
    Ok(())
}

/// Ends the use of standard error, as the process goes to the background.
pub fn background() {
    if let Some(sink) = LOGGER.lock().as_mut() {
        sink.stderr = false;
    }
}

/// Writes the last line of a process, wherever it was interrupted.
pub fn last_words(message: fmt::Arguments<'_>) {
    // If it was in the middle of a line, that one is lost.
    if let Ok(mut sink) = LOGGER.0.try_lock()
        && let Some(sink) = sink.as_mut()
    {
        sink.write(Level::Error, &message);
    }
}

struct Logger(Mutex<Option<Sink>>);

impl Logger {
    fn lock(&self) -> impl std::ops::DerefMut<Target = Option<Sink>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= ::log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata())
            && let Some(sink) = self.lock().as_mut()
        {
            sink.write(record.level(), record.args());
        }
    }

    fn flush(&self) {}
}

/// The open destinations.
struct Sink {
    name: &'static str,
    start: Instant,
    /// Lines on standard error begin with the time.
    timed: bool,
    stderr: bool,
    file: Option<LogFile>,
    syslog: Option<UnixDatagram>,
}

impl Sink {
    #[expect(
        clippy::disallowed_methods,
        reason = "a line may come from anywhere, so it can't be given the time"
    )]
    fn open(name: &'static str, options: &LogOptions, syslog: &Path) -> Result<Self, LogError> {
        let open = |path: &PathBuf| {
            let header = format!("{name} {}", env!("CARGO_PKG_VERSION"));
            let file = LogFile::create(path, options.size, header);
            file.map_err(|error| LogError::File { path: path.clone(), error })
        };
        let file = options.file.as_ref().map(open).transpose()?;
        Ok(Self {
            name,
            start: Instant::now(),
            timed: options.verbosity >= Verbosity::Debug,
            stderr: true,
            // Where there is no system's log, there is none to write to.
            syslog: if file.is_none() { connect(syslog).ok() } else { None },
            file,
        })
    }

    /// Writes one line to every destination. There is nobody to tell if that fails.
    fn write(&mut self, level: Level, message: &fmt::Arguments<'_>) {
        let mut line = Line::new();
        if self.stderr {
            let end = line.fill(|line| self.stamp(line, self.timed).and_then(|()| line.write_fmt(*message)));
            let _ = msg::write_slice(rustix::stdio::stderr(), end);
        }
        if self.file.is_some() {
            let text = line.fill(|line| self.stamp(line, true).and_then(|()| line.write_fmt(*message)));
            if let Some(file) = &mut self.file {
                let _ = file.append(text);
            }
        }
        if let Some(socket) = &self.syslog {
            let priority = LOG_DAEMON << 3 | severity(level);
            let text = line.fill(|line| write!(line, "<{priority}>{}: {message}", self.name));
            let _ = msg::send_slice(socket.as_fd(), text.strip_suffix(b"\n").unwrap_or(text));
        }
    }

    /// Seconds since the start, to a tenth of a millisecond.
    fn stamp(&self, line: &mut Line, timed: bool) -> fmt::Result {
        if !timed {
            return Ok(());
        }
        let time = self.start.elapsed();
        write!(line, "{}.{:04}: ", time.as_secs(), time.subsec_micros() / 100)
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

/// RFC 3164, section 4.1.1.
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// A line while it is put together.
struct Line {
    bytes: [u8; MAX_LINE],
    len: usize,
}

impl Line {
    fn new() -> Self {
        Self { bytes: [0; MAX_LINE], len: 0 }
    }

    /// What `write` makes, cut if need be, with a newline at its end.
    fn fill(&mut self, write: impl FnOnce(&mut Self) -> fmt::Result) -> &[u8] {
        self.len = 0;
        // An error means that the line is full, or that some value can't be shown.
        let _ = write(self);
        let len = self.len.min(MAX_LINE - 1);
        if let Some(end) = self.bytes.get_mut(len) {
            *end = b'\n';
        }
        self.bytes.get(..=len).unwrap_or_default()
    }
}

impl fmt::Write for Line {
    /// Control characters, which a guest may have sent, become blanks: a line stays one.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..MAX_LINE - 1).unwrap_or_default();
        let copied = room.iter_mut().zip(text.bytes()).map(|(to, byte)| {
            *to = if byte.is_ascii_control() { b' ' } else { byte };
        });
        let copied = copied.count();
        self.len += copied;
        if copied == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("log-{}-{name}", std::process::id()))
    }

    fn options(file: Option<PathBuf>) -> LogOptions {
        LogOptions { verbosity: Verbosity::Normal, file, size: 1 << 20 }
    }

    fn silent(options: &LogOptions, syslog: &Path) -> Sink {
        Sink { stderr: false, ..Sink::open("pasta", options, syslog).unwrap() }
    }

    #[test]
    fn lines() {
        let mut line = Line::new();
        assert_eq!(line.fill(|line| write!(line, "a\nb\x1b[0m {}", 1)), b"a b [0m 1\n");
        let full = line.fill(|line| write!(line, "{}{}", "x".repeat(1000), "y".repeat(100)));
        assert_eq!((full.len(), &full[998..1002], full[1023]), (1024, &b"xxyy"[..], b'\n'));
        assert_eq!(line.fill(|_| Ok(())), b"\n");
    }

    #[test]
    fn the_systems_log() {
        let path = path("syslog");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut sink = silent(&options(None), &path);
        std::fs::remove_file(&path).unwrap();
        sink.write(Level::Warn, &format_args!("{} is wrong", "it"));
        sink.write(Level::Info, &format_args!("x"));
        let mut buffer = [0; 2048];
        let len = daemon.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"<28>pasta: it is wrong");
        let len = daemon.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"<30>pasta: x");

        // Nobody reads: lines are dropped, and none waits.
        for number in 0..10_000 {
            sink.write(Level::Info, &format_args!("{number}"));
        }
        let len = daemon.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"<30>pasta: 0");
        drop(daemon);
        sink.write(Level::Info, &format_args!("gone"));
    }

    #[test]
    fn a_file_instead() {
        let path = path("file");
        let mut sink = silent(&options(Some(path.clone())), Path::new("/nonexistent"));
        sink.write(Level::Error, &format_args!("wrong"));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (first, second) = text.split_once('\n').unwrap();
        assert_eq!(first, format!("pasta {}", env!("CARGO_PKG_VERSION")));
        let (time, message) = second.split_once(": ").unwrap();
        assert_eq!(message, "wrong\n");
        assert!(time.parse::<f64>().is_ok(), "{time}");
        assert!(sink.syslog.is_none());
    }

    #[test]
    fn without_any_destination() {
        let mut sink = silent(&options(None), Path::new("/nonexistent"));
        sink.write(Level::Error, &format_args!("wrong"));
        let error = Sink::open("pasta", &options(Some("/nonexistent/x".into())), Path::new("/"));
        let text = error.err().unwrap().to_string();
        assert!(text.starts_with("Couldn't open log file /nonexistent/x: "), "{text}");
    }
}
