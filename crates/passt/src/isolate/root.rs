//! An empty, read-only root directory in place of the one that we were started with.

use std::ffi::CStr;
use std::io;

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_move, unmount,
};
use rustix::process::{chdir, chroot, pivot_root};

/// Directories to mount the new root on: any that is there will do.
const PLACES: [&str; 5] = ["/tmp", "/run", "/proc", "/sys", "/dev"];

/// Makes an empty file system the root and leaves the old one, in the mount namespace of this
/// thread, which must be its own. With `fallback` the old root stays mounted below, out of reach,
/// where it can't be left: an initial ramdisk's (`pivot_root(2)`, NOTES).
pub(super) fn leave(fallback: bool) -> io::Result<()> {
    // Nothing of what follows is to be seen in other mount namespaces, nor to be bound.
    mount_change("/", MountPropagationFlags::UNBINDABLE | MountPropagationFlags::REC)?;
    enter_empty()?;
    match pivot_root(".", ".") {
        Ok(()) => unmount(".", UnmountFlags::DETACH)?,
        Err(_) if fallback => {
            mount_move(".", "/")?;
            chroot(".")?;
        }
        Err(error) => return Err(error.into()),
    }
    chdir("/")?;
    Ok(())
}

/// Mounts an empty file system and goes there.
fn enter_empty() -> io::Result<()> {
    let flags = MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::RDONLY;
    let limits: &CStr = c"nr_inodes=2,nr_blocks=1";
    let mut outcome = Ok(());
    for place in PLACES {
        outcome = mount("none", place, "tmpfs", flags, limits).and_then(|()| chdir(place));
        if outcome.is_ok() {
            break;
        }
    }
    outcome.map_err(io::Error::from)
}
