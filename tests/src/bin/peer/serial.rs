//! Serial lines of user-mode Linux, each served at a socket as qemu serves its virtio ports.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// Runs user-mode Linux, with `count` serial lines beside its arguments, to its end; returns its
/// status. Line N is served at `dir/portN`, to one asker at a time.
pub(crate) fn run(dir: &Path, count: usize, program: &str, arguments: &[&str]) -> Result<i32> {
    let mut command = Command::new(program);
    command.args(arguments);
    let mut lines = Vec::new();
    for number in 0..count {
        let (ours, machines) = line()?;
        command.arg(format!("ssl{number}=fd:{}", machines.as_raw_fd()));
        let listener = UnixListener::bind(dir.join(format!("port{number}")))?;
        std::thread::spawn(move || serve(&listener, &ours));
        lines.push(machines);
    }
    let mut machine = command.spawn().with_context(|| program.to_owned())?;
    drop(lines);
    Ok(machine.wait()?.code().unwrap_or(255))
}

/// Our end of a line, and the one that the machine inherits.
fn line() -> Result<(UnixStream, OwnedFd)> {
    let (ours, machines) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None)?;
    fcntl_setfd(&ours, FdFlags::CLOEXEC)?;
    Ok((ours.into(), machines))
}

/// Connects a line with one asker after the other. What is written while there is none is lost.
fn serve(listener: &UnixListener, line: &UnixStream) -> Result<()> {
    let asker: Arc<Mutex<Option<UnixStream>>> = Arc::default();
    let (mut from_machine, to) = (line.try_clone()?, Arc::clone(&asker));
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from_machine.read(&mut bytes) {
            if let Some(asker) = to.lock().expect("no panic").as_mut() {
                drop(asker.write_all(&bytes[..count]));
            }
        }
    });
    for stream in listener.incoming() {
        let mut stream = stream?;
        *asker.lock().expect("no panic") = Some(stream.try_clone()?);
        drop(std::io::copy(&mut stream, &mut &*line));
        *asker.lock().expect("no panic") = None;
        (&*line).write_all(b"\nleft\n")?;
    }
    Ok(())
}
