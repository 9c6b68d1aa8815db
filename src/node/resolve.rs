//! What a request for a key is answered with: the object, or the variant of an image that was asked for or suits.

use std::sync::Arc;

use axum::extract::Query;
use http::Uri;
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until};

use super::Core;
use super::bytes::off_runtime;
use super::error::ApiError;
use super::links::Client;
use super::min_version::{self, behind};
use super::serving::{Held, VERSION_NAME, version_value};
use super::variants::{Derived, derive};
use crate::model::{Entry, EntryKey, FieldValue, ImageMode, ObjectKey, ObjectMeta, Variant, Version};
use crate::serve::cache_control::for_one_client;
use crate::store::StoreError;

/// Which form of an image a request wants. Other objects have but one.
pub(super) enum Wish {
    /// As it was published.
    AsPublished,
    /// This variant.
    Exactly(Variant),
    /// The variant that suits the client's link.
    Suiting(Client),
}

/// What a request is answered with.
pub(super) struct Found {
    pub(super) bytes: Held,
    pub(super) media_type: FieldValue,
    pub(super) caching: Caching,
    /// The version of the object under the key that was asked for, of which this may be a variant; an uploaded variant
    /// that this node keeps for itself alone has its own.
    pub(super) version: Version,
    /// The version of what the bytes were uploaded as, or made of.
    pub(super) written: Version,
    /// Which variant it is, of an image; `None` also where another one was asked for and this node does not resize.
    pub(super) variant: Option<Variant>,
    /// Whether another client may get another variant.
    pub(super) adaptive: bool,
}

/// What caches are told.
pub(super) enum Caching {
    /// What came with the object.
    AsPublished(FieldValue),
    /// The same, but each client may get another variant.
    OneClient(FieldValue),
    /// Nothing: soon there will be something better.
    NoStore,
}

/// The query of a download.
#[derive(Debug, Deserialize)]
struct VariantQuery {
    variant: Option<String>,
}

/// The variant that the query of `uri` asks for.
pub(super) fn variant_of(uri: &Uri) -> Result<Option<Variant>, ApiError> {
    let Query(VariantQuery { variant }) = Query::try_from_uri(uri)?;
    variant.map(|text| text.parse().map_err(ApiError::bad_request)).transpose()
}

/// Whether `object` calls itself an image, by its media type or its name. Only its bytes know.
pub(super) fn is_image(object: &ObjectMeta) -> bool {
    let types = [object.content.media_type.as_str(), object.key.guessed_media_type()];
    types.iter().any(|media_type| media_type.get(..6).is_some_and(|kind| kind.eq_ignore_ascii_case("image/")))
}

/// Finds what a request for `key` is answered with; where it is older than `min`, or nothing, a moment is waited for what
/// comes.
pub(super) async fn resolve(
    core: &Arc<Core>,
    key: ObjectKey,
    wish: Wish,
    min: Option<&Version>,
) -> Result<Found, ApiError> {
    match look_up_since(core, &key, wish, min).await? {
        Place::Object { object, variant, adaptive } => Ok(found(object, variant, adaptive)),
        Place::Uploaded { image, object, variant, adaptive } => {
            let found = found(object, Some(variant), adaptive);
            // What this node keeps for itself alone changes without its image, and caches know it by that sequence.
            let version = if found.version.sequence == 0 { found.version.clone() } else { image.version };
            Ok(Found { version, ..found })
        }
        Place::Derivable { image, variant, adaptive } => {
            let derived = derive(core, &image.content, variant).await;
            Ok(found_derived(image, derived, variant, adaptive))
        }
        Place::Nothing(deleted) => {
            let error = ApiError::not_found(format!("object {key}"));
            // The version of the deletion tells an edge that this node has not merely missed the object.
            Err(match deleted {
                Some(version) => error.with_header(VERSION_NAME, version_value(&version)),
                None => error,
            })
        }
    }
}

/// What the catalogue says of a request.
enum Place {
    Object {
        object: ObjectMeta,
        variant: Option<Variant>,
        adaptive: bool,
    },
    /// Someone uploaded the variant of the image under the name that it has.
    Uploaded {
        image: ObjectMeta,
        object: ObjectMeta,
        variant: Variant,
        adaptive: bool,
    },
    Derivable {
        image: ObjectMeta,
        variant: Variant,
        adaptive: bool,
    },
    /// Nothing, since this version.
    Nothing(Option<Version>),
}

impl Place {
    /// The version with which a request is answered.
    const fn version(&self) -> Option<&Version> {
        match self {
            Self::Object { object, .. } => Some(&object.version),
            Self::Uploaded { object, .. } if object.version.sequence == 0 => Some(&object.version),
            Self::Uploaded { image, .. } | Self::Derivable { image, .. } => Some(&image.version),
            Self::Nothing(version) => version.as_ref(),
        }
    }
}

/// Looks the key up, again and again until it is not older than `min` or the wait was in vain.
async fn look_up_since(
    core: &Arc<Core>,
    key: &ObjectKey,
    wish: Wish,
    min: Option<&Version>,
) -> Result<Place, ApiError> {
    let wish = Arc::new(wish);
    let patience = Instant::now() + min_version::WAIT;
    let mut progress = core.catalog.progress();
    loop {
        progress.mark_unchanged();
        let (looking, name, wish, asked) = (core.clone(), key.clone(), wish.clone(), min.cloned());
        let place = off_runtime(move || {
            // Before it is looked: what comes meanwhile must not seem to be forgotten.
            let passed = match asked {
                Some(min) if looking.catalog.vector()?.has_passed(&min) => Some(min),
                Some(_) | None => None,
            };
            look_up(&looking, &name, &wish, passed)
        });
        let place = place.await?;
        let Some(min) = min.filter(|min| place.version().is_none_or(|version| version < min)) else { return Ok(place) };
        let behind = || behind(&format!("object {key}"), place.version(), min);
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return Err(behind()),
            () = sleep_until(patience) => return Err(behind()),
            changed = progress.changed() => changed.map_err(|_| behind())?,
        }
        sleep(min_version::LOOK_PERIOD).await;
    }
}

