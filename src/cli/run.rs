//! `metacdn run`: the roles that a configuration asks for, until a signal.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use tokio::pin;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::roles::{Ports, Roles, raise_file_limit};
use crate::config::{Draft, Effective};
use crate::{edge, telemetry};

/// The configuration that is read if none is named.
const FILE_DEFAULT: &str = "metacdn.toml";

/// Run the roles that the configuration asks for: a node, an edge (the reference's proxy), or both.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the roles that `config` asks for (`metacdn.toml` if left out), until a signal.
///
/// # Errors
/// When the configuration cannot be used, or a role fails.
pub async fn run(Args {}: Args, config: Option<&Path>) -> anyhow::Result<()> {
    let file = file_or_default(config);
    let read = move || Ok(draft(Some(&file))?.build()?);
    let effective = read()?;
    telemetry::start(&effective.config.log)?;
    serve(&effective, read, Ports::Exact).await
}

/// The file that is named, or the one that is read if none is.
pub(super) fn file_or_default(config: Option<&Path>) -> PathBuf {
    config.map_or_else(|| PathBuf::from(FILE_DEFAULT), Path::to_owned)
}

/// What the file, if there is one, and the environment say.
pub(super) fn draft(file: Option<&Path>) -> anyhow::Result<Draft> {
    let mut draft = match file {
        Some(path) if !path.exists() => anyhow::bail!(
            "there is no configuration {}: name one with --config, or start from metacdn.example.toml",
            path.display()
        ),
        Some(path) => Draft::read(path)?,
        None => Draft::default(),
    };
    draft.overlay_environment(std::env::vars_os());
    Ok(draft)
}

/// Checks, binds and serves, until a signal; an edge will `read` its configuration anew whenever it is told to.
pub(super) async fn serve(
    effective: &Effective,
    read: impl Fn() -> anyhow::Result<Effective> + Send + Sync + 'static,
    ports: Ports,
) -> anyhow::Result<()> {
    // From here on a signal no longer kills.
    let signals = Signals::catch().context("cannot catch signals")?;
    let verified = effective.verify(SystemTime::now())?;
    for warning in verified.warnings {
        warn!(%warning, "configuration will become a problem");
    }
    let mut roles = Roles::bind(effective, verified.identity, ports).await?;
    raise_file_limit(roles.files_max());
    for (field, address) in roles.addresses()? {
        info!(field, %address, "listening");
    }
    let reloader = roles.reload_by(effective, read);
    signals.end(roles, reloader).await
}

/// The signals by which a process is told to end, or to read its configuration anew.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup: signal(SignalKind::hangup())? })
    }

    /// Serves until the first signal, and then until the last answer; a second signal ends the process at once.
    async fn end(mut self, roles: Roles, reloader: Option<edge::Reloader>) -> anyhow::Result<()> {
        let stop = CancellationToken::new();
        let serving = roles.serve(stop.clone());
        pin!(serving);
        loop {
            let (name, number) = tokio::select! {
                ended = &mut serving => return ended,
                _ = self.terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
                _ = self.hangup.recv() => {
                    match &reloader {
                        Some(reloader) => reloader.ask(),
                        None => warn!(signal = "SIGHUP", "only edges read their configuration anew, a node needs a restart"),
                    }
                    continue;
                }
                _ = self.interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
            };
            if stop.is_cancelled() {
                warn!(signal = name, "ending at once, answers are cut off");
                // What was acknowledged is durable already. The code is the one a shell gives for this signal.
                std::process::exit(128 + number);
            }
            info!(signal = name, "stopping: running answers end first, a second signal cuts them off");
            stop.cancel();
        }
    }
}
