//! The fields that a configuration can have, with their defaults: read off the `Config` types themselves, so that no
//! list has to be kept.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::{ClientConfig, Config, IdentityFiles};
use crate::model::Address;
use crate::{cache, edge, node, telemetry};

/// The fields of [`Config`].
pub(super) static FIELDS: LazyLock<Fields> = LazyLock::new(Fields::read_off);

/// The fields that name a file or folder: relative ones start at the folder of the file that says so.
pub(super) const PATHS: [&str; 8] = [
    "identity.authority",
    "identity.certificate",
    "identity.key",
    "node.data",
    "edge.origin_authority",
    "edge.cache.disk.folder",
    "edge.access_log.path",
    "edge.ledger",
];

/// The same within lists of tables.
pub(super) const PATHS_IN_TABLES: [(&str, &str); 2] =
    [("edge.certificate", "certificate"), ("edge.certificate", "key")];

/// The whole paths of all fields, in their order.
pub fn field_names() -> impl Iterator<Item = &'static str> {
    FIELDS.leaves.keys().map(String::as_str)
}

/// What is known of the fields.
pub(super) struct Fields {
    /// A whole configuration in which each field has a value.
    sample: Map<String, Value>,
    /// The same, by the whole path of each field.
    leaves: BTreeMap<String, Value>,
    /// What those fields have that nobody set; null if that is nothing.
    defaults: BTreeMap<String, Value>,
}

impl Fields {
    fn read_off() -> Self {
        let address: Address = "localhost:22222".parse().expect("an address");
        let identity = PathBuf::from("identity.pem");
        let node = node::Config::new("AWS".parse().expect("a name"), "data".into());
        let default = Config {
            identity: Some(IdentityFiles { authority: identity.clone(), certificate: identity.clone(), key: identity }),
            log: telemetry::Config::default(),
            client: Some(ClientConfig { seeds: vec![address.clone()], edge: None }),
            node: Some(node.clone()),
            edge: Some(edge::Config::default()),
        };
        let mut sample = default.clone();
        sample.client = Some(ClientConfig {
            seeds: vec![address.clone()],
            edge: Some("127.0.0.1:8081".parse().expect("an address")),
        });
        sample.node = Some(node::Config {
            provider: Some("AWS".parse().expect("a name")),
            fetch_bytes_per_second: NonZeroU64::new(12_500_000),
            advertise: Some(address.clone()),
            download_advertise: Some(address),
            ..node
        });
        sample.edge = Some(edge::Config {
            tls_listen: Some("127.0.0.1:8443".parse().expect("an address")),
            origin_authority: Some("authority.pem".into()),
            shield: edge::ShieldConfig {
                listen: Some("127.0.0.1:8444".parse().expect("an address")),
                this: Some("localhost:8444".parse().expect("an address")),
                ..Default::default()
            },
            threads: NonZeroUsize::new(2),
            route: crate::route::Config {
                price_scale_nano_dollars: NonZeroU64::new(1_000_000_000),
                ..Default::default()
            },
            cache: cache::Config {
                disk: cache::disk::Config { folder: Some("cache".into()), ..Default::default() },
                ..Default::default()
            },
            ledger: Some("ledger.json".into()),
            access_log: edge::access_log::Config {
                path: Some("access.log".into()),
                rotate_bytes: NonZeroU64::new(1 << 30),
                ..Default::default()
            },
            ..edge::Config::default()
        });
        let sample = to_tree(&sample);
        let leaves = flatten(&sample);
        let mut defaults = flatten(&to_tree(&default));
        defaults.retain(|path, _| !is_required(&sample, path));
        Self { sample, leaves, defaults }
    }

    pub(super) fn is_field(&self, path: &str) -> bool {
        self.leaves.contains_key(path)
    }

    pub(super) fn is_table(&self, path: &str) -> bool {
        path.split('.').try_fold(&self.sample, |tree, name| tree.get(name)?.as_object()).is_some()
    }

    /// What `path` has when nobody sets it; `None` if it must be set.
    pub(super) fn default(&self, path: &str) -> Option<&Value> {
        self.defaults.get(path)
    }

    /// The fields of the section `section`.
    pub(super) fn of_section<'a>(&'a self, section: &'a str) -> impl Iterator<Item = &'a str> {
        self.leaves.keys().map(String::as_str).filter(move |path| section_of(path) == section)
    }

