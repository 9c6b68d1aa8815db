//! A configuration in the making: what the file, the environment and the flags said so far, and where.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::fields::{FIELDS, PATHS, PATHS_IN_TABLES, flatten, insert, section_of, to_tree};
use super::{Config, ConfigError, Problem, check, read};

/// Short for the variable of `log.filter`.
const LOG_VARIABLE: &str = "METACDN_LOG";

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// In a file.
    File {
        /// Which.
        path: Arc<Path>,
        /// The line, from 1.
        line: usize,
        /// The column, in characters from 1.
        column: usize,
    },
    /// By a variable of the environment.
    Variable(String),
    /// By a flag of the command line.
    Flag(&'static str),
    /// Nowhere.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
            Self::Default => f.write_str("default"),
        }
    }
}

#[derive(Debug, Clone)]
struct Given {
    value: Value,
    source: Source,
}

/// A configuration in the making. What is given later overrides what was given before.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    given: BTreeMap<String, Given>,
    /// The sections that a file has, also empty ones.
    sections: BTreeMap<String, Source>,
    problems: Vec<Problem>,
}

/// A configuration, and where each value of it comes from.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The configuration.
    pub config: Config,
    sources: BTreeMap<String, Source>,
}

impl Draft {
    /// What the file at `path` says.
    ///
    /// # Errors
    /// When it cannot be read or is not TOML; what else is wrong is told by [`Draft::build`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut draft = Self::default();
        let bytes = read(path)?;
        let file = FileText { path: path.into(), text: &String::from_utf8_lossy(&bytes) };
        let whole = |problem| ConfigError::Invalid(vec![problem]);
        if let Err(error) = std::str::from_utf8(&bytes) {
            // Up to the first bad byte, both texts are the same.
            return Err(whole(file.problem(error.valid_up_to(), "", "this is not UTF-8".to_owned())));
        }
        let (tree, errors) = DeTable::parse_recoverable(file.text);
        if !errors.is_empty() {
            let problem = |error: &toml::de::Error| {
                file.problem(error.span().map_or(0, |span| span.start), "", error.message().trim().to_owned())
            };
            return Err(ConfigError::Invalid(errors.iter().map(problem).collect()));
        }
        draft.take_table("", tree.get_ref(), &file);
        Ok(draft)
    }

    fn take_table(&mut self, parent: &str, table: &DeTable<'_>, file: &FileText<'_>) {
        for (name, value) in table {
            let path =
                if parent.is_empty() { name.get_ref().to_string() } else { format!("{parent}.{}", name.get_ref()) };
            // A quoted name may hold dots, and would pass for another field.
            if FIELDS.is_field(&path) && !name.get_ref().contains('.') {
                let source = file.source(value.span().start);
                let mut value = to_json(value);
                for text in paths_in(&path, &mut value) {
                    *text = file.folder().join(&*text).to_string_lossy().into_owned();
                }
                self.given.insert(path, Given { value, source });
                continue;
            }
            let at = name.span().start;
            match value.get_ref().as_table() {
                Some(inner) if FIELDS.is_table(&path) => {
                    self.sections.entry(section_of(&path).to_owned()).or_insert_with(|| file.source(at));
                    self.take_table(&path, inner, file);
                }
                _ if FIELDS.is_table(&path) => {
                    self.problems.push(file.problem(at, &path, format!("it is a table: write [{path}]")));
                }
                _ => self.problems.push(file.problem(at, &path, unknown("field", &FIELDS.advice(&path)))),
            }
        }
    }

    /// Overrides what the variables of an environment name.
    pub fn overlay_environment(&mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) {
        // Sorted, so that of the long and the short name of the filter the same one wins on every machine.
        let variables: BTreeMap<_, _> = variables.into_iter().collect();
        for (name, value) in variables.into_iter().rev() {
            let Some(name) = name.to_str() else { continue };
            let path = if name == LOG_VARIABLE { Some("log.filter") } else { FIELDS.of_variable(name) };
            let source = Source::Variable(name.to_owned());
            let problem = |reason: String| Problem { source: source.clone(), field: String::new(), reason };
            match (path, value.to_str()) {
                (Some(path), Some(text)) => {
                    let value = FIELDS.value_of_text(path, text);
                    self.given.insert(path.to_owned(), Given { value, source });
                }
                (Some(_), None) => self.problems.push(problem("this is not UTF-8".to_owned())),
                (None, _) if FIELDS.is_variable(name) => {
                    self.problems.push(problem(unknown("field", &FIELDS.advice_on_variable(name))));
                }
                (None, _) => {}
            }
        }
    }

    /// Overrides `field`, a whole path, by what the command line says with `flag`.
    pub fn set(&mut self, field: &'static str, value: impl Into<Value>, flag: &'static str) {
        self.give(field, value, Source::Flag(flag));
    }

    /// Gives `field`, a whole path, a value if nothing else has.
    pub fn set_default(&mut self, field: &'static str, value: impl Into<Value>) {
        if !self.given.contains_key(field) {
            self.give(field, value, Source::Default);
        }
    }

    fn give(&mut self, field: &'static str, value: impl Into<Value>, source: Source) {
        debug_assert!(FIELDS.is_field(field), "{field} is no field");
        self.given.insert(field.to_owned(), Given { value: value.into(), source });
    }

    /// Leaves a section away, with all that was said in it.
    pub fn remove_section(&mut self, section: &str) {
        self.sections.remove(section);
        self.given.retain(|path, _| section_of(path) != section);
    }

    /// What `field` was given, if it was, as text.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.given.get(field)?.value.as_str()
    }

    /// Whether `field` was given.
    pub fn has(&self, field: &str) -> bool {
        self.given.contains_key(field)
    }

    /// Whether the section was given, or a field in it.
    pub fn has_section(&self, section: &str) -> bool {
        self.sections.contains_key(section) || self.given.keys().any(|path| section_of(path) == section)
    }

    /// Copies `from` to `to` if `to` has nothing.
    pub fn fall_back(&mut self, to: &'static str, from: &str) {
        if let Some(given) = self.given.get(from).cloned()
            && !self.given.contains_key(to)
        {
            self.given.insert(to.to_owned(), given);
        }
    }

    /// The configuration that all of that makes, completed by the defaults.
    ///
    /// # Errors
    /// With all that is wrong in it.
    pub fn build(self) -> Result<Effective, ConfigError> {
        let Self { given, sections, mut problems } = self;
        for (path, Given { value, source }) in &given {
            if let Err(reason) = FIELDS.judge(path, value) {
                problems.push(Problem { source: source.clone(), field: path.clone(), reason });
            }
        }
        let mut needed: BTreeSet<&str> = sections.keys().map(String::as_str).collect();
        needed.extend(given.keys().map(|path| section_of(path)));
        let value = |path: &str| given.get(path).map(|given| &given.value).or_else(|| FIELDS.default(path));
        if proves_itself(&needed, value) {
            needed.insert("identity");
        }
        let mut tree = Map::new();
        for path in needed.iter().flat_map(|section| FIELDS.of_section(section)) {
            match value(path) {
                Some(value) => insert(&mut tree, path, value.clone()),
                None => {
                    let source = sections.get(section_of(path)).cloned().unwrap_or(Source::Default);
                    let mut reason = "it is missing".to_owned();
                    if needed.contains("edge") && section_of(path) == "identity" && !sections.contains_key("identity") {
                        reason.push_str(
                            ": only an edge without seeds, and with its admin_listen on loopback, needs none",
                        );
                    }
                    problems.push(Problem { source, field: path.to_owned(), reason });
                }
            }
        }
        if problems.is_empty() {
            let sources = given.into_iter().map(|(path, given)| (path, given.source)).collect();
            let config = Config::deserialize(Value::Object(tree)).map_err(|error| {
                ConfigError::Invalid(vec![Problem {
                    source: Source::Default,
                    field: String::new(),
                    reason: error.to_string(),
                }])
            })?;
            let effective = Effective { config, sources };
            problems = check::rules(&effective.config).into_iter().map(|rule| effective.problem(rule)).collect();
            if problems.is_empty() {
                return Ok(effective);
            }
        }
        problems.sort_by(|a, b| (&a.source, &a.field).cmp(&(&b.source, &b.field)));
        Err(ConfigError::Invalid(problems))
    }
}

