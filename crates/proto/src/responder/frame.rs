//! Complete frames around what a service says.

use crate::drop::DropReason;
use crate::wire::build::Path;
use crate::wire::checksum::Sum;
use crate::wire::ip::protocol;
use crate::wire::writer::Writer;
use crate::wire::{ethernet, udp};

/// What a link carries if nothing is known about it.
const DEFAULT_MTU: u16 = 1500;

/// What every link carries (RFC 8200, section 5).
const MIN_MTU: u16 = 1280;

/// The part of `out` that a frame may fill on a link with `mtu`, zero if unknown.
pub(super) fn within_mtu(mtu: u16, out: &mut [u8]) -> &mut [u8] {
    let mtu = if mtu == 0 { DEFAULT_MTU } else { mtu.max(MIN_MTU) };
    let limit = out.len().min(ethernet::LEN + usize::from(mtu));
    out.get_mut(..limit).unwrap_or_default()
}

/// Writes a frame with a datagram whose payload `write` writes, and returns its length.
pub(super) fn udp(
    path: &Path,
    ports: (u16, u16),
    out: &mut [u8],
    write: impl FnOnce(&mut Writer<'_>) -> Option<()>,
) -> Result<usize, DropReason> {
    let frame = |out: &mut [u8]| {
        let header_len = path.header_len().checked_add(udp::LEN)?;
        let (header, rest) = out.split_at_mut_checked(header_len)?;
        let payload = written(rest, write)?;
        let (_, offload) = path.emit_udp(header, ports, payload.len(), 0)?;
        offload.finish_header(header, Sum::new().bytes(payload))?;
        header_len.checked_add(payload.len())
    };
    frame(out).and_then(|len| pad(out, len)).ok_or(DropReason::NoRoom)
}

/// Writes a frame with the `ICMPv6` message that `write` writes, its checksum zero,
/// and returns the frame's length.
pub(super) fn icmp_v6(
    path: &Path,
    out: &mut [u8],
    write: impl FnOnce(&mut Writer<'_>) -> Option<()>,
) -> Result<usize, DropReason> {
    let frame = |out: &mut [u8]| {
        let (header, rest) = out.split_at_mut_checked(path.header_len())?;
        let message = written(rest, write)?;
        path.emit(header, protocol::ICMPV6, message.len())?;
        let sum = Sum::pseudo(path.src, path.dst, protocol::ICMPV6, message.len());
        let check = sum.bytes(message).finish_nonzero();
        message.get_mut(2..4)?.copy_from_slice(&check.to_be_bytes());
        path.header_len().checked_add(message.len())
    };
    frame(out).and_then(|len| pad(out, len)).ok_or(DropReason::NoRoom)
}

/// What `write` wrote to the start of `out`.
fn written(out: &mut [u8], write: impl FnOnce(&mut Writer<'_>) -> Option<()>) -> Option<&mut [u8]> {
    let mut w = Writer::new(out);
    write(&mut w)?;
    let len = w.written();
    out.get_mut(..len)
}

/// Pads a frame of `len` bytes to the minimum of Ethernet and returns its length.
pub(super) fn pad(out: &mut [u8], len: usize) -> Option<usize> {
    let padded = len.max(ethernet::MIN_FRAME);
    out.get_mut(len..padded)?.fill(0);
    Some(padded)
}
