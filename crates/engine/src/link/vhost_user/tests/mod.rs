mod chains;
mod dirty;
mod messages;
mod notifications;
mod queues;

use passt_proto::drop::DropReason;
use passt_proto::wire::offload::Offload;
use passt_sys::iovec::Gather;

use super::mock::{GUEST, Machine, RECEIVE, Shape, TRANSMIT, USER, pair, words};
use super::*;
use crate::link::channel::Packet;

/// A machine with everything that is offered.
fn everything() -> Shape {
    Shape {
        features: Features::OFFERED,
        protocol: ProtocolFeatures::OFFERED,
        pairs: 1,
        transmit: 128,
        receive: 64,
        buffer: 1000,
    }
}

fn with(features: Features) -> Shape {
    Shape { features: Features::VERSION_1 | Features::PROTOCOL_FEATURES | features, ..everything() }
}

/// A machine, and a link that has heard nothing of it yet.
fn silent(shape: Shape) -> (Machine, VhostUserLink) {
    let (machine, socket) = Machine::pair(shape).unwrap();
    let mut link = VhostUserLink::new(Config { mtu: Some(1500), is_chosen: true });
    link.connect(socket);
    (machine, link)
}

/// The same once the device is set up.
fn started(shape: Shape) -> (Machine, VhostUserLink) {
    let (machine, mut link) = silent(shape);
    machine.start();
    listen(&mut link);
    while machine.answer().is_some() {}
    (machine, link)
}

/// Has the link do what the front end said; how many frames it found.
fn listen(link: &mut VhostUserLink) -> usize {
    let count = link.receive(CONTROL).unwrap();
    if link.has_new_fds() {
        link.renew_fds();
    }
    count
}

/// Number of the descriptor of a queue's kick.
fn kick(link: &VhostUserLink, index: u32) -> u32 {
    let pair = usize::try_from(index / 2).unwrap();
    let wanted = if index.is_multiple_of(2) { Kicked::Receive(pair) } else { Kicked::Transmit(pair) };
    let is_kick = |watched: &Watched| matches!(watched, Watched::Kick(which, _) if *which == wanted);
    u32::try_from(link.watched.iter().position(is_kick).unwrap()).unwrap()
}

/// The front end of another machine comes.
fn next(link: &mut VhostUserLink) -> Machine {
    let (mut machine, socket) = Machine::pair(everything()).unwrap();
    link.connect(socket);
    link.renew_fds();
    machine.start();
    listen(link);
    machine.post();
    machine
}

fn content(link: &VhostUserLink, index: usize) -> Vec<u8> {
    let len = link.frame(index).unwrap().len;
    let mut data = Gather::new();
    assert!(link.payload(index, 0..len, &mut data));
    let mut out = vec![0; len];
    assert_eq!(data.copy_out(0, &mut out), len);
    out
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
}

fn packet(len: usize) -> Packet {
    pattern(len).into()
}

/// Answer to one message.
fn ask(
    machine: &Machine,
    link: &mut VhostUserLink,
    request: u32,
    payload: &[u8],
    files: &[BorrowedFd<'_>],
) -> Option<(u32, u64)> {
    machine.request(request, true, payload, files);
    listen(link);
    machine.number()
}
