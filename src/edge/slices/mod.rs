//! What is kept in slices on its way to a client: each slice from wherever it is, and those that are nowhere from whoever
//! has the rest of it.
//!
//! A [`Walk`] goes from slice to slice. One that is kept is read; one that somebody fetches is read along; one that nobody
//! has is asked for by the walk itself, by one request for all that follows: a [`Run`]. It looks one slice ahead, so that the
//! next is on its way while one is read. Where there is no room for slices the rest passes for this client alone.

mod file;
mod run;
mod source;
mod widen;

use std::fs::File;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Version;

use super::Core;
use super::body::{Inner, ProxyBodyError};
use crate::cache::{Begun, Bringer, Reader, Run, Sliced, Sought, Told, slice_at};
use file::FileReader;

pub(super) use source::{Answer, Fetched, FetchedError, Known, Object, Source, range_value};
pub(super) use widen::{Widened, covers, part_of, widened};

/// How often the rest is looked for anew where a fetch broke off, or brought nothing.
const FAILURES_MAX: u32 = 3;

/// The most that is passed on, and read of a file, at a time.
const FRAME_BYTES_MAX: usize = 512 << 10;

/// The same of a file for one of many streams of a connection: what was read waits for the room that all of them share, and a
/// client that takes next to nothing makes each of them read.
const STREAM_READ_BYTES_MAX: usize = 64 << 10;

/// A part of a representation in slices, on its way.
pub(in crate::edge) struct Walk {
    core: Arc<Core>,
    sliced: Arc<Sliced>,
    source: Arc<dyn Source>,
    /// What is to come.
    left: Range<u64>,
    /// The slice that is read.
    now: Option<Piece>,
    /// The next one, if it was looked for already.
    ahead: Option<Piece>,
    /// The request by which the last slice that this led has come, and others may.
    run: Option<Arc<Run>>,
    /// The rest, for this client alone.
    alone: Option<Alone>,
    failures: u32,
    /// The most that is read of a file at a time.
    read_bytes_max: usize,
}

/// A slice from where it comes.
struct Piece {
    slice: u32,
    bytes: Coming,
}

enum Coming {
    Kept(Bytes),
    Along(Reader),
    /// It is on the disk.
    Opening(Pin<Box<dyn Future<Output = Option<Arc<File>>> + Send>>),
    File(FileReader),
}

/// The rest passes.
enum Alone {
    Asked(source::Fetching),
    Comes(Box<Inner>),
}

/// A slice could not be had.
#[derive(Debug, thiserror::Error)]
pub(in crate::edge) enum SlicesError {
    /// Nobody gives the rest of the same representation.
    #[error("nobody gives the rest of what was begun")]
    Unavailable(#[source] Option<FetchedError>),
}

impl Walk {
    /// The bytes `part` of what is kept as `sliced`, whose missing slices come from `source`.
    pub(in crate::edge) fn new(
        core: &Arc<Core>,
        sliced: &Arc<Sliced>,
        source: Arc<dyn Source>,
        part: Range<u64>,
    ) -> Self {
        let (core, sliced) = (core.clone(), sliced.clone());
        Self {
            core,
            sliced,
            source,
            left: part,
            now: None,
            ahead: None,
            run: None,
            alone: None,
            failures: 0,
            read_bytes_max: FRAME_BYTES_MAX,
        }
    }

    /// It is sent by this version of HTTP.
    pub(in crate::edge) fn sent_by(&mut self, version: Version) {
        self.read_bytes_max = if version >= Version::HTTP_2 { STREAM_READ_BYTES_MAX } else { FRAME_BYTES_MAX };
    }

    /// The same, where what `fetched` brings is what was `begun` with.
    pub(in crate::edge) fn with(mut self, begun: Begun, fetched: Fetched) -> Self {
        let Begun { first, run, bringer } = begun;
        if !self.left.is_empty() && slice_at(self.left.start) == first {
            run::spawn(&self.core, &self.sliced, &self.source, bringer, std::future::ready(Ok(fetched)));
            self.run = Some(run);
            // At once: it ends when nobody asks for anything.
            self.now = Some(self.seek(first));
        }
        self
    }

    /// How many bytes are to come.
    pub(in crate::edge) const fn left(&self) -> u64 {
        self.left.end.saturating_sub(self.left.start)
    }

