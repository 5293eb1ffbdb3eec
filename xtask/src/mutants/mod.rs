//! Mutation testing: breaks one expression or function after the other, and runs the quick tests
//! that come there, one of which has to fail.
//!
//! `cargo-mutants` says what to break. It would build the tests anew for each mutant, which takes a
//! day for the engine; here one build has all of them (`schema.rs`). The tree is copied to
//! `target/mutants/tree` and changed there, so that work can go on. `.cargo/mutants.toml` names
//! mutants that no test can tell from the original.

mod schema;
mod trial;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use schema::{Mutant, Schema};
use serde_json::Value;
use trial::{Outcome, Program, Trial};

use crate::cargo;

/// Its line of the usage message.
pub(crate) const USAGE: &str =
    "mutants  break the code of `proto` and of the engine in many places; every test run must notice";

/// Code whose mutants the same tests have to find.
struct Part {
    name: &'static str,
    /// The package, and its directory.
    package: (&'static str, &'static str),
    /// Globs of its source files.
    files: &'static [&'static str],
    /// Programs of tests, which need neither privilege nor a release build.
    tests: &'static [&'static str],
}

const PARTS: &[Part] = &[
    Part {
        name: "proto",
        package: ("passt-proto", "crates/proto"),
        files: &[
            "crates/proto/src/*.rs",
            "crates/proto/src/classify/*.rs",
            "crates/proto/src/wire/*.rs",
            "crates/proto/src/responder/**/*.rs",
        ],
        tests: &["passt-proto:lib"],
    },
    Part {
        name: "tcp",
        package: ("passt-proto", "crates/proto"),
        files: &["crates/proto/src/tcp/*.rs"],
        tests: &["passt-proto:lib", "passt-proto:tcp_ops"],
    },
    Part {
        name: "engine",
        package: ("passt-engine", "crates/engine"),
        files: &[
            "crates/engine/src/core/*.rs",
            "crates/engine/src/flow/*.rs",
            "crates/engine/src/forward/*.rs",
            "crates/engine/src/protocols/**/*.rs",
            "crates/engine/src/dispatch/*.rs",
        ],
        tests: &[
            "passt-engine:lib",
            "passt-engine:datagrams",
            "passt-engine:following",
            "passt-engine:forwarding",
            "passt-engine:leftovers",
            "passt-engine:loopback",
            "passt-engine:looping",
            "passt-engine:segments",
            "passt-engine:streams",
            "passt-engine:crowd",
            "passt-tests:sim",
        ],
    },
];

/// Tests that are slow, and of what no part has.
const SKIPPED: [&str; 2] = ["netconf", "gauge"];

/// Tests the parts that `options` begins with, all if it names none; what follows is for the list
/// of `cargo mutants`, as `--file GLOB`. With `--missed` only what was missed the last time is
/// tried, and with `--quick` without the simulation, with `--tests=TEXT` by tests that have this in
/// their names. True if nothing was missed.
pub(crate) fn run(root: &Path, options: &[String]) -> Result<bool> {
    install(root)?;
    let tree = copy(root)?;
    let is_part = |option: &String| PARTS.iter().any(|part| part.name == option);
    let (named, options) = options.split_at(options.iter().take_while(|&option| is_part(option)).count());
    let parts = PARTS.iter().filter(|part| named.is_empty() || named.iter().any(|name| name == part.name));
    let parts: Vec<&Part> = parts.collect();
    let quick = options.iter().any(|option| option == "--quick");
    let named = options.iter().find_map(|option| option.strip_prefix("--tests="));
    let missed = root.join("target/mutants/missed.txt");
    let mutants = list(root, &parts, options, &missed)?;
    let sites = make(&tree, &mutants)?;
    let mut programs = programs(&tree, &parts)?;
    programs.retain(|program| !(quick && program.name.starts_with("passt-tests:")));

    let scratch = root.join("target/mutants/sites");
    fs::create_dir_all(&scratch)?;
    let tests = trial::survey(
        &programs,
        |test| {
            named.is_none_or(|name| test.contains(name))
                && !SKIPPED.iter().any(|skipped| test.contains(skipped))
        },
        &scratch,
    )?;
    println!("{} tests reach what {} mutants change", tests.len(), sites.len());
    let trials = (1..).zip(&mutants).filter_map(|(id, (part, mutant))| {
        Some(Trial { id, name: &mutant.name, site: *sites.get(&id)?, programs: part.tests })
    });
    let trials: Vec<Trial<'_>> = trials.collect();
    let outcomes = trial::all(&tests, &trials)?;
    report(&mutants, &trials, &outcomes, &missed)
}

