//! A server that speaks in messages: changes with results, and other requests.

use std::io;

use anyhow::{Context as _, bail};
use passt::advice;
use passt_control::client::Client;
use passt_control::reply::{Answer, Changed, Outcome, Refused};
use passt_control::request::{Change, Changes, Request};
use passt_control::{Protocol, Rule, Side};

use crate::holder;

/// Changes sent at once: they fit a message, whatever they say.
const CHUNK: usize = 200;

/// Makes changes, all or none. Those that can't be are the error, a line each.
pub(crate) fn change(mut server: Client, changes: &[Change], debug: bool) -> anyhow::Result<()> {
    let last = changes.len().div_ceil(CHUNK).saturating_sub(1);
    let mut answer = Answer::Done;
    for (i, part) in changes.chunks(CHUNK).enumerate() {
        let request = Changes { changes: part.to_vec(), more: i < last, partial: false };
        answer = server.ask(Request::Change(request))?;
    }
    let changed = match answer {
        Answer::Changed(changed) => changed,
        // There was nothing to do.
        Answer::Done => return Ok(()),
        other => bail!("Unexpected answer: {other:?}"),
    };
    let Changed { committed, outcomes, refused, .. } = changed;
    if debug {
        for (outcome, count) in &outcomes {
            eprintln!("{count} {outcome:?}");
        }
    }
    let whole = refused.iter().filter(|refused| !committed || !refused.part);
    let lines: Vec<_> = whole.map(line).collect();
    if !committed {
        bail!("{}", if lines.is_empty() { "Nothing was changed".to_owned() } else { lines.join("\n") });
    }
    for refused in refused.iter().filter(|refused| refused.part) {
        eprintln!("Left out: {}", line(refused));
    }
    for rule in absent(changes, &outcomes) {
        eprintln!("Nothing to delete: {rule}");
    }
    Ok(())
}

/// The rules that were to be deleted, and were not there.
fn absent<'a>(
    changes: &'a [Change],
    outcomes: &'a [(Outcome, usize)],
) -> impl Iterator<Item = &'a Rule> + 'a {
    let each = outcomes.iter().flat_map(|(outcome, count)| std::iter::repeat_n(*outcome, *count));
    each.zip(changes).filter_map(|(outcome, change)| match change {
        Change::Delete(rule) if outcome == Outcome::Absent => Some(rule),
        _ => None,
    })
}

/// Why a rule can't be had, and who has what it needs, or else what to do.
fn line(refused: &Refused) -> String {
    let Refused { rule, port, errno, reason, .. } = refused;
    let in_use = *errno == Some(rustix::io::Errno::ADDRINUSE.raw_os_error());
    if let Some(holder) = port.filter(|_| in_use).and_then(|port| holder::of(rule, port)) {
        return format!("{reason}: {holder}");
    }
    let protocol = if rule.protocol == Protocol::Tcp { "t" } else { "u" };
    let error = errno.map(io::Error::from_raw_os_error);
    let advice = port
        .filter(|_| rule.side == Side::Host)
        .zip(error)
        .and_then(|(port, error)| advice::port(port, protocol, &error, advice::setting));
    advice::with(reason, advice)
}

/// Sends a request as it was given, and prints its answer.
pub(crate) fn request(mut server: Client, text: &str) -> anyhow::Result<()> {
    let request =
        serde_json::from_str(text).with_context(|| format!("Not a request, as in {}", "'{\"rules\":{}}'"))?;
    let answer = server.ask(request)?;
    super::print(&(serde_json::to_string(&answer)? + "\n"))
}

/// Prints events as they come, until the server has ended.
pub(crate) fn events(mut server: Client) -> anyhow::Result<()> {
    server.ask(Request::Events)?;
    loop {
        let event = match server.event() {
            Ok(event) => event,
            Err(passt_control::client::Error::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if !passt_tools::print(&(serde_json::to_string(&event)? + "\n"))? {
            return Ok(());
        }
    }
}
