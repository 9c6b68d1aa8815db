//! `metacdn config`: whether a configuration can be started, and what counts in the end.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::Output;
use super::run::{draft, file_or_default};
use crate::config::{ConfigError, Effective, Problem, Verified};

/// Check or show a configuration.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say whether `metacdn run` would start, and what; or all that is wrong
    Check {
        /// The configuration [default: --config, else metacdn.toml]
        file: Option<PathBuf>,
    },
    /// Show each value that counts, and whether the file, the environment or nobody gave it
    Show {
        /// The configuration [default: --config, else metacdn.toml]
        file: Option<PathBuf>,
    },
}

/// Does what `command` says, on the file it names, or else `config`.
///
/// # Errors
/// With all that is wrong in the configuration.
pub fn run(command: Command, config: Option<&Path>, output: Output) -> anyhow::Result<()> {
    let chosen = |file: Option<PathBuf>| file_or_default(file.as_deref().or(config));
    match command {
        Command::Check { file } => check(&chosen(file), output),
        Command::Show { file } => show(&chosen(file), output),
    }
}

fn check(file: &Path, output: Output) -> anyhow::Result<()> {
    match verify(file) {
        Ok((effective, verified)) if output.is_json() => output.answer(facts(&effective, &verified)),
        Ok((effective, verified)) => output.answer(report(file, &effective, &verified).trim_end()),
        Err(error) => {
            if output.is_json() {
                output.answer(json!({ "ok": false, "problems": problems(&error) }))?;
            }
            Err(error)
        }
    }
}

fn show(file: &Path, output: Output) -> anyhow::Result<()> {
    let effective = draft(Some(file))?.build()?;
    if output.is_json() {
        return output.answer(values_as_json(&effective));
    }
    output.answer(values_as_toml(&effective).trim_end())
}

fn verify(file: &Path) -> anyhow::Result<(Effective, Verified)> {
    let effective = draft(Some(file))?.build()?;
    let verified = effective.verify(SystemTime::now())?;
    Ok((effective, verified))
}

/// What would start, for a person.
fn report(file: &Path, effective: &Effective, verified: &Verified) -> String {
    let config = &effective.config;
    let mut text = format!("{} is good\n", file.display());
    if let Some(node) = &config.node {
        let provider = node.provider.as_ref().map_or(node.id.as_str(), |provider| provider.as_str());
        text += &format!("starts node {} at {provider}, data in {}\n", node.id, node.data.display());
        text += &format!("  packets and API  {}\n", node.listen);
        text += &format!("  downloads        {}\n", node.download_listen);
        text += &format!("  prices           {}\n", node.price_listen);
    }
    if let Some(edge) = &config.edge {
        text += &format!("starts an edge, policy {}\n", edge.route.policy);
        text += &format!("  users            {}\n", edge.listen);
        text += &format!("  operators        {}\n", edge.admin_listen);
    }
    if config.node.is_none() && config.edge.is_none() {
        text += "starts nothing: it is for the commands of a person\n";
    }
    text += &match &verified.identity {
        Some(identity) => {
            format!("as {}, certificate valid until {}\n", identity.principal(), instant(identity.expires_at()))
        }
        None => "as nobody: it speaks to no cluster\n".to_owned(),
    };
    for warning in &verified.warnings {
        text += &format!("warning: {warning}\n");
    }
    text
}

/// What would start, for a program.
fn facts(effective: &Effective, verified: &Verified) -> Value {
    let config = &effective.config;
    let listeners: serde_json::Map<_, _> =
        config.listeners().into_iter().map(|(field, at)| (field.to_owned(), at.to_string().into())).collect();
    json!({
        "ok": true,
        "node": config.node.as_ref().map(|node| &node.id),
        "edge": config.edge.is_some(),
        "listeners": listeners,
        "identity": verified.identity.as_ref().map(|identity| identity.principal().to_string()),
        "expires_at": verified.identity.as_ref().map(|identity| instant(identity.expires_at())),
        "warnings": verified.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn problems(error: &anyhow::Error) -> Vec<Value> {
    let as_json = |problem: &Problem| json!({ "source": problem.source.to_string(), "field": problem.field, "reason": problem.reason });
    match error.downcast_ref::<ConfigError>() {
        Some(ConfigError::Invalid(problems)) => problems.iter().map(as_json).collect(),
        _ => vec![json!({ "reason": format!("{error:#}") })],
    }
}

fn values_as_json(effective: &Effective) -> Value {
    let values = effective.values().into_iter().map(|(path, value, source)| {
        let entry = json!({ "value": value, "source": source.to_string() });
        (path, entry)
    });
    Value::Object(values.collect())
}

/// The values as a configuration that says the same, each with its source behind it.
fn values_as_toml(effective: &Effective) -> String {
    let mut tables: Vec<(String, Vec<String>)> = Vec::new();
    for (path, value, source) in effective.values() {
        let (table, name) = path.rsplit_once('.').unwrap_or(("", &path));
        // JSON's text, numbers, truths and lists of text are TOML's, too.
        let line = match value {
            Value::Null => format!("# {name} is not set"),
            value => format!("{name} = {value}  # {source}"),
        };
        match tables.iter_mut().find(|(known, _)| known == table) {
            Some((_, lines)) => lines.push(line),
            None => tables.push((table.to_owned(), vec![line])),
        }
    }
    let table = |(name, lines): &(String, Vec<String>)| format!("[{name}]\n{}\n", lines.join("\n"));
    tables.iter().map(table).collect::<Vec<_>>().join("\n")
}

fn instant(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "a time beyond the calendar".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Draft;

    #[test]
    fn what_is_shown_says_the_same_when_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metacdn.toml");
        let text = "[identity]\nauthority = 'a'\ncertificate = 'c'\nkey = 'k \"\\'\n[edge]\nseeds = ['a:1', 'b:1']\n";
        std::fs::write(&path, text).unwrap();
        let first = Draft::read(&path).unwrap().build().unwrap();
        let shown = values_as_toml(&first);
        assert!(
            shown.contains("metacdn.toml:6:9") && shown.contains("listen = \"127.0.0.1:8080\"  # default"),
            "{shown}"
        );
        let again = folder.path().join("again.toml");
        std::fs::write(&again, &shown).unwrap();
        let second = Draft::read(&again).unwrap().build().unwrap();
        let values = |effective: &Effective| {
            effective.values().into_iter().map(|(path, value, _)| (path, value)).collect::<Vec<_>>()
        };
        assert_eq!(values(&first), values(&second));
        assert_eq!(values_as_json(&first)["edge.seeds"]["value"], json!(["a:1", "b:1"]));
    }
}
