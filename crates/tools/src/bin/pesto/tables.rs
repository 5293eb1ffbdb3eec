//! A server of the C program: tables are replaced as a whole, and nothing is answered.

use anyhow::{Context as _, ensure};
use passt::control::engine_rule;
use passt_control::client::Greeted;
use passt_control::request::Change;
use passt_control::{Rule, v2};

use crate::Several;

/// Makes changes of the rules that the server has shown, and waits until it is done. Another client
/// that does the same has to wait until then.
pub(crate) fn change(server: Greeted, changes: &[Change]) -> anyhow::Result<()> {
    let mut tables = server.greeting().tables.clone();
    for table in &mut tables {
        let rules = table.rules.as_mut().context("The server has more rules than it can tell")?;
        for change in changes {
            apply(change, table.side, rules)?;
        }
        ensure!(rules.len() <= v2::MAX_RULES, "More than {} rules of {}", v2::MAX_RULES, table.name);
    }
    let sent = tables
        .iter()
        .map(|table| (table.side, table.caps.families(), table.rules.as_deref().unwrap_or_default()));
    Ok(server.replace(&v2::encode_tables(sent))?)
}

fn apply(change: &Change, side: passt_control::Side, rules: &mut Vec<Rule>) -> anyhow::Result<()> {
    match change {
        Change::Add(rule) if rule.side == side && !rules.contains(rule) => {
            if let Some(other) = rules.iter().find(|other| meets(other, rule)) {
                let conflict = format!("Forwarding configuration conflict: {rule} versus {other}");
                return Err(Several(vec![conflict, format!("Unable to add rule {rule}")]).into());
            }
            rules.push(rule.clone());
        }
        Change::Delete(rule) if rule.side == side => rules.retain(|other| other != rule),
        Change::Clear(which) if which.side.is_none_or(|of| of == side) => {
            rules.retain(|rule| which.protocol.is_some_and(|protocol| protocol != rule.protocol));
        }
        Change::Add(_) | Change::Delete(_) | Change::Clear(_) => {}
    }
    Ok(())
}

/// Whether one packet could be for both.
fn meets(a: &Rule, b: &Rule) -> bool {
    let overlap = |a: passt_engine::forward::rule::Rule, b| a.overlaps(&b);
    a.protocol == b.protocol && engine_rule(a).zip(engine_rule(b)).is_some_and(|(a, b)| overlap(a, b))
}
