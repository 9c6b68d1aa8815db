//! `metacdn servers`: the nodes of the cluster, and whether they live.

use super::output::table;
use super::{Cluster, Options};

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
    let mut table = table(&["NAME", "PROVIDER", "ADDRESS", "DOWNLOAD", "LIVENESS", "STATE", "BEHIND"], &["BEHIND"]);
    for server in &members.servers {
        let node = &server.node;
        table.add_row([
            node.id.to_string(),
            node.provider.to_string(),
            node.address.to_string(),
            node.download.to_string(),
            server.liveness.to_string(),
            server.state.to_string(),
            server.behind.map_or_else(|| "?".to_owned(), |entries| entries.to_string()),
        ]);
    }
    output.answer(&table)?;
    output.note(format_args!("as {} sees it; BEHIND counts entries not yet taken in", members.asked));
    Ok(())
}
