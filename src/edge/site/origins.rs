//! The origins of a site: which of them answers a request, and what tries teach of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::header::{ALT_SVC, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::time::timeout_at;
use tracing::debug;
use xxhash_rust::xxh3::xxh3_64;

use super::super::attempt::Running;
use super::super::body::Inner;
use super::super::budget::Retries;
use super::super::facts::{Tally, Way};
use super::super::node_body::NodeBody;
use super::super::observe::{Observations, Seen, failure};
use super::super::refresh::since_sent;
use super::super::{Core, Upstream};
use super::outgoing::Outgoing;
use super::{Config, OriginConfig, SiteError};
use crate::cache::rules::strip_hop_by_hop;
use crate::client::{Asked, ClientError, ExchangeError, OnInterim, Peer};
use crate::edge::ledger::Charges;
use crate::model::{ImageMode, Liveness, MemberState, Node, NodeId, Provider};
use crate::route::{self, Candidate, FailureKind, Ranking, Reason, RouteTable, Try};
use crate::serve::body::BodyError;
use crate::serve::http1::Interim;

/// The provider of an origin of which none is configured: it has no price.
const NO_PROVIDER: &str = "unknown";

/// The origins of one site.
pub(in crate::edge) struct Origins {
    nodes: Vec<Arc<Node>>,
    upstreams: BTreeMap<NodeId, Located>,
    route: route::Config,
    /// How long an answer may be silent.
    stall: Duration,
    observations: Arc<Observations>,
    table: ArcSwap<RouteTable>,
}

/// An origin at its place.
struct Located {
    upstream: Upstream,
    /// By which name it is observed. One that moves is another one: what tries teach that still run at the old place says
    /// nothing of the new one.
    observed: NodeId,
}

/// What an origin answers, or a shield in its place.
pub(in crate::edge) struct Answer<B = Inner> {
    /// By which way it came.
    pub(in crate::edge) way: Arc<Way>,
    pub(in crate::edge) response: Response<B>,
}

/// Why no origin answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::edge) enum Unanswered {
    /// None can be reached, or those that were broke off.
    Unreachable,
    /// None has answered in time.
    Late,
    /// All have the requests that they take.
    Busy,
    /// The body of the request broke off, or the request cannot be sent.
    Broken,
    /// The client stopped to send it.
    Stalled,
}

/// What came of a try.
#[expect(clippy::large_enum_variant, reason = "one exists for a request, and it is the common case that is large")]
enum Attempt {
    Answer(Response<NodeBody>),
    /// It may be that another one does better, and `reached` whether the request may have arrived.
    Failed {
        reached: bool,
        why: Unanswered,
    },
}

impl Origins {
    /// The origins of the site `config`. Those of the same site `before` that are where they were keep their connections, and
    /// what was seen of them.
    pub(super) fn new(
        config: &Config,
        edge: &super::super::Config,
        tls: &Arc<rustls::ClientConfig>,
        before: Option<&Self>,
    ) -> Result<Self, SiteError> {
        let (mut upstreams, mut nodes) = (BTreeMap::new(), Vec::new());
        let deadlines = config.deadlines(edge);
        for origin in &config.origins {
            let address = origin.url.address.clone();
            let observed = observed_as(origin);
            let known = before.and_then(|before| before.upstreams.get(&origin.name));
            let is_same = |known: &&Located| known.observed == observed && known.upstream.provider == origin.provider;
            let upstream = match known.filter(is_same) {
                Some(Located { upstream, .. }) => upstream.waiting(deadlines),
                None => {
                    let peer = Peer::origin(origin.url.tls.then(|| tls.clone()), address.clone(), deadlines);
                    Upstream::new(peer, edge.node_requests_max, origin.provider.clone())
                }
            };
            if upstreams.insert(origin.name.clone(), Located { upstream, observed }).is_some() {
                let origin = origin.name.to_string();
                return Err(SiteError::OriginName { site: config.name.clone(), origin });
            }
            let provider: Provider = NO_PROVIDER.parse().expect("a name");
            nodes.push(Arc::new(Node {
                id: origin.name.clone(),
                provider: origin.provider.clone().unwrap_or(provider),
                download: address.clone(),
                address,
                images: ImageMode::Off,
            }));
        }
        if nodes.is_empty() {
            return Err(SiteError::NoOrigins(config.name.clone()));
        }
        let route = route::Config { policy: config.policy.unwrap_or(edge.route.policy), ..edge.route.clone() };
        let observations = match before {
            Some(before) => before.observations.clone(),
            None => Arc::new(Observations::new(route.clone(), &edge.membership)),
        };
        let table = ArcSwap::from_pointee(RouteTable::new(&route, Vec::new()));
        let stall = Duration::from_millis(config.stall_ms_max);
        Ok(Self { nodes, upstreams, route, stall, observations, table })
    }

