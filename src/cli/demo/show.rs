//! The show: what is done in front of the audience, in which order, and what must hold at each step.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::certificates::client_credentials;
use super::cluster::{Cluster, GC, MACHINES, PROGRAM};
use super::compare::lists_equal;
use super::costs::costs;
use super::figures;
use super::lines;
use super::loss::{self, lose_half_way};
use super::publish::Published;
use super::report::Report;
use super::routes::{POLICIES, decide};
use super::screen::Screen;
use super::site::{Item, Tree};
use super::spread::{read_everything, spread};
use super::traffic::totals;
use crate::client::{Peer, Prices};
use crate::model::{Liveness, ObjectKey};

/// How long something is waited for that a healthy cluster does in a moment.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often is looked whether it has happened.
const LOOK_PERIOD: Duration = Duration::from_millis(25);

/// The largest file that is fetched to see how fast the proxy is.
const FAST_BYTES_MAX: u64 = 64 << 20;

/// The largest file that is fetched to see where the proxy goes: times should be those of the way, not of the bytes.
const SMALL_BYTES_MAX: u64 = 16 << 10;

/// Where the show happens and is written down.
pub(super) struct Stage<'a> {
    pub(super) screen: &'a Screen,
    pub(super) report: &'a mut Report,
}

impl Stage<'_> {
    /// Does `work`, which answers with what was seen, and shows and notes how it went.
    async fn check<T>(
        &mut self,
        name: &str,
        work: impl Future<Output = anyhow::Result<(String, T)>>,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        let waiting = self.screen.waiting(name);
        let outcome = work.await;
        drop(waiting);
        let took = begun.elapsed();
        match outcome {
            Ok((seen, value)) => {
                self.screen.passed(&seen, took);
                self.report.note(name, Ok(&seen), took);
                Ok(value)
            }
            Err(error) => {
                let wrong = format!("{error:#}");
                self.screen.failed(&format!("{name}: {wrong}"));
                self.report.note(name, Err(&wrong), took);
                Err(error.context(name.to_owned()))
            }
        }
    }
}

/// Plays the whole show. The cluster is put into `cluster` as soon as it exists, for whoever has to stop it.
///
/// # Errors
/// When a step fails without which the others make no sense. Failures of other steps are in the report alone.
pub(super) async fn play(
    stage: &mut Stage<'_>,
    cluster: &mut Option<Cluster>,
    folder: &Path,
    tree: &Tree,
    source: Option<&Path>,
) -> anyhow::Result<()> {
    stage.screen.heading("1  Certificates");
    let created = stage.check("certificates", async {
        let cluster = Cluster::create(folder).await?;
        Ok(("an authority, and a key each for three nodes, a proxy and a client".to_owned(), cluster))
    });
    let cluster = cluster.insert(created.await?);
    stage.report.nodes = cluster.node_facts();
    stage.report.proxy = Some(cluster.proxy_facts());
    stage.report.lines = cluster.line_facts();
    stage.report.credentials = Some(client_credentials(folder));
    stage.screen.note(&folder.join("certs").display().to_string());

    let peers = start_nodes(stage, cluster).await?;
    let mut published = publish_first(stage, cluster, &peers, tree, source).await?;
    lose_a_node(stage, cluster, &peers, tree, &mut published).await?;
    choose(stage, cluster, tree, &published).await?;
    lose_a_node_half_way(stage, cluster, &peers, tree, &published).await?;
    fit_the_links(stage, cluster, &peers, tree, &published).await?;

    stage.screen.heading(&format!("8  All {} read everywhere", figures::files(published.len())));
    let (web, screen) = (cluster.web(), stage.screen);
    let read = stage.check("contents", async {
        let bytes = read_everything(screen, &peers, web, &published).await?;
        Ok((format!("{} from each node and through the proxy, equal by hash", figures::bytes(bytes)), ()))
    });
    let _ = read.await;
    stage.report.published.objects = published.len();
    tell_the_costs(stage, cluster).await;
    Ok(())
}

