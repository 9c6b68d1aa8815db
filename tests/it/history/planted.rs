//! The checker finds every violation that is planted, and none in a history that has none.

use std::time::Duration;

use metacdn::model::{ContentHash, Epoch, HybridTime, Origin, Version};

use super::checker::{Evidence, late_read_violations, violations};
use super::{Contents, Did, Listed, Operation, State};

fn version(time: u64, node: &str) -> Version {
    let origin = Origin { node: node.parse().unwrap(), epoch: Epoch::from_bits(1) };
    Version { time: HybridTime::from_unix_ms(time), origin, sequence: time }
}

fn bytes(text: &str) -> State {
    Some(ContentHash::of(text.as_bytes()))
}

fn listed(time: u64, node: &str, state: State) -> Listed {
    Listed { version: version(time, node), state }
}

/// An operation from `at` to one unit later.
fn operation(at: u64, node: &'static str, key: &str, did: Did) -> Operation {
    let (invoked, returned) = (Duration::from_millis(at * 10), Duration::from_millis(at * 10 + 9));
    Operation { client: 0, node, key: key.to_owned(), invoked, returned, did }
}

fn wrote(at: u64, node: &'static str, key: &str, text: &str) -> Operation {
    operation(at, node, key, Did::Wrote(bytes(text), version(at, node)))
}

fn deleted(at: u64, node: &'static str, key: &str) -> Operation {
    operation(at, node, key, Did::Wrote(None, version(at, node)))
}

fn read(at: u64, node: &'static str, key: &str, seen: Option<Listed>) -> Operation {
    operation(at, node, key, Did::Read(seen))
}

/// A history without a fault: `a` is overwritten at another node, `b` deleted, and a write of `c` had no answer.
fn good() -> (Vec<Operation>, Contents) {
    let operations = vec![
        wrote(1, "A", "a", "a1"),
        read(2, "B", "a", None),
        wrote(3, "B", "b", "b3"),
        read(4, "B", "a", Some(listed(1, "A", bytes("a1")))),
        wrote(5, "B", "a", "a5"),
        read(6, "A", "a", Some(listed(1, "A", bytes("a1")))),
        read(7, "A", "a", Some(listed(5, "B", bytes("a5")))),
        deleted(8, "B", "b"),
        operation(9, "A", "c", Did::MayHaveWritten(bytes("c9"))),
        read(10, "B", "b", Some(listed(8, "B", None))),
        read(11, "B", "c", Some(listed(9, "A", bytes("c9")))),
    ];
    let after = [
        ("a".to_owned(), listed(5, "B", bytes("a5"))),
        ("b".to_owned(), listed(8, "B", None)),
        ("c".to_owned(), listed(9, "A", bytes("c9"))),
    ];
    (operations, after.into_iter().collect())
}

