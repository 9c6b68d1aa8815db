//! What a node counts of its blobs.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

/// The counters.
#[derive(Default)]
pub(super) struct BlobMetrics {
    pub(super) fetched_bytes: Counter,
    pub(super) swept_bytes: Counter,
    pub(super) scrubbed_bytes: Counter,
    pub(super) damaged_blobs: Counter,
    pub(super) mended_blobs: Counter,
}

impl BlobMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self { fetched_bytes, swept_bytes, scrubbed_bytes, damaged_blobs, mended_blobs } = &metrics;
        let help = "Bytes of blobs that came from peers";
        registry.register_with_unit("fetched", help, Unit::Bytes, fetched_bytes.clone());
        registry.register_with_unit("swept", "Bytes freed that nothing named", Unit::Bytes, swept_bytes.clone());
        let help = "Bytes of blobs that the scrub has looked at";
        registry.register_with_unit("scrubbed", help, Unit::Bytes, scrubbed_bytes.clone());
        registry.register("damaged_blobs", "Blobs that were found damaged or missing", damaged_blobs.clone());
        registry.register("mended_blobs", "Blobs that are whole again", mended_blobs.clone());
        metrics
    }
}