async fn start_nodes(stage: &mut Stage<'_>, cluster: &mut Cluster) -> anyhow::Result<Vec<Peer>> {
    stage.screen.heading("2  Three nodes, each as far away as its cloud");
    for node in &stage.report.nodes {
        let there_and_back = format!("{} ms there and back", 2 * node.delay_ms);
        let price = format!("${} an hour", node.instance_hour);
        stage.screen.line(&format!("    {:<9}{:<18}{there_and_back:<24}{price}", node.id, node.address));
    }
    let peers: Vec<_> = (0..MACHINES.len()).map(|number| cluster.peer(number)).collect();
    let up = async {
        for number in 0..MACHINES.len() {
            cluster.start_node(number).await?;
        }
        for peer in &peers {
            wait_for("it knows all nodes and they live", async || {
                peer.ready().await?;
                let servers = peer.servers().await?.servers;
                let alive = servers.iter().filter(|server| server.liveness == Liveness::Alive).count();
                Ok((alive == MACHINES.len()).then_some(()))
            })
            .await?;
        }
        Ok(("the three know each other; one address was enough to join".to_owned(), ()))
    };
    stage.check("nodes", up).await?;
    let priced = async {
        let mut prices = Prices::new();
        for machine in &MACHINES {
            let (provider, tariff) = (machine.name.parse()?, machine.tariff()?);
            peers[0].set_price(&provider, &tariff).await?;
            prices.insert(provider, tariff);
        }
        for peer in &peers {
            wait_for("it knows the prices", async || Ok((peer.prices().await? == prices).then_some(()))).await?;
        }
        Ok(("prices told to AWS are known to every node".to_owned(), ()))
    };
    // Without prices the rest can still be seen.
    let _ = stage.check("prices", priced).await;
    Ok(peers)
}

async fn publish_first(
    stage: &mut Stage<'_>,
    cluster: &Cluster,
    peers: &[Peer],
    tree: &Tree,
    source: Option<&Path>,
) -> anyhow::Result<Published> {
    let (count, bytes) = (tree.items.len(), tree.bytes());
    let what = match source {
        Some(folder) => folder.display().to_string(),
        None => "a small site".to_owned(),
    };
    stage.screen.heading(&format!("3  Publish {what}: {}, {}", figures::files(count), figures::bytes(bytes)));
    for skipped in &tree.skipped {
        stage.screen.note(&format!("left out: {skipped}"));
    }
    let published = &mut stage.report.published;
    (published.source, published.files, published.bytes) = (source.map(Path::to_owned), count, bytes);
    published.skipped.clone_from(&tree.skipped);
    let (screen, uploader) = (stage.screen, cluster.publisher(PROGRAM));
    let sent = stage.check("publish", async {
        let spread = spread(screen, &uploader, peers, &tree.items, &Published::new()).await?;
        let seen = format!("all sent to Program, {}, and passed on", figures::rate(bytes, spread.uploaded_after));
        Ok((seen, spread))
    });
    let spread = sent.await?;
    stage.report.published.upload_seconds = spread.uploaded_after.as_secs_f64();
    stage.report.published.spread_seconds =
        spread.reached_after.iter().max().copied().unwrap_or_default().as_secs_f64();
    for ((machine, peer), reached) in MACHINES.iter().zip(peers).zip(&spread.reached_after) {
        let name = machine.name;
        let check = format!("{name} holds all");
        let held = stage.check(&check, async {
            lists_equal(peer, &spread.published).await?;
            let after = figures::time(*reached);
            Ok((format!("{name:<7} holds all {} after {after}, its list equal by hash", figures::files(count)), ()))
        });
        let _ = held.await;
    }
    Ok(spread.published)
}

