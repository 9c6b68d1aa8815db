//! `metacdn stat KEY`: what each node holds of an object.

use std::time::SystemTime;

use clap::Args;
use futures_util::future::join_all;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use serde::Serialize;

use crate::cli::failure::{Reported, explain};
use crate::cli::output::{complain, table};
use crate::cli::status::SHORT;
use crate::cli::{Cluster, Options, Target, human};
use crate::client::{ClientError, Peer, empty};
use crate::model::{NodeId, ObjectKey};
use crate::protocol::{VERSION_HEADER, object_path};

/// The arguments of `metacdn stat`.
#[derive(Debug, Args)]
pub struct StatArgs {
    /// The object
    key: ObjectKey,
}

/// Whether a node has an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Present,
    Absent,
    Deleted,
    Unreachable,
    Refused,
}

/// What one node says of an object.
#[derive(Debug, Serialize)]
struct Line {
    node: NodeId,
    status: State,
    hash: Option<String>,
    size: Option<u64>,
    media_type: Option<String>,
    modified: Option<String>,
    version: Option<String>,
    error: Option<String>,
    #[serde(skip)]
    modified_ms: Option<u64>,
}

/// Shows what each node holds of an object.
///
/// # Errors
/// When no node answers, or none has the object.
pub(crate) async fn run(args: StatArgs, options: &Options) -> anyhow::Result<()> {
    let cluster = Cluster::open(options)?;
    let members = cluster.members().await?;
    let asked = members.servers.into_iter().map(async |server| {
        let target = Target { id: Some(server.node.id.clone()), address: server.node.address };
        let answer = head(&cluster.peer(&target, SHORT), &args.key).await;
        Line::new(server.node.id, answer)
    });
    let lines = join_all(asked).await;
    let output = options.output();
    if output.is_json() {
        lines.iter().try_for_each(|line| output.answer_json(line))?;
    } else {
        print(&lines, options)?;
    }
    if lines.iter().any(|line| line.status == State::Present) {
        return Ok(());
    }
    let unknown: Vec<_> = lines.iter().filter(|line| !matches!(line.status, State::Absent | State::Deleted)).collect();
    let key = human::shown(args.key.as_str());
    if unknown.is_empty() {
        complain(format_args!("error: no node has {key}"));
    } else {
        let silent = unknown.iter().map(|line| format!("{}: {}", line.node, line.status.as_str()));
        let silent = silent.collect::<Vec<_>>().join(", ");
        complain(format_args!("error: cannot tell: no node that answers has {key} ({silent})"));
    }
    Err(Reported.into())
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Absent => "absent",
            Self::Deleted => "deleted",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
        }
    }
}

fn print(lines: &[Line], options: &Options) -> anyhow::Result<()> {
    let mut table = table(&["NODE", "STATUS", "HASH", "SIZE", "MODIFIED", "VERSION"], &["SIZE"]);
    for line in lines {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        table.add_row([
            line.node.to_string(),
            line.status.as_str().to_owned(),
            // Enough to tell versions apart; --json has all of it.
            line.hash.as_deref().and_then(|hash| hash.get(..16)).unwrap_or_default().to_owned(),
            line.size.map(human::size).unwrap_or_default(),
            line.modified_ms.map(human::local_time).unwrap_or_default(),
            text(&line.version),
        ]);
    }
    options.output().answer(&table)?;
    for line in lines {
        if let Some(error) = &line.error {
            options.output().note(format_args!("warning: {}: {error}", line.node));
        }
    }
    Ok(())
}

async fn head(peer: &Peer, key: &ObjectKey) -> Result<(StatusCode, HeaderMap), ClientError> {
    let response = peer.send(peer.request(Method::HEAD, &object_path(key), empty())?).await?;
    Ok((response.status(), response.headers().clone()))
}

impl Line {
    fn new(node: NodeId, answer: Result<(StatusCode, HeaderMap), ClientError>) -> Self {
        let (status, headers) = match answer {
            Ok(answer) => answer,
            Err(error) => return Self::without_object(node, State::Unreachable, Some(explain(&error))),
        };
        let field = |name: HeaderName| headers.get(name)?.to_str().ok().map(ToOwned::to_owned);
        let version = field(HeaderName::from_static(VERSION_HEADER));
        if status == StatusCode::NOT_FOUND {
            // Only what was deleted has a version without being there.
            let state = if version.is_some() { State::Deleted } else { State::Absent };
            return Self { version, ..Self::without_object(node, state, None) };
        }
        if !status.is_success() {
            return Self::without_object(node, State::Refused, Some(status.to_string()));
        }
        let modified_ms = field(LAST_MODIFIED).and_then(|date| {
            let since = httpdate::parse_http_date(&date).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            u64::try_from(since.as_millis()).ok()
        });
        Self {
            node,
            status: State::Present,
            hash: field(ETAG).map(|etag| etag.trim_matches('"').to_owned()),
            size: field(CONTENT_LENGTH).and_then(|length| length.parse().ok()),
            media_type: field(CONTENT_TYPE),
            modified: modified_ms.map(human::utc_time),
            modified_ms,
            version,
            error: None,
        }
    }

    const fn without_object(node: NodeId, status: State, error: Option<String>) -> Self {
        let (hash, size, media_type, modified, version, modified_ms) = (None, None, None, None, None, None);
        Self { node, status, hash, size, media_type, modified, version, error, modified_ms }
    }
}