    /// How long an answer may be silent.
    pub(super) const fn stall(&self) -> Duration {
        self.stall
    }

    /// What requests are routed by.
    pub(super) const fn route(&self) -> &route::Config {
        &self.route
    }

    /// What is seen of them.
    pub(super) const fn observations(&self) -> &Arc<Observations> {
        &self.observations
    }

    /// From now on these origins are observed, and no others.
    pub(super) fn begin(&self, charges: Charges<'_>) {
        self.observations.expect(self.upstreams.values().map(|origin| &origin.observed));
        self.build(charges);
    }

    /// Builds the table of what was seen.
    pub(super) fn build(&self, charges: Charges<'_>) {
        let candidate = |node: &Arc<Node>| {
            let observed = &self.upstreams.get(&node.id)?.observed;
            let Seen { measurements, standing, .. } = self.observations.of(observed);
            let servers = self.nodes.iter().filter(|other| other.provider == node.provider).count();
            let (tariff, used) = charges.of(&node.provider, servers);
            Some(Candidate {
                node: node.clone(),
                // Nobody pings an origin: those that fail are ejected.
                liveness: Liveness::Alive,
                state: MemberState::Active,
                tariff,
                used,
                measurements,
                standing,
            })
        };
        let candidates = self.nodes.iter().filter_map(candidate).collect();
        self.table.store(Arc::new(RouteTable::new(&self.route, candidates)));
    }

    /// Asks the origins in the order of their ranking until one answers; `passed` was asked in vain before, and is no try. What
    /// may have been done is not asked for again unless that makes no difference (RFC 9110 section 9.2.2).
    pub(super) async fn fetch(
        &self,
        core: &Arc<Core>,
        outgoing: &Outgoing,
        mut passed: Vec<NodeId>,
        deadline: Instant,
    ) -> Result<Answer<NodeBody>, Unanswered> {
        core.retries.earn();
        let target = outgoing.target.as_str();
        let request = route::Request { key: target, size: core.sizes.guess(target), policy: None };
        let Ranking { policy, routes } = self.table.load().rank(&request);
        let mut routes = VecDeque::from(routes);
        routes.make_contiguous().sort_by_key(|route| outgoing.rather_not.contains(&route.node.id));
        let (mut retries, mut failed) = (Retries::default(), None::<bool>);
        let (mut why, mut kept) = (Unanswered::Unreachable, None::<Answer<NodeBody>>);
        let passed_max = passed.len() + core.config.tries_max.get();
        while let Some(mut route) = routes.pop_front().filter(|_| passed.len() < passed_max) {
            if let Some(reached) = failed.take() {
                let repeatable = !reached || outgoing.method.is_idempotent();
                if !repeatable || !outgoing.is_whole() || reached && !retries.may_go_on(&core.retries) {
                    break;
                }
                core.metrics.retries.inc();
            }
            let id = route.node.id.clone();
            let attempt = self.attempt(core, &id, outgoing);
            // A body may take any time, as long as it moves.
            let attempt =
                if outgoing.has_body() { Ok(attempt.await) } else { timeout_at(deadline.into(), attempt).await };
            let Ok(attempt) = attempt else { return kept.ok_or(Unanswered::Late) };
            match attempt {
                Attempt::Answer(mut response) => {
                    if !passed.is_empty() {
                        route.reason = Reason::NextBest;
                    }
                    let fails = is_failing(response.status());
                    let fetched = Arc::<Tally>::default();
                    response.body_mut().count_for(&fetched);
                    let way = Arc::new(Way { route, policy, passed: passed.clone(), fetched });
                    let answer = Answer { way, response };
                    // Where there is no other one, what it says of its trouble is the answer.
                    if !fails || routes.is_empty() || !outgoing.method.is_idempotent() {
                        return Ok(answer);
                    }
                    kept = Some(answer);
                    failed = Some(true);
                }
                Attempt::Failed { reached, why: because } => {
                    failed = Some(reached);
                    why = because;
                }
            }
            passed.push(id);
        }
        kept.ok_or(why)
    }

