//! Sites: which hosts get their content from which HTTP origins, and the life of their requests.

mod answer;
mod config;
mod hints;
mod incoming;
mod keeping;
mod origins;
mod outgoing;
mod reply;
mod shielded;
mod tunnel;

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{IF_RANGE, RANGE};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response};
use hyper::body::Body;
use tracing::info;

pub use config::{Config, OriginConfig, OriginUrl, OriginUrlError};

use super::Core;
use super::body::Inner;
use super::coding::Rules;
use super::download::Rest;
use super::node_body::NodeBody;
use super::{shield, slices};
use crate::cache::rules::Terms;
use crate::edge::ledger::Charges;
use crate::model::{NodeId, SiteName};
use crate::serve::guard::normal;
pub(super) use config::name_of;
pub(super) use incoming::{Asker, Incoming};
pub(super) use origins::{Answer, tell};
use origins::{Origins, Unanswered};
pub(super) use outgoing::Outgoing;

/// The table of routes is built at most this often, however much is observed.
const REBUILD_PERIOD: Duration = Duration::from_millis(10);

/// Time alone changes who is ejected, so the table is built at least this often.
const REBUILD_PERIOD_MAX: Duration = Duration::from_secs(1);

/// A site of an edge.
pub struct Site {
    name: SiteName,
    /// Its name, for the access log.
    label: Arc<str>,
    config: Config,
    /// What stands for it in cache keys.
    text: Arc<str>,
    terms: Terms,
    compression: Rules,
    request_bytes_max: u64,
    /// How long a client waits for an answer to begin.
    patience: Duration,
    origins: Origins,
}

/// The sites of an edge, by the hosts that they answer for.
#[derive(Default)]
pub(super) struct Sites {
    all: Vec<Arc<Site>>,
    exact: HashMap<String, Arc<Site>>,
    /// Those for all names below a domain, by `.domain`.
    below: HashMap<String, Arc<Site>>,
}

/// The sites contradict each other, or themselves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SiteError {
    /// Two have one name.
    #[error("there are two sites with the name {0}")]
    Name(SiteName),
    /// Two answer for one host.
    #[error("the host {host} belongs to {first} and to {second}: name it at one of them")]
    Host {
        /// The host.
        host: String,
        /// One of them.
        first: SiteName,
        /// The other one.
        second: SiteName,
    },
    /// It has no host.
    #[error("the site {0} has no hosts: nobody could ask for it")]
    NoHosts(SiteName),
    /// It has no origin.
    #[error("the site {0} has no origins: set edge.site.origins")]
    NoOrigins(SiteName),
    /// Two of its origins have one name.
    #[error("the site {site} has two origins with the name {origin}: give one of them another `name`")]
    OriginName {
        /// The site.
        site: SiteName,
        /// The name.
        origin: String,
    },
    /// A host is none.
    #[error("{host:?} of the site {site} is no host: write a DNS name, an IP address, or *.DOMAIN, without a port")]
    NoHost {
        /// The site.
        site: SiteName,
        /// What was written.
        host: String,
    },
}

impl Sites {
    /// The sites that are configured so. Those of `before` that are the same stay, and so do the connections of origins that
    /// are the same, and what is known of them.
    ///
    /// # Errors
    /// When they contradict each other.
    pub(super) fn new(
        edge: &super::Config,
        tls: &Arc<rustls::ClientConfig>,
        before: Option<&Self>,
    ) -> Result<Self, SiteError> {
        let mut sites = Self::default();
        for config in &edge.site {
            let known = before.and_then(|before| before.named(&config.name));
            let new = Site::new(config, edge, tls, known.map(|known| &**known))?;
            let site = match known {
                Some(known) if known.is_same(&new) => known.clone(),
                _ => Arc::new(new),
            };
            sites.add(site)?;
        }
        Ok(sites)
    }

    /// The site of this name.
    pub(super) fn named(&self, name: &SiteName) -> Option<&Arc<Site>> {
        self.all.iter().find(|site| site.name == *name)
    }

    /// The site that answers for `host`: a name or address in small letters, without a port, brackets or a last dot. Of
    /// several that are for all names below a domain it is the one with the longest.
    pub(super) fn of(&self, host: &str) -> Option<&Arc<Site>> {
        if self.all.is_empty() {
            return None;
        }
        let domains = || host.match_indices('.').map(|(dot, _)| &host[dot..]);
        self.exact.get(host).or_else(|| domains().find_map(|domain| self.below.get(domain)))
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Site>> {
        self.all.iter()
    }

    fn add(&mut self, site: Arc<Site>) -> Result<(), SiteError> {
        let name = || site.name.clone();
        if self.named(&site.name).is_some() {
            return Err(SiteError::Name(name()));
        }
        if site.config.hosts.is_empty() {
            return Err(SiteError::NoHosts(name()));
        }
        for host in &site.config.hosts {
            let normal = normal(host);
            let (hosts, host_name) = match normal.strip_prefix('*') {
                Some(domain) => (&mut self.below, domain),
                None => (&mut self.exact, normal.as_str()),
            };
            let is_host = crate::model::Address::new(host_name.trim_start_matches('.'), 80).is_ok();
            if !is_host || normal.starts_with('*') && !host_name.starts_with('.') {
                return Err(SiteError::NoHost { site: name(), host: host.clone() });
            }
            if let Some(first) = hosts.insert(host_name.to_owned(), site.clone()) {
                return Err(SiteError::Host { host: host.clone(), first: first.name.clone(), second: name() });
            }
        }
        self.all.push(site);
        Ok(())
    }
}

impl Site {
    /// Its name.
    pub(super) const fn name(&self) -> &SiteName {
        &self.name
    }

