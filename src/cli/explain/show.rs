//! The routes to an object as a person reads them: the table, why, and what would change the choice.

use std::fmt::{Display, Write as _};

use comfy_table::Table;

use super::super::human;
use super::super::output::table;
use super::document::{Changes, Document, LeftOut, Route};
use crate::model::{NanoDollars, NodeId, ObjectKey};
use crate::route::{Policy, Span, Threshold};

/// Shown for a figure that is not known.
const UNKNOWN: &str = "?";

/// The whole page; `given` says whether the size is one that was asked for.
pub(super) fn page(key: &ObjectKey, given: bool, document: &Document) -> String {
    let mut page =
        format!("{}, {}, {}\n\n", human::shown(key.as_str()), size(given, document), policy(document.policy));
    if document.routes.is_empty() && document.left_out.is_empty() {
        page += "The edge knows no node.";
        return page;
    }
    let unit = unit(&document.price_basis);
    let mut add = |part: &dyn Display| write!(page, "{part}\n\n").expect("writing to a string does not fail");
    add(&candidates(document, unit));
    let Some((first, others)) = document.routes.split_first() else {
        add(&"Every node is down, so none is chosen.");
        return page.trim_end().to_owned();
    };
    add(&why(first, others));
    if document.routes.iter().any(|route| route.time_parts.is_some()) {
        add(&times(&document.routes));
    }
    add(&"What would change the choice:");
    add(&thresholds(&document.routes, unit));
    add(&changes(&first.node, &document.changes));
    page.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

fn size(given: bool, document: &Document) -> String {
    let size = human::size(document.size);
    match (document.size_known, given) {
        (true, _) => size,
        (false, true) => format!("if it had {size}"),
        (false, false) => format!("taken to have {size} (the edge has not seen it)"),
    }
}

fn policy(policy: Policy) -> String {
    let words = match policy {
        Policy::Price => "by price",
        Policy::Time => "by time",
        Policy::Combined { .. } => "by price and time",
    };
    format!("{words} ({policy})")
}

/// What prices are in.
fn unit(price_basis: &str) -> &'static str {
    if matches!(price_basis, "server_hour" | "hours") { "$/H" } else { "$" }
}

fn candidates(document: &Document, unit: &str) -> Table {
    let columns = ["#", "NODE", "PROVIDER", "LIVENESS", unit, "TIME", "SCORE", "REASON"];
    let mut table = table(&columns, &["#", unit, "TIME", "SCORE"]);
    let price = |price: Option<NanoDollars>| price.map_or_else(|| UNKNOWN.to_owned(), |price| price.to_string());
    for (place, route) in document.routes.iter().enumerate() {
        table.add_row([
            (place + 1).to_string(),
            route.node.to_string(),
            route.provider.to_string(),
            route.liveness.to_string(),
            price(route.price),
            latency(route.time_s),
            route.score.map_or_else(|| UNKNOWN.to_owned(), |score| rounded(score, 4)),
            human::shown(&route.reason),
        ]);
    }
    for LeftOut { node, provider, liveness, price: cost } in &document.left_out {
        let (none, not_used) = (String::new(), "not used".to_owned());
        let [node, provider, liveness] = [node.to_string(), provider.to_string(), liveness.to_string()];
        table.add_row([none.clone(), node, provider, liveness, price(*cost), none.clone(), none, not_used]);
    }
    table
}

/// One sentence: why the first is chosen.
fn why(first: &Route, others: &[Route]) -> String {
    let node = &first.node;
    let Some(next) = others.first() else { return format!("{node} is chosen: it is the only node that can be.") };
    let other = &next.node;
    let against = |mine: Option<String>, theirs: Option<String>| match (mine, theirs) {
        (Some(mine), Some(theirs)) => format!(", {mine} against {theirs} at {other}"),
        _ => String::new(),
    };
    let dollars = |route: &Route| route.price.map(|price| format!("${price}"));
    let time = |route: &Route| route.time_s.map(human::latency);
    let score = |route: &Route| route.score.map(|score| rounded(score, 4));
    let because = match first.reason.as_str() {
        "cheapest" => format!("it is the cheapest{}", against(dollars(first), dollars(next))),
        "fastest" => format!("it is the fastest{}", against(time(first), time(next))),
        "best-score" => format!("it has the lowest score{}", against(score(first), score(next))),
        "within-band" => {
            let equals = others.iter().filter(|route| route.reason == "within-band");
            let equals = list(&equals.map(|route| route.node.as_str()).collect::<Vec<_>>());
            format!("{equals} and it score so alike that the key decides")
        }
        "tie-by-time" => format!("none is cheaper, and it is faster{}", against(time(first), time(next))),
        "tie-by-price" => format!("none is faster, and it is cheaper{}", against(dollars(first), dollars(next))),
        "tie-by-key" => format!("it and {other} are equal in price and time, so the key decides"),
        reason => format!("it is {}, and no node that can be used is better off", human::shown(reason)),
    };
    format!("{node} is chosen: {because}.")
}

