//! What is known about groups without being told.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::addr::Addr;

/// The ports of protocols that have a group of their own (IANA), of those in use on home and
/// office networks. Reports tell no ports.
pub fn well_known(group: Addr) -> &'static [u16] {
    let Some(v4) = group.v4() else { return well_known_v6(group.octets().into()) };
    match v4.octets() {
        // NTP.
        [224, 0, 1, 1] => &[123],
        // Multicast DNS (RFC 6762), LLMNR (RFC 4795).
        [224, 0, 0, 251] => &[5353],
        [224, 0, 0, 252] => &[5355],
        // Service location (RFC 2608).
        [239, 255, 255, 253] => &[427],
        // SSDP (`UPnP`), Web Services Dynamic Discovery.
        [239, 255, 255, 250] => &[1900, 3702],
        // PTP (IEEE 1588).
        [224, 0, 1, 129..=132] | [224, 0, 0, 107] => &[319, 320],
        // `CoAP` (RFC 7252).
        [224, 0, 1, 187] => &[5683],
        _ => &[],
    }
}

fn well_known_v6(group: Ipv6Addr) -> &'static [u16] {
    // The same in every scope.
    match group.segments() {
        [_, 0, 0, 0, 0, 0, 0, 0x101] => &[123],
        [_, 0, 0, 0, 0, 0, 0, 0xfb] => &[5353],
        [_, 0, 0, 0, 0, 0, 1, 3] => &[5355],
        [_, 0, 0, 0, 0, 0, 0, 0x116] => &[427],
        [_, 0, 0, 0, 0, 0, 0, 0xc] => &[1900, 3702],
        [_, 0, 0, 0, 0, 0, 0, 0x181 | 0x6b] => &[319, 320],
        [_, 0, 0, 0, 0, 0, 0, 0xfd] => &[5683],
        _ => &[],
    }
}

/// Groups of a family that [have a place of their own](has_own_place), at most.
pub(super) const RESERVED: usize = 16;

/// Whether there is always a place for a group: those of [well-known](well_known) protocols, in
/// IPv6 permanent ones (RFC 4291, section 2.7) of the link and the site, as protocols use them. All
/// scopes and flags would be more groups than there are places, and one station could take them.
pub fn has_own_place(group: Addr) -> bool {
    let is_near = group.is_v4() || matches!(Ipv6Addr::from(group.octets()).segments(), [0xff02 | 0xff05, ..]);
    is_near && !well_known(group).is_empty()
}

/// Whether membership of a group is kept: of all that leave the guest's own stack, but for those
/// that everybody is in (RFC 3376, section 6; RFC 3810, section 6) or that serve to resolve
/// addresses, which stay on the link (RFC 4291, section 2.7.1).
pub fn is_kept(group: Addr) -> bool {
    if let Some(v4) = group.v4() {
        return v4.is_multicast() && v4 != Ipv4Addr::new(224, 0, 0, 1);
    }
    match Ipv6Addr::from(group.octets()).segments() {
        [0xff02, 0, 0, 0, 0, 0, 0, 1] | [0xff02, 0, 0, 0, 0, 1, 0xff00..=0xffff, _] => false,
        // The scope is in the last four bits: reserved ones, and that of an interface.
        [first, ..] => first >> 8 == 0xff && first & 0xf > 1 && first & 0xf != 0xf,
    }
}
