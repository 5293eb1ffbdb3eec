//! Avahi and the D-Bus daemon that it needs, for places that each have their own. The packages are
//! unpacked, not installed: where they are, a daemon would answer for the machine itself.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::packages::{cached, output, take_from_suite};
use crate::{Net, Place, Process, skip};

const SUITE: &str = "stable";
const PACKAGES: [&str; 3] = ["avahi-daemon", "avahi-utils", "dbus-daemon"];
const PROGRAMS: [&str; 4] =
    ["usr/sbin/avahi-daemon", "usr/bin/avahi-browse", "usr/bin/avahi-publish", "usr/bin/dbus-daemon"];
const SCRIPT: &str = include_str!("avahi.sh");

/// The programs, where each user can read them.
pub struct Avahi(PathBuf);

impl Avahi {
    /// None if the test had to be skipped.
    pub fn new(net: &Net) -> Option<Self> {
        if !cfg!(target_arch = "x86_64") {
            skip("the packages are of x86_64");
            return None;
        }
        let parts = match cached(&format!("avahi-{SUITE}"), make_parts) {
            Ok(parts) => parts,
            Err(error) => {
                skip(&format!("no avahi: {error:#}"));
                return None;
            }
        };
        let to = net.dir().join("avahi");
        output(Path::new("/"), "cp", &["-r", &parts.to_string_lossy(), &to.to_string_lossy()])
            .expect("a copy");
        fs::write(to.join("run.sh"), SCRIPT).expect("a script");
        Some(Self(to))
    }

    /// Starts the daemons in a place, for a host of this name, which publishes a service of the same
    /// name. They look for others, and name them with their addresses in lines of `=;`.
    pub fn start(&self, place: &dyn Place, name: &str) -> Process {
        place.start(&format!("unshare --mount sh {0}/run.sh {0} {name}", self.0.display()))
    }
}

/// Leaves in `work/parts` the programs and the libraries of all of them.
fn make_parts(work: &Path) -> Result<()> {
    take_from_suite(work, SUITE, &PACKAGES)?;
    let (root, to) = (work.join("root"), work.join("parts"));
    fs::create_dir_all(to.join("bin"))?;
    fs::create_dir_all(to.join("lib"))?;
    for program in PROGRAMS {
        let name = Path::new(program).file_name().context("a name")?;
        fs::rename(root.join(program), to.join("bin").join(name)).context(program)?;
    }
    for file in fs::read_dir(root.join("usr/lib/x86_64-linux-gnu"))? {
        let file = file?.path();
        let name = file.file_name().context("a name")?;
        if file.is_file() && name.to_string_lossy().contains(".so") {
            fs::copy(&file, to.join("lib").join(name)).with_context(|| file.display().to_string())?;
        }
    }
    Ok(())
}
