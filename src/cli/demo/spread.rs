//! Watching files spread: uploads to one node while all nodes are asked what they hold, and reading all of it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::task::JoinSet;

use super::compare::{Place, contents_equal};
use super::figures;
use super::publish::{Published, publish};
use super::screen::{Bars, Screen};
use super::site::Item;
use super::web::Web;
use crate::client::Peer;

/// How often the nodes are asked how far they are.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// Nothing may stand still for longer. Generous: a single large file counts only when it is there.
const STANDSTILL_MAX: Duration = Duration::from_secs(300);

/// How files spread.
pub(super) struct Spread {
    /// All that is published now.
    pub(super) published: Published,
    /// When the last upload was answered.
    pub(super) uploaded_after: Duration,
    /// When each node held everything.
    pub(super) reached_after: Vec<Duration>,
}

/// Files and bytes that are done.
#[derive(Debug, Default)]
struct Counter {
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Counter {
    fn add(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn read(&self) -> (u64, u64) {
        (self.files.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// Publishes `items` through `uploader` beside what was published `before`, until all of `peers` hold everything.
///
/// # Errors
/// When an upload fails, or nothing moves any more.
pub(super) async fn spread(
    screen: &Screen,
    uploader: &Peer,
    peers: &[Peer],
    items: &[Item],
    before: &Published,
) -> anyhow::Result<Spread> {
    let begun = Instant::now();
    let total = Total { files: items.len() as u64, bytes: items.iter().map(|item| item.size).sum(), begun };
    let names = peer_names(peers).await?;
    let labels = names.iter().map(|name| (name.clone(), total.files));
    let bars = screen.bars(&std::iter::once(("uploaded".to_owned(), total.files)).chain(labels).collect::<Vec<_>>());
    let (sent, uploaded) = (Counter::default(), AtomicBool::new(false));
    let upload = async {
        let stored = publish(uploader, items, |bytes| sent.add(bytes)).await?;
        uploaded.store(true, Ordering::Relaxed);
        anyhow::Ok((stored, begun.elapsed()))
    };
    let watch = async {
        let mut reached = vec![None; peers.len()];
        let (mut moved_at, mut last) = (Instant::now(), 0);
        while reached.iter().any(Option::is_none) {
            let looked_at = Instant::now();
            bars.set(0, sent.read().0, total.words(sent.read()));
            let mut sum = sent.read().0;
            for (number, peer) in peers.iter().enumerate() {
                let held = peer.status().await?.objects.saturating_sub(before.len() as u64);
                bars.set(number + 1, held, format!("holds {}", figures::count(held)));
                sum += held;
                if held >= total.files && reached[number].is_none() {
                    reached[number] = Some(begun.elapsed());
                }
            }
            if sum != last {
                (moved_at, last) = (Instant::now(), sum);
            }
            // An upload has deadlines of its own.
            if uploaded.load(Ordering::Relaxed) && moved_at.elapsed() > STANDSTILL_MAX {
                bail!("nothing has moved for {}", figures::time(STANDSTILL_MAX));
            }
            // A look counts all that a node holds; looking must stay a small part of the work.
            tokio::time::sleep(LOOK_PERIOD.max(looked_at.elapsed() * 3)).await;
        }
        Ok(reached.into_iter().flatten().collect())
    };
    let ((stored, uploaded_after), reached_after) = tokio::try_join!(upload, watch)?;
    let mut published = before.clone();
    published.extend(stored);
    Ok(Spread { published, uploaded_after, reached_after })
}

async fn peer_names(peers: &[Peer]) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::with_capacity(peers.len());
    for peer in peers {
        names.push(peer.status().await?.node.id.to_string());
    }
    Ok(names)
}

/// What shall be done, and since when.
#[derive(Debug, Clone, Copy)]
struct Total {
    files: u64,
    bytes: u64,
    begun: Instant,
}

impl Total {
    /// How far it is, how fast, and what remains.
    fn words(&self, (files, bytes): (u64, u64)) -> String {
        let spent = self.begun.elapsed();
        let rate = figures::rate(bytes, spent);
        let files_of = format!("{}/{}", figures::count(files), figures::count(self.files));
        if bytes == 0 || files == self.files {
            return files_of;
        }
        let left = spent.mul_f64(self.bytes.saturating_sub(bytes) as f64 / bytes as f64);
        format!("{files_of}  {rate}  {} left", figures::time(left))
    }
}

/// Reads everything from every node and through the proxy; answers how many bytes that is for each.
///
/// # Errors
/// With the first file that is missing or differs somewhere.
pub(super) async fn read_everything(
    screen: &Screen,
    peers: &[Peer],
    web: Web,
    published: &Published,
) -> anyhow::Result<u64> {
    let mut places: Vec<_> = peer_names(peers).await?.into_iter().zip(peers.iter().cloned().map(Place::Node)).collect();
    places.push(("proxy".to_owned(), Place::Proxy(web)));
    let total = Total {
        files: published.len() as u64,
        bytes: published.values().map(|(_, size)| size).sum(),
        begun: Instant::now(),
    };
    let labels: Vec<_> = places.iter().map(|(name, _)| (name.clone(), total.files)).collect();
    let bars = screen.bars(&labels);
    let expected = Arc::new(published.clone());
    let mut counters = Vec::with_capacity(places.len());
    let mut readers = JoinSet::new();
    for (name, place) in places {
        let counter = Arc::new(Counter::default());
        counters.push(counter.clone());
        let expected = expected.clone();
        // A task each, so that all cores hash.
        readers.spawn(async move {
            contents_equal(&place, &expected, |bytes| counter.add(bytes)).await.with_context(|| name)
        });
    }
    let mut ticks = tokio::time::interval(LOOK_PERIOD);
    loop {
        tokio::select! {
            ended = readers.join_next() => match ended {
                Some(ended) => ended??,
                None => return Ok(total.bytes),
            },
            _ = ticks.tick() => show_counters(&bars, &counters, &total),
        }
    }
}

fn show_counters(bars: &Bars<'_>, counters: &[Arc<Counter>], total: &Total) {
    for (number, counter) in counters.iter().enumerate() {
        bars.set(number, counter.read().0, total.words(counter.read()));
    }
}
