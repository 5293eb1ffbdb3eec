//! A log file that stays below a size, while it is written under the one descriptor that was opened
//! at the start: a sandbox has no name for a second file to rotate to. What is no regular file, a
//! FIFO or a device, has no size, and is left to [`Outlet`](crate::outlet::Outlet).
//!
//! When a line would pass the limit about half of the file is cut at its front: what remains is
//! copied there. That leaves a piece of a line in front, which the first line, the version, then
//! overwrites. Some file systems could just take out the blocks, which is one more system call to
//! allow for what is rare and small.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

use passt_sys::seccomp::{Call, Sysno};

/// System calls made here once the process runs.
pub(super) const CALLS: &[Call] =
    &[Call::any(Sysno::ftruncate), Call::any(Sysno::pread64), Call::any(Sysno::pwrite64)];

/// Bytes copied at once, longer than any line.
const BLOCK: usize = 4096;

/// The open file.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    /// The first line, without its end; shorter than a block less any line.
    header: String,
    size: u64,
    limit: u64,
}

impl LogFile {
    /// Begins a file, empty but for its first line. `limit` is its largest size in bytes.
    pub(super) fn new(file: File, limit: u64, header: String) -> io::Result<Self> {
        let mut log = Self { file, header, size: 0, limit };
        log.restart()?;
        Ok(log)
    }

    /// Appends one line with its end, after making room.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let len = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.size.saturating_add(len) > self.limit && self.cut().is_err() {
            self.restart()?;
        }
        self.file.write_all_at(line, self.size)?;
        self.size += len;
        Ok(())
    }

    /// Leaves nothing but the first line.
    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.size = 0;
        self.file.write_all_at(self.header.as_bytes(), 0)?;
        self.size = u64::try_from(self.header.len()).unwrap_or_default();
        self.file.write_all_at(b"\n", self.size)?;
        self.size += 1;
        Ok(())
    }

    /// Cuts half of the limit.
    fn cut(&mut self) -> io::Result<()> {
        let amount = self.limit / 2;
        let left = self.size.checked_sub(amount).filter(|&left| left > BLOCK as u64);
        let left = left.ok_or(ErrorKind::InvalidInput)?;
        self.move_down(amount, left)?;
        self.size = left;
        self.head()
    }

    /// Copies what follows the first `amount` bytes to the front.
    fn move_down(&self, amount: u64, left: u64) -> io::Result<()> {
        let mut buffer = [0; BLOCK];
        let mut at = 0;
        while at < left {
            let len = self.file.read_at(&mut buffer, at + amount)?;
            let bytes = buffer.get(..len).filter(|bytes| !bytes.is_empty());
            self.file.write_all_at(bytes.ok_or(ErrorKind::UnexpectedEof)?, at)?;
            at += u64::try_from(len).unwrap_or(u64::MAX);
        }
        self.file.set_len(left)
    }

    /// Puts the first line where a line was cut, filled up with blanks to the end of one.
    fn head(&self) -> io::Result<()> {
        let mut block = [0; BLOCK];
        self.file.read_exact_at(&mut block, 0)?;
        let (head, rest) = block.split_at_mut_checked(self.header.len()).ok_or(ErrorKind::InvalidInput)?;
        head.copy_from_slice(self.header.as_bytes());
        let end = rest.iter().position(|&byte| byte == b'\n').ok_or(ErrorKind::InvalidData)?;
        rest.iter_mut().take(end).for_each(|byte| *byte = b' ');
        let len = self.header.len() + end;
        self.file.write_all_at(block.get(..len).unwrap_or_default(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;
    use std::path::PathBuf;

    const LIMIT: u64 = 40960;

    /// A file of the test's own, gone at its end.
    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("log-{}-{name}", std::process::id())))
        }

        fn log(&self) -> LogFile {
            LogFile::new(files::create(&self.0).unwrap(), LIMIT, "pasta 1".to_owned()).unwrap()
        }

        fn lines(&self) -> Vec<String> {
            let text = std::fs::read_to_string(&self.0).unwrap();
            assert!(text.ends_with('\n'));
            text.lines().map(str::to_owned).collect()
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn line(number: usize) -> String {
        format!("{number:06} {}", "x".repeat(number % 900))
    }

    fn fill(log: &mut LogFile, numbers: std::ops::Range<usize>) {
        for number in numbers {
            log.append(format!("{}\n", line(number)).as_bytes()).unwrap();
        }
    }

    /// The version, then the last lines, whole.
    fn check(file: &Temporary, last: usize) {
        let lines = file.lines();
        assert_eq!(lines[0].trim_end(), "pasta 1");
        let first = last + 2 - lines.len();
        let expected: Vec<String> = (first..=last).map(line).collect();
        assert_eq!(lines[1..], expected);
    }

    #[test]
    fn stays_below_the_limit() {
        let file = Temporary::new("limit");
        let mut log = file.log();
        for number in 0..2000 {
            fill(&mut log, number..number + 1);
            let size = std::fs::metadata(&file.0).unwrap().len();
            assert_eq!(size, log.size);
            assert!(size <= LIMIT);
        }
        check(&file, 1999);
        assert!(log.size > LIMIT / 4);
    }

    #[test]
    fn a_file_that_cannot_be_cut_begins_anew() {
        let file = Temporary::new("anew");
        let mut log = file.log();
        // One endless line, nowhere to cut.
        log.append(&b"x".repeat(40000)).unwrap();
        log.append(&[b"y".repeat(999), b"\n".to_vec()].concat()).unwrap();
        assert_eq!(file.lines(), ["pasta 1".to_owned(), "y".repeat(999)]);
    }

    #[test]
    fn replaces_what_was_there() {
        let file = Temporary::new("replace");
        std::fs::write(&file.0, "old\n").unwrap();
        file.log();
        assert_eq!(file.lines(), ["pasta 1"]);
    }
}
