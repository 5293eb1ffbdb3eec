//! What came out, as a table, as JSON and as Markdown. Scenarios measured
//! before on the same machine with the same programs stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::contender::{Contender, Program, Role};
use super::plot;
use super::scenario;

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
    /// The chapter of the report.
    pub(crate) section: String,
    /// What is drawn together.
    pub(crate) group: String,
    pub(crate) unit: String,
    /// Whether the figure should be low.
    pub(crate) is_cost: bool,
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

/// The figures of one round; None where there is nothing to count.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// In the row's unit.
    pub(crate) value: f64,
    /// The translator's CPU seconds for a GB, or for a million transactions.
    pub(crate) cpu: Option<f64>,
    /// The translator's part of the CPU time that the whole machine spent.
    #[serde(default)]
    pub(crate) part: Option<f64>,
    /// The translator's system calls for a MB, for a transaction, or in a second.
    pub(crate) system_calls: Option<f64>,
    /// Several streams' rate, of that of one before or after them on the same link.
    #[serde(default)]
    pub(crate) of_one: Option<f64>,
    /// The share of the guest's segments that it sent again, or that came behind a gap or twice.
    pub(crate) resent: Option<f64>,
    /// The share of segments that the host or the peer sent again, whichever is larger.
    pub(crate) resent_beyond: Option<f64>,
    /// The share of datagrams that did not arrive.
    pub(crate) lost: Option<f64>,
}

impl Sample {
    /// A figure by itself.
    pub(crate) fn of(value: f64) -> Self {
        Self { value, ..Self::default() }
    }
}

/// A figure beside that of the row.
struct Figure {
    title: &'static str,
    of: fn(&Sample) -> Option<f64>,
    text: fn(f64) -> String,
}

const FIGURES: [Figure; 7] = [
    Figure {
        title: "CPU seconds of the translator for each GB, or each million transactions or datagrams",
        of: |sample| sample.cpu,
        text: short,
    },
    Figure {
        title: "The translator's part of all CPU time spent",
        of: |sample| sample.part,
        text: |part| format!("{:.0} %", part * 100.0),
    },
    Figure {
        title: "System calls of the translator for each MB, transaction or datagram; idle, in a second",
        of: |sample| sample.system_calls,
        text: short,
    },
    Figure { title: "Several streams' rate, of one stream's", of: |sample| sample.of_one, text: short },
    Figure { title: "Segments sent again on the guest's link", of: |sample| sample.resent, text: percent },
    Figure {
        title: "Segments sent again beyond it, between host and peer",
        of: |sample| sample.resent_beyond,
        text: percent,
    },
    Figure { title: "Datagrams lost", of: |sample| sample.lost, text: percent },
];

