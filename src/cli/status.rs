//! `metacdn status`: what each node holds.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use super::failure::explain;
use super::output::table;
use super::{Cluster, Options, Target, human};
use crate::client::Deadlines;
use crate::protocol::status::{Server, Servers, Status};

/// How long a node may take to say what it holds.
const DEADLINE: Duration = Duration::from_secs(3);

/// Deadlines for questions to all nodes, of which some may be down.
pub(super) const SHORT: Deadlines = Deadlines { connect: DEADLINE, first_byte: DEADLINE, idle: DEADLINE };

/// Prints what each node holds.
///
/// # Errors
/// When no node answers.
pub(super) async fn run(options: &Options) -> anyhow::Result<()> {
    let cluster = Cluster::open(options)?;
    let members = cluster.members().await?;
    let asked = members.servers.iter().map(async |server: &Server| {
        let target = Target { id: Some(server.node.id.clone()), address: server.node.address.clone() };
        cluster.peer(&target, SHORT).status().await.map_err(|error| explain(&error))
    });
    let answers = join_all(asked).await;
    if options.json { print_json(options, &members, &answers) } else { print_table(options, &members, &answers) }
}

fn print_json(options: &Options, members: &Servers, answers: &[Result<Status, String>]) -> anyhow::Result<()> {
    for (server, answer) in members.servers.iter().zip(answers) {
        match answer {
            Ok(status) => options.output().answer_json(status)?,
            Err(reason) => options.output().answer_json(&json!({ "node": server.node, "error": reason }))?,
        }
    }
    Ok(())
}

fn print_table(options: &Options, members: &Servers, answers: &[Result<Status, String>]) -> anyhow::Result<()> {
    let numbers = ["OBJECTS", "BYTES", "WANTS"];
    let mut table = table(&["NAME", "LIVENESS", "OBJECTS", "BYTES", "WANTS", "UP", "VERSION"], &numbers);
    for (server, answer) in members.servers.iter().zip(answers) {
        let name = server.node.id.to_string();
        table.add_row(match answer {
            Ok(status) => vec![
                name,
                server.liveness.to_string(),
                status.objects.to_string(),
                human::size(status.bytes),
                status.wants.to_string(),
                human::time(Duration::from_secs(status.uptime_seconds)),
                status.program.clone(),
            ],
            Err(_) => vec![name, server.liveness.to_string()],
        });
    }
    options.output().answer(&table)?;
    for reason in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        options.output().note(format_args!("warning: {reason}"));
    }
    Ok(())
}
