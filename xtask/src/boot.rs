//! `cargo xtask boot`: a command on another kernel, to look at one thing.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use passt_tests::boot::{Arch, Boot, Kernel};

pub(crate) const USAGE: &str = "boot SUITE [--arch ARCH] [--root DIRECTORY] COMMAND
           run a line of the shell on a Debian suite's kernel, with this machine's files";

/// How long the command may take.
const LIMIT: Duration = Duration::from_secs(3600);
/// The machine's memory, in MiB.
const MEMORY: u32 = 2048;

/// Runs the command; true if it succeeded.
pub(crate) fn run(words: &[String]) -> Result<bool> {
    let (mut arch, mut root, mut operands) = (std::env::consts::ARCH, Path::new("/"), Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--arch" => arch = words.next().context("--arch ARCH")?,
            "--root" => root = Path::new(words.next().context("--root DIRECTORY")?),
            option if option.starts_with('-') => {
                bail!("unrecognized option '{option}'\nusage: cargo xtask {USAGE}")
            }
            operand => operands.push(operand),
        }
    }
    let [suite, command] = operands[..] else { bail!("usage: cargo xtask {USAGE}") };
    let arch = Arch::called(arch).with_context(|| format!("no machine for the processor '{arch}'"))?;
    crate::machine::need_emulator(arch)?;
    let kernel = Kernel::get(arch, suite)?;
    let work = tempfile::tempdir()?;
    let (memory, limit, environment, work) = (MEMORY, LIMIT, &[][..], work.path());
    let shares = &[][..];
    let boot = Boot { arch, kernel: &kernel, root, shares, command, environment, memory, limit, work };
    let ended = boot.run(|line| println!("{line}"))?;
    eprintln!("Linux {}, booted in {:.1} s", kernel.version(), ended.booted_in.as_secs_f32());
    Ok(ended.status == 0)
}
