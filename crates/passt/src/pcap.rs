//! Recording of frames, both directions, in the format that wireshark and tcpdump read.
//!
//! The classic format with nanoseconds: it has one fixed header for each packet, so that a frame
//! is recorded by one gathered write from where it lies, without copying its payload or allocating.
//! Frames are recorded as they pass the link: what one side left for the other to segment appears
//! as one long packet. The checksums are those of what is recorded, whoever is to compute them.
//!
//! A frame is recorded as a whole or not at all. One that the file doesn't take at once, as a FIFO
//! that nobody reads, is left out and counted.
//!
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html>

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
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

/// A recording, which several threads add to.
#[derive(Debug)]
pub struct Recording {
    outlet: Outlet,
    /// Since 1970 until the origin of the clock.
    origin: Duration,
    /// Bytes recorded so far.
    size: AtomicU64,
    /// It has ended by an error.
    failed: AtomicBool,
    lost: AtomicU64,
    /// Frames left out since the last that was recorded.
    gap: AtomicU64,
}

impl Recording {
    /// Begins a file, which replaces one that exists. `origin` is the time from 1970 to
    /// [`Instant::ZERO`], so that no clock needs to be read for a frame.
    pub fn create(path: &Path, origin: Duration) -> io::Result<Self> {
        Self::begin(Outlet::new(files::create(path)?)?, origin)
    }

    /// The same in a file that somebody else opened, or through a socket that keeps messages apart,
    /// where each write of this recording is one.
    pub fn given(file: OwnedFd, origin: Duration) -> io::Result<Self> {
        Self::begin(Outlet::given(file)?, origin)
    }

    fn begin(outlet: Outlet, origin: Duration) -> io::Result<Self> {
        let header = file_header();
        let header = Gather::of(header.as_flattened());
        outlet.write(&header)?;
        let (size, failed) = (AtomicU64::new(header.total() as u64), AtomicBool::new(false));
        Ok(Self { outlet, origin, size, failed, lost: AtomicU64::new(0), gap: AtomicU64::new(0) })
    }
}

impl Capture for Recording {
    /// Records one frame. One that there is no room for is left out; if recording fails otherwise
    /// the capture ends, with one warning.
    fn record(&self, now: Instant, head: &[u8], rest: &Gather<'_>) {
        if self.failed.load(Relaxed) {
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        let length = u32::try_from(head.len() + rest.total()).unwrap_or(u32::MAX);
        let header = packet_header(self.origin + now.since(Instant::ZERO), length);
        let mut parts = Gather::of(header.as_flattened());
        let fits = parts.push(head) && parts.append(rest);
        let written = if fits { self.outlet.write(&parts) } else { Err(io::ErrorKind::WouldBlock.into()) };
        match written {
            Ok(()) => {
                self.size.fetch_add(parts.total() as u64, Relaxed);
                let gap = if self.gap.load(Relaxed) == 0 { 0 } else { self.gap.swap(0, Relaxed) };
                if gap > 0 {
                    log::warn!("{gap} frames are missing from the capture before this one");
                }
            }
            Err(error) => {
                self.lost.fetch_add(1, Relaxed);
                let gap = self.gap.fetch_add(1, Relaxed) + 1;
                if error.kind() != io::ErrorKind::WouldBlock {
                    log::warn!("Can't record frames any more: {error}");
                    self.outlet.cut_to(self.size.load(Relaxed));
                    self.failed.store(true, Relaxed);
                } else if gap == 1 {
                    log::warn!("Frames are missing from the capture from here on: nobody reads it");
                }
            }
        }
    }

    fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
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
        let capture = Recording::create(&path, Duration::from_secs(1_000_000_000)).unwrap();
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
        let capture = Recording {
            outlet: Outlet::new(file).unwrap(),
            size: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            origin: Duration::ZERO,
            lost: AtomicU64::new(0),
            gap: AtomicU64::new(0),
        };
        for _ in 0..3 {
            capture.record(Instant::ZERO, b"frame", &Gather::new());
        }
        assert!(capture.failed.load(Relaxed));
        assert_eq!(capture.lost(), 3);

        assert!(Recording::create(Path::new("/nonexistent/x"), Duration::ZERO).is_err());
    }
}
