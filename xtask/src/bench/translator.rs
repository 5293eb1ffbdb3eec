//! What a translator's processes use: CPU time, memory, system calls.

use std::fs;
use std::process::Command;

use passt_tests::Process;

use super::contender::Inside;

/// Ticks of a second in /proc: the same on all but Alpha.
const USER_HZ: f64 = 100.0;

/// The processes of a translator.
pub(crate) struct Translator(Vec<u32>);

impl Translator {
    /// The process started and all that it started, but for the one that only
    /// keeps the namespace. None if the kernel translates.
    pub(crate) fn of(inside: &Inside) -> Option<Self> {
        let started = inside.translator()?;
        let mut tree = family(started);
        let is_keeper =
            |pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "peer\n");
        tree.retain(|&pid| pid == started || !is_keeper(pid));
        Some(Self(tree))
    }

    /// Its process ids.
    pub(crate) fn processes(&self) -> &[u32] {
        &self.0
    }

    /// What all their threads used so far, in user space and in the kernel.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let ticks: f64 = self.0.iter().filter_map(|pid| stat(*pid)).map(|stat| stat.ticks).sum();
        ticks / USER_HZ
    }

    /// Resident memory in KiB, `Rss` or `Pss` of `smaps_rollup`, proc(5).
    pub(crate) fn memory(&self, key: &str) -> f64 {
        self.0.iter().map(|pid| field(&format!("/proc/{pid}/smaps_rollup"), key)).sum()
    }

    /// How often their threads were given a CPU so far.
    pub(crate) fn wakeups(&self) -> f64 {
        let of_thread =
            |file: &str| field(file, "voluntary_ctxt_switches") + field(file, "nonvoluntary_ctxt_switches");
        let threads = self.0.iter().flat_map(|pid| {
            let tasks = format!("/proc/{pid}/task");
            numbers_in(&tasks).into_iter().map(move |tid| format!("{tasks}/{tid}/status"))
        });
        threads.map(|file| of_thread(&file)).sum()
    }

    /// How many system calls they make while `work` is done, which slows them.
    /// Panics if strace can't attach.
    pub(crate) fn system_calls<T>(&self, work: impl FnOnce() -> T) -> (f64, T) {
        let mut command = Command::new("strace");
        command.args(["-f", "-c"]).args(self.0.iter().flat_map(|pid| ["-p".to_owned(), pid.to_string()]));
        let mut strace = Process::start(&mut command);
        strace.wait_for("attached");
        let done = work();
        strace.signal("INT");
        // Without a single call there is no table.
        let summary = strace.finish().stderr;
        let total = summary.lines().find(|line| line.ends_with(" total"));
        let calls = total.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
        (calls.unwrap_or(0.0), done)
    }
}

/// A process and all that it started, and what these did.
pub(crate) fn family(started: u32) -> Vec<u32> {
    let (all, mut tree) = (numbers_in("/proc"), vec![started]);
    let mut known = 0;
    while known < tree.len() {
        let parent = tree[known];
        tree.extend(all.iter().filter(|pid| stat(**pid).is_some_and(|stat| stat.parent == parent)));
        known += 1;
    }
    tree
}

/// CPU seconds that the machine spent on anything so far, interrupts and the kernel's own work
/// included.
pub(crate) fn machine_cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> =
        text.lines().next().unwrap_or_default().split_whitespace().filter_map(|it| it.parse().ok()).collect();
    // user, nice, system, (idle, iowait), irq, softirq: proc_stat(5).
    [0, 1, 2, 5, 6].into_iter().filter_map(|index| fields.get(index)).sum::<f64>() / USER_HZ
}

/// The number behind `key:` in a file, 0 without it.
fn field(file: &str, key: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

/// The entries of a directory that are numbers.
fn numbers_in(dir: &str) -> Vec<u32> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

struct Stat {
    parent: u32,
    ticks: f64,
}

/// The fields of /proc/PID/stat that matter, proc(5).
fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything.
    let (_, rest) = text.rsplit_once(") ")?;
    let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<u32>().ok();
    Some(Stat { parent: field(4)?, ticks: f64::from(field(14)?) + f64::from(field(15)?) })
}
