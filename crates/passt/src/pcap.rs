//! Recording of frames, both directions, in the format that wireshark and tcpdump read.
//!
//! The classic format with nanoseconds: it has one fixed header for each packet, so that a frame
//! is recorded by one gathered write from where it lies, without copying or allocating. Frames
//! are recorded as they pass the link: what one side left for the other to segment appears as one
//! long packet, and its checksum may be missing.
//!
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html>

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use passt_proto::time::Instant;
use passt_sys::iovec::Gather;
use passt_sys::msg;

/// Format with nanoseconds, in the byte order of the machine.
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: (u16, u16) = (2, 4);
const LINKTYPE_ETHERNET: u32 = 1;

/// Longest frame that is recorded whole; the longest there is has 64 KiB and an Ethernet header.
pub const SNAPLEN: u32 = 1 << 18;

/// Recording, or none.
#[derive(Debug)]
pub struct Capture {
    state: State,
    /// Since 1970 until the origin of the clock.
    origin: Duration,
    lost: u64,
}

#[derive(Debug)]
enum State {
    Off,
    On(File),
    Failed,
}

impl Capture {
    /// Records nothing.
    pub fn off() -> Self {
        Self { state: State::Off, origin: Duration::ZERO, lost: 0 }
    }

    /// Begins a file, which replaces one that exists. `origin` is the time from 1970 to
    /// [`Instant::ZERO`], so that no clock needs to be read for a frame.
    pub fn create(path: &Path, origin: Duration) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(file_header().as_flattened())?;
        Ok(Self { state: State::On(file), origin, lost: 0 })
    }

    /// Whether frames were to be recorded, so that nobody gathers their parts in vain.
    pub fn is_on(&self) -> bool {
        !matches!(self.state, State::Off)
    }

    /// Records one frame, from its Ethernet header on: `head` and what follows it. If that
    /// fails the capture ends, with one warning.
    pub fn record(&mut self, now: Instant, head: &[u8], rest: &Gather<'_>) {
        let file = match &mut self.state {
            State::Off => return,
            State::On(file) => file,
            State::Failed => {
                self.lost += 1;
                return;
            }
        };
        let time = self.origin + now.since(Instant::ZERO);
        if let Err(error) = write(file, time, head, rest) {
            log::warn!("Can't record frames any more: {error}");
            self.state = State::Failed;
            self.lost += 1;
        }
    }

    /// Frames that are missing because recording failed.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

fn write(file: &File, time: Duration, head: &[u8], rest: &Gather<'_>) -> io::Result<()> {
    let length = u32::try_from(head.len() + rest.total()).unwrap_or(u32::MAX);
    let header = packet_header(time, length);
    let mut parts = Gather::new();
    parts.push(header.as_flattened());
    parts.push(head);
    parts.append(rest);
    // What is missing from a short write could only be added by a second one, after which
    // nothing would be known about a third.
    if msg::write(file.as_fd(), &parts)? == parts.total() {
        Ok(())
    } else {
        Err(io::ErrorKind::StorageFull.into())
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
        let mut capture = Capture::create(&path, Duration::from_secs(1_000_000_000)).unwrap();
        assert!(capture.is_on());
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
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut capture = Capture { state: State::On(file), ..Capture::off() };
        for _ in 0..3 {
            capture.record(Instant::ZERO, b"frame", &Gather::new());
        }
        assert!(matches!(capture.state, State::Failed));
        assert_eq!(capture.lost(), 3);

        let mut off = Capture::off();
        off.record(Instant::ZERO, b"frame", &Gather::new());
        assert!(!off.is_on() && off.lost() == 0);
        assert!(Capture::create(Path::new("/nonexistent/x"), Duration::ZERO).is_err());
    }
}
