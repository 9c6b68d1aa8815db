//! Which version of an object will do: a node that lags behind is passed over for one that has what was heard of.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::Core;
use super::fetch::Wanted;
use crate::model::{NodeId, ObjectKey, Version};
use crate::protocol::VERSION_HEADER;

/// How long a version that no node has is waited for: a write is heard of within a round trip, and large bytes would
/// take longer than anybody waits for a page.
pub(super) const WAIT: Duration = Duration::from_secs(1);

/// The version of an object that a node's answer tells of.
pub(super) fn version_of(headers: &HeaderMap) -> Option<Version> {
    headers.get(VERSION_HEADER)?.to_str().ok()?.parse().ok()
}

/// Which version of an object is looked for.
pub(super) struct Sought<'a> {
    /// The oldest that the client puts up with.
    min: Option<&'a Version>,
    /// The newest that the feeds told of: a node that answers with an older one lags behind.
    heard: Option<Version>,
}

/// What an answer is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// It may be given.
    Good,
    /// It may be given if there is nothing newer.
    Older,
    /// It may not be given.
    TooOld,
}

impl<'a> Sought<'a> {
    pub(super) fn new(core: &Core, wanted: &'a Wanted) -> Self {
        let heard = core.cache.sought(&wanted.key, core.started.elapsed());
        Self { min: wanted.min_version.as_ref(), heard }
    }

    /// What an answer in `version` is worth; `None` stands for one that tells no version.
    pub(super) fn worth(&self, version: Option<&Version>) -> Worth {
        if self.min.is_some_and(|min| version.is_none_or(|version| version < min)) {
            return Worth::TooOld;
        }
        match (version, &self.heard) {
            // What a node keeps for itself alone may be older than what the others have, and right there.
            (Some(version), Some(heard)) if version < heard && version.sequence != 0 => Worth::Older,
            _ => Worth::Good,
        }
    }

    /// Whether the client wants no older version than it names.
    pub(super) const fn is_demanded(&self) -> bool {
        self.min.is_some()
    }

    /// The node that has it, if it lives: it wrote it.
    pub(super) fn writer(&self) -> Option<&NodeId> {
        self.newest().map(|version| &version.origin.node)
    }

    /// The newest that is looked for.
    pub(super) fn newest(&self) -> Option<&Version> {
        self.min.max(self.heard.as_ref())
    }
}

/// Waits until a feed tells of the object in `version` or a newer one.
pub(super) async fn heard_of(core: &Arc<Core>, key: &ObjectKey, version: &Version) {
    loop {
        let news = core.news.notified();
        tokio::pin!(news);
        // From here on nothing that is told is missed.
        news.as_mut().enable();
        if core.cache.has_heard(key, version) {
            return;
        }
        news.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, HybridTime, Origin};

    fn version(at_ms: u64, sequence: u64) -> Version {
        let origin = Origin { node: "A".parse().expect("a name"), epoch: Epoch::from_bits(1) };
        Version { time: HybridTime::from_unix_ms(at_ms), origin, sequence }
    }

    #[test]
    fn what_the_client_names_is_a_bound_and_what_was_heard_of_a_wish() {
        let (five, seven) = (version(5, 1), version(7, 1));
        for (min, heard, given, worth) in [
            (None, None, Some(4), Worth::Good),
            (None, None, None, Worth::Good),
            (None, Some(&seven), Some(6), Worth::Older),
            (None, Some(&seven), Some(7), Worth::Good),
            (None, Some(&seven), Some(8), Worth::Good),
            (None, Some(&seven), None, Worth::Good),
            (Some(&five), None, Some(4), Worth::TooOld),
            (Some(&five), None, Some(5), Worth::Good),
            (Some(&five), None, None, Worth::TooOld),
            (Some(&five), Some(&seven), Some(4), Worth::TooOld),
            (Some(&five), Some(&seven), Some(6), Worth::Older),
            (Some(&seven), Some(&five), Some(6), Worth::TooOld),
        ] {
            let sought = Sought { min, heard: heard.cloned() };
            let given = given.map(|at_ms| version(at_ms, 1));
            assert_eq!(sought.worth(given.as_ref()), worth, "{min:?} {heard:?} {given:?}");
        }
        let heard = Sought { min: None, heard: Some(version(7, 1)) };
        assert_eq!(heard.worth(Some(&version(5, 0))), Worth::Good, "a node keeps it for itself alone");
        let named = Sought { min: Some(&seven), heard: None };
        assert_eq!(named.worth(Some(&version(5, 0))), Worth::TooOld);
    }
}
