//! Which flow may have a port of the host's, of those that send to groups and to all.

use std::io;

use passt_sys::alloc;

use crate::flow::Handle;

/// Flows by family and by the port of the host that they send from. One that has ended is still
/// here, and its handle reaches nothing.
pub(crate) struct Senders {
    by_port: Vec<u64>,
}

/// Ports there are.
const PORTS: usize = 1 << 16;

impl Senders {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { by_port: alloc::zeroed(2 * PORTS)? })
    }

    fn index(v4: bool, port: u16) -> usize {
        usize::from(port) + if v4 { 0 } else { PORTS }
    }

    /// A flow sends from this port.
    pub(crate) fn note(&mut self, v4: bool, port: u16, handle: Handle) {
        let Handle { index, generation } = handle;
        if let Some(place) = self.by_port.get_mut(Self::index(v4, port)) {
            *place = u64::from(index) << 32 | u64::from(generation);
        }
    }

    /// The flow that may send from this port.
    #[expect(clippy::cast_possible_truncation, reason = "the parts are taken apart")]
    pub(crate) fn at(&self, v4: bool, port: u16) -> Option<Handle> {
        let value = self.by_port.get(Self::index(v4, port)).copied()?;
        Some(Handle { index: (value >> 32) as u32, generation: value as u32 })
    }
}
