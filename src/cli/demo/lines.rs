//! One photograph, asked for by three clients at a time, each over a link of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::cluster::LINES;
use super::compare::hash_of;
use super::figures;
use super::screen::{Screen, Tone};
use super::web::target_of;
use crate::client::{Peer, empty};
use crate::model::{ContentHash, ObjectKey, Variant};
use crate::protocol::{VARIANT_HEADER, VARIANT_QUERY, encode_path, object_path};

/// What the links of [`LINES`] are to get.
const EXPECTED: [Variant; 3] = [Variant::Original, Variant::Medium, Variant::Low];

/// How often it is tried: on a busy machine a fast link is a slow one for a moment, and the proxy right about it.
const ROUNDS_MAX: usize = 3;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The photograph, and what of it each link got.
#[derive(Debug, Serialize)]
pub(super) struct Photograph {
    pub(super) key: ObjectKey,
    /// In the order of [`LINES`].
    pub(super) deliveries: Vec<Delivery>,
}

/// The photograph as one link got it.
#[derive(Debug, Serialize)]
pub(super) struct Delivery {
    pub(super) client: &'static str,
    pub(super) bytes_per_second: u64,
    /// What the proxy chose.
    pub(super) variant: Variant,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    /// The original, which it asked for by name before: by that the proxy knows its link.
    pub(super) original_bytes: u64,
    pub(super) original_seconds: f64,
}

/// The smaller variants of a photograph, by their hashes.
pub(super) type Made = BTreeMap<Variant, ContentHash>;

/// Asks every node for the smaller variants of `key` by name, so that they are made; `None` while one has not made them
/// and gives the original for them. The words say how large they are.
///
/// # Errors
/// When a node does not answer, or they do not all make the same bytes.
pub(super) async fn make(peers: &[Peer], key: &ObjectKey) -> anyhow::Result<Option<(String, Made)>> {
    let (mut made, mut words) = (Made::new(), Vec::new());
    for variant in Variant::MADE {
        let answers = try_join_all(peers.iter().map(|peer| variant_at(peer, key, variant))).await?;
        let Some(answers) = answers.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
        let (hash, bytes) = *answers.first().context("there is a node")?;
        ensure!(answers.iter().all(|answer| *answer == (hash, bytes)), "nodes make different bytes of {variant}");
        made.insert(variant, hash);
        words.push(format!("{variant} {}", figures::bytes(bytes)));
    }
    Ok(Some((words.join(", "), made)))
}

/// What a node gives for a variant, if that is what it gives.
async fn variant_at(peer: &Peer, key: &ObjectKey, variant: Variant) -> anyhow::Result<Option<(ContentHash, u64)>> {
    let target = format!("{}?{VARIANT_QUERY}={variant}", object_path(key));
    let answer = peer.ask(peer.request(Method::GET, &target, empty())?).await?;
    let given = answer.headers().get(VARIANT_HEADER).is_some_and(|given| given == variant.as_str());
    let found = hash_of(peer.reader(answer.into_body())).await?;
    Ok(given.then_some(found))
}

