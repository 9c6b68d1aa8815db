//! `metacdn prices`: what providers charge, shown and changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::failure::UsageError;
use super::output::table;
use super::{Cluster, Options};
use crate::client::Peer;
use crate::model::{NanoDollars, Provider, Tariff};

/// The arguments of `metacdn prices`.
#[derive(Debug, Args)]
pub struct PricesArgs {
    #[command(subcommand)]
    change: Option<Change>,
}

/// A change of prices.
#[derive(Debug, Subcommand)]
enum Change {
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
    },
    /// Remove the prices of a provider
    Remove {
        /// The provider
        provider: Provider,
    },
    /// Set the prices that a file of the form of priceInf.json has
    Load {
        /// The file
        file: PathBuf,
    },
}

/// Shows or changes prices.
///
/// # Errors
/// When no node answers, or the change makes no sense.
pub(super) async fn run(args: PricesArgs, options: &Options) -> anyhow::Result<()> {
    // A file that cannot be used is told of before anyone is asked.
    let loaded = match &args.change {
        Some(Change::Load { file }) => load(file)?,
        _ => BTreeMap::new(),
    };
    let peer = Cluster::open(options)?.any().await?;
    let output = options.output();
    match args.change {
        None => show(&peer, options).await,
        Some(Change::Set { provider, server_hour, network_hour }) => {
            let tariff = complete(&peer, &provider, server_hour, network_hour).await?;
            peer.set_price(&provider, &tariff).await?;
            output.done(said(&provider, &tariff))
        }
        Some(Change::Remove { provider }) => {
            peer.remove_price(&provider).await.with_context(|| format!("cannot remove the prices of {provider}"))?;
            output.done(format_args!("removed the prices of {provider}"))
        }
        Some(Change::Load { .. }) => {
            for (provider, tariff) in &loaded {
                peer.set_price(provider, tariff).await?;
                output.done(said(provider, tariff))?;
            }
            Ok(())
        }
    }
}

async fn show(peer: &Peer, options: &Options) -> anyhow::Result<()> {
    let prices = peer.prices().await?;
    let output = options.output();
    if output.is_json() {
        return prices.iter().try_for_each(|(provider, tariff)| {
            let (server, network) = (tariff.instance_hour.to_string(), tariff.network_hour.to_string());
            output.answer_json(&json!({ "provider": provider, "server_hour": server, "network_hour": network }))
        });
    }
    let columns = ["PROVIDER", "SERVER $/H", "NETWORK $/H"];
    let mut table = table(&columns, &columns[1..]);
    for (provider, tariff) in &prices {
        table.add_row([provider.to_string(), tariff.instance_hour.to_string(), tariff.network_hour.to_string()]);
    }
    output.answer(&table)
}

fn said(provider: &Provider, tariff: &Tariff) -> String {
    let Tariff { instance_hour, network_hour } = tariff;
    format!("{provider}: server {instance_hour} $/h, network {network_hour} $/h")
}

/// The tariff with what was given and, for the rest, what is known.
async fn complete(
    peer: &Peer,
    provider: &Provider,
    server_hour: Option<NanoDollars>,
    network_hour: Option<NanoDollars>,
) -> anyhow::Result<Tariff> {
    match (server_hour, network_hour) {
        (Some(instance_hour), Some(network_hour)) => Ok(Tariff { instance_hour, network_hour }),
        (None, None) => Err(UsageError(format!(
            "say what {provider} charges: metacdn prices set {provider} --server-hour .30 --network-hour .10"
        ))
        .into()),
        (server_hour, network_hour) => {
            let prices = peer.prices().await?;
            let Some(known) = prices.get(provider) else {
                let missing = if server_hour.is_none() { "--server-hour" } else { "--network-hour" };
                return Err(UsageError(format!("{provider} has no prices yet: give {missing}, too")).into());
            };
            Ok(Tariff {
                instance_hour: server_hour.unwrap_or(known.instance_hour),
                network_hour: network_hour.unwrap_or(known.network_hour),
            })
        }
    }
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

fn load(path: &Path) -> anyhow::Result<BTreeMap<Provider, Tariff>> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not a list of prices", path.display()))
}

fn parse(text: &[u8]) -> anyhow::Result<BTreeMap<Provider, Tariff>> {
    let document: Document = serde_json::from_slice(text)?;
    let mut prices = BTreeMap::new();
    for Row { provider, server_hourly_cost, network_hourly_cost } in document.price {
        let cost = |name: &str, text: &str| text.parse().with_context(|| format!("{name} of {provider}"));
        let tariff = Tariff {
            instance_hour: cost("server_hourly_cost", &server_hourly_cost)?,
            network_hour: cost("network_hourly_cost", &network_hourly_cost)?,
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
    fn a_wrong_file_is_explained() {
        let row = r#"{"provider": "AWS", "server_hourly_cost": "-1", "network_hourly_cost": ".10"}"#;
        let error = |text: &str| format!("{:#}", parse(text.as_bytes()).unwrap_err());
        assert!(error(&format!(r#"{{"price": [{row}]}}"#)).contains("server_hourly_cost of AWS"));
        let row = row.replace("-1", "1");
        assert!(error(&format!(r#"{{"price": [{row}, {row}]}}"#)).contains("AWS stands there twice"));
        assert!(error("[]").contains("line 1") || error("[]").contains("invalid"));
    }
}
