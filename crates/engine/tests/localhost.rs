//! A service that listens by one family is reached past the link by either loopback address.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bypass;
mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use bypass::Engine;
use common::{free_port, ip, usual_limits};
use passt_engine::flow::{Protocol, Side};
use passt_proto::guest::Bypass;

/// On which side the client is, where the guest is reached, what the client and the server use.
fn cases() -> impl Iterator<Item = (Side, Bypass, [&'static str; 2])> {
    let each = [
        (Bypass::Loopback, ["127.0.0.1", "::1"]),
        (Bypass::Loopback, ["::1", "127.0.0.1"]),
        (Bypass::Public, ["::1", "127.0.0.1"]),
    ];
    [Side::Host, Side::Namespace].into_iter().flat_map(move |side| each.map(|(b, names)| (side, b, names)))
}

fn engine(bypass: Bypass) -> Engine {
    let mut engine = Engine::with_room(bypass, 1024);
    engine.worker.context().core.guest.change(|guest| {
        guest.configured.v4.assigned = [ip("127.0.0.1").into()].into_iter().collect();
        guest.configured.v6.assigned = [ip("::1").into()].into_iter().collect();
    });
    engine
}

/// A client of a port at `address` that leads to `to`, with the number of bytes that it sent before
/// it finished.
fn client(engine: &mut Engine, side: Side, address: &str, to: u16, early: usize) -> (TcpStream, usize) {
    let port = free_port();
    engine.forward_any(Protocol::Tcp, side, address, port, to);
    let mut client = TcpStream::connect((address, port)).unwrap();
    client.set_nonblocking(true).unwrap();
    let sent = client.write(&vec![7; early]).unwrap_or(0);
    client.shutdown(Shutdown::Write).unwrap();
    (client, sent)
}

/// Where nobody listens at the one address the other is tried, with all that the client has sent.
#[test]
fn the_other_family_is_tried() {
    let _limits = usual_limits();
    for (side, bypass, [address, other]) in cases() {
        for early in [0, 5, 200_000] {
            let mut engine = engine(bypass);
            let server = TcpListener::bind((other, 0)).unwrap();
            server.set_nonblocking(true).unwrap();
            let to = server.local_addr().unwrap().port();
            let (_client, sent) = client(&mut engine, side, address, to, early);
            // The thread in the namespace may have to make a socket first.
            let mut accept = |wait| {
                std::thread::sleep(Duration::from_millis(wait));
                engine.turn();
                server.accept().ok()
            };
            let (mut served, _) = (0..2000)
                .find_map(|round| accept(u64::from(round > 50)))
                .unwrap_or_else(|| panic!("{side:?} {bypass:?} {address} {early}"));
            served.set_nonblocking(true).unwrap();
            let mut received = Vec::new();
            let ends = (0..1000).any(|_| {
                engine.turn();
                served.read_to_end(&mut received).is_ok()
            });
            assert!(ends, "{side:?} {bypass:?} {address} {early}");
            assert!(received.len() == sent && received.iter().all(|&byte| byte == 7));
        }
    }
}

/// Where nobody listens at either, or the other would lead back, the client is reset.
#[test]
fn nobody_by_either() {
    let _limits = usual_limits();
    for (side, bypass, [address, other]) in cases() {
        // At its public address the guest can't lead back to loopback.
        for circle in [false, true].into_iter().filter(|circle| !circle || bypass == Bypass::Loopback) {
            let mut engine = engine(bypass);
            let to = free_port();
            let (mut client, _) = client(&mut engine, side, address, to, 5);
            if circle {
                let back = client.peer_addr().unwrap().port();
                engine.forward_any(Protocol::Tcp, side.other(), other, to, back);
            }
            (0..5).for_each(|_| engine.turn());
            client.set_nonblocking(false).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let error = client.read(&mut [0]).expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{side:?} {bypass:?} {address} {circle}");
            assert_eq!(engine.worker.flow_count(), 0);
        }
    }
}

/// However many clients come at once, each is served: who was accepted waits for sockets of the
/// namespace, which are made by another thread.
#[test]
fn a_crowd_that_is_served_by_the_other_family() {
    const CROWD: usize = 300;
    let _limits = usual_limits();
    for ((side, bypass, [address, other]), early) in cases().flat_map(|case| [(case, true), (case, false)]) {
        let mut engine = engine(bypass);
        let server = TcpListener::bind((other, 0)).unwrap();
        rustix::net::listen(&server, 2 * i32::try_from(CROWD).unwrap()).unwrap();
        server.set_nonblocking(true).unwrap();
        let to = server.local_addr().unwrap().port();
        let port = free_port();
        engine.forward_any(Protocol::Tcp, side, address, port, to);
        let mut clients: Vec<_> = (0..CROWD).map(|_| TcpStream::connect((address, port)).unwrap()).collect();
        let speak = |clients: &mut [TcpStream]| {
            for (client, number) in clients.iter_mut().zip(0_u32..) {
                client.write_all(&number.to_be_bytes()).unwrap();
            }
        };
        if early {
            speak(&mut clients);
        }
        let mut served = Vec::new();
        for _ in 0..200_000 {
            // Without waiting for the thread that makes sockets.
            engine.worker.turn(engine.now).unwrap();
            served.extend(std::iter::from_fn(|| server.accept().ok()).map(|(stream, _)| stream));
            if served.len() == CROWD {
                break;
            }
        }
        for client in &clients {
            client.set_nonblocking(true).unwrap();
        }
        let reset = clients.iter_mut().filter_map(|client| client.read(&mut [0]).err());
        let reset = reset.filter(|error| error.kind() != ErrorKind::WouldBlock).count();
        assert_eq!((served.len(), reset), (CROWD, 0), "{side:?} {bypass:?} {address}");
        if !early {
            speak(&mut clients);
        }
        (0..20).for_each(|_| engine.turn());
        let mut number = |mut stream: TcpStream| {
            let mut number = [0; 4];
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream.read_exact(&mut number).unwrap();
            u32::from_be_bytes(number)
        };
        let mut numbers: Vec<_> = served.into_iter().map(&mut number).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..u32::try_from(CROWD).unwrap()));
    }
}
