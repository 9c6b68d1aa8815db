//! Answers in the form that their requests get.

use std::ops::Range;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, ETAG};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::super::body::Inner;
use super::super::slices::Walk;
use super::super::{Core, memory};
use super::run::{self, Sink};
use super::{Given, Recoded, Request, current, head_of, nature, nature_of, notice, without_range_by_date};
use crate::cache::{CacheKey, Head, Lookup, Reader, Sliced, Stored, Told};
use crate::compress::{Answer, Coding, Codings, Effort, Encoder, Nature, Plan, head};

/// How often a request looks again for a variant that another one was to make.
const LOOKS_MAX: usize = 3;

/// Where the bytes of a representation come from.
enum Source<'s, W> {
    /// It is kept; what of it is in slices comes as this tells.
    Kept(&'s Arc<Stored>, W),
    /// It comes.
    Along(Reader),
}

/// A variant, from wherever it comes.
enum Variant {
    Kept(Arc<Stored>),
    /// It is made at this moment.
    Comes(Inner),
}

/// The answer to `request` with what is `stored` with this `head`; what of it is in slices is given by `walk`.
pub(in crate::edge) async fn kept<W>(
    core: &Arc<Core>,
    request: Request<'_>,
    stored: &Arc<Stored>,
    head: &Arc<Head>,
    walk: W,
) -> Response<Inner>
where
    W: FnMut(&Arc<Sliced>, Range<u64>) -> Walk + Send,
{
    let nature = nature(request.config, stored);
    answer(core, request, head, nature, Source::Kept(stored, walk)).await
}

/// The answer to `request` with what comes with this `head`.
pub(in crate::edge) async fn along(
    core: &Arc<Core>,
    request: Request<'_>,
    head: &Arc<Head>,
    reader: Reader,
) -> Response<Inner> {
    let nature = nature_of(request.config, head, head.size);
    answer(core, request, head, nature, Source::<fn(&Arc<Sliced>, Range<u64>) -> Walk>::Along(reader)).await
}

