//! `metacdn prices`: what providers charge, shown and changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::failure::UsageError;
use super::output::table;
use super::{Cluster, Options};
use crate::client::Peer;
use crate::model::{Egress, NanoDollars, Provider, Rates, Tariff, TariffDocument};
use crate::price::{Schedule, published, read};

/// The arguments of `metacdn prices`.
#[derive(Debug, Args)]
pub struct PricesArgs {
    #[command(subcommand)]
    command: Option<Command>,
}

/// What is to be done with prices.
#[derive(Debug, Subcommand)]
enum Command {
    /// Set what a provider charges; what is left out stays as it is
    Set {
        /// The provider
        provider: Provider,
        /// Dollars for an hour of the server, such as .30
        #[arg(long, value_name = "DOLLARS")]
        server_hour: Option<NanoDollars>,
        /// Dollars for an hour of its network, such as .10
        #[arg(long, value_name = "DOLLARS")]
        network_hour: Option<NanoDollars>,
        /// The list prices of this name, in the place of all that is known: see metacdn prices published
        #[arg(long, value_name = "NAME")]
        published: Option<String>,
    },
    /// Remove the prices of a provider
    Remove {
        /// The provider
        provider: Provider,
    },
    /// Set the prices of a file: tariffs in TOML, as export writes them, or the reference's priceInf.json
    Load {
        /// The file
        file: PathBuf,
    },
    /// Write all prices as TOML, for load
    Export,
    /// Write the list prices that metacdn knows, as TOML, with their sources
    Published,
}

/// Shows or changes prices.
///
/// # Errors
/// When no node answers, or the change makes no sense.
pub(super) async fn run(args: PricesArgs, options: &Options) -> anyhow::Result<()> {
    let output = options.output();
    // What cannot be is told of before anyone is asked.
    match args.command {
        None => show(&any(options).await?, options).await,
        Some(Command::Set { provider, server_hour, network_hour, published }) => {
            let listed = published.as_deref().map(listed).transpose()?;
            if listed.is_none() && server_hour.is_none() && network_hour.is_none() {
                return Err(UsageError(format!(
                    "say what {provider} charges: metacdn prices set {provider} --server-hour .30 --network-hour .10, or \
                     --published aws"
                ))
                .into());
            }
            let peer = any(options).await?;
            let extent = if listed.is_some() { Extent::All } else { Extent::Hours };
            let mut tariff = match listed {
                Some(listed) => listed,
                None => complete(&peer, &provider, server_hour, network_hour).await?,
            };
            tariff.instance_hour = server_hour.unwrap_or(tariff.instance_hour);
            tariff.network_hour = network_hour.unwrap_or(tariff.network_hour);
            set(&peer, &provider, tariff, extent, options).await
        }
        Some(Command::Remove { provider }) => {
            let peer = any(options).await?;
            peer.remove_price(&provider).await.with_context(|| format!("cannot remove the prices of {provider}"))?;
            output.done(format_args!("removed the prices of {provider}"))
        }
        Some(Command::Load { file }) => {
            let (loaded, extent) = load(&file)?;
            let peer = any(options).await?;
            for (provider, tariff) in loaded {
                set(&peer, &provider, tariff, extent, options).await?;
            }
            Ok(())
        }
        Some(Command::Export) => output.answer(toml::to_string(&any(options).await?.tariffs().await?)?.trim_end()),
        Some(Command::Published) => output.answer(toml::to_string(&published())?.trim_end()),
    }
}

async fn any(options: &Options) -> anyhow::Result<Peer> {
    Cluster::open(options)?.any().await
}

/// How much of a tariff is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// What hours cost; the rest stays as it is.
    Hours,
    /// All of it.
    All,
}

async fn set(
    peer: &Peer,
    provider: &Provider,
    tariff: Tariff,
    extent: Extent,
    options: &Options,
) -> anyhow::Result<()> {
    let said = said(provider, &tariff);
    match extent {
        Extent::Hours => peer.set_price(provider, &tariff).await?,
        Extent::All => peer.set_tariff(provider, &tariff.into()).await?,
    }
    options.output().done(said)
}

