//! A running edge reads its configuration anew, and its certificates also without being told: one task does both, so that
//! neither undoes the other. What comes of it is there at once, and whole, or not at all.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::certificates::{self, Files};
use super::ledger::Charges;
use super::settings::Settings;
use super::{Config, Core, site};
use crate::cache::Rule;
use crate::model::SiteName;
use crate::protocol::reload::{ChangedSites, Reloaded};
use crate::serve::Certificates;

/// How many may wait for a reload: each of them reads the file again.
const WAITING_MAX: usize = 16;

/// What a running edge is to become.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its configuration: what it has, or what [`Config::reloaded`] makes of that.
    pub config: Config,
    /// The fields by which the two differ.
    pub changed: Vec<String>,
    /// The fields that stay as they are until it starts anew.
    pub needs_restart: Vec<String>,
}

/// Reads and checks what an edge that runs with a configuration is to become, or says what is wrong with that. It may block.
pub type ReadChange = dyn Fn(&Config) -> Result<Change, String> + Send + Sync;

/// Has an edge read its configuration anew.
#[derive(Debug, Clone)]
pub struct Reloader(mpsc::Sender<Ask>);

/// What an edge needs to read its configuration anew when it is asked to.
pub struct Reloads {
    read: Arc<ReadChange>,
    asks: mpsc::Receiver<Ask>,
    reloader: Reloader,
}

type Ask = oneshot::Sender<Result<Reloaded, ReloadError>>;

/// Why nothing was reloaded. What there was stays.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// What was read cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// Others wait already.
    #[error("{WAITING_MAX} others wait for a reload")]
    Busy,
    /// The edge stops.
    #[error("the edge is stopping")]
    Stopping,
}

impl fmt::Debug for Reloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloads").finish_non_exhaustive()
    }
}

impl Reloads {
    /// Those of an edge whose configuration `read` reads.
    pub fn new(read: impl Fn(&Config) -> Result<Change, String> + Send + Sync + 'static) -> Self {
        let (ask, asks) = mpsc::channel(WAITING_MAX);
        Self { read: Arc::new(read), asks, reloader: Reloader(ask) }
    }

    /// What has the edge read it.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }
}

impl Reloader {
    /// Has the edge read its configuration anew, and waits for what comes of it.
    ///
    /// # Errors
    /// When that cannot be used; then nothing has changed.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let (tell, told) = oneshot::channel();
        self.0.try_send(tell).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReloadError::Busy,
            mpsc::error::TrySendError::Closed(_) => ReloadError::Stopping,
        })?;
        told.await.map_err(|_| ReloadError::Stopping)?
    }

    /// Has the edge read its configuration anew; what comes of it is in its log.
    pub fn ask(&self) {
        // Those who wait already read the file as it is now.
        let _ = self.0.try_send(oneshot::channel().0);
    }
}

/// Keeps what can change as the files say, until the edge stops: certificates whenever theirs change, all else when
/// somebody asks. The stop does not wait for a disk that hangs.
pub(super) async fn keep(core: Arc<Core>, certificates: Option<Arc<Certificates>>, reloads: Option<Reloads>) {
    let stop = core.stop.clone();
    stop.run_until_cancelled(keep_on(core, certificates, reloads)).await;
}

async fn keep_on(core: Arc<Core>, certificates: Option<Arc<Certificates>>, reloads: Option<Reloads>) {
    let (read, mut asks) = match reloads {
        Some(Reloads { read, asks, reloader: _ }) => (Some(read), Some(asks)),
        None => (None, None),
    };
    let mut files = Files::new(&core);
    let mut period = interval(core.config.certificate_check());
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rebuilding = JoinSet::new();
    for site in core.settings.load().sites.iter() {
        rebuilding.spawn(site::rebuild(core.clone(), Arc::downgrade(site)));
    }
    let asked = async |asks: &mut Option<mpsc::Receiver<Ask>>| match asks {
        Some(asks) => asks.recv().await,
        None => None,
    };
    loop {
        tokio::select! {
            Some(ask) = asked(&mut asks) => {
                let Some(read) = &read else { continue };
                let reloaded = reload(&core, certificates.as_ref(), read, &mut files, &mut rebuilding).await;
                match &reloaded {
                    Ok(Reloaded { changed, needs_restart, sites }) => {
                        info!(?changed, ?needs_restart, ?sites, "the configuration was read anew");
                    }
                    Err(error) => warn!(%error, "the configuration cannot be used, what was before stays"),
                }
                let _ = ask.send(reloaded);
            }
            _ = period.tick() => {
                if let Some(certificates) = &certificates {
                    files.look(&core, certificates).await;
                }
            }
            Some(ended) = rebuilding.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        }
    }
}

