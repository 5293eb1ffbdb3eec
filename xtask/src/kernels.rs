//! `cargo xtask test --kernel`: the core of the namespace tests on other kernels.
//!
//! Debian's kernel is booted in an emulated machine that has this machine's files, with the programs
//! and tests built here. What is left out is long, boots a machine itself, or is of this machine
//! more than of its kernel.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use passt_tests::boot::{Arch, Boot, Kernel};

use crate::built::Tests;
use crate::tally::Tally;

pub(crate) const USAGE: &str = "test --kernel SUITE|all|list [TESTS…]
           boot the kernel of a Debian suite and run the core of the namespace tests on it";

/// Debian's suites with a kernel, from the oldest to the newest.
const SUITES: [(&str, &str); 4] =
    [("bullseye", "5.10"), ("bookworm", "6.1"), ("trixie", "6.12"), ("unstable", "newest")];

/// Programs of tests, and which of their tests.
const CORE: &[(&str, &[&str])] = &[
    ("tcp_transfer", &["as_root_mtu_1500", "as_user_mtu_65520"]),
    ("udp", &["a_closed_port_is_refused", "every_size_is_echoed", "the_source_port_is_kept"]),
    ("ping", &["echo_is_answered_from_near_and_far", "identifiers_are_kept"]),
    ("icmp_errors", &["a_guest_that_rejects", "a_router_that_forbids"]),
    ("services", &["dhclient_ipv6", "slaac_by_the_kernel", "udhcpc"]),
    ("config", &["config_net_copies_the_template", "one_family_when_asked"]),
    ("ports", &["ports_that_cannot_be_had", "tcp_port", "udp_port_to_the_same_and_another"]),
    ("auto", &["low_ports", "services_inside_come_and_go", "without_sock_diag"]),
    ("bypass", &["addresses_seen", "both_families_both_ways"]),
    ("udp_bypass", &["addresses_seen"]),
    ("isolation", &["passt", "pasta_with_a_command"]),
    ("life", &["a_command_gives_its_status", "a_process_without_privilege"]),
    ("tcp_semantics", &["half_closed_by_either_side", "refused", "reset_by_the_server", "unreachable"]),
    ("passt_life", &["flows_are_kept", "one_client_after_the_other_is_served"]),
    ("passt_net", &["curl_fetches_a_file", "ping", "ports_lead_to_the_machine", "udhcpc"]),
    ("control", &["callers::what_podman_does", "looking::flows_are_seen_and_ended"]),
    ("syscalls", &["passt"]),
];

/// How many times longer than without emulation anything may take.
const SLOWNESS: u32 = 4;
/// How long a program of tests may take.
const PROGRAM: Duration = Duration::from_secs(300);
/// How long a kernel's tests may take.
const ALL: Duration = Duration::from_secs(3600);
/// A machine's memory, in MiB.
const MEMORY: u32 = 3072;

/// What `words` ask for.
enum Wanted<'a> {
    List,
    Suites(Vec<&'static str>, &'a [String]),
}

fn parse(words: &[String]) -> Result<Wanted<'_>> {
    let known = || SUITES.map(|(suite, _)| suite).join(", ");
    let Some((suite, tests)) = words.split_first() else {
        bail!("--kernel needs a suite: {}, all or list", known());
    };
    match suite.as_str() {
        "list" => Ok(Wanted::List),
        "all" => Ok(Wanted::Suites(SUITES.map(|(suite, _)| suite).into(), tests)),
        other => {
            let found = SUITES.iter().find(|(suite, _)| *suite == other);
            let (suite, _) = found.with_context(|| format!("no suite '{other}': there are {}", known()))?;
            Ok(Wanted::Suites(vec![suite], tests))
        }
    }
}

/// A machine's processor, and where its programs are.
pub(crate) struct Place<'a> {
    pub(crate) arch: &'static Arch,
    /// Its root directory.
    pub(crate) root: &'a Path,
    /// Directories of this machine that it has beside.
    pub(crate) shares: &'a [PathBuf],
    /// Variables for the tests.
    pub(crate) environment: Vec<(String, String)>,
    /// How many times longer than here anything may take.
    pub(crate) slowness: u32,
}

/// Runs the tests on the kernels that `words` name; true if none failed. `build` is called for the
/// tests if there is something to run.
pub(crate) fn run(words: &[String], build: impl Fn() -> Result<Vec<Tests>>) -> Result<bool> {
    let (suites, named) = match parse(words)? {
        Wanted::List => {
            for (suite, version) in SUITES {
                println!("{suite:10} {version}");
            }
            return Ok(true);
        }
        Wanted::Suites(suites, named) => (suites, named),
    };
    let own = ["PASTA", "PASST", "RUST_BACKTRACE", "PATH"];
    let place = Place {
        arch: Arch::called(std::env::consts::ARCH).context("no machine for this processor")?,
        root: Path::new("/"),
        shares: &[],
        environment: own
            .iter()
            .filter_map(|name| Some(((*name).into(), std::env::var(name).ok()?)))
            .collect(),
        slowness: SLOWNESS,
    };
    check(named)?;
    let script = script(&build()?, named, &place)?;
    let mut outcomes = Outcomes::default();
    for suite in suites {
        outcomes.add(suite, |tally| on_kernel(&place, suite, &script, tally));
    }
    Ok(outcomes.finish())
}

/// How the tests of several machines ended.
#[derive(Default)]
pub(crate) struct Outcomes {
    lines: Vec<String>,
    failed: bool,
}

