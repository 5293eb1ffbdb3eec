//! What is on the screen: a head with rates, and one of four pages below.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::Path;

use passt::cli::is_hidden;
use passt_tools::visible::cut;
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::KeyCode;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Sparkline, Table};

use crate::sample::{FlowNow, Sample};

/// Characters of each name at the head at most.
const NAME: usize = 24;
/// Characters in one place of the screen at most: a letter, and marks on it.
const CELL: usize = 8;

/// A page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Page {
    /// Flows by rate.
    #[default]
    Flows,
    /// Forwarded ports.
    Ports,
    /// What is dropped.
    Drops,
    /// How full everything is, and the guest.
    State,
}

/// The order of flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    #[default]
    Rate,
    Bytes,
    Age,
    Rtt,
}

/// What the user wants to see.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) page: Page,
    order: Order,
    reverse: bool,
    pub(crate) paused: bool,
    filter: String,
    /// The filter is being typed.
    typing: bool,
    /// Lines that are above the first one, no more than there are.
    scroll: Cell<usize>,
}

impl Page {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Flows, Self::Ports, Self::Drops, Self::State];

    fn title(self) -> &'static str {
        match self {
            Self::Flows => "Flows",
            Self::Ports => "Ports",
            Self::Drops => "Drops",
            Self::State => "State",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Flows => Self::Ports,
            Self::Ports => Self::Drops,
            Self::Drops => Self::State,
            Self::State => Self::Flows,
        }
    }
}

impl Order {
    fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Bytes => "bytes",
            Self::Age => "age",
            Self::Rtt => "RTT",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Rate => Self::Bytes,
            Self::Bytes => Self::Age,
            Self::Age => Self::Rtt,
            Self::Rtt => Self::Rate,
        }
    }

    /// Larger is first.
    fn key(self, flow: &FlowNow) -> u64 {
        match self {
            Self::Rate => flow.rate_out.saturating_add(flow.rate_in),
            Self::Bytes => flow.flow.out_bytes.saturating_add(flow.flow.in_bytes),
            Self::Age => flow.flow.age_ms,
            Self::Rtt => flow.flow.tcp.map_or(0, |tcp| tcp.host_rtt_us.into()),
        }
    }
}

impl View {
    /// A page as it is at first.
    pub(crate) fn of(page: Page) -> Self {
        Self { page, ..Self::default() }
    }