    /// Whether `value` can stand in the field `path`, or why not.
    pub(super) fn judge(&self, path: &str, value: &Value) -> Result<(), String> {
        let mut tree = self.sample.clone();
        insert(&mut tree, path, value.clone());
        let Err(error) = serde_json::from_value::<Config>(Value::Object(tree)) else { return Ok(()) };
        let (reason, value) = (error.to_string(), value.to_string());
        if reason.contains(&value) {
            return Err(reason);
        }
        let shown: String = value.chars().take(80).collect();
        Err(format!("{shown}: {reason}"))
    }

    /// The value that `text` in the environment means for the field `path`.
    pub(super) fn value_of_text(&self, path: &str, text: &str) -> Value {
        match self.leaves.get(path) {
            Some(Value::Array(_)) => text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect(),
            // What is no number or no truth is judged as the text it is.
            Some(Value::Number(_) | Value::Bool(_)) => {
                serde_json::from_str(text.trim()).unwrap_or_else(|_| Value::from(text))
            }
            _ => Value::from(text),
        }
    }

    /// What to do about the unknown field or table `path`.
    pub(super) fn advice(&self, path: &str) -> String {
        let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
        let siblings = self.children(parent);
        if let Some(similar) = most_similar(name, siblings.iter().copied()) {
            return format!("did you mean `{similar}`?");
        }
        let elsewhere = |place: &&String| place.rsplit_once('.').is_some_and(|(_, last)| last == name);
        let same_section = |place: &&String| section_of(place) == section_of(path);
        let mut places: Vec<_> = self.leaves.keys().filter(elsewhere).collect();
        if places.iter().any(same_section) {
            places.retain(same_section);
        }
        let list = |names: &mut dyn Iterator<Item = &str>| names.map(|name| format!("`{name}`")).collect::<Vec<_>>();
        if !places.is_empty() {
            return format!("did you mean {}?", list(&mut places.into_iter().map(String::as_str)).join(" or "));
        }
        format!("here can stand {}", list(&mut siblings.into_iter()).join(", "))
    }

    /// The names of the fields and tables directly below `parent`.
    fn children(&self, parent: &str) -> BTreeSet<&str> {
        let below = |path: &'_ str| -> Option<usize> {
            if parent.is_empty() {
                return Some(0);
            }
            path.strip_prefix(parent)?.starts_with('.').then_some(parent.len() + 1)
        };
        let names = self.leaves.keys().filter_map(|path| path[below(path)?..].split('.').next());
        names.collect()
    }

    /// The field that the variable `name` of the environment sets.
    pub(super) fn of_variable(&self, name: &str) -> Option<&str> {
        self.leaves.keys().find(|path| variable(path) == name).map(String::as_str)
    }

    /// Whether `name` is of the form of a variable that sets a field, whether or not there is such a field.
    pub(super) fn is_variable(&self, name: &str) -> bool {
        self.sample.keys().any(|section| name.starts_with(&format!("{}_", variable(section))))
    }

    /// What to do about the unknown variable `name`.
    pub(super) fn advice_on_variable(&self, name: &str) -> String {
        let known: Vec<_> = self.leaves.keys().map(|path| variable(path)).collect();
        match most_similar(name, known.iter().map(String::as_str)) {
            Some(similar) => format!("did you mean {similar}?"),
            None => "`metacdn config show` lists the fields".to_owned(),
        }
    }
}

/// The variable of the environment that sets the field `path`.
pub(super) fn variable(path: &str) -> String {
    format!("METACDN_{}", path.replace('.', "_").to_ascii_uppercase())
}

/// The first part of a path.
pub(super) fn section_of(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

/// A configuration as a tree of tables.
pub(super) fn to_tree(config: &Config) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(tree)) => tree,
        _ => unreachable!("a configuration is a table of text and numbers"),
    }
}

/// The fields of a tree by their whole paths.
pub(super) fn flatten(tree: &Map<String, Value>) -> BTreeMap<String, Value> {
    let mut leaves = BTreeMap::new();
    for (name, value) in tree {
        match value {
            Value::Object(branch) => {
                leaves.extend(flatten(branch).into_iter().map(|(path, value)| (format!("{name}.{path}"), value)));
            }
            value => drop(leaves.insert(name.clone(), value.clone())),
        }
    }
    leaves
}