async fn lose_a_node(
    stage: &mut Stage<'_>,
    cluster: &mut Cluster,
    peers: &[Peer],
    tree: &Tree,
    published: &mut Published,
) -> anyhow::Result<()> {
    stage.screen.heading("4  GC goes away and comes back");
    let stopped = stage.check("stop GC", async {
        cluster.stop_node(GC).await?;
        Ok(("GC is stopped".to_owned(), ()))
    });
    stopped.await?;
    stage.report.published.files_while_away = tree.later.len();
    let (screen, uploader) = (stage.screen, cluster.publisher(PROGRAM));
    let others: Vec<_> = (0..peers.len()).filter(|number| *number != GC).map(|number| peers[number].clone()).collect();
    let more = stage.check("publish without GC", async {
        let spread = spread(screen, &uploader, &others, &tree.later, published).await?;
        for peer in &others {
            lists_equal(peer, &spread.published).await?;
        }
        Ok((format!("{} more published; AWS and Program hold them", tree.later.len()), spread.published))
    });
    *published = more.await?;
    let seen_by_aws = async || {
        let servers = peers[0].servers().await?.servers;
        servers.into_iter().find(|server| server.node.id.as_str() == MACHINES[GC].name).context("GC is not listed")
    };
    let noticed = stage.check("silence of GC is noticed", async {
        wait_for("AWS notices that GC is silent", async || {
            let gc = seen_by_aws().await?;
            let behind = gc.behind.filter(|behind| *behind > 0);
            Ok(behind.filter(|_| gc.liveness != Liveness::Alive).map(|behind| (gc.liveness, behind)))
        })
        .await
        .map(|(liveness, behind)| (format!("AWS says of GC: {liveness}, {behind} changes behind"), ()))
    });
    let _ = noticed.await;
    let back = stage.check("GC catches up", async {
        cluster.start_node(GC).await?;
        wait_for("GC lists what the others do", async || lists_equal(&peers[GC], published).await.map(Some)).await?;
        wait_for("AWS sees GC alive and not behind", async || {
            let gc = seen_by_aws().await?;
            Ok((gc.liveness == Liveness::Alive && gc.behind == Some(0)).then_some(()))
        })
        .await?;
        Ok((format!("GC is back and holds all {}, list equal by hash", figures::files(published.len())), ()))
    });
    back.await
}

async fn choose(
    stage: &mut Stage<'_>,
    cluster: &mut Cluster,
    tree: &Tree,
    published: &Published,
) -> anyhow::Result<()> {
    stage.screen.heading("5  A proxy chooses by price and time");
    let web = cluster.web();
    let ready = stage.check("proxy", async {
        cluster.start_proxy()?;
        wait_for("the proxy is ready", async || Ok(web.is_ready().await.then_some(()))).await?;
        Ok((format!("the proxy has found and measured all nodes: {}", cluster.proxy_facts().url), ()))
    });
    ready.await?;
    let key = key_to_route(tree).context("there is nothing to fetch")?;
    let (hash, _) = published.get(key).context("what is fetched was published")?;
    for policy in POLICIES {
        let (screen, check) = (stage.screen, format!("route {}", policy.0));
        let decided = stage.check(&check, async {
            let decision = decide(&web, key, *hash, policy).await?;
            decision.show(screen);
            Ok((decision.summary(), decision))
        });
        if let Ok(decision) = decided.await {
            stage.report.routes.push(decision);
        }
    }
    let largest = tree.items.iter().filter(|item| item.size <= FAST_BYTES_MAX).max_by_key(|item| item.size);
    let Some(Item { key, .. }) = largest else { return Ok(()) };
    stage.screen.line("");
    let fast = stage.check("throughput", async {
        let begun = Instant::now();
        let answer = web.fetch(key, None).await?;
        let took = begun.elapsed();
        ensure!(published.get(key) == Some(&(answer.hash, answer.bytes)), "{key} is not what was published");
        Ok((format!("{} through the proxy at {}", figures::bytes(answer.bytes), figures::rate(answer.bytes, took)), ()))
    });
    let _ = fast.await;
    Ok(())
}

