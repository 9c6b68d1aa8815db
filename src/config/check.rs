//! What is wrong with a configuration although each value of it has the right form.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;

use super::{Config, ConfigError, Effective, IdentityFiles, Problem};
use crate::model::{Address, Principal};
use crate::protocol::identity::Identity;
use crate::{compress, edge, membership, serve};

/// A certificate that ends within this time is worth a warning: two weeks leave room for a holiday.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 3600);

/// The smallest head of a request that a server can be made to take: that of an ordinary browser without cookies.
const HEADER_BYTES_MIN: usize = 1024;

/// A configuration that can be started, as far as can be known before that.
#[derive(Debug)]
pub struct Verified {
    /// The identity, read from its files, if it has one.
    pub identity: Option<Identity>,
    /// What will become a problem.
    pub warnings: Vec<Problem>,
}

impl Effective {
    /// Checks also what lies outside of the configuration: the identity's files and their times, and the data folder.
    ///
    /// # Errors
    /// With all that keeps its roles from starting.
    pub fn verify(&self, now: SystemTime) -> Result<Verified, ConfigError> {
        let mut found: Vec<(String, String)> = Vec::new();
        let mut warnings = Vec::new();
        let identity = self.config.identity.as_ref().map(|files| files.load(now)).transpose();
        match &identity {
            Ok(None) => {}
            Ok(Some(identity)) => {
                found.extend(self.other_node(identity));
                let left = identity.expires_at().duration_since(now).unwrap_or_default();
                if left < EXPIRY_WARNING {
                    let days = left.as_secs() / (24 * 3600);
                    let reason =
                        format!("the certificate expires in {days} days: issue a new one with `metacdn certs`");
                    warnings.push(self.problem(("identity.certificate".to_owned(), reason)));
                }
            }
            Err(error) => found.push((self.field_of(error).to_owned(), chain(error))),
        }
        if let Some(node) = &self.config.node
            && let Err(error) = probe(&node.data)
        {
            found.push(("node.data".to_owned(), format!("cannot write in {}: {error}", node.data.display())));
        }
        if let Some(edge) = &self.config.edge {
            match edge.check_certificates() {
                Ok(all) => warnings.extend(all.iter().filter_map(|(file, expires)| {
                    let left = expires.duration_since(now).unwrap_or_default();
                    let days = left.as_secs() / (24 * 3600);
                    let reason = format!("the certificate {} expires in {days} days: renew it", file.display());
                    (left < EXPIRY_WARNING).then(|| self.problem(("edge.certificate".to_owned(), reason)))
                })),
                Err(error) => found.push(("edge.certificate".to_owned(), chain(&error))),
            }
        }
        match identity {
            Ok(identity) if found.is_empty() => Ok(Verified { identity, warnings }),
            _ => Err(ConfigError::Invalid(found.into_iter().map(|found| self.problem(found)).collect())),
        }
    }

    fn other_node(&self, identity: &Identity) -> Option<(String, String)> {
        let id = &self.config.node.as_ref()?.id;
        let found = identity.principal();
        let reason = format!("the certificate is that of {found}, not of node {id}: `metacdn certs issue node {id}`");
        (*found != Principal::Node(id.clone())).then(|| ("node.id".to_owned(), reason))
    }

    /// The field of the identity that an error speaks of.
    fn field_of(&self, error: &ConfigError) -> &'static str {
        let files = self.config.identity.as_ref();
        let is = |path: &Path, file: fn(&IdentityFiles) -> &Path| files.is_some_and(|files| file(files) == path);
        match error {
            ConfigError::Read { path, .. } if is(path, |files| &files.authority) => "identity.authority",
            ConfigError::Read { path, .. } if is(path, |files| &files.key) => "identity.key",
            _ => "identity.certificate",
        }
    }
}

/// All that contradicts itself or cannot work, each with the field to change.
pub(super) fn rules(config: &Config) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut refuse = |field: &str, reason: String| found.push((field.to_owned(), reason));
    if let Err(error) = config.log.parse_filter() {
        refuse("log.filter", chain(&error));
    }
    if config.client.as_ref().is_some_and(|client| client.seeds.is_empty()) {
        refuse("client.seeds", "name the address of a node".to_owned());
    }
    if let Some(node) = &config.node {
        for (listen, told, field) in [
            (node.listen, &node.advertise, "advertise"),
            (node.download_listen, &node.download_advertise, "download_advertise"),
        ] {
            if listen.ip().is_unspecified() && told.is_none() {
                let reason = format!("{listen} means every address of this machine: say which one others reach");
                refuse(&format!("node.{field}"), reason);
            }
        }
        if node.object_bytes_max == 0 {
            refuse("node.object_bytes_max", "nothing could be stored".to_owned());
        }
        let resize = [
            ("memory_bytes_max", node.resize.memory_bytes_max),
            ("variants_bytes_max", node.resize.variants_bytes_max),
            ("wait_ms_max", node.resize.wait_ms_max),
        ];
        positive("node.resize", &resize, &mut refuse);
        hosts("node.hosts", &node.hosts, &mut refuse);
        silence("node.membership", &node.membership, &mut refuse);
        limits("node.serve", &node.serve, &mut refuse);
    }
    if let Some(edge) = &config.edge {
        if edge.seeds.is_empty() && edge.site.is_empty() {
            refuse("edge.seeds", "an edge needs the address of a node, or a site".to_owned());
        }
        let times = [
            ("connect_ms_max", edge.connect_ms_max),
            ("first_byte_ms_max", edge.first_byte_ms_max),
            ("request_ms_max", edge.request_ms_max),
            ("stall_ms_max", edge.stall_ms_max),
        ];
        positive("edge", &times, &mut refuse);
        certificates(edge, &mut refuse);
        if let Err(error) = edge.compression.check() {
            refuse("edge.compression", error.to_string());
        }
        sites(edge, &mut refuse);
        shields(config, edge, &mut refuse);
        hosts("edge.hosts", &edge.hosts, &mut refuse);
        silence("edge.membership", &edge.membership, &mut refuse);
        limits("edge.serve", &edge.serve, &mut refuse);
    }
    let listeners = config.listeners();
    for (index, (field, listen)) in listeners.iter().enumerate() {
        if let Some((other, _)) = listeners[..index].iter().find(|(_, other)| overlap(*listen, *other)) {
            refuse(field, format!("{listen} is taken by {other}: give each listener a port of its own"));
        }
    }
    found
}

