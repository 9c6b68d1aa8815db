//! What fails in an upload: of many files with one cause the first is told at once, the others in one line at the end.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::plan::Item;
use crate::cli::human;

/// How many files of one cause are named besides the first.
const NAMED_MAX: usize = 5;

/// What has failed so far.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    causes: BTreeMap<String, Cause>,
    not_tried: u64,
    /// Which tries are announced again, and why; since the last success.
    retries: HashSet<(u32, String)>,
}

/// The files that one cause befell.
#[derive(Debug)]
struct Cause {
    first: PathBuf,
    /// How many more there are.
    more: u64,
    /// The first of these.
    named: Vec<String>,
}

impl Failures {
    /// Notes that `item` failed for this reason; answers whether that is to be told at once.
    pub(super) fn note(&self, item: &Item, reason: &str) -> bool {
        let mut told = self.told();
        if let Some(cause) = told.causes.get_mut(reason) {
            cause.more += 1;
            if cause.named.len() < NAMED_MAX {
                cause.named.push(human::shown(item.key.as_str()));
            }
            return false;
        }
        let cause = Cause { first: item.path.clone(), more: 0, named: Vec::new() };
        told.causes.insert(reason.to_owned(), cause);
        true
    }

    /// Notes that a file was not tried.
    pub(super) fn note_not_tried(&self) {
        self.told().not_tried += 1;
    }

    /// Notes that a file is tried for the `tried`th time for this reason; answers whether that is to be told.
    pub(super) fn note_retry(&self, tried: u32, reason: &str) -> bool {
        self.told().retries.insert((tried, reason.to_owned()))
    }

    /// Notes that a file was published: what fails from now on is news.
    pub(super) fn note_success(&self) {
        self.told().retries.clear();
    }

    /// What was not told at once, in lines; `failures` in a row have ended it if not all files were tried.
    pub(super) fn rest(&self, failures: usize) -> Vec<String> {
        let told = self.told();
        let causes = told.causes.values().filter(|cause| cause.more > 0);
        let mut lines: Vec<_> = causes.map(Cause::rest).collect();
        if told.not_tried > 0 {
            let files = human::counted(told.not_tried, "file was", "files were");
            lines.push(format!("{files} not tried after {failures} failures in a row: run the same command again"));
        }
        lines
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cause {
    fn rest(&self) -> String {
        let files = human::counted(self.more, "more file", "more files");
        let unnamed = match self.more - self.named.len() as u64 {
            0 => String::new(),
            unnamed => format!(" and {} more", human::count(unnamed)),
        };
        format!("{files} failed as {:?} did: {}{unnamed}", self.first, self.named.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_told_once_and_counted() {
        let failures = Failures::default();
        let item = |number: u32| Item {
            path: format!("docs/{number}").into(),
            key: format!("zz/{number}").parse().expect("a key"),
            size: 1,
        };
        let first = (0..9).filter(|number| failures.note(&item(*number), "refused")).collect::<Vec<_>>();
        assert_eq!(first, [0]);
        assert!(failures.note(&item(9), "cannot read docs/9"), "another cause");
        (0..1710).for_each(|_| failures.note_not_tried());
        assert_eq!(
            failures.rest(16),
            [
                "8 more files failed as \"docs/0\" did: zz/1, zz/2, zz/3, zz/4, zz/5 and 3 more",
                "1,710 files were not tried after 16 failures in a row: run the same command again"
            ]
        );
    }

    #[test]
    fn a_retry_is_told_again_after_a_success() {
        let failures = Failures::default();
        let told = || [2, 2, 3].map(|tried| failures.note_retry(tried, "refused"));
        assert_eq!((told(), told()), ([true, false, true], [false; 3]));
        failures.note_success();
        assert_eq!(told(), [true, false, true]);
    }
}
