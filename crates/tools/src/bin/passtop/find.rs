//! Instances, found by their sockets.
//!
//! Every listening UNIX socket with a path is in `/proc/net/unix` (proc(5)). Which of these are
//! control sockets their greeting tells: so those are asked whose name looks like it, and that this
//! user may connect to. Anybody may leave some that say nothing: so there is a time for all, and
//! those of this user and of root come first.

#![expect(clippy::disallowed_methods, reason = "who waits lives in real time")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use passt_tools::connect;

/// Flag of a socket that accepts connections (`__SO_ACCEPTCON`, include/linux/net.h).
const ACCEPTS: u32 = 1 << 16;
/// How long a server may take to greet.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long all together may take.
const ALL: Duration = Duration::from_secs(5);

/// How many are named where there are several.
const SHOWN: usize = 8;

/// The only instance that there is.
pub(crate) fn only() -> anyhow::Result<PathBuf> {
    let found = all();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!("no passt or pasta with --conf-path found; a path says where there is one"),
        several => {
            let mut names: Vec<_> = several.iter().take(SHOWN).map(|path| named(path)).collect();
            let others = several.len().saturating_sub(SHOWN);
            names.extend((others > 0).then(|| format!("and {others} more")));
            bail!("several found, one must be named: {}", names.join(" "))
        }
    }
}

/// A path as one of several in a line.
fn named(path: &Path) -> String {
    let path = path.display().to_string();
    if path.contains(' ') { format!("'{path}'") } else { path }
}

/// Control sockets that this user can reach.
fn all() -> Vec<PathBuf> {
    // Names are bytes: one that is no text must not hide the others.
    let text = fs::read("/proc/net/unix").unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n');
    let mut paths: Vec<_> = lines.filter_map(listening).filter(|path| looks_like_one(path)).collect();
    let user = rustix::process::geteuid().as_raw();
    let is_strangers = |path: &PathBuf| !fs::metadata(path).is_ok_and(|file| [0, user].contains(&file.uid()));
    paths.sort_by_cached_key(|path| (is_strangers(path), path.clone()));
    paths.dedup();
    let begun = Instant::now();
    paths.retain(|path| is_one(path, PATIENCE.min(ALL.saturating_sub(begun.elapsed()))));
    paths
}

/// The path of a socket that listens, from its line: all that is behind the inode and a blank.
fn listening(line: &[u8]) -> Option<PathBuf> {
    let mut rest = line;
    let mut field = || {
        let text = rest.trim_ascii_start();
        let (field, behind) = text.split_at(text.iter().position(|byte| *byte == b' ')?);
        rest = behind;
        std::str::from_utf8(field).ok()
    };
    let [_num, _count, _protocol, flags] = [field()?, field()?, field()?, field()?];
    let [_kind, _state, _inode] = [field()?, field()?, field()?];
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let path = rest.strip_prefix(b" ").filter(|path| path.starts_with(b"/"))?;
    (flags & ACCEPTS != 0).then(|| PathBuf::from(OsStr::from_bytes(path)))
}

/// Others are not to be disturbed: a passt's own socket may have one client only.
fn looks_like_one(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ["pasta", "passt", "pesto", "ctl", "control", "conf"].iter().any(|part| name.contains(part))
        && !name.starts_with("passt_")
}

fn is_one(path: &Path, patience: Duration) -> bool {
    !patience.is_zero()
        && connect::greeted(path, patience).is_ok_and(|greeted| greeted.greeting().has_messages())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_listen() {
        for (line, expected) in [
            ("ffff: 00000002 00000000 00010000 0001 01 123 /run/pasta.sock", Some("/run/pasta.sock")),
            ("ffff: 00000003 00000000 00000000 0001 03 123 /run/pasta.sock", None),
            ("ffff: 00000002 00000000 00010000 0001 01 123 @abstract", None),
            ("ffff: 00000002 00000000 00010000 0001 01 123 @/run/pasta.sock", None),
            ("ffff: 00000002 00000000 00010000 0001 01 123", None),
            ("ffff: 00000002 00000000 00010000 0001 01    12 /run/a  b/pasta ", Some("/run/a  b/pasta ")),
            ("Num       RefCount Protocol Flags    Type St Inode Path", None),
        ] {
            assert_eq!(listening(line.as_bytes()), expected.map(PathBuf::from), "{line}");
        }
        let line = b"ffff: 00000002 00000000 00010000 0001 01 123 /run/\xffpasta";
        assert_eq!(listening(line), Some(PathBuf::from(OsStr::from_bytes(b"/run/\xffpasta"))));
        assert!(looks_like_one(Path::new("/run/pasta.sock")));
        assert!(!looks_like_one(Path::new("/tmp/passt_1.socket")));
    }
}
