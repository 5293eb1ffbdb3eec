//! Features, by the bits that the standards give them.

use bitflags::bitflags;

use crate::link::Caps;
use crate::link::virtio::queue::QueueFeatures;

/// Bytes of the largest packet of Ethernet.
const ETHERNET_MTU: usize = 1500;

bitflags! {
    /// What device and driver agree on: those of a network device (virtio 1.2, section 5.1.3), those
    /// of every device (section 6), and one of the protocol.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// Frames from the guest may have begun checksums.
        const CSUM = 1;
        /// Frames for the guest may.
        const GUEST_CSUM = 1 << 1;
        /// The device says what its MTU is.
        const MTU = 1 << 3;
        /// TCP super-frames for the guest.
        const GUEST_TSO4 = 1 << 7;
        /// The same of IPv6.
        const GUEST_TSO6 = 1 << 8;
        /// TCP super-frames from the guest.
        const HOST_TSO4 = 1 << 11;
        /// The same of IPv6.
        const HOST_TSO6 = 1 << 12;
        /// A frame for the guest may be in several chains.
        const MRG_RXBUF = 1 << 15;
        /// The driver can be asked to announce the guest; front ends do so.
        const GUEST_ANNOUNCE = 1 << 21;
        /// Several pairs of queues.
        const MQ = 1 << 22;
        /// Pages that the device writes to are noted: it is to a front end (vhost-user,
        /// "Migration"), not to a driver.
        const LOG_ALL = 1 << 26;
        /// Descriptors in tables of their own.
        const INDIRECT_DESC = 1 << 28;
        /// Notifications are asked for by indices.
        const EVENT_IDX = 1 << 29;
        /// Protocol features are negotiated (vhost-user).
        const PROTOCOL_FEATURES = 1 << 30;
        /// Not a device of before 1.0.
        const VERSION_1 = 1 << 32;
        /// Buffers are used in the order in which they were made available.
        const IN_ORDER = 1 << 35;
        /// UDP super-frames for the guest, by IPv4.
        const GUEST_USO4 = 1 << 54;
        /// The same by IPv6.
        const GUEST_USO6 = 1 << 55;
        /// UDP super-frames from the guest.
        const HOST_USO = 1 << 56;
        // Those of others.
        const _ = !0;
    }
}

bitflags! {
    /// What front end and back end agree on (vhost-user, "Protocol features").
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ProtocolFeatures: u64 {
        /// Several queues.
        const MQ = 1;
        /// The log of pages is in a file that front end and back end share.
        const LOG_SHMFD = 1 << 1;
        /// Announcing the guest after a migration.
        const RARP = 1 << 2;
        /// Answers to messages that have none.
        const REPLY_ACK = 1 << 3;
        /// The front end sets the MTU.
        const NET_MTU = 1 << 4;
        /// Configuration space.
        const CONFIG = 1 << 9;
        /// Resetting the device.
        const RESET_DEVICE = 1 << 13;
        /// Regions of memory one by one.
        const CONFIGURE_MEM_SLOTS = 1 << 15;
        /// Status of the device.
        const STATUS = 1 << 16;
        // Those of others.
        const _ = !0;
    }
}

impl Features {
    /// All that the device can do for a driver, but for an MTU, which not every one has.
    pub(super) const OFFERED: Self = Self::CSUM
        .union(Self::GUEST_CSUM)
        .union(Self::GUEST_TSO4)
        .union(Self::GUEST_TSO6)
        .union(Self::HOST_TSO4)
        .union(Self::HOST_TSO6)
        .union(Self::MRG_RXBUF)
        .union(Self::GUEST_ANNOUNCE)
        .union(Self::MQ)
        .union(Self::INDIRECT_DESC)
        .union(Self::EVENT_IDX)
        .union(Self::PROTOCOL_FEATURES)
        .union(Self::VERSION_1)
        .union(Self::IN_ORDER)
        .union(Self::GUEST_USO4)
        .union(Self::GUEST_USO6)
        .union(Self::HOST_USO);

    /// With one of these a driver's buffers, together, have room for more than Ethernet's frames
    /// (virtio 1.2, section 5.1.6.3.1).
    const LARGE_BUFFERS: Self = Self::MRG_RXBUF
        .union(Self::MTU)
        .union(Self::GUEST_TSO4)
        .union(Self::GUEST_TSO6)
        .union(Self::GUEST_USO4)
        .union(Self::GUEST_USO6);

    /// What the guest takes as it is.
    pub(super) fn caps(self) -> Caps {
        let checksum = self.contains(Self::GUEST_CSUM);
        Caps {
            checksum,
            tcp_segmentation: checksum && self.contains(Self::GUEST_TSO4 | Self::GUEST_TSO6),
            udp_segmentation: checksum && self.contains(Self::GUEST_USO4 | Self::GUEST_USO6),
            // A queue makes the guest wait, and drops nothing.
            queue_limit: None,
            packet_limit: (!self.intersects(Self::LARGE_BUFFERS)).then_some(ETHERNET_MTU),
        }
    }

    /// What queues are used with.
    pub(super) fn queue(self) -> QueueFeatures {
        QueueFeatures {
            event_index: self.contains(Self::EVENT_IDX),
            indirect: self.contains(Self::INDIRECT_DESC),
        }
    }
}

impl ProtocolFeatures {
    /// All that the back end can do, but for those that some front ends don't want to see.
    pub(super) const OFFERED: Self = Self::MQ
        .union(Self::LOG_SHMFD)
        .union(Self::RARP)
        .union(Self::REPLY_ACK)
        .union(Self::RESET_DEVICE)
        .union(Self::CONFIGURE_MEM_SLOTS)
        .union(Self::STATUS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_large_packets() {
        let table = [
            (Features::VERSION_1, Some(1500)),
            (Features::CSUM | Features::GUEST_CSUM | Features::HOST_TSO4, Some(1500)),
            (Features::MRG_RXBUF, None),
            (Features::MTU, None),
            (Features::GUEST_CSUM | Features::GUEST_TSO6, None),
            (Features::GUEST_CSUM | Features::GUEST_USO4, None),
        ];
        for (features, limit) in table {
            assert_eq!(features.caps().packet_limit, limit, "{features:?}");
        }
    }
}