impl Outcome {
    /// One line for a person.
    pub(crate) fn text(&self, unit: &str) -> String {
        match self {
            Self::Failed(why) => why.clone(),
            Self::Done(sample) => {
                let more = [
                    sample.cpu.map(|cpu| format!(", CPU {}", short(cpu))),
                    sample.system_calls.map(|calls| format!(", {} system calls", short(calls))),
                    sample.of_one.map(|ratio| format!(", {} of one stream", short(ratio))),
                    sample.resent.map(|share| format!(", {} sent again", percent(share))),
                    sample.resent_beyond.map(|share| format!(", {} beyond", percent(share))),
                    sample.lost.map(|share| format!(", {} lost", percent(share))),
                ];
                let more: String = more.into_iter().flatten().collect();
                format!("{} {unit}{more}", short(sample.value))
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
        let rate = self.spread(|sample| Some(sample.value));
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

    /// The median over rounds of this program's figure against the best of
    /// those whose role is chosen.
    fn ratio(&self, choose: impl Fn(Role) -> bool) -> Option<f64> {
        let count = self.cells.iter().map(|cell| cell.rounds.len()).max()?;
        let best = |choose: &dyn Fn(Role) -> bool, round: usize| {
            let cells = self.cells.iter().filter(|cell| choose(cell.role));
            let values = cells.filter_map(|cell| Some(cell.rounds.get(round)?.sample()?.value));
            if self.is_cost { values.min_by(f64::total_cmp) } else { values.max_by(f64::total_cmp) }
        };
        let ratio = |round| Some(best(&|role| role == Role::Ours, round)? / best(&choose, round)?);
        let ratios = (0..count).filter_map(ratio).filter(|ratio| ratio.is_finite());
        Spread::of(ratios).map(|spread| spread.median)
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
        // The last one that changed the program: figures stay comparable when others follow.
        let log = ["log", "-1", "--format=%h", "--", "crates", "Cargo.lock"];
        let commit = first_line(Command::new("git").current_dir(root).args(log));
        for contender in contenders {
            let version = match (&contender.program, contender.role) {
                (_, Role::Ours) => commit.clone().unwrap_or_else(|| "unknown".to_owned()),
                (Some(Program::File(path)), _) => version(path),
                (Some(Program::Newest(newest)), _) => newest.version().to_owned(),
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
        let tables: Vec<_> = self.sections().map(|rows| aligned(&grid(&rows))).collect();
        tables.join("\n\n")
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
        for scenario in scenario::all() {
            // An earlier one may be of another machine.
            drop(std::fs::remove_file(dir.join(format!("{}.svg", scenario.group()))));
        }
        let rows: Vec<&Row> = self.rows.iter().collect();
        for group in groups(&rows) {
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
        for rows in self.sections() {
            let title = rows.first().map_or("", |row| &row.section);
            write!(text, "\n## {title}\n\n{}", markdown_table(&grid(&rows))).expect("a string takes all");
            for figure in &FIGURES {
                if let Some(table) = figures(&rows, figure) {
                    write!(text, "\n{}:\n\n{}", figure.title, markdown_table(&table))
                        .expect("a string takes all");
                }
            }
            for group in groups(&rows) {
                write!(text, "\n![{group}]({group}.svg)\n").expect("a string takes all");
            }
        }
        text
    }

    /// The rows of each section.
    fn sections(&self) -> impl Iterator<Item = Vec<&Row>> {
        let rows = |section| self.rows.iter().filter(|row| row.section == section).collect();
        unique(self.rows.iter().map(|row| &*row.section)).into_iter().map(rows)
    }
}

fn groups<'a>(rows: &[&'a Row]) -> Vec<&'a str> {
    unique(rows.iter().map(|row| &*row.group))
}

/// The contenders of any row.
fn names<'a>(rows: &[&'a Row]) -> Vec<&'a str> {
    unique(rows.iter().flat_map(|row| &row.cells).map(|cell| &*cell.name))
}

/// Each once, in the order of their first occurrence.
fn unique<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    all.filter(|text| seen.insert(*text)).collect()
}

/// The figures and their ratios, with a heading.
fn grid(rows: &[&Row]) -> Vec<Vec<String>> {
    let names = names(rows);
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let ratios = owned(&["× C", "× C installed", "× kernel"]);
    let heading = [owned(&["Scenario", "Unit"]), owned(&names), ratios].concat();
    let row = |row: &&Row| {
        let of = |wanted: Role| row.ratio(|role| role == wanted);
        let ratios = [of(Role::C), of(Role::Installed), row.ratio(Role::is_kernel)];
        let ratios = ratios.map(|ratio| ratio.map_or_else(|| "–".to_owned(), short)).to_vec();
        [owned(&[&row.scenario, &row.unit]), row.words(&names, Cell::text), ratios].concat()
    };
    std::iter::once(heading).chain(rows.iter().map(row)).collect()
}

/// The medians of another figure, with a heading, for the rows that have it.
fn figures(rows: &[&Row], figure: &Figure) -> Option<Vec<Vec<String>>> {
    let has = |row: &Row| row.cells.iter().any(|cell| cell.spread(figure.of).is_some());
    let rows: Vec<&Row> = rows.iter().copied().filter(|row| has(row)).collect();
    let names = names(&rows);
    let median =
        |cell: &Cell| cell.spread(figure.of).map_or_else(|| "–".to_owned(), |all| (figure.text)(all.median));
    let heading = std::iter::once("Scenario").chain(names.iter().copied()).map(str::to_owned).collect();
    let row = |row: &&Row| [vec![row.scenario.clone()], row.words(&names, median)].concat();
    (!rows.is_empty()).then(|| std::iter::once(heading).chain(rows.iter().map(row)).collect())
}

fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let pad = |(word, width): (&String, &usize)| format!("{word:width$}");
    let line = |row: &Vec<String>| row.iter().zip(&widths).map(pad).collect::<Vec<_>>().join("  ");
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

const INTRODUCTION: &str = "\
# Measurements

Written by `cargo xtask bench`, as root: run it to repeat them here, or with a part of a scenario's
name to repeat some. Every figure in `results.json` is one round; below are medians, and the least
and the most in parentheses.

