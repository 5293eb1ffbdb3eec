//! Files whose names others chose, opened and read without waiting for anybody.
//!
//! What should be a file may be a FIFO without a process at its other end, a terminal, or a device
//! that never ends. With `O_NONBLOCK`, which means nothing to a regular file, none of them keeps
//! us.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// The most of `/etc/passwd` and its like that is read, in bytes.
const MAX_TEXT: u64 = 64 << 20;

/// Opens a file for writing, empty and for its owner alone, or a FIFO or device that is there.
///
/// A FIFO is opened for both directions (fifo(7)): it keeps what is written until its capacity is
/// reached, whether or not somebody reads yet. Where it may only be written to, somebody must.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().create(true).truncate(true).mode(0o600))
}

/// Makes a file for its owner alone, where there is nothing yet.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().create_new(true).mode(0o600))
}

/// Opens what is there for writing, as [`create`] does, and leaves its content.
pub(crate) fn existing(path: &Path) -> io::Result<File> {
    open(path, &mut OpenOptions::new())
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let options = options.write(true).custom_flags(flags());
    let opened = match options.read(true).open(path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => options.read(false).open(path),
        opened => opened,
    };
    opened.map_err(|error| match Errno::from_io_error(&error) {
        // open(2): the kernel says "No such device or address".
        Some(Errno::NXIO) => io::Error::other("a socket, or a FIFO that nobody reads"),
        _ => error,
    })
}

/// The content of a file, `most` bytes of it. What a FIFO or device has to say later is not waited
/// for.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(flags()).open(path)?;
    let mut content = Vec::new();
    match file.take(most).read_to_end(&mut content) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Ok(content),
    }
}

/// The text of a system file, empty if there is none.
pub(crate) fn text(path: &str) -> String {
    let content = read(Path::new(path), MAX_TEXT).unwrap_or_default();
    String::from_utf8_lossy(&content).into_owned()
}

fn flags() -> i32 {
    (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::io::Write as _;

    /// What is no file keeps nobody waiting, and nothing is read without end.
    #[test]
    fn nothing_waits() {
        let fifo = std::env::temp_dir().join(format!("files-{}", std::process::id()));
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(read(&fifo, 100).unwrap(), b"", "nobody writes");
        let mut writer = create(&fifo).unwrap();
        assert_eq!(read(&fifo, 100).unwrap(), b"", "nobody has written");
        writer.write_all(b"text").unwrap();
        assert_eq!(read(&fifo, 100).unwrap(), b"text");
        std::fs::remove_file(&fifo).unwrap();
        assert_eq!(read(Path::new("/dev/zero"), 100).unwrap(), [0; 100]);
        assert!(read(Path::new("/"), 100).is_err());
        create(Path::new("/dev/null")).unwrap();
        assert_eq!(create(Path::new("/")).unwrap_err().kind(), ErrorKind::IsADirectory);
    }
}
