//! What a person types: the commands and the options that all of them share.
//!
//! Each command is a module with its arguments and a `run`; [`Command`] lists them all.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::runtime::Runtime;

pub mod certs;
pub mod config;
mod confirm;
pub mod demo;
mod drain;
mod dump;
mod explain;
pub mod failure;
mod forget;
mod human;
mod interrupt;
mod load;
mod maintenance;
mod objects;
mod output;
mod prices;
mod profile;
mod progress;
pub mod proxy;
mod purge;
mod reload;
mod repair;
pub mod roles;
pub mod run;
pub mod server;
mod servers;
mod status;
mod verify;
mod waiting;
mod withheld;

pub use output::Output;
pub use profile::{Cluster, Target};

use crate::{resize, telemetry};
use interrupt::Interrupt;

/// What `--version` says; `-V` says the first line of it.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| format!("{}\n{}", env!("CARGO_PKG_VERSION"), resize::CODECS));

/// Turns machines at several clouds into one CDN.
#[derive(Debug, Parser)]
#[command(name = "metacdn", version, long_version = LONG_VERSION.as_str(), about, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// What all commands share.
    #[command(flatten)]
    pub options: Options,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the help of each command shows them.
const SHARED: &str = "Options of all commands";

/// What all commands share.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The configuration: credentials, and where the cluster is [env: METACDN_CONFIG] [default: the profile that
    /// `metacdn demo` wrote]
    // Not read by clap, for which a variable that is set to nothing would be a mistake.
    #[arg(long, global = true, value_name = "FILE", help_heading = SHARED)]
    pub config: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long, global = true, help_heading = SHARED)]
    pub json: bool,
    /// Print nothing but what was asked for, and errors
    #[arg(long, short, global = true, help_heading = SHARED)]
    pub quiet: bool,
    /// Where metacdn keeps what belongs to this user [default: ~/.metacdn]
    #[arg(long, global = true, value_name = "DIR", env = "METACDN_HOME", hide_env_values = true, hide = true)]
    pub home: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show a whole cluster on this machine: three nodes, an edge, and what they do
    Demo(demo::Args),
    /// Publish files and folders
    Upload(objects::upload::UploadArgs),
    /// Fetch an object into a file
    Get(objects::get::GetArgs),
    /// List the objects
    List(objects::list::ListArgs),
    /// Show what each node holds of an object
    Stat(objects::stat::StatArgs),
    /// Delete objects
    Delete(objects::delete::DeleteArgs),
    /// List the nodes of the cluster
    Servers,
    /// Set a node apart before it is stopped: no writes, and readers only where no other answers
    Maintenance(maintenance::NodeArgs),
    /// Take a node back after maintenance, or one that was to leave
    Resume(maintenance::NodeArgs),
    /// Take a node out of the cluster for good: wait until the others hold all that it has, and forget it
    Drain(drain::DrainArgs),
    /// Forget a node that is gone for good: nothing waits for it any more, and its name is spent
    Forget(forget::ForgetArgs),
    /// Show or change what providers charge
    Prices(prices::PricesArgs),
    /// Have the caches of all edges, or of one, forget something
    Purge(purge::PurgeArgs),
    /// Have an edge read its configuration anew, while it runs
    Reload(reload::ReloadArgs),
    /// Show what each node holds
    Status,
    /// Compare what all nodes hold, and say where they differ
    Verify(verify::VerifyArgs),
    /// Have nodes look through all their bytes now, and mend what is damaged or missing
    Repair(repair::RepairArgs),
    /// Show or settle what a node that was brought back from a backup does not list
    Withheld(withheld::WithheldArgs),
    /// Write a node's whole catalogue and all bytes to a folder
    Dump(dump::DumpArgs),
    /// Make a data folder of a dump, for a node that is to start on it
    Load(load::LoadArgs),
    /// Show why an edge answers a request from this node, and what would change that
    Explain(explain::ExplainArgs),
    /// Run a node
    Server(server::Args),
    /// Run an edge (the reference's proxy) in front of the cluster, which routes by price, time or both
    Proxy(proxy::Args),
    /// Run what the configuration asks for: a node, an edge (the reference's proxy), or both
    Run(run::Args),
    /// Check or show a configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Make, sign, show and hand over certificates
    #[command(subcommand)]
    Certs(certs::Command),
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// With what went wrong, for [`failure::report`].
    pub fn run(self) -> anyhow::Result<()> {
        let Self { mut options, command } = self;
        let of_environment = || std::env::var_os("METACDN_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        options.config = options.config.or_else(of_environment);
        match command {
            Command::Demo(args) => {
                let home = options.home()?;
                block_on(demo::run(args, &home, options.json, options.quiet))
            }
            Command::Upload(args) => ask(objects::upload::run(args, &options)),
            Command::Get(args) => ask(objects::get::run(args, &options)),
            Command::List(args) => ask(objects::list::run(args, &options)),
            Command::Stat(args) => ask(objects::stat::run(args, &options)),
            Command::Delete(args) => ask(objects::delete::run(args, &options)),
            Command::Servers => ask(servers::run(&options)),
            Command::Maintenance(args) => ask(maintenance::begin(args, &options)),
            Command::Resume(args) => ask(maintenance::end(args, &options)),
            Command::Drain(args) => ask(drain::run(args, &options)),
            Command::Forget(args) => ask(forget::run(args, &options)),
            Command::Prices(args) => ask(prices::run(args, &options)),
            Command::Purge(args) => ask(purge::run(args, &options)),
            Command::Reload(args) => ask(reload::run(args, &options)),
            Command::Status => ask(status::run(&options)),
            Command::Verify(args) => ask(verify::run(args, &options)),
            Command::Repair(args) => ask(repair::run(args, &options)),
            Command::Withheld(args) => ask(withheld::run(args, &options)),
            Command::Dump(args) => ask(dump::run(args, &options)),
            Command::Load(args) => ask(load::run(args, &options)),
            Command::Explain(args) => ask(explain::run(args, &options)),
            Command::Server(args) => block_on(server::run(args, options.config.as_deref(), &options.home()?)),
            Command::Proxy(args) => block_on(proxy::run(args, options.config.as_deref(), &options.home()?)),
            Command::Run(args) => block_on(run::run(args, options.config.as_deref())),
            Command::Config(command) => config::run(command, options.config.as_deref(), options.output()),
            Command::Certs(command) => certs::run(command, &options.home()?, options.output()),
        }
    }
}