fn install(root: &Path) -> Result<()> {
    if cargo(root, &["mutants", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success()
    {
        return Ok(());
    }
    let installed = cargo(root, &["install", "--locked", "cargo-mutants"]).status()?;
    ensure!(installed.success(), "cargo-mutants could not be installed");
    Ok(())
}

/// Makes the copy like the tree, and leaves alone what is the same, so that it is not built again.
fn copy(root: &Path) -> Result<PathBuf> {
    let tree = root.join("target/mutants/tree");
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let list = Command::new("git").args(list).current_dir(root).output().context("git ls-files")?;
    let mut copied = HashSet::new();
    for name in String::from_utf8(list.stdout)?.split_terminator('\0') {
        let (from, to) = (root.join(name), tree.join(name));
        // Others are deleted, but not yet in the index.
        let Ok(content) = fs::read(&from) else { continue };
        if fs::read(&to).ok().as_ref() != Some(&content) {
            fs::create_dir_all(to.parent().context("directory")?)?;
            fs::write(&to, content)?;
        }
        copied.insert(to);
    }
    remove_others(&tree, &copied)?;
    Ok(tree)
}

/// Removes what is not in the tree: files that were moved, failures that properties noted for
/// earlier mutants.
fn remove_others(dir: &Path, copied: &HashSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            remove_others(&path, copied)?;
        } else if path.is_file() && !copied.contains(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// What there is to break. A mutant's number is its place in this list, from 1.
fn list(
    root: &Path,
    parts: &[&'static Part],
    options: &[String],
    missed: &Path,
) -> Result<Vec<(&'static Part, Mutant)>> {
    let only_missed = options.iter().any(|option| option == "--missed");
    let missed = fs::read_to_string(missed).unwrap_or_default();
    let missed: HashSet<String> = missed.lines().map(without_place).collect();
    let mut mutants = Vec::new();
    for part in parts {
        let mut command = cargo(root, &["mutants", "--list", "--json", "--package", part.package.0]);
        if !options.iter().any(|option| ["--file", "-f"].contains(&option.as_str())) {
            command.args(part.files.iter().flat_map(|glob| ["--file", glob]));
        }
        let output = command
            .args(options.iter().filter(|option| {
                !["--missed", "--quick"].contains(&option.as_str()) && !option.starts_with("--tests=")
            }))
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let all: Vec<Mutant> = serde_json::from_slice(&output.stdout)?;
        let wanted =
            all.into_iter().filter(|mutant| !only_missed || missed.contains(&without_place(&mutant.name)));
        mutants.extend(wanted.map(|mutant| (*part, mutant)));
    }
    Ok(mutants)
}

/// The name of a mutant without line and column, which change.
fn without_place(name: &str) -> String {
    name.split(':').enumerate().filter(|(index, _)| ![1, 2].contains(index)).map(|(_, part)| part).collect()
}

/// Puts all that build into the tree; for each the number that says that it is reached.
fn make(tree: &Path, mutants: &[(&Part, Mutant)]) -> Result<BTreeMap<u32, u32>> {
    let originals: BTreeMap<&str, String> = mutants
        .iter()
        .map(|(_, mutant)| Ok((mutant.file.as_str(), fs::read_to_string(tree.join(&mutant.file))?)))
        .collect::<Result<_>>()?;
    let packages: BTreeMap<&str, &str> = mutants.iter().map(|(part, _)| part.package).collect();
    let mut unviable = HashSet::new();
    for dir in packages.values() {
        let path = tree.join(dir).join("src/lib.rs");
        let text = fs::read_to_string(&path)?;
        fs::write(path, [schema::FEATURES, "\n", &text, schema::SWITCH].concat())?;
    }
    loop {
        let mut schemas: BTreeMap<&str, Schema> = BTreeMap::new();
        for (file, source) in &originals {
            let of: Vec<(u32, &Mutant)> = (1..)
                .zip(mutants)
                .filter(|(id, (_, mutant))| mutant.file == *file && !unviable.contains(id))
                .map(|(id, (_, mutant))| (id, mutant))
                .collect();
            let schema = schema::build(source, &of).with_context(|| (*file).to_owned())?;
            fs::write(tree.join(file), &schema.text)?;
            schemas.insert(file, schema);
        }
        let mut check = cargo(tree, &["check", "--lib", "--message-format=json", "--profile=mutants"]);
        check.args(packages.keys().flat_map(|package| ["--package", package]));
        let (messages, is_built) = messages(&mut check)?;
        if is_built {
            return Ok(schemas.into_values().flat_map(|schema| schema.sites).collect());
        }
        let broken: HashSet<u32> =
            messages.iter().flat_map(|message| culprits(&message["message"], &schemas)).collect();
        let errors = messages.iter().filter(|message| message["message"]["level"] == "error");
        let errors: Vec<&str> = errors.filter_map(|error| error["message"]["rendered"].as_str()).collect();
        ensure!(!broken.is_empty(), "no mutant explains {errors:#?}");
        println!("{} mutants do not build", broken.len());
        unviable.extend(broken);
    }
}

/// The mutants whose code an error of the compiler is in.
fn culprits(error: &Value, schemas: &BTreeMap<&str, Schema>) -> Vec<u32> {
    let spans = error["spans"].as_array().map_or(&[][..], Vec::as_slice);
    if error["level"] != "error" {
        return Vec::new();
    }
    let (primary, others): (Vec<&Value>, Vec<&Value>) =
        spans.iter().partition(|span| span["is_primary"] == true);
    for span in primary.into_iter().chain(others) {
        let (Some(file), Some(at)) = (span["file_name"].as_str(), span["byte_start"].as_u64()) else {
            continue;
        };
        let places = schemas.get(file).map_or(&[][..], |schema| &schema.places);
        let around =
            places.iter().filter(|(range, _)| range.contains(&usize::try_from(at).unwrap_or(usize::MAX)));
        if let Some((_, ids)) = around.min_by_key(|(range, _)| range.len()) {
            return ids.clone();
        }
    }
    Vec::new()
}

/// Runs cargo; what it says in JSON, and whether all was built.
fn messages(command: &mut Command) -> Result<(Vec<Value>, bool)> {
    // What is denied in our code is allowed in mutants, and these crates have a switch that needs
    // intrinsics.
    command.env("RUSTFLAGS", "--cap-lints=warn").env("RUSTC_BOOTSTRAP", "passt_proto,passt_engine");
    let output = command.stderr(Stdio::inherit()).output()?;
    let lines = String::from_utf8(output.stdout)?;
    let messages = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok((messages, output.status.success()))
}

/// Builds the tests of these parts.
fn programs(tree: &Path, parts: &[&Part]) -> Result<Vec<Program>> {
    let wanted: HashSet<&str> = parts.iter().flat_map(|part| part.tests).copied().collect();
    let mut build = cargo(tree, &["test", "--no-run", "--message-format=json", "--profile=mutants"]);
    for name in &wanted {
        let (package, target) = name.split_once(':').context("name of a program")?;
        build.args(["--package", package]);
        build.arg(if target == "lib" { "--lib".to_owned() } else { format!("--test={target}") });
    }
    let (messages, is_built) = messages(&mut build)?;
    ensure!(is_built, "the tests were not built");
    let mut programs = Vec::new();
    for artifact in messages.iter().filter(|message| message["reason"] == "compiler-artifact") {
        let Some(path) = artifact["executable"].as_str() else { continue };
        let dir =
            Path::new(artifact["manifest_path"].as_str().context("manifest")?).parent().context("package")?;
        let package = artifact["package_id"].as_str().context("package")?;
        let target = if artifact["target"]["kind"][0] == "lib" {
            "lib"
        } else {
            artifact["target"]["name"].as_str().context("name")?
        };
        let is = |name: &str| {
            name.split_once(':').is_some_and(|(of, name)| {
                name == target && package.split(['/', '#', '@']).any(|part| part == of)
            })
        };
        let Some(name) = wanted.iter().find(|name| is(name)) else { continue };
        programs.push(Program { name: (*name).to_owned(), path: path.into(), dir: dir.into() });
    }
    ensure!(programs.len() == wanted.len(), "not all programs of tests were built");
    Ok(programs)
}

/// Prints a table of modules, and keeps a list of what was missed.
fn report(
    mutants: &[(&Part, Mutant)],
    trials: &[Trial<'_>],
    outcomes: &[Outcome],
    missed: &Path,
) -> Result<bool> {
    let outcomes: BTreeMap<u32, Outcome> =
        trials.iter().map(|trial| trial.id).zip(outcomes.iter().copied()).collect();
    let mut table: BTreeMap<&str, [u64; 4]> = BTreeMap::new();
    let (mut missed_names, mut late_names, mut unviable_names) =
        (String::new(), String::new(), String::new());
    for (id, (_, mutant)) in (1..).zip(mutants) {
        let (column, names) = match outcomes.get(&id) {
            Some(Outcome::Caught) => (0, None),
            Some(Outcome::Missed) => (1, Some(&mut missed_names)),
            Some(Outcome::Late) => (2, Some(&mut late_names)),
            None => (3, Some(&mut unviable_names)),
        };
        for row in [&mutant.file, "all"] {
            table.entry(row).or_default()[column] += 1;
        }
        if let Some(names) = names {
            names.push_str(&mutant.name);
            names.push('\n');
        }
    }
    fs::write(missed, &missed_names)?;
    fs::write(missed.with_file_name("late.txt"), late_names)?;
    fs::write(missed.with_file_name("unviable.txt"), unviable_names)?;
    println!("{:>7}{:>7}{:>7}{:>9}  module", "caught", "missed", "late", "unviable");
    for (file, [caught, missed, late, unviable]) in &table {
        println!("{caught:>7}{missed:>7}{late:>7}{unviable:>9}  {file}");
    }
    Ok(missed_names.is_empty())
}
