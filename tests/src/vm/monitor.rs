//! What qemu is told while a machine runs, by its monitor (QEMU, docs/interop/qmp-spec.rst).

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use super::Vm;
use crate::DEADLINE;

impl Vm {
    /// Has qemu's monitor execute a command without arguments, as `stop`,
    /// `cont` or `system_reset`. A machine that starts passt by itself has none.
    pub fn monitor(&self, command: &str) {
        self.monitor_with(command, "");
    }

    /// [`Vm::monitor`] with arguments: members of a JSON object.
    pub fn monitor_with(&self, command: &str, arguments: &str) {
        let outcome = self.ask_monitor(command, arguments);
        assert!(outcome.is_ok(), "{command} {arguments}: {outcome:?}");
    }

    /// What qemu's monitor answers; its error, if it refuses.
    pub fn ask_monitor(&self, command: &str, arguments: &str) -> Result<String, String> {
        let stream = UnixStream::connect(self.dir.join("monitor")).expect("qemu's monitor");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
        let mut ask = |command: &str, arguments: &str| {
            let request = format!("{{\"execute\": \"{command}\", \"arguments\": {{{arguments}}}}}");
            writeln!(&stream, "{request}").expect("qemu lives");
            // Events come in between.
            let reply = lines.find(|line| line.contains("\"return\"") || line.contains("\"error\""));
            let reply = reply.unwrap_or_else(|| panic!("no answer to {request}"));
            if reply.contains("\"error\"") { Err(reply) } else { Ok(reply) }
        };
        ask("qmp_capabilities", "")?;
        ask(command, arguments)
    }
}