impl Options {
    /// Where metacdn keeps what belongs to this user.
    ///
    /// # Errors
    /// When the user has no home folder.
    pub fn home(&self) -> anyhow::Result<PathBuf> {
        let of_user = || std::env::home_dir().map(|home| home.join(".metacdn"));
        self.home
            .clone()
            .or_else(of_user)
            .ok_or_else(|| anyhow::anyhow!("this user has no home folder: set METACDN_HOME to a folder"))
    }

    /// How the command speaks.
    pub const fn output(&self) -> Output {
        Output::new(self.json, self.quiet)
    }
}

/// Runs a command that asks a cluster and ends.
fn ask(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    telemetry::start(&telemetry::Config::of_command(std::env::var("METACDN_LOG").ok()))?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let interrupt = Interrupt::catch()?;
        tokio::select! {
            outcome = command => outcome,
            // Not left to the system, so that half a file is removed and the terminal is as it was.
            interrupted = interrupt.came() => Err(interrupted.into()),
        }
    });
    // A write to a pipe whose reader stands still would be waited for without end.
    runtime.shutdown_background();
    outcome
}

fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    Ending(Some(runtime()?)).block_on(command)
}

/// How long a process that is done waits for calls to the disk that still run: what they do was acknowledged to nobody.
const LAST_CALLS_WAIT: Duration = Duration::from_secs(5);

/// A runtime that ends. A process that has lost a part of itself must not look alive, as it would while it waits for calls that
/// may wait for that part.
struct Ending(Option<Runtime>);

impl Ending {
    fn block_on<T>(&self, command: impl Future<Output = T>) -> T {
        self.0.as_ref().expect("it is taken when this is dropped").block_on(command)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Some(runtime) = self.0.take() else { return };
        if std::thread::panicking() {
            runtime.shutdown_background();
        } else {
            runtime.shutdown_timeout(LAST_CALLS_WAIT);
        }
    }
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_process_that_lost_a_part_of_itself_does_not_wait_for_calls_that_wait_for_it() {
        let (lost, waiting) = mpsc::channel::<()>();
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            block_on(async move {
                let (begins, begun) = mpsc::channel();
                tokio::task::spawn_blocking(move || begins.send(()).map(|()| waiting.recv()));
                begun.recv()?;
                panic!("a part is lost");
            })
        }));
        assert!(ended.is_err());
        drop(lost);
    }
}
