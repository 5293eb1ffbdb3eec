//! `cargo xtask bench`: how fast a guest's network is with this program, with
//! the others that do the same, and with the kernel alone.
//!
//! Contenders run interleaved, so that a machine whose speed drifts treats
//! them alike, and each run starts afresh: namespaces last, translators don't.
//! Nothing here judges: what must hold is in the tests.

mod contender;
mod cost;
mod measure;
mod plot;
mod report;
mod scenario;
mod translator;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use passt_tests::Net;

use contender::Contender;
use measure::Turn;
use report::{Cell, Outcome, Report, Row};
use scenario::Scenario;

/// What the command line takes after `bench`.
pub(crate) const USAGE: &str = "\
bench [SCENARIO…] [--peer NAME=PATH…] [--only NAME…] [--rounds N] [--seconds N] [--out DIR]
         compare with other programs and the kernel alone. SCENARIO is a part of a
         name, as tcp-out-1500 or rr; --peer adds a build of pasta, which every user
         can execute, to the newest C program of Debian, and pasta and slirp4netns on
         PATH; --only leaves out all others; 5 rounds of 2 seconds;
         results of all go to docs/bench, of some to target/bench, or to DIR, where
         they join those of the same programs on the same machine";

/// How to run it.
struct Options {
    scenarios: Vec<Scenario>,
    peers: Vec<Contender>,
    /// Names of contenders, or none for all.
    only: Vec<String>,
    rounds: usize,
    seconds: u32,
    out: PathBuf,
}

/// Measures what `args` name and reports it; false if this program failed in
/// a run.
pub(crate) fn bench(root: &Path, args: &[String]) -> Result<bool> {
    let options = parse(root, args)?;
    for package in [&["passt", "--release", "--bins"][..], &["passt-tests", "--bin", "peer"]] {
        let build = crate::cargo(root, &["build", "--package"]).args(package).status()?;
        ensure!(build.success(), "the build of {package:?} failed");
    }
    let net = Net::new().context("namespaces could not be made, see above")?;
    let mut contenders = contender::find(&net, &options.peers);
    if let Some(unknown) = options.only.iter().find(|&name| contenders.iter().all(|it| it.name != *name)) {
        bail!("nobody here is called {unknown}");
    }
    contenders.retain(|it| options.only.is_empty() || options.only.contains(&it.name));
    if options.scenarios.iter().any(|scenario| scenario.section().is_vhost_user()) {
        for contender in &mut contenders {
            contender.try_vhost_user(&net);
        }
    }
    let mut report = Report::new(root, &contenders);
    for scenario in &options.scenarios {
        report.rows.push(run(&net, scenario, &contenders, &options));
    }
    report.rows.retain(|row| !row.cells.is_empty());
    println!("{}", report.table());
    let complete = report.rows.iter().all(Row::ours_complete);
    report.merge(&options.out);
    report.write(&options.out)?;
    Ok(complete)
}

fn parse(root: &Path, args: &[String]) -> Result<Options> {
    let (mut words, mut peers, mut only) = (Vec::new(), Vec::new(), Vec::new());
    let (mut rounds, mut seconds, mut out) = (5, 2, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--peer" => peers.push(Contender::named(value()?)?),
            "--only" => only.push(value()?.to_owned()),
            "--rounds" => rounds = value()?.parse().context("--rounds")?,
            "--seconds" => seconds = value()?.parse().context("--seconds")?,
            "--out" => out = Some(value()?.into()),
            option if option.starts_with('-') => bail!("unknown option: {option}\n{USAGE}"),
            word => words.push(word.to_owned()),
        }
    }
    ensure!(rounds > 0 && seconds > 0, "nothing to measure");
    let scenarios = scenario::select(&words)?;
    // A part measured while developing does not replace the whole.
    let default = if words.is_empty() && only.is_empty() { "docs/bench" } else { "target/bench" };
    let out = out.unwrap_or_else(|| root.join(default));
    Ok(Options { scenarios, peers, only, rounds, seconds, out })
}

/// All rounds of one scenario, the contenders taking turns at who is first.
fn run(net: &Net, scenario: &Scenario, contenders: &[Contender], options: &Options) -> Row {
    let takes_part = |contender: &&Contender| contender.takes_part(scenario);
    let contenders: Vec<_> = contenders.iter().filter(takes_part).collect();
    let mut outcomes: BTreeMap<&str, Vec<Outcome>> = BTreeMap::new();
    for round in 0..options.rounds {
        for turn in 0..contenders.len() {
            let contender = contenders[(round + turn) % contenders.len()];
            // The harness panics where a test would have failed: here that is
            // a contender's result like any other.
            let turn = Turn { net, scenario, contender, seconds: options.seconds, round };
            let outcome = catch_unwind(AssertUnwindSafe(|| turn.measure()));
            let outcome = outcome.unwrap_or_else(|panic| Outcome::Failed(reason(panic.as_ref())));
            eprintln!(
                "{scenario} {}/{} {}: {}",
                round + 1,
                options.rounds,
                contender.name,
                outcome.text(scenario.unit())
            );
            outcomes.entry(&contender.name).or_default().push(outcome);
        }
    }
    let cell = |contender: &&Contender| Cell {
        name: contender.name.clone(),
        role: contender.role,
        rounds: outcomes.remove(&*contender.name).unwrap_or_default(),
    };
    Row {
        scenario: scenario.to_string(),
        section: scenario.section().title().to_owned(),
        group: scenario.group(),
        unit: scenario.unit().to_owned(),
        is_cost: scenario.is_cost(),
        cells: contenders.iter().map(cell).collect(),
    }
}

/// What the harness said when it gave up, without the command line.
fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map_or("failed", String::as_str);
    let line = text.lines().next().unwrap_or_default();
    line.split_once(" from ").map_or(line, |(reason, _)| reason).to_owned()
}
