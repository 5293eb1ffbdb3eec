//! Whom the link talks to: one socket both ways, or one descriptor each way, of any kind that can
//! be waited for.
//!
//! A socket is told not to wait with each call, so it may be shared with others who do. What is no
//! socket is made non-blocking, for all who share its open file description. Where nobody reads a
//! pipe any more a write is an error: Rust's standard library has SIGPIPE ignored from the start.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_proto::wire::stream::Framing;
use passt_sys::dgram::{self, Envelope, Outgoing};
use passt_sys::iovec::{Gather, Scatter};
use passt_sys::msg;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::net::{Shutdown, SocketType, shutdown, sockopt};

/// Send buffer asked for, more than the default; what waits there delays what comes after it.
const SEND_BUFFER: usize = 256 * 1024;
/// Empty messages in a row that are taken for the end.
const EMPTY: usize = 64;
/// Number of the descriptor for output, where it is another than that for input.
const OUTPUT: u32 = 1;

/// A peer.
pub(super) struct Client {
    input: Port,
    /// If the input does not take what is sent.
    output: Option<Port>,
    /// The output is the file that the input is, opened once more.
    is_twin: bool,
    /// How often nothing is read at the end and never else, in a row: an empty datagram is a message
    /// as any other, and of messages in order the end can't be told from empty ones but by their
    /// number.
    end: Option<usize>,
    /// It took no more, for ever.
    is_lost: bool,
}

/// A descriptor, and by which calls it is used.
struct Port {
    fd: OwnedFd,
    is_socket: bool,
}

impl Client {
    /// Behind a socket.
    pub(super) fn socket(fd: OwnedFd, framing: Framing) -> Self {
        Self::new(Port { fd, is_socket: true }, None, false, framing)
    }

    /// Behind two descriptors, which may be of the same socket or device.
    pub(super) fn pair(input: OwnedFd, output: OwnedFd, framing: Framing) -> io::Result<Self> {
        let is_twin = is_same(&input, &output)?;
        let (input, output) = (Port::new(input)?, Port::new(output)?);
        if framing == Framing::Message && !(input.is_socket && output.is_socket) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "nothing that keeps frames apart"));
        }
        let takes_both = fcntl_getfl(&input.fd)?.contains(OFlags::RDWR);
        let output = (!is_twin || !takes_both).then_some(output);
        Ok(Self::new(input, output, is_twin, framing))
    }

    fn new(input: Port, output: Option<Port>, is_twin: bool, framing: Framing) -> Self {
        let end = match framing {
            Framing::Message if sockopt::socket_type(&input.fd) == Ok(SocketType::DGRAM) => None,
            Framing::Message => Some(EMPTY),
            Framing::Be32 | Framing::Le16 => Some(1),
        };
        let sends = output.as_ref().unwrap_or(&input);
        if sends.is_socket {
            // A smaller buffer means more wake-ups, no more than that.
            let _ = sockopt::set_socket_send_buffer_size(&sends.fd, SEND_BUFFER);
        }
        Self { input, output, is_twin, end, is_lost: false }
    }

    /// Its descriptors: what it sends comes by the first.
    pub(super) fn fd(&self, number: u32) -> Option<BorrowedFd<'_>> {
        let port = match number {
            0 => Some(&self.input),
            OUTPUT => self.output.as_ref(),
            _ => None,
        };
        port.map(|port| port.fd.as_fd())
    }

    /// Number of the descriptor that takes what is sent.
    pub(super) fn output(&self) -> u32 {
        self.output.as_ref().map_or(0, |_| OUTPUT)
    }

    /// Reads once, after nothing was read `empty` times in a row; `None` if nothing is there now. An
    /// error means that it left.
    pub(super) fn receive(&self, into: &Scatter<'_>, empty: usize) -> io::Result<Option<usize>> {
        self.outcome(self.input.receive(into), empty)
    }

    /// Looks what an event of descriptor `number` means: whether there is something to receive. An
    /// error means that it left.
    ///
    /// At the end of a pipe that takes bytes an event is that nobody reads them. A socket or a
    /// terminal may have something to read, which is no part of what we are told, and would wake us
    /// for as long as it is there.
    pub(super) fn attend(&self, number: u32) -> io::Result<bool> {
        let output = self.output.as_ref().filter(|_| number == OUTPUT && !self.is_twin);
        let Some(output) = output else { return Ok(true) };
        let mut scratch = [0; 4096];
        let mut into = Scatter::new();
        into.push(&mut scratch);
        self.outcome(output.receive(&into), EMPTY).map(|_| false)
    }

    fn outcome(&self, result: io::Result<usize>, empty: usize) -> io::Result<Option<usize>> {
        let is_end = self.is_lost || self.end.is_some_and(|end| empty + 1 >= end);
        match result {
            Ok(0) if is_end => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => Ok(Some(len)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted if !self.is_lost => Ok(None),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            },
        }
    }

    /// Sends bytes of a stream; returns how many were taken.
    pub(super) fn send(&self, data: &Gather<'_>) -> io::Result<usize> {
        let port = self.output.as_ref().unwrap_or(&self.input);
        if port.is_socket { msg::send(port.fd.as_fd(), data) } else { msg::write(port.fd.as_fd(), data) }
    }

    /// Sends messages, at most [`dgram::BATCH`]; returns how many were taken.
    pub(super) fn send_messages(&self, data: &Gather<'_>, messages: &[Outgoing]) -> io::Result<usize> {
        let port = self.output.as_ref().unwrap_or(&self.input);
        dgram::send(port.fd.as_fd(), data, messages, &Envelope::default(), true)
    }

    /// It is gone, or has to go: [`Client::receive`] will find that out, and tell. Returns whether
    /// that is new.
    pub(super) fn give_up(&mut self) -> bool {
        for port in [Some(&self.input), self.output.as_ref()].into_iter().flatten() {
            if port.is_socket {
                let _ = shutdown(&port.fd, Shutdown::Both);
            }
        }
        !std::mem::replace(&mut self.is_lost, true)
    }
}

impl Port {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let is_socket = FileType::from_raw_mode(fstat(&fd)?.st_mode) == FileType::Socket;
        if !is_socket {
            fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        }
        Ok(Self { fd, is_socket })
    }

    fn receive(&self, into: &Scatter<'_>) -> io::Result<usize> {
        if self.is_socket { msg::receive(self.fd.as_fd(), into) } else { msg::read(self.fd.as_fd(), into) }
    }
}

/// Whether both are the same socket or device. The ends of a pipe have one number, and are two.
fn is_same(input: &OwnedFd, output: &OwnedFd) -> io::Result<bool> {
    let (a, b) = (fstat(input)?, fstat(output)?);
    let is_pipe = FileType::from_raw_mode(a.st_mode) == FileType::Fifo;
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) && !is_pipe)
}