impl Effective {
    /// Where the value of `field` comes from.
    pub fn source(&self, field: &str) -> &Source {
        self.sources.get(field).unwrap_or(&Source::Default)
    }

    /// Whether anyone gave `field` a value.
    pub fn is_set(&self, field: &str) -> bool {
        self.sources.contains_key(field)
    }

    /// All fields of the sections that there are, each with its value and where that comes from.
    pub fn values(&self) -> Vec<(String, Value, &Source)> {
        let leaves = flatten(&to_tree(&self.config)).into_iter();
        leaves
            .filter(|(path, _)| FIELDS.is_field(path))
            .map(|(path, value)| {
                let source = self.source(&path);
                (path, value, source)
            })
            .collect()
    }

    pub(super) fn problem(&self, (field, reason): (String, String)) -> Problem {
        Problem { source: self.source(&field).clone(), field, reason }
    }
}

/// Whether a process with these sections has to prove who it is: to nodes, and to operators who are not on its machine. An edge
/// that has sites alone need not.
fn proves_itself<'v>(sections: &BTreeSet<&str>, value: impl Fn(&str) -> Option<&'v Value>) -> bool {
    let has_seeds = || value("edge.seeds").and_then(Value::as_array).is_some_and(|seeds| !seeds.is_empty());
    // What is no address is told as such.
    let admin = || value("edge.admin_listen").and_then(Value::as_str)?.parse::<SocketAddr>().ok();
    let is_asked = || has_seeds() || admin().is_some_and(|at| !at.ip().is_loopback());
    sections.contains("node") || sections.contains("client") || sections.contains("edge") && is_asked()
}

