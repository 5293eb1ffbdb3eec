//! What every link must do for a guest, once for each: a name in [`on_all`] is a test on each.

use std::net::Ipv4Addr;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpMaxSeg;
use passt_engine::protocols::tcp::slack::Slack;
use passt_proto::drop::DropReason;
use rustix::net::sockopt;
use smoltcp::socket::dhcpv4;
use smoltcp::socket::tcp::State;
use smoltcp::wire::IpCidr;

use crate::engine::{MIB, Pair, World, addresses, bad};
use crate::link::Node;
use crate::rig::{
    BARE, Backlogged, End, FULL, GUEST4, HOST4, LARGE, MANY, Machine, Memory, OFF, ON, Ring, SWITCHED,
    SharedMemory,
};
use crate::{ms, secs, seeds};

/// All tests of this module over the link of an [`End`].
macro_rules! on {
    ($module:ident, $end:ty: $($name:ident)*) => {
        mod $module {
            $(#[test]
            fn $name() {
                super::$name::<$end>();
            })*
        }
    };
}

/// The same tests on each of the links.
macro_rules! on_all {
    ($($name:ident)*) => {
        on!(memory, super::Memory: $($name)*);
        on!(backlogged, super::Backlogged: $($name)*);
        on!(stream, super::Machine: $($name)*);
        on!(ring, super::Ring<{ super::OFF }>: $($name)*);
        on!(ring_with_offloads, super::Ring<{ super::ON }>: $($name)*);
        on!(ring_that_switches, super::Ring<{ super::SWITCHED }>: $($name)*);
        on!(vhost_user, super::SharedMemory<{ super::FULL }>: $($name)*);
        on!(vhost_user_without_features, super::SharedMemory<{ super::BARE }>: $($name)*);
        on!(vhost_user_by_pairs, super::SharedMemory<{ super::MANY }>: $($name)*);
        on!(vhost_user_with_large_buffers, super::SharedMemory<{ super::LARGE }>: $($name)*);
    };
}

on_all! {
    transfers_each_way
    transfers_without_peek_offsets
    an_end_that_comes_late
    transfers_at_other_mtus
    transfers_on_a_bad_link
    many_connections
    malformed_frames_in_between
    refused
    a_full_table_refuses_only_what_is_new
    configuration_by_dhcp
}

fn transfers_each_way<E: End>() {
    for v4 in [true, false] {
        for (up, down) in [(16 * MIB, 0), (0, 16 * MIB), (16 * MIB, 16 * MIB)] {
            let mut world = World::<E>::usual(0, &[]);
            world.connect(v4, up, down);
            world.run_to_end();
            assert_eq!(world.worker.context().core.counters.retransmitted, 0);
        }
    }
}

fn transfers_without_peek_offsets<E: End>() {
    for nodes in [&[] as &[Node], &bad()] {
        let mut world = World::<E>::usual(0, nodes);
        world.worker.engine().common.tcp.use_peek_offset = false;
        world.connect(true, MIB, 4 * MIB);
        world.connect(false, 0, 0);
        world.connect(false, MIB, 1000);
        world.run_to_end();
    }
}

fn an_end_that_comes_late<E: End>() {
    for peek_offset in [true, false] {
        let mut world = World::<E>::usual(0, &[]);
        world.worker.engine().common.tcp.use_peek_offset = peek_offset;
        world.connect(true, 0, 0);
        (world.pairs[0].closed, world.pairs[0].app.closing) = (true, false);
        world.run(secs(10), |world| world.pairs[0].app.state(&world.guest) == State::Established);
        // The end arrives while the guest has not acknowledged what is before it.
        world.down.nodes.push(Node::Delay(ms(20)));
        world.pairs[0].to_send = 10_000;
        world.run(secs(10), |world| world.pairs[0].sent == 10_000);
        for _ in 0..3 {
            world.step();
        }
        assert_eq!(world.pairs[0].app.received, 0);
        (world.pairs[0].closed, world.pairs[0].app.closing) = (false, true);
        world.run_to_end();
    }
}

fn transfers_at_other_mtus<E: End>() {
    for mtu in [576, 9000, 65_520] {
        let addrs = [IpCidr::new(GUEST4.into(), 24)];
        let mut world = World::<E>::new(0, (mtu, 16), &addrs, &[]);
        world.connect(true, 4 * MIB, 4 * MIB);
        world.run_to_end();
    }
}

fn transfers_on_a_bad_link<E: End>() {
    for seed in seeds() {
        let mut world = World::<E>::usual(seed, &bad());
        world.connect(true, MIB, 16 * MIB);
        world.connect(false, MIB, MIB);
        world.run_to_end();
    }
}

fn many_connections<E: End>() {
    for nodes in [&[] as &[Node], &bad()] {
        let mut world = World::<E>::usual(7, nodes);
        for n in 0..200 {
            world.connect(n % 2 == 0, 1000 * n, 20_000 - 100 * n);
        }
        world.run_to_end();
    }
}

