//! Everything once, for scripts: text or JSON.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context as _;
use passt_tools::visible::json;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use crate::arguments::Arguments;
use crate::looks::Looks;
use crate::sample::Monitor;
use crate::view::{Page, View};

/// How large the text is.
const WIDTH: u16 = 80;
const HEIGHT: u16 = 40;
/// Between two looks, unless that was said.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks twice, for rates.
pub(crate) fn run(monitor: Monitor, path: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    let mut looks = Looks::at(monitor)?;
    looks.look()?;
    sleep(arguments.interval.unwrap_or(INTERVAL));
    let sample = looks.look()?;
    let text = if arguments.json {
        json(&serde_json::to_string(&sample)?) + "\n"
    } else {
        let mut text = String::new();
        for page in Page::ALL {
            let view = View::of(page);
            let mut terminal = Terminal::new(TestBackend::new(WIDTH, HEIGHT))?;
            terminal.draw(|frame| view.draw(frame, path, Some(&sample)))?;
            text.push_str(&lines(terminal.backend()));
        }
        text
    };
    passt_tools::print(&text).map(drop).context("Couldn't write")
}

/// What is on a screen, without blanks at the ends of lines, and without empty ones.
pub(crate) fn lines(screen: &TestBackend) -> String {
    let buffer = screen.buffer();
    let area = buffer.area;
    let mut text = String::new();
    for y in area.top()..area.bottom() {
        let line: String = (area.left()..area.right())
            .filter_map(|x| buffer.cell((x, y)).map(|cell| cell.symbol().to_owned()))
            .collect();
        let line = line.trim_end();
        if !line.is_empty() {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}
