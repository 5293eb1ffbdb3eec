//! Another kernel, and perhaps another processor, with a directory of this machine as its root.
//!
//! [`Boot`] says what to boot and which command to run; it is emulated where the processor cannot
//! do it. The directory is shared by 9P and read only; what is written lies in memory and is gone at
//! the end. With `/` as that directory every program of this machine is there. Output comes by a
//! virtio port, the kernel's own messages by the serial line.
//!
//! [`crate::Vm`] is something else: a guest of the program under test, with a network, that
//! commands are sent to while it runs.
#![expect(clippy::disallowed_methods, reason = "real kernels live in real time")]

mod kernel;

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

pub use kernel::Kernel;

/// How long a kernel may take to start the first process, emulated on a busy machine.
const START: Duration = Duration::from_mins(3);
/// The same without emulation. Some machines offer it, and nothing ever runs.
const QUICK_START: Duration = Duration::from_secs(15);

/// A kind of processor, and the machine around it.
#[derive(Debug)]
pub struct Arch {
    /// As `uname -m` says it.
    pub name: &'static str,
    /// As Debian calls it.
    pub debian: &'static str,
    /// Debian's package that depends on its newest kernel.
    package: &'static str,
    /// What qemu's machine and processor are, divided by spaces.
    machine: &'static str,
    /// The kernel's name for the first serial line.
    console: &'static str,
    /// How qemu's virtio devices are connected.
    bus: &'static str,
    /// Debian's package with qemu's program for it.
    pub emulator_package: &'static str,
}

/// The kinds that there are.
pub const ARCHES: [Arch; 3] = [
    Arch {
        name: "x86_64",
        debian: "amd64",
        package: "linux-image-amd64",
        machine: "-machine q35 -cpu max",
        console: "ttyS0",
        bus: "pci",
        emulator_package: "qemu-system-x86",
    },
    Arch {
        name: "aarch64",
        debian: "arm64",
        package: "linux-image-arm64",
        machine: "-machine virt -cpu max,pauth-impdef=on",
        console: "ttyAMA0",
        bus: "pci",
        emulator_package: "qemu-system-arm",
    },
    Arch {
        name: "s390x",
        debian: "s390x",
        package: "linux-image-s390x",
        // With the vector facility QEMU 7.2 lets the kernel compute wrong checksums.
        machine: "-machine s390-ccw-virtio -cpu max,vx=off",
        console: "ttysclp0",
        bus: "ccw",
        emulator_package: "qemu-system-misc",
    },
];

impl Arch {
    /// The kind of this name.
    pub fn called(name: &str) -> Option<&'static Self> {
        ARCHES.iter().find(|arch| arch.name == name)
    }

    /// qemu's program.
    pub fn emulator(&self) -> String {
        format!("qemu-system-{}", self.name)
    }

    fn can_be_quick(&self) -> bool {
        self.name == std::env::consts::ARCH && Path::new("/dev/kvm").exists()
    }
}

/// What to boot, and what to do there.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// The processor.
    pub arch: &'a Arch,
    /// The kernel, for this processor.
    pub kernel: &'a Kernel,
    /// The root directory, for this processor.
    pub root: &'a Path,
    /// Further directories of this machine, which are at the same place there; read only.
    pub shares: &'a [PathBuf],
    /// Lines for the shell in there, which root executes.
    pub command: &'a str,
    /// What the command finds in its environment beside `PATH`, `HOME` and `TMPDIR`.
    pub environment: &'a [(String, String)],
    /// In MiB; what is written to the root directory is there, too.
    pub memory: u32,
    /// How long it may take altogether.
    pub limit: Duration,
    /// An existing directory, for the ramdisk and the kernel's messages.
    pub work: &'a Path,
}

/// How it ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// The command's exit status.
    pub status: i32,
    /// From qemu's start to the command's.
    pub booted_in: Duration,
    /// From qemu's start to the command's end.
    pub took: Duration,
    /// Whether the processor did without emulation.
    pub quick: bool,
}

