//! Bars as SVG, by hand: a plotting library would be larger than what it draws.

use std::fmt::Write as _;

use super::contender::Role;
use super::report::{Row, short};

const LABELS: f64 = 210.0;
const BARS: f64 = 460.0;
const FIGURES: f64 = 130.0;
const THICKNESS: f64 = 16.0;
const GAP: f64 = 10.0;
const TOP: f64 = 50.0;

/// A group of bars for each scenario: medians, with a line from the least to
/// the most.
pub(crate) fn bars(rows: &[&Row]) -> String {
    let values = rows.iter().flat_map(|row| &row.cells).filter_map(|cell| cell.spread(|s| Some(s.value)));
    let scale = BARS / values.map(|value| value.max).fold(f64::MIN_POSITIVE, f64::max);
    let mut body = String::new();
    let mut y = TOP;
    for row in rows {
        draw(&mut body, LABELS - 8.0, y + 12.0, "end", &row.scenario);
        for cell in &row.cells {
            bar(&mut body, y, scale, cell);
            y += THICKNESS;
        }
        y += GAP;
    }
    let title = rows.first().map_or_else(String::new, |row| format!("{}, {}", row.group, row.unit));
    draw(&mut body, LABELS, 20.0, "start", &title);
    legend(&mut body, rows);
    let width = LABELS + BARS + FIGURES;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {y}\" width=\"{width}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn bar(body: &mut String, y: f64, scale: f64, cell: &super::report::Cell) {
    let Some(value) = cell.spread(|sample| Some(sample.value)) else {
        return draw(body, LABELS + 4.0, y + 12.0, "start", &format!("{}: failed", cell.name));
    };
    let (height, middle) = (THICKNESS - 3.0, y + 6.5);
    let [width, min, max] = [value.median, value.min, value.max].map(|value| value * scale);
    let (from, to, label) = (LABELS + min, LABELS + max, LABELS + max + 6.0);
    writeln!(
        body,
        "<rect x=\"{LABELS}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{}\"/>\n\
         <path d=\"M{from:.1} {middle}H{to:.1}\" stroke=\"black\"/>",
        colour(cell.role)
    )
    .expect("a string takes all");
    draw(body, label, y + 11.0, "start", &format!("{} {}", short(value.median), cell.name));
}

fn legend(body: &mut String, rows: &[&Row]) {
    let cells = rows.first().map_or(&[][..], |row| &row.cells);
    let mut x = LABELS;
    for cell in cells {
        writeln!(
            body,
            "<rect x=\"{x}\" y=\"28\" width=\"10\" height=\"10\" fill=\"{}\"/>",
            colour(cell.role)
        )
        .expect("a string takes all");
        draw(body, x + 14.0, 37.0, "start", &cell.name);
        x += 100.0;
    }
}

fn draw(body: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(body, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>")
        .expect("a string takes all");
}

/// One for each role, told apart by the colour-blind too.
fn colour(role: Role) -> &'static str {
    match role {
        Role::Ours => "#0072b2",
        Role::C => "#e69f00",
        Role::Installed => "#f0e442",
        Role::Slirp => "#cc79a7",
        Role::Replaced => "#56b4e9",
        Role::Bare => "#009e73",
        Role::Veth | Role::Loopback => "#bbbbbb",
    }
}
