//! The tap link: a tap device in the guest's network namespace.
//!
//! With `IFF_VNET_HDR` frames are super-frames both ways and no checksum is
//! ever computed; without it (an old kernel, a sandbox that refuses it) each frame stands
//! for itself and is completed by [`Completion`](super::complete).

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use passt_proto::drop::DropReason;
use passt_proto::wire::offload::{Offload, VNET_HEADER_LEN};
use passt_sys::iovec::{Gather, Scatter};
use passt_sys::tun::{Offloads, Tap};

use super::{Caps, Frame, HEAD_LEN, Link, MAX_HEADERS, MAX_PAYLOAD};
