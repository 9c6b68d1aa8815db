//! `metacdn demo`: a whole cluster on loopback, with the distances between its parts emulated.
//!
//! Everything in it is real: nodes and proxy are the roles that `metacdn run` starts, they speak TLS over TCP, and
//! what the show claims it has asked of them.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use super::interrupt::{Interrupt, Interrupted};
use super::output::written;
use super::roles::raise_file_limit;
use crate::telemetry;
use cluster::Cluster;
use folder::Folder;
use report::Report;
use screen::{Screen, Tone};
use show::Stage;

mod certificates;
mod cluster;
mod compare;
mod costs;
mod figures;
mod finale;
mod folder;
mod lines;
mod loss;
mod publish;
pub mod relay;
mod report;
mod routes;
mod screen;
mod show;
mod site;
mod spread;
mod traffic;
mod web;

/// Descriptors that may be open. A connection through a relay has four of them in this one process, and whoever tries
/// the cluster with a load generator shall reach its limits, not this.
const FILES_OPEN_MAX: u64 = 16 * 1024;

/// Run three nodes and an edge on this machine and show what they do.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// Publish the files of this folder instead of the site that ships with the program.
    #[arg(long, value_name = "DIR")]
    pub publish: Option<PathBuf>,
    /// End when the show is over; the exit code is 0 only if everything held.
    #[arg(long)]
    pub exit: bool,
}

/// Plays the show in `home`/demo and stays up until Ctrl-C, or ends with it if so told. With `json` a document of all
/// facts is printed when the show is over, and nothing else on standard output.
///
/// # Errors
/// When something did not hold.
pub async fn run(args: Args, home: &Path, json: bool, quiet: bool) -> anyhow::Result<()> {
    let screen = Screen::new(json, quiet);
    screen.line(&screen.toned(Tone::Strong, "metacdn demo: three clouds and a proxy on this machine"));
    let interrupt = Interrupt::catch()?;
    let begun = Instant::now();
    let home = std::path::absolute(home)?;
    // Mistakes of whoever starts it come to light before the earlier demonstration's folder is emptied.
    let filter = log_filter()?;
    let tree = match &args.publish {
        Some(folder) => site::below(folder)?,
        None => site::built_in(),
    };
    let folder = Folder::claim(&home)?;
    let mut report = Report { folder: folder.path().to_owned(), ..Report::default() };
    report.log = log_into(folder.path(), filter)?;
    raise_file_limit(FILES_OPEN_MAX);
    let mut cluster = None;
    let mut stage = Stage { screen: &screen, report: &mut report };
    let played = tokio::select! {
        played = show::play(&mut stage, &mut cluster, folder.path(), &tree, args.publish.as_deref()) => played,
        interrupted = interrupt.came() => Err(anyhow::Error::new(interrupted).context("the show is not over")),
    };
    screen.clear();
    report.seconds = begun.elapsed().as_secs_f64();
    report.error = played.as_ref().err().map(|error| format!("{error:#}"));
    report.ok = report.verdict().is_ok();
    if played.is_ok() {
        report.commands = finale::commands(&report, std::env::current_exe().ok().as_deref());
        summarize(&screen, &report, args.exit);
    }
    // A closed output is no reason to leave the cluster without stopping it.
    let told = if json { print_json(&report) } else { Ok(()) };
    let stays = played.is_ok() && told.is_ok() && !args.exit && !interrupt.has_come();
    let failed = match &mut cluster {
        Some(cluster) if stays => stay(cluster, &interrupt).await,
        _ => Ok(()),
    };
    screen.line("");
    let stopping = screen.waiting("stopping");
    let stopped = match cluster {
        Some(cluster) => cluster.stop().await,
        None => Ok(()),
    };
    drop(stopping);
    let verdict = match played {
        Err(error) if error.is::<Interrupted>() => Err(error),
        _ => report.verdict(),
    };
    verdict.and(told).and(failed).and(stopped)
}

/// Says how it went, and what there is now.
fn summarize(screen: &Screen, report: &Report, exits: bool) {
    if !exits {
        finale::show_addresses(screen, report);
        finale::show_commands(screen, report);
    }
    screen.line("");
    let held = report.checks.iter().filter(|check| check.ok).count();
    let took = figures::time(std::time::Duration::from_secs_f64(report.seconds));
    let words = format!("{held} of {} checks held in {took}.", report.checks.len());
    let tone = if report.ok { Tone::Good } else { Tone::Bad };
    let stays = if exits { "" } else { " The cluster stays up; Ctrl-C ends it." };
    screen.line(&format!("{}{stays}", screen.toned(tone, &words)));
}

fn print_json(report: &Report) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    let mut stdout = io::stdout();
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Waits for the end: a signal, or a part of the cluster that fails.
async fn stay(cluster: &mut Cluster, interrupt: &Interrupt) -> anyhow::Result<()> {
    tokio::select! {
        _ = interrupt.came() => Ok(()),
        error = cluster.first_failure() => Err(error),
    }
}

/// What of the log is written.
fn log_filter() -> anyhow::Result<EnvFilter> {
    let wanted = std::env::var("METACDN_LOG").ok().map(|filter| telemetry::Config::of_command(Some(filter)));
    Ok(wanted.unwrap_or_default().parse_filter()?)
}

/// Sends what the roles log into a file, unless it is sent elsewhere already: on the screen it would disturb the show.
fn log_into(folder: &Path, filter: EnvFilter) -> anyhow::Result<PathBuf> {
    let path = folder.join("demo.log");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let logging = tracing_subscriber::fmt()
        .with_writer(Mutex::new(file))
        .with_ansi(false)
        .with_env_filter(filter)
        .log_internal_errors(false);
    // It is set already where the caller wants the log elsewhere.
    let _ = logging.try_init();
    Ok(path)
}
