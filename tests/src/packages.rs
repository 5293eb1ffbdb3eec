//! Files out of Debian packages that are not installed: downloaded and unpacked
//! once, and kept in the user's cache.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

/// Has the keys of the next release too, in Debian 12 since an update.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The directory of this name in the cache. If there is none, it becomes what
/// `make` leaves as `parts` in the directory that it is given.
pub fn cached(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    // Apt's lists are fetched by one at a time.
    cached_under("lock", name, make)
}

/// The same for what others need not wait for: it uses no lists of this machine's apt.
pub fn cached_alone(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    cached_under(&format!("{name}.lock"), name, make)
}

fn cached_under(lock: &str, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache()?;
    let parts = cache.join(name);
    if parts.exists() {
        return Ok(parts);
    }
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    // Of processes that need the same, one makes it.
    let lock = File::create(cache.join(lock)).context("a lock in the cache")?;
    flock(&lock, FlockOperation::LockExclusive).context("a lock in the cache")?;
    if !parts.exists() {
        let work = parts.with_extension(std::process::id().to_string());
        fs::create_dir_all(work.join("parts")).with_context(|| work.display().to_string())?;
        let made = make(&work).and_then(|()| Ok(fs::rename(work.join("parts"), &parts)?));
        drop(fs::remove_dir_all(&work));
        made?;
    }
    Ok(parts)
}

/// A directory that outlives the tests.
fn cache() -> Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty());
    Ok(base.map(PathBuf::from).or_else(home).context("no HOME")?.join("passt-tests"))
}

/// What `attempt` gets from apt. Where it fails, apt's lists may be empty, as
/// in a new container, or name packages that are gone: they are fetched, and
/// it is tried again.
pub(crate) fn with_fresh_lists<T>(attempt: impl Fn() -> Result<T>) -> Result<T> {
    attempt().or_else(|_| {
        output(Path::new("/"), "apt-get", &["update", "-q"])?;
        attempt()
    })
}

/// Unpacks packages of another Debian suite to `work/root`, with all that they need, down to the C
/// library. Nothing is installed.
pub(crate) fn take_from_suite(work: &Path, suite: &str, packages: &[&str]) -> Result<()> {
    Suite::open(work, suite, "amd64")?.take(packages)
}

/// The packages of another Debian suite, for an architecture of one's choice.
pub(crate) struct Suite<'a> {
    work: &'a Path,
    options: Vec<String>,
}

impl<'a> Suite<'a> {
    /// Fetches the suite's lists to the directory `work`.
    pub(crate) fn open(work: &'a Path, suite: &str, architecture: &str) -> Result<Self> {
        let mirror = with_fresh_lists(mirror)?;
        let source = format!("deb [signed-by={KEYRING} target=Packages lang=none] {mirror} {suite} main\n");
        fs::write(work.join("sources.list"), source)?;
        // Of the machine's apt nothing is used but how it reaches the network.
        fs::create_dir_all(work.join("state/lists/partial"))?;
        fs::create_dir_all(work.join("cache/archives/partial"))?;
        let at = |key: &str, name: &str| format!("{key}={}", work.join(name).display());
        let options = vec![
            at("Dir::State", "state"),
            at("Dir::State::Lists", "state/lists"),
            at("Dir::Cache", "cache"),
            at("Dir::Cache::Archives", "cache/archives"),
            at("Dir::Etc::SourceList", "sources.list"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Dir::Etc::Preferences=/dev/null".to_owned(),
            "Dir::Etc::PreferencesParts=/dev/null".to_owned(),
            // With nothing installed, all that is needed is downloaded.
            "Dir::State::status=/dev/null".to_owned(),
            format!("APT::Architecture={architecture}"),
            format!("APT::Architectures={architecture}"),
            "APT::Sandbox::User=root".to_owned(),
            // A mirror that follows late, or no more, serves lists that are signed and out of date.
            "Acquire::Check-Valid-Until=false".to_owned(),
            // A mirror that lacks the suite is an error, not a warning.
            "APT::Update::Error-Mode=any".to_owned(),
        ];
        let this = Self { work, options };
        this.apt("apt-get", &["update", "-q"])
            .with_context(|| format!("no package lists of Debian {suite}"))?;
        Ok(this)
    }

    /// Unpacks packages to `work/root`, with all that they need.
    fn take(&self, packages: &[&str]) -> Result<()> {
        let install = ["install", "-qy", "--download-only", "--no-install-recommends"];
        self.apt("apt-get", &[&install, packages].concat())?;
        unpack(self.work, &self.work.join("cache/archives"))
    }

    /// Unpacks packages to `work/root`, and nothing that they need.
    pub(crate) fn take_alone(&self, packages: &[&str]) -> Result<()> {
        self.apt("apt-get", &[&["download", "-q"], packages].concat())?;
        unpack(self.work, self.work)
    }

    /// The packages that one depends on by these names, directly or by others of them, and itself.
    pub(crate) fn with_needs(&self, package: &str, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let mut found = vec![package.to_owned()];
        let mut next = 0;
        while let Some(package) = found.get(next) {
            let listed = self.apt("apt-cache", &["depends", "--important", package])?;
            let names = listed.lines().filter_map(|line| line.trim().split_once("Depends: "));
            for name in names.map(|(_, name)| name).filter(|name| is_wanted(name)) {
                if !found.iter().any(|other| other == name) {
                    found.push(name.to_owned());
                }
            }
            next += 1;
        }
        Ok(found)
    }

    fn apt(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let options = self.options.iter().flat_map(|option| ["-o", option]);
        output(self.work, program, &options.chain(arguments.iter().copied()).collect::<Vec<_>>())
    }
}

/// A file of the unpacked packages in `work/root`, which may or may not have it under /usr.
pub(crate) fn merged(work: &Path, path: &str) -> PathBuf {
    let usr = work.join("root/usr").join(path);
    if usr.exists() { usr } else { work.join("root").join(path) }
}

/// A name for what is made from a text.
pub fn short_hash(text: &str) -> String {
    let hash = Sha256::digest(text).iter().take(4).fold(0_u32, |hash, byte| hash << 8 | u32::from(*byte));
    format!("{hash:08x}")
}

/// Where this machine gets Debian's packages from.
pub(crate) fn mirror() -> Result<String> {
    let wanted = ["$(REPO_URI)", "Label: Debian", "Created-By: Packages", "Component: main"];
    let arguments: Vec<&str> = ["indextargets", "--format"].into_iter().chain(wanted).collect();
    let listed = output(Path::new("/"), "apt-get", &arguments)?;
    Ok(listed.lines().next().context("apt knows no mirror of Debian")?.to_owned())
}

/// Unpacks all packages in a directory to `work/root`.
pub(crate) fn unpack(work: &Path, packages: &Path) -> Result<()> {
    for entry in fs::read_dir(packages)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            output(work, "dpkg-deb", &["-x", &path.to_string_lossy(), "root"])?;
        }
    }
    Ok(())
}

/// The words before a program that start it by its own loader, with libraries from one directory.
pub(crate) fn by_loader(loader: &Path, libraries: &Path) -> [OsString; 3] {
    [loader.into(), "--library-path".into(), libraries.into()]
}

/// Runs a program in a directory to its success and returns its output.
pub fn output(dir: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).stdin(Stdio::null());
    let output = command.output().with_context(|| program.to_owned())?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let reason = errors.lines().last().unwrap_or("no reason given");
    ensure!(output.status.success(), "{program} {}: {reason}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
