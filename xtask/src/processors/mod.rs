//! `cargo xtask test --arch`: tests of the libraries and the engine for other processors.
//!
//! Compilers of Debian unstable build them in a root directory of their own, and qemu's user
//! emulation runs them there, which translates system calls for this machine's kernel. Of those it
//! knows not all, and of options of sockets few: those tests are left out whose subject is what the
//! kernel does, with their reasons. With `--kernel` the core of the namespace tests is built, too, and run on a kernel for that
//! processor in an emulated machine, where nothing is left out for the emulation.
#![expect(clippy::disallowed_methods, reason = "how long tests take is told")]

mod lacks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use passt_tests::boot::Arch;
use passt_tests::roots::{Recipe, Root};

use crate::compilers;
use crate::kernels::{Outcomes, Place};
use crate::tally::Tally;

pub(crate) const USAGE: &str = "test --arch ARCH|all|list [--kernel SUITE [core|TESTS…]]
           build the tests of libraries and engine for another processor and run them emulated,
           or the core of the namespace tests, and run them on a kernel for it";

/// A kind of processor.
#[derive(Debug)]
pub(crate) struct Processor {
    /// As it is asked for.
    pub(crate) name: &'static str,
    /// As Debian calls it.
    debian: &'static str,
    /// Rust's target.
    target: &'static str,
    /// What programs of its compiler begin with.
    gnu: &'static str,
    /// qemu's program; none if this processor runs the programs itself.
    emulator: Option<&'static str>,
}

const PROCESSORS: [Processor; 6] = [
    Processor {
        name: "aarch64",
        debian: "arm64",
        target: "aarch64-unknown-linux-gnu",
        gnu: "aarch64-linux-gnu",
        emulator: Some("qemu-aarch64"),
    },
    Processor {
        name: "armv7",
        debian: "armhf",
        target: "armv7-unknown-linux-gnueabihf",
        gnu: "arm-linux-gnueabihf",
        emulator: Some("qemu-arm"),
    },
    Processor {
        name: "i686",
        debian: "i386",
        target: "i686-unknown-linux-gnu",
        gnu: "i686-linux-gnu",
        emulator: None,
    },
    Processor {
        name: "ppc64le",
        debian: "ppc64el",
        target: "powerpc64le-unknown-linux-gnu",
        gnu: "powerpc64le-linux-gnu",
        emulator: Some("qemu-ppc64le"),
    },
    Processor {
        name: "riscv64",
        debian: "riscv64",
        target: "riscv64gc-unknown-linux-gnu",
        gnu: "riscv64-linux-gnu",
        emulator: Some("qemu-riscv64"),
    },
    Processor {
        name: "s390x",
        debian: "s390x",
        target: "s390x-unknown-linux-gnu",
        gnu: "s390x-linux-gnu",
        emulator: Some("qemu-s390x"),
    },
];

/// Packages whose libraries' tests need nothing of the kernel but what the emulation knows, or little
/// else.
const INDEPENDENT: [&str; 6] =
    ["passt-proto", "passt-sys", "passt-control", "passt-engine", "passt", "passt-tests"];

/// What tests in namespaces run, beside what every Debian has.
const USERLAND: [&str; 13] = [
    "busybox",
    "curl",
    "dnsmasq-base",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "nftables",
    "procps",
    "socat",
    "strace",
    "tcpdump",
    "traceroute",
    "udhcpc",
];

impl Processor {
    /// A root directory with compilers and libraries.
    fn root(&self) -> Result<Root> {
        let host = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let of_target = |library: &str| format!("{library}:{}", self.debian);
        let libraries = ["libc6-dev", "libgcc-s1"].map(of_target);
        let compiler = format!("gcc-{}", self.gnu.replace('_', "-"));
        let mut packages = vec!["cargo", "rustc", "gcc", "libc6-dev", "iproute2", &compiler];
        packages.extend(libraries.iter().map(String::as_str));
        packages.extend(self.emulator.map(|_| "qemu-user"));
        let architectures = [host, self.debian];
        let recipe = Recipe { suite: "unstable", architectures: &architectures, packages: &packages };
        // That package depends on the compiler's own libraries, which nobody needs here and which not
        // every processor has at every time.
        Root::with_unpacked(recipe, &[&of_target("libstd-rust-dev")])
    }

