//! Whether routers may cut what a socket sends, as the guest said of its packets.
//!
//! Only IPv6 could be told with each message, so the socket is told whenever that changes. Where
//! many flows send through one, each of them says what it wants before it sends.

use std::cell::Cell;
use std::os::fd::BorrowedFd;

use passt_sys::dgram;

/// What a socket was told last, for IPv4 and IPv6; nothing yet, as it is made.
#[derive(Debug, Default)]
pub(crate) struct DontFragment([Cell<Option<bool>>; 2]);

impl DontFragment {
    /// Tells `fd` of what it sends from now on to destinations of one family, if that is new.
    #[inline]
    pub(crate) fn set(&self, fd: BorrowedFd<'_>, v6: bool, dont: bool) {
        let [told_v4, told_v6] = &self.0;
        let told = if v6 { told_v6 } else { told_v4 };
        if told.replace(Some(dont)) != Some(dont) {
            // Without it the kernel does as it does by default, which fragments.
            let _ = dgram::set_dont_fragment(fd, v6, dont);
        }
    }

    /// Has the kernel cut what is too big, if that was not so.
    pub(crate) fn clear(&self, fd: BorrowedFd<'_>) {
        for (told, v6) in self.0.iter().zip([false, true]) {
            if told.get() == Some(true) {
                self.set(fd, v6, false);
            }
        }
    }
}
