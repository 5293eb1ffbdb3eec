//! Connecting to a control socket whose owner may not accept.

#![expect(clippy::disallowed_methods, reason = "who waits lives in real time")]

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use passt_control::client::{Error, Greeted};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Connects, and reads the greeting. Both together, and later each answer, may take so long.
pub fn greeted(path: &Path, patience: Duration) -> Result<Greeted, Error> {
    let begun = Instant::now();
    loop {
        match attempt(path) {
            Ok(socket) => return Greeted::over(socket, patience),
            // Too many wait to be accepted.
            Err(Errno::AGAIN) if begun.elapsed() + PAUSE < patience => sleep(PAUSE),
            Err(Errno::AGAIN) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not accept").into());
            }
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
}

/// A server's answer to something else than what it was asked for.
pub fn unexpected() -> Error {
    Error::Unexpected("an answer to something else".into())
}

/// There was no answer in this time.
pub fn late(patience: Duration) -> Error {
    Error::Unexpected(format!("none in {} s", patience.as_secs_f32()))
}

/// An error as it is for people: a message that nobody expects says nothing to them.
pub fn plainly(path: &Path, error: anyhow::Error) -> anyhow::Error {
    let path = path.display();
    let what = match error.downcast_ref() {
        Some(Error::Unexpected(what)) => what,
        Some(Error::Closed) => return error.context(format!("{path}")),
        _ => return error,
    };
    if what == "it is the C program's" {
        return anyhow!("{path}: this needs a server of this project; {what}");
    }
    if let Some(time) = what.strip_prefix("none in ") {
        return anyhow!("{path}: the server did not answer in {time}");
    }
    let is_for_people = ["a list of", "a page from", "an answer to", "it ", "more than", "A message of"];
    let is_for_people = is_for_people.iter().any(|begin| what.starts_with(begin));
    let detail = if is_for_people { format!(": {what}") } else { String::new() };
    anyhow!("{path}: the server does not speak this protocol as expected{detail}")
}

/// Connects if that can be done at once.
fn attempt(path: &Path) -> Result<UnixStream, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let socket = UnixStream::from(socket);
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::net::listen;

    use super::*;

    #[test]
    fn surprises_are_told_plainly() {
        for (what, expected) in [
            ("Reply { id: 1, answer: Done }", "/s: the server does not speak this protocol as expected"),
            ("data did not match any variant", "/s: the server does not speak this protocol as expected"),
            (
                "a list of more than 9 elements",
                "/s: the server does not speak this protocol as expected: a list of more than 9 elements",
            ),
            ("none in 5 s", "/s: the server did not answer in 5 s"),
            ("it is the C program's", "/s: this needs a server of this project; it is the C program's"),
        ] {
            let error = anyhow::Error::from(Error::Unexpected(what.into())).context("why");
            assert_eq!(format!("{:#}", plainly(Path::new("/s"), error)), expected);
        }
        assert_eq!(plainly(Path::new("/s"), anyhow!("another")).to_string(), "another");
    }

    #[test]
    fn a_server_that_does_not_accept() {
        let path = std::env::temp_dir().join(format!("passt-connect-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("a socket");
        listen(&listener, 0).expect("a short queue");
        let mut waiting = Vec::new();
        while let Ok(socket) = attempt(&path) {
            waiting.push(socket);
        }
        let begun = Instant::now();
        let error = greeted(&path, Duration::from_millis(100)).expect_err("a full queue");
        assert!(error.to_string().contains("does not accept"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5));
        let _ = std::fs::remove_file(&path);
        let error = greeted(&path, Duration::from_secs(1)).expect_err("no socket");
        assert!(matches!(error, Error::Io(error) if error.kind() == io::ErrorKind::NotFound));
    }
}