fn times(routes: &[Route]) -> Table {
    let numbers = ["FIRST BYTE", "IN FLIGHT", "TRANSFER", "RATE", "SUCCESS", "FAILURES"];
    let columns: Vec<_> = ["TIME OF"].into_iter().chain(numbers).collect();
    let mut table = table(&columns, &numbers);
    for route in routes {
        let Some(parts) = &route.time_parts else { continue };
        table.add_row([
            route.node.to_string(),
            human::latency(parts.first_byte_s),
            format!("{}, x{:.2}", parts.in_flight, parts.load_factor),
            format!("+{}", human::latency(parts.transfer_s)),
            parts.rate_bytes_per_s.map_or_else(|| UNKNOWN.to_owned(), |rate| format!("{}/s", human::size(rate as u64))),
            format!("{} %", rounded(parts.success_rate * 100.0, 3)),
            format!("+{}", human::latency(parts.failures_s.max(0.0))),
        ]);
    }
    table
}

fn thresholds(routes: &[Route], unit: &str) -> Table {
    let (price, time) = (format!("FIRST IF {unit}"), "FIRST IF TIME");
    let mut table = table(&["NODE", &price, time], &[]);
    for route in routes {
        let price = route.wins.price.as_ref().map(|threshold| bound(threshold, |price| short_price(price)));
        let time = route.wins.time_s.as_ref().map(|threshold| bound(threshold, |time_s| human::latency(*time_s)));
        let known = |text: Option<String>| text.unwrap_or_else(|| UNKNOWN.to_owned());
        table.add_row([route.node.to_string(), known(price), known(time)]);
    }
    table
}

fn changes(first: &NodeId, changes: &Changes) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    let name = |node: &Option<NodeId>| node.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let lost = match &changes.if_lost {
        Some(node) => format!("{node} takes over"),
        None => "no other is left".to_owned(),
    };
    table.add_row(["policy".to_owned(), format!("p: {}, n: {}", name(&changes.by_price), name(&changes.by_time))]);
    table.add_row(["beta of c".to_owned(), stretches(&changes.betas, |beta| rounded(*beta, 3))]);
    table.add_row(["size".to_owned(), stretches(&changes.sizes, |bytes| human::size(*bytes))]);
    table.add_row([format!("without {first}"), lost]);
    table
}

/// Who is chosen over a range: `AWS up to 0.0746, Program up to 0.741, then GC`.
fn stretches<T>(spans: &[Span<T>], show: impl Fn(&T) -> String) -> String {
    match spans {
        [] => "none".to_owned(),
        [only] => format!("{} for any", only.node),
        [firsts @ .., last] => {
            let mut text = String::new();
            for Span { node, to, .. } in firsts {
                let to = to.as_ref().map_or_else(String::new, &show);
                text += &format!("{node} up to {to}, ");
            }
            text + &format!("then {}", last.node)
        }
    }
}

fn bound<T>(threshold: &Threshold<T>, show: impl Fn(&T) -> String) -> String {
    match threshold {
        Threshold::Never => "never".to_owned(),
        Threshold::Always => "any".to_owned(),
        Threshold::Below(figure) => format!("below {}", show(figure)),
        Threshold::UpTo(figure) => format!("up to {}", show(figure)),
    }
}

/// A price with four digits that count: nobody sets the ninth digit behind the point.
fn short_price(text: &str) -> String {
    let Ok(price) = text.parse::<NanoDollars>() else { return human::shown(text) };
    let unit = 10_u64.pow((price.get().max(1).ilog10() + 1).saturating_sub(4));
    NanoDollars::new((price.get() + unit / 2) / unit * unit).to_string()
}