    /// What the compiler and cargo find in their environment.
    fn environment(&self) -> BTreeMap<String, String> {
        let of_target =
            |what: &str| format!("CARGO_TARGET_{}_{what}", self.target.replace('-', "_").to_uppercase());
        let mut environment = BTreeMap::from([
            (of_target("LINKER"), format!("{}-gcc", self.gnu)),
            (format!("CC_{}", self.target.replace('-', "_")), format!("{}-gcc", self.gnu)),
            ("PASST_TEST_SLOWNESS".to_owned(), "8".to_owned()),
        ]);
        // What takes a compiler longest is of no interest here.
        for (key, value) in [
            ("DEV_DEBUG", "0"),
            ("RELEASE_DEBUG", "0"),
            ("RELEASE_LTO", "off"),
            ("RELEASE_CODEGEN_UNITS", "16"),
        ] {
            environment.insert(format!("CARGO_PROFILE_{key}"), value.to_owned());
        }
        environment.extend(self.emulator.map(|emulator| (of_target("RUNNER"), emulator.to_owned())));
        environment
    }

    /// Cargo, which is to build and run tests.
    fn test(&self, root: &Root, workspace: &Path) -> Result<Command> {
        let mut command = self.command(root, workspace, &target_directory(workspace))?;
        command.args(["cargo", "test", "--offline", "--locked", "--no-fail-fast", "--target", self.target]);
        Ok(command)
    }

    /// A command there.
    fn command(&self, root: &Root, workspace: &Path, target: &Path) -> Result<Command> {
        let mut command = compilers::command(root, workspace, target)?;
        command.args(self.environment().iter().map(|(key, value)| compilers::variable(key, value)));
        Ok(command)
    }
}

/// What is wanted of a processor.
enum Wanted<'a> {
    /// What can be run here.
    Here,
    /// These tests in namespaces, or the core of them, on the kernel of a suite.
    Booted(&'a str, &'a [String]),
}

/// Runs the tests for the processors that `words` name; true if none failed.
pub(crate) fn run(workspace: &Path, words: &[String]) -> Result<bool> {
    let known = || PROCESSORS.map(|processor| processor.name).join(", ");
    let Some((name, words)) = words.split_first() else {
        bail!("--arch needs a processor: {}, all or list", known());
    };
    let processors: Vec<&Processor> = match name.as_str() {
        "list" => {
            for Processor { name, target, .. } in &PROCESSORS {
                println!("{name:8} {target}");
            }
            return Ok(true);
        }
        "all" => PROCESSORS.iter().collect(),
        other => {
            let found = PROCESSORS.iter().find(|processor| processor.name == other);
            vec![found.with_context(|| format!("no processor '{other}': there are {}", known()))?]
        }
    };
    let wanted = match words {
        [option, suite, names @ ..] if option == "--kernel" => {
            crate::kernels::check(names)?;
            Wanted::Booted(suite, names)
        }
        [] => Wanted::Here,
        _ => bail!("usage: cargo xtask {USAGE}"),
    };
    // Those in there ask nobody.
    ensure!(crate::cargo(workspace, &["fetch", "--locked"]).status()?.success(), "cargo fetch");
    let mut outcomes = Outcomes::default();
    for processor in processors {
        outcomes.add(processor.name, |tally| {
            let root = processor.root()?;
            let version = root.version("rustc")?;
            println!("{}: rustc {version} of Debian unstable", processor.name);
            let line = match wanted {
                Wanted::Here => here(processor, &root, workspace, tally),
                Wanted::Booted(suite, names) => booted(processor, &root, workspace, suite, names, tally),
            };
            Ok(format!("{}: rustc {version}, {}", processor.name, line?))
        });
    }
    Ok(outcomes.finish())
}

/// The tests of what reads and writes packets, for a processor whose order of bytes is the other one.
pub(crate) fn sample(workspace: &Path, tally: &mut Tally) -> Result<()> {
    let (name, package) = ("s390x", "passt-proto");
    println!("On demand: other processors and kernels (cargo xtask test --arch, --kernel)");
    let processor = PROCESSORS.iter().find(|processor| processor.name == name).context(name)?;
    let root = match processor.root() {
        Ok(root) => root,
        Err(error) => {
            tally.skip(&format!("{package} for {name}: {error:#}"));
            return Ok(());
        }
    };
    let mut command = processor.test(&root, workspace)?;
    command.args(["--package", package, "--lib"]);
    tally.run_called(&format!("{name}: {package} does not build, or its tests ended early"), &mut command)
}