/// Puts `value` at `path`, making the tables above it.
pub(super) fn insert(tree: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(tree.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let branch = tree.entry(first).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(branch) = branch {
                insert(branch, rest, value);
            }
        }
    }
}

fn is_required(sample: &Map<String, Value>, path: &str) -> bool {
    let mut tree = sample.clone();
    let mut branch = &mut tree;
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            branch.remove(name);
            break;
        }
        let Some(Value::Object(next)) = branch.get_mut(name) else { break };
        branch = next;
    }
    serde_json::from_value::<Config>(Value::Object(tree)).is_err()
}

/// The one of `names` that `name` is a likely slip of.
fn most_similar<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters wrong is the most that still looks like the same word.
    let distance_max = name.chars().count().div_ceil(3).min(4);
    let near = names.map(|known| (distance(name, known), known));
    near.filter(|(distance, _)| *distance <= distance_max).min().map(|(_, known)| known)
}

/// How many letters were added, left out, exchanged or swapped with their neighbour (optimal string alignment).
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<_>, Vec<_>) = (one.chars().collect(), other.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let exchanged = rows[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let mut least = exchanged.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_slips() {
        for (one, other, expected) in
            [("", "", 0), ("abc", "", 3), ("listen", "lisen", 1), ("listen", "lsiten", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!((distance(one, other), distance(other, one)), (expected, expected), "{one} {other}");
        }
    }

    #[test]
    fn fields_are_read_off_the_types() {
        let required: Vec<_> = field_names().filter(|path| FIELDS.default(path).is_none()).collect();
        assert_eq!(
            required,
            ["client.seeds", "identity.authority", "identity.certificate", "identity.key", "node.data", "node.id"]
        );
        assert_eq!(FIELDS.default("edge.serve.connections_max"), Some(&8192.into()));
        assert_eq!(FIELDS.default("node.advertise"), Some(&Value::Null));
        assert!(FIELDS.is_table("edge.route.measure") && !FIELDS.is_table("edge.listen") && !FIELDS.is_table("edg"));
        for path in PATHS {
            assert!(FIELDS.is_field(path), "{path}");
        }
    }

    #[test]
    fn every_field_has_its_own_variable() {
        let variables: BTreeSet<_> = field_names().map(variable).collect();
        assert_eq!(variables.len(), field_names().count());
        for path in field_names() {
            assert_eq!(FIELDS.of_variable(&variable(path)), Some(path));
            assert!(FIELDS.is_variable(&variable(path)), "{path}");
        }
        for other in ["METACDN_CONFIG", "METACDN_HOME", "METACDN_LOG", "HOME", "METACDN_NODES"] {
            assert!(!FIELDS.is_variable(other), "{other}");
        }
    }

    #[test]
    fn slips_are_recognised() {
        for (slip, advice) in [
            ("node.lisen", "did you mean `listen`?"),
            ("nod", "did you mean `node`?"),
            ("edge.serve.conections_max", "did you mean `connections_max`?"),
            ("edge.policy", "did you mean `edge.route.policy`?"),
            (
                "suspect_after_ms",
                "did you mean `edge.membership.suspect_after_ms` or `node.membership.suspect_after_ms`?",
            ),
            ("client.xyz", "here can stand `edge`, `seeds`"),
        ] {
            assert_eq!(FIELDS.advice(slip), advice, "{slip}");
        }
        assert_eq!(FIELDS.advice_on_variable("METACDN_NODE_LISEN"), "did you mean METACDN_NODE_LISTEN?");
    }

    #[test]
    fn values_are_judged_one_by_one() {
        let judge = |path, value: Value| FIELDS.judge(path, &value).err().unwrap_or_default();
        assert_eq!(judge("node.listen", "[::1]:80".into()), "");
        assert_eq!(judge("node.listen", "localhost".into()), "\"localhost\": invalid socket address syntax");
        assert!(judge("node.packets", "opn".into()).contains("expected `closed` or `open`"));
        assert!(judge("node.id", "a.b".into()).contains("\"a.b\" is not a name"));
        assert!(judge("node.seeds", vec!["a:1", "b"].into()).contains("\"b\" is not an address"));
        assert!(judge("node.object_bytes_max", (-1).into()).contains("-1"));
        assert!(judge("edge.route.policy", "c 2".into()).contains("\"2\""));
        assert!(judge("node.fetch_parallel", 0.into()).contains("nonzero"));
        assert!(judge("node.data", Value::Object(Map::new())).contains("map"));
    }
}
