//! What `metacdn verify` found, for people and for programs.

use serde_json::{Value, json};

use super::Found;
use super::bytes::{Checked, Damage};
use super::differences::{Difference, What, state_json};
use crate::cli::human;
use crate::cli::output::{Output, complain, table};
use crate::model::{Entry, NodeId};

/// Prints what was found, with up to `limit` differences.
///
/// # Errors
/// When it cannot be printed.
pub(super) fn show(found: &Found, limit: usize, output: Output) -> anyhow::Result<()> {
    if output.is_json() {
        print_json(found, limit, output)?;
    } else {
        print_tables(found, limit, output)?;
    }
    complain_of(found, limit);
    if found.all_is_well() {
        let (nodes, first) = (found.readings.len(), found.readings.first());
        let entries = first.map_or(0, |reading| reading.digests.counts().entries());
        output.done(format_args!("equal: {nodes} nodes list the same {entries} entries"))?;
    }
    Ok(())
}

fn print_tables(found: &Found, limit: usize, output: Output) -> anyhow::Result<()> {
    let numbers = ["ENTRIES", "LIVE", "DELETED", "RECORDS", "MISSING"];
    let mut nodes = table(&["NODE", "ENTRIES", "LIVE", "DELETED", "RECORDS", "MISSING"], &numbers);
    let mut missing = found.differing.missing.iter();
    for (reading, failure) in found.readings.iter().zip(&found.failures) {
        let name = reading.node.to_string();
        if failure.is_some() {
            nodes.add_row([name]);
            continue;
        }
        let counts = reading.digests.counts();
        let missing = missing.next().copied().unwrap_or_default();
        let figures = [counts.entries(), counts.live, counts.deleted, counts.records, missing];
        nodes.add_row([name].into_iter().chain(figures.map(|figure| figure.to_string())));
    }
    output.answer(&nodes)?;
    if !found.differences.is_empty() {
        output.answer("")?;
        output.answer(differences(found, limit))?;
    }
    for (node, checked) in &found.checked {
        if let Ok(checked) = checked {
            let (blobs, bytes) = (checked.blobs, human::size(checked.bytes));
            output.answer(format_args!("{node}: {blobs} blobs fetched and hashed, {bytes}"))?;
        }
    }
    Ok(())
}

/// A row for each node that lists a key otherwise than it was last written.
fn differences(found: &Found, limit: usize) -> comfy_table::Table {
    let mut table = table(&["KEY", "NODE", "WHAT", "HAS", "NEWEST"], &[]);
    let nodes = found.read();
    for difference in found.differences.iter().take(limit) {
        for (index, reading) in nodes.iter().enumerate() {
            let what = difference.at(index);
            if what == What::Newest {
                continue;
            }
            let has = difference.nodes.get(index).and_then(Option::as_ref).map(written).unwrap_or_default();
            table.add_row([
                human::shown(difference.key.as_str()),
                reading.node.to_string(),
                what.as_str().to_owned(),
                has,
                written(difference.newest()),
            ]);
        }
    }
    table
}

/// When and where an entry was written.
fn written(entry: &Entry) -> String {
    let version = &entry.version;
    format!("{} by {}", human::local_time(version.time.unix_ms()), version.origin.node)
}

fn complain_of(found: &Found, limit: usize) {
    for (reading, failure) in found.readings.iter().zip(&found.failures) {
        if let Some(reason) = failure {
            complain(format_args!("error: cannot read {}: {reason}", reading.node));
        }
    }
    for (node, checked) in &found.checked {
        match checked {
            Ok(checked) => checked.damaged.iter().for_each(|Damage { key, hash, reason }| {
                complain(format_args!("error: {node}: {}: blob {hash} {reason}", human::shown(key.as_str())));
            }),
            Err(reason) => complain(format_args!("error: cannot read the bytes of {node}: {reason}")),
        }
    }
    let damaged = found.checked.iter().filter(|(_, checked)| checked.as_ref().is_ok_and(|it| !it.damaged.is_empty()));
    if let Some(advice) = advice(damaged.map(|(node, _)| node)) {
        complain(advice);
    }
    let (keys, nodes) = (found.differing.keys, found.read().len());
    if keys > 0 {
        let more = keys.saturating_sub(found.differences.len().min(limit) as u64);
        let more = if more > 0 { format!(", {more} of them not shown") } else { String::new() };
        complain(format_args!("error: {nodes} nodes differ in {keys} keys{more}"));
    }
}

/// What mends the blobs of `nodes`, if there are any.
fn advice<'a>(nodes: impl Iterator<Item = &'a NodeId>) -> Option<String> {
    let commands: Vec<_> = nodes.map(|node| format!("`metacdn repair {node} --wait`")).collect();
    match commands.as_slice() {
        [] => None,
        [command] => Some(format!("{command} mends it from the others")),
        [commands @ .., last] => Some(format!("{} and {last} mend it from the others", commands.join(", "))),
    }
}

fn print_json(found: &Found, limit: usize, output: Output) -> anyhow::Result<()> {
    let mut missing = found.differing.missing.iter();
    for (reading, failure) in found.readings.iter().zip(&found.failures) {
        let node = &reading.node;
        if let Some(reason) = failure {
            output.answer_json(&json!({ "node": node, "error": reason }))?;
            continue;
        }
        let counts = reading.digests.counts();
        output.answer_json(&json!({
            "node": node, "entries": counts.entries(), "live": counts.live, "deleted": counts.deleted,
            "records": counts.records, "missing": missing.next(),
        }))?;
    }
    let nodes = found.read();
    let names: Vec<_> = nodes.iter().map(|reading| &reading.node).collect();
    for difference in found.differences.iter().take(limit) {
        output.answer_json(&difference_json(difference, &names))?;
    }
    let mut damaged = 0;
    for (node, checked) in &found.checked {
        let Checked { blobs, bytes, damaged: found } = match checked {
            Ok(checked) => checked,
            Err(reason) => {
                output.answer_json(&json!({ "node": node, "error": reason }))?;
                continue;
            }
        };
        damaged += found.len();
        output.answer_json(&json!({ "node": node, "blobs": blobs, "bytes": bytes }))?;
        for Damage { key, hash, reason } in found {
            output.answer_json(&json!({ "node": node, "key": key, "hash": hash, "damage": reason }))?;
        }
    }
    output.answer_json(&json!({
        "equal": found.all_is_well(),
        "nodes": names.len(),
        "unread": found.failures.iter().flatten().count(),
        "differences": found.differing.keys,
        "damaged": damaged,
    }))
}

fn difference_json(difference: &Difference, nodes: &[&NodeId]) -> Value {
    let entry = |entry: &Entry| json!({ "version": entry.version.to_string(), "state": state_json(&entry.state) });
    let lists = nodes.iter().zip(&difference.nodes).enumerate().map(|(index, (node, listed))| {
        json!({ "node": node, "what": difference.at(index), "lists": listed.as_ref().map(entry) })
    });
    json!({ "key": difference.key, "newest": entry(difference.newest()), "nodes": lists.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_damaged_node_has_its_command() {
        let nodes = ["AWS", "GC", "Fly"].map(|name| name.parse::<NodeId>().expect("a name"));
        let said = |count| advice(nodes.iter().take(count));
        assert_eq!(said(0), None);
        assert_eq!(said(1).as_deref(), Some("`metacdn repair AWS --wait` mends it from the others"));
        let all = "`metacdn repair AWS --wait`, `metacdn repair GC --wait` and `metacdn repair Fly --wait` mend it from the \
                   others";
        assert_eq!(said(3).as_deref(), Some(all));
    }
}
