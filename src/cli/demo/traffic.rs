//! What the nodes have done for the proxy, as the proxy's own counters tell it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::web::Web;

/// What one node has done.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Traffic {
    /// Requests to it.
    pub(super) requests: u64,
    /// Bytes of bodies that it sent.
    pub(super) bytes: u64,
    /// How long it had a request, or several.
    pub(super) worked: Duration,
}

/// What the nodes have done, by their names, and how many answers came from the proxy's memory.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Totals {
    pub(super) nodes: BTreeMap<String, Traffic>,
    pub(super) from_memory: u64,
}

/// Asks the proxy.
///
/// # Errors
/// When it does not answer, or counts nothing that is known here.
pub(super) async fn totals(web: &Web) -> anyhow::Result<Totals> {
    parse(&web.metrics().await?)
}

/// Reads the counters from the text of the metrics.
fn parse(text: &str) -> anyhow::Result<Totals> {
    let mut totals = Totals::default();
    for line in text.lines() {
        let Some((name, label, value)) = sample(line) else { continue };
        let number = || value.parse::<u64>().with_context(|| format!("{line} has no number"));
        match name {
            "metacdn_edge_fetches_total" => node(&mut totals, label).requests = number()?,
            "metacdn_edge_fetched_bytes_total" => node(&mut totals, label).bytes = number()?,
            "metacdn_edge_fetching_seconds_total" => {
                let seconds = value.parse().with_context(|| format!("{line} has no number"))?;
                node(&mut totals, label).worked = Duration::try_from_secs_f64(seconds)?;
            }
            "metacdn_edge_cache_total" if !["miss", "passed"].contains(&label.to_ascii_lowercase().as_str()) => {
                totals.from_memory += number()?;
            }
            _ => {}
        }
    }
    ensure!(!totals.nodes.is_empty(), "the proxy counts no node");
    Ok(totals)
}

fn node<'a>(totals: &'a mut Totals, name: &str) -> &'a mut Traffic {
    totals.nodes.entry(name.to_owned()).or_default()
}

/// The name, the value of the only label and the value of a sample (OpenMetrics 1.0).
fn sample(line: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = line.split_once('{')?;
    let (labels, value) = rest.rsplit_once("} ")?;
    Some((name, labels.split_once("=\"")?.1.strip_suffix('"')?, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_node() {
        let text = "# TYPE metacdn_edge_fetches counter\n\
                    metacdn_edge_fetches_total{node=\"GC\"} 3\n\
                    metacdn_edge_fetched_bytes_total{node=\"GC\"} 4096\n\
                    metacdn_edge_fetching_seconds_total{node=\"GC\"} 0.25\n\
                    metacdn_edge_cache_total{outcome=\"Hit\"} 5\n\
                    metacdn_edge_cache_total{outcome=\"Joined\"} 1\n\
                    metacdn_edge_cache_total{outcome=\"Miss\"} 9\n\
                    metacdn_edge_retries_total 2\n# EOF\n";
        let totals = parse(text).unwrap();
        assert_eq!(totals.from_memory, 6);
        let worked = Duration::from_millis(250);
        assert_eq!(totals.nodes, BTreeMap::from([("GC".to_owned(), Traffic { requests: 3, bytes: 4096, worked })]));
        assert!(parse("# EOF\n").is_err());
        assert!(parse("metacdn_edge_fetches_total{node=\"GC\"} many\n").is_err());
    }
}
