//! The least that a program between two sockets can do, to compare with: nothing is checked, and
//! messages have one connection at a time.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result};
use passt_sys::namespace::Netns;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::pipe::{self, PipeFlags, SpliceFlags};

use crate::say;

/// What a pipe may hold without privilege (`pipe-max-size`, pipe(7)).
const PIPE: usize = 1024 * 1024;

/// Connects who comes to `address` in the named network namespace with the same address in this
/// one, to copy small messages. Prints `LISTENING` when it does.
pub(crate) fn proxy(netns: &str, address: &str) -> Result<()> {
    let listener = listen(netns, address)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    loop {
        let mut ends = [listener.accept()?.0, TcpStream::connect(address)?];
        for (number, end) in (0..).zip(&ends) {
            end.set_nodelay(true)?;
            end.set_nonblocking(true)?;
            let events = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
            epoll::add(&epoll, end, EventData::new_u64(number), events)?;
        }
        let mut open = true;
        while open {
            let mut events = [std::mem::MaybeUninit::uninit(); 64];
            let (ready, _) = epoll::wait(&epoll, &mut events, None)?;
            for event in ready {
                let from = usize::try_from(event.data.u64())?;
                open &= carry(&mut ends, from);
            }
        }
    }
}

/// The same for bulk, by `splice(2)`: a thread for each connection and direction, which has
/// nothing to do but to wait in one call or the other.
pub(crate) fn splice(netns: &str, address: &str) -> Result<()> {
    let listener = listen(netns, address)?;
    loop {
        let ends = [listener.accept()?.0, TcpStream::connect(address)?];
        for [from, to] in [[0, 1], [1, 0]] {
            let (from, to) = (ends[from].try_clone()?, ends[to].try_clone()?);
            thread::spawn(move || {
                // A broken connection ends like one that is over.
                let _ = pour(&from, &to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    }
}

fn listen(netns: &str, address: &str) -> Result<TcpListener> {
    let there = Netns::open(&Path::new("/run/netns").join(netns)).with_context(|| netns.to_owned())?;
    let listener = there.run(|| TcpListener::bind(address))?.with_context(|| address.to_owned())?;
    say(&format!("LISTENING {}", listener.local_addr()?))?;
    Ok(listener)
}

/// Moves everything, to the end.
fn pour(from: &TcpStream, to: &TcpStream) -> Result<()> {
    let (reader, writer) = pipe::pipe_with(PipeFlags::CLOEXEC)?;
    pipe::fcntl_setpipe_size(&writer, PIPE)?;
    loop {
        let mut held = pipe::splice(from, None, &writer, None, PIPE, SpliceFlags::MOVE)?;
        if held == 0 {
            return Ok(());
        }
        while held > 0 {
            held -= pipe::splice(&reader, None, to, None, held, SpliceFlags::MOVE)?;
        }
    }
}

/// Passes on what there is; false at the end.
fn carry(ends: &mut [TcpStream; 2], from: usize) -> bool {
    let mut buffer = [0; 4096];
    match ends[from].read(&mut buffer) {
        Ok(0) => false,
        Ok(len) => ends[1 - from].write_all(&buffer[..len]).is_ok(),
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}
