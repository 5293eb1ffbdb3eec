//! A model of the host's socket and of its peer.

use std::collections::VecDeque;

use crate::link::Rng;
use crate::{DOWN, UP, check, fill};

/// Bytes that the receive queue takes.
const RECEIVE_BUFFER: usize = 256 * 1024;

/// The socket, and what its peer does.
pub(crate) struct Host {
    /// Bytes that the peer sends, and those that arrived so far.
    pub(crate) to_send: u64,
    pub(crate) arrived: u64,
    receive_queue: VecDeque<u8>,
    /// The peer closes its direction behind its last byte; that arrived.
    pub(crate) closing: bool,
    pub(crate) ended: bool,
    /// Bytes that wait in the send queue, and room for them.
    send_queue: VecDeque<u8>,
    pub(crate) send_buffer: usize,
    /// Bytes that the peer got. It gets none while it does not read.
    pub(crate) delivered: u64,
    pub(crate) reading: bool,
    /// Our end of the stream to the peer; and whether it got there.
    pub(crate) shut: bool,
    pub(crate) eof: bool,
    /// Removed from the receive queue so far.
    pub(crate) discarded: u64,
}

/// What a tick brought.
#[derive(Default)]
pub(crate) struct News {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

impl Host {
    pub(crate) fn new(to_send: u64) -> Self {
        Self {
            to_send,
            arrived: 0,
            receive_queue: VecDeque::new(),
            closing: true,
            ended: false,
            send_queue: VecDeque::new(),
            send_buffer: 64 * 1024,
            delivered: 0,
            reading: true,
            shut: false,
            eof: false,
            discarded: 0,
        }
    }

    /// Whether time changes anything.
    pub(crate) fn is_busy(&self) -> bool {
        let arriving = self.arrived < self.to_send && self.receive_queue.len() < RECEIVE_BUFFER;
        let ending = self.arrived == self.to_send && self.closing && !self.ended;
        let leaving = self.reading && (!self.send_queue.is_empty() || self.shut && !self.eof);
        arriving || ending || leaving
    }

    /// Some data arrives from the peer, some gets there.
    pub(crate) fn tick(&mut self, rng: &mut Rng) -> News {
        let mut news = News::default();
        let left = usize::try_from(self.to_send - self.arrived).unwrap_or(usize::MAX);
        let n = (1 + rng.below(128 * 1024)).min(left).min(RECEIVE_BUFFER - self.receive_queue.len());
        if n > 0 {
            let mut bytes = vec![0; n];
            fill(DOWN, self.arrived, &mut bytes);
            self.receive_queue.extend(bytes);
            self.arrived += n as u64;
            news.readable = true;
        }
        if self.arrived == self.to_send && self.closing && !self.ended {
            self.ended = true;
            news.readable = true;
        }
        if self.reading {
            let n = (1 + rng.below(128 * 1024)).min(self.send_queue.len());
            let bytes: Vec<u8> = self.send_queue.drain(..n).collect();
            check(UP, self.delivered, &bytes);
            self.delivered += n as u64;
            self.eof |= self.shut && self.send_queue.is_empty();
            news.writable = n > 0;
        }
        news
    }

    /// Up to `len` bytes of the receive queue from `offset` on.
    pub(crate) fn peek(&self, offset: u32, len: u32) -> Vec<u8> {
        self.receive_queue.iter().skip(offset as usize).take(len as usize).copied().collect()
    }

    pub(crate) fn discard(&mut self, len: u32) {
        assert!(len as usize <= self.receive_queue.len(), "discards what never arrived");
        self.receive_queue.drain(..len as usize);
        self.discarded += u64::from(len);
    }

    /// Queues what there is room for.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> usize {
        assert!(!self.shut || bytes.is_empty(), "data behind the end");
        let n = bytes.len().min(self.send_buffer - self.send_queue.len());
        self.send_queue.extend(&bytes[..n]);
        n
    }

    /// Bytes, and FIN, that the kernel took so far.
    pub(crate) fn queued(&self) -> u64 {
        self.delivered + self.send_queue.len() as u64 + u64::from(self.shut)
    }

    /// Bytes, and FIN, that the peer has.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.delivered + u64::from(self.eof)
    }

    /// Bytes, and FIN, that the peer does not have yet: `SIOCOUTQ`.
    pub(crate) fn unacknowledged(&self) -> u32 {
        u32::try_from(self.queued() - self.acknowledged()).expect("in the buffer")
    }
}
