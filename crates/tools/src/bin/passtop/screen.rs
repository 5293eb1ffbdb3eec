//! The terminal: set up, drawn once an interval and after each key, and left as it was.

#![expect(clippy::disallowed_methods, reason = "who looks lives in real time")]

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::ensure;
use passt_sys::signal::SignalFd;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use rustix::process::Signal;

use crate::sample::{Monitor, Sample};
use crate::view::View;

/// How often signals are looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// Shows everything until the user has seen enough, or the instance ends.
pub(crate) fn run(mut monitor: Monitor, interval: Duration) -> anyhow::Result<()> {
    ensure!(std::io::stdout().is_terminal(), "standard output is not a terminal; --once shows all once");
    // Whoever ends it is to find the terminal as it was.
    let signals = SignalFd::new(&[Signal::TERM, Signal::HUP])?;
    let mut terminal = ratatui::try_init()?;
    let mut view = View::default();
    let outcome = follow(&mut terminal, &mut monitor, &mut view, &signals, interval);
    ratatui::restore();
    outcome
}

fn follow(
    terminal: &mut ratatui::DefaultTerminal,
    monitor: &mut Monitor,
    view: &mut View,
    signals: &SignalFd,
    interval: Duration,
) -> anyhow::Result<()> {
    let mut sample: Option<Sample> = None;
    let mut due = Instant::now();
    'look: loop {
        let now = Instant::now();
        if now >= due {
            let latest = monitor.look()?;
            if !view.paused || sample.is_none() {
                sample = Some(latest);
            }
            due = now + interval;
        }
        terminal.draw(|frame| view.draw(frame, monitor, sample.as_ref()))?;
        loop {
            if signals.next()?.is_some() {
                return Ok(());
            }
            let left = due.saturating_duration_since(Instant::now());
            if event::poll(left.min(GLANCE))? {
                break;
            }
            if left <= GLANCE {
                continue 'look;
            }
        }
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            let is_interrupt =
                key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if is_interrupt || view.key(key.code).is_break() {
                return Ok(());
            }
        }
    }
}
