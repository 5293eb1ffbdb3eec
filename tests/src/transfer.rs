//! Transfers between two places, checked by content.

use std::time::Duration;

use crate::{FAR4, FAR6, Net, Place, Process, stream};

/// 2^30.
pub const GIB: u64 = 1 << 30;
/// 2^20.
pub const MIB: u64 = 1 << 20;

/// How long a transfer may take: at 200 Mbit/s, and what starting it costs.
pub fn deadline(place: &(impl Place + ?Sized), length: u64) -> Duration {
    Duration::from_secs(15 + length / (25 * MIB)) * place.slowness()
}

/// An address and port as `host:port`, with brackets where IPv6 needs them.
pub fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// The server behind the gateway, in both families.
pub fn far_servers(net: &Net) -> [Process; 2] {
    [FAR4, FAR6].map(|address| net.peer.serve(&at(address, 5001)))
}

/// Sends `length` bytes from `place` to the server at `to`, which must get
/// exactly these.
pub fn upload(place: &(impl Place + ?Sized), to: &str, length: u64) {
    let reply = place.start_peer(&format!("up {to} {length} 1")).succeed_within(deadline(place, length));
    assert_eq!(reply.trim(), stream::expected(length, 1), "sent to {to}");
}

/// Fetches `length` bytes from the server at `from` to `place`, which must get
/// exactly these.
pub fn download(place: &(impl Place + ?Sized), from: &str, length: u64) {
    let received =
        place.start_peer(&format!("down {from} {length} 1")).succeed_within(deadline(place, length));
    assert_eq!(received.trim(), stream::expected(length, 1), "fetched from {from}");
}

/// A small exchange: whether TCP works from `place` to the server at `to`.
pub fn exchange(place: &(impl Place + ?Sized), to: &str) {
    upload(place, to, 100_000);
    download(place, to, 100_000);
}
