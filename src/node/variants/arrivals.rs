//! The images that arrive at a node which makes variants beforehand: followed through its own feed, from its begin, so
//! that what an earlier life did not get done is found, too.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tracing::warn;

use super::super::Core;
use super::super::bytes::off_runtime;
use super::super::resolve::is_image;
use super::{Wanted, known, parallel};
use crate::model::{Content, Entry, ImageMode, Variant};
use crate::protocol::feed::ENTRIES_MAX;
use crate::resize::{CODECS, RECIPE};
use crate::store::{Select, StoreError};

/// How long the follower rests when the catalogue cannot be read.
const REST: Duration = Duration::from_secs(1);

/// Makes the variants of all images that are here and that come, until the node stops.
///
/// Objects of this node alone stand in no feed: theirs are made when somebody asks.
pub(in crate::node) async fn follow(core: Arc<Core>) {
    if core.config.images != ImageMode::Static {
        return;
    }
    let stop = core.stop.clone();
    stop.run_until_cancelled(follow_feed(&core)).await;
}

async fn follow_feed(core: &Core) {
    let mut progress = core.catalog.progress();
    let mut since = 0;
    let mut maker = Some(maker(core));
    loop {
        progress.mark_unchanged();
        match page(core, &mut maker, since).await {
            Ok((images, next, end)) => {
                stream::iter(images)
                    .for_each_concurrent(parallel().get(), |content| async move { make_all(core, &content).await })
                    .await;
                since = next;
                if end && progress.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "images cannot be looked for, will retry");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Who makes the variants of this node: another one may make other bytes, or be able to do more.
fn maker(core: &Core) -> String {
    let limits = core.config.resize.limits();
    format!("{RECIPE} {CODECS} {limits:?} {}", core.config.resize.memory_bytes_max)
}

/// The images of the next part of the feed, where it goes on, and whether it has ended.
async fn page(core: &Core, maker: &mut Option<String>, since: u64) -> Result<(Vec<Content>, u64, bool), StoreError> {
    if let Some(name) = maker.clone() {
        core.catalog.transact(move |transaction| transaction.forget_variants_unless_by(&name)).await?;
        *maker = None;
    }
    let catalog = core.catalog.clone();
    let page = off_runtime(move || catalog.feed(since, ENTRIES_MAX, Select::All)).await?;
    let objects = page.entries.into_iter().filter_map(Entry::into_object);
    let images = objects.filter(is_image).map(|object| object.content).collect();
    Ok((images, page.next, page.end.is_some()))
}

/// Makes the variants of one image, unless they are there. What goes wrong the job has said; the next who asks, or the
/// next start, tries again.
async fn make_all(core: &Core, content: &Content) {
    if let Ok(Some(_)) = known(core, content.hash, Variant::Low).await {
        return;
    }
    let Ok(place) = core.variants.queue.reserve().await else { return };
    let mut outcome = core.variants.job((content.hash, Wanted::All), content.size, place);
    // It ends, too, when the job does without an outcome.
    if outcome.wait_for(Option::is_some).await.is_ok_and(|outcome| matches!(*outcome, Some(None))) {
        // A full disk will be full for the next image, too.
        tokio::time::sleep(REST).await;
    }
}
