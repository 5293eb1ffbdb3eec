//! What a worker counts: traffic, flows, and every reason to drop.

use passt_proto::drop::DropReason;

/// Counters since the start.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Frames and bytes received from the guest.
    pub from_guest: Traffic,
    /// Frames and bytes sent to the guest.
    pub to_guest: Traffic,
    /// Flows begun.
    pub flows: u64,
    /// Segments sent to the guest again.
    pub retransmitted: u64,
    /// Rounds of the loop.
    pub rounds: u64,
    drops: [u64; DropReason::COUNT],
}

/// Frames and their bytes. A super-frame is one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Bytes from the Ethernet header on.
    pub bytes: u64,
}

impl Default for Counters {
    fn default() -> Self {
        let none = Traffic::default();
        Self {
            from_guest: none,
            to_guest: none,
            flows: 0,
            retransmitted: 0,
            rounds: 0,
            drops: [0; DropReason::COUNT],
        }
    }
}

impl Counters {
    /// Counts a frame received.
    pub fn received(&mut self, len: usize) {
        self.from_guest.add(len);
    }

    /// Counts a frame sent.
    pub fn sent(&mut self, len: usize) {
        self.to_guest.add(len);
    }

    /// Counts something dropped.
    pub fn drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
        log::trace!("dropped: {}", reason.name());
    }

    /// How often something was dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Reasons for which anything was dropped, with how often.
    pub fn all_drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.iter().map(|&reason| (reason, self.drops(reason))).filter(|&(_, count)| count > 0)
    }
}

impl Traffic {
    fn add(&mut self, len: usize) {
        self.frames += 1;
        self.bytes += len as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped() {
        let mut counters = Counters::default();
        assert_eq!(counters.all_drops().count(), 0);
        for reason in [DropReason::Socket, DropReason::NoFlow, DropReason::Socket] {
            counters.drop(reason);
        }
        let mut drops: Vec<_> = counters.all_drops().collect();
        drops.sort_by_key(|&(_, count)| count);
        assert_eq!(drops, [(DropReason::NoFlow, 1), (DropReason::Socket, 2)]);
    }
}