    async fn attempt(&self, core: &Arc<Core>, id: &NodeId, outgoing: &Outgoing) -> Attempt {
        let failed = |reached, why| Attempt::Failed { reached, why };
        let Some(Located { upstream, observed }) = self.upstreams.get(id) else {
            return failed(false, Unanswered::Busy);
        };
        let Ok(place) = upstream.free.clone().try_acquire_owned() else { return failed(false, Unanswered::Busy) };
        let tell = outgoing
            .interim
            .clone()
            .map(|interim| OnInterim::new(move |status, headers| tell(&interim, status, headers)));
        let asked = Asked {
            method: &outgoing.method,
            path: &outgoing.target,
            headers: &outgoing.headers,
            on_interim: tell.as_ref(),
        };
        let counts = upstream.counts(&core.metrics, &core.ledger, id);
        let mut running = Running::begin(counts, self.observations.clone(), observed.clone(), place, self.stall);
        // A request with a body may take any time as long as it moves.
        let sent = match outgoing.has_body() {
            true => upstream.peer.ask_for_while_moving(&asked, outgoing.body()).await,
            false => upstream.peer.ask_for(&asked, outgoing.body()).await,
        };
        let mut response = match sent {
            Ok(response) => response,
            Err(error) => {
                debug!(origin = %id, error = &error as &dyn std::error::Error, "try failed");
                if error.is_of_request() {
                    running.mute();
                    return failed(true, if is_stalled(&error) { Unanswered::Stalled } else { Unanswered::Broken });
                }
                running.saw(&failure(&error, running.start.elapsed()));
                let why = match error {
                    ClientError::Late { .. } => Unanswered::Late,
                    _ => Unanswered::Unreachable,
                };
                return failed(error.may_have_arrived(), why);
            }
        };
        settle_length(response.headers_mut());
        // It is about the origin's own place: here others answer (RFC 7838 section 2).
        response.headers_mut().remove(ALT_SVC);
        if is_failing(response.status()) {
            running.saw(&Try::Failure { kind: FailureKind::Error, after: running.start.elapsed() });
            running.mute();
        } else {
            running.saw(&Try::FirstByte { after: since_sent(response.body().opened(), running.start) });
        }
        Attempt::Answer(response.map(|body| NodeBody::new(body, id, running)))
    }
}

/// By which name `origin` is observed, where it is.
fn observed_as(origin: &OriginConfig) -> NodeId {
    let place = xxh3_64(format!("{} {}", origin.name, origin.url).as_bytes());
    format!("{place:016x}").parse().expect("a name")
}

/// Whether the client stopped to send the body of its request.
fn is_stalled(error: &ClientError) -> bool {
    let ClientError::Unreachable { source, .. } = error else { return matches!(error, ClientError::Silent { .. }) };
    let Some(ExchangeError::Body(source)) = source.downcast_ref() else { return false };
    matches!(source.downcast_ref(), Some(BodyError::Stalled(_)))
}

/// A length that is said several times is one (RFC 9110 section 8.6).
fn settle_length(headers: &mut HeaderMap) {
    let mut said = headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    if let (Some(only), None) = (said.next(), said.next())
        && only.iter().all(u8::is_ascii_digit)
        && only.len() < u64::MAX.ilog10() as usize
    {
        return;
    }
    let lines = headers.get_all(CONTENT_LENGTH).iter().map(|line| line.to_str().unwrap_or_default());
    let lengths: Option<Vec<u64>> =
        lines.flat_map(|line| line.split(',')).map(|text| text.trim().parse().ok()).collect();
    match lengths.as_deref() {
        Some([length, others @ ..]) if others.iter().all(|other| other == length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(*length));
        }
        Some([]) => {}
        _ => _ = headers.remove(CONTENT_LENGTH),
    }
}

/// Passes on what an origin says before its answer (RFC 9110 section 15.2). That the body may come, the client is told
/// when it is wanted.
pub(in crate::edge) fn tell(interim: &Interim, status: StatusCode, headers: &HeaderMap) {
    if status == StatusCode::CONTINUE {
        return;
    }
    let mut headers = headers.clone();
    strip_hop_by_hop(&mut headers);
    if let Err(error) = interim.send(status, headers) {
        debug!(%status, %error, "an interim answer is left out");
    }
}

