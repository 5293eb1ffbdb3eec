//! What qemu is told while a machine runs, by its monitor (QEMU, docs/interop/qmp-spec.rst).

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use super::Vm;
use crate::DEADLINE;

impl Vm {
    /// Has qemu's monitor execute a command without arguments, as `stop`,
    /// `cont` or `system_reset`; what it answers. A machine that starts passt by itself has none.
    pub fn monitor(&self, command: &str) -> String {
        self.monitor_with(command, "")
    }

    /// [`Vm::monitor`] with arguments: members of a JSON object. What it answers.
    pub fn monitor_with(&self, command: &str, arguments: &str) -> String {
        let outcome = self.ask_monitor(command, arguments);
        outcome.unwrap_or_else(|error| panic!("{command} {arguments}: {error}"))
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

    /// Begins to move the guest to another machine that waits for one, with at most so many bytes a
    /// second.
    pub fn migrate_to(&self, other: &Self, rate: u64) {
        let to = format!("unix:{}", other.dir.join("guest").display());
        other.monitor_with("migrate-incoming", &format!("\"uri\": \"{to}\""));
        self.migrate(&to, rate);
    }

    /// The same to whatever qemu's monitor calls so.
    pub fn migrate(&self, to: &str, rate: u64) {
        self.set_migration_rate(rate);
        self.monitor_with("migrate", &format!("\"uri\": \"{to}\""));
    }

    /// Has the guest move at another rate.
    pub fn set_migration_rate(&self, rate: u64) {
        self.monitor_with("migrate-set-parameters", &format!("\"max-bandwidth\": {rate}"));
    }

    /// What qemu's monitor says of the guest that moves. Panics if it does not.
    pub fn migration(&self) -> String {
        let reply = self.monitor("query-migrate");
        assert!(!reply.contains("\"failed\"") && !reply.contains("\"cancelled\""), "{reply}");
        reply
    }
}
