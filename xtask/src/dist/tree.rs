//! The files of an installation, as they lie below `/`, and the archive of them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::programs::{Program, Target};
use super::version::Version;
use crate::book;

/// Files that go there as they are: from where in the workspace, to where, and with which end of
/// the name.
const FILES: [(&str, &str, &str); 9] = [
    ("contrib/apparmor", "etc/apparmor.d", ""),
    ("contrib/apparmor/abstractions", "etc/apparmor.d/abstractions", ""),
    ("contrib/vhost-user", "usr/share/qemu/vhost-user", ".json"),
    ("contrib/systemd", "usr/lib/systemd/user", ".service"),
    ("contrib/selinux", "usr/share/doc/passt-rs/selinux", ""),
    ("contrib/grafana", "usr/share/doc/passt-rs/grafana", ".json"),
    ("docs", "usr/share/doc/passt-rs", ".md"),
    ("contrib/completions", "usr/share/fish/vendor_completions.d", ".fish"),
    (".", "usr/share/doc/passt-rs", ".md"),
];

/// Further names of the first program, which tells by its own what it is. AppArmor goes by the path
/// that a symbolic link leads to, SELinux by the file: what may do other things is another file.
const COPIES: [&str; 2] = ["pasta", "slirp4netns"];
/// Those that may do the same.
const LINKS: [&str; 1] = ["vpnkit"];

/// The directory that stands for `/`.
pub(super) struct Tree {
    pub(super) root: PathBuf,
}

impl Tree {
    /// Puts everything to `to`, which is emptied before.
    pub(super) fn make(workspace: &Path, to: &Path, programs: &[Program]) -> Result<Self> {
        empty(to)?;
        let tree = Self { root: to.to_owned() };
        for program in programs {
            tree.put(&program.path, &format!("usr/bin/{}", program.name), 0o755)?;
        }
        let (bin, passt) = (to.join("usr/bin"), to.join("usr/bin/passt"));
        for name in COPIES {
            fs::copy(&passt, bin.join(name))?;
        }
        for name in LINKS {
            fs::hard_link(&passt, bin.join(name))?;
        }
        for (from, to, end) in FILES {
            for file in files(&workspace.join(from), end)? {
                tree.put(&file, &format!("{to}/{}", name(&file)), 0o644)?;
            }
        }
        for page in files(&workspace.join("docs/man"), ".1")? {
            tree.compressed(&page, &format!("usr/share/man/man1/{}.gz", name(&page)))?;
        }
        tree.put_book(workspace)?;
        for file in files(&workspace.join("contrib/completions"), ".bash")? {
            let command = name(&file).trim_end_matches(".bash").to_owned();
            tree.put(&file, &format!("usr/share/bash-completion/completions/{command}"), 0o644)?;
        }
        for file in files(&workspace.join("contrib/completions"), ".zsh")? {
            let command = name(&file).trim_end_matches(".zsh").to_owned();
            tree.put(&file, &format!("usr/share/zsh/vendor-completions/_{command}"), 0o644)?;
        }
        tree.put(&workspace.join("LICENSE"), "usr/share/doc/passt-rs/LICENSE", 0o644)?;
        Ok(tree)
    }

    /// Puts the documents there as manual pages.
    fn put_book(&self, workspace: &Path) -> Result<()> {
        if !book::can() {
            println!("without the documents as manual pages: lowdown is not installed");
            return Ok(());
        }
        let dir = tempfile::tempdir()?;
        for (name, page) in book::pages(workspace)? {
            let file = dir.path().join(&name);
            fs::write(&file, page)?;
            self.compressed(&file, &format!("usr/share/man/man7/{name}.gz"))?;
        }
        Ok(())
    }

    fn put(&self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let to = self.place(to)?;
        fs::copy(from, &to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
        Ok(fs::set_permissions(&to, fs::Permissions::from_mode(mode))?)
    }

    /// Puts a file there without a name or a time in what compresses it.
    fn compressed(&self, from: &Path, to: &str) -> Result<()> {
        let output = Command::new("gzip").args(["-9n", "--stdout"]).arg(from).stdin(Stdio::null()).output();
        let output = output.context("gzip")?;
        ensure!(output.status.success(), "gzip {}: {}", from.display(), output.status);
        let to = self.place(to)?;
        Ok(fs::File::create(&to)?.write_all(&output.stdout)?)
    }

    /// Where a file goes, in a directory that is there.
    fn place(&self, to: &str) -> Result<PathBuf> {
        let to = self.root.join(to);
        fs::create_dir_all(to.parent().context("a directory")?)?;
        Ok(to)
    }

    /// An archive of everything in `dir`; its name.
    pub(super) fn archive(&self, dir: &Path, target: &Target, version: &Version) -> Result<String> {
        let name = format!("passt-{}-{}.tar.xz", version.full, target.arch());
        let mut tar = Command::new("tar");
        tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=ustar"]);
        tar.arg(format!("--mtime=@{}", version.time)).arg("-cJf").arg(dir.join(&name));
        tar.arg("-C").arg(&self.root).arg(".").env("XZ_OPT", "-9 -T1").stdin(Stdio::null());
        ensure!(tar.status().context("tar")?.success(), "no archive");
        Ok(name)
    }
}

/// A directory with nothing in it.
pub(super) fn empty(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())
}

/// Files in a directory whose names end so, in order.
fn files(dir: &Path, end: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_file() && name(&path).ends_with(end) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn name(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}
