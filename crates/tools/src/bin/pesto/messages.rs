//! A server that speaks in messages: changes with results, and other requests.

use std::io;

use anyhow::Context as _;
use passt::advice;
use passt_control::client::Client;
use passt_control::reply::{Answer, Changed, Outcome, Refused};
use passt_control::request::{Change, Changes, Request};
use passt_control::{Protocol, Rule, Side};
use passt_tools::connect::unexpected;
use passt_tools::visible::{json, tell};

use crate::{Several, holder};

/// Changes sent at once: they fit a message, whatever they say.
const CHUNK: usize = 200;
/// Refusals that are told at most: a server tells no more (docs/control.md).
const REFUSALS: usize = 256;
/// Of these, the first whose ports' holders are looked for: that is a search of all processes each.
const HOLDERS: usize = 8;

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
        _ => return Err(unexpected().into()),
    };
    if debug {
        // There is one for each change at most.
        for (outcome, count) in changed.outcomes.iter().take(changes.len()) {
            tell(format_args!("{count} {outcome:?}"));
        }
    }
    if !changed.committed {
        let mut lines = refusals(changed.refused.iter(), "", holder::of);
        if lines.is_empty() {
            lines.push("Nothing was changed".to_owned());
        }
        return Err(Several(lines).into());
    }
    notes(changes, &changed).iter().for_each(tell);
    Ok(())
}

/// What is to be said of changes that took effect, a line each.
fn notes(changes: &[Change], changed: &Changed) -> Vec<String> {
    let in_part = changed.refused.iter().filter(|refused| refused.part);
    let mut lines = refusals(in_part, "Left out: ", holder::of);
    lines.extend(absent(changes, &changed.outcomes).map(|rule| format!("Nothing to delete: {rule}")));
    let told = changed.outcomes.iter().fold(0_usize, |all, (_, count)| all.saturating_add(*count));
    let mut untold = changes.iter().skip(told);
    if changed.cut && untold.any(|change| matches!(change, Change::Delete(_))) {
        lines.push("More rules were not there, or are not told".to_owned());
    }
    lines
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

/// Why rules can't be had, a line each, and how many more there are than is told.
fn refusals<'a>(
    mut refused: impl Iterator<Item = &'a Refused>,
    begin: &str,
    holder: impl Fn(&Rule, u16) -> Option<String>,
) -> Vec<String> {
    let mut searches = HOLDERS;
    let mut holder = |rule: &Rule, port| {
        let left = searches.checked_sub(1)?;
        searches = left;
        holder(rule, port)
    };
    let mut lines: Vec<_> = Vec::new();
    for refused in refused.by_ref().take(REFUSALS) {
        lines.push(format!("{begin}{}", line(refused, &mut holder)));
    }
    let more = refused.count();
    lines.extend((more > 0).then(|| format!("{begin}{more} more")));
    lines
}

/// Why a rule can't be had, and who has what it needs, or else what to do.
fn line(refused: &Refused, holder: &mut dyn FnMut(&Rule, u16) -> Option<String>) -> String {
    let Refused { rule, port, errno, reason, .. } = refused;
    let in_use = *errno == Some(rustix::io::Errno::ADDRINUSE.raw_os_error());
    if let Some(holder) = port.filter(|_| in_use).and_then(|port| holder(rule, port)) {
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
    super::print(&(json(&serde_json::to_string(&answer)?) + "\n"))
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
        if !passt_tools::print(&(json(&serde_json::to_string(&event)?) + "\n"))? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(port: u16) -> Rule {
        serde_json::from_str(&format!(r#"{{"protocol":"tcp","first":{port}}}"#)).expect("a rule")
    }

    #[test]
    fn very_many_refusals() {
        let refused = Refused {
            rule: rule(22),
            port: Some(22),
            errno: Some(rustix::io::Errno::ADDRINUSE.raw_os_error()),
            reason: "in use".into(),
            part: false,
        };
        let searches = std::cell::Cell::new(0);
        let holder = |_: &Rule, _| {
            searches.set(searches.get() + 1);
            Some("by x".to_owned())
        };
        let lines = refusals(vec![refused.clone(); 3300].iter(), "", holder);
        assert_eq!((lines.len(), searches.get()), (REFUSALS + 1, HOLDERS));
        assert_eq!((&*lines[0], &*lines[REFUSALS]), ("in use: by x", "3044 more"));
        assert!(lines[HOLDERS].starts_with("in use") && lines[HOLDERS] != lines[0], "{}", lines[HOLDERS]);
        let lines = refusals(vec![refused; REFUSALS].iter(), "Left out: ", holder);
        assert_eq!((lines.len(), &*lines[0]), (REFUSALS, "Left out: in use: by x"));
    }

    #[test]
    fn outcomes_that_are_not_told() {
        let changes: Vec<_> = (1..=3).map(|port| Change::Delete(rule(port))).collect();
        let changed = |count, cut| Changed {
            committed: true,
            outcomes: vec![(Outcome::Absent, count)],
            cut,
            ..Changed::default()
        };
        let absent = |port| format!("Nothing to delete: {}", rule(port));
        let more = || "More rules were not there, or are not told".to_owned();
        assert_eq!(notes(&changes, &changed(2, true)), [absent(1), absent(2), more()]);
        assert_eq!(notes(&changes, &changed(3, false)), [absent(1), absent(2), absent(3)]);
        // What is not told is no deletion.
        let changes = [Change::Delete(rule(1)), Change::Add(rule(2))];
        assert_eq!(notes(&changes, &changed(1, true)), [absent(1)]);
    }
}
