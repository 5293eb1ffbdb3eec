//! The least that a program between two sockets can do, to compare with: nothing is checked, and
//! there is one connection at a time.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use anyhow::{Context as _, Result};
use passt_sys::namespace::Netns;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::say;

/// Connects who comes to `address` in the named network namespace with the same address in this one.
/// Prints `LISTENING` when it does.
pub(crate) fn proxy(netns: &str, address: &str) -> Result<()> {
    let there = Netns::open(&Path::new("/run/netns").join(netns)).with_context(|| netns.to_owned())?;
    let listener = there.run(|| TcpListener::bind(address))?.with_context(|| address.to_owned())?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    say(&format!("LISTENING {}", listener.local_addr()?))?;
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

/// Passes on what there is; false at the end.
fn carry(ends: &mut [TcpStream; 2], from: usize) -> bool {
    let mut buffer = [0; 4096];
    match ends[from].read(&mut buffer) {
        Ok(0) => false,
        Ok(len) => ends[1 - from].write_all(&buffer[..len]).is_ok(),
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}
