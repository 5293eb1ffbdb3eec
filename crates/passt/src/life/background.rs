//! Going to the background, and the file that tells under which PID.

use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::files;
use passt_sys::{fd, process};
use rustix::process::{Pid, Signal, getpid, kill_process, setsid};

use super::leftovers::Leftovers;

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

/// An open PID file, still as it was.
#[derive(Debug)]
pub struct PidFile {
    file: File,
    path: PathBuf,
}

impl PidFile {
    /// Opens the file, or creates it for its owner alone; then it is removed if the start fails.
    pub fn open(path: &Path, leftovers: &mut Leftovers) -> Result<Self, Error> {
        let file = match files::create_new(path) {
            Ok(file) => leftovers.add(path).map(|()| file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => files::existing(path),
            Err(error) => Err(error),
        };
        match file {
            Ok(file) => Ok(Self { file, path: path.into() }),
            Err(source) => Err(Error::PidFile { path: path.into(), source }),
        }
    }

    /// Replaces the content.
    fn write(mut self, pid: Pid) -> Result<(), Error> {
        let line = format!("{pid}\n");
        let len = line.len() as u64;
        // Cut only where more was there: the user that we are by now may be one who can write, but
        // not cut (AppArmor's `owner`).
        let longer = self.file.metadata().is_ok_and(|old| old.is_file() && old.len() > len);
        let written = self.file.write_all(line.as_bytes());
        match written.and_then(|()| if longer { self.file.set_len(len) } else { Ok(()) }) {
            Ok(()) => self.keep(),
            Err(source) => return Err(Error::PidFile { path: self.path, source }),
        }
        Ok(())
    }

    /// Leaves a FIFO open as long as the process lives: what nobody has read is gone once it is
    /// closed everywhere.
    fn keep(self) {
        if self.file.metadata().is_ok_and(|file| file.file_type().is_fifo()) {
            std::mem::forget(self.file);
        }
    }
}

/// A process that is about to run, in the foreground or in the background.
#[derive(Debug)]
#[must_use = "somebody waits for it"]
pub enum Launch {
    /// Where it was started, with a PID file to be written.
    Foreground(Option<PidFile>),
    /// Out of sight.
    Background(Detached),
}

impl Launch {
    /// Everything is in place: tells whoever waits, and the files of `leftovers` stay.
    pub fn ready(self, leftovers: &mut Leftovers) -> Result<(), Error> {
        match self {
            Self::Foreground(pid_file) => {
                pid_file.map_or(Ok(()), |file| file.write(getpid()))?;
                leftovers.keep();
            }
            // The parent sees to them.
            Self::Background(detached) => {
                detached.ready()?;
                crate::log::background();
            }
        }
        Ok(())
    }
}

/// A process on its way to the background, whose parent still waits.
#[derive(Debug)]
pub struct Detached {
    parent: PipeWriter,
    /// Opened in time: an isolated process finds no `/dev/null`.
    null: OwnedFd,
}

/// Forks and goes on in the child, in a session of its own. The parent
/// waits until the child is [ready](Launch::ready) and ends with status 0, or 1 if
/// the child ended before, and nothing is left of `leftovers`.
///
/// The process must have a single thread.
pub fn detach(pid_file: Option<PidFile>, leftovers: &mut Leftovers) -> Result<Detached, Error> {
    // Before the fork: it is the parent that reports.
    let null = fd::null()?;
    let (mut reader, writer) = io::pipe()?;
    let Some(child) = process::fork()? else {
        drop(reader);
        leftovers.leave();
        if let Some(file) = pid_file {
            file.keep();
        }
        setsid().map_err(io::Error::from)?;
        return Ok(Detached { parent: writer, null });
    };
    drop(writer);
    if let Some(Err(error)) = pid_file.map(|file| file.write(child)) {
        // It may have ended by itself.
        let _ = kill_process(child, Signal::KILL);
        return Err(error);
    }
    if reader.read(&mut [0])? == 0 {
        // It has told why.
        drop(std::mem::take(leftovers));
        process::exit_now(1);
    }
    leftovers.keep();
    process::exit_now(0);
}

impl Detached {
    /// Everything is in place: gives up the terminal, then lets the parent end.
    fn ready(mut self) -> Result<(), Error> {
        fd::null_standard(&self.null)?;
        self.parent.write_all(&[0])?;
        Ok(())
    }
}
