//! What came out, as a table, as JSON and as Markdown. Scenarios measured
//! before on the same machine with the same programs stay.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::contender::{Contender, Role};
use super::plot;
use super::scenario::{self, Kind};

/// Everything known about one machine.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    /// Hardware, kernel and programs by name.
    setting: BTreeMap<String, String>,
    pub(crate) rows: Vec<Row>,
}

/// One scenario with every contender.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) scenario: String,
    /// The kind of traffic.
    pub(crate) group: String,
    pub(crate) unit: String,
    pub(crate) cells: Vec<Cell>,
}

/// One contender's rounds.
#[derive(Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) rounds: Vec<Outcome>,
}

/// How one round ended.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// Data went through.
    Done(Sample),
    /// It did not, and why.
    Failed(String),
}

/// The figures of one round.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// In the row's unit.
    pub(crate) rate: f64,
    /// The translator's CPU seconds for a GB, or for a million transactions.
    pub(crate) cpu: Option<f64>,
    /// The largest share of segments that a kernel sent again, of guest, host and peer.
    pub(crate) resent: f64,
    /// The share of segments that came to the guest behind a gap.
    pub(crate) disordered: f64,
}

impl Outcome {
    /// One line for a person.
    pub(crate) fn text(&self, unit: &str) -> String {
        match self {
            Self::Failed(why) => why.clone(),
            Self::Done(sample) => {
                let cpu = sample.cpu.map(|cpu| format!(", CPU {}", short(cpu))).unwrap_or_default();
                let again = percent(sample.resent);
                format!("{} {unit}{cpu}, {again} sent again", short(sample.rate))
            }
        }
    }

    fn sample(&self) -> Option<&Sample> {
        if let Self::Done(sample) = self { Some(sample) } else { None }
    }
}

/// Median, least and most of something.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = f64::midpoint(*values.get(middle)?, values[(values.len() - 1) / 2]);
        Some(Self { median, min: *values.first()?, max: *values.last()? })
    }
}

impl Cell {
    /// Over the rounds that succeeded.
    pub(crate) fn spread(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(Outcome::sample).filter_map(figure))
    }

    /// The rate and how far it varied; what failed, and how often.
    fn text(&self) -> String {
        let rate = self.spread(|sample| Some(sample.rate));
        let mut text = rate.map_or_else(String::new, |rate| {
            format!("{} ({}–{})", short(rate.median), short(rate.min), short(rate.max))
        });
        let mut failures: BTreeMap<&str, usize> = BTreeMap::new();
        for outcome in &self.rounds {
            if let Outcome::Failed(why) = outcome {
                *failures.entry(why).or_default() += 1;
            }
        }
        for (why, count) in failures {
            let gap = if text.is_empty() { "" } else { "; " };
            write!(text, "{gap}{why} {count} of {}", self.rounds.len()).expect("a string takes all");
        }
        text.replace('|', "/")
    }
}

impl Row {
    /// Whether every round of this program succeeded.
    pub(crate) fn ours_complete(&self) -> bool {
        let mut ours = self.cells.iter().filter(|cell| cell.role == Role::Ours);
        ours.all(|cell| cell.rounds.iter().all(|outcome| outcome.sample().is_some()))
    }

    /// The median over rounds of this program's rate against the best of a role's.
    fn ratio(&self, role: Role) -> Option<f64> {
        let count = self.cells.iter().map(|cell| cell.rounds.len()).max()?;
        let best = |role, round: usize| {
            let cells = self.cells.iter().filter(|cell| cell.role == role);
            let rates = cells.filter_map(|cell| Some(cell.rounds.get(round)?.sample()?.rate));
            rates.max_by(f64::total_cmp)
        };
        let ratio = |round| Some(best(Role::Ours, round)? / best(role, round)?);
        Spread::of((0..count).filter_map(ratio)).map(|spread| spread.median)
    }

    fn words(&self, names: &[&str], text: impl Fn(&Cell) -> String) -> Vec<String> {
        let cell = |name: &&str| self.cells.iter().find(|cell| cell.name == *name);
        names.iter().map(|name| cell(name).map_or_else(|| "–".to_owned(), &text)).collect()
    }
}

