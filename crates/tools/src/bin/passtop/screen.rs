//! The terminal: set up, drawn after each look and each key, and left as it was.

#![expect(clippy::disallowed_methods, reason = "who looks lives in real time")]

use std::io::{self, BufWriter, IsTerminal as _};
use std::mem::ManuallyDrop;
use std::panic;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::KeyCode;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use rustix::event::{PollFd, PollFlags};

use crate::keys::{INTERRUPT, Keys};
use crate::looks::{Looks, wait};
use crate::output::{Output, Signals};
use crate::sample::{Monitor, Sample};
use crate::view::View;

/// How long the rest of a key may take.
const REST: Duration = Duration::from_millis(50);

/// Bytes that are written at once.
const BUFFER: usize = 1 << 16;

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
    ensure!(io::stdout().is_terminal(), "standard output is not a terminal; --once shows all once");
    // Whoever ends it is to find the terminal as it was. All threads have these signals blocked.
    let signals = Signals::new()?;
    let looks = Looks::at(monitor)?;
    let keys = Keys::new()?;
    let output = BufWriter::with_capacity(BUFFER, Output::new(signals.clone())?);
    enable_raw_mode()?;
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let _ = disable_raw_mode();
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        hook(info);
    }));
    // What ratatui does with a terminal at its end panics if that is gone.
    let terminal = Terminal::new(CrosstermBackend::new(output)).map(ManuallyDrop::new);
    let outcome = terminal.map_err(Into::into).and_then(|mut terminal| {
        execute!(terminal.backend_mut(), EnterAlternateScreen)?;
        let outcome =
            follow(&mut terminal, path, Sources { keys, signals: signals.clone(), looks }, interval);
        let _ = execute!(terminal.backend_mut(), LeaveAlternateScreen, Show);
        if signals.have_ended() { Ok(()) } else { outcome }
    });
    let _ = disable_raw_mode();
    outcome
}

/// Where something may come from.
struct Sources {
    keys: Keys,
    signals: Signals,
    looks: Looks,
}

/// The screen.
type Screen = Terminal<CrosstermBackend<BufWriter<Output>>>;

fn follow(
    terminal: &mut Screen,
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
        let rest = self.keys.begun().map(|begun| begun + REST);
        let until = rest.map_or(until, |rest| until.min(rest));
        let mut polled = [
            PollFd::new(&self.keys, PollFlags::IN),
            PollFd::new(self.signals.fd(), PollFlags::IN),
            PollFd::new(&self.looks, PollFlags::IN),
        ];
        wait(&mut polled, Some(until))?;
        let [keys, ..] = polled.map(|polled| polled.revents());
        self.signals.take()?;
        if self.signals.have_ended() {
            return Ok(Happened::End);
        }
        if keys.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            return Ok(Happened::End);
        }
        if keys.contains(PollFlags::IN) {
            return Ok(self.keys.read()?.map_or(Happened::End, Happened::Keys));
        }
        let is_all = rest.is_some_and(|rest| rest <= Instant::now());
        Ok(if is_all { Happened::Keys(self.keys.rest()) } else { Happened::Something })
    }
}