/// A number with `digits` that count, as long as it has no more in front of the point.
fn rounded(number: f64, digits: i32) -> String {
    let in_front = if number == 0.0 { 1 } else { number.abs().log10().floor() as i32 + 1 };
    let behind = (digits - in_front).clamp(0, 9) as usize;
    let text = format!("{number:.behind$}");
    if behind == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_owned() }
}

fn latency(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| UNKNOWN.to_owned(), human::latency)
}

/// `A`, `A and B`, `A, B and C`.
fn list(names: &[&str]) -> String {
    match names {
        [firsts @ .., last] if !firsts.is_empty() => format!("{} and {last}", firsts.join(", ")),
        names => names.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(policy: &str, reasons: [&str; 2]) -> Document {
        let route = |node: &str, price: &str, time_s: f64, reason: &str| {
            serde_json::json!({
                "node": node, "provider": node, "liveness": "alive", "price": price, "time_s": time_s, "score": time_s,
                "reason": reason, "time_parts": null, "wins": { "price": { "up_to": price }, "time_s": "never" },
            })
        };
        let [first, second] = reasons;
        let document = serde_json::json!({
            "policy": policy, "size": 4, "size_known": true, "price_basis": "server_hour", "left_out": [], "later": 1,
            "routes": [route("A", "0.10", 0.02, first), route("B", "0.30", 0.05, second)],
            "changes": { "by_price": "A", "by_time": "A", "if_lost": "B", "betas": [], "sizes": [] },
        });
        serde_json::from_value(document).unwrap()
    }

    fn sentence(policy: &str, reasons: [&str; 2]) -> String {
        let document = document(policy, reasons);
        why(&document.routes[0], &document.routes[1..])
    }

    #[test]
    fn every_reason_is_a_sentence() {
        for (policy, reasons, words) in [
            ("p", ["cheapest", "dearer"], "it is the cheapest, $0.10 against $0.30 at B"),
            ("n", ["fastest", "slower"], "it is the fastest, 20 ms against 50 ms at B"),
            ("c 0.5", ["best-score", "higher-score"], "it has the lowest score, 0.02 against 0.05 at B"),
            ("c 0.5", ["within-band", "within-band"], "B and it score so alike that the key decides"),
            ("p", ["tie-by-time", "slower"], "none is cheaper, and it is faster, 20 ms against 50 ms at B"),
            ("n", ["tie-by-price", "dearer"], "none is faster, and it is cheaper, $0.10 against $0.30 at B"),
            ("p", ["tie-by-key", "tie-by-key"], "it and B are equal in price and time, so the key decides"),
            ("p", ["suspect", "suspect"], "it is suspect, and no node that can be used is better off"),
        ] {
            assert_eq!(sentence(policy, reasons), format!("A is chosen: {words}."));
        }
        let mut document = document("p", ["cheapest", "dearer"]);
        document.routes.pop();
        assert_eq!(why(&document.routes[0], &[]), "A is chosen: it is the only node that can be.");
        document.routes.clear();
        assert!(page(&"a".parse().unwrap(), false, &document).ends_with("The edge knows no node."));
    }

    #[test]
    fn figures_have_the_digits_that_count() {
        for (price, text) in
            [("0.113999999", "0.114"), ("0.07", "0.07"), ("0.10", "0.10"), ("0", "0.00"), ("12.3456", "12.35")]
        {
            assert_eq!(short_price(price), text);
        }
        for (number, text) in [(0.0, "0"), (0.078_063, "0.07806"), (1.0, "1"), (123.456, "123.5"), (98_765.4, "98765")]
        {
            assert_eq!(rounded(number, 4), text);
        }
    }

    #[test]
    fn a_range_reads_from_its_begin_to_its_end() {
        let span = |node: &str, from, to| Span { node: node.parse().unwrap(), from, to };
        let show = |bytes: &u64| human::size(*bytes);
        assert_eq!(stretches(&[span("A", 0, None)], show), "A for any");
        let three = [span("A", 0, Some(50)), span("B", 50, Some(9_000)), span("A", 9_000, None)];
        assert_eq!(stretches(&three, show), "A up to 50 B, B up to 9.0 kB, then A");
        assert_eq!((list(&["A"]), list(&["A", "B", "C"])), ("A".to_owned(), "A, B and C".to_owned()));
    }
}
