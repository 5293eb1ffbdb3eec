//! Recording of frames that can be begun and ended while the server runs.
//!
//! A file is opened here and handed to the server, which writes to it. For standard output it gets
//! one end of a socket that keeps records apart, and they are passed on from here.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

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
use rustix::fs::{MemfdFlags, memfd_create};
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
    let (opened, is_new) = open(file).with_context(|| format!("Couldn't create {}", file.display()))?;
    if let Err(error) = begin_in(&mut server, &opened) {
        if is_new {
            // Nothing is in it.
            let _ = fs::remove_file(file);
        }
        return Err(error);
    }
    // From here on: before, a signal ends this at once, though the server may not answer.
    let signals = SignalFd::new(&[Signal::INT, Signal::TERM, Signal::HUP]);
    let signals = signals.context("Couldn't set up signals")?;
    tell(format_args!("Recording in {}; interrupt to end", file.display()));
    wait(server.socket().as_fd(), &signals)?;
    end(&mut server)
}

/// Opens a file as it is: it may be the recording of somebody else, for whose sake the server refuses
/// this one. Whether it is new.
fn open(path: &Path) -> io::Result<(File, bool)> {
    match File::create_new(path) {
        Ok(file) => Ok((file, true)),
        // A link that leads nowhere is no new file, either.
        Err(_) => {
            File::options().write(true).create(true).truncate(false).open(path).map(|file| (file, false))
        }
    }
}

/// Has the server record in `file`, of which nothing is lost if it refuses: it is asked with another one
/// first.
fn begin_in(server: &mut Client, file: &File) -> anyhow::Result<()> {
    let other = memfd_create("frames", MemfdFlags::CLOEXEC).context("Couldn't make a file")?;
    begin(server, other.as_fd())?;
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    begin(server, file.as_fd())
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
