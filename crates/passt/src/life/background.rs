//! Going to the background, and the file that tells under which PID.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use passt_sys::{fd, process};
use rustix::process::{Pid, Signal, getpid, kill_process, setsid};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The PID file.
    #[error("PID file {}", path.display())]
    PidFile {
        /// Where it is.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The way to the background.
    #[error("Couldn't go to the background")]
    Detach(#[from] io::Error),
}

/// An open PID file, still empty.
#[derive(Debug)]
pub struct PidFile {
    file: File,
    path: PathBuf,
}

impl PidFile {
    /// Creates or empties the file, for its owner alone.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        match file {
            Ok(file) => Ok(Self { file, path: path.into() }),
            Err(source) => Err(Error::PidFile { path: path.into(), source }),
        }
    }

    fn write(mut self, pid: Pid) -> Result<(), Error> {
        let line = format!("{pid}\n");
        self.file.write_all(line.as_bytes()).map_err(|source| Error::PidFile { path: self.path, source })
    }
}

/// Stays in the foreground: writes our own PID.
pub fn stay(pid_file: Option<PidFile>) -> Result<(), Error> {
    pid_file.map_or(Ok(()), |file| file.write(getpid()))
}

/// A process on its way to the background, whose parent still waits.
#[derive(Debug)]
#[must_use = "the parent waits for it"]
pub struct Detached {
    parent: PipeWriter,
    /// Opened in time: an isolated process finds no `/dev/null`.
    null: OwnedFd,
}

/// Forks and goes on in the child, in a session of its own. The parent
/// waits until the child is [ready](Detached::ready) and ends with status 0, or 1 if
/// the child ended before.
///
/// The process must have a single thread.
pub fn detach(pid_file: Option<PidFile>) -> Result<Detached, Error> {
    let (mut reader, writer) = io::pipe()?;
    let Some(child) = process::fork()? else {
        drop(reader);
        setsid().map_err(io::Error::from)?;
        return Ok(Detached { parent: writer, null: fd::null()? });
    };
    drop(writer);
    if let Some(Err(error)) = pid_file.map(|file| file.write(child)) {
        // It may have ended by itself.
        let _ = kill_process(child, Signal::KILL);
        return Err(error);
    }
    let ready = matches!(reader.read(&mut [0]), Ok(1));
    process::exit_now(u8::from(!ready));
}

impl Detached {
    /// Everything is in place: gives up the terminal, then lets the parent end.
    pub fn ready(mut self) -> Result<(), Error> {
        fd::null_standard(&self.null)?;
        self.parent.write_all(&[0])?;
        Ok(())
    }
}