- *ours* is this program. *C* is the newest C program: Debian's package of its unstable suite, with
  its own C library and the build for this processor. *C installed* is the one that this machine's
  distribution has. *veth* is the kernel alone: a veth between the guest and the server's namespace;
  *loopback* the same within the host. *bare proxy* reads here and writes there, or splices where
  data is plenty, without filter or checks: what a program between two sockets can reach. All have
  the same namespaces, and rounds interleave. The ratios are medians over the rounds of this program
  against the C program, the one that is installed, and the kernel alone; for time and memory less
  than 1 is better.
- A scenario is named by traffic, the guest's MTU, the server's place (*far*: in a namespace behind
  the host's veth; *local*: on the host itself) and the congestion control of every namespace;
  *v6*: by IPv6, else IPv4; *8*: streams at once, else one; *held-N*: while N idle connections are
  open.
- One stream is measured beside several, before them and after them in turn, by the same translator.
- *tcp-out* is iperf3 from the guest, *tcp-in* to it. *tcp-rr* exchanges a byte each
  way over one connection, *tcp-crr* over a new one each time, all parties on one CPU.
- *bypass* is the same between the loopback interfaces of guest and host, by a forwarded port:
  *out* from the guest (`-T`), *in* to it (`-t`).
- *udp-out* and *udp-in* are datagrams of 1400 bytes, counted where they arrive: sent one by one,
  *segmented*: by `UDP_SEGMENT`, *50k*: 50 000 a second, where the loss is what matters.
- *stream* is from and to a namespace that stands for a virtual machine: another process moves frames
  between its device and the socket of *passt*, without an emulator's cost.
- *vhost* is from and to a virtual machine whose memory *passt* shares: user-mode Linux, a kernel that
  is a process, which speaks vhost-user itself and costs no emulation. It has one CPU, the last of
  this machine, and its programs run without tracing (`seccomp=auto`). The device is configured by
  DHCP. For *vhost-rr* and *vhost-crr* all others are on the same CPU.
- *driver* is a driver of vhost-user's queues with one TCP connection, on a CPU of its own, which does
  not look at the data. Its window is 3 MiB, it sends 256 KiB at most ahead of acknowledgements, and
  takes what the device offers. All others are on the other CPUs.
- *start-command* is `pasta --config-net true`, from start to end. *start-background* is until a
  namespace that was there has its network and the process started has ended. *idle-detecting* has ports looked for,
  which all others have not. Memory is read after 2
  idle seconds; *flows-N* is what each of N idle connections adds to it, in the translator alone.
- CPU seconds are of the translator's own processes, in user space and in the kernel.
- The translator's part is of the CPU time that the machine spent while data moved: clients, servers and the
  kernel's interrupts have the rest. One that cost nothing would leave a machine that is busy that much more to them.
- System calls are counted by strace in a run of their own, which is slower: batches are larger there.
- Segments sent again on the guest's link are those that the guest's kernel sent again, and those that
  came to it behind a gap or a second time, of all that it sent or received (`resent`). Beyond it is the
  larger share that the host's or the peer's kernel sent again (`resent_beyond`): no translator has a
  part in that, and a veth that reorders is enough for it. With the kernel alone, the two are the
  stream's two ends.

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

    fn cell(name: &str, role: Role, values: &[f64]) -> Cell {
        let outcome = |value: &f64| match *value {
            0.0 => Outcome::Failed("stalled".to_owned()),
            value => Outcome::Done(Sample::of(value)),
        };
        Cell { name: name.to_owned(), role, rounds: values.iter().map(outcome).collect() }
    }

    #[test]
    fn ratios_are_medians_over_rounds_against_the_best() {
        let mut row = Row {
            scenario: "s".to_owned(),
            section: "t".to_owned(),
            group: "g".to_owned(),
            unit: "u".to_owned(),
            is_cost: false,
            cells: vec![
                cell("ours", Role::Ours, &[10.0, 20.0, 30.0]),
                cell("C", Role::C, &[1.0, 1.0, 0.0]),
                cell("new C", Role::C, &[0.5, 4.0, 2.0]),
            ],
        };
        assert_eq!(row.ratio(|role| role == Role::C), Some(10.0));
        assert_eq!(row.ratio(Role::is_kernel), None);
        assert!(row.ours_complete());
        assert_eq!(row.cells[1].text(), "1.00 (1.00–1.00); stalled 1 of 3");
        row.is_cost = true;
        assert_eq!(row.ratio(|role| role == Role::C), Some(20.0));
    }

    #[test]
    fn the_median_of_an_even_count_is_between() {
        let spread = Spread::of([4.0, 1.0, 2.0, 8.0].into_iter()).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (3.0, 1.0, 8.0));
    }
}
