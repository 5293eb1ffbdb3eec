//! Slack: where the tail of a short write waits until the host's kernel has room.
//!
//! A guest may send what it was promised, but the room in a socket's send buffer
//! cannot be promised: it grows only when used, and the kernel may take less than it said.
//! So the promise is backed by this pool: a connection whose write was short
//! borrows as many blocks as the rest needs. The memory is reserved at start and touched
//! only when used.
//!
//! All together are promised more than there is, for they hardly ever need it at the same time.
//! When they do, as a crowd whose peers stopped reading does, the last blocks are for those that
//! have fewest: what is dropped is the crowd's, which was going nowhere.

use std::io;
use std::os::fd::BorrowedFd;

use passt_sys::iovec::Gather;
use passt_sys::msg;

use crate::core::pool::{BLOCK, Pool};

/// Bytes that a connection may have beyond what the host's kernel took: the window promised to the
/// guest. More than a link receives at once, for a guest to go on while that is dealt with.
pub const ROOM: usize = 1024 * 1024;
/// Promise while others have much, and what a rest may have of the last quarter of the pool.
const CROWDED_ROOM: usize = 256 * 1024;
/// Promise while next to nothing is left.
const SMALL_ROOM: usize = 16 * 1024;
/// Blocks of the usual pool, 132 MiB.
pub const BLOCKS: u16 = 2112;

/// The slack of all connections. Blocks of a rest are chained.
pub struct Slack(Pool);

/// A rest that waits in the pool: blocks, all full but for the ends.
#[derive(Debug)]
pub struct Rest {
    first: u16,
    last: u16,
    /// Bytes of the first block that are gone.
    start: u32,
    len: u32,
}

impl Slack {
    /// Reserves so many blocks of 64 KiB, usually [`BLOCKS`].
    pub fn new(blocks: u16) -> io::Result<Self> {
        Ok(Self(Pool::new(blocks)?))
    }

    /// Blocks that are lent, and all there are.
    pub fn lent(&self) -> (usize, usize) {
        (self.0.len() - self.0.free_count(), self.0.len())
    }

    /// Whether nothing is lent.
    pub fn is_whole(&self) -> bool {
        self.lent().0 == 0
    }

    /// What to promise to a connection that should have `room` bytes and has nothing here: less while
    /// others have much, so that a crowd that stalls leaves something to the rest. While a block is
    /// free it gets that much, and 255 bytes more, as windows are told in units of up to 256. One
    /// that has something here may come to be told more, by as much with each acknowledgement of a
    /// host far away, which has made far more room by then.
    pub fn promise(&self, room: usize) -> usize {
        let (free, blocks) = (self.0.free_count(), self.0.len());
        if free > blocks - blocks / 4 {
            room
        } else if free > kept(blocks) + CROWDED_ROOM / BLOCK {
            room.min(CROWDED_ROOM)
        } else {
            room.min(SMALL_ROOM)
        }
    }

    /// Adds what `data` has behind its first `skip` bytes to `rest`; returns how many bytes found
    /// room.
    pub fn add(&mut self, rest: &mut Option<Rest>, data: &Gather<'_>, skip: usize) -> usize {
        let mut done = 0;
        while skip + done < data.total() {
            let Some(rest) = self.extend(rest) else { break };
            let place = rest.span() % BLOCK;
            let copied = data.copy_out(skip + done, &mut self.0.bytes_mut(rest.last)[place..]);
            rest.len += count(copied);
            done += copied;
        }
        done
    }

