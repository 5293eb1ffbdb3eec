//! A virtual machine's network device at passt's socket: frames of a tap device,
//! each behind its length, many of them in one write. For tests, and fast enough for benchmarks.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use passt_sys::tun::Tap;
use passt_tests::eventually;
use rustix::event::{PollFd, PollFlags, poll};

use crate::say;

/// Bytes passed on at once.
const BATCH: usize = 256 * 1024;
/// Room for one frame and its length.
const FRAME: usize = 65_536 + 4;

/// Makes the device and connects it to `socket`, again whenever the other side closes or a
/// line on standard input says so. Says `CONNECTED` each time. Runs for ever.
pub(crate) fn run(interface: &str, socket: &str) -> Result<()> {
    static CURRENT: Mutex<Option<UnixStream>> = Mutex::new(None);
    let tap = Tap::open(interface, true).context("tap device")?;
    std::thread::spawn(|| {
        for _ in io::stdin().lines() {
            let current = CURRENT.lock().expect("no panic");
            let _ = current.as_ref().map(|stream| stream.shutdown(Shutdown::Both));
        }
    });
    loop {
        let stream = eventually(socket, || UnixStream::connect(socket).ok());
        *CURRENT.lock().expect("no panic") = Some(stream.try_clone()?);
        say("CONNECTED")?;
        std::thread::scope(|scope| {
            scope.spawn(|| to_guest(&tap, &stream).err());
            from_guest(&tap, &stream)
        })?;
    }
}

/// Frames of the device to the socket, until that is closed.
fn from_guest(tap: &Tap, mut stream: &UnixStream) -> Result<()> {
    let mut batch = vec![0; BATCH + FRAME];
    loop {
        let mut wait = [PollFd::new(tap, PollFlags::IN), PollFd::new(&stream, PollFlags::RDHUP)];
        poll(&mut wait, None)?;
        if !wait[1].revents().is_empty() {
            return Ok(());
        }
        let mut end = 0;
        while end < BATCH {
            match tap.read(&mut batch[end + 4..end + FRAME]) {
                Ok(len) => {
                    batch[end..end + 4].copy_from_slice(&u32::try_from(len)?.to_be_bytes());
                    end += 4 + len;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The interface is down.
                Err(error) if error.raw_os_error() == Some(5) => break,
                Err(error) => return Err(error).context("tap device"),
            }
        }
        if stream.write_all(&batch[..end]).is_err() {
            return Ok(());
        }
    }
}

/// Frames of the socket to the device, until the socket is closed.
fn to_guest(tap: &Tap, mut stream: &UnixStream) -> io::Result<()> {
    let mut received = vec![0; BATCH + FRAME];
    let mut end = 0;
    loop {
        match stream.read(&mut received[end..])? {
            0 => return Ok(()),
            len => end += len,
        }
        let mut start = 0;
        while let Some((length, rest)) = received[start..end].split_first_chunk() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            let Some(frame) = rest.get(..length) else { break };
            // Lost while the interface is down, as on a real one.
            drop(tap.write(frame));
            start += 4 + length;
        }
        received.copy_within(start..end, 0);
        end -= start;
    }
}