impl Boot<'_> {
    /// Boots the machine, hands each line that the command writes to `line`, and waits for its end.
    /// An error says why there was none, with the kernel's last words.
    pub fn run(&self, mut line: impl FnMut(&str)) -> Result<Ended> {
        self.kernel.write_ramdisk(&self.script(), &self.mounts(), &self.work.join("ramdisk"))?;
        if self.arch.can_be_quick() {
            let start = Instant::now();
            let mut machine = Machine::start(self, "kvm")?;
            if machine.wait_for_start(QUICK_START).is_ok() {
                return machine.follow(start, self.limit, true, &mut line);
            }
        }
        let start = Instant::now();
        let mut machine = Machine::start(self, "tcg")?;
        machine.wait_for_start(START)?;
        machine.follow(start, self.limit, false, &mut line)
    }

    fn script(&self) -> String {
        let exports = self.environment.iter().map(|(key, value)| format!("export {key}={}\n", quoted(value)));
        exports.chain([self.command.to_owned()]).collect()
    }

    /// Tags of the shares and where they are to be, a line each.
    fn mounts(&self) -> String {
        let numbered = self.shares.iter().enumerate();
        numbered
            .fold(String::new(), |all, (number, path)| all + &format!("share{number} {}\n", path.display()))
    }

    fn command(&self, accelerator: &str) -> Command {
        let Self { arch, kernel, work, .. } = self;
        let mut command = Command::new(arch.emulator());
        command.args(["-accel", accelerator]).args(arch.machine.split(' '));
        command.args(["-smp", "2", "-m", &format!("{}M", self.memory)]);
        command.args("-nodefaults -no-user-config -no-reboot -display none".split(' '));
        command.arg("-serial").arg(format!("file:{}", work.join("console").display()));
        command.arg("-kernel").arg(kernel.file()).arg("-initrd").arg(work.join("ramdisk"));
        // What shakes a kernel is no place to go on.
        command.args(["-append", &format!("console={} panic=-1 oops=panic loglevel=5", arch.console)]);
        let modules = kernel.modules();
        let shares = self.shares.iter().enumerate();
        let shares = shares.map(|(number, path)| (format!("share{number}"), path.as_path()));
        let all = [("root".to_owned(), self.root), ("modules".to_owned(), modules.as_path())];
        for (name, directory) in all.into_iter().chain(shares) {
            let path = directory.display().to_string().replace(',', ",,");
            let share =
                format!("local,id={name},path={path},security_model=none,readonly=on,multidevs=remap");
            let device = format!("virtio-9p-{},fsdev={name},mount_tag={name}", arch.bus);
            command.args(["-fsdev", &share, "-device", &device]);
        }
        command.args(["-chardev", "stdio,id=output,signal=off"]);
        command.args(["-device", &format!("virtio-serial-{}", arch.bus)]);
        command.args(["-device", "virtserialport,chardev=output"]);
        command
    }
}

/// A running machine. It is killed at the end of the scope.
struct Machine {
    qemu: Child,
    /// What the command writes. It is closed when qemu has ended.
    lines: Receiver<String>,
    console: PathBuf,
}

impl Machine {
    fn start(boot: &Boot<'_>, accelerator: &str) -> Result<Self> {
        let console = boot.work.join("console");
        drop(fs::remove_file(&console));
        let errors = fs::File::create(boot.work.join("qemu"))?;
        let mut command = boot.command(accelerator);
        // The port is taken for closed when there is nothing more to read.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let program = command.get_program().to_string_lossy().into_owned();
        let mut qemu = command.spawn().with_context(|| program)?;
        let output = qemu.stdout.take().context("standard output")?;
        let (to, lines) = mpsc::channel();
        std::thread::spawn(move || pass_on(output, &to));
        Ok(Self { qemu, lines, console })
    }

    fn wait_for_start(&mut self, limit: Duration) -> Result<()> {
        match self.lines.recv_timeout(limit) {
            Ok(line) if line.starts_with("BOOTED ") => Ok(()),
            Ok(line) => bail!("the machine says {line:?}"),
            Err(error) => self.no_line(error, limit),
        }
    }

    /// Hands lines on until the command has ended.
    fn follow(
        mut self,
        start: Instant,
        limit: Duration,
        quick: bool,
        line: &mut impl FnMut(&str),
    ) -> Result<Ended> {
        let booted_in = start.elapsed();
        loop {
            let left = limit.saturating_sub(start.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(text) => match text.strip_prefix("ENDED ").and_then(|status| status.parse().ok()) {
                    Some(status) => return Ok(Ended { status, booted_in, took: start.elapsed(), quick }),
                    None => line(&text),
                },
                Err(error) => self.no_line(error, limit)?,
            }
        }
    }

    /// Why there is no line where there should be one.
    fn no_line(&mut self, error: RecvTimeoutError, limit: Duration) -> Result<()> {
        let what = match error {
            RecvTimeoutError::Timeout => format!("not within {limit:?}"),
            RecvTimeoutError::Disconnected => format!("the machine ended: {}", self.qemu.wait()?),
        };
        let said = fs::read(&self.console).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let errors = fs::read_to_string(self.console.with_file_name("qemu")).unwrap_or_default();
        bail!("{what}\n{errors}{}", last_words(&said));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.qemu.kill());
        drop(self.qemu.wait());
    }
}

/// Sends lines until nobody wants them, or there are no more.
fn pass_on(output: impl Read, to: &mpsc::Sender<String>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        if to.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
            return;
        }
        line.clear();
    }
}

/// A word of the shell.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Of a kernel's messages, from where it went wrong, or the last ones.
fn last_words(console: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<&str> = console.lines().collect();
    let is_wrong = |line: &&str| {
        ["BUG:", "Oops", "Kernel panic", "Unable to handle"].iter().any(|word| line.contains(word))
    };
    let begin = lines.iter().position(is_wrong).unwrap_or(lines.len().saturating_sub(LINES));
    lines.iter().skip(begin).take(LINES).fold(String::new(), |all, line| all + line.trim_end() + "\n")
}

#[cfg(test)]
mod tests {
    use super::last_words;

    #[test]
    fn a_kernels_last_words_begin_where_it_went_wrong() {
        let boot = "[    1.0] up\r\n".repeat(60);
        let end = "[    2.0] BUG: unable to handle page fault\r\n[    2.1] Kernel panic - not syncing\r\n";
        let wrong = "[    2.0] BUG: unable to handle page fault\n[    2.1] Kernel panic - not syncing\n";
        assert_eq!(last_words(&format!("{boot}{end}")), wrong);
        assert_eq!(last_words(&boot).lines().count(), 40);
    }
}