impl Report {
    /// An empty report on this machine.
    pub(crate) fn new(root: &Path, contenders: &[Contender]) -> Self {
        let mut setting = machine();
        let commit = first_line(Command::new("git").current_dir(root).args(["rev-parse", "--short", "HEAD"]));
        for contender in contenders {
            let version = match (&contender.program, contender.role) {
                (_, Role::Ours) => commit.clone().unwrap_or_else(|| "unknown".to_owned()),
                (Some(program), _) => version(program),
                (None, _) => continue,
            };
            setting.insert(contender.name.clone(), version);
        }
        let iperf3 = first_line(Command::new("iperf3").arg("--version"));
        setting.insert("iperf3".to_owned(), iperf3.unwrap_or_default());
        Self { setting, rows: Vec::new() }
    }

    /// The figures and ratios, aligned.
    pub(crate) fn table(&self) -> String {
        let rows = self.grid();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
        let pad = |(word, width): (&String, &usize)| format!("{word:width$}");
        let line = |row: &Vec<String>| row.iter().zip(&widths).map(pad).collect::<Vec<_>>().join("  ");
        rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Adds the scenarios of an earlier report, if it can be compared.
    pub(crate) fn merge(&mut self, dir: &Path) {
        let Ok(text) = std::fs::read(dir.join("results.json")) else { return };
        let Ok(earlier) = serde_json::from_slice::<Self>(&text) else { return };
        if earlier.setting != self.setting {
            return;
        }
        let is_new = |row: &Row| self.rows.iter().all(|new| new.scenario != row.scenario);
        let kept: Vec<Row> = earlier.rows.into_iter().filter(is_new).collect();
        self.rows.extend(kept);
        self.rows.sort_by_key(|row| scenario::rank(&row.scenario));
    }

    /// Writes results.json, README.md and a plot for each kind of traffic.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        std::fs::write(dir.join("results.json"), serde_json::to_string_pretty(self)? + "\n")?;
        std::fs::write(dir.join("README.md"), self.markdown())?;
        for kind in Kind::ALL {
            // An earlier one may be of another machine.
            drop(std::fs::remove_file(dir.join(format!("{}.svg", kind.name()))));
        }
        for group in self.groups() {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.group == group).collect();
            std::fs::write(dir.join(format!("{group}.svg")), plot::bars(&rows))?;
        }
        Ok(())
    }

    fn markdown(&self) -> String {
        let mut text = INTRODUCTION.to_owned();
        for (name, value) in &self.setting {
            writeln!(text, "- {name}: {value}").expect("a string takes all");
        }
        text.push_str("\n## Throughput and transactions\n\n");
        text.push_str(&markdown_table(&self.grid()));
        text.push_str("\n## CPU seconds of the translator for each GB, or for each million transactions\n\n");
        text.push_str(&markdown_table(&self.figures(|sample| sample.cpu, short)));
        text.push_str("\n## Segments sent again, worst of guest, host and peer\n\n");
        text.push_str(&markdown_table(&self.figures(|sample| Some(sample.resent), percent)));
        for group in self.groups() {
            write!(text, "\n![{group}]({group}.svg)\n").expect("a string takes all");
        }
        text
    }

    fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = self.rows.iter().map(|row| &*row.group).collect();
        groups.dedup();
        groups
    }

    fn names(&self) -> Vec<&str> {
        self.rows.first().map_or_else(Vec::new, |row| row.cells.iter().map(|cell| &*cell.name).collect())
    }

    /// Rates and their ratios, with a heading.
    fn grid(&self) -> Vec<Vec<String>> {
        let names = self.names();
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let heading = [owned(&["Scenario", "Unit"]), owned(&names), owned(&["× C", "× veth"])].concat();
        let row = |row: &Row| {
            let ratio = |role| row.ratio(role).map_or_else(|| "–".to_owned(), short);
            let words = row.words(&names, Cell::text);
            let ratios = vec![ratio(Role::C), ratio(Role::Ceiling)];
            [owned(&[&row.scenario, &row.unit]), words, ratios].concat()
        };
        std::iter::once(heading).chain(self.rows.iter().map(row)).collect()
    }

    /// The medians of another figure, with a heading.
    fn figures(&self, figure: impl Fn(&Sample) -> Option<f64>, text: fn(f64) -> String) -> Vec<Vec<String>> {
        let names = self.names();
        let median =
            |cell: &Cell| cell.spread(&figure).map_or_else(|| "–".to_owned(), |spread| text(spread.median));
        let heading = std::iter::once("Scenario").chain(names.iter().copied()).map(str::to_owned).collect();
        let row = |row: &Row| [vec![row.scenario.clone()], row.words(&names, median)].concat();
        std::iter::once(heading).chain(self.rows.iter().map(row)).collect()
    }
}