/// A line of `metacdn prices --json`.
#[derive(Serialize)]
struct Shown {
    provider: Provider,
    server_hour: String,
    network_hour: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<Box<Rates>>,
}

async fn show(peer: &Peer, options: &Options) -> anyhow::Result<()> {
    let tariffs = peer.tariffs().await?;
    let output = options.output();
    if output.is_json() {
        return tariffs.into_iter().try_for_each(
            |(provider, TariffDocument { instance_hour, network_hour, rates })| {
                let (server_hour, network_hour) = (instance_hour.to_string(), network_hour.to_string());
                output.answer_json(&Shown { provider, server_hour, network_hour, rates })
            },
        );
    }
    let columns = ["PROVIDER", "SERVER $/H", "NETWORK $/H", "FREE A MONTH", "EGRESS A GB", "AS OF"];
    let mut table = table(&columns, &columns[1..5]);
    for (provider, TariffDocument { instance_hour, network_hour, rates }) in &tariffs {
        let of_rates = |text: &dyn Fn(&Rates) -> String| rates.as_deref().map_or_else(|| "-".to_owned(), text);
        table.add_row([
            provider.to_string(),
            instance_hour.to_string(),
            network_hour.to_string(),
            of_rates(&|rates| free(&rates.egress)),
            of_rates(&|rates| format!("{} {}", prices(&rates.egress), rates.currency)),
            of_rates(&|rates| rates.as_of.clone().unwrap_or_else(|| "-".to_owned())),
        ]);
    }
    output.answer(&table)
}

/// What is free of a month's bytes.
fn free(egress: &Egress) -> String {
    let gb = |gb: u64| {
        if gb >= 1_000 && gb.is_multiple_of(1_000) { format!("{} TB", gb / 1_000) } else { format!("{gb} GB") }
    };
    match (egress.free_gb, egress.free_gb_per_server) {
        (0, 0) => "-".to_owned(),
        (all, 0) => gb(all),
        (0, each) => format!("{} a server", gb(each)),
        (all, each) => format!("{} + {} a server", gb(all), gb(each)),
    }
}

/// The first price and, where it falls or rises with the volume, the last one.
fn prices(egress: &Egress) -> String {
    match egress.tiers.as_slice() {
        [] => "-".to_owned(),
        [only] => only.price_per_gb.to_string(),
        [first, .., last] => format!("{} to {}", first.price_per_gb, last.price_per_gb),
    }
}

fn said(provider: &Provider, tariff: &Tariff) -> String {
    let Tariff { instance_hour, network_hour, rates } = tariff;
    let egress = rates.as_deref().map(|rates| format!(", {} {} a GB", prices(&rates.egress), rates.currency));
    format!("{provider}: server {instance_hour} $/h, network {network_hour} $/h{}", egress.unwrap_or_default())
}

/// The list prices of this name.
fn listed(name: &str) -> anyhow::Result<Tariff> {
    let mut published = published();
    let known = published.remove(name).map(Tariff::from);
    known.ok_or_else(|| {
        let names: Vec<_> = published.into_keys().collect();
        UsageError(format!("no list prices of {name:?} are known: --published takes {}", names.join(", "))).into()
    })
}

/// The hours that were given and, for the rest, what is known.
async fn complete(
    peer: &Peer,
    provider: &Provider,
    server_hour: Option<NanoDollars>,
    network_hour: Option<NanoDollars>,
) -> anyhow::Result<Tariff> {
    if let (Some(instance_hour), Some(network_hour)) = (server_hour, network_hour) {
        return Ok(Tariff { instance_hour, network_hour, rates: None });
    }
    let known = peer.prices().await?.remove(provider);
    known.ok_or_else(|| {
        let missing = if server_hour.is_none() { "--server-hour" } else { "--network-hour" };
        UsageError(format!("{provider} has no prices yet: give {missing}, too")).into()
    })
}

/// The reference's price document.
#[derive(Deserialize)]
struct Document {
    price: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    provider: Provider,
    server_hourly_cost: String,
    network_hourly_cost: String,
}

