//! The direction from the guest: a batch of frames from the link, each classified
//! and handed to a responder or to the flow that it belongs to.

use std::io;

use passt_proto::addr::Endpoint;
use passt_proto::classify::{self, Class, classify};
use passt_proto::drop::DropReason;
use passt_proto::responder;
use passt_proto::wire::offload::Offload;
use passt_sys::iovec::Gather;

use crate::flow::{Flow, Table};
use crate::host;
use crate::host::echo::Request;
use crate::link::Link;
use crate::worker::Context;

/// Longest frame of a responder.
pub(crate) const REPLY_ROOM: usize = 1514;

/// Takes a batch of frames from the link. An error means that the link is gone.
pub(crate) fn receive<L: Link>(ctx: &mut Context<L>, flows: &mut Table<Flow>) -> io::Result<()> {
    let frames = ctx.link.receive()?;
    let mut reply = std::mem::take(&mut ctx.reply);
    for index in 0..frames {
        if let Err(reason) = frame(ctx, flows, index, &mut reply) {
            ctx.dropped(reason);
        }
    }
    ctx.reply = reply;
    host::tcp::end_batch(ctx, flows);
    host::udp::end_batch(ctx, flows);
    Ok(())
}

fn frame<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    index: usize,
    reply: &mut [u8],
) -> Result<(), DropReason> {
    let frame = ctx.link.frame(index).ok_or(DropReason::Offload)?;
    ctx.counters.received(frame.len);
    if let Some(capture) = &mut ctx.capture {
        let mut whole = Gather::new();
        ctx.link.payload(index, 0..frame.len, &mut whole);
        capture.record(ctx.now, &[], &whole);
    }
    let offload = frame.offload;
    let classified = classify(frame.head, frame.len);
    // Whatever it sends tells where it is: some guests announce themselves by RARP or MLD alone.
    let station = match &classified {
        Ok((source, _)) => Some(*source),
        Err(_) => classify::source(frame.head).ok(),
    };
    ctx.guest_mac = station.or(ctx.guest_mac);
    let (source, class) = classified?;
    log::trace!("from guest: {} bytes, {class:?}", frame.len);
    if let Some(addr) = responder::claimed(source, &class, frame.head) {
        ctx.map.claim(addr);
    }
    let answer = responder::respond(&ctx.services, source, &class, frame.head, |_| None, reply);
    if let Some(answer) = answer {
        let reply = reply.get(..answer?).ok_or(DropReason::Truncated)?;
        ctx.send(reply);
        return Ok(());
    }
    dispatch(ctx, flows, index, class, &offload)
}

/// Hands a packet to its protocol.
fn dispatch<L: Link>(
    ctx: &mut Context<L>,
    flows: &mut Table<Flow>,
    index: usize,
    class: Class,
    offload: &Offload,
) -> Result<(), DropReason> {
    match class {
        Class::Tcp { src, dst, segment, payload } => {
            enabled(ctx.protocols.tcp)?;
            host::tcp::segment(ctx, flows, index, (src, dst), &segment, payload)
        }
        // Requests to servers that are switched off here, but perhaps not elsewhere.
        Class::Udp(datagram) | Class::Dhcp(datagram) | Class::Dhcpv6(datagram) => {
            if datagram.src.addr.is_unspecified() {
                return Err(DropReason::IpSource);
            }
            enabled(ctx.protocols.udp)?;
            host::udp::datagram(ctx, flows, index, &datagram, offload)
        }
        Class::Echo { src, dst, id, ttl, payload, .. } => {
            enabled(ctx.protocols.icmp)?;
            let request = Request { guest: Endpoint::new(src, id), dst, ttl, message: payload };
            host::echo::request(ctx, flows, index, &request)
        }
        Class::Arp { .. } | Class::Ndp { .. } => Err(DropReason::ServiceOff),
    }
}

/// Refuses what is switched off.
fn enabled(protocol: bool) -> Result<(), DropReason> {
    if protocol { Ok(()) } else { Err(DropReason::Disabled) }
}
