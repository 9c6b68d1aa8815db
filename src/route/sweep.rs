//! Who would be chosen over a whole range of something that every score is linear in.
//!
//! The points at which the choice can change are solved for as crossings of lines, so none is missed between samples;
//! who is chosen between two of them is asked of the order itself.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::model::NodeId;

/// A stretch of a range over which one node is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span<T> {
    /// The node.
    pub node: NodeId,
    /// Where it begins.
    pub from: T,
    /// Where the next one begins, or the range ends; `None` for a range without end.
    pub to: Option<T>,
}

/// What a candidate is ranked by, from one end of the range (0) to the other (1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    pub(super) start: f64,
    pub(super) end: f64,
}

/// The stretches that begin at `starts`, which are in order, each with who is chosen from there to the next or, at last,
/// to `end`. Neighbours of the same choice are one.
pub(super) fn spans<T: Copy>(
    starts: &[T],
    end: Option<T>,
    chosen: impl Fn(T, Option<T>) -> Option<NodeId>,
) -> Vec<Span<T>> {
    let mut spans: Vec<Span<T>> = Vec::new();
    let ends = starts.iter().skip(1).copied().map(Some).chain([end]);
    for (from, to) in starts.iter().copied().zip(ends) {
        let Some(node) = chosen(from, to) else { continue };
        match spans.last_mut() {
            Some(last) if last.node == node => last.to = to,
            _ => spans.push(Span { node, from, to }),
        }
    }
    spans
}

/// The points between 0 and 1, in order, at which the lowest of `lines` changes or one comes within or leaves `band`
/// times the lowest.
pub(super) fn breaks(lines: &[Line], band: f64) -> Vec<f64> {
    let mut breaks = Vec::new();
    let by_start = |a: &&Line, b: &&Line| a.start.total_cmp(&b.start).then(a.end.total_cmp(&b.end));
    let Some(mut lowest) = lines.iter().min_by(by_start) else { return breaks };
    let mut from = 0.0;
    loop {
        let next = next_lowest(lines, lowest);
        let to = next.map_or(1.0, |(at, _)| at);
        breaks.extend(lines.iter().filter_map(|line| crossing(line, lowest, band)).filter(|at| *at > from && *at < to));
        let Some((at, line)) = next else { break };
        breaks.push(at);
        (lowest, from) = (line, at);
    }
    breaks.retain(|at| *at > 0.0 && *at < 1.0);
    breaks.sort_unstable_by(f64::total_cmp);
    breaks.dedup();
    breaks
}

/// The first line below `lowest` after it was the lowest, and where they cross.
fn next_lowest<'a>(lines: &'a [Line], lowest: &Line) -> Option<(f64, &'a Line)> {
    let falling = lines.iter().filter(|line| line.end < lowest.end);
    let crossings = falling.filter_map(|line| Some((crossing(line, lowest, 1.0)?, line)));
    crossings.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.end.total_cmp(&b.1.end)))
}

/// Where `line` crosses `factor` times `other`; `None` if it does not, or runs along it.
fn crossing(line: &Line, other: &Line, factor: f64) -> Option<f64> {
    let (start, end) = (line.start - factor * other.start, line.end - factor * other.end);
    let side = |distance: f64| distance.partial_cmp(&0.0);
    match (side(start)?, side(end)?) {
        (Ordering::Equal, Ordering::Equal) => None,
        (start_side, end_side) if start_side == end_side => None,
        _ => Some(start / (start - end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn line(start: f64, end: f64) -> Line {
        Line { start, end }
    }

    #[test]
    fn lines_cross_where_algebra_says() {
        assert_eq!(crossing(&line(1.0, 0.0), &line(0.0, 1.0), 1.0), Some(0.5));
        assert_eq!(crossing(&line(3.0, 0.0), &line(0.0, 1.0), 1.0), Some(0.75));
        assert_eq!(crossing(&line(1.0, 1.0), &line(0.0, 0.5), 1.0), None);
        assert_eq!(crossing(&line(1.0, 1.0), &line(1.0, 1.0), 1.0), None);
        // 1 + x = 2 (1 - x / 2), at 1/2.
        assert_eq!(crossing(&line(1.0, 2.0), &line(1.0, 0.5), 2.0), Some(0.5));
    }

    #[test]
    fn only_what_becomes_the_lowest_breaks_a_range() {
        let lines = [line(0.0, 1.0), line(0.6, 0.6), line(1.0, 0.0), line(2.0, 0.9)];
        assert_eq!(breaks(&lines, 1.0), [0.5]);
        let lines = [line(0.0, 1.0), line(0.25, 0.25), line(1.0, 0.0)];
        assert_eq!(breaks(&lines, 1.0), [0.25, 0.75]);
        assert!(breaks(&[], 1.0).is_empty() && breaks(&lines[..1], 1.0).is_empty());
        // Lines that begin together: the one that ends lower is the lowest from there on.
        assert!(breaks(&[line(1.0, 2.0), line(1.0, 0.5)], 1.0).is_empty());
    }

    #[test]
    fn a_band_breaks_where_a_line_enters_and_leaves_it() {
        // Below (1 - x) the other is twice as high from 1/3 on, and it is the lower one from 1/2 on; until 2/3 the first
        // is within its band.
        let breaks = breaks(&[line(0.0, 1.0), line(1.0, 0.0)], 2.0);
        let expected = [1.0 / 3.0, 0.5, 2.0 / 3.0];
        assert!(breaks.len() == 3 && breaks.iter().zip(expected).all(|(at, wanted)| (at - wanted).abs() < 1e-12));
    }

    #[test]
    fn neighbouring_stretches_of_one_node_are_one() {
        let name = |text: &str| text.parse::<NodeId>().expect("a name");
        let found = spans(&[0, 25, 50], None, |from, _| Some(name(if from < 50 { "A" } else { "B" })));
        let expected = [Span { node: name("A"), from: 0, to: Some(50) }, Span { node: name("B"), from: 50, to: None }];
        assert_eq!(found, expected);
        assert!(spans(&[0, 1], None, |_, _| None).is_empty());
    }
}
