//! Recording of frames that can be begun and ended while the server runs.
//!
//! A file is opened here and handed to the server, which writes to it. For standard output it gets
//! one end of a socket that keeps records apart, and they are passed on from here.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use passt_control::client::Client;
use passt_control::frame;
use passt_control::reply::{Answer, Message as Reply};
use passt_control::request::{Message, Request};
use passt_sys::msg;
use passt_sys::signal::SignalFd;
use passt_tools::connect::unexpected;
use passt_tools::visible::tell;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use rustix::process::Signal;

/// Longest record: a frame and its header.
const RECORD: usize = 1 << 18;

/// Refuses to write frames, of which others choose every byte, to a terminal.
pub(crate) fn check(file: &Path) -> anyhow::Result<()> {
    ensure!(
        file != Path::new("-") || !io::stdout().is_terminal(),
        "Frames would go to this terminal as they are; put '| tcpdump -nr -' behind, or name a file for -"
    );
    Ok(())
}

/// Records until this process is interrupted, or the server ends.
pub(crate) fn run(mut server: Client, file: &Path) -> anyhow::Result<()> {
    if file == Path::new("-") {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        begin(&mut server, theirs.as_fd())?;
        drop(theirs);
        let (mut record, mut out) = (vec![0; RECORD], io::stdout().lock());
        loop {
            let (length, _) = recv(&ours, &mut record, RecvFlags::empty())?;
            if length == 0 {
                return Ok(());
            }
            let written = out.write_all(record.get(..length).unwrap_or_default()).and_then(|()| out.flush());
            if written.is_err() {
                return end(&mut server);
            }
        }
    }
    let target = Target::open(file).with_context(|| format!("Couldn't create {}", file.display()))?;
    let signals = SignalFd::new(&[Signal::INT, Signal::TERM, Signal::HUP]);
    let signals = signals.context("Couldn't set up signals")?;
    begin(&mut server, target.file.as_fd())?;
    target.keep().with_context(|| format!("Couldn't create {}", file.display()))?;
    tell(format_args!("Recording in {}; interrupt to end", file.display()));
    wait(server.socket().as_fd(), &signals)?;
    end(&mut server)
}

/// What frames are recorded in. A file is beside the one that it is to replace until the server has begun:
/// what is there may be the recording of somebody else, for whose sake the server refuses this one.
struct Target {
    file: File,
    /// Where it is, and where it is to be.
    paths: Option<(PathBuf, PathBuf)>,
}

impl Target {
    fn open(path: &Path) -> io::Result<Self> {
        let to = match path.metadata() {
            // What a link leads to is replaced, not the link.
            Ok(there) if there.is_file() => path.canonicalize()?,
            // A pipe or a device, which keeps nothing.
            Ok(_) => return Ok(Self { file: File::create(path)?, paths: None }),
            Err(_) => path.to_owned(),
        };
        let mut name = to.clone().into_os_string();
        name.push(format!(".{}", std::process::id()));
        match File::create_new(&name) {
            Ok(file) => {
                if let Ok(there) = to.metadata() {
                    file.set_permissions(there.permissions())?;
                }
                Ok(Self { file, paths: Some((name.into(), to)) })
            }
            // The directory is somebody else's, but not the file.
            Err(_) => Ok(Self { file: File::create(path)?, paths: None }),
        }
    }

    /// Puts it where it is to be.
    fn keep(mut self) -> io::Result<()> {
        self.paths.take().map_or(Ok(()), |(from, to)| fs::rename(from, to))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some((path, _)) = &self.paths {
            // Nothing is in it.
            let _ = fs::remove_file(path);
        }
    }
}

/// Waits for a signal that ends this process, or for the server's end.
fn wait(server: BorrowedFd<'_>, signals: &SignalFd) -> anyhow::Result<()> {
    let mut polled = [PollFd::new(signals, PollFlags::IN), PollFd::new(&server, PollFlags::IN)];
    poll(&mut polled, None)?;
    Ok(())
}

fn begin(server: &mut Client, descriptor: BorrowedFd<'_>) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    frame::append(&mut bytes, &Message { id: 0, request: Request::Capture })?;
    let sent = msg::send_with(server.socket().as_fd(), &bytes, &[descriptor])?;
    server.socket().write_all(bytes.get(sent..).unwrap_or_default())?;
    match server.receive()? {
        Reply::Reply { .. } => Ok(()),
        Reply::Failure { error, .. } => bail!(error),
        Reply::Event { .. } => Err(unexpected().into()),
    }
}

fn end(server: &mut Client) -> anyhow::Result<()> {
    match server.ask(Request::EndCapture) {
        // There is nobody left who could go on.
        Err(passt_control::client::Error::Closed | passt_control::client::Error::Io(_))
        | Ok(Answer::Done) => Ok(()),
        Ok(_) => Err(unexpected().into()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is there stays until the recording has begun, and whoever has it open keeps it.
    #[test]
    fn a_file_is_replaced_only_by_a_recording() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, link) = (dir.path().join("a.pcap"), dir.path().join("b.pcap"));
        fs::write(&file, "before").expect("a file");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        for path in [&file, &link] {
            drop(Target::open(path).expect("a target"));
            assert_eq!(fs::read_to_string(path).expect("a file"), "before");
        }
        let mut before = File::options().append(true).open(&file).expect("a file");
        let target = Target::open(&link).expect("a target");
        (&target.file).write_all(b"now").expect("a record");
        target.keep().expect("a name");
        before.write_all(b"more").expect("a record");
        assert_eq!(fs::read_to_string(&file).expect("a file"), "now");
        assert!(link.is_symlink());
        let new = dir.path().join("c.pcap");
        Target::open(&new).expect("a target").keep().expect("a name");
        assert_eq!(fs::read_dir(dir.path()).expect("a list").count(), 3);
        assert!(Target::open(&dir.path().join("none/c.pcap")).is_err());
        assert!(Target::open(Path::new("/dev/null")).expect("a target").paths.is_none());
    }
}
