//! `metacdn explain`: why an edge answers a request from this node, and what would change that.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use anyhow::bail;
use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::failure::explain;
use super::{Options, profile};
use crate::client::{ClientError, Deadlines, Peer, empty};
use crate::config::Config;
use crate::model::{Address, ObjectKey};
use crate::protocol::{CONTROL_BODY_MAX, ROUTES};
use crate::route::Policy;
use document::Document;

mod document;
mod show;

/// Where an edge answers its operator by default.
const ADMIN_PORT: u16 = 8081;

/// How long an edge may take: it has the answer in memory.
const DEADLINE: Duration = Duration::from_secs(3);
const SHORT: Deadlines = Deadlines { connect: DEADLINE, first_byte: DEADLINE, idle: DEADLINE };

/// The arguments of `metacdn explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The object
    key: ObjectKey,
    /// Its size, to see what another one would change [default: what the edge last saw, or assumes]
    #[arg(long, value_name = "BYTES")]
    size: Option<u64>,
    /// Another policy: p (price), n (time) or "c BETA", both, BETA from 0 (time alone) to 1 (price alone) [default: the
    /// edge's]
    #[arg(long)]
    policy: Option<Policy>,
    /// The admin address of the edge [default: edge in [client] of the configuration, or 127.0.0.1:8081]
    #[arg(long, value_name = "HOST:PORT")]
    edge: Option<Address>,
}

/// Prints what an edge says of the routes to an object.
///
/// # Errors
/// When the edge does not answer.
pub(super) async fn run(args: ExplainArgs, options: &Options) -> anyhow::Result<()> {
    let config = profile::profile(options)?.map(|path| profile::read(&path)).transpose()?;
    let address = address(args.edge.clone(), config.as_ref())?;
    let target = target(&args);
    let answer = ask(&ways(&address, config.as_ref())?, &address, async |peer| fetch(peer, &target).await).await?;
    if options.json {
        return options.output().answer(String::from_utf8_lossy(&answer));
    }
    let document: Document = serde_json::from_slice(&answer)
        .map_err(|error| anyhow::anyhow!("the edge at {address} answered what is not understood: {error}"))?;
    options.output().answer(show::page(&args.key, args.size.is_some(), &document))
}

/// The admin address of the edge that is asked: the one that is `named`, that of the configuration, or the usual one.
pub(super) fn address(named: Option<Address>, config: Option<&Config>) -> anyhow::Result<Address> {
    let of_config = || config.and_then(|config| config.client.as_ref()?.edge.clone());
    match named.or_else(of_config) {
        Some(address) => Ok(address),
        None => Ok(Address::new(&Ipv4Addr::LOCALHOST.to_string(), ADMIN_PORT)?),
    }
}

/// The ways to speak to the edge at `address`, the likeliest first.
///
/// An edge listens in plain HTTP on loopback and under TLS elsewhere, where it may be a process that is a node, too, and
/// so has a node's certificate.
pub(super) fn ways(address: &Address, config: Option<&Config>) -> anyhow::Result<Vec<Peer>> {
    let mut ways = Vec::new();
    let here = is_loopback(address);
    if here {
        ways.push(Peer::plain(address.clone(), SHORT));
    }
    match config.and_then(|config| config.identity.as_ref()).map(|files| files.load(SystemTime::now())) {
        Some(Ok(identity)) => {
            let tls = identity.client_config();
            ways.push(Peer::edge(tls.clone(), address.clone(), SHORT));
            ways.push(Peer::new(tls, None, address.clone(), SHORT));
        }
        Some(Err(error)) if !here => return Err(error.into()),
        None if !here => bail!(
            "the edge at {address} wants a certificate of its cluster: name a configuration that has one with --config \
             FILE or METACDN_CONFIG=FILE"
        ),
        Some(Err(_)) | None => {}
    }
    Ok(ways)
}

fn is_loopback(address: &Address) -> bool {
    let host = address.host();
    host.parse::<IpAddr>().map_or(host.eq_ignore_ascii_case("localhost"), |ip| ip.to_canonical().is_loopback())
}

fn target(args: &ExplainArgs) -> String {
    let value = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut target = format!("{ROUTES}?key={}", value(args.key.as_str()));
    if let Some(size) = args.size {
        target.push_str(&format!("&size={size}"));
    }
    if let Some(policy) = args.policy {
        target.push_str(&format!("&policy={}", value(&policy.to_string())));
    }
    target
}

/// What `ask` is answered by the first way that leads to the edge at `address`.
pub(super) async fn ask<T>(
    ways: &[Peer],
    address: &Address,
    ask: impl AsyncFn(&Peer) -> Result<T, ClientError>,
) -> anyhow::Result<T> {
    let mut reasons: Vec<String> = Vec::new();
    for peer in ways {
        let reason = match ask(peer).await {
            Ok(answer) => return Ok(answer),
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {
                bail!(
                    "{}; is {address} the admin address of an edge ({ADMIN_PORT} by default), not the one for users?",
                    explain(&error)
                )
            }
            Err(error) if !error.is_transient() => return Err(error.into()),
            Err(error) => explain(&error),
        };
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    bail!(
        "no edge answers: {}; say where one is with --edge HOST:PORT (its admin address) or edge in [client] of the \
         configuration, or start one with `metacdn proxy` or `metacdn demo`",
        reasons.join("; ")
    )
}

async fn fetch(peer: &Peer, target: &str) -> Result<Bytes, ClientError> {
    let response = peer.ask(peer.request(Method::GET, target, empty())?).await?;
    peer.reader(response.into_body()).read_all(CONTROL_BODY_MAX).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_spoken_on_loopback_alone() {
        for (address, here) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("LocalHost:1", true),
            ("10.0.0.1:1", false),
            ("localhost.example.org:1", false),
        ] {
            let address: Address = address.parse().unwrap();
            assert_eq!(is_loopback(&address), here, "{address}");
            assert_eq!(ways(&address, None).is_ok_and(|ways| ways.len() == 1), here, "{address}");
        }
    }

    #[test]
    fn what_separates_a_query_is_encoded() {
        let key = "a b+c&d=e/ä?#.txt".parse().unwrap();
        let args = ExplainArgs { key, size: Some(7), policy: "c 0.5".parse().ok(), edge: None };
        let expected = "/routes?key=a%20b%2Bc%26d%3De%2F%C3%A4%3F%23%2Etxt&size=7&policy=c%200%2E5";
        assert_eq!(target(&args), expected);
    }
}
