//! The log: what is written, in which form, and where to.
//!
//! Lines go to standard error, so that what a command prints can be read by a program.

use std::io::{self, IsTerminal};

use serde::{Deserialize, Serialize};
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people: coloured on a terminal, unless `NO_COLOR` is set.
    #[default]
    Text,
    /// For programs: one JSON object.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The form of a line.
    pub format: Format,
    /// The least grave level that is written (`error`, `warn`, `info`, `debug`, `trace`), or several for parts of the
    /// program: `info,metacdn::edge=debug`.
    pub filter: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { format: Format::default(), filter: "info".to_owned() }
    }
}

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter has no meaning.
    #[error("{0:?} is no filter: write a level (error, warn, info, debug, trace) or PART=LEVEL, separated by commas")]
    Filter(String, #[source] ParseError),
    /// This process logs already.
    #[error("the log is set up already")]
    Twice(#[source] TryInitError),
}

impl Config {
    /// The log of a command that does its work and ends: only what went wrong, unless `filter` says otherwise.
    pub fn of_command(filter: Option<String>) -> Self {
        Self { format: Format::Text, filter: filter.unwrap_or_else(|| "warn".to_owned()) }
    }

    /// The filter, parsed.
    ///
    /// # Errors
    /// [`TelemetryError::Filter`].
    pub fn parse_filter(&self) -> Result<EnvFilter, TelemetryError> {
        EnvFilter::builder()
            .parse(&self.filter)
            .map_err(|source| TelemetryError::Filter(self.filter.chars().take(80).collect(), source))
    }
}

/// Sets up the log of this process; to be called once.
///
/// # Errors
/// When the filter has no meaning, or at the second call.
pub fn start(config: &Config) -> Result<(), TelemetryError> {
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let subscriber = subscriber(config, io::stderr, colours)?;
    subscriber.try_init().map_err(TelemetryError::Twice)
}

fn subscriber<W>(config: &Config, writer: W, colours: bool) -> Result<Box<dyn Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // A log that cannot be written is no reason to end: reporting that to standard error, which may be the very thing that
    // is closed or on the full disk, would.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(config.parse_filter()?)
        .with_writer(writer)
        .log_internal_errors(false);
    Ok(match config.format {
        Format::Text => Box::new(builder.compact().with_ansi(colours).finish()),
        Format::Json => Box::new(builder.json().flatten_event(true).with_current_span(false).finish()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn lines(format: Format, filter: &str) -> String {
        let written = Arc::new(Mutex::new(Vec::new()));
        let config = Config { format, filter: filter.to_owned() };
        let subscriber = subscriber(&config, SharedWriter(written.clone()), false).expect("a good filter");
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(node = "AWS", "node started");
            tracing::debug!("details");
        });
        String::from_utf8(written.lock().unwrap().clone()).expect("text")
    }

    struct SharedWriter(Arc<Mutex<Vec<u8>>>);

    impl io::Write for SharedWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'w> MakeWriter<'w> for SharedWriter {
        type Writer = Self;

        fn make_writer(&'w self) -> Self {
            Self(self.0.clone())
        }
    }

    #[test]
    fn lines_are_for_people_or_programs() {
        let text = lines(Format::Text, "info");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("INFO") && text.contains("node started") && text.contains("AWS"), "{text}");
        assert!(!text.contains('\u{1b}'), "no colours: {text}");
        let json = lines(Format::Json, "debug");
        let first: serde_json::Value = serde_json::from_str(json.lines().next().expect("a line")).expect("JSON");
        assert_eq!((&first["message"], &first["node"]), (&"node started".into(), &"AWS".into()));
        assert_eq!(json.lines().count(), 2, "{json}");
    }

    #[test]
    fn parts_have_levels_of_their_own() {
        assert_eq!(lines(Format::Text, "warn,metacdn::telemetry=debug").lines().count(), 2);
        assert_eq!(lines(Format::Text, "off"), "");
    }

    #[test]
    fn filters_without_meaning_are_refused() {
        for bad in ["metacdn=loud", "a=b=c"] {
            let config = Config { filter: bad.to_owned(), ..Config::default() };
            assert!(matches!(config.parse_filter(), Err(TelemetryError::Filter(..))), "{bad}");
        }
    }
}