/// Builds and runs tests, under qemu's user emulation if it takes that; a line about it.
fn here(processor: &Processor, root: &Root, workspace: &Path, tally: &mut Tally) -> Result<String> {
    let lacks = lacks::of(processor);
    let is_emulated = processor.emulator.is_some();
    let skipped: Vec<_> = lacks.iter().map(|(test, _)| format!("--skip={test}")).collect();
    let mut independent: Vec<_> = INDEPENDENT.iter().flat_map(|package| ["--package", package]).collect();
    independent.push("--lib");
    let mut all = vec![independent];
    if !is_emulated {
        all.push(vec!["--package", "passt-engine", "--tests"]);
        all.push(vec!["--package", "passt-tests", "--test", "sim"]);
    }
    let start = Instant::now();
    for tests in all {
        let mut command = processor.test(root, workspace)?;
        command.args(tests).arg("--").args(&skipped);
        let name = format!("{}: the tests do not build, or ended early", processor.name);
        tally.run_called(&name, &mut command)?;
    }
    if is_emulated {
        tally.skip(
            "the simulation, the engine's tests: they have sockets of the kernel; with --kernel they run",
        );
    }
    for (test, reason) in lacks {
        tally.skip(&format!("{test}: {reason}"));
    }
    let how = if is_emulated { "emulated" } else { "not emulated" };
    Ok(format!("{how}, {} s", start.elapsed().as_secs()))
}

/// Builds the programs and the tests in namespaces, and runs them on the kernel of a suite.
fn booted(
    processor: &Processor,
    root: &Root,
    workspace: &Path,
    suite: &str,
    names: &[String],
    tally: &mut Tally,
) -> Result<String> {
    let arch = Arch::called(processor.name);
    let arch = arch.with_context(|| format!("no machine to boot for {}", processor.name))?;
    crate::machine::need_emulator(arch)?;
    let target = target_directory(workspace);
    let cargo = |words: &[&str]| {
        let mut command = processor.command(root, workspace, &target)?;
        command.args(["cargo"]).args(words).args(["--offline", "--locked", "--target", processor.target]);
        Ok::<_, anyhow::Error>(command)
    };
    // With debug assertions the standard library makes calls of its own, which no list has.
    let built = cargo(&["build", "--release", "--bins", "--package", "passt"])?.status()?.success();
    ensure!(built, "the programs do not build");
    let json = "--message-format=json-render-diagnostics";
    let tests = crate::built::among(&mut cargo(&["test", "--workspace", "--no-run", json])?)?;
    let userland =
        Root::get(Recipe { suite: "unstable", architectures: &[processor.debian], packages: &USERLAND })?;
    let programs = target.join(processor.target).join("release");
    let program = |name: &str| (name.to_uppercase(), programs.join(name).display().to_string());
    let shares = [workspace.to_owned(), target.clone()];
    let place = Place {
        arch,
        root: userland.path(),
        shares: &shares,
        environment: ["pasta", "passt", "slirp4netns"].map(program).into(),
        slowness: 16,
    };
    // Packages that are not configured leave no users behind, nor names.
    let users = "printf 'root:x:0:0::/root:/bin/sh\\nnobody:x:65534:65534::/nonexistent:/bin/sh\\n\
                 tcpdump:x:100:65534::/nonexistent:/bin/sh\\n' \
                 >/etc/passwd\nprintf 'root:x:0:\\nnogroup:x:65534:\\n' >/etc/group\n";
    let script = users.to_owned() + &crate::kernels::script(&tests, names, &place)?;
    crate::kernels::on_kernel(&place, suite, &script, tally)
}

fn target_directory(workspace: &Path) -> PathBuf {
    let base = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    base.unwrap_or_else(|| workspace.join("target")).join("processors")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_that_is_not_there_is_one_line() {
        for words in [&[][..], &["m68k".to_owned()], &[String::new()]] {
            let error =
                run(Path::new("/"), words).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(error.contains("s390x") && !error.contains('\n'), "{error}");
        }
    }
}
