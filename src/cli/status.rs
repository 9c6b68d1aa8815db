//! `metacdn status`: what each node holds.

use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use serde_json::json;

use super::failure::explain;
use super::output::table;
use super::repair::UPLOAD_AGAIN;
use super::{Cluster, Options, Output, Target, human};
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
        let peer = cluster.peer(&target, SHORT);
        let (status, scrub) = tokio::join!(peer.status(), peer.scrub());
        let status = status.map_err(|error| explain(&error))?;
        // A node that says what it holds, and not how that is, is of another version.
        Ok(Answer { status, unmended: scrub.map_or(0, |scrub| scrub.unmended) })
    });
    let answers = join_all(asked).await;
    if options.json { print_json(options, &members, &answers) } else { print_table(options, &members, &answers) }
}

/// What a node says.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    status: Status,
    /// How many blobs are damaged or missing and not mended.
    unmended: u64,
}

fn print_json(options: &Options, members: &Servers, answers: &[Result<Answer, String>]) -> anyhow::Result<()> {
    for (server, answer) in members.servers.iter().zip(answers) {
        match answer {
            Ok(answer) => options.output().answer_json(answer)?,
            Err(reason) => options.output().answer_json(&json!({ "node": server.node, "error": reason }))?,
        }
    }
    Ok(())
}

fn print_table(options: &Options, members: &Servers, answers: &[Result<Answer, String>]) -> anyhow::Result<()> {
    let answered = || answers.iter().filter_map(|answer| answer.as_ref().ok());
    // What is nothing nearly always has a column when it is something.
    let is_parked = answered().any(|answer| answer.status.parked > 0);
    let is_withheld = answered().any(|answer| answer.status.withheld > 0);
    let is_unmended = answered().any(|answer| answer.unmended > 0);
    let rare = [(is_parked, "PARKED"), (is_withheld, "WITHHELD"), (is_unmended, "UNMENDED")];
    let mut header = vec!["NAME", "LIVENESS", "OBJECTS", "BYTES", "WANTS"];
    header.extend(rare.iter().filter(|(is_shown, _)| *is_shown).map(|(_, name)| *name));
    header.extend(["UP", "VERSION"]);
    let mut table = table(&header, &["OBJECTS", "BYTES", "WANTS", "PARKED", "WITHHELD", "UNMENDED"]);
    for (server, answer) in members.servers.iter().zip(answers) {
        let mut row = vec![server.node.id.to_string(), server.liveness.to_string()];
        if let Ok(Answer { status, unmended }) = answer {
            row.extend([human::count(status.objects), human::size(status.bytes)]);
            row.push(human::behind(Some(status.wants), Some(status.want_bytes), None));
            row.extend(is_parked.then(|| human::count(status.parked)));
            row.extend(is_withheld.then(|| human::count(status.withheld)));
            row.extend(is_unmended.then(|| human::count(*unmended)));
            row.extend([human::time(Duration::from_secs(status.uptime_seconds)), status.program.clone()]);
        }
        table.add_row(row);
    }
    let output = options.output();
    output.answer(&table)?;
    for reason in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        output.note(format_args!("warning: {reason}"));
    }
    answered().for_each(|answer| warn(answer, output));
    Ok(())
}

/// Tells what a person should look at.
fn warn(Answer { status: Status { node, parked, withheld, .. }, unmended }: &Answer, output: Output) {
    let id = &node.id;
    if *parked > 0 {
        let parked = human::counted(*parked, "entry waits", "entries wait");
        output.note(format_args!("warning: at {id} {parked} for their time: clocks differ, see `metacdn servers`"));
    }
    if *withheld > 0 {
        let withheld = human::counted(*withheld, "entry", "entries");
        output.note(format_args!("warning: {id} withholds {withheld} of a backup: `metacdn withheld list {id}`"));
    }
    if *unmended > 0 {
        let blobs = human::counted(*unmended, "blob is", "blobs are");
        output.note(format_args!(
            "warning: at {id} {blobs} damaged or missing and not mended: `metacdn repair {id} --wait` asks the others again; \
             if none has them, {UPLOAD_AGAIN}"
        ));
    }
}
