//! Debian's `SELinux` policy with modules added to it, as one file for a kernel. The package is
//! unpacked, not installed; its modules are linked once, and kept.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::packages::{cached, output, unpack, with_fresh_lists};

const PACKAGE: &str = "selinux-policy-default";
/// The name of the policy in its store.
const STORE: &str = "default";

/// Links modules to Debian's, below `dir`, and returns the policy's file. An error is one line, and
/// final.
pub fn policy_with(dir: &Path, modules: &[PathBuf]) -> Result<PathBuf> {
    let parts = cached(&format!("selinux-{STORE}"), make_parts)?;
    let root = dir.join("policy");
    output(dir, "cp", &["-r", &parts.to_string_lossy(), &root.to_string_lossy()])?;
    add(&root, modules)?;
    let made = fs::read_dir(root.join("etc/selinux").join(STORE).join("policy"))?;
    let files: Vec<_> = made.collect::<Result<_, _>>()?;
    Ok(files.first().context("no policy")?.path())
}

/// Adds modules to the store below `root`, and makes the policy's file.
fn add(root: &Path, modules: &[PathBuf]) -> Result<()> {
    let root = root.to_string_lossy();
    let files = modules.iter().map(|path| path.to_string_lossy());
    let files: Vec<_> = files.collect();
    let mut words = vec!["-p", &root, "-s", STORE, "-n", "-i"];
    words.extend(files.iter().map(AsRef::as_ref));
    output(Path::new("/"), "semodule", &words).map(drop)
}

/// Leaves in `work/parts` a store with all of Debian's modules.
fn make_parts(work: &Path) -> Result<()> {
    with_fresh_lists(|| output(work, "apt-get", &["download", "-q", PACKAGE]))?;
    unpack(work, work)?;
    let parts = work.join("parts");
    for directory in ["etc/selinux", "var/lib/selinux"] {
        fs::create_dir_all(parts.join(directory))?;
    }
    fs::rename(work.join("root/etc/selinux").join(STORE), parts.join("etc/selinux").join(STORE))?;
    let configuration = format!("SELINUX=permissive\nSELINUXTYPE={STORE}\n");
    fs::write(parts.join("etc/selinux/config"), configuration)?;
    let modules = fs::read_dir(work.join("root/usr/share/selinux").join(STORE))?;
    let modules: Vec<_> = modules.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    let is_package = |path: &PathBuf| path.to_string_lossy().ends_with(".pp.bz2");
    add(&parts, &modules.into_iter().filter(is_package).collect::<Vec<_>>())
}
