//! What is built in: its licences, where it comes from, whether faults of it are known (`cargo deny`,
//! by `deny.toml`), and which compiler it needs.
//!
//! The list of known faults is fetched from its public repository. Where that is out of reach, this
//! one check is skipped, and said to be.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::cargo;
use crate::tally::Tally;

/// What `deny.toml` has rules for, besides known faults.
const RULES: [&str; 3] = ["licenses", "bans", "sources"];

/// The packages that the programs are in.
const PROGRAMS: [&str; 2] = ["passt", "passt-tools"];

/// Documents that tell the oldest compiler.
const TOLD: [&str; 2] = ["CONTRIBUTING.md", "docs/installing.md"];

/// All of it, as tests.
pub(crate) fn check(root: &Path, tally: &mut Tally) -> Result<()> {
    let newer = needing_newer(root)?;
    for line in &newer {
        println!("{line}");
    }
    tally.record(newer.is_empty(), "the oldest compiler that is supported");
    let program = match deny() {
        Ok(program) => program,
        Err(error) => {
            tally.skip(&format!("licences and known faults of dependencies: cargo-deny: {error:#}"));
            return Ok(());
        }
    };
    let (passed, said) = run(&program, root, &RULES)?;
    print!("{said}");
    tally.record(passed, "licences and sources of dependencies");
    let (passed, said) = run(&program, root, &["advisories"])?;
    if !passed && said.contains("failed to fetch advisory database") {
        tally.skip("known faults of dependencies: their list is out of reach");
    } else {
        print!("{said}");
        tally.record(passed, "known faults of dependencies");
    }
    Ok(())
}

/// The packages in the programs that say they need a newer compiler than the workspace's
/// `rust-version`, and the documents that tell another one; a line each.
fn needing_newer(root: &Path) -> Result<Vec<String>> {
    let output = cargo(root, &["metadata", "--locked", "--format-version=1"])
        .stderr(Stdio::inherit())
        .output()
        .context("cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", output.status);
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = list(&metadata["packages"]);
    let own = packages.iter().find(|package| package["name"] == "passt").context("package passt")?;
    let own = own["rust_version"].as_str().context("rust-version")?;
    let parts = parts(&metadata);
    ensure!(parts.len() > PROGRAMS.len(), "the programs are made of nothing");
    let mut wrong = Vec::new();
    for package in packages.iter().filter(|package| parts.contains(&&package["id"])) {
        if let Some(needed) = package["rust_version"].as_str()
            && numbers(needed) > numbers(own)
        {
            wrong.push(format!("{} needs Rust {needed}, newer than {own}", package["name"]));
        }
    }
    let told = format!("Rust {own} or newer");
    for document in TOLD {
        if !fs::read_to_string(root.join(document)).context(document)?.contains(&told) {
            wrong.push(format!("{document} does not say '{told}'"));
        }
    }
    Ok(wrong)
}

/// What the programs are built of: packages by their name for cargo, without those of tests.
fn parts(metadata: &Value) -> Vec<&Value> {
    let nodes = list(&metadata["resolve"]["nodes"]);
    let is_program = |package: &&Value| PROGRAMS.iter().any(|name| package["name"] == *name);
    let mut parts: Vec<_> =
        list(&metadata["packages"]).iter().filter(is_program).map(|package| &package["id"]).collect();
    let mut next = 0;
    while let Some(&part) = parts.get(next) {
        let node = nodes.iter().find(|node| node["id"] == *part);
        for other in node.iter().flat_map(|node| list(&node["deps"])) {
            let is_built_in = list(&other["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev");
            if is_built_in && !parts.contains(&&other["pkg"]) {
                parts.push(&other["pkg"]);
            }
        }
        next += 1;
    }
    parts
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The first two numbers of a version.
fn numbers(version: &str) -> [u32; 2] {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    [(); 2].map(|()| numbers.next().unwrap_or(0))
}

/// cargo-deny: the one that is installed, or else one in the cache of the tests, which is built if
/// it is not there.
fn deny() -> Result<PathBuf> {
    if crate::machine::installed("cargo-deny") {
        return Ok("cargo-deny".into());
    }
    let made = passt_tests::packages::cached_alone("cargo-deny", |work| {
        println!("Building cargo-deny");
        let mut install = cargo(work, &["install", "--quiet", "--locked", "--debug", "cargo-deny"]);
        // It is built to be run once or a few times.
        install.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_TARGET_DIR", work.join("target"));
        ensure!(install.arg("--root").arg(work.join("parts")).status()?.success(), "it does not build");
        Ok(())
    })?;
    Ok(made.join("bin/cargo-deny"))
}

/// Whether it finds nothing, and what it says.
fn run(program: &Path, root: &Path, checks: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new(program);
    command
        .arg("--manifest-path")
        .arg(root.join("Cargo.toml"))
        .args(["--color", "never", "--locked", "check"]);
    command.args(["--hide-inclusion-graph"]).args(checks).stdin(Stdio::null());
    let variables: BTreeMap<&str, OsString> =
        std::env::var_os("CARGO").map(|cargo| ("CARGO", cargo)).into_iter().collect();
    let output = command.envs(variables).output().with_context(|| program.display().to_string())?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_of_the_programs() {
        let text = r#"{
            "packages": [{"id": "p", "name": "passt"}, {"id": "t", "name": "passt-tests"}],
            "resolve": {"nodes": [
                {"id": "p", "deps": [
                    {"pkg": "a", "dep_kinds": [{"kind": null}]},
                    {"pkg": "d", "dep_kinds": [{"kind": "dev"}]}
                ]},
                {"id": "a", "deps": [
                    {"pkg": "b", "dep_kinds": [{"kind": "build"}, {"kind": "dev"}]},
                    {"pkg": "p", "dep_kinds": [{"kind": null}]}
                ]},
                {"id": "t", "deps": [{"pkg": "s", "dep_kinds": [{"kind": null}]}]}
            ]}
        }"#;
        assert_eq!(parts(&serde_json::from_str(text).expect("JSON")), ["p", "a", "b"]);
    }

    #[test]
    fn versions_are_compared_by_numbers() {
        assert!(numbers("1.100") > numbers("1.88") && numbers("1.88.0") == numbers("1.88"));
        assert!(numbers("2") > numbers("1.88") && numbers("1") < numbers("1.88"));
    }
}
