//! A resolv.conf of its own for the command that pasta starts.
//!
//! The host's file is covered in the command's mount namespace, and stays as it is. Of a symbolic link
//! it is the link itself that is covered: what it points to may be missing, or be replaced by the host,
//! whereupon the kernel would uncover it.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

/// The file.
const FILE: &str = "/etc/resolv.conf";
/// Its directory, which is there if it is: a place for another file system, for a moment.
const DIR: &str = "/etc";
/// The new file there. Its name is not the other one's for access control that goes by names.
const NEW: &str = "/etc/resolv.conf.pasta";

/// Has `/etc/resolv.conf` be a file with this text, in the mount namespace of this process. That has
/// to be its own, and not to share mounts with others.
pub(super) fn cover(text: &str) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let places: Vec<OwnedFd> = [flags | OFlags::NOFOLLOW, flags]
        .into_iter()
        .filter_map(|flags| open(FILE, flags, Mode::empty()).ok())
        .collect();
    if places.is_empty() {
        return Err(rustix::io::Errno::NOENT.into());
    }
    let flags = MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOSUID;
    mount("none", DIR, "tmpfs", flags, c"mode=0755,size=256k,nr_inodes=4")?;
    let written = write(text);
    let covered = written.and_then(|()| {
        // Where a link can't be covered, what it points to may be.
        let mut attempts =
            places.iter().map(|place| mount_bind(NEW, format!("/proc/self/fd/{}", place.as_raw_fd())));
        let first = attempts.next().unwrap_or(Ok(()));
        first.or_else(|error| attempts.find(Result::is_ok).unwrap_or(Err(error))).map_err(io::Error::from)
    });
    // The file stays where it is mounted now.
    unmount(DIR, UnmountFlags::DETACH)?;
    covered
}

/// Writes the new file, for everybody to read.
fn write(text: &str) -> io::Result<()> {
    std::fs::write(NEW, text)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(NEW, mode)
}
