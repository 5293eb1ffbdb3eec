//! Tap devices (kernel document: Documentation/networking/tuntap.rst).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::seccomp::{Call, Sysno};
use crate::{fd, result};

/// System calls made here once the process runs.
pub const CALLS: &[Call] = &[Call::any(Sysno::read), Call::any(Sysno::write)];

/// Missing from crate libc (`include/uapi/linux/if_tun.h`, Linux 3.20).
#[allow(clippy::cast_lossless, clippy::cast_possible_wrap, reason = "each C library has a type of its own")]
const TUNSETVNETLE: libc::Ioctl = rustix::ioctl::opcode::write::<libc::c_int>(b'T', 220) as libc::Ioctl;

/// What makes devices.
const DEVICE: &str = "/dev/net/tun";

bitflags::bitflags! {
    /// `TUN_F_*` of include/uapi/linux/if_tun.h: what frames read from the
    /// device may leave to us.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Offloads: libc::c_ulong {
        /// Checksums.
        const CSUM = 0x01;
        /// TCP segmentation, IPv4.
        const TSO4 = 0x02;
        /// TCP segmentation, IPv6.
        const TSO6 = 0x04;
        /// UDP segmentation, IPv4 (Linux 6.2; missing from older headers).
        const USO4 = 0x20;
        /// UDP segmentation, IPv6.
        const USO6 = 0x40;
    }
}

/// A tap device of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    header: bool,
    offloads: Offloads,
}

/// Length of the `virtio_net_hdr` before each frame, where the device has one.
pub const VNET_HEADER_LEN: usize = 10;

impl Tap {
    /// Creates (or attaches to) the tap device `name`, non-blocking, with
    /// `IFF_VNET_HDR` and all offloads that the kernel has. `plain` asks for
    /// frames without header or offloads. Needs `CAP_NET_ADMIN` in the user
    /// namespace that owns the network namespace.
    pub fn open(name: &str, plain: bool) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(DEVICE)
            .map_err(|error| fd::at(DEVICE, &error))?;
        let base = libc::IFF_TAP | libc::IFF_NO_PI;
        let header = !plain && set_interface(&file, name, base | libc::IFF_VNET_HDR).is_ok();
        if header {
            set_byte_order(&file)?;
        } else {
            set_interface(&file, name, base).map_err(|error| refused(&error))?;
        }
        let name = interface_name(&file)?;
        let offloads = if header { set_offloads(&file) } else { Offloads::empty() };
        Ok(Self { file, name, header, offloads })
    }

    /// Takes over a device that another process has opened, with the header and offloads that it
    /// has. Frames must come without packet information (`IFF_NO_PI`), which the kernel does not tell:
    /// the bit that would say so has another meaning there (`IFF_NOFILTER`).
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let mut request = request("", 0)?;
        // SAFETY: TUNGETIFF writes one ifreq.
        result(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF, &raw mut request) } as isize)?;
        // SAFETY: TUNGETIFF has written the flags.
        let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
        if flags & libc::IFF_TAP == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a tap device"));
        }
        rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? | rustix::fs::OFlags::NONBLOCK)?;
        let header = flags & libc::IFF_VNET_HDR != 0;
        if header {
            set_header_len(&file)?;
            set_byte_order(&file)?;
        }
        let offloads = if header { set_offloads(&file) } else { Offloads::empty() };
        Ok(Self { name: name_in(&request)?, file, header, offloads })
    }

    /// The interface's name, as the kernel completed it (`tap%d`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether frames have a `virtio_net_hdr` of [`VNET_HEADER_LEN`] bytes.
    pub fn has_vnet_header(&self) -> bool {
        self.header
    }

    /// What the guest's kernel may leave to us.
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Reads one frame, header first; an error of kind `WouldBlock` when there is none.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        rustix::io::read(&self.file, buffer).map_err(io::Error::from)
    }

    /// Writes one frame, header first.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.file, frame).map(drop).map_err(io::Error::from)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn request(name: &str, flags: i32) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() || name.bytes().any(|b| b == 0) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    Ok(request)
}

fn set_interface(file: &File, name: &str, flags: i32) -> io::Result<()> {
    let mut request = request(name, flags)?;
    // SAFETY: TUNSETIFF reads one ifreq and writes what it has completed to the same place.
    result(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } as isize).map(drop)
}

/// Why there is no device of the name wanted (`tun_set_iff` of drivers/net/tun.c).
fn refused(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            fd::at("the name is taken by another process, perhaps a second one of this", error)
        }
        Some(libc::EINVAL) => fd::at("the name is taken by an interface of another kind", error),
        _ => io::Error::new(error.kind(), error.to_string()),
    }
}

fn interface_name(file: &File) -> io::Result<String> {
    let mut request = request("", 0)?;
    // SAFETY: TUNGETIFF writes one ifreq.
    result(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF, &raw mut request) } as isize)?;
    name_in(&request)
}

fn name_in(request: &libc::ifreq) -> io::Result<String> {
    let name = request.ifr_name.iter().flat_map(|c| c.to_ne_bytes()).take_while(|&b| b != 0).collect();
    String::from_utf8(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Has the header's numbers be little-endian, as those of virtio 1.0 are. Without this they are in the
/// order of the machine, or in that which the device's owner has chosen.
fn set_byte_order(file: &File) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: TUNSETVNETLE reads one int.
    let set = result(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETVNETLE, &raw const on) } as isize);
    // It is the order of most machines anyway.
    if cfg!(target_endian = "little") { Ok(()) } else { set.map(drop) }
}

/// Has the header be as long as we know it.
fn set_header_len(file: &File) -> io::Result<()> {
    let len = libc::c_int::try_from(VNET_HEADER_LEN).unwrap_or(0);
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    result(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) } as isize).map(drop)
}

/// Asks for the most and settles for what the kernel has.
fn set_offloads(file: &File) -> Offloads {
    let tcp = Offloads::CSUM | Offloads::TSO4 | Offloads::TSO6;
    let choices = [tcp | Offloads::USO4 | Offloads::USO6, tcp, Offloads::CSUM];
    let accepted = |offloads: &Offloads| {
        // SAFETY: TUNSETOFFLOAD takes its flags by value.
        result(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, offloads.bits()) } as isize)
            .is_ok()
    };
    choices.into_iter().find(accepted).unwrap_or(Offloads::empty())
}