    /// The rest with room in its last block, unless it needs one and gets none.
    fn extend<'r>(&mut self, rest: &'r mut Option<Rest>) -> Option<&'r mut Rest> {
        let span = rest.as_ref().map_or(0, Rest::span);
        if span.is_multiple_of(BLOCK) {
            let block = self.take(span)?;
            match rest {
                Some(rest) => {
                    self.0.chain(rest.last, block);
                    rest.last = block;
                }
                None => *rest = Some(Rest { first: block, last: block, start: 0, len: 0 }),
            }
        }
        rest.as_mut()
    }

    /// A block for a rest that fills so many bytes of blocks. The last quarter of the pool is for
    /// those that have little, the last sixteenth for those that have nothing.
    fn take(&mut self, span: usize) -> Option<u16> {
        let kept = match span {
            0 => 0,
            _ if span <= CROWDED_ROOM => kept(self.0.len()),
            _ => self.0.len() / 4,
        };
        if self.0.free_count() <= kept {
            return None;
        }
        self.0.take()
    }

    /// Offers a rest to its socket; gives back what was taken. False on an error of the socket.
    pub fn flush(&mut self, rest: &mut Option<Rest>, fd: BorrowedFd<'_>) -> bool {
        let Some(waiting) = rest else { return true };
        let mut data = Gather::new();
        let (mut block, mut start, end) = (waiting.first, waiting.start as usize, waiting.span());
        let mut before = 0;
        while before < end && data.push(&self.0.bytes(block)[start..BLOCK.min(end - before)]) {
            (block, start) = (self.0.behind(block), 0);
            before += BLOCK;
        }
        match msg::send(fd, &data) {
            Ok(sent) => self.advance(rest, sent),
            Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
        }
        true
    }

    /// Drops the first `len` bytes, and with the last of them the rest.
    fn advance(&mut self, rest: &mut Option<Rest>, len: usize) {
        let Some(waiting) = rest else { return };
        let Some(left) = waiting.len().checked_sub(len).filter(|&left| left > 0) else {
            return self.give_back(rest.take());
        };
        let mut start = waiting.start as usize + len;
        while start >= BLOCK {
            let first = waiting.first;
            waiting.first = self.0.behind(first);
            start -= BLOCK;
            self.0.give_back(first);
        }
        (waiting.start, waiting.len) = (count(start), count(left));
    }

    /// Takes back all that a rest has.
    pub fn give_back(&mut self, rest: Option<Rest>) {
        let Some(rest) = rest else { return };
        let mut block = rest.first;
        while block != rest.last {
            let next = self.0.behind(block);
            self.0.give_back(block);
            block = next;
        }
        self.0.give_back(block);
    }
}

impl Rest {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes from the first block's start to the end.
    fn span(&self) -> usize {
        self.start as usize + self.len()
    }
}

/// How many of so many blocks are kept for connections that have none.
fn kept(blocks: usize) -> usize {
    blocks / 16
}

fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    /// Blocks that a rest has.
    fn blocks(rest: Option<&Rest>) -> usize {
        rest.map_or(0, |rest| rest.span().div_ceil(BLOCK))
    }

    /// Whatever others have, a connection that has nothing gets what it was promised.
    #[test]
    fn promises_are_kept() {
        /// What rounding a window adds at most.
        const ROUNDED: usize = 255;
        let bytes = vec![1; ROOM + ROUNDED];
        for blocks in [32, 48, 64, 80, 96, 128, BLOCKS] {
            let mut pool = Slack::new(blocks).unwrap();
            for lent in 0..blocks {
                let (promise, mut rest) = (pool.promise(ROOM), None);
                let told = promise + ROUNDED;
                let added = pool.add(&mut rest, &Gather::of(&bytes[..told]), 0);
                assert_eq!(added, told, "{lent} of {blocks} are lent");
                pool.give_back(rest);
                pool.0.take().unwrap();
            }
        }
    }

    /// Who comes when others have nearly all gets less, and at last nothing.
    #[test]
    fn a_crowd_leaves_something_to_the_rest() {
        let (mut pool, mut rests) = (Slack::new(BLOCKS).unwrap(), Vec::new());
        let bytes = vec![1; ROOM];
        let mut counts = [(ROOM, 0), (CROWDED_ROOM + BLOCK, 0), (BLOCK, 0)];
        while pool.0.free_count() > 0 {
            let mut rest = None;
            let added = pool.add(&mut rest, &Gather::of(&bytes), 0);
            counts.iter_mut().find(|(len, _)| *len == added).expect("all, or what is left to it").1 += 1;
            rests.push(rest);
        }
        // Three quarters of the pool, three sixteenths, and the last one.
        assert_eq!(counts, [(ROOM, 99), (CROWDED_ROOM + BLOCK, 79), (BLOCK, 133)]);
        assert_eq!(pool.promise(ROOM), SMALL_ROOM);
        let mut late = None;
        assert_eq!(pool.add(&mut late, &Gather::of(&bytes), 0), 0);
        assert!(late.is_none());
        assert_eq!(rests.iter().flatten().map(Rest::len).sum::<usize>(), usize::from(BLOCKS) * BLOCK);
        for rest in rests {
            pool.give_back(rest);
        }
        assert!(pool.is_whole());
    }

    /// All of what is asked for while more than three quarters of the pool are free, then at most 256 KiB,
    /// and at most 16 KiB once less than that is left beside the last sixteenth.
    #[test]
    fn promises_shrink_while_blocks_are_lent() {
        const KIB: usize = 1024;
        let mut pool = Slack::new(100).unwrap();
        for lent in 0..=100 {
            let most = match lent {
                0..=24 => usize::MAX,
                25..=89 => 256 * KIB,
                _ => 16 * KIB,
            };
            for asked in [0, 1000, 16 * KIB + 1, 100 * KIB, 256 * KIB + 1, ROOM] {
                let expected = if asked < most { asked } else { most };
                assert_eq!(pool.promise(asked), expected, "{asked} with {lent} blocks lent");
            }
            assert_eq!(pool.take(0).is_some(), lent < 100);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What goes in comes out, in this order, and no block is lost.
        #[test]
        fn two_rests_keep_their_order(
            steps in prop::collection::vec((any::<bool>(), 0..3u8, 1..300_000usize, 0..1000usize), 1..60),
        ) {
            let all = (0..251).collect::<Vec<u8>>().repeat(1200);
            let mut pool = Slack::new(BLOCKS).unwrap();
            let mut rests = [None, None];
            let sockets = [(); 2].map(|()| UnixStream::pair().unwrap());
            let mut model = [Vec::new(), Vec::new()];
            let mut written = 0;
            for (which, what, len, skip) in steps {
                let which = usize::from(which);
                let (rest, (ours, theirs), model) =
                    (&mut rests[which], &sockets[which], &mut model[which]);
                match what {
                    0 => {
                        let bytes = &all[written..written + len];
                        written = (written + 7) % 251;
                        let mut data = Gather::new();
                        bytes.chunks(9000).for_each(|part| assert!(data.push(part)));
                        let added = pool.add(rest, &data, skip.min(len));
                        prop_assert_eq!(added, len - skip.min(len));
                        model.extend_from_slice(&bytes[skip.min(len)..]);
                    }
                    1 => {
                        let mut got = vec![0; len];
                        ours.set_nonblocking(true).unwrap();
                        theirs.set_nonblocking(true).unwrap();
                        prop_assert!(pool.flush(rest, ours.as_fd()));
                        let got_len = (&mut &*theirs).read(&mut got).unwrap_or(0);
                        prop_assert!(got[..got_len] == model[..got_len]);
                        drop(model.drain(..got_len));
                    }
                    _ => {
                        let before = model.len();
                        let waiting = rest.as_ref().map_or(0, Rest::len);
                        model.truncate(before - waiting);
                        pool.give_back(rest.take());
                    }
                }
                prop_assert!(rest.as_ref().is_none_or(|rest| !rest.is_empty() && (rest.start as usize) < BLOCK));
                let lent = blocks(rests[0].as_ref()) + blocks(rests[1].as_ref());
                prop_assert_eq!(lent + pool.0.free_count(), usize::from(BLOCKS));
            }
        }
    }
}
