//! Connections whose data have all come, and are read only when somebody says so: until then they
//! are where the device has put them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use passt_tests::stream::Summary;
use rustix::event::{PollFd, PollFlags, poll};

use crate::say;

/// Has the server at `from` send `length` bytes by each of `count` connections, with seeds from 1
/// on. Prints `HELD` once all of them are here; reads them when there is a file `until`, and prints
/// what they were.
pub(crate) fn held(from: &str, length: u64, count: u64, until: &Path) -> Result<()> {
    let mut connections = Vec::new();
    for seed in 1..=count {
        let mut stream = TcpStream::connect(from)?;
        stream.write_all(format!("down {length} {seed}\n").as_bytes())?;
        connections.push(stream);
    }
    for stream in &connections {
        let mut ended = [PollFd::new(stream, PollFlags::RDHUP)];
        ensure!(poll(&mut ended, None)? == 1, "the end of what the server sends");
    }
    say("HELD")?;
    while !until.exists() {
        std::thread::sleep(Duration::from_millis(100));
    }
    for mut stream in connections {
        let mut received = Vec::new();
        // The connection itself may be no more.
        let end = stream.read_to_end(&mut received);
        let mut summary = Summary::default();
        summary.update(&received);
        say(&summary.finish())?;
        end?;
    }
    Ok(())
}