/// Looks the key up, and those that it or the wish refer to; of the key this node has passed the write `passed`. Blocks on
/// the disk.
fn look_up(core: &Core, key: &ObjectKey, wish: &Wish, passed: Option<Version>) -> Result<Place, StoreError> {
    let find = |key: ObjectKey| core.catalog.find(&EntryKey::Object(key));
    let live = |key: ObjectKey| find(key).map(|entry| entry.and_then(Entry::into_object));
    let resizes = core.config.images != ImageMode::Off;
    let entry = find(key.clone())?;
    note_if_wanted(core, key)?;
    // A key without an entry whose write was passed was deleted since, and that is forgotten by now.
    let deleted = entry.as_ref().map(|entry| entry.version.clone()).or(passed);
    let Some(object) = entry.and_then(Entry::into_object) else {
        let Some((image, variant)) = Variant::named_by(key) else { return Ok(Place::Nothing(deleted)) };
        return Ok(match live(image)?.filter(is_image) {
            // A node that resizes has it: it is not for this one to say that there is nothing any more.
            Some(_) if !resizes => Place::Nothing(None),
            // Since an upload of that name was deleted it means the image: no cache shall take it for older than that.
            Some(image) => {
                let version = deleted.map_or(image.version.clone(), |deleted| deleted.max(image.version));
                Place::Derivable { image: ObjectMeta { version, ..image }, variant, adaptive: false }
            }
            None => Place::Nothing(deleted),
        });
    };
    if !is_image(&object) {
        let variant = matches!(wish, Wish::Exactly(_)).then_some(Variant::Original);
        return Ok(Place::Object { object, variant, adaptive: false });
    }
    let (variant, adaptive) = match wish {
        Wish::AsPublished => (Variant::Original, false),
        Wish::Exactly(variant) => (*variant, false),
        // Who names a variant has chosen.
        Wish::Suiting(client) if resizes && Variant::named_by(key).is_none() => (client.suiting(core), true),
        Wish::Suiting(_) => (Variant::Original, false),
    };
    if variant == Variant::Original || !resizes {
        // Whether there is a smaller one, this node does not know.
        let variant = (variant == Variant::Original).then_some(variant);
        return Ok(Place::Object { object, variant, adaptive });
    }
    let uploaded = variant.key_of(key).map(live).transpose()?.flatten();
    Ok(match uploaded {
        Some(uploaded) => Place::Uploaded { image: object, object: uploaded, variant, adaptive },
        None => Place::Derivable { image: object, variant, adaptive },
    })
}

/// Lets newer bytes of `key` come first, if they are still to be fetched.
fn note_if_wanted(core: &Core, key: &ObjectKey) -> Result<(), StoreError> {
    if core.catalog.progress().borrow().wants == 0 {
        return Ok(());
    }
    let key = EntryKey::Object(key.clone());
    if !core.catalog.wants_of(&key)?.is_empty() {
        core.fetching.hot.ask(&key);
    }
    Ok(())
}

fn found(object: ObjectMeta, variant: Option<Variant>, adaptive: bool) -> Found {
    let ObjectMeta { content, version, .. } = object;
    let caching = if adaptive { Caching::OneClient } else { Caching::AsPublished };
    Found {
        bytes: Held::blob(content.hash, content.size),
        media_type: content.media_type,
        caching: caching(content.cache_control),
        written: version.clone(),
        version,
        variant,
        adaptive,
    }
}

fn found_derived(image: ObjectMeta, derived: Option<Derived>, variant: Variant, adaptive: bool) -> Found {
    let whole = found(image, Some(Variant::Original), adaptive);
    match derived {
        Some(Derived::AsIs) => whole,
        None => Found { caching: Caching::NoStore, ..whole },
        Some(Derived::Blob(blob)) => Found {
            bytes: Held::blob(blob.hash, blob.size),
            media_type: blob.media_type,
            variant: Some(variant),
            ..whole
        },
        Some(Derived::Memory(made)) => Found {
            bytes: Held::memory(made.hash, made.bytes),
            media_type: made.media_type,
            variant: Some(variant),
            ..whole
        },
    }
}

impl Caching {
    /// The `Cache-Control` of the answer.
    pub(super) fn control(&self) -> String {
        match self {
            Self::AsPublished(told) => told.as_str().to_owned(),
            Self::OneClient(told) => for_one_client(told.as_str()),
            Self::NoStore => "no-store".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_a_variant_or_is_refused() {
        let read = |text: &str| variant_of(&text.parse().expect("a target")).ok();
        assert_eq!(read("/a"), Some(None));
        assert_eq!(read("/a?other=1&variant=low"), Some(Some(Variant::Low)));
        assert_eq!(read("/a?variant=lo%77"), Some(Some(Variant::Low)));
        for bad in ["/a?variant=", "/a?variant=tiny", "/a?variant=low&variant=low"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
