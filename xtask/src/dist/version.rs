//! What a build is called: the workspace's version, and the commit with its date.

use std::path::Path;

use anyhow::{Result, ensure};

use passt_tests::packages::output;

/// A version, of a commit.
pub(super) struct Version {
    /// As programs tell it and packages have it, `0.1.0~git20261129.3167fe3`: before the release
    /// `0.1.0+git…`, after the C program's `0.0~git…`, and in the order of dates.
    pub(super) full: String,
    /// The time of the commit, in seconds since 1970: that of all files.
    pub(super) time: String,
}

impl Version {
    /// That of the commit that is checked out in `root`.
    pub(super) fn of(root: &Path) -> Result<Self> {
        let line = output(
            root,
            "git",
            &["log", "-1", "--abbrev=7", "--date=format-local:%Y%m%d", "--format=%cd.%h %ct"],
        )?;
        let mut words = line.split_whitespace();
        let (commit, time) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        ensure!(!commit.is_empty() && !time.is_empty(), "git knows no commit");
        let changed = output(root, "git", &["status", "--porcelain", "--untracked-files=no"])?;
        let mark = if changed.is_empty() { "" } else { ".changed" };
        let release = env!("CARGO_PKG_VERSION");
        let tags = output(root, "git", &["tag", "--points-at", "HEAD"])?;
        let is_release = tags.lines().any(|tag| tag.strip_prefix('v') == Some(release));
        let sign = if is_release { '+' } else { '~' };
        let full = format!("{release}{sign}git{commit}{mark}");
        Ok(Self { full, time: time.to_owned() })
    }
}
