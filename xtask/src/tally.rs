//! Counts what libtest reports, and what could not be tested.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

/// The outcome of all test programs.
#[derive(Default)]
pub(crate) struct Tally {
    passed: u64,
    pub(crate) failed: u64,
    skips: Vec<String>,
    failures: Vec<String>,
    /// What libtest tells of each failure.
    details: Vec<String>,
    in_details: bool,
}

impl Tally {
    /// Runs `cargo test`, passing its output on, and adds its results.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<()> {
        let name = format!("{command:?}");
        self.run_called(&name, command)
    }

    /// The same for what is called `name` if it has no results.
    pub(crate) fn run_called(&mut self, name: &str, command: &mut Command) -> Result<()> {
        let before = self.failed;
        let mut child = command.stdout(Stdio::piped()).spawn().context("cargo")?;
        let output = child.stdout.take().context("standard output")?;
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            self.add(&line);
        }
        // A program that did not build or crashed has no result line.
        if !child.wait()?.success() && self.failed == before {
            self.record(false, name);
        }
        Ok(())
    }

    /// Adds the results of a program that has ended, from its `output`.
    pub(crate) fn add_all(&mut self, output: &str, succeeded: bool, name: &str) {
        let (before, named) = (self.failed, self.failures.len());
        output.lines().for_each(|line| self.add(line));
        // Several programs have tests of the same name.
        for failure in &mut self.failures[named..] {
            *failure = format!("{name}: {failure}");
        }
        if !succeeded && self.failed == before {
            self.record(false, name);
        }
    }

    /// Adds one line of libtest's output, if it is a result or tells of a failure.
    pub(crate) fn add(&mut self, line: &str) {
        // Failures are told under this line, then listed under another one, before the result.
        self.in_details |= line == "failures:";
        self.in_details &= !line.starts_with("test result: ");
        if self.in_details && line != "failures:" && !line.is_empty() {
            self.details.push(line.to_owned());
        }
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failures.push(name.to_owned());
        }
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let count_of = |what: &str| {
            let part = counts.split(['.', ';']).find_map(|part| part.trim().strip_suffix(what));
            part.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
        };
        self.passed += count_of("passed");
        self.failed += count_of("failed");
        for _ in 0..count_of("ignored") {
            self.skip("a test marked as ignored");
        }
    }

    /// Adds one test of another kind.
    pub(crate) fn record(&mut self, passed: bool, name: &str) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
            self.failures.push(name.to_owned());
        }
    }

    /// Adds something that could not be tested here, and why.
    pub(crate) fn skip(&mut self, reason: &str) {
        self.skips.push(reason.to_owned());
    }

    /// Moves a test that libtest takes for passed to where it belongs.
    pub(crate) fn skip_passed(&mut self, reason: &str) {
        self.skip(reason);
        self.passed = self.passed.saturating_sub(1);
    }

    /// Moves the tests that said they were skipped, which libtest takes for
    /// passed, to where they belong.
    pub(crate) fn count_skips(&mut self, file: &Path) -> Result<()> {
        let Ok(lines) = std::fs::read_to_string(file) else { return Ok(()) };
        for line in lines.lines() {
            self.skip_passed(line.trim_start_matches("SKIP "));
        }
        std::fs::remove_file(file).context("list of skipped tests")
    }

    /// Prints every failure, again, and every skipped test, then the counts.
    pub(crate) fn print(&self) {
        for line in &self.details {
            println!("{line}");
        }
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
        for skip in &self.skips {
            println!("SKIPPED {skip}");
        }
        println!("{}", self.counts());
    }

    /// Whether nothing was skipped.
    pub(crate) fn is_whole(&self) -> bool {
        self.skips.is_empty()
    }

    /// How many tests came to which end.
    pub(crate) fn counts(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skips.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed() {
        let mut tally = Tally::default();
        for line in [
            "test a::b ... ok",
            "test a::c ... FAILED",
            "",
            "failures:",
            "",
            "---- a::c stdout ----",
            "no",
            "",
            "failures:",
            "    a::c",
            "",
            "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            tally.add(line);
        }
        assert_eq!((tally.passed, tally.failed, tally.skips.len()), (15, 1, 2));
        assert_eq!(tally.failures, ["a::c"]);
        assert_eq!(tally.details, ["---- a::c stdout ----", "no", "    a::c"]);
        tally.add_all("test b ... FAILED\ntest result: FAILED. 0 passed; 1 failed", false, "ports");
        assert_eq!((tally.failed, &*tally.failures[1]), (2, "ports: b"));
    }
}
