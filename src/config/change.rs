//! What a running edge is to become by a configuration that was read since.

use std::collections::BTreeSet;

use super::fields::{FIELDS, flatten, section_of, to_tree};
use super::{Config, Effective};
use crate::edge;

/// What only commands of a person read.
const OF_COMMANDS: &str = "client";

impl Effective {
    /// What the edge of a process that was started with this configuration, and runs with `running`, is to become by
    /// `fresh`.
    ///
    /// # Errors
    /// When `fresh` has no edge.
    pub fn change(&self, running: &edge::Config, fresh: &Self) -> Result<edge::Change, String> {
        let Some(new) = &fresh.config.edge else {
            return Err("there is no section [edge] any more: end the process, or write it again".to_owned());
        };
        let with = |edge: edge::Config| Config { edge: Some(edge), ..self.config.clone() };
        let next = with(running.reloaded(new));
        Ok(edge::Change {
            changed: differences(&with(running.clone()), &next),
            needs_restart: differences(&next, &fresh.config),
            config: running.reloaded(new),
        })
    }
}

/// The fields by which two configurations differ, and the sections that one of them lacks.
fn differences(before: &Config, after: &Config) -> Vec<String> {
    let (before, after) = (flatten(&to_tree(before)), flatten(&to_tree(after)));
    let paths: BTreeSet<_> = before.keys().chain(after.keys()).filter(|path| section_of(path) != OF_COMMANDS).collect();
    let differing = paths.into_iter().filter_map(|path| match (before.get(path), after.get(path)) {
        (Some(a), Some(b)) => (a != b).then_some(path.as_str()),
        _ if FIELDS.is_field(path) => Some(section_of(path)),
        _ => None,
    });
    differing.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Draft;

    fn effective(change: impl FnOnce(&mut Draft)) -> Effective {
        let mut draft = Draft::default();
        for (field, value) in [
            ("identity.authority", "a"),
            ("identity.certificate", "c"),
            ("identity.key", "k"),
            ("edge.origin_authority", "o"),
        ] {
            draft.set(field, value, "--test");
        }
        draft.set("edge.seeds", vec!["a:1"], "--test");
        change(&mut draft);
        draft.build().unwrap()
    }

    #[test]
    fn what_can_change_changes_and_all_else_is_named() {
        let started = effective(|_| {});
        let fresh = effective(|draft| {
            draft.set("edge.listen", "127.0.0.1:99", "--test");
            draft.set("edge.hosts", vec!["cdn.example.org"], "--test");
            draft.set("edge.route.policy", "n", "--test");
            draft.set("edge.route.measure.rate_bytes_min", 7, "--test");
            draft.set("edge.compression.codings", Vec::<String>::new(), "--test");
            draft.set("log.format", "json", "--test");
            draft.set("node.id", "AWS", "--test");
            draft.set("node.data", "data", "--test");
            draft.set("client.seeds", vec!["b:1"], "--test");
        });
        let running = started.config.edge.clone().unwrap();
        let change = started.change(&running, &fresh).unwrap();
        assert_eq!(change.changed, ["edge.compression.codings", "edge.hosts", "edge.route.policy"]);
        let needs = ["edge.listen", "edge.route.measure.rate_bytes_min", "log.format", "node"];
        assert_eq!(change.needs_restart, needs);
        assert_eq!((change.config.hosts.len(), change.config.listen), (1, running.listen));
        // What waits for a restart is told each time.
        let again = started.change(&change.config, &fresh).unwrap();
        assert_eq!((again.changed.len(), again.needs_restart), (0, change.needs_restart));
        let same = started.change(&running, &started).unwrap();
        assert!(same.changed.is_empty() && same.needs_restart.is_empty(), "{same:?}");
        let none = effective(|draft| draft.remove_section("edge"));
        assert!(started.change(&running, &none).is_err());
    }
}