fn judge(operations: &[Operation], after: &[(&'static str, Contents)]) -> Vec<String> {
    violations(&Evidence { before: &Contents::new(), operations, after })
}

#[test]
fn a_history_without_a_fault_has_no_violation() {
    let (operations, after) = good();
    assert_eq!(judge(&operations, &[("A", after.clone()), ("B", after.clone())]), [""; 0]);
    // What it ends with is what the next one begins with.
    let next = [read(1, "A", "b", Some(listed(8, "B", None))), wrote(12, "A", "a", "a12")];
    let mut then = after.clone();
    then.insert("a".to_owned(), listed(12, "A", bytes("a12")));
    let evidence = Evidence { before: &after, operations: &next, after: &[("A", then)] };
    assert_eq!(violations(&evidence), [""; 0]);
}

/// Changes the good history and answers what the checker says.
fn planted(change: impl FnOnce(&mut Vec<Operation>, &mut Contents)) -> String {
    let (mut operations, mut after) = good();
    change(&mut operations, &mut after);
    judge(&operations, &[("A", after.clone()), ("B", after)]).join("\n")
}

#[test]
fn nodes_that_end_apart_are_found() {
    let (operations, after) = good();
    let mut other = after.clone();
    other.insert("a".to_owned(), listed(1, "A", bytes("a1")));
    assert!(judge(&operations, &[("A", after.clone()), ("B", other)]).join("\n").contains("a ends as"));
    let mut fewer = after.clone();
    fewer.remove("b");
    assert!(judge(&operations, &[("A", fewer), ("B", after)]).join("\n").contains("b ends as None at A"));
}

#[test]
fn what_is_lost_or_returns_is_found() {
    let lost = planted(|_, after| {
        after.insert("a".to_owned(), listed(1, "A", bytes("a1")));
    });
    assert!(lost.contains("but was") && lost.contains("a ends as"), "{lost}");
    let gone = planted(|_, after| drop(after.remove("a")));
    assert!(gone.contains("a ends as None, but was"), "{gone}");
    let returned = planted(|_, after| drop(after.insert("b".to_owned(), listed(3, "B", bytes("b3")))));
    assert!(returned.contains("b ends as"), "{returned}");
    // A write without an answer may be lost, but not once it was seen.
    let seen = planted(|_, after| drop(after.remove("c")));
    assert!(seen.contains("c ends as None, but was"), "{seen}");
    let unseen = planted(|operations, after| {
        operations.retain(|operation| operation.key != "c" || matches!(operation.did, Did::MayHaveWritten(_)));
        after.remove("c");
    });
    assert_eq!(unseen, "");
}

#[test]
fn what_nobody_wrote_is_found() {
    let other = |state| planted(|_, after| drop(after.insert("a".to_owned(), listed(20, "A", state))));
    assert!(other(bytes("never")).contains("which nobody wrote"), "bytes");
    assert!(other(bytes("a5")).contains("which nobody wrote"), "known bytes as another version");
    assert!(other(None).contains("which nobody wrote"), "a deletion");
    let elsewhere = planted(|_, after| drop(after.insert("c".to_owned(), listed(9, "B", bytes("c9")))));
    assert!(elsewhere.contains("which nobody wrote"), "{elsewhere}");
    let early = planted(|operations, _| operations.push(read(0, "A", "a", Some(listed(1, "A", bytes("a1"))))));
    assert!(early.contains("written later"), "{early}");
}

#[test]
fn a_node_that_goes_back_is_found() {
    let old = || Some(listed(1, "A", bytes("a1")));
    let back = planted(|operations, _| operations.push(read(12, "A", "a", old())));
    assert!(back.contains("saw something older"), "{back}");
    let own = planted(|operations, _| operations.push(read(6, "B", "a", old())));
    assert!(own.contains("saw something older"), "who wrote there reads what was written: {own}");
    let nothing = planted(|operations, _| operations.push(read(12, "A", "a", None)));
    assert!(nothing.contains("saw nothing after"), "{nothing}");
    let overlapping = planted(|operations, _| {
        let mut read = read(1, "A", "a", None);
        read.returned = Duration::from_millis(100);
        operations.push(read);
    });
    assert_eq!(overlapping, "", "what runs at the same time has no order");
}

#[test]
fn stamps_that_do_not_rise_are_found() {
    let stamped = |at: u64, time: u64| {
        planted(move |operations, after| {
            let did = Did::Wrote(bytes("d"), version(time, "A"));
            operations.push(operation(at, "A", "d", did));
            after.insert("d".to_owned(), listed(time, "A", bytes("d")));
        })
    };
    assert_eq!(stamped(12, 12), "");
    assert!(stamped(12, 4).contains("was stamped no later"), "A has shown version 5 before");
}

#[test]
fn a_late_read_of_something_else_is_found() {
    let (_, after) = good();
    let reads = |seen| [("A", "b".to_owned(), None), ("B", "a".to_owned(), seen)];
    assert_eq!(late_read_violations(&after, &reads(bytes("a5"))), [""; 0]);
    assert_eq!(late_read_violations(&after, &reads(bytes("a1"))).len(), 1);
    assert_eq!(late_read_violations(&after, &reads(None)).len(), 1);
}