fn load(path: &Path) -> anyhow::Result<(BTreeMap<Provider, Tariff>, Extent)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let is_toml = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
    let (parsed, extent) =
        if is_toml { (parse_tariffs(&text), Extent::All) } else { (parse(text.as_bytes()), Extent::Hours) };
    let parsed = parsed.map(|tariffs| (tariffs, extent));
    parsed.with_context(|| format!("{} is not a list of prices", path.display()))
}

fn parse_tariffs(text: &str) -> anyhow::Result<BTreeMap<Provider, Tariff>> {
    let tariff = |(name, document): (String, TariffDocument)| {
        let tariff = Tariff::from(document);
        Schedule::new(&tariff).with_context(|| name.clone())?;
        Ok((name.parse().with_context(|| name.clone())?, tariff))
    };
    read(text)?.into_iter().map(tariff).collect()
}

fn parse(text: &[u8]) -> anyhow::Result<BTreeMap<Provider, Tariff>> {
    let document: Document = serde_json::from_slice(text)?;
    let mut prices = BTreeMap::new();
    for Row { provider, server_hourly_cost, network_hourly_cost } in document.price {
        let cost = |name: &str, text: &str| text.parse().with_context(|| format!("{name} of {provider}"));
        let tariff = Tariff {
            instance_hour: cost("server_hourly_cost", &server_hourly_cost)?,
            network_hour: cost("network_hourly_cost", &network_hourly_cost)?,
            rates: None,
        };
        if prices.insert(provider.clone(), tariff).is_some() {
            bail!("{provider} stands there twice");
        }
    }
    Ok(prices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_file_reads() {
        let text = br#"{"price": [{"provider": "AWS", "server_hourly_cost": ".30", "network_hourly_cost": ".10"},
            {"provider": "Program", "server_hourly_cost": ".114", "network_hourly_cost": ".75"}]}"#;
        let prices = parse(text).unwrap();
        let read: Vec<_> = prices.iter().map(|(provider, tariff)| said(provider, tariff)).collect();
        assert_eq!(read, ["AWS: server 0.30 $/h, network 0.10 $/h", "Program: server 0.114 $/h, network 0.75 $/h"]);
    }

    #[test]
    fn tariffs_read_and_wrong_ones_are_explained() {
        let text = "[AWS]\ninstance_hour = 0.0416\n[AWS.rates.egress]\nfree_gb = 100\ntiers = [{ up_to_gb = 10000, \
                    price_per_gb = 0.09 }, { price_per_gb = 0.05 }]";
        let tariffs = parse_tariffs(text).unwrap();
        let read: Vec<_> = tariffs.iter().map(|(provider, tariff)| said(provider, tariff)).collect();
        assert_eq!(read, ["AWS: server 0.0416 $/h, network 0.00 $/h, 0.09 to 0.05 USD a GB"]);
        let error = |from: &str, to: &str| format!("{:#}", parse_tariffs(&text.replace(from, to)).unwrap_err());
        assert!(error("up_to_gb = 10000, ", "").contains("AWS: rates.egress.tiers[0].up_to_gb: only the last tier"));
        assert!(error("0.09", "-0.09").contains("-0.09") && error("free_gb", "fre_gb").contains("fre_gb"));
        assert!(error("AWS", "A_W_\u{e9}").contains("A_W_"));
    }

    #[test]
    fn list_prices_are_found_by_name() {
        assert!(listed("aws").unwrap().rates.is_some());
        assert!(format!("{:#}", listed("asw").unwrap_err()).contains("azure, backblaze"));
    }

    #[test]
    fn a_wrong_file_is_explained() {
        let row = r#"{"provider": "AWS", "server_hourly_cost": "-1", "network_hourly_cost": ".10"}"#;
        let error = |text: &str| format!("{:#}", parse(text.as_bytes()).unwrap_err());
        assert!(error(&format!(r#"{{"price": [{row}]}}"#)).contains("server_hourly_cost of AWS"));
        let row = row.replace("-1", "1");
        assert!(error(&format!(r#"{{"price": [{row}, {row}]}}"#)).contains("AWS stands there twice"));
        assert!(error("[]").contains("line 1") || error("[]").contains("invalid"));
    }
}
