//! A guest's network device whose frames go to and from any descriptors: a namespace with a tap
//! device, and threads of the test that move its frames, so that real programs run behind each
//! framing.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns};
use passt_proto::wire::stream::{Framing, MAX_FRAME, PREFIX};
use passt_sys::tun::Tap;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::frame::MacBytes;
use crate::{Net, Ns, Place, eventually};

/// Bytes passed on at once.
const BATCH: usize = 256 * 1024;

/// The namespace with the device `eth0`.
pub struct Device {
    tap: Arc<Tap>,
    ns: Ns,
}

impl Device {
    /// Makes a device, which is up and not configured. There can be one of each `role` at a time.
    pub fn new(net: &Net, role: &str, mtu: u16) -> Self {
        let ns = net.another(role);
        let path = PathBuf::from("/run/netns").join(ns.name());
        // A thread of its own is all that changes its namespace.
        let open = || -> anyhow::Result<Tap> {
            setns(std::fs::File::open(path)?, CloneFlags::CLONE_NEWNET)?;
            Ok(Tap::open("eth0", true)?)
        };
        let tap = std::thread::spawn(open).join().expect("no panic").expect("a tap device");
        ns.sysctl("net.ipv6.conf.eth0.accept_ra=0");
        // Room enough that the device itself loses nothing.
        ns.ip(&format!("link set eth0 mtu {mtu} txqueuelen 10000 up"));
        Self { tap: Arc::new(tap), ns }
    }

    /// Gives the device the MAC address that its guest was told.
    pub fn set_mac(&self, mac: MacBytes) {
        let text = mac.map(|byte| format!("{byte:02x}")).join(":");
        self.ns.ip(&format!("link set eth0 address {text}"));
    }

    /// Configures IPv4 by hand.
    pub fn configure(&self, address: &str, gateway: &str) {
        self.ns.ip(&format!("addr replace {address} dev eth0"));
        self.ns.ip(&format!("route replace default via {gateway}"));
    }

    /// Has frames go to `output` and come from `input` until the value returned is dropped, or the
    /// other end closes.
    pub fn attach(&self, input: OwnedFd, output: OwnedFd, framing: Framing) -> Attached {
        for fd in [&input, &output] {
            rustix::io::ioctl_fionbio(fd, true).expect("a descriptor");
        }
        let (watched, stop) = io::pipe().expect("a pipe");
        let stops = [watched.try_clone().expect("a descriptor"), watched].map(OwnedFd::from);
        let [stop_out, stop_in] = stops;
        let paused = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(AtomicU64::new(0));
        let out = Wire { tap: Arc::clone(&self.tap), fd: output, stop: stop_out, framing };
        let come = Wire { tap: Arc::clone(&self.tap), fd: input, stop: stop_in, framing };
        let (pausing, seeing) = (Arc::clone(&paused), Arc::clone(&seen));
        let threads = vec![
            std::thread::spawn(move || out.outward()),
            std::thread::spawn(move || come.inward(&pausing, &seeing)),
        ];
        Attached { stop: Some(stop.into()), paused, seen, threads }
    }
}

impl Place for Device {
    fn command(&self, program: &str) -> Command {
        self.ns.command(program)
    }

    fn peer_path(&self) -> PathBuf {
        self.ns.peer_path()
    }
}

/// A device's connection, closed at the end of the scope.
pub struct Attached {
    stop: Option<OwnedFd>,
    paused: Arc<AtomicBool>,
    seen: Arc<AtomicU64>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Attached {
    /// Reads nothing more until told otherwise, beside what is just being read.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
    }

    /// Reads again.
    pub fn resume(&self) {
        self.paused.store(false, Ordering::SeqCst);
    }

    /// Bytes that came so far.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// Waits until the other side closes.
    pub fn wait_for_end(&self) {
        eventually("the other side closes", || {
            self.threads.iter().all(JoinHandle::is_finished).then_some(())
        });
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            let outcome = thread.join();
            if !std::thread::panicking() {
                outcome.expect("no panic").expect("frames are moved");
            }
        }
    }
}

/// One direction.
struct Wire {
    tap: Arc<Tap>,
    fd: OwnedFd,
    stop: OwnedFd,
    framing: Framing,
}

/// What ends a direction without being a failure.
fn is_end(error: Errno) -> bool {
    [Errno::PIPE, Errno::CONNRESET, Errno::CONNREFUSED, Errno::NOTCONN].contains(&error)
}

impl Wire {
    /// Waits for `what` on the descriptor, or also on the device; whether to go on.
    fn wait(&self, what: PollFlags, device: bool) -> io::Result<bool> {
        let mut wait = vec![PollFd::new(&self.stop, PollFlags::empty()), PollFd::new(&self.fd, what)];
        wait.extend(device.then(|| PollFd::new(&*self.tap, PollFlags::IN)));
        poll(&mut wait, None)?;
        let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::RDHUP;
        let closed = !what.contains(PollFlags::IN) && wait[1].revents().intersects(gone);
        Ok(wait[0].revents().is_empty() && !closed)
    }

    /// Frames of the device to the descriptor.
    fn outward(&self) -> io::Result<()> {
        let mut frame = vec![0; PREFIX + MAX_FRAME];
        let prefix = self.framing.prefix_len();
        let mut batch = Vec::with_capacity(BATCH * 2);
        let most = if self.framing == Framing::Message { 1 } else { BATCH };
        while self.wait(PollFlags::RDHUP, true)? {
            batch.clear();
            while batch.len() < most {
                match self.tap.read(&mut frame[prefix..]) {
                    Ok(len) => {
                        self.framing.begin(&mut frame[..prefix + len]).expect("a frame that can be sent");
                        batch.extend_from_slice(&frame[..prefix + len]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            let mut rest = &batch[..];
            while !rest.is_empty() {
                match rustix::io::write(&self.fd, rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(Errno::AGAIN) if self.wait(PollFlags::OUT, false)? => {}
                    Err(Errno::AGAIN) => return Ok(()),
                    Err(error) if is_end(error) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Frames of the descriptor to the device.
    fn inward(&self, paused: &AtomicBool, seen: &AtomicU64) -> io::Result<()> {
        let mut received = vec![0; BATCH + PREFIX + MAX_FRAME];
        let mut end = 0;
        while self.wait(PollFlags::IN, false)? {
            if paused.load(Ordering::SeqCst) {
                std::thread::sleep(std::time::Duration::from_millis(1));
                continue;
            }
            match rustix::io::read(&self.fd, &mut received[end..]) {
                Ok(0) => return Ok(()),
                Ok(len) => end += len,
                Err(Errno::AGAIN) => continue,
                Err(error) if is_end(error) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            let mut start = 0;
            while start < end
                && let Some(length) =
                    self.framing.frame_len(&received[start..end]).map_err(io::Error::other)?
            {
                start += self.framing.prefix_len();
                // Lost while the interface is down, as on a real one.
                drop(self.tap.write(&received[start..start + length]));
                start += length;
            }
            seen.fetch_add(u64::try_from(start).unwrap_or(0), Ordering::SeqCst);
            received.copy_within(start..end, 0);
            end -= start;
        }
        Ok(())
    }
}

/// Both directions of a socket.
pub fn both(socket: impl Into<OwnedFd>) -> (OwnedFd, OwnedFd) {
    let socket = socket.into();
    let other = socket.as_fd().try_clone_to_owned().expect("a descriptor");
    (socket, other)
}
