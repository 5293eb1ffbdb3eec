//! What a translator costs beside the traffic: its start, its being there, the
//! connections it holds.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use passt_tests::{Finished, Net, User, eventually};

use super::contender::{Contender, Program};
use super::measure::{Ends, Turn, new_port};
use super::report::Sample;
use super::scenario::Kind;
use super::translator::Translator;

/// Starts in each round.
const STARTS: u32 = 4;
/// No port is forwarded, which needs none to be looked for.
const OPTIONS: &str = "--config-net -t none -u none -T none -U none";
/// How long after its start a translator is taken for idle.
const SETTLED: Duration = Duration::from_secs(2);

/// Milliseconds to run `true` in a namespace of its own.
pub(crate) fn start_command(turn: &Turn<'_>) -> Result<Sample, String> {
    let program = program(turn.contender)?;
    timed(turn.net, User::Normal, &format!("time {STARTS} {program} {OPTIONS} -- true"))
}

/// Milliseconds until a namespace that is there has a network, and the process
/// that was started has ended.
pub(crate) fn start_background(turn: &Turn<'_>) -> Result<Sample, String> {
    let (net, program, file) = (turn.net, program(turn.contender)?, turn.net.dir().join("pid"));
    let mut sum = 0.0;
    for _ in 0..STARTS {
        let guest = net.empty_guest();
        let line = format!(
            "time 1 {program} {OPTIONS} --quiet --runas 0 --pid {} --netns /run/netns/{}",
            file.display(),
            guest.name()
        );
        sum += timed(net, User::Root, &line)?.value;
        let pid = eventually("a PID file", || fs::read_to_string(&file).ok()?.trim().parse::<u32>().ok());
        drop(Command::new("kill").arg(pid.to_string()).status());
        drop(fs::remove_file(&file));
    }
    Ok(Sample::of(sum / f64::from(STARTS)))
}

fn program(contender: &Contender) -> Result<String, String> {
    contender.program.as_ref().map(Program::line).ok_or_else(|| "no program".to_owned())
}

/// The transfer helper's timing of a program, on the host.
fn timed(net: &Net, user: User, line: &str) -> Result<Sample, String> {
    let Finished { status, stdout, stderr } =
        net.pasta(user).program(&net.dir().join("peer")).with(line).run("");
    let seconds = stdout.trim().parse::<f64>().ok().filter(|_| status.success());
    let failure = || stderr.lines().last().unwrap_or("failed").to_owned();
    seconds.map(|seconds| Sample::of(seconds * 1e3)).ok_or_else(failure)
}

/// Memory or wake-ups while the guest is silent.
pub(crate) fn idle(turn: &Turn<'_>) -> Result<Sample, String> {
    let inside = turn.contender.connect(turn.net, turn.scenario, new_port());
    let translator = Translator::of(&inside).ok_or("no program")?;
    sleep(SETTLED);
    let wait = || sleep(Duration::from_secs(turn.seconds.into()));
    Ok(match turn.scenario.kind {
        Kind::IdleRss => Sample::of(translator.memory("Rss")),
        Kind::IdlePss => Sample::of(translator.memory("Pss")),
        _ => {
            let before = translator.wakeups();
            wait();
            let value = (translator.wakeups() - before) / f64::from(turn.seconds);
            // To be traced wakes it too.
            let calls = || translator.system_calls(wait).0 - translator.system_calls(|| ()).0;
            let calls = (turn.round == 0).then(|| calls().max(0.0) / f64::from(turn.seconds));
            Sample { system_calls: calls, ..Sample::of(value) }
        }
    })
}

/// Bytes that each of many idle connections adds to the translator's memory.
pub(crate) fn flows(turn: &Turn<'_>) -> Result<Sample, String> {
    let inside = turn.contender.connect(turn.net, turn.scenario, new_port());
    let translator = Translator::of(&inside).ok_or("no program")?;
    let before = translator.memory("Pss");
    let crowd = Ends::new(turn.net, &inside, turn.scenario, new_port()).crowd(turn.scenario.held)?;
    let added = translator.memory("Pss") - before;
    drop(crowd);
    Ok(Sample::of(added * 1024.0 / f64::from(turn.scenario.held)))
}