    /// The next bytes, `None` after the last.
    pub(in crate::edge) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ProxyBodyError>>> {
        while !self.left.is_empty() {
            if self.alone.is_some() {
                return self.poll_alone(cx);
            }
            let slice = slice_at(self.left.start);
            let is_it = |piece: &Piece| piece.slice == slice;
            let known = self.now.take().filter(is_it).or_else(|| self.ahead.take_if(|ahead| is_it(ahead)));
            let mut piece = known.unwrap_or_else(|| self.seek(slice));
            self.look_ahead(slice);
            let next = match &mut piece.bytes {
                Coming::Kept(bytes) => Next::Bytes(self.take_of(bytes, slice)),
                Coming::Along(reader) => match poll_along(reader, cx) {
                    Poll::Ready(next) => next,
                    Poll::Pending => return self.wait_for(piece),
                },
                Coming::Opening(opening) => match opening.as_mut().poll(cx) {
                    Poll::Ready(file) => {
                        // What the disk has lost somebody else has.
                        let file = file.map(|file| Coming::File(FileReader::new(file, self.within(slice))));
                        let bytes = file.unwrap_or_else(|| self.seek_elsewhere(slice));
                        self.now = Some(Piece { slice, bytes });
                        continue;
                    }
                    Poll::Pending => return self.wait_for(piece),
                },
                Coming::File(reader) => match reader.poll_bytes(cx, self.read_bytes_max) {
                    Poll::Ready(Some(bytes)) => Next::Bytes(bytes),
                    Poll::Ready(None) => {
                        self.now = Some(self.seek_again(slice));
                        continue;
                    }
                    Poll::Pending => return self.wait_for(piece),
                },
            };
            match next {
                Next::Bytes(bytes) => {
                    self.failures = 0;
                    self.left.start += bytes.len() as u64;
                    self.now = Some(piece);
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Next::Pass => self.alone = Some(Alone::Asked(self.source.fetch(&self.core, self.left.clone()))),
                Next::Look => {
                    self.failures += 1;
                    if self.failures > FAILURES_MAX {
                        return Poll::Ready(Some(Err(SlicesError::Unavailable(None).into())));
                    }
                }
            }
        }
        Poll::Ready(None)
    }

    fn wait_for(&mut self, piece: Piece) -> Poll<Option<Result<Bytes, ProxyBodyError>>> {
        self.now = Some(piece);
        Poll::Pending
    }

    /// The next of the bytes of the slice `slice`, which are `bytes`.
    fn take_of(&self, bytes: &Bytes, slice: u32) -> Bytes {
        let within = self.within(slice);
        let end = (within.start as usize + FRAME_BYTES_MAX).min(within.end as usize).min(bytes.len());
        bytes.slice((within.start as usize).min(end)..end)
    }

    /// What is to come of the slice `slice`, counted from its start.
    fn within(&self, slice: u32) -> Range<u64> {
        let bytes = self.sliced.bytes_of(slice);
        let start = self.left.start.max(bytes.start);
        let end = self.left.end.min(bytes.end).max(start);
        start - bytes.start..end - bytes.start
    }

    /// Looks for the slice behind `slice`, unless that is the last one.
    fn look_ahead(&mut self, slice: u32) {
        let next = slice + 1;
        if self.ahead.is_none() && self.sliced.bytes_of(next).start < self.left.end {
            self.ahead = Some(self.seek(next));
        }
    }

    /// The slice `slice` from wherever it comes.
    fn seek(&mut self, slice: u32) -> Piece {
        let kept = self.sliced.on_disk().filter(|kept| kept.has(slice)).cloned();
        let bytes = match kept {
            None => self.seek_elsewhere(slice),
            Some(kept) => match kept.opened(slice) {
                Some(file) => Coming::File(FileReader::new(file, self.within(slice))),
                None => Coming::Opening(Box::pin(async move { kept.open(slice).await })),
            },
        };
        Piece { slice, bytes }
    }

    /// The slice `slice`, whose file could not be read: it is looked at before anybody gets it again, and goes if it is wrong.
    fn seek_again(&mut self, slice: u32) -> Piece {
        if let Some(kept) = self.sliced.on_disk() {
            kept.doubt(slice);
        }
        self.failures += 1;
        match self.failures {
            ..=FAILURES_MAX => self.seek(slice),
            // It reads when it is looked at, and not when it is given.
            _ => Piece { slice, bytes: self.seek_elsewhere(slice) },
        }
    }

    /// The slice `slice`, which is not on the disk.
    fn seek_elsewhere(&mut self, slice: u32) -> Coming {
        let within = self.within(slice);
        let mut reader = match self.sliced.seek(&self.core.cache, slice) {
            Sought::Kept(bytes) => return Coming::Kept(bytes),
            Sought::Along(reader) => reader,
            Sought::Asked(reader, run) => {
                self.run = Some(run);
                reader
            }
            Sought::Begun(reader, run, bringer) => {
                self.begin(slice, bringer);
                self.run = Some(run);
                reader
            }
        };
        reader.restrict(within);
        Coming::Along(reader)
    }

    /// Begins a request for what is missing from the slice `slice` on.
    fn begin(&self, slice: u32, bringer: Bringer) {
        let start = self.sliced.bytes_of(slice).start;
        let end = self.sliced.bytes_of(slice_at(self.left.end.saturating_sub(1).max(start))).end;
        let fetching = self.source.fetch(&self.core, start..end);
        run::spawn(&self.core, &self.sliced, &self.source, bringer, fetching);
    }

    fn poll_alone(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ProxyBodyError>>> {
        loop {
            match &mut self.alone {
                Some(Alone::Asked(fetching)) => match ready!(fetching.as_mut().poll(cx)) {
                    Ok(Fetched { body, .. }) => self.alone = Some(Alone::Comes(Box::new(body))),
                    Err(error) => return Poll::Ready(Some(Err(SlicesError::Unavailable(Some(error)).into()))),
                },
                Some(Alone::Comes(body)) => {
                    return match ready!(body.poll_bytes(cx)) {
                        Some(Ok(mut bytes)) => {
                            bytes.truncate(usize::try_from(self.left()).unwrap_or(usize::MAX));
                            self.left.start += bytes.len() as u64;
                            Poll::Ready(Some(Ok(bytes)))
                        }
                        Some(Err(error)) => Poll::Ready(Some(Err(error))),
                        None => Poll::Ready(Some(Err(SlicesError::Unavailable(None).into()))),
                    };
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

/// What a slice that somebody fetches brings.
enum Next {
    Bytes(Bytes),
    /// It broke off, or another one has to lead: it is to be looked for again.
    Look,
    /// There is no room for it.
    Pass,
}

fn poll_along(reader: &mut Reader, cx: &Context<'_>) -> Poll<Next> {
    Poll::Ready(match ready!(reader.poll_head(cx)) {
        Told::Alone => Next::Pass,
        Told::Part | Told::Again => Next::Look,
        Told::Comes(_) => match ready!(reader.poll_bytes(cx)) {
            Some(Ok(bytes)) => Next::Bytes(bytes),
            Some(Err(_)) | None => Next::Look,
        },
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use tokio::sync::oneshot;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::cache::{Body, CacheKey, Head, SLICE_BYTES, Terms};
    use crate::edge::Config;
    use crate::model::NodeId;

    /// A source that has nothing.
    struct Nobody;

    impl Source for Nobody {
        fn fetch(&self, _: &Arc<Core>, _: Range<u64>) -> source::Fetching {
            Box::pin(std::future::ready(Err(FetchedError::Unanswered)))
        }

        fn broke_off(&self, _: &NodeId) {}
    }

    /// One slice, which is on the disk of the edge.
    async fn on_disk(core: &Arc<Core>) -> Arc<Sliced> {
        let key = CacheKey::Answer { site: "site".into(), uri: "/".into() };
        let (status, headers, size) = (StatusCode::OK, HeaderMap::new(), Some(SLICE_BYTES));
        let head = Head { status, headers, size, terms: Terms::Slice };
        let kept = loop {
            let (stored, _) = core.cache.lead(&key).slice(head.clone(), 1.0, 0).expect("there is room");
            match &stored.body {
                Body::Sliced(sliced) if sliced.on_disk().is_some() => break sliced.clone(),
                // The disk is not looked through yet.
                _ => tokio::task::yield_now().await,
            }
        };
        let (tell, told) = oneshot::channel();
        let put = |written| tell.send(written).expect("it is waited for");
        kept.on_disk().expect("it is there").put(0, vec![b'x'; SLICE_BYTES as usize].into(), put);
        assert!(told.await.expect("it ends"), "it is written");
        kept
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn streams_beside_others_read_little_of_a_file_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = Config::default();
        config.cache.disk.folder = Some(folder.path().to_owned());
        let core = Core::new(config, None, ([127, 0, 0, 1], 1).into(), None, CancellationToken::new());
        let core = Arc::new(core.expect("an edge"));
        let sliced = on_disk(&core).await;
        for (version, bytes_max) in
            [(Version::HTTP_11, 512 << 10), (Version::HTTP_2, 64 << 10), (Version::HTTP_3, 64 << 10)]
        {
            let mut body = Inner::Sliced(Box::new(Walk::new(&core, &sliced, Arc::new(Nobody), 0..SLICE_BYTES)));
            body.sent_by(version);
            let mut read = Vec::new();
            while let Some(bytes) = std::future::poll_fn(|cx| body.poll_bytes(cx)).await {
                read.push(bytes.expect("it can be read").len());
            }
            assert_eq!(read, vec![bytes_max; SLICE_BYTES as usize / bytes_max], "{version:?}");
        }
        core.cache.close().await;
    }
}