/// The names of files and folders that are in the value of the field `path`.
fn paths_in<'v>(path: &str, value: &'v mut Value) -> Vec<&'v mut String> {
    match value {
        Value::String(text) if PATHS.contains(&path) => vec![text],
        Value::Array(tables) => {
            let is_path = |name: &str| PATHS_IN_TABLES.iter().any(|(list, field)| *list == path && *field == name);
            let fields = tables.iter_mut().filter_map(Value::as_object_mut).flatten();
            let texts = fields.filter_map(|(name, value)| if is_path(name) { Some(value) } else { None });
            texts.filter_map(|value| if let Value::String(text) = value { Some(text) } else { None }).collect()
        }
        _ => Vec::new(),
    }
}

fn unknown(what: &str, advice: &str) -> String {
    format!("there is no such {what}, {advice}")
}

/// What JSON has no form for, and no field takes, becomes text, so that the error shows it as it was written.
fn to_json(value: &Spanned<DeValue<'_>>) -> Value {
    match value.get_ref() {
        DeValue::Datetime(date) => Value::from(date.to_string()),
        DeValue::Float(float) if float.as_str().ends_with(['f', 'n']) => Value::from(float.as_str()),
        _ => Value::deserialize(ValueDeserializer::from(value.clone())).unwrap_or(Value::Null),
    }
}

/// A file, to find lines and columns in.
struct FileText<'a> {
    path: Arc<Path>,
    text: &'a str,
}

impl FileText<'_> {
    fn source(&self, offset: usize) -> Source {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        Source::File { path: self.path.clone(), line, column: before[line_start..].chars().count() + 1 }
    }

    fn problem(&self, offset: usize, field: &str, reason: String) -> Problem {
        Problem { source: self.source(offset), field: field.to_owned(), reason }
    }

    fn folder(&self) -> PathBuf {
        self.path.parent().map(Path::to_owned).unwrap_or_default()
    }
}
