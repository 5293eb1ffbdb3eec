//! What a TCP flow tells of itself.

use std::os::fd::AsFd as _;

use passt_sys::socket::tcp_way;

use super::TcpFlow;
use crate::core::Core;
use crate::flow::Key;
use crate::flow::account::Account;
use crate::protocols::facts::{self, Facts, Ways};

impl TcpFlow {
    /// What it tells of itself. Its sockets' addresses are asked of the kernel.
    pub(crate) fn facts<L>(&self, core: &Core<L>, key: &Key) -> Facts {
        // A socket that is connecting has no peer yet.
        let meant = || Some(core.guest.from_guest(key.protocol, key.remote).ok()?.remote);
        Facts {
            state: self.conn.phase().into(),
            account: self.account,
            retransmitted: self.conn.retransmitted(),
            local: facts::local(&self.fd),
            remote: facts::peer(&self.fd).or_else(meant),
            ways: Some(Ways {
                host: tcp_way(self.fd.as_fd()).unwrap_or_default(),
                guest_window: self.conn.way().0,
                guest_rtt: self.conn.way().1,
            }),
        }
    }

    /// What it has carried.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }
}