/// The answer to `request` with what was fetched for it alone. What is not for all (`is_shared`) is personal.
pub(in crate::edge) fn passed(
    core: &Arc<Core>,
    request: Request<'_>,
    is_shared: bool,
    mut response: Response<Inner>,
) -> Response<Inner> {
    let (status, headers) = (response.status(), response.headers());
    if status == StatusCode::NOT_MODIFIED {
        // Whoever has the source was asked for it by the source's tag.
        let known = request.revalidates(headers.get(ETAG), Nature::Plain);
        if let Some(known) = known.filter(|known| headers.get(ETAG) != Some(known)) {
            response.headers_mut().insert(ETAG, known);
            head::vary(response.headers_mut());
        }
        return response;
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let nature = request.config.nature(&Answer { status, headers, size_bytes: length, is_shared });
    if !nature.varies() {
        return response;
    }
    match nature.plan(&request.wish, request.config.made(), Codings::NONE) {
        Plan::AsIs | Plan::Kept(_) => {}
        Plan::Encode(coding) => response = encoded(core, request, coding, length, response),
        Plan::Decode(coding) => {
            head::decoded(response.headers_mut());
            let max = request.config.decoded_bytes_max;
            if request.method != Method::HEAD {
                response = response.map(|body| run::decoded(core, body, coding, max));
            }
        }
    }
    head::vary(response.headers_mut());
    response
}

/// `response` in this coding, for one client alone, if there is a place for that.
fn encoded(
    core: &Arc<Core>,
    request: Request<'_>,
    coding: Coding,
    size_bytes: Option<u64>,
    mut response: Response<Inner>,
) -> Response<Inner> {
    if request.method == Method::HEAD {
        head::coded(response.headers_mut(), coding, None);
        return response;
    }
    let encoder = Encoder::new(coding, request.config.levels(Effort::Quick), size_bytes);
    let (Some(place), Ok(encoder)) = (core.coders.place(), encoder) else { return response };
    head::coded(response.headers_mut(), coding, None);
    response.map(|source| {
        let (pieces, body) = Recoded::new();
        run::encode(core, place, source, encoder, Sink::Client(pieces));
        Inner::Recoded(body)
    })
}

async fn answer<W>(
    core: &Arc<Core>,
    request: Request<'_>,
    head: &Arc<Head>,
    nature: Nature,
    source: Source<'_, W>,
) -> Response<Inner>
where
    W: FnMut(&Arc<Sliced>, Range<u64>) -> Walk + Send,
{
    if !nature.varies() {
        return source.unchanged(head, request.method, request.headers);
    }
    let (method, headers) = (request.method, &*without_range_by_date(request.headers));
    let mut response = match request.given(&core.cache, head, nature, source.number()) {
        Given::AsIs => source.unchanged(&request.tagged(head.clone(), head, nature), method, headers),
        Given::Kept(variant) => {
            if let Source::Kept(stored, _) = &source {
                notice(core, request.config, &variant, stored, head);
            }
            of_variant(request, &variant, head, headers)
        }
        Given::Encode(coding) => {
            let coded = Arc::new(head_of(head, coding, Effort::Quick, None));
            let shown = request.tagged(coded.clone(), head, nature);
            if !memory::wants_bytes(&shown, method, headers) {
                memory::streamed(&shown, method, headers, Inner::nothing)
            } else {
                match make(core, request, coding, head, &coded, source).await {
                    Ok(Variant::Kept(variant)) => of_variant(request, &variant, head, headers),
                    Ok(Variant::Comes(body)) => memory::streamed(&shown, method, headers, || body),
                    Err(source) => source.unchanged(&request.tagged(head.clone(), head, nature), method, headers),
                }
            }
        }
        Given::Decode(coding) => {
            let mut decoded = Head { size: None, ..(**head).clone() };
            head::decoded(&mut decoded.headers);
            let decoded = request.tagged(Arc::new(decoded), head, nature);
            let max = request.config.decoded_bytes_max;
            memory::streamed(&decoded, method, headers, || run::decoded(core, source.whole(), coding, max))
        }
    };
    head::vary(response.headers_mut());
    response
}

/// The answer with a variant that is kept of what has the head `source`.
fn of_variant(request: Request<'_>, variant: &Stored, source: &Arc<Head>, headers: &HeaderMap) -> Response<Inner> {
    let head = request.tagged(current(variant, source), source, Nature::Plain);
    memory::answer(variant, &head, request.method, headers, |_, _| unreachable!("a variant is not sliced"))
}

/// The variant in this `coding`, which is made if nobody does so already; the source back if there is no place for that.
async fn make<'s, W>(
    core: &Arc<Core>,
    request: Request<'_>,
    coding: Coding,
    head: &Arc<Head>,
    coded: &Arc<Head>,
    source: Source<'s, W>,
) -> Result<Variant, Source<'s, W>>
where
    W: FnMut(&Arc<Sliced>, Range<u64>) -> Walk + Send,
{
    let key = CacheKey::Coded { of: source.number(), coding };
    let encoder = |size| Encoder::new(coding, request.config.levels(Effort::Quick), size);
    for _ in 0..LOOKS_MAX {
        let lead = match core.cache.join(&key, |_| true) {
            Lookup::Found(variant) => return Ok(Variant::Kept(variant)),
            Lookup::Flying(mut reader) => match reader.head().await {
                Told::Comes(_) => return Ok(Variant::Comes(Inner::Shared(reader))),
                Told::Alone => None,
                Told::Part | Told::Again => continue,
            },
            Lookup::Lead(lead) => Some(lead),
        };
        let size = source.size(head);
        let (Some(place), Ok(encoder)) = (core.coders.place(), encoder(size)) else { return Err(source) };
        let led = lead.and_then(|lead| lead.begin((**coded).clone(), run::cost(size.unwrap_or_default())));
        let (sink, body) = match led {
            Some((fill, reader)) => (Sink::Cache(fill, head.clone()), Inner::Shared(reader)),
            // There is no room to keep it.
            None => {
                let (pieces, body) = Recoded::new();
                (Sink::Client(pieces), Inner::Recoded(body))
            }
        };
        run::encode(core, place, source.whole(), encoder, sink);
        return Ok(Variant::Comes(body));
    }
    Err(source)
}

impl<W> Source<'_, W>
where
    W: FnMut(&Arc<Sliced>, Range<u64>) -> Walk,
{
    /// The number of the representation.
    fn number(&self) -> u64 {
        match self {
            Self::Kept(stored, _) => stored.representation(),
            Self::Along(reader) => reader.representation(),
        }
    }

    /// How many bytes it has, if that is known.
    fn size(&self, head: &Head) -> Option<u64> {
        match self {
            Self::Kept(stored, _) => Some(stored.body.size()),
            Self::Along(_) => head.size,
        }
    }

    /// All of its bytes.
    fn whole(self) -> Inner {
        match self {
            Self::Kept(stored, mut walk) => memory::part_of(stored, 0..stored.body.size(), &mut walk),
            Self::Along(reader) => Inner::Shared(reader),
        }
    }

    fn unchanged(self, head: &Head, method: &Method, headers: &HeaderMap) -> Response<Inner> {
        match self {
            Self::Kept(stored, walk) => memory::answer(stored, head, method, headers, walk),
            Self::Along(reader) => memory::along(reader, head, method, headers),
        }
    }
}

/// Whether the answer of a node with these headers is for all: it is to be kept by no cache, or by none that is shared, if
/// it says so.
pub(in crate::edge) fn is_for_all(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(http::header::CACHE_CONTROL).iter().filter_map(|line: &HeaderValue| line.to_str().ok());
    let mut directives = lines.flat_map(|line| line.split(','));
    !directives.any(|directive| {
        let name = directive.split('=').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("private")
    })
}
