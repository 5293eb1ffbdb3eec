//! Whoever started us, as far as they gave us descriptors: one that is told when everything is in
//! force, and one whose end is ours.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use passt_sys::{fd, msg};
use rustix::pipe::PipeFlags;

use crate::cli;

/// What is written once everything is in force.
const READY: &[u8] = b"1";

/// Descriptors of whoever started us.
#[derive(Debug, Default)]
pub struct Starter {
    banner: String,
    notice: String,
    ready: Option<OwnedFd>,
    exit: Option<OwnedFd>,
}

impl Starter {
    /// Says what is to be said first, and takes over the descriptors. To be called before anything is
    /// opened. A number that is no descriptor is nobody's, who is told nothing, and whose end has come.
    pub fn new(starter: &cli::Starter) -> Self {
        let take = |number: i32| {
            let taken = fd::take_inherited(number);
            taken.inspect_err(|error| log::warn!("Descriptor {number} can't be used: {error}")).ok()
        };
        let taken = Self {
            banner: starter.banner.clone(),
            notice: starter.notice.clone(),
            ready: starter.ready.and_then(take),
            exit: starter.exit.and_then(|number| take(number).or_else(ended)),
        };
        say(&starter.warnings);
        taken
    }

    /// There is somebody to serve: says so.
    pub fn announce(&mut self) {
        say(&std::mem::take(&mut self.banner));
        // As for standard output.
        let _ = io::stderr().write_all(std::mem::take(&mut self.notice).as_bytes());
    }

    /// Everything is in force.
    pub fn tell(&mut self) {
        let Some(ready) = self.ready.take() else { return };
        loop {
            match msg::write_slice(ready.as_fd(), READY) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return log::warn!("Couldn't tell that the network is there: {error}"),
                Ok(_) => return,
            }
        }
    }

    /// The descriptor whose end is ours.
    pub fn exit(&self) -> Option<&OwnedFd> {
        self.exit.as_ref()
    }
}

/// A descriptor whose end has come.
fn ended() -> Option<OwnedFd> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).ok().map(|(reader, _)| reader)
}

/// Says something on standard output, where nobody may read it.
fn say(text: &str) {
    let mut stdout = io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
