//! A front end of vhost-user and its guest in one, with memory of a kind of one's choice.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use passt_engine::link::vhost_user::ProtocolFeatures;
use passt_engine::link::vhost_user::mock::{Machine, Shape, words};
use passt_tests::{GATEWAY4, HOST4, eventually_within, frame};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{RecvFlags, recv};

use crate::say;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
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
