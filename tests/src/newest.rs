//! The newest C program, to compare with: Debian's package of its unstable suite, which follows
//! releases within days.
//!
//! It needs a newer C library than this machine may have. So it is unpacked with its own, not
//! installed, and started by its own loader.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::packages::{by_loader, cached, output, take_from_suite};

const SUITE: &str = "unstable";
const PACKAGE: &str = "passt";
/// The loader. The C program looks at the name of its executable, which is the loader's here: with
/// this in it, it does not try to execute a build for the processor's AVX2 beside it.
const LOADER: &str = "loader.avx2";
/// Its client for forwarded ports.
const CLIENT: &str = "pesto";
/// The builds of passt, which are pasta's too: for any processor, and for those with AVX2.
const BUILDS: [&str; 2] = ["passt", "passt.avx2"];

/// Files of the newest C program, which is passt and pasta by its first argument.
#[derive(Clone, Debug)]
pub struct Newest {
    dir: PathBuf,
    version: String,
}

impl Newest {
    /// Copies it, from the cache or from packages, to a new directory `newest` in `dir`, as the
    /// cache may be closed to other users. An error is one line, and final.
    pub fn install(dir: &Path) -> Result<Self> {
        ensure!(cfg!(target_arch = "x86_64"), "the packages are of x86_64");
        let parts = cached(&format!("passt-pesto-{SUITE}"), make_parts)?;
        let dir = dir.join("newest");
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        for entry in fs::read_dir(&parts)? {
            let from = entry?.path();
            fs::copy(&from, dir.join(from.file_name().context("a name")?))?;
        }
        let version = fs::read_to_string(dir.join("version"))?.trim().to_owned();
        Ok(Self { dir, version })
    }

    /// The package's name and version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The program, which is started by [`Self::loader`].
    pub fn program(&self) -> PathBuf {
        self.dir.join(BUILDS[usize::from(has_avx2())])
    }

    /// The client, which is started by [`Self::loader`] as well.
    pub fn client(&self) -> PathBuf {
        self.dir.join(CLIENT)
    }

    /// The words before [`Self::program`] that start it as `passt` or `pasta`, divided by spaces.
    pub fn loader(&self, name: &str) -> String {
        let words = by_loader(&self.dir.join(LOADER), &self.dir);
        let words = words.map(|word| word.to_string_lossy().into_owned());
        format!("{} --argv0 {name}", words.join(" "))
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

/// Leaves in `work/parts` the builds, the C library, its loader, and a file with the version.
fn make_parts(work: &Path) -> Result<()> {
    take_from_suite(work, SUITE, &[PACKAGE])?;
    let archives = fs::read_dir(work.join("cache/archives"))?.collect::<Result<Vec<_>, _>>()?;
    let is_package = |path: &PathBuf| path.to_string_lossy().contains(&format!("/{PACKAGE}_"));
    let archive = archives.into_iter().map(|entry| entry.path()).find(is_package).context("no package")?;
    let format = "--showformat=${Package} ${Version}\n";
    let version = output(work, "dpkg-deb", &["--show", format, &archive.to_string_lossy()])?;
    fs::write(work.join("parts/version"), version)?;
    let library = "lib/x86_64-linux-gnu";
    let files = BUILDS.into_iter().chain([CLIENT]).map(|name| (format!("bin/{name}"), name));
    let libraries = [("ld-linux-x86-64.so.2", LOADER), ("libc.so.6", "libc.so.6")]
        .map(|(from, to)| (format!("{library}/{from}"), to));
    for (from, to) in files.chain(libraries) {
        fs::copy(work.join("root/usr").join(&from), work.join("parts").join(to)).context(from)?;
    }
    Ok(())
}
