//! Where the lines of the `log` crate go: standard error, the system's log, a file.
//!
//! Until the process goes to the background a line appears on standard error, for whoever started
//! us, and also in the log file or, without one, in the system's log. Everything is opened by
//! [`init`], since nothing can be later; a line is put together in a buffer of fixed size, and a
//! destination that doesn't take it at once does without, rather than keep the network waiting. It
//! is told how many lines are missing when it takes some again.
//!
//! What others can cause again and again is limited once the process runs (`limit`).
//!
//! Left out: a system's log that is restarted isn't found again. Its lines carry no time, which
//! the daemon adds, and no PID, which it learns from the socket: ours is from another namespace.

mod file;
mod limit;

use std::fmt::{self, Write as _};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use ::log::{Level, LevelFilter, Log, Metadata, Record};
use arrayvec::ArrayVec;

use passt_engine::clock;
use passt_proto::time::Instant;
use passt_sys::msg;
use passt_sys::plain::Plain;
use passt_sys::seccomp::Call;

use crate::cli::{self, LogOptions, Verbosity};
use crate::files;
use crate::outlet::{self, Outlet};
use file::LogFile;
use limit::LogLimits;

/// Socket of the system's log.
const SYSLOG: &str = "/dev/log";
/// Facility of daemons (RFC 3164, section 4.1.1).
const LOG_DAEMON: u8 = 3;
/// Longest line; what is longer is cut. RFC 3164, section 4.1, allows packets of this size.
const MAX_LINE: usize = 1024;

/// Warnings that are kept for whoever wants to hear of them, until they are fetched.
const KEPT_LINES: usize = 8;

/// System calls for a line.
pub const CALLS: &[Call] = outlet::CALLS;

/// System calls for a line in a file of limited size.
pub const FILE_CALLS: &[Call] = file::CALLS;

static LOGGER: Logger = Logger(Mutex::new(None));

/// When there is something to [account for](account), in nanoseconds of the clock; zero if there is
/// nothing.
static DUE: AtomicU64 = AtomicU64::new(0);

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
        sink.destinations.retain(|destination| !matches!(destination.to, To::Stderr(..)));
    }
}

/// Limits lines from here on: others than whoever started us may cause them.
pub fn limit() {
    if let Some(sink) = LOGGER.lock().as_mut() {
        sink.limits = Some(LogLimits::new());
    }
}

/// When [`account`] has something to tell.
#[inline]
pub fn due() -> Option<Instant> {
    Some(DUE.load(Ordering::Relaxed)).filter(|&due| due != 0).map(Instant::from_nanos)
}

/// Tells how many lines the limit left out whose time is over.
#[inline]
pub fn account(now: Instant) {
    if due().is_some_and(|due| due <= now) {
        account_overdue(now);
    }
}