/// Whether another origin may do better.
fn is_failing(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;
    use tokio::task::JoinSet;
    use tokio_util::sync::CancellationToken;

    use super::super::super::admin::Metrics;
    use super::super::{REBUILD_PERIOD, Site, rebuild};
    use super::*;
    use crate::edge::ledger::Ledger;
    use crate::route::Standing;

    fn origins(url: &str, before: Option<&Origins>) -> Origins {
        let config = format!("name = 'site'\nhosts = ['site.example']\norigins = [{{ name = 'one', url = '{url}' }}]");
        let config: Config = toml::from_str(&config).expect("a site");
        let tls = crate::client::tls_of_authorities(rustls::RootCertStore::empty());
        Origins::new(&config, &super::super::super::Config::default(), &tls, before).expect("they can be used")
    }

    /// Tries at the origin that fail once this is dropped.
    fn fail(origins: &Origins) -> impl Drop + use<> {
        let name: NodeId = "one".parse().expect("a name");
        let Located { upstream, observed } = &origins.upstreams[&name];
        let ledger = Arc::new(Ledger::open(None).expect("no file is needed"));
        let counts = upstream.counts(&Metrics::new(), &ledger, &name);
        let places = Arc::new(Semaphore::new(100));
        let begin = |_| {
            let place = places.clone().try_acquire_owned().expect("a place");
            Running::begin(counts.clone(), origins.observations.clone(), observed.clone(), place, Duration::ZERO)
        };
        Failing((0..100).map(begin).collect())
    }

    struct Failing(Vec<Running>);

    impl Drop for Failing {
        fn drop(&mut self) {
            for running in &mut self.0 {
                running.saw(&Try::Failure { kind: FailureKind::Error, after: Duration::ZERO });
            }
        }
    }

    fn is_ejected(origins: &Origins) -> bool {
        let observed = &origins.upstreams.values().next().expect("one").observed;
        origins.observations.of(observed).standing != Standing::In
    }

    #[test]
    fn tries_at_the_old_place_of_an_origin_teach_nothing_of_the_new_one() {
        let old = origins("http://old.example", None);
        let (tariffs, ledger) = (BTreeMap::new(), Ledger::open(None).expect("no file is needed"));
        let charges = Charges { tariffs: &tariffs, ledger: &ledger };
        old.begin(charges);
        drop(fail(&old));
        let same = origins("http://old.example", Some(&old));
        same.begin(charges);
        assert!(is_ejected(&same));
        let running = fail(&old);
        let new = origins("http://new.example", Some(&old));
        new.begin(charges);
        drop(running);
        drop(fail(&old));
        assert!(!is_ejected(&new));
    }
    #[tokio::test(start_paused = true)]
    async fn all_who_route_by_the_same_origins_hear_of_each_change() {
        let edge = super::super::super::Config::default();
        let core = Core::new(edge.clone(), None, ([127, 0, 0, 1], 1).into(), None, CancellationToken::new());
        let core = Arc::new(core.expect("an edge"));
        let site = |host, before: Option<&Site>| {
            let config = format!("name = 'site'\nhosts = ['{host}']\norigins = ['http://one.example']");
            let config: Config = toml::from_str(&config).expect("a site");
            let tls = crate::client::tls_of_authorities(rustls::RootCertStore::empty());
            let site = Site::new(&config, &edge, &tls, before).expect("it can be used");
            site.begin(Charges { tariffs: &BTreeMap::new(), ledger: &core.ledger });
            Arc::new(site)
        };
        // While requests by the older one still run.
        let old = site("old.example", None);
        let new = site("new.example", Some(&old));
        let both = [old, new];
        let mut rebuilding = JoinSet::new();
        for site in &both {
            rebuilding.spawn(rebuild(core.clone(), Arc::downgrade(site)));
        }
        tokio::time::sleep(2 * REBUILD_PERIOD).await;
        for _ in 0..2 {
            let before = both.each_ref().map(|site| site.origins.table.load_full());
            both[1].origins.observations.note_change();
            tokio::time::sleep(2 * REBUILD_PERIOD).await;
            let is_new = |(site, before): (&Arc<Site>, &_)| !Arc::ptr_eq(&site.origins.table.load(), before);
            assert!(both.iter().zip(&before).all(is_new), "long before time alone is a reason");
        }
    }
}
