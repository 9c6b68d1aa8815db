//! The facts of a demonstration: what was checked and seen, for the exit code and for programs.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::costs::Costs;
use super::lines::Photograph;
use super::loss::Loss;
use super::routes::Decision;

/// Everything that a program may want to know; the document of `--json`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Whether every check held, and all were made.
    pub(super) ok: bool,
    /// Why the show ended early, if it did.
    pub(super) error: Option<String>,
    /// How long the show took.
    pub(super) seconds: f64,
    /// The folder of the demonstration.
    pub(super) folder: PathBuf,
    /// The log of all roles.
    pub(super) log: PathBuf,
    /// Where users are answered.
    pub(super) proxy: Option<ProxyFacts>,
    /// Where users with slower links are answered.
    pub(super) lines: Vec<LineFacts>,
    /// The nodes.
    pub(super) nodes: Vec<NodeFacts>,
    /// What a client of the cluster needs.
    pub(super) credentials: Option<Credentials>,
    /// What was published.
    pub(super) published: Published,
    /// What was checked, in this order.
    pub(super) checks: Vec<Check>,
    /// What the proxy decided.
    pub(super) routes: Vec<Decision>,
    /// A download in the middle of which its node was killed.
    pub(super) loss: Option<Loss>,
    /// The photograph as each link got it.
    pub(super) photograph: Option<Photograph>,
    /// What the proxy's answers cost.
    pub(super) costs: Option<Costs>,
    /// Commands to try next.
    pub(super) commands: Vec<String>,
}

/// A claim and whether it held.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) ok: bool,
    /// What was seen, or what is wrong.
    pub(super) detail: String,
    pub(super) seconds: f64,
}

/// Where the proxy is.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ProxyFacts {
    pub(super) url: String,
    pub(super) port: u16,
    pub(super) admin_url: String,
    pub(super) admin_port: u16,
    pub(super) config: PathBuf,
}

/// Where the proxy is reached over an emulated link.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LineFacts {
    pub(super) name: String,
    pub(super) bytes_per_second: u64,
    pub(super) url: String,
    pub(super) port: u16,
}

/// Where a node is and how it is seen.
#[derive(Debug, Clone, Serialize)]
pub(super) struct NodeFacts {
    pub(super) id: String,
    pub(super) provider: String,
    /// Where packets and the node API are served.
    pub(super) address: String,
    pub(super) port: u16,
    pub(super) download_url: String,
    pub(super) download_port: u16,
    pub(super) price_url: String,
    pub(super) price_port: u16,
    /// How long a byte takes there, one way.
    pub(super) delay_ms: u64,
    pub(super) instance_hour: String,
    pub(super) network_hour: String,
    pub(super) data: PathBuf,
    pub(super) config: PathBuf,
}

/// Where the client's credentials are.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Credentials {
    /// The profile, for `--config` or `METACDN_CONFIG`.
    pub(super) config: PathBuf,
    pub(super) authority: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// What was published.
#[derive(Debug, Default, Serialize)]
pub(super) struct Published {
    /// The folder, or nothing for the set that ships with the binary.
    pub(super) source: Option<PathBuf>,
    /// Files of the first part.
    pub(super) files: usize,
    /// Their bytes.
    pub(super) bytes: u64,
    /// How long it took until one node had them all.
    pub(super) upload_seconds: f64,
    /// How long it took until all nodes had them all.
    pub(super) spread_seconds: f64,
    /// Files that were published while a node was away.
    pub(super) files_while_away: usize,
    /// What was left out of the folder, and why.
    pub(super) skipped: Vec<String>,
    /// Objects that every node holds at the end.
    pub(super) objects: usize,
}

impl Report {
    /// Notes a check.
    pub(super) fn note(&mut self, name: &str, outcome: Result<&str, &str>, took: Duration) {
        let (ok, detail) = match outcome {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        self.checks.push(Check { name: name.to_owned(), ok, detail: detail.to_owned(), seconds: took.as_secs_f64() });
    }

    /// Says whether everything held.
    ///
    /// # Errors
    /// With what did not.
    pub(super) fn verdict(&self) -> anyhow::Result<()> {
        let failed: Vec<_> = self.checks.iter().filter(|check| !check.ok).map(|check| check.name.as_str()).collect();
        if !failed.is_empty() {
            anyhow::bail!("{} of {} checks failed: {}", failed.len(), self.checks.len(), failed.join(", "));
        }
        match &self.error {
            Some(error) => anyhow::bail!("{error}"),
            None => Ok(()),
        }
    }
}
