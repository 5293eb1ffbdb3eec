//! Runs tests on mutants: for each only those that reach it, quick ones first, until one fails.

#![expect(clippy::disallowed_methods, reason = "programs run in real time")]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// A built program of tests.
#[derive(Clone, Hash, PartialEq, Eq)]
pub(crate) struct Program {
    /// As `passt-engine:lib`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Where it expects to be run.
    pub(crate) dir: PathBuf,
}

/// One test, as it is without a mutant.
pub(crate) struct Test {
    program: Program,
    name: String,
    time: Duration,
    sites: HashSet<u32>,
}

/// What the tests said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// One failed.
    Caught,
    /// All passed, or none comes there.
    Missed,
    /// They did not end.
    Late,
}

/// Fewer cases of each property and one seed of the simulation: there are many mutants.
const FEWER: [(&str, &str); 3] =
    [("PROPTEST_CASES", "200"), ("PROPTEST_MAX_SHRINK_ITERS", "0"), ("SIM_SEED", "1")];
/// Tests that are quicker than this share a process.
const QUICK: Duration = Duration::from_millis(100);
/// Tests are late after ten times what they took, and this.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs every test once, to see which mutants each reaches. Ones that fail are said and left out.
pub(crate) fn survey(
    programs: &[Program],
    is_wanted: impl Fn(&str) -> bool,
    scratch: &Path,
) -> Result<Vec<Test>> {
    let mut names = Vec::new();
    for program in programs {
        let list = Command::new(&program.path).args(["--list", "--format=terse"]).output()?;
        let list = String::from_utf8(list.stdout)?;
        let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
        let tests = tests.filter(|test| is_wanted(test));
        names.extend(tests.map(|test| (program, test.to_owned())));
    }
    let tests = on_all(&names, |(program, name)| {
        let log = scratch.join(format!("{}-{name}", program.name).replace([':', '/'], "-"));
        let _ = fs::remove_file(&log);
        let start = Instant::now();
        let mut env = vec![("MUTANT_SITES".to_owned(), log.to_string_lossy().into_owned())];
        let mut outcome = run(program, &[name], &env, Duration::from_secs(300))?;
        let time = start.elapsed();
        if outcome != Outcome::Missed {
            // The file of what is reached is one more descriptor, which some count.
            env.clear();
            outcome = run(program, &[name], &env, Duration::from_secs(300))?;
        }
        if outcome != Outcome::Missed {
            println!("LEFT OUT: {} {name} fails without any mutant", program.name);
            return Ok(None);
        }
        let sites = fs::read_to_string(&log).unwrap_or_default();
        let sites = sites.lines().filter_map(|line| line.parse().ok()).collect();
        Ok(Some(Test { program: (*program).clone(), name: name.clone(), time, sites }))
    })?;
    Ok(tests.into_iter().flatten().collect())
}

/// A mutant to try.
pub(crate) struct Trial<'a> {
    pub(crate) id: u32,
    pub(crate) name: &'a str,
    /// Says that it is reached.
    pub(crate) site: u32,
    /// Programs that have to notice.
    pub(crate) programs: &'a [&'a str],
}

/// Tries mutants, and says which were missed.
pub(crate) fn all(tests: &[Test], mutants: &[Trial<'_>]) -> Result<Vec<Outcome>> {
    let (done, start) = (AtomicUsize::new(0), Instant::now());
    on_all(mutants, |trial| {
        let reached = |test: &&Test| {
            test.sites.contains(&trial.site) && trial.programs.contains(&test.program.name.as_str())
        };
        let outcome = one(tests.iter().filter(reached).collect(), trial.id);
        if matches!(outcome, Ok(Outcome::Missed)) {
            println!("missed {}", trial.name);
        }
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(50) {
            println!("{done} of {} after {} s", mutants.len(), start.elapsed().as_secs());
        }
        outcome
    })
}

fn one(mut tests: Vec<&Test>, mutant: u32) -> Result<Outcome> {
    let env = [("MUTANT".to_owned(), mutant.to_string())];
    tests.sort_by_key(|test| test.time);
    let (quick, slow) = tests.split_at(tests.partition_point(|test| test.time < QUICK));
    let mut groups: HashMap<&Program, Vec<&Test>> = HashMap::new();
    for test in quick {
        groups.entry(&test.program).or_default().push(test);
    }
    for group in groups.into_values().chain(slow.iter().map(|&test| vec![test])) {
        let limit = PATIENCE + 10 * group.iter().map(|test| test.time).sum::<Duration>();
        let names: Vec<&String> = group.iter().map(|test| &test.name).collect();
        match run(&group[0].program, &names, &env, limit)? {
            Outcome::Missed => {}
            outcome => return Ok(outcome),
        }
    }
    Ok(Outcome::Missed)
}

/// Runs tests of a program until one fails.
fn run(program: &Program, tests: &[&String], env: &[(String, String)], limit: Duration) -> Result<Outcome> {
    let mut command = Command::new(&program.path);
    command.args(["--exact", "--test-threads=1"]).args(tests).current_dir(&program.dir).envs(FEWER);
    command.envs(env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| program.path.display().to_string())?;
    let output = child.stdout.take().context("standard output")?;
    let (failed, end) = mpsc::channel();
    // Its end is that of the program, or of what the program left behind.
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if line.ends_with("FAILED") {
                let _ = failed.send(());
            }
        }
    });
    let outcome = match end.recv_timeout(limit) {
        Ok(()) => Outcome::Caught,
        Err(mpsc::RecvTimeoutError::Timeout) => Outcome::Late,
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            let is_well = child.wait()?.success();
            return Ok(if is_well { Outcome::Missed } else { Outcome::Caught });
        }
    };
    let _ = child.kill();
    child.wait()?;
    Ok(outcome)
}

/// Does the same with each item, as many at a time as there are processors.
fn on_all<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let workers = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = work(item);
                    results.lock().expect("no panic").push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no panic");
    results.sort_by_key(|(index, _)| *index);
    ensure!(results.len() == items.len(), "a worker ended early");
    results.into_iter().map(|(_, result)| result).collect()
}
