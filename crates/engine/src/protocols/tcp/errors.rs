//! Errors of the network about connections: the host's, which the guest hears of, and those from
//! the guest's side.

use std::os::fd::AsFd as _;

use passt_proto::drop::DropReason;
use passt_proto::seq::Seq;
use passt_proto::wire::build::Path;
use passt_proto::wire::complaint::Trouble;
use passt_proto::wire::ip::protocol;
use passt_proto::wire::report::Quoted;
use passt_proto::wire::{ethernet, tcp as wire};
use passt_sys::dgram::{self, Failure, Origin};
use rustix::io::Errno;

use super::{Tcp, TcpFlow, count};
use crate::core::Payload;
use crate::core::icmp::unreachable;
use crate::flow::{Handle, Key};
use crate::forward::Context;
use crate::link::Link;
use crate::protocols::Verdict;

impl TcpFlow {
    /// The host could not connect. The guest hears what a host's process would: the message of a
    /// router, a refusal, an ICMP error for what the kernel says, or nothing where nothing came
    /// back.
    pub(crate) fn failed<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        tcp: &mut Tcp,
        handle: Handle,
        key: &Key,
        error: Errno,
    ) -> Verdict {
        log::debug!("{key}: {error}");
        if error == Errno::TIMEDOUT {
            return Verdict::Remove;
        }
        if let Some(failure) = self.failure() {
            ctx.core.report(&failure, &self.quoted(key), &Payload::NONE);
            return Verdict::Remove;
        }
        let unreachable = if error == Errno::CONNREFUSED { None } else { unreachable(error) };
        let Some(unreachable) = unreachable else { return self.broken(ctx, tcp, handle) };
        let header = unreachable.header(key.guest.addr.is_v4());
        ctx.core.icmp_error(key.remote.addr, header, &self.quoted(key), &Payload::NONE);
        Verdict::Remove
    }

    /// The ICMP message that ended the attempt to connect, where that is known: Linux has it since
    /// 5.8, for IPv4 always, for IPv6 on request ([`socket::queue_failures`]).
    ///
    /// [`socket::queue_failures`]: passt_sys::socket::queue_failures
    fn failure(&self) -> Option<Failure> {
        let failure = dgram::receive_failure(self.fd.as_fd(), &mut []).ok()?;
        (failure.origin != Origin::Host).then_some(failure)
    }

    /// The guest's SYN.
    fn quoted(&self, key: &Key) -> Quoted {
        let seq = self.conn.guest_isn().0.to_be_bytes();
        let [a, b] = key.guest.port.to_be_bytes();
        let [c, d] = key.remote.port.to_be_bytes();
        let transport = [a, b, c, d, seq[0], seq[1], seq[2], seq[3]];
        let Path { src_mac, dst_mac, src, dst, .. } = self.path;
        let path =
            Path { src_mac: dst_mac, dst_mac: src_mac, src: dst, dst: src, ttl: self.marks.ttl, ..self.path };
        Quoted { path, protocol: protocol::TCP, transport, len: wire::LEN }
    }

    /// An ICMP error of the guest's side about the segment with the number `seq`.
    pub(crate) fn complaint<L: Link>(
        &mut self,
        ctx: &mut Context<L>,
        tcp: &mut Tcp,
        handle: Handle,
        seq: Seq,
        trouble: Trouble,
    ) -> Result<Verdict, DropReason> {
        match trouble {
            Trouble::TooBig { mtu } => {
                let headers = self.path.header_len() - ethernet::LEN + wire::LEN;
                let mss = usize::from(mtu).saturating_sub(headers);
                self.conn.shrink(ctx.core.now, seq, count(mss))?;
            }
            Trouble::Refused | Trouble::Lost => self.conn.undelivered(seq)?,
        }
        Ok(self.pull(ctx, tcp, handle))
    }
}
