//! `metacdn servers`: the nodes of the cluster, and whether they live.

use std::time::Duration;

use super::output::table;
use super::{Cluster, Options, human};
use crate::model::NodeId;

/// Clocks that are less apart than that decide no conflict that a person would see.
const CLOCK_OFF_MS_MAX: u64 = 1000;

/// Prints the members of the cluster as one of its nodes sees them.
///
/// # Errors
/// When no node answers.
pub(super) async fn run(options: &Options) -> anyhow::Result<()> {
    let members = Cluster::open(options)?.members().await?;
    let output = options.output();
    if output.is_json() {
        return members.servers.iter().try_for_each(|server| output.answer_json(server));
    }
    // Where downloads are is for programs: with it, a line would not fit into a terminal.
    let mut table = table(&["NAME", "PROVIDER", "ADDRESS", "LIVENESS", "STATE", "BEHIND"], &["BEHIND"]);
    for server in &members.servers {
        let node = &server.node;
        table.add_row([
            node.id.to_string(),
            node.provider.to_string(),
            node.address.to_string(),
            server.liveness.to_string(),
            server.state.to_string(),
            human::behind(server.behind, server.behind_bytes, server.behind_seconds),
        ]);
    }
    output.answer(&table)?;
    let asked = &members.asked;
    for server in &members.servers {
        if let Some(off) = server.clock_ahead_ms.filter(|off| off.unsigned_abs() > CLOCK_OFF_MS_MAX) {
            output.note(format_args!("warning: {}", clock(&server.node.id, off, asked)));
        }
    }
    output.note(format_args!("as {asked} sees it; BEHIND: entries · bytes not yet taken in · since when"));
    Ok(())
}

/// What is said of a clock that is `ahead_ms` ahead of that of `asked`.
fn clock(id: &NodeId, ahead_ms: i64, asked: &NodeId) -> String {
    let way = if ahead_ms < 0 { "behind" } else { "ahead of" };
    format!(
        "the clock of {id} is {} {way} that of {asked}",
        human::time(Duration::from_millis(ahead_ms.unsigned_abs()))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_ahead_or_behind() {
        let (gc, aws): (NodeId, NodeId) = ("GC".parse().expect("a name"), "AWS".parse().expect("a name"));
        assert_eq!(clock(&gc, 2_500, &aws), "the clock of GC is 2.5 s ahead of that of AWS");
        assert_eq!(clock(&gc, -90_000, &aws), "the clock of GC is 1 min 30 s behind that of AWS");
    }
}
