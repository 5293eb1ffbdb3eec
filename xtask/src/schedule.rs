//! In which order test programs run, and which of them at once.
//!
//! Most tests wait: for guests to boot, for clocks, for what the other end does. Two at a time make
//! use of a machine with two processors, more would be in each other's way. Those that measure what
//! time or memory something takes have the machine to themselves, after all others.

use std::collections::VecDeque;
use std::io::{Read as _, Seek as _};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, ensure};

use crate::built::Tests;
use crate::tally::Tally;

/// Programs that run at once.
const AT_ONCE: usize = 2;
/// What measures, by the name of the program.
const ALONE: [&str; 2] = ["busy", "memory"];
/// Programs of which most tests run on demand only: what runs here, and what the others are for.
const IN_PART: [(&str, &[&str], &str); 1] = [(
    "given_away",
    &["where_there_is_nothing_else", "lint::packages_have_no_errors"],
    "packages in fresh systems, cargo xtask dist and then the test by itself",
)];
/// What takes longest begins first, so that nothing is left to run beside it at the end.
const LONG: [&str; 8] =
    ["vm", "vhost_life", "vhost_user", "replacing", "sim", "slirp4netns", "isolation", "starting"];

/// Runs all of `tests`, each with `prepare`d arguments and environment.
pub(crate) fn run(
    tests: Vec<&Tests>,
    prepare: impl Fn(&mut Command) + Sync,
    tally: &mut Tally,
) -> Result<()> {
    for (name, part, others) in IN_PART {
        println!("On demand: the other tests of {name} ({others})");
        // Of tests that are not there, libtest would pass none.
        let found = tests.iter().find(|tests| tests.name() == name).context(name)?;
        let missing = found.missing(part)?;
        ensure!(missing.is_empty(), "{name} has no test {}", missing.join(", "));
    }
    let prepare = |tests: &Tests, command: &mut Command| {
        prepare(command);
        if let Some((_, part, _)) = IN_PART.iter().find(|(name, ..)| *name == tests.name()) {
            command.arg("--exact").args(*part);
        }
    };
    let (alone, mut shared): (Vec<_>, Vec<_>) =
        tests.into_iter().partition(|tests| ALONE.contains(&tests.name()));
    shared.sort_by_key(|tests| LONG.iter().position(|name| *name == tests.name()).unwrap_or(LONG.len()));
    let all = Mutex::new(&mut *tally);
    side_by_side(shared, |tests| {
        let mut command = tests.command();
        prepare(tests, &mut command);
        let (output, succeeded) = gather(&mut command)?;
        let mut tally = all.lock().unwrap_or_else(PoisonError::into_inner);
        print!("{output}");
        tally.add_all(&output, succeeded, tests.name());
        Ok(())
    })?;
    for tests in alone {
        let mut command = tests.command();
        prepare(tests, &mut command);
        tally.run(&mut command)?;
    }
    Ok(())
}

/// Does `work` with each of `items` in their order, with as many at once as run well beside each other.
pub(crate) fn side_by_side<T: Send>(items: Vec<T>, work: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
    let queue = Mutex::new(VecDeque::from(items));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let one_after_the_other = || -> Result<()> {
        while let Some(item) = next() {
            work(item)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(one_after_the_other)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no panic in a worker"))
    })
}

/// Runs it to its end: what it wrote, to either output, and whether it succeeded. Into a file, as
/// what a failed test leaves running would keep a pipe open.
pub(crate) fn gather(command: &mut Command) -> Result<(String, bool)> {
    let mut file = tempfile::tempfile().context("a file for what tests print")?;
    let succeeded = command.stdout(file.try_clone()?).stderr(file.try_clone()?).status()?.success();
    let mut output = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut output)?;
    Ok((String::from_utf8_lossy(&output).into_owned(), succeeded))
}