/// What is wrong with sites.
fn sites(edge: &edge::Config, refuse: &mut impl FnMut(&str, String)) {
    if let Err(error) = edge.check_sites() {
        refuse("edge.site", error.to_string());
    }
    for site in &edge.site {
        let times = [
            ("first_byte_ms_max", site.first_byte_ms_max),
            ("stall_ms_max", site.stall_ms_max),
            ("request_ms_max", site.request_ms_max),
        ];
        positive("edge.site", &times, refuse);
        if let Some(Err(error)) = site.compression.as_ref().map(compress::Config::check) {
            refuse("edge.site", format!("compression.{error} (site {})", site.name));
        }
    }
}

/// What is wrong with shields.
fn shields(config: &Config, edge: &edge::Config, refuse: &mut impl FnMut(&str, String)) {
    positive("edge.shield", &[("answer_ms_max", edge.shield.answer_ms_max)], refuse);
    if let Err(error) = edge.shield.check() {
        refuse("edge.shield", error.to_string());
    }
    if edge.shield.is_used() && config.identity.is_none() {
        refuse("edge.shield", "shields know each other by their certificates: add an [identity]".to_owned());
    }
}

fn certificates(edge: &edge::Config, refuse: &mut impl FnMut(&str, String)) {
    positive("edge", &[("certificate_check_ms", edge.certificate_check_ms)], refuse);
    match (edge.tls_listen, edge.certificate.is_empty()) {
        (Some(_), true) => refuse("edge.tls_listen", "TLS needs a certificate: add an [[edge.certificate]]".to_owned()),
        (None, false) => refuse("edge.certificate", "nobody would be shown it: set edge.tls_listen".to_owned()),
        _ => {}
    }
}

fn silence(table: &str, config: &membership::Config, refuse: &mut impl FnMut(&str, String)) {
    let membership::Config { suspect_after_ms, down_after_ms } = *config;
    positive(table, &[("suspect_after_ms", suspect_after_ms)], refuse);
    if suspect_after_ms >= down_after_ms {
        let reason = format!("must be more than suspect_after_ms, {suspect_after_ms}, but is {down_after_ms}");
        refuse(&format!("{table}.down_after_ms"), reason);
    }
}

fn limits(table: &str, config: &serve::Config, refuse: &mut impl FnMut(&str, String)) {
    if config.connections_max == 0 || config.connections_max > Semaphore::MAX_PERMITS {
        refuse(&format!("{table}.connections_max"), format!("must be from 1 to {}", Semaphore::MAX_PERMITS));
    }
    if config.header_bytes_max < HEADER_BYTES_MIN {
        refuse(&format!("{table}.header_bytes_max"), format!("must be at least {HEADER_BYTES_MIN}"));
    }
    let times = [
        ("handshake_timeout_ms", config.handshake_timeout_ms),
        ("header_timeout_ms", config.header_timeout_ms),
        ("idle_timeout_ms", config.idle_timeout_ms),
        ("stall_timeout_ms", config.stall_timeout_ms),
    ];
    positive(table, &times, refuse);
}

fn positive(table: &str, values: &[(&str, u64)], refuse: &mut impl FnMut(&str, String)) {
    for (field, _) in values.iter().filter(|(_, value)| *value == 0) {
        refuse(&format!("{table}.{field}"), "must be more than 0".to_owned());
    }
}

fn hosts(field: &str, hosts: &[String], refuse: &mut impl FnMut(&str, String)) {
    let good = |host: &str| Address::new(host.trim_start_matches('[').trim_end_matches(']'), 1).is_ok();
    for host in hosts.iter().filter(|host| !good(host)).collect::<BTreeSet<_>>() {
        refuse(field, format!("{host:?} is no host: write a DNS name or an IP address, without scheme and port"));
    }
}

fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    // Port 0 asks for any free port. A listener on [::] takes IPv4 too.
    let every = |one: SocketAddr, other: SocketAddr| one.ip().is_unspecified() && (one.is_ipv6() || other.is_ipv4());
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || every(a, b) || every(b, a))
}

/// Tries to make a file in `folder`, or in the nearest folder above it that is there.
fn probe(folder: &Path) -> io::Result<()> {
    let metadata = match fs::metadata(folder) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = folder.parent().ok_or(error)?;
            return probe(if above.as_os_str().is_empty() { Path::new(".") } else { above });
        }
        Err(error) => return Err(error),
    };
    if !metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is not a folder"));
    }
    let path = folder.join(format!(".metacdn-check-{}", std::process::id()));
    // Never over what is there, nor through a link that somebody left.
    File::create_new(&path)?;
    fs::remove_file(&path)
}

/// An error with its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
