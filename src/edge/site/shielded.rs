//! What it means for a request of a site that there are shields: that this edge asks one, or is one.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::AUTHORIZATION;

use super::super::coding::Rules;
use super::answer::Life;
use super::incoming::Asker;
use crate::cache::CacheKey;
use crate::cache::rules::{Cause, Freshness, Use};

impl Life {
    /// The URI, if a shield may be asked for it: what it is not to keep it need not know, and what has passed as many edges as
    /// it may it would refuse.
    pub(super) fn by_shield(&self) -> Option<Arc<str>> {
        let CacheKey::Answer { uri, .. } = &self.key else { return None };
        let is_final = self.is_for_edge() || !self.incoming.may_pass_another();
        let is_for_one = self.incoming.directives.no_store || self.incoming.headers.contains_key(AUTHORIZATION);
        (!is_final && !is_for_one).then(|| uri.clone())
    }

    /// By what rules the answer is compressed: for another edge it is not, which does that itself.
    pub(super) fn compression(&self) -> &Rules {
        match self.incoming.asker {
            Asker::Client { .. } => self.site.compression(),
            Asker::Edge { .. } => self.core.shields.as_they_are(),
        }
    }

    /// What may be done with what is kept, by its age.
    pub(super) fn use_by_age(&self, freshness: &Freshness) -> Use {
        match freshness.use_for(&self.incoming.directives, SystemTime::now()) {
            Use::Stale | Use::StaleWhileRevalidate if self.is_for_edge() => Use::Validate(Cause::Stale),
            Use::Fresh if self.is_purged_for_asker(freshness) => Use::Validate(Cause::Stale),
            usage => usage,
        }
    }

    /// Whether another edge asks. It has what was purged softly as fresh as any, by all that the head tells: so whether something
    /// stale will do is decided where the client is.
    pub(super) fn is_for_edge(&self) -> bool {
        matches!(self.incoming.asker, Asker::Edge { .. })
    }

    /// Whether the edge that asks was told of a purge that may be about it, of which this one does not know.
    fn is_purged_for_asker(&self, freshness: &Freshness) -> bool {
        matches!(self.incoming.asker, Asker::Edge { not_before: Some(at) } if !freshness.was_asked_for_since(at))
    }
}