#[cold]
fn account_overdue(now: Instant) {
    if let Some(sink) = LOGGER.lock().as_mut() {
        sink.account(now);
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

/// Has warnings and errors be kept for [`overheard`] from now on, or not any more.
pub fn overhear(on: bool) {
    LISTENS.store(on, Ordering::Relaxed);
    if !on {
        OVERHEARD.lock().unwrap_or_else(PoisonError::into_inner).count = 0;
        HAS_OVERHEARD.store(false, Ordering::Relaxed);
    }
}

/// Whether [`overheard`] has a line.
#[inline]
pub fn has_overheard() -> bool {
    HAS_OVERHEARD.load(Ordering::Relaxed)
}

/// The next line that was kept. Where there are many at once, later ones are not.
pub fn overheard() -> Option<String> {
    let mut kept = OVERHEARD.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.count == 0 {
        return None;
    }
    let text = kept.lines[0].text().to_owned();
    kept.lines.rotate_left(1);
    kept.count -= 1;
    HAS_OVERHEARD.store(kept.count > 0, Ordering::Relaxed);
    Some(text)
}

static LISTENS: AtomicBool = AtomicBool::new(false);
static HAS_OVERHEARD: AtomicBool = AtomicBool::new(false);
static OVERHEARD: Mutex<Overheard> =
    Mutex::new(Overheard { lines: [const { Line::new() }; KEPT_LINES], count: 0 });

/// Lines that somebody wants to hear of.
struct Overheard {
    lines: [Line; KEPT_LINES],
    count: usize,
}

fn keep(message: &fmt::Arguments<'_>) {
    let mut kept = OVERHEARD.lock().unwrap_or_else(PoisonError::into_inner);
    let count = kept.count;
    if let Some(line) = kept.lines.get_mut(count) {
        line.fill(|line| write!(line, "{}", Plain(message)));
        kept.count += 1;
        HAS_OVERHEARD.store(true, Ordering::Relaxed);
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
            sink.log(record);
        }
    }

    fn flush(&self) {}
}

/// The open destinations.
struct Sink {
    name: &'static str,
    start: Instant,
    destinations: ArrayVec<Destination, 2>,
    limits: Option<LogLimits>,
}

/// One of them.
struct Destination {
    to: To,
    /// Lines that it didn't take since the last that it took.
    missing: u64,
}

enum To {
    /// Standard error; lines begin with the time if that is asked for.
    Stderr(Option<Outlet>, Timed),
    File(LogFile),
    /// A log file that is none: a FIFO or a device.
    Stream(Outlet),
    System(UnixDatagram),
}

type Timed = bool;

impl Sink {
    fn open(name: &'static str, options: &LogOptions, syslog: &Path) -> Result<Self, LogError> {
        let mut destinations = ArrayVec::new();
        let stderr = Outlet::standard(rustix::stdio::stderr()).ok();
        destinations.push(To::Stderr(stderr, options.verbosity >= Verbosity::Debug).into());
        if let Some(path) = &options.file {
            let header = format!("{name} {}", crate::VERSION);
            let file = open(path, options.size, header);
            destinations.push(file.map_err(|error| LogError::File { path: path.clone(), error })?.into());
        } else if let Ok(socket) = connect(syslog) {
            destinations.push(To::System(socket).into());
        }
        Ok(Self { name, start: clock(), destinations, limits: None })
    }

    /// Writes a line, unless there were too many like it.
    fn log(&mut self, record: &Record<'_>) {
        if self.limits.is_some() {
            let now = clock();
            self.account(now);
            let limits = self.limits.as_mut();
            let passes = limits.is_none_or(|limits| limits.pass(record, now));
            self.note_due();
            if !passes {
                return;
            }
        }
        self.write(record.level(), record.args());
    }

    /// Writes how many lines were left out whose time is over.
    fn account(&mut self, now: Instant) {
        while let Some((level, last, count)) = self.limits.as_mut().and_then(|limits| limits.due(now)) {
            self.write(level, &format_args!("{} (one of {count} like it that were not logged)", last.text()));
        }
        self.note_due();
    }

    fn note_due(&self) {
        let due = self.limits.as_ref().and_then(LogLimits::next);
        DUE.store(due.map_or(0, Instant::as_nanos), Ordering::Relaxed);
    }

    /// Writes one line to every destination.
    fn write(&mut self, level: Level, message: &fmt::Arguments<'_>) {
        if level <= Level::Warn && LISTENS.load(Ordering::Relaxed) {
            keep(message);
        }
        for destination in &mut self.destinations {
            destination.write(self.name, self.start, level, message);
        }
    }
}

impl Destination {
    /// Writes a line, after how many are missing before it. There is nobody to tell if that fails.
    fn write(&mut self, name: &str, start: Instant, level: Level, message: &fmt::Arguments<'_>) {
        let missing = self.missing;
        let mut put = |level, message: &fmt::Arguments<'_>| self.to.put(name, start, level, message).is_ok();
        let told = missing == 0 || put(Level::Warn, &format_args!("{missing} lines are missing here"));
        let taken = told && put(level, message);
        self.missing = if told { 0 } else { missing } + u64::from(!taken);
    }
}

impl From<To> for Destination {
    fn from(to: To) -> Self {
        Self { to, missing: 0 }
    }
}

impl To {
    fn put(
        &mut self,
        name: &str,
        start: Instant,
        level: Level,
        message: &fmt::Arguments<'_>,
    ) -> io::Result<()> {
        let mut line = Line::new();
        let text = line.fill(|line| {
            match self {
                Self::Stderr(_, false) => {}
                Self::Stderr(_, true) | Self::File(_) | Self::Stream(_) => stamp(line, start)?,
                Self::System(_) => write!(line, "<{}>{name}: ", LOG_DAEMON << 3 | severity(level))?,
            }
            write!(line, "{}", Plain(message))
        });
        match self {
            Self::Stderr(None, _) => Err(io::ErrorKind::NotFound.into()),
            Self::Stderr(Some(outlet), _) | Self::Stream(outlet) => outlet.write_line(text),
            Self::File(file) => file.append(text),
            Self::System(socket) => {
                msg::send_slice(socket.as_fd(), text.strip_suffix(b"\n").unwrap_or(text)).map(drop)
            }
        }
    }
}

/// Opens the log file, and begins it with `header`.
fn open(path: &Path, limit: u64, header: String) -> io::Result<To> {
    let outlet = Outlet::new(files::create(path)?)?;
    if outlet.is_file() {
        return LogFile::new(outlet.into_file(), limit, header).map(To::File);
    }
    // It may be full of what another process wrote there.
    let _ = outlet.write_line(format!("{header}\n").as_bytes());
    Ok(To::Stream(outlet))
}

/// Seconds since the start, to a tenth of a millisecond.
fn stamp(line: &mut Line, start: Instant) -> fmt::Result {
    let time = clock().since(start);
    write!(line, "{}.{:04}: ", time.as_secs(), time.subsec_micros() / 100)
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
#[derive(Clone, Debug)]
struct Line {
    bytes: [u8; MAX_LINE],
    len: usize,
}

impl Line {
    const fn new() -> Self {
        Self { bytes: [0; MAX_LINE], len: 0 }
    }

    /// What was put together last, without its end; as far as it is text, should it have been cut
    /// inside of a character.
    fn text(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        match str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                str::from_utf8(bytes.get(..error.valid_up_to()).unwrap_or_default()).unwrap_or_default()
            }
        }
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
    /// What is hidden, which a guest may have sent, becomes a blank: a line stays one, and is seen.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            let letter = if cli::is_hidden(letter) { ' ' } else { letter };
            let room = self.bytes.get_mut(self.len..MAX_LINE - 1).unwrap_or_default();
            let Some(place) = room.get_mut(..letter.len_utf8()) else { return Err(fmt::Error) };
            letter.encode_utf8(place);
            self.len += letter.len_utf8();
        }
        Ok(())
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
        let mut sink = Sink::open("pasta", options, syslog).unwrap();
        sink.destinations.retain(|destination| !matches!(destination.to, To::Stderr(..)));
        sink
    }

    #[test]
    fn lines() {
        let mut line = Line::new();
        assert_eq!(line.fill(|line| write!(line, "a\nb\x1b[0m {}", 1)), b"a b [0m 1\n");
        assert_eq!(line.fill(|line| write!(line, "ö\u{9b}m\u{202e}")), "ö m \n".as_bytes());
        // A letter that has no room as a whole is left out.
        let full = line.fill(|line| write!(line, "{}ö", "x".repeat(1022)));
        assert_eq!((full.len(), full[1022]), (1023, b'\n'));
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
        let mut read = 0;
        daemon.set_nonblocking(true).unwrap();
        while let Ok(len) = daemon.recv(&mut buffer) {
            assert_eq!(buffer[..len], *format!("<30>pasta: {read}").as_bytes());
            read += 1;
        }
        // It hears how many it did not.
        sink.write(Level::Info, &format_args!("x"));
        let len = daemon.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..len], *format!("<28>pasta: {} lines are missing here", 10_000 - read).as_bytes());
        drop(daemon);
        sink.write(Level::Info, &format_args!("gone"));
    }

    #[test]
    fn a_file_instead() {
        let path = path("file");
        let mut sink = silent(&options(Some(path.clone())), Path::new("/nonexistent"));
        let error = io::Error::from_raw_os_error(13);
        sink.write(Level::Error, &format_args!("wrong: {error}"));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (first, second) = text.split_once('\n').unwrap();
        assert_eq!(first, format!("pasta {}", crate::VERSION));
        let (time, message) = second.split_once(": ").unwrap();
        assert_eq!(message, "wrong: Permission denied\n");
        assert!(time.parse::<f64>().is_ok(), "{time}");
        assert_eq!(sink.destinations.len(), 1);
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
