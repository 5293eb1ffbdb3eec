//! What the engine does for each frame, transaction and datagram, to be counted: `cargo xtask test`
//! runs this program under valgrind for each of them, which counts the instructions of
//! [`engine::turn`], and compares these with those that were counted before. By itself it only shows
//! that the traffic arrives.
//!
//! It is no test: those are built with what unwinds, so that nothing could be shared with the build
//! of the programs, and what is counted would not be what users get.

#![allow(dead_code, reason = "what only the simulation's tests use")]

mod content;
mod engine;
mod guest;
mod link;
mod rig;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};

use content::{DOWN, UP, check, fill, ms, secs};
use engine::{MIB, World};
use passt_engine::core::Counters;
use rig::{HOST4, Memory};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::{tcp, udp};

/// Transactions, or datagrams each way.
const TIMES: u64 = 200;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("tcp_out") => tcp_out(),
        Some("tcp_in") => tcp_in(),
        Some("tcp_rr") => tcp_rr(),
        Some("tcp_crr") => tcp_crr(),
        Some("udp_rr") => udp_rr(),
        _ => panic!("which kind of traffic?"),
    }
}

/// A line that tells how many of a thing were done.
fn done(what: &str, times: u64) {
    println!("GAUGE {what} {times}");
}

fn transfer(up: u64, down: u64) -> Counters {
    let mut world = World::<Memory>::usual(0, &[]);
    world.connect(true, up, down);
    world.run_to_end();
    world.worker.context().core.counters.clone()
}

fn tcp_out() {
    done("frame", transfer(4 * MIB, 0).from_guest.frames);
}

fn tcp_in() {
    done("frame", transfer(0, 4 * MIB).to_guest.frames);
}

/// A byte each way, again and again.
fn tcp_rr() {
    let mut world = World::<Memory>::usual(0, &[]);
    let (listener, socket) = connected(&mut world);
    let mut server = listener.accept().expect("a connection").0;
    for _ in 0..TIMES {
        transact(&mut world, socket, &mut server);
    }
    done("transaction", TIMES);
}

/// The same by a connection for each.
fn tcp_crr() {
    let mut world = World::<Memory>::usual(0, &[]);
    for _ in 0..TIMES {
        let (listener, socket) = connected(&mut world);
        let mut server = listener.accept().expect("a connection").0;
        transact(&mut world, socket, &mut server);
        drop(server);
        world.guest.sockets.get_mut::<tcp::Socket>(socket).close();
        world.run(secs(10), |world| world.worker.flow_count() == 0);
        world.guest.sockets.remove(socket);
    }
    done("transaction", TIMES);
}

/// The guest has connected to a new server.
fn connected(world: &mut World<Memory>) -> (TcpListener, SocketHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let socket = world.connect_to(true, port, 0).socket;
    world.run(secs(10), |world| world.guest.sockets.get::<tcp::Socket>(socket).may_send());
    (listener, socket)
}

fn transact(world: &mut World<Memory>, socket: SocketHandle, server: &mut std::net::TcpStream) {
    world.guest.sockets.get_mut::<tcp::Socket>(socket).send_slice(b"?").expect("sent");
    server.set_nonblocking(true).expect("non-blocking");
    world.run(secs(10), |_| server.read(&mut [0]).is_ok_and(|len| len == 1));
    server.write_all(b"!").expect("sent");
    world.run(secs(10), |world| {
        world.guest.sockets.get_mut::<tcp::Socket>(socket).recv_slice(&mut [0]) == Ok(1)
    });
}

/// A datagram each way, again and again.
fn udp_rr() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a server");
    server.set_nonblocking(true).expect("non-blocking");
    let port = server.local_addr().expect("an address").port();
    let mut world = World::<Memory>::usual(0, &[]);
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let socket = world.guest.sockets.add(udp::Socket::new(buffer(), buffer()));
    world.guest.sockets.get_mut::<udp::Socket>(socket).bind(5000).expect("a port");
    for _ in 0..TIMES {
        let guest = world.guest.sockets.get_mut::<udp::Socket>(socket);
        guest.send_slice(&[7; 1000], (HOST4, port)).expect("sent");
        let mut client = None;
        let mut buffer = [0; 1500];
        while client.is_none() {
            world.step();
            client = server.recv_from(&mut buffer).ok();
        }
        let (len, from) = client.expect("a datagram");
        server.send_to(&buffer[..len], from).expect("sent");
        world.run(secs(10), |world| world.guest.sockets.get_mut::<udp::Socket>(socket).recv().is_ok());
    }
    done("datagram", 2 * TIMES);
}
