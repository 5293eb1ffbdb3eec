//! What a start that fails takes away again: the socket and the PID file that it has made.
//!
//! They are made by whoever started us, in directories that may be closed to the user that we
//! become. So another process, the *keeper*, is forked in between. It does nothing but wait for the
//! outcome, and removes the files unless it is told that the start has succeeded: a start that is
//! killed has failed as well.

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use passt_sys::{process, signal};
use rustix::fs::{AtFlags, CWD, OFlags};
use rustix::process::{Pid, WaitOptions, waitpid};

/// What the keeper is told.
const SUCCESS: u8 = 0;
const FAILURE: u8 = 1;

/// Files of a start that is not over. They are removed with this value, unless it has
/// [succeeded](Self::keep).
#[derive(Debug, Default)]
pub struct Leftovers {
    made: Vec<Made>,
    keeper: Option<Keeper>,
}

/// A file that we have made.
#[derive(Debug)]
pub(super) struct Made {
    path: PathBuf,
    /// Keeps its number from being used again.
    file: File,
}

#[derive(Debug)]
struct Keeper {
    pid: Pid,
    outcome: PipeWriter,
}

impl Leftovers {
    /// Adds the file that this process has just made at `path`; if it can't be added, it is removed
    /// now.
    pub fn add(&mut self, path: &Path) -> io::Result<()> {
        match Made::new(path) {
            Ok(made) => {
                self.made.push(made);
                Ok(())
            }
            Err(error) => {
                // The first error is the one to tell.
                let _ = fs::remove_file(path);
                Err(error)
            }
        }
    }

    /// Leaves the files to a process that stays who we are now. To be called once, before anything
    /// that can take long; the process must have a single thread.
    pub fn entrust(&mut self) -> io::Result<()> {
        if self.made.is_empty() {
            return Ok(());
        }
        let (reader, outcome) = io::pipe()?;
        let Some(pid) = process::fork()? else {
            drop(outcome);
            process::exit_now(keep(reader, &self.made));
        };
        self.made.clear();
        self.keeper = Some(Keeper { pid, outcome });
        Ok(())
    }

    /// The start has succeeded: the files stay.
    pub fn keep(&mut self) {
        self.made.clear();
        self.decide(SUCCESS);
    }

    /// Leaves the decision to the other process after a fork.
    pub fn leave(&mut self) {
        self.made.clear();
        self.keeper = None;
    }

    /// Tells the keeper, if there is one, and waits for its end.
    fn decide(&mut self, outcome: u8) {
        let Some(mut keeper) = self.keeper.take() else { return };
        // It may have been told, or killed. The end of the pipe alone would not do: a command that
        // waits to be let go has a copy.
        let _ = keeper.outcome.write_all(&[outcome]);
        // It is certain to end, and nothing depends on how.
        let _ = waitpid(Some(keeper.pid), WaitOptions::empty());
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        remove(&self.made);
        self.decide(FAILURE);
    }
}

impl Made {
    /// The file that this process has just made at `path`.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let flags = (OFlags::PATH | OFlags::NOFOLLOW).bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        // Whoever removes it may be elsewhere by then.
        Ok(Self { path: std::path::absolute(path)?, file })
    }

    /// Removes it if it is still where it was made.
    pub(super) fn remove(&self) {
        let number = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let ours = rustix::fs::statat(&self.file, "", AtFlags::EMPTY_PATH).map(number);
        let there = rustix::fs::statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW).map(number);
        if ours.is_ok() && ours == there {
            // Nobody is left who could do more about it.
            let _ = rustix::fs::unlinkat(CWD, &self.path, AtFlags::empty());
        }
    }
}

impl AsFd for Made {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The keeper's life; its exit status.
fn keep(mut outcome: PipeReader, made: &[Made]) -> u8 {
    // What is sent to the whole process group has the others end, and this one see to it.
    let _ = signal::block_all();
    let mut told = [FAILURE];
    // An end without a word is a failure.
    let _ = outcome.read(&mut told);
    if told != [SUCCESS] {
        remove(made);
    }
    0
}

/// Removes those that are still where they were made.
fn remove(made: &[Made]) {
    made.iter().for_each(Made::remove);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("leftovers-{name}-{}", std::process::id()));
        fs::write(&path, "ours").unwrap();
        path
    }

    #[test]
    fn what_failed_leaves_nothing() {
        let path = file("failed");
        let mut leftovers = Leftovers::default();
        leftovers.add(&path).unwrap();
        drop(leftovers);
        assert!(!path.exists());
    }

    #[test]
    fn what_succeeded_stays() {
        let path = file("succeeded");
        let mut leftovers = Leftovers::default();
        leftovers.add(&path).unwrap();
        leftovers.keep();
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_others_made_in_its_place_stays() {
        let (path, other) = (file("replaced"), file("other"));
        let mut leftovers = Leftovers::default();
        leftovers.add(&path).unwrap();
        fs::rename(other, &path).unwrap();
        drop(leftovers);
        fs::remove_file(path).unwrap();
    }
}
