//! Purges: what this edge is to forget, as the cluster or its operator says.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tracing::warn;

use super::Core;
use super::proxy::INDEX;
use crate::cache::disk::{Disk, DiskError};
use crate::cache::{self, Cache, Rule, SLICE_BYTES};
use crate::model::{Purge, PurgeTarget};
use crate::protocol::{decode_path, without_dot_segments};
use crate::serve::guard::normal;

/// For how long an edge may have been away, and hears of all purges all the same. Nodes tell of each for seven days; one of them
/// is for clocks that differ, and for the time that a purge takes to get to all nodes.
const TOLD_FOR: Duration = Duration::from_secs(6 * 24 * 3600);

/// Up to when this edge has heard of all purges of its cluster; of an earlier life it is not known.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<Option<SystemTime>>);

impl Heard {
    /// At `now` it has heard of all that are told. What was received before the moment that this returns may have been purged
    /// while nobody told it, by nodes or by itself: purges are kept in memory, and are heard anew in each life.
    fn all(&self, now: SystemTime) -> Option<SystemTime> {
        let told_since = now - TOLD_FOR;
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        before.is_none_or(|before| before < told_since).then_some(told_since)
    }
}

/// The cache, over what the disk has of earlier lives, and until when something may have been purged that nobody tells again.
/// What came before that is doubtful, here and at shields.
pub(super) fn cache_of(config: &cache::Config) -> Result<(Cache, Option<SystemTime>), DiskError> {
    let now = SystemTime::now();
    let Some(disk) = Disk::open(&config.disk, SLICE_BYTES)? else {
        // No earlier life has left a word.
        return Ok((Cache::new(config.clone(), None), Some(now)));
    };
    let last_purge = match disk.last_purge() {
        Ok(at) => at,
        Err(error) => {
            warn!(
                error = &error as &dyn std::error::Error,
                "it is not known what was purged: all on the disk is asked about"
            );
            Some(now)
        }
    };
    let cache = Cache::new(config.clone(), Some(disk));
    if let Some(at) = last_purge {
        cache.doubt(at, now);
    }
    Ok((cache, last_purge))
}

impl Core {
    /// This edge has heard of all purges that its cluster tells of at this moment, after whatever absence.
    pub(super) fn has_heard_all_purges(&self) {
        let now = SystemTime::now();
        if let Some(told_since) = self.heard.all(now) {
            self.cache.doubt(told_since, now);
        }
    }

    /// Forgets what `purge` is about, of all that was fetched before now.
    pub(super) fn purge(&self, purge: &Purge) {
        let soft_at = purge.is_soft().then(SystemTime::now);
        self.cache.purge(&self.rule(purge.target()), soft_at);
        self.metrics.purges.inc();
    }

    /// As [`Core::purge`], where nobody tells this edge of it again: what its disk has is doubtful in all later lives.
    pub(super) async fn purge_alone(&self, purge: &Purge) -> io::Result<()> {
        self.shields.note_purge_alone();
        self.purge(purge);
        let cache = self.cache.clone();
        let noted = tokio::task::spawn_blocking(move || cache.note_purge(SystemTime::now()));
        noted.await.unwrap_or_else(|error| Err(io::Error::other(error)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_away_for_longer_than_purges_are_told_has_missed_some() {
        let day = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 24 * 3600);
        let heard = Heard::default();
        assert_eq!(heard.all(day(100)), Some(day(94)), "a new life has heard of what is told, and of nothing before");
        assert_eq!([heard.all(day(100)), heard.all(day(106))], [None, None]);
        assert_eq!(heard.all(day(113)), Some(day(107)));
        assert_eq!([heard.all(day(112)), heard.all(day(114))], [None, None], "a clock that goes back");
    }
}