fn malformed_frames_in_between<E: End>() {
    for seed in seeds() {
        let mut world = World::<E>::usual(seed, &[]);
        world.garbage = true;
        world.connect(true, 2 * MIB, 2 * MIB);
        world.connect(false, 2 * MIB, 2 * MIB);
        world.run_to_end();
        assert!(world.worker.drops(DropReason::MacSource) > 0);
        assert!(world.worker.drops(DropReason::Truncated) > 0);
    }
}

fn refused<E: End>() {
    for v4 in [true, false] {
        let mut world = World::<E>::usual(0, &[]);
        let pair = world.connect(v4, 0, 0);
        let port = world.pairs.remove(pair).listener.local_addr().expect("an address").port();
        let app = world.connect_to(v4, port, 0);
        world.run(secs(10), |world| app.state(&world.guest) == State::Closed);
        assert_eq!(world.worker.flow_count(), 0);
    }
}

fn a_full_table_refuses_only_what_is_new<E: End>() {
    let addrs = [IpCidr::new(GUEST4.into(), 24)];
    let mut world = World::<E>::new(0, (1500, 4), &addrs, &[]);
    for _ in 0..4 {
        world.connect(true, 0, 0);
        world.pairs.last_mut().expect("it").app.closing = false;
    }
    world.run(secs(10), |world| world.worker.flow_count() == 4 && world.pairs.iter().all(|p| p.app.eof));
    let fifth = world.connect(true, 1000, 1000);
    world.run(secs(10), |world| world.worker.drops(DropReason::TableFull) > 0);
    assert_eq!(world.worker.flow_count(), 4);
    for pair in &mut world.pairs[..4] {
        (pair.app.to_send, pair.app.closing) = (MIB, true);
    }
    // Room again: the guest's next SYN is welcome.
    world.run_to_end();
    assert!(world.pairs[fifth].is_complete());
}

fn configuration_by_dhcp<E: End>() {
    let mut world = World::<E>::new(0, (1500, 16), &[], &[]);
    let handle = world.guest.sockets.add(dhcpv4::Socket::new());
    let deadline = world.now + secs(30);
    let config = loop {
        assert!(world.now < deadline, "no lease");
        world.step();
        let event = world.guest.sockets.get_mut::<dhcpv4::Socket>(handle).poll();
        if let Some(dhcpv4::Event::Configured(config)) = event {
            break (config.address, config.router, config.dns_servers.clone());
        }
    };
    let (address, router, dns) = config;
    assert_eq!((address.address(), address.prefix_len(), router), (GUEST4, 24, Some(HOST4)));
    assert_eq!(dns.as_slice(), [Ipv4Addr::new(192, 0, 2, 53)]);
    world.guest.iface.update_ip_addrs(|list| list.push(IpCidr::Ipv4(address)).expect("room"));
    world.connect(true, MIB, MIB);
    world.run_to_end();
}

/// While more frames wait the guest needs no answer to each batch, and once none do it has all.
#[test]
fn a_backlog_is_acknowledged_together() {
    let mut world = World::<Backlogged>::usual(0, &[]);
    for v4 in [true, false, true] {
        world.connect(v4, 4 * MIB, 0);
    }
    world.run_to_end();
    let counters = &world.worker.context().core.counters;
    let (received, sent) = (counters.from_guest.frames, counters.to_guest.frames);
    assert!(sent * 4 < received, "{sent} answers to {received} frames, of which two make a batch");
}

/// Servers that stop reading fill what the guest was promised for each of them, in all more than
/// there is. A guest that goes on elsewhere need not send anything twice, and what stalled goes on
/// once it is read.
#[test]
fn a_crowd_that_stalls_harms_no_other() {
    // What is left behind the crowd depends on how much there was.
    for blocks in [40, 64, 80, 96] {
        stalls(blocks);
    }
}

fn stalls(blocks: u16) {
    let mut world = World::<Memory>::new(0, (65_520, 64), &addresses(), &[]);
    world.worker.engine().common.tcp.slack = Slack::new(blocks).expect("memory");
    let upload = |world: &mut World<_>, v4, to_read| {
        let pair = world.connect(v4, 4 * MIB, 0);
        let Pair { listener, to_read: limit, .. } = &mut world.pairs[pair];
        // The host's kernel takes little at once, so that the rest is left to the engine.
        sockopt::set_socket_recv_buffer_size(&*listener, 4096).expect("a small buffer");
        setsockopt(listener, TcpMaxSeg, &536).expect("small segments");
        *limit = to_read;
        pair
    };
    for n in 0..40 {
        upload(&mut world, n % 2 == 0, MIB);
    }
    let end = world.now + secs(2);
    world.run(secs(10), |world| world.now > end);
    // From here on only who comes next is heard: what is dropped is its own.
    world.heard = Some(world.local_port + 1);
    world.run(secs(10), |world| world.up.next().is_none());
    let overruns = world.worker.drops(DropReason::WindowOverrun);
    assert!(overruns > 0, "the crowd has less than all {blocks}");

    let other = upload(&mut world, true, u64::MAX);
    world.run(secs(300), |world| world.pairs[other].is_complete());
    assert_eq!(world.worker.drops(DropReason::WindowOverrun), overruns, "{blocks} blocks");

    world.heard = None;
    world.pairs.iter_mut().for_each(|pair| pair.to_read = u64::MAX);
    world.run_to_end();
}
