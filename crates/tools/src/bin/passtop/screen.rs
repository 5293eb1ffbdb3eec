//! The terminal: set up, drawn after each look and each key, and left as it was.

#![expect(clippy::disallowed_methods, reason = "who looks lives in real time")]

use std::io::IsTerminal as _;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use passt_sys::signal::SignalFd;
use ratatui::crossterm::event::KeyCode;
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use crate::keys::{INTERRUPT, Keys};
use crate::looks::{Looks, wait};
use crate::sample::{Monitor, Sample};
use crate::view::View;

/// How long the rest of a key may take.
const REST: Duration = Duration::from_millis(50);

/// What has happened.
enum Happened {
    /// Perhaps there is something new to see.
    Something,
    /// Keys were pressed.
    Keys(Vec<KeyCode>),
    /// The terminal is gone, or a signal ends the program.
    End,
}

/// Shows everything until the user has seen enough, or the instance ends.
pub(crate) fn run(monitor: Monitor, path: &Path, interval: Duration) -> anyhow::Result<()> {
    ensure!(std::io::stdout().is_terminal(), "standard output is not a terminal; --once shows all once");
    // Whoever ends it is to find the terminal as it was. All threads have these signals blocked.
    let signals = SignalFd::new(&[Signal::INT, Signal::TERM, Signal::HUP, Signal::WINCH])?;
    let looks = Looks::at(monitor)?;
    let keys = Keys::new()?;
    // What ratatui does with a terminal at its end panics if that is gone.
    let mut terminal = ManuallyDrop::new(ratatui::try_init()?);
    let outcome = follow(&mut terminal, path, Sources { keys, signals, looks }, interval);
    let _ = terminal.show_cursor();
    let _ = ratatui::try_restore();
    outcome
}

/// Where something may come from.
struct Sources {
    keys: Keys,
    signals: SignalFd,
    looks: Looks,
}

fn follow(
    terminal: &mut ratatui::DefaultTerminal,
    path: &Path,
    mut sources: Sources,
    interval: Duration,
) -> anyhow::Result<()> {
    let mut view = View::default();
    let mut sample: Option<Sample> = None;
    let mut due = Instant::now();
    loop {
        if sources.looks.limit().is_none() && due <= Instant::now() {
            sources.looks.begin()?;
            due = Instant::now() + interval;
        }
        terminal.draw(|frame| view.draw(frame, path, sample.as_ref()))?;
        match sources.next(due)? {
            Happened::End => return Ok(()),
            Happened::Keys(keys) => {
                if keys.into_iter().any(|key| key == INTERRUPT || view.key(key).is_break()) {
                    return Ok(());
                }
            }
            Happened::Something => {}
        }
        if let Some(latest) = sources.looks.ended()?
            && (!view.paused || sample.is_none())
        {
            sample = Some(latest);
        }
    }
}

impl Sources {
    /// Waits for what comes next: until a time at most, or while a look is going on until that has
    /// to end.
    fn next(&mut self, due: Instant) -> anyhow::Result<Happened> {
        let until = self.looks.limit().unwrap_or(due);
        let has_begun = self.keys.has_begun();
        let until = if has_begun { until.min(Instant::now() + REST) } else { until };
        let mut polled = [
            PollFd::new(&self.keys, PollFlags::IN),
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.looks, PollFlags::IN),
        ];
        wait(&mut polled, Some(until))?;
        let [keys, ..] = polled.map(|polled| polled.revents());
        if self.signals.next()?.is_some_and(|signal| signal != Signal::WINCH) {
            return Ok(Happened::End);
        }
        if keys.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            return Ok(Happened::End);
        }
        if keys.contains(PollFlags::IN) {
            return Ok(self.keys.read()?.map_or(Happened::End, Happened::Keys));
        }
        Ok(if has_begun { Happened::Keys(self.keys.rest()) } else { Happened::Something })
    }
}
