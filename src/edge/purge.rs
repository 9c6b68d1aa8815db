//! Purges: what this edge is to forget, as the cluster or its operator says.

use std::time::SystemTime;

use super::Core;
use super::proxy::INDEX;
use crate::cache::Rule;
use crate::model::{Purge, PurgeTarget};
use crate::protocol::{decode_path, without_dot_segments};
use crate::serve::guard::normal;

impl Core {
    /// Forgets what `purge` is about, of all that was fetched before now.
    pub(super) fn purge(&self, purge: &Purge) {
        let soft_at = purge.is_soft().then(SystemTime::now);
        self.cache.purge(&self.rule(purge.target()), soft_at);
        self.metrics.purges.inc();
    }

    /// Whether this edge would have heard of a purge: it hears its cluster, or has none.
    pub(super) fn hears_purges(&self) -> bool {
        self.config.seeds.is_empty() || self.routes.load().covered_since.is_some()
    }

    /// What of the cache a purge is about. Objects of the store have no host: all hosts of the store are one.
    fn rule(&self, target: &PurgeTarget) -> Rule {
        match target {
            PurgeTarget::Tag(tag) => Rule::Tag(tag.clone()),
            PurgeTarget::Host(host) if self.is_of_store(host) => Rule::Prefix("/".to_owned()),
            PurgeTarget::Host(host) => Rule::Prefix(format!("{host}/")),
            PurgeTarget::Url(url) => match self.path_in_store(url) {
                Some(path) if path.is_empty() || path.ends_with('/') => Rule::Exact(format!("/{path}{INDEX}")),
                Some(path) => Rule::Exact(format!("/{path}")),
                None => Rule::Exact(url.clone()),
            },
            PurgeTarget::Prefix(prefix) => match self.path_in_store(prefix) {
                Some(path) => Rule::Prefix(format!("/{path}")),
                None => Rule::Prefix(prefix.clone()),
            },
        }
    }

    /// The decoded path of a URI without its scheme, if its host is answered from the store.
    fn path_in_store(&self, uri: &str) -> Option<String> {
        let (_, path) = uri.split_once('/').filter(|(host, _)| self.is_of_store(host))?;
        let path = path.split('?').next().unwrap_or_default();
        decode_path(path).ok().map(|path| without_dot_segments(&path))
    }

    fn is_of_store(&self, authority: &str) -> bool {
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => authority,
        };
        let (host, settings) = (normal(host), self.settings.load());
        settings.sites.of(&host).is_none() && settings.hosts.contain(&host)
    }
}
