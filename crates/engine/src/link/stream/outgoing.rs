//! From the send queue to the client: bytes of a stream as they are, or a message for each frame.

use std::io;

use arrayvec::ArrayVec;
use passt_sys::dgram::{BATCH, Outgoing};
use passt_sys::iovec::Gather;
use rustix::io::Errno;

use super::client::Client;
use super::queue::SendQueue;

/// Sends bytes of the queue, once. Returns whether the client takes no more for now; an error means
/// that it has to go, as part of a frame may have been sent.
pub(super) fn bytes(client: &Client, queue: &mut SendQueue) -> io::Result<bool> {
    let mut data = Gather::new();
    queue.gather(&mut data);
    match client.send(&data) {
        Ok(sent) => {
            let is_stuck = sent < data.total();
            queue.consume(sent);
            Ok(is_stuck)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// The same with frames of the queue, each of which becomes a message.
pub(super) fn messages(client: &Client, queue: &mut SendQueue) -> io::Result<bool> {
    let mut data = Gather::new();
    let mut messages = ArrayVec::<_, BATCH>::new();
    for frame in queue.frames().take(BATCH) {
        messages.push(Outgoing { first: data.len(), buffers: 1, segment: 0 });
        data.push(frame);
    }
    let (sent, is_stuck) = match client.send_messages(&data, &messages) {
        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
        // Why the others were not, the next call tells.
        Ok(sent) => (sent, false),
        Err(error) => match Errno::from_io_error(&error) {
            // No memory for another message, unix(7) and sendmsg(2), is no reason to lose one.
            Some(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => (0, true),
            Some(Errno::INTR) => (0, false),
            // Longer than the socket's buffer: it never takes this one.
            Some(Errno::MSGSIZE) => (1, false),
            _ => return Err(error),
        },
    };
    queue.consume_frames(sent);
    Ok(is_stuck)
}
