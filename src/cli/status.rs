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
    let statuses = || answers.iter().filter_map(|answer| answer.as_ref().ok());
    // What is nothing nearly always has a column when it is something.
    let is_parked = statuses().any(|status| status.parked > 0);
    let is_withheld = statuses().any(|status| status.withheld > 0);
    let rare = [(is_parked, "PARKED"), (is_withheld, "WITHHELD")];
    let mut header = vec!["NAME", "LIVENESS", "OBJECTS", "BYTES", "WANTS"];
    header.extend(rare.iter().filter(|(is_shown, _)| *is_shown).map(|(_, name)| *name));
    header.extend(["UP", "VERSION"]);
    let mut table = table(&header, &["OBJECTS", "BYTES", "WANTS", "PARKED", "WITHHELD"]);
    for (server, answer) in members.servers.iter().zip(answers) {
        let mut row = vec![server.node.id.to_string(), server.liveness.to_string()];
        if let Ok(status) = answer {
            row.extend([human::count(status.objects), human::size(status.bytes)]);
            row.push(human::behind(Some(status.wants), Some(status.want_bytes), None));
            row.extend(is_parked.then(|| human::count(status.parked)));
            row.extend(is_withheld.then(|| human::count(status.withheld)));
            row.extend([human::time(Duration::from_secs(status.uptime_seconds)), status.program.clone()]);
        }
        table.add_row(row);
    }
    let output = options.output();
    output.answer(&table)?;
    for reason in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        output.note(format_args!("warning: {reason}"));
    }
    for Status { node, parked, withheld, .. } in statuses() {
        let id = &node.id;
        if *parked > 0 {
            let parked = human::counted(*parked, "entry waits", "entries wait");
            output.note(format_args!(
                "warning: at {id} {parked} for their time: a clock is ahead, see `metacdn servers`"
            ));
        }
        if *withheld > 0 {
            let withheld = human::counted(*withheld, "entry", "entries");
            output.note(format_args!("warning: {id} withholds {withheld} of a backup: `metacdn withheld list {id}`"));
        }
    }
    Ok(())
}
