//! A front end of vhost-user and its guest in one, with memory of a kind of one's choice.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use passt_engine::link::vhost_user::mock::{Machine, RECEIVE, Shape, TRANSMIT, words};
use passt_engine::link::vhost_user::{ProtocolFeatures, VhostUserLink};
use passt_tests::{GATEWAY4, HOST4, eventually_within, frame};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{RecvFlags, recv};

use crate::mangle::{self, Random};
use crate::say;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Where queues are in memory.
const QUEUES: usize = 16 << 10;
/// Bytes of memory: enough for the queues, and whole huge pages.
const MEMORY: u64 = 8 << 20;

/// Asks the back end at `socket` for the gateway's hardware address, by queues in memory that is a
/// file at a path, `memfd` or, of huge pages, `huge`.
pub(crate) fn ask(socket: &str, memory: &str) -> Result<()> {
    let shape = Shape::usual(ProtocolFeatures::REPLY_ACK);
    let socket = UnixStream::connect(socket).context("the back end")?;
    let end = socket.try_clone()?;
    let mut machine = Machine::in_file(shape, socket, file(memory)?)?;
    machine.start();
    let table = [words(&[2]), words(machine.regions().as_flattened())].concat();
    machine.request(5, true, &table, &[machine.memory(); 2]);
    let status = eventually_within(PATIENCE, "an answer to the table of memory", || {
        let answer = machine.number().filter(|(request, _)| *request == 5);
        answer.map(|(_, status)| Ok(status)).or_else(|| is_gone(&end).then(|| bail!("the back end has gone")))
    });
    ensure!(status? == 0, "the memory is refused");
    machine.post();
    let request = frame::ethernet(MAC, 0x806, &frame::arp(MAC, HOST4, GATEWAY4));
    ensure!(machine.send(&request.into(), &[]), "no room");
    let answer = eventually_within(PATIENCE, "an answer", || machine.take().into_iter().next());
    say(&format!("ANSWER of {} bytes", answer.bytes.len()))
}

/// Writes nonsense into the queues of a device at `socket`, and kicks, for some seconds: repeatable
/// from a seed, but for what the device does meanwhile. Returns how often it was set up anew.
#[expect(clippy::disallowed_methods, reason = "for a real time")]
pub(crate) fn spoil(socket: &str, seconds: u64, seed: u64) -> Result<String> {
    let protocol = ProtocolFeatures::REPLY_ACK | ProtocolFeatures::RESET_DEVICE;
    let shape = Shape { transmit: 64, receive: 64, pairs: 2, ..Shape::usual(protocol) };
    let socket = UnixStream::connect(socket).context("the back end")?;
    let end = socket.try_clone()?;
    let mut machine = Machine::new(shape, socket)?;
    machine.start();
    let queues = [0, 1].map(|pair| [2 * pair + RECEIVE, 2 * pair + TRANSMIT]).concat();
    let (frames, mut random) = (mangle::valid_frames(MAC), Random::new(seed));
    let end_of_it = Instant::now() + Duration::from_secs(seconds);
    let mut rounds = 0u64;
    while Instant::now() < end_of_it {
        // No queue is in use before the answer, and from then on this driver knows what is in memory.
        machine.numbers(34, true, &[]);
        eventually_within(PATIENCE, "a reset", || {
            let answer = machine.answer().filter(|(request, _)| *request == 34);
            answer
                .is_some()
                .then_some(Ok(()))
                .or_else(|| is_gone(&end).then(|| bail!("gone in round {rounds}")))
        })?;
        machine.renew(VhostUserLink::FEATURES);
        machine.restart();
        machine.post();
        for _ in 0..random.below(20) {
            let frame = frames[random.below(frames.len())].clone();
            machine.send_by(random.below(2), &frame.into(), &[12, random.below(60), 1]);
        }
        // And from here on nobody does.
        for _ in 0..=random.below(60) {
            let most = if random.below(8) == 0 { machine.region().size() } else { QUEUES };
            let bytes: Vec<u8> = (0..=random.below(12))
                .map(|_| if random.below(2) == 0 { random.byte() } else { [0, 1, 2, 4][random.below(4)] })
                .collect();
            ensure!(machine.region().copy_in(random.below(most - bytes.len()), &bytes), "memory");
            machine.kick(queues[random.below(queues.len())]);
        }
        for index in &queues {
            machine.is_interrupted(*index);
        }
        rounds += 1;
    }
    Ok(rounds.to_string())
}

/// Whether the other end is closed.
fn is_gone(socket: &UnixStream) -> bool {
    recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok_and(|(count, _)| count == 0)
}

fn file(memory: &str) -> Result<OwnedFd> {
    let file = match memory {
        "memfd" => memfd_create("guest", MemfdFlags::CLOEXEC)?,
        "huge" => memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB)?,
        path => {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
            file.with_context(|| path.to_owned())?.into()
        }
    };
    ftruncate(file.as_fd(), MEMORY).context("its length")?;
    Ok(file)
}