async fn reload(
    core: &Arc<Core>,
    certificates: Option<&Arc<Certificates>>,
    read: &Arc<ReadChange>,
    files: &mut Files,
    rebuilding: &mut JoinSet<()>,
) -> Result<Reloaded, ReloadError> {
    let before = core.settings.load_full();
    let (reading, running, has_tls, public_at) = (read.clone(), before.clone(), certificates.is_some(), core.public_at);
    // All of it before anything is exchanged.
    let prepare = move || {
        let Change { config, changed, needs_restart } = reading(&running.config).map_err(ReloadError::Unusable)?;
        let stamps = certificates::stamps(&config.certificate);
        let shown = if has_tls {
            Some(certificates::read(&config.certificate).map_err(|error| unusable(&error))?)
        } else {
            None
        };
        let settings = Settings::new(config, public_at, Some(&running)).map_err(|error| unusable(&error))?;
        Ok((settings, stamps, shown, Reloaded { changed, needs_restart, sites: ChangedSites::default() }))
    };
    // What panics there has read what it cannot use.
    let prepared = tokio::task::spawn_blocking(prepare).await;
    let (settings, stamps, shown, mut reloaded) =
        prepared.unwrap_or_else(|error| Err(ReloadError::Unusable(error.to_string())))?;
    reloaded.sites = changes(&before, &settings);
    let settings = Arc::new(settings);
    if let (Some(certificates), Some(shown)) = (certificates, shown) {
        core.metrics.forget_certificates();
        certificates::note_expiry(core, &settings.config.certificate, &shown);
        let differs = certificates.exchange(shown).map_err(|error| unusable(&error))?;
        if differs && !reloaded.changed.iter().any(|field| field == certificates::FIELD) {
            reloaded.changed.push(certificates::FIELD.to_owned());
        }
        files.seen(stamps);
    }
    begin(core, &before, &settings, rebuilding);
    Ok(reloaded)
}

/// From now on requests are answered by these settings.
fn begin(core: &Arc<Core>, before: &Settings, settings: &Arc<Settings>, rebuilding: &mut JoinSet<()>) {
    let is_new = |site: &&Arc<site::Site>| !before.sites.iter().any(|known| Arc::ptr_eq(known, site));
    for site in settings.sites.iter().filter(is_new) {
        site.begin(Charges { tariffs: core.view.borrow().tariffs(), ledger: &core.ledger });
        rebuilding.spawn(site::rebuild(core.clone(), Arc::downgrade(site)));
    }
    // If one of that name, or with those rules, comes again it is another one; and requests that began before may keep something
    // for one that has gone.
    let texts = |of: &Settings| -> HashSet<_> { of.sites.iter().map(|site| site.text().clone()).collect() };
    let (old, new) = (texts(before), texts(settings));
    for text in old.symmetric_difference(&new) {
        core.cache.purge(&Rule::Site(text.to_string()), None);
    }
    core.cache.keep_sites(old.intersection(&new).map(|text| &**text));
    core.settings.store(settings.clone());
    core.proxies.exchange(settings.config.proxy_protocol_from.clone());
    core.observations.note_change();
}

fn changes(before: &Settings, after: &Settings) -> ChangedSites {
    let mut sites = ChangedSites::default();
    for site in after.sites.iter() {
        match before.sites.named(site.name()) {
            None => sites.added.push(site.name().clone()),
            Some(known) if !Arc::ptr_eq(known, site) => sites.changed.push(site.name().clone()),
            Some(_) => {}
        }
    }
    let gone = before.sites.iter().map(|site| site.name()).filter(|name| after.sites.named(name).is_none());
    sites.removed = gone.cloned().collect::<Vec<SiteName>>();
    sites
}

/// What is wrong, with its causes.
fn unusable(error: &dyn std::error::Error) -> ReloadError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    ReloadError::Unusable(text)
}