async fn lose_a_node_half_way(
    stage: &mut Stage<'_>,
    cluster: &mut Cluster,
    peers: &[Peer],
    tree: &Tree,
    published: &Published,
) -> anyhow::Result<()> {
    stage.screen.heading("6  The chosen node is killed in the middle of a download");
    let stored = *published.get(&tree.large).context("the large file was published")?;
    let (size, rate) = (figures::bytes(stored.1), figures::bytes(loss::BYTES_PER_SECOND));
    stage.screen.note(&format!("{}, {size}, over connections of {rate}/s", tree.large));
    cluster.limit_rate(Some(loss::BYTES_PER_SECOND));
    let (web, screen) = (cluster.web(), stage.screen);
    let arrived = stage.check("download outlives its node", async {
        let lost = lose_half_way(screen, cluster, &web, &tree.large, stored).await?;
        lost.show(screen);
        Ok((lost.summary(), lost))
    });
    let lost = arrived.await;
    cluster.limit_rate(None);
    let lost = lost?;
    let name = lost.killed.node.clone();
    let number = MACHINES.iter().position(|machine| machine.name == name).context("it is one of the three")?;
    stage.report.loss = Some(lost);
    let back = stage.check("the killed node comes back", async {
        cluster.start_node(number).await?;
        let peer = &peers[number];
        wait_for("it lists what the others do", async || lists_equal(peer, published).await.map(Some)).await?;
        Ok((format!("{name} is started again and has lost nothing, list equal by hash"), ()))
    });
    back.await
}

async fn fit_the_links(
    stage: &mut Stage<'_>,
    cluster: &Cluster,
    peers: &[Peer],
    tree: &Tree,
    published: &Published,
) -> anyhow::Result<()> {
    stage.screen.heading("7  One photograph, three links, at the same time");
    let (hash, size) = published.get(&tree.photograph).context("the photograph was published")?;
    let (key, screen) = (&tree.photograph, stage.screen);
    let made = stage.check("variants are made", async {
        let (words, made) = wait_for("there are smaller variants", async || lines::make(peers, key).await).await?;
        Ok((format!("each node makes the same of its {}: {words}", figures::bytes(*size)), made))
    });
    let Ok(made) = made.await else { return Ok(()) };
    stage.screen.note("each client asks for the original first: so the proxy learns its link");
    let fitted = stage.check("variants by link", async {
        let photograph = lines::deliver(&cluster.lines(), key, *hash, &made).await?;
        photograph.show(screen);
        Ok((photograph.summary(), photograph))
    });
    // The rest can be seen without.
    stage.report.photograph = fitted.await.ok();
    Ok(())
}

async fn tell_the_costs(stage: &mut Stage<'_>, cluster: &Cluster) {
    stage.screen.heading("9  What the proxy's answers cost, by provider");
    let (web, screen) = (cluster.web(), stage.screen);
    let told = stage.check("costs", async {
        let costs = costs(&totals(&web).await?)?;
        costs.show(screen);
        Ok((costs.summary(), costs))
    });
    stage.report.costs = told.await.ok();
}

/// The file by which the proxy's choice is shown: the front page, else the largest of the small ones.
fn key_to_route(tree: &Tree) -> Option<&ObjectKey> {
    let front = tree.items.iter().find(|item| item.key.as_str() == "index.html" && item.size <= SMALL_BYTES_MAX);
    let small = || tree.items.iter().filter(|item| item.size <= SMALL_BYTES_MAX).max_by_key(|item| item.size);
    let least = || tree.items.iter().min_by_key(|item| item.size);
    front.or_else(small).or_else(least).map(|item| &item.key)
}

/// Looks until there is something to see. What goes wrong meanwhile only counts if it lasts.
async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        let seen = look().await;
        if let Ok(Some(seen)) = seen {
            return Ok(seen);
        }
        if begun.elapsed() > PATIENCE {
            let late = format!("waited {} until {what}", figures::time(PATIENCE));
            return Err(seen.err().map_or_else(|| anyhow::anyhow!(late.clone()), |error| error.context(late.clone())));
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}