/// Lets the clients of all lines, which are reached at `addresses`, ask for the photograph `key` of `hash`.
///
/// # Errors
/// When an answer fails, or a link gets what does not suit it.
pub(super) async fn deliver(
    addresses: &[SocketAddr],
    key: &ObjectKey,
    hash: ContentHash,
    made: &Made,
) -> anyhow::Result<Photograph> {
    let mut round = 1;
    let answers = loop {
        let clients = LINES.iter().zip(addresses).map(|(line, address)| async move {
            let asked = ask_twice(*address, key, hash).await;
            asked.with_context(|| format!("the client in the {}", line.name))
        });
        let answers = try_join_all(clients).await?;
        if round == ROUNDS_MAX || answers.iter().map(|(_, chosen)| chosen.variant).eq(EXPECTED) {
            break answers;
        }
        round += 1;
    };
    let mut deliveries = Vec::with_capacity(LINES.len());
    for (((original, chosen), line), expected) in answers.into_iter().zip(&LINES).zip(EXPECTED) {
        let variant = chosen.variant;
        ensure!(variant == expected, "the {} got the variant {variant}, not {expected}", line.name);
        let same = chosen.hash == made.get(&variant).copied().unwrap_or(hash);
        ensure!(same, "the {} got other bytes of {variant} than nodes give who asks by name", line.name);
        deliveries.push(Delivery {
            client: line.name,
            bytes_per_second: line.bytes_per_second,
            variant,
            bytes: chosen.bytes,
            seconds: chosen.took.as_secs_f64(),
            original_bytes: original.bytes,
            original_seconds: original.took.as_secs_f64(),
        });
    }
    Ok(Photograph { key: key.clone(), deliveries })
}

impl Photograph {
    /// Shows the table.
    pub(super) fn show(&self, screen: &Screen) {
        let head = format!("    {:<9}{:>11}   {:<22}{}", "client", "its link", "the original", "what the proxy chose");
        screen.line(&screen.toned(Tone::Faint, &head));
        for delivery in &self.deliveries {
            let Delivery { client, variant, .. } = delivery;
            let link = format!("{}/s", figures::bytes(delivery.bytes_per_second));
            let time = |seconds| figures::time(Duration::from_secs_f64(seconds));
            let (bytes, took) = (figures::bytes(delivery.bytes), time(delivery.seconds));
            let (original, slow) = (figures::bytes(delivery.original_bytes), time(delivery.original_seconds));
            let (before, after) = (format!("{original:<8}{slow:>7}"), format!("{variant:<10}{bytes:>8}{took:>9}"));
            screen.line(&format!("    {client:<9}{link:>11}   {before}       {after}"));
        }
    }

    /// What the slowest link gained, in a line.
    pub(super) fn summary(&self) -> String {
        let gain = self.deliveries.last().map_or(1.0, |last| last.original_seconds / last.seconds.max(1e-6));
        format!("each has the variant that suits its link; the cabin waits {gain:.0}x less")
    }
}

/// What a client got.
#[derive(Debug)]
struct Answer {
    variant: Variant,
    hash: ContentHash,
    bytes: u64,
    took: Duration,
}

/// Asks for the original first and then for whatever suits, over one connection.
async fn ask_twice(proxy: SocketAddr, key: &ObjectKey, hash: ContentHash) -> anyhow::Result<(Answer, Answer)> {
    let (mut sender, connection) = handshake(TokioIo::new(TcpStream::connect(proxy).await?)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let original = ask(&mut sender, proxy, &target_of(key, Variant::Original)).await?;
    ensure!(original.hash == hash, "the original has the hash {}, not {hash}", original.hash);
    sender.ready().await?;
    let chosen = ask(&mut sender, proxy, &format!("/{}", encode_path(key.as_str()))).await?;
    Ok((original, chosen))
}

async fn ask(sender: &mut SendRequest<Empty<Bytes>>, proxy: SocketAddr, target: &str) -> anyhow::Result<Answer> {
    let begun = Instant::now();
    let request = Request::get(target).header(header::HOST, proxy.to_string()).body(Empty::new())?;
    let answer = timeout(PATIENCE, sender.send_request(request)).await.context("no answer begins")??;
    ensure!(answer.status() == StatusCode::OK, "{target} answered {}", answer.status());
    let variant = answer.headers().get(VARIANT_HEADER).and_then(|value| value.to_str().ok());
    let variant = variant.with_context(|| format!("{target} came without {VARIANT_HEADER}"))?.parse()?;
    let body = timeout(PATIENCE, answer.into_body().collect()).await.context("the answer does not end")??.to_bytes();
    Ok(Answer { variant, hash: ContentHash::of(&body), bytes: body.len() as u64, took: begun.elapsed() })
}