impl Outcomes {
    /// Runs those of one, which make a line about that.
    pub(crate) fn add(&mut self, name: &str, tests: impl FnOnce(&mut Tally) -> Result<String>) {
        let mut tally = Tally::default();
        let line = tests(&mut tally).unwrap_or_else(|error| {
            tally.record(false, &format!("{name}: {error:#}"));
            format!("{name}: not to its end")
        });
        tally.print();
        println!("{line}");
        self.failed |= tally.failed > 0;
        self.lines.push(format!("{line}: {}", tally.counts()));
    }

    /// Prints all lines; true if nothing has failed.
    pub(crate) fn finish(self) -> bool {
        if self.lines.len() > 1 {
            println!("\n{}", self.lines.join("\n"));
        }
        !self.failed
    }
}

/// The core without what it has more of for another processor.
const CORE_ALONE: &str = "core";

/// Checks names before anything is built: of tests in namespaces, and of libraries (`passt_engine`).
pub(crate) fn check(named: &[String]) -> Result<()> {
    let root = crate::root()?;
    let manifest = std::fs::read_to_string(root.join("tests/Cargo.toml"))?;
    let is_test = |name: &String| manifest.contains(&format!("\nname = \"{name}\"\n"));
    let directory = |name: &String| name.strip_prefix("passt_").unwrap_or(name).to_owned();
    let is_library = |name: &String| root.join("crates").join(directory(name)).join("src/lib.rs").is_file();
    let unknown = named.iter().find(|name| !is_test(name) && !is_library(name) && *name != CORE_ALONE);
    unknown.map_or(Ok(()), |name| bail!("no tests '{name}'"))
}

/// What the machine's shell does: run the core, or all tests of the programs that are `named`. For
/// another processor than this all tests of the libraries and the simulation come before the core,
/// unless it is named.
pub(crate) fn script(tests: &[Tests], named: &[String], place: &Place<'_>) -> Result<String> {
    let wanted: Vec<(&str, &[&str])> = match named {
        [] => CORE.to_vec(),
        [name] if name == CORE_ALONE => CORE.to_vec(),
        names => names.iter().map(|name| (name.as_str(), &[][..])).collect(),
    };
    let root = crate::root()?;
    let is_native = place.arch.name == std::env::consts::ARCH;
    let mut script = String::new();
    if named.is_empty() && !is_native {
        let libraries = root.join("crates");
        let is_portable = |tests: &&Tests| tests.directory.starts_with(&libraries) || tests.name() == "sim";
        script.extend(tests.iter().filter(is_portable).map(|tests| lines(tests, "", place)));
    }
    // Other packages have programs of the same names.
    let real = root.join("tests");
    for (name, only) in wanted {
        let mut found = tests.iter().find(|tests| tests.directory == real && tests.name() == name);
        if found.is_none() {
            found = tests.iter().find(|tests| tests.name() == name);
        }
        let found = found.with_context(|| format!("no tests '{name}'"))?;
        if is_native {
            // Of tests that are not there, libtest would pass none.
            let missing = found.missing(only)?;
            ensure!(missing.is_empty(), "{name} has no test {}", missing.join(", "));
        }
        let only = if only.is_empty() { String::new() } else { format!("--exact {}", only.join(" ")) };
        script += &lines(found, &format!("--test-threads=1 {only}"), place);
    }
    Ok(script + "cat $PASST_TEST_SKIPS 2>/dev/null || :\n")
}

/// The shell's lines for a program of tests.
fn lines(tests: &Tests, arguments: &str, place: &Place<'_>) -> String {
    let (directory, program) = tests.shell();
    let limit = PROGRAM.as_secs() * u64::from(place.slowness / SLOWNESS);
    let name = tests.name();
    format!(
        "echo 'Running {name}'\n\
         {directory} timeout -k 5 {limit} {program} {arguments}\n\
         echo \"Status {name} $?\"\n"
    )
}

/// Runs the script on the kernel of one suite; a line about that.
pub(crate) fn on_kernel(place: &Place<'_>, suite: &str, script: &str, tally: &mut Tally) -> Result<String> {
    let kernel = Kernel::get(place.arch, suite)?;
    println!("Linux {} of {suite}", kernel.version());
    let work = tempfile::tempdir()?;
    let mut environment = vec![
        ("PASST_TEST_SKIPS".to_owned(), "/run/skips".to_owned()),
        ("PASST_TEST_SLOWNESS".to_owned(), place.slowness.to_string()),
    ];
    environment.extend(place.environment.iter().cloned());
    let boot = Boot {
        arch: place.arch,
        kernel: &kernel,
        root: place.root,
        shares: place.shares,
        command: script,
        environment: &environment,
        memory: MEMORY,
        limit: ALL * (place.slowness / SLOWNESS),
        work: work.path(),
    };
    let mut before = tally.failed;
    let ended = boot.run(|line| {
        println!("{line}");
        tally.add(line);
        if let Some(reason) = line.strip_prefix("SKIP ") {
            tally.skip_passed(reason);
        }
        if let Some((name, status)) = line.strip_prefix("Status ").and_then(|rest| rest.split_once(' ')) {
            if status != "0" && tally.failed == before {
                tally.record(false, &format!("{name}: status {status}"));
            }
            before = tally.failed;
        }
    })?;
    let how = if ended.quick { "not emulated" } else { "emulated" };
    let (boot, all) = (ended.booted_in.as_secs_f32(), ended.took.as_secs());
    Ok(format!("{suite}: Linux {}, {how}, booted in {boot:.1} s, {all} s in all", kernel.version()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_that_is_not_there_is_one_line() {
        for words in [&[][..], &["sid".to_owned()], &[String::new()]] {
            let error = parse(words).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(error.contains("bullseye") && !error.contains('\n'), "{error}");
        }
    }
}
