//! The direction to the guest: what all protocols build alike.

use passt_proto::wire::build::MAX_HEADERS;
use passt_proto::wire::icmp;
use passt_proto::wire::report::Quoted;

use crate::link::Link;
use crate::worker::Context;

/// Longest error: RFC 4443, section 2.4, and an Ethernet header.
const ERROR_ROOM: usize = 1280 + 14;

impl<L: Link> Context<L> {
    /// Tells the guest that its packet `quoted`, which carried at least `payload`,
    /// was not delivered. The one who says so is the host that was not reached:
    /// which router it was is not known.
    pub(crate) fn icmp_error(&mut self, header: icmp::Header, quoted: &Quoted, payload: &[u8]) {
        let path = self.path(quoted.path.dst, quoted.path.src);
        let mut headers = [0; MAX_HEADERS];
        let Some((len, rest)) = path.emit_error(&mut headers, header, quoted, payload) else { return };
        let mut frame = [0; ERROR_ROOM];
        let (head, body) = frame.split_at_mut(len);
        head.copy_from_slice(&headers[..len]);
        body[..rest].copy_from_slice(&payload[..rest]);
        self.send(&frame[..len + rest]);
    }
}
