//! Looks, in a thread of their own: keys and signals don't wait for a server that is slow.

#![expect(clippy::disallowed_methods, reason = "who looks lives in real time")]

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::sample::{Monitor, Sample};

/// How long a look may take as a whole, of several requests.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who looks. The descriptor becomes readable when a look has ended.
#[derive(Debug)]
pub(crate) struct Looks {
    begin: Sender<()>,
    ended: Receiver<anyhow::Result<Sample>>,
    woken: UnixStream,
    /// When the look that is going on has to end.
    limit: Option<Instant>,
}

impl Looks {
    /// Looks at an instance whenever that is [begun](Self::begin).
    pub(crate) fn at(monitor: Monitor) -> anyhow::Result<Self> {
        Self::by(monitor, Monitor::look)
    }

    fn by<T: Send + 'static>(
        mut of: T,
        look: impl Fn(&mut T) -> anyhow::Result<Sample> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (begin, wanted) = channel();
        let (tell, ended) = channel();
        let (woken, mut wake) = UnixStream::pair()?;
        let work = move || {
            while wanted.recv().is_ok() {
                let outcome = look(&mut of);
                // Whoever wanted it may have gone.
                if tell.send(outcome).is_err() || wake.write_all(&[0]).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new().name("looks".into()).spawn(work).context("Couldn't begin a thread")?;
        Ok(Self { begin, ended, woken, limit: None })
    }

    /// When the look that is going on has to end, if one is.
    pub(crate) fn limit(&self) -> Option<Instant> {
        self.limit
    }

    /// Begins to look.
    pub(crate) fn begin(&mut self) -> anyhow::Result<()> {
        self.begin.send(()).context("Couldn't look")?;
        self.limit = Some(Instant::now() + PATIENCE);
        Ok(())
    }

    /// What was seen, if a look has ended since it was begun. It is an error if that takes too long.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<Sample>> {
        match self.ended.try_recv() {
            Ok(outcome) => {
                self.limit = None;
                // One byte for each, which comes at once.
                self.woken.read_exact(&mut [0]).context("Couldn't look")?;
                outcome.map(Some)
            }
            Err(TryRecvError::Disconnected) => bail!("Couldn't look"),
            Err(TryRecvError::Empty) if self.limit.is_some_and(|limit| limit <= Instant::now()) => {
                Err(passt_tools::connect::late(PATIENCE).into())
            }
            Err(TryRecvError::Empty) => Ok(None),
        }
    }

    /// Looks, and waits for what is seen.
    pub(crate) fn look(&mut self) -> anyhow::Result<Sample> {
        self.begin()?;
        loop {
            if let Some(sample) = self.ended()? {
                return Ok(sample);
            }
            wait(&mut [PollFd::new(self, PollFlags::IN)], self.limit)?;
        }
    }
}

impl AsFd for Looks {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }
}

/// Waits for one of these, or until a time; whether there was one.
pub(crate) fn wait(polled: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<bool> {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(polled, left.as_ref()) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_lasts() {
        let (go, gone) = channel::<()>();
        let mut looks = Looks::by(gone, |gone| {
            let _ = gone.recv();
            bail!("seen")
        })
        .expect("a thread");
        looks.begin().expect("a look");
        assert!(looks.ended().expect("it lasts").is_none());
        looks.limit = Some(Instant::now());
        assert!(looks.ended().expect_err("too long").to_string().contains("none in 10 s"));
        looks.limit = Some(Instant::now() + PATIENCE);
        go.send(()).expect("it waits");
        assert!(wait(&mut [PollFd::new(&looks, PollFlags::IN)], looks.limit()).expect("woken"));
        assert_eq!(looks.ended().expect_err("an end").to_string(), "seen");
        assert_eq!(looks.limit(), None);
    }
}