const INTRODUCTION: &str = "\
# Measurements

Written by `cargo xtask bench`, as root: run it to repeat them here, or with a part of a scenario's
name to repeat some. Every figure in `results.json` is one round; below are medians, and the least
and the most in parentheses.

- *ours* is this program, *C* the `pasta` on PATH, *veth* the kernel alone: a veth between the
  guest and the server's namespace. All have the same namespaces, and rounds interleave. The ratios
  are medians over the rounds of this program against the best C build, and against the kernel alone.
- A scenario is named by traffic, the guest's MTU, the server's place (*far*: in a namespace behind
  the host's veth; *local*: on the host itself) and the congestion control of every namespace.
- *tcp-out* is one iperf3 stream from the guest, *tcp-in* one to it. *tcp-rr* exchanges a byte each
  way over one connection, *tcp-crr* over a new one each time, all parties on one CPU.
- CPU seconds are of the translator's own processes, in user space and in the kernel.
- Segments sent again are the kernels' own count. What a translator sends to the guest again is
  not in it; what was missing there shows in `results.json` as `disordered`.

";

fn markdown_table(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        writeln!(text, "| {} |", row.join(" | ")).expect("a string takes all");
        if number == 0 {
            writeln!(text, "|{}", "---|".repeat(row.len())).expect("a string takes all");
        }
    }
    text
}

fn machine() -> BTreeMap<String, String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let models: Vec<&str> = cpuinfo
        .lines()
        .filter(|line| line.starts_with("model name"))
        .filter_map(|line| Some(line.split_once(':')?.1.trim()))
        .collect();
    let memory = read("/proc/meminfo").lines().next().unwrap_or_default().replace("MemTotal:", "");
    BTreeMap::from([
        ("CPU".to_owned(), format!("{} × {}", models.len(), models.first().unwrap_or(&"?"))),
        ("kernel".to_owned(), read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("memory".to_owned(), memory.trim().to_owned()),
    ])
}

/// The distribution's version of a program's package, or what it says itself.
fn version(program: &Path) -> String {
    let owner = first_line(Command::new("dpkg-query").arg("-S").arg(program));
    let package = owner.as_deref().and_then(|line| line.split_once(": ")).map(|(package, _)| package);
    let packaged = package.and_then(|package| {
        first_line(Command::new("dpkg-query").args(["-W", "-f", "${Package} ${Version}"]).arg(package))
    });
    packaged
        .or_else(|| first_line(Command::new(program).arg("--version")))
        .unwrap_or_else(|| "unknown".to_owned())
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(str::to_owned).filter(|line| !line.is_empty())
}

/// Three digits that matter.
pub(crate) fn short(value: f64) -> String {
    match value {
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.3} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(name: &str, role: Role, rates: &[f64]) -> Cell {
        let outcome = |rate: &f64| match *rate {
            0.0 => Outcome::Failed("stalled".to_owned()),
            rate => Outcome::Done(Sample { rate, cpu: None, resent: 0.0, disordered: 0.0 }),
        };
        Cell { name: name.to_owned(), role, rounds: rates.iter().map(outcome).collect() }
    }

    #[test]
    fn ratios_are_medians_over_rounds_against_the_best() {
        let row = Row {
            scenario: "s".to_owned(),
            group: "g".to_owned(),
            unit: "u".to_owned(),
            cells: vec![
                cell("ours", Role::Ours, &[10.0, 20.0, 30.0]),
                cell("C", Role::C, &[1.0, 1.0, 0.0]),
                cell("new C", Role::C, &[0.5, 4.0, 2.0]),
            ],
        };
        assert_eq!(row.ratio(Role::C), Some(10.0));
        assert_eq!(row.ratio(Role::Ceiling), None);
        assert!(row.ours_complete());
        assert_eq!(row.cells[1].text(), "1.00 (1.00–1.00); stalled 1 of 3");
    }

    #[test]
    fn the_median_of_an_even_count_is_between() {
        let spread = Spread::of([4.0, 1.0, 2.0, 8.0].into_iter()).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (3.0, 1.0, 8.0));
    }
}
