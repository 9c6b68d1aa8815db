//! Variants that are asked for often, made once more: smaller, while nobody waits.

use std::sync::Arc;

use tokio::task::spawn_blocking;
use tracing::debug;

use super::super::Core;
use super::{head_of, run};
use crate::cache::{CacheKey, Head, Stored, Terms};
use crate::compress::{Config, Effort, Encoder};

/// At the which time that a variant is given it is made once more. What the traffic costs is saved after about five
/// more; what is given so often is given more often still.
const TIMES: u32 = 20;

/// The largest source of which that is done: a second or so of one core.
const SOURCE_BYTES_MAX: usize = 1 << 20;

/// A `variant` of what is kept as `source`, with this head, is given. Once it was given often it is made anew, one
/// variant at a time.
pub(in crate::edge) fn notice(
    core: &Arc<Core>,
    config: &Config,
    variant: &Stored,
    source: &Stored,
    source_head: &Arc<Head>,
) {
    if !variant.is_given(TIMES) {
        return;
    }
    let known = variant.head();
    let Terms::Coded { effort: Effort::Quick, made: Some(quick), .. } = known.terms else { return };
    let Some(bytes) = source.body.in_memory().filter(|bytes| bytes.len() <= SOURCE_BYTES_MAX).cloned() else { return };
    let Ok(place) = core.coders.thorough.clone().try_acquire_owned() else { return variant.count_anew() };
    let (levels, of, head) = (config.levels(Effort::Thorough), source.representation(), source_head.clone());
    let kept_in = core.clone();
    run::spawn(core, async move {
        let made = spawn_blocking(move || Encoder::whole(quick.coding, levels, &bytes)).await;
        drop(place);
        let Ok(Ok((bytes, made))) = made else {
            return debug!(coding = %quick.coding, "a variant could not be made once more");
        };
        kept_in.metrics.encoded(&made);
        if made.size_bytes >= quick.size_bytes {
            return;
        }
        let lead = kept_in.cache.lead(&CacheKey::Coded { of, coding: quick.coding });
        let head = head_of(&head, quick.coding, Effort::Thorough, Some(&made));
        let Some((mut fill, _)) = lead.begin(head, run::cost(made.source_bytes)) else { return };
        if fill.push(&bytes).is_ok() {
            let _ = fill.finish();
        }
    });
}