    /// How long a client waits for an answer to begin.
    pub(super) const fn patience(&self) -> Duration {
        self.patience
    }

    /// What of it is compressed.
    pub(super) const fn compression(&self) -> &Rules {
        &self.compression
    }

    /// Its name, for the access log.
    pub(super) const fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// What stands for it in cache keys.
    pub(super) const fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// How long an origin may be silent within an answer.
    pub(super) const fn stall(&self) -> Duration {
        self.origins.stall()
    }

    /// Asks the shield, if there is one for that, and else its origins.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        core: &Arc<Core>,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<Answer, Unanswered> {
        let passed = match shield::site(core, self, outgoing, deadline).await {
            shield::Asked::Answer(answer) => return Ok(answer),
            shield::Asked::InVain(shield) => vec![shield],
            shield::Asked::Nobody => Vec::new(),
        };
        let Answer { way, response } = self.origins.fetch(core, outgoing, passed, deadline).await?;
        Ok(Answer { way, response: response.map(|body| Inner::Origin(Box::new(body))) })
    }

    /// Asks its origins for the `rest` of an answer to this target and these headers that broke off; those that `failed` last.
    /// Servers that know nothing of If-Match give parts of whatever they have; If-Range all of them know (RFC 9110 section
    /// 13.1.5).
    pub(super) async fn fetch_rest(
        self: Arc<Self>,
        core: Arc<Core>,
        target: PathAndQuery,
        headers: Arc<HeaderMap>,
        rest: Rest,
        failed: Vec<NodeId>,
    ) -> Option<NodeBody> {
        let Rest::Bytes { range, etag, .. } = &rest else { return None };
        let mut headers = HeaderMap::clone(&headers);
        for name in incoming::OF_THE_CLIENT {
            headers.remove(name);
        }
        headers.insert(RANGE, slices::range_value(range));
        headers.insert(IF_RANGE, etag.clone());
        let outgoing = Outgoing::new(Method::GET, target, Arc::new(headers)).rather_not(failed);
        let deadline = Instant::now() + self.patience;
        let answer = self.origins.fetch(&core, &outgoing, Vec::new(), deadline).await.ok()?;
        if !rest.is_answered_by(&answer.response) {
            return None;
        }
        info!(site = %self.name, to = %answer.way.route.node.id, "resumed");
        core.metrics.resumed.inc();
        Some(answer.response.into_body())
    }

    /// Answers a request.
    pub(super) async fn answer<B>(self: &Arc<Self>, core: &Arc<Core>, incoming: Incoming, body: B) -> Response<Inner>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        answer::answer(core, self, incoming, body).await
    }

    /// From now on requests come: its origins are observed, at these prices.
    pub(super) fn begin(&self, charges: Charges<'_>) {
        self.origins.begin(charges);
    }

    fn new(
        config: &Config,
        edge: &super::Config,
        tls: &Arc<rustls::ClientConfig>,
        before: Option<&Self>,
    ) -> Result<Self, SiteError> {
        let origins = Origins::new(config, edge, tls, before.map(|before| &before.origins))?;
        Ok(Self {
            name: config.name.clone(),
            label: config.name.to_string().into(),
            text: text(config).into(),
            terms: terms(config),
            compression: Rules::new(config.compression.as_ref().unwrap_or(&edge.compression).clone()),
            request_bytes_max: config.request_bytes_max,
            patience: Duration::from_millis(config.request_ms_max),
            config: config.clone(),
            origins,
        })
    }

    /// Whether nothing depends on which of the two answers.
    fn is_same(&self, other: &Self) -> bool {
        self.config == other.config
            && self.compression == other.compression
            && self.origins.route() == other.origins.route()
    }
}

/// What stands for a site in cache keys: its name, and what of the configuration has gone into what is kept, which are the
/// lifetimes of answers. So what was kept by other rules is not found, whoever keeps it when; all else may change.
fn text(config: &Config) -> String {
    let mut text = config.name.to_string();
    if config.default_lifetime_s > 0 {
        text.push_str(&format!(";default_lifetime_s={}", config.default_lifetime_s));
    }
    if !config.heuristic_lifetime {
        text.push_str(";heuristic_lifetime=false");
    }
    text
}

/// What the cache has to know of the configuration.
fn terms(config: &Config) -> Terms {
    let mut terms = Terms { default_lifetime_seconds: config.default_lifetime_s, ..Terms::default() };
    if !config.heuristic_lifetime {
        terms.heuristic_lifetime_seconds_max = 0;
    }
    terms
}

/// Keeps the routes to the origins of `site` new, until the edge stops or the last request for it has ended.
pub(super) async fn rebuild(core: Arc<Core>, site: Weak<Site>) {
    let mut view = core.view.subscribe();
    let Some(mut observed) = site.upgrade().map(|site| site.origins.observations().changes()) else { return };
    loop {
        {
            let Some(site) = site.upgrade() else { return };
            let view = view.borrow_and_update();
            site.origins.build(Charges { tariffs: view.tariffs(), ledger: &core.ledger });
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            changed = observed.changed() => if changed.is_err() { return },
            changed = view.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(REBUILD_PERIOD_MAX) => {}
        }
        tokio::time::sleep(REBUILD_PERIOD).await;
    }
}
