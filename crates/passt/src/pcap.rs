//! Recording of frames, both directions, in the format that wireshark and tcpdump read.
//!
//! The classic format with nanoseconds: it has one fixed header for each packet, so that a frame
//! is recorded by one gathered write from where it lies, without copying or allocating. Frames
//! are recorded as they pass the link: what one side left for the other to segment appears as one
//! long packet, and its checksum may be missing.
//!
//! A frame is recorded as a whole or not at all. One that the file doesn't take at once, as a FIFO that nobody reads, is
//! left out and counted.
//!
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html>

use std::io;
use std::path::Path;
use std::time::Duration;

use passt_engine::core::Capture;
use passt_proto::time::Instant;
use passt_sys::fd;
use passt_sys::iovec::Gather;
use passt_sys::seccomp::{Call, Sysno};

use crate::files;
use crate::outlet::{self, Outlet};

/// System calls made here once the process runs: what a full disk took a part of is taken back.
pub const CALLS: &[&[Call]] = &[outlet::CALLS, fd::CALLS, &[Call::any(Sysno::ftruncate)]];

/// Format with nanoseconds, in the byte order of the machine.
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: (u16, u16) = (2, 4);
const LINKTYPE_ETHERNET: u32 = 1;

/// Longest frame that is recorded whole; the longest there is has 64 KiB and an Ethernet header.
pub const SNAPLEN: u32 = 1 << 18;

/// A recording.
#[derive(Debug)]
pub struct Recording {
    state: State,
    /// Since 1970 until the origin of the clock.
    origin: Duration,
    lost: u64,
    /// Frames left out since the last that was recorded.
    gap: u64,
}

#[derive(Debug)]
enum State {
    /// With its size in bytes.
    On(Outlet, u64),
    Failed,
}

impl Recording {
    /// Begins a file, which replaces one that exists. `origin` is the time from 1970 to
    /// [`Instant::ZERO`], so that no clock needs to be read for a frame.
    pub fn create(path: &Path, origin: Duration) -> io::Result<Self> {
        let mut outlet = Outlet::new(files::create(path)?)?;
        let header = file_header();
        let header = Gather::of(header.as_flattened());
        outlet.write(&header)?;
        Ok(Self { state: State::On(outlet, header.total() as u64), origin, lost: 0, gap: 0 })
    }
}

impl Capture for Recording {
    /// Records one frame. One that there is no room for is left out; if recording fails otherwise the capture
    /// ends, with one warning.
    fn record(&mut self, now: Instant, head: &[u8], rest: &Gather<'_>) {
        let (outlet, size) = match &mut self.state {
            State::On(outlet, size) => (outlet, size),
            State::Failed => {
                self.lost += 1;
                return;
            }
        };
        let length = u32::try_from(head.len() + rest.total()).unwrap_or(u32::MAX);
        let header = packet_header(self.origin + now.since(Instant::ZERO), length);
        let mut parts = Gather::of(header.as_flattened());
        parts.push(head);
        parts.append(rest);
        match outlet.write(&parts) {
            Ok(()) => {
                *size += parts.total() as u64;
                if self.gap > 0 {
                    log::warn!("{} frames are missing from the capture before this one", self.gap);
                    self.gap = 0;
                }
            }
            Err(error) => {
                self.lost += 1;
                self.gap += 1;
                if error.kind() != io::ErrorKind::WouldBlock {
                    log::warn!("Can't record frames any more: {error}");
                    outlet.cut_to(*size);
                    self.state = State::Failed;
                } else if self.gap == 1 {
                    log::warn!("Frames are missing from the capture from here on: nobody reads it");
                }
            }
        }
    }

    fn lost(&self) -> u64 {
        self.lost
    }
}

fn file_header() -> [[u8; 4]; 6] {
    let ([a, b], [c, d]) = (VERSION.0.to_ne_bytes(), VERSION.1.to_ne_bytes());
    let [snaplen, linktype] = [SNAPLEN, LINKTYPE_ETHERNET].map(u32::to_ne_bytes);
    // The two words in the middle are the time zone and its accuracy, which nobody uses.
    [MAGIC.to_ne_bytes(), [a, b, c, d], [0; 4], [0; 4], snaplen, linktype]
}

fn packet_header(time: Duration, length: u32) -> [[u8; 4]; 4] {
    // The format has 32 bits of seconds: they wrap in 2106.
    let seconds = u32::try_from(time.as_secs() & u64::from(u32::MAX)).unwrap_or_default();
    [seconds, time.subsec_nanos(), length, length].map(u32::to_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("pcap-{}-{name}", std::process::id()))
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    /// The packets of a file: seconds, nanoseconds, original length and what was captured.
    fn decode(bytes: &[u8]) -> Vec<(u32, u32, u32, Vec<u8>)> {
        assert_eq!(word(bytes, 0), 0xa1b2_3c4d);
        assert_eq!(u16::from_ne_bytes(bytes[4..6].try_into().unwrap()), 2);
        assert_eq!(u16::from_ne_bytes(bytes[6..8].try_into().unwrap()), 4);
        assert!(word(bytes, 16) >= 65535 + 14);
        assert_eq!(word(bytes, 20), 1);
        let (mut packets, mut at) = (Vec::new(), 24);
        while at < bytes.len() {
            let captured = word(bytes, at + 8) as usize;
            let data = bytes[at + 16..at + 16 + captured].to_vec();
            packets.push((word(bytes, at), word(bytes, at + 4), word(bytes, at + 12), data));
            at += 16 + captured;
        }
        packets
    }

    #[test]
    fn frames_in_parts() {
        let path = path("frames");
        let payload = vec![7; 65535];
        let rest = |parts: &[&'static [u8]]| {
            let mut list = Gather::new();
            assert!(parts.iter().all(|part| list.push(part)));
            list
        };
        let payload: &'static [u8] = payload.leak();
        let mut capture = Recording::create(&path, Duration::from_secs(1_000_000_000)).unwrap();
        capture.record(Instant::from_nanos(1_500_000_001), b"header", &rest(&[b"", b"payload"]));
        capture.record(Instant::from_nanos(2_000_000_000), &[0; 14], &rest(&[payload]));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();

        let packets = decode(&bytes);
        assert_eq!(packets[0], (1_000_000_001, 500_000_001, 13, b"headerpayload".to_vec()));
        assert_eq!((packets[1].2, packets[1].3.len()), (65549, 65549));
        assert_eq!(packets.len(), 2);
        assert_eq!(capture.lost(), 0);
    }

    #[test]
    fn a_failure_ends_it() {
        let file = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut capture = Recording {
            state: State::On(Outlet::new(file).unwrap(), 0),
            origin: Duration::ZERO,
            lost: 0,
            gap: 0,
        };
        for _ in 0..3 {
            capture.record(Instant::ZERO, b"frame", &Gather::new());
        }
        assert!(matches!(capture.state, State::Failed));
        assert_eq!(capture.lost(), 3);

        assert!(Recording::create(Path::new("/nonexistent/x"), Duration::ZERO).is_err());
    }
}
