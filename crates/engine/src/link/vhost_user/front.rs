//! The front end's socket: messages taken out of a stream, with their descriptors, and answers.
//!
//! Nothing waits: a message that is not all there is kept until the rest comes. A front end that
//! does not read its answers has to go.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;
use passt_sys::msg;

use super::message::{HEADER, Header, MAX_PAYLOAD, Reply};

/// Descriptors of one message.
pub(super) const MAX_DESCRIPTORS: usize = passt_sys::shared::MAX_REGIONS;

/// Descriptors that came with a message.
pub(super) type Descriptors = ArrayVec<OwnedFd, MAX_DESCRIPTORS>;

/// A front end.
pub(super) struct Front {
    socket: Arc<OwnedFd>,
    bytes: Box<[u8]>,
    /// How much of the message is there.
    received: usize,
    descriptors: Descriptors,
}

impl Front {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Arc::new(socket),
            bytes: vec![0; HEADER + MAX_PAYLOAD].into(),
            received: 0,
            descriptors: ArrayVec::new(),
        }
    }

    pub(super) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// The next message, if all of it is there: its header, what is behind, and its descriptors.
    /// `UnexpectedEof` if the front end has gone, `InvalidData` if it does not speak the protocol.
    pub(super) fn next(&mut self) -> io::Result<Option<(Header, &[u8], Descriptors)>> {
        let header = loop {
            let header = self.header()?;
            let wanted = HEADER + header.map_or(0, |header| header.size);
            match header {
                Some(header) if self.received >= wanted => break header,
                // No further than to the end of a message: descriptors are of the one that they came
                // with.
                _ if !self.receive(wanted)? => return Ok(None),
                _ => {}
            }
        };
        self.received = 0;
        let payload = self.bytes.get(HEADER..HEADER + header.size).unwrap_or_default();
        Ok(Some((header, payload, std::mem::take(&mut self.descriptors))))
    }

    /// The header, once it is there.
    fn header(&self) -> io::Result<Option<Header>> {
        let received = self.bytes.get(..self.received).and_then(|bytes| bytes.first_chunk());
        let header = received.map(Header::parse).transpose();
        header.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Receives up to `end`; false if there is nothing now.
    fn receive(&mut self, end: usize) -> io::Result<bool> {
        let mut came = Descriptors::new();
        let room = self.bytes.get_mut(self.received..end).unwrap_or_default();
        match msg::receive_with(self.socket.as_fd(), room, &mut came) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.received += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
            Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        for descriptor in came {
            if self.descriptors.try_push(descriptor).is_err() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors"));
            }
        }
        Ok(true)
    }

    /// Sends an answer; all of it, or the front end has to go.
    pub(super) fn reply(&self, reply: &Reply) -> io::Result<()> {
        match msg::send_slice(self.socket.as_fd(), reply.bytes()) {
            Ok(sent) if sent == reply.bytes().len() => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "answers are not read")),
        }
    }

    /// Ends the connection, as `next` will find.
    pub(super) fn shut(&self) {
        let _ = rustix::net::shutdown(self.socket.as_fd(), rustix::net::Shutdown::Both);
    }
}

impl AsFd for Front {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