    /// Takes a key; breaks if it is the last.
    pub(crate) fn key(&mut self, key: KeyCode) -> ControlFlow<()> {
        if self.typing {
            match key {
                KeyCode::Enter => self.typing = false,
                KeyCode::Esc => {
                    self.typing = false;
                    self.filter.clear();
                }
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Char(letter) => self.filter.push(letter),
                _ => {}
            }
            self.scroll.set(0);
            return ControlFlow::Continue(());
        }
        match key {
            KeyCode::Char('q') => return ControlFlow::Break(()),
            KeyCode::Tab => {
                self.page = self.page.next();
                self.scroll.set(0);
            }
            KeyCode::Char(digit @ '1'..='4') => {
                let place = digit.to_digit(10).and_then(|digit| usize::try_from(digit - 1).ok());
                self.page = place.and_then(|place| Page::ALL.get(place).copied()).unwrap_or_default();
                self.scroll.set(0);
            }
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Down => self.scroll.set(self.scroll.get().saturating_add(1)),
            KeyCode::Up => self.scroll.set(self.scroll.get().saturating_sub(1)),
            KeyCode::PageDown => self.scroll.set(self.scroll.get().saturating_add(10)),
            KeyCode::PageUp => self.scroll.set(self.scroll.get().saturating_sub(10)),
            KeyCode::Home => self.scroll.set(0),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    /// Draws everything.
    pub(crate) fn draw(&self, frame: &mut Frame<'_>, path: &Path, sample: Option<&Sample>) {
        let parts =
            [Constraint::Length(1), Constraint::Length(2), Constraint::Length(2), Constraint::Length(1)];
        let areas = Layout::vertical(parts.into_iter().chain([Constraint::Min(1), Constraint::Length(1)]));
        let [title, out, inward, tabs, body, foot] = areas.areas(frame.area());
        let Some(sample) = sample else {
            return frame.render_widget(Paragraph::new("Looking …"), title);
        };
        frame.render_widget(Paragraph::new(seen(&head(path, sample))), title);
        let rates = [
            (out, "out", sample.rate_out, sample.frames_out),
            (inward, "in ", sample.rate_in, sample.frames_in),
        ];
        for ((area, name, rate, frames), history) in rates.into_iter().zip(&sample.history) {
            let [text, line] = Layout::horizontal([Constraint::Length(32), Constraint::Min(1)]).areas(area);
            let told = format!("{name} {:>9}/s {:>7} frames", bytes(rate), count(frames));
            frame.render_widget(Paragraph::new(told), text);
            let room = usize::from(line.width);
            let data: Vec<u64> = history.iter().skip(history.len().saturating_sub(room)).copied().collect();
            frame.render_widget(Sparkline::default().data(&data), line);
        }
        frame.render_widget(Paragraph::new(self.tabs()), tabs);
        match self.page {
            Page::Flows => self.flows(frame, body, sample),
            Page::Ports => self.ports(frame, body, sample),
            Page::Drops => self.drops(frame, body, sample),
            Page::State => self.state(frame, body, sample),
        }
        frame.render_widget(Paragraph::new(self.foot(sample)), foot);
        conceal(frame.buffer_mut());
    }

    fn tabs(&self) -> Line<'static> {
        let tab = |(number, page): (usize, Page)| {
            let style =
                if page == self.page { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
            [Span::styled(format!(" {number} {} ", page.title()), style), Span::raw(" ")]
        };
        (1..).zip(Page::ALL).flat_map(tab).collect::<Vec<_>>().into()
    }

    fn foot(&self, sample: &Sample) -> String {
        if self.typing {
            return format!("filter: {}_", self.filter);
        }
        let filter = if self.filter.is_empty() { String::new() } else { format!("  filter {}", self.filter) };
        let paused = if self.paused { "  PAUSED" } else { "" };
        let order = format!("order {}{}", self.order.name(), if self.reverse { " reversed" } else { "" });
        format!("{} of {} flows  {order}{filter}{paused}  q quit", sample.flows.len(), sample.flow_count)
    }

    /// Whether a line is one that the user wants to see.
    fn passes(&self, line: &[String]) -> bool {
        let wanted = self.filter.to_lowercase();
        self.filter.is_empty() || line.iter().any(|cell| cell.to_lowercase().contains(&wanted))
    }

    fn table(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        names: &[&str],
        widths: &[Constraint],
        lines: impl Iterator<Item = Vec<String>>,
    ) {
        let room = usize::from(area.height.saturating_sub(1));
        let most = self.scroll.get().saturating_add(room);
        let lines: Vec<_> = lines.filter(|line| self.passes(line)).take(most).collect();
        self.scroll.set(self.scroll.get().min(lines.len().saturating_sub(room)));
        let shown = lines.get(self.scroll.get()..).unwrap_or_default();
        let shown = shown.iter().map(|line| Row::new(line.iter().map(|cell| seen(cell)).collect::<Vec<_>>()));
        let head = Row::new(names.iter().map(|name| (*name).to_owned()));
        let head = head.style(Style::new().add_modifier(Modifier::BOLD));
        frame.render_widget(Table::new(shown, widths.to_vec()).header(head).column_spacing(1), area);
    }

    fn flows(&self, frame: &mut Frame<'_>, area: Rect, sample: &Sample) {
        let mut flows: Vec<_> = sample.flows.iter().collect();
        flows.sort_by_key(|flow| std::cmp::Reverse(self.order.key(flow)));
        if self.reverse {
            flows.reverse();
        }
        let is_wide = area.width >= 120;
        // Of an address that the guest is known by the port is enough.
        let own = |end: &str| {
            let (addr, port) = end.rsplit_once(':').unwrap_or((end, ""));
            let addr = addr.trim_start_matches('[').trim_end_matches(']');
            let is_known = sample.guest.addresses.iter().any(|known| known == addr);
            if is_known { format!(":{port}") } else { end.to_owned() }
        };
        let line = |now: &FlowNow| {
            let flow = &now.flow;
            let tcp = flow.tcp.unwrap_or_default();
            let way = if flow.via == "link" { flow.protocol.clone() } else { format!("{}*", flow.protocol) };
            let mut cells = vec![way, own(&flow.guest), flow.remote.clone()];
            cells.extend([bytes(now.rate_out), bytes(now.rate_in)]);
            cells.push(flow.state.clone());
            cells.push(if flow.tcp.is_some() { micros(tcp.host_rtt_us) } else { "-".into() });
            cells.push((u64::from(flow.retransmitted) + u64::from(tcp.host_retransmitted)).to_string());
            if is_wide {
                cells.push(bytes(tcp.guest_window.into()));
                cells.push(tcp.host_cwnd.to_string());
                cells.push(flow.target.clone().unwrap_or_default());
            }
            cells
        };
        let mut names = vec!["", "guest", "remote", "out/s", "in/s", "state", "RTT", "again"];
        let mut widths = vec![
            Constraint::Length(4),
            Constraint::Length(15),
            Constraint::Fill(1),
            Constraint::Length(6),
            Constraint::Length(6),
            Constraint::Length(8),
            Constraint::Length(5),
            Constraint::Length(5),
        ];
        if is_wide {
            names.extend(["window", "cwnd", "socket's peer"]);
            widths.extend([Constraint::Length(7), Constraint::Length(5), Constraint::Fill(1)]);
        }
        self.table(frame, area, &names, &widths, flows.into_iter().map(line));
    }

    fn ports(&self, frame: &mut Frame<'_>, area: Rect, sample: &Sample) {
        let lines = sample.ports.iter().map(|port| {
            let rule = port.rule.rule.to_string();
            let users: Vec<_> = port.users.iter().take(3).cloned().collect();
            let side = port.rule.rule.side.pif_name().to_owned();
            vec![side, rule, port.rule.sockets.to_string(), port.users.len().to_string(), users.join(" ")]
        });
        let widths = [
            Constraint::Length(6),
            Constraint::Fill(3),
            Constraint::Length(7),
            Constraint::Length(5),
            Constraint::Fill(2),
        ];
        self.table(frame, area, &["side", "rule", "sockets", "flows", "who"], &widths, lines);
    }

    fn drops(&self, frame: &mut Frame<'_>, area: Rect, sample: &Sample) {
        let lines = sample.drops.iter().map(|drop| {
            vec![count(drop.count), format!("{:.1}", drop.rate), drop.reason.clone(), drop.meaning.clone()]
        });
        let widths =
            [Constraint::Length(8), Constraint::Length(8), Constraint::Length(18), Constraint::Fill(1)];
        self.table(frame, area, &["in all", "a second", "reason", "meaning"], &widths, lines);
    }

    fn state(&self, frame: &mut Frame<'_>, area: Rect, sample: &Sample) {
        let guest = &sample.guest;
        let mut lines = vec![
            vec!["guest".into(), guest.addresses.join(" ")],
            vec!["its MAC".into(), guest.macs.join(" ")],
            vec![
                "is told".into(),
                [&guest.ipv4, &guest.ipv6].into_iter().flatten().cloned().collect::<Vec<_>>().join(" "),
            ],
            vec!["our MAC".into(), guest.our_mac.clone()],
            vec!["MTU".into(), guest.mtu.to_string()],
            vec!["flows begun".into(), sample.counters.flows_begun.to_string()],
            vec!["sent again".into(), sample.counters.retransmitted.to_string()],
            vec![
                "listeners".into(),
                format!("{} ({} waiting)", sample.counters.listeners, sample.counters.listeners_waiting),
            ],
            vec!["memory".into(), bytes(sample.counters.memory)],
        ];
        lines.extend(
            sample
                .counters
                .levels
                .iter()
                .map(|(name, level)| vec![name.clone(), format!("{} of {}", level.used, level.of)]),
        );
        self.table(
            frame,
            area,
            &["what", "now"],
            &[Constraint::Length(18), Constraint::Fill(1)],
            lines.into_iter(),
        );
    }
}

fn head(path: &Path, sample: &Sample) -> String {
    let hello = &sample.hello;
    let seconds = hello.uptime_ms / 1000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let guest = if sample.guest.connected { "" } else { "  no guest" };
    // There has to be room for the path, whatever the server says that it is.
    let short = |text: &str| {
        let mut text = text.to_owned();
        cut(&mut text, NAME);
        text
    };
    let [program, version, link] = [&hello.program, &hello.version, &hello.link].map(|text| short(text));
    let up = format!("{hours}:{minutes:02}:{seconds:02}");
    format!("{program} {version}  {link}  up {up}  {}{guest}", path.display())
}

/// A number of bytes, in at most six characters.
#[expect(clippy::cast_precision_loss, reason = "a figure to be looked at")]
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["K", "M", "G", "T", "P"];
    if count < 1000 {
        return format!("{count}B");
    }
    let mut value = count as f64;
    let mut unit = "";
    for name in UNITS {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = name;
    }
    if value < 10.0 {
        format!("{value:.2}{unit}B")
    } else if value < 100.0 {
        format!("{value:.1}{unit}B")
    } else {
        format!("{value:.0}{unit}B")
    }
}

/// A number of things.
fn count(count: u64) -> String {
    bytes(count).trim_end_matches('B').to_owned()
}

/// A time in microseconds.
fn micros(time: u32) -> String {
    match time {
        0..1000 => format!("{time}µs"),
        1000..10_000 => format!("{:.1}ms", f64::from(time) / 1000.0),
        _ => format!("{}ms", time / 1000),
    }
}

/// A text of a server with a mark in the place of each hidden character: a widget leaves out some of
/// them, and begins another line at others.
fn seen(text: &str) -> String {
    text.replace(is_hidden, "?")
}

/// Puts a mark in the place of what is hidden, wherever it comes from, and cuts what has no end: any
/// number of marks may be on one letter.
fn conceal(screen: &mut Buffer) {
    for cell in &mut screen.content {
        if cell.symbol().contains(is_hidden) {
            cell.set_symbol("?");
        }
        let symbol = cell.symbol();
        if let Some((end, _)) = symbol.char_indices().nth(CELL) {
            let symbol = symbol.get(..end).unwrap_or_default().to_owned();
            cell.set_symbol(&symbol);
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::widgets::Widget as _;

    use super::*;

    #[test]
    fn figures_are_short() {
        for (value, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00KB"),
            (12_340, "12.3KB"),
            (123_456_789, "123MB"),
            (u64::MAX, "18447PB"),
        ] {
            assert_eq!(bytes(value), expected);
        }
        assert_eq!(
            (micros(50), micros(1500), micros(250_000)),
            ("50µs".into(), "1.5ms".into(), "250ms".into())
        );
        assert_eq!(count(1500), "1.50K");
    }

    #[test]
    fn what_is_hidden_is_marked() {
        let mut screen = Buffer::empty(Rect::new(0, 0, 12, 2));
        Paragraph::new("a\u{202e}b\u{200b}c\nö 80").render(screen.area, &mut screen);
        screen[(11, 1)].set_symbol("\u{2028}");
        conceal(&mut screen);
        let seen: String = screen.content.iter().map(ratatui::buffer::Cell::symbol).collect();
        assert!(!seen.contains(is_hidden) && seen.ends_with('?') && seen.contains("ö 80"), "{seen:?}");
    }

    #[test]
    fn what_a_widget_leaves_out_is_marked() {
        let view = View::default();
        let screen = ratatui::backend::TestBackend::new(30, 3);
        let mut terminal = ratatui::Terminal::new(screen).expect("a screen");
        let line = vec!["192.0.2.\u{1b}\u{7}\u{b}\u{c}\n9".to_owned(), format!("a{}b", "\u{301}".repeat(99))];
        let widths = [Constraint::Length(20), Constraint::Length(5)];
        let draw = |frame: &mut Frame<'_>| {
            view.table(frame, frame.area(), &["x", "y"], &widths, [line].into_iter());
            conceal(frame.buffer_mut());
        };
        terminal.draw(draw).expect("a table");
        let seen = crate::once::lines(terminal.backend());
        let line = format!("192.0.2.?????9       a{}b", "\u{301}".repeat(CELL - 1));
        assert_eq!(seen, format!("x                    y\n{line}\n"));
        assert_eq!(super::seen("1\n2"), "1?2");
    }

    #[test]
    fn keys() {
        let mut view = View::default();
        let mut press = |key| view.key(key);
        for key in ['/', 't', 'c', 'q'] {
            assert!(press(KeyCode::Char(key)).is_continue());
        }
        assert!(press(KeyCode::Enter).is_continue());
        assert!(press(KeyCode::Char('3')).is_continue());
        assert!(press(KeyCode::Char('q')).is_break());
        assert_eq!((view.filter.as_str(), view.page), ("tcq", Page::Drops));
        assert!(view.passes(&["x".into(), "aTCQb".into()]) && !view.passes(&["tc".into()]));
    }
}
