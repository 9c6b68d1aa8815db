//! What files, environment and flags make together, and how mistakes in them are told.

use std::path::Path;
use std::time::SystemTime;

use super::*;
use crate::cli::certs::authority::{Authority, Holder};
use crate::model::{ImageMode, Principal};
use crate::route::Policy;

const GOOD: &str = r#"
[identity]
authority = "certs/authority.pem"
certificate = "certs/AWS.pem"
key = "/etc/keys/AWS.key"

[node]
id = "AWS"
data = "data"

[edge]
seeds = ["127.0.0.1:22222"]
"#;

fn draft(text: &str) -> Result<Draft, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metacdn.toml");
    std::fs::write(&path, text).unwrap();
    Draft::read(&path)
}

/// What is wrong with a file, each problem without the folder.
fn problems_of(draft: Result<Draft, ConfigError>) -> Vec<String> {
    match draft.and_then(Draft::build) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Invalid(problems)) => problems
            .iter()
            .map(|problem| {
                let text = problem.to_string();
                text.split_once("metacdn.toml:").map_or(text.clone(), |(_, rest)| rest.to_owned())
            })
            .collect(),
        Err(error) => panic!("{error}"),
    }
}

fn problems(text: &str) -> Vec<String> {
    problems_of(draft(text))
}

fn with_environment(text: &str, variables: &[(&str, &str)]) -> Result<Draft, ConfigError> {
    let mut draft = draft(text)?;
    draft.overlay_environment(variables.iter().map(|(name, value)| (name.into(), value.into())));
    Ok(draft)
}

#[test]
fn paths_start_at_the_files_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metacdn.toml");
    std::fs::write(&path, GOOD).unwrap();
    let config = Draft::read(&path).unwrap().build().unwrap().config;
    assert_eq!(config.identity.as_ref().unwrap().authority, folder.path().join("certs/authority.pem"));
    assert_eq!(config.identity.as_ref().unwrap().key, Path::new("/etc/keys/AWS.key"));
    assert_eq!(config.node.unwrap().data, folder.path().join("data"));
    assert_eq!(config.edge.unwrap().seeds.len(), 1);
}

#[test]
fn partial_tables_keep_the_other_defaults() {
    let text = format!("{GOOD}\n[edge.serve]\nidle_timeout_ms = 5\n[edge.route]\npolicy = 'c 0.5'\n");
    let edge = draft(&text).unwrap().build().unwrap().config.edge.unwrap();
    assert_eq!((edge.serve.idle_timeout_ms, edge.serve.connections_max), (5, 8192));
    assert_eq!(edge.route.policy, "c 0.5".parse::<Policy>().unwrap());
    assert_eq!(edge.route.band_per_mille, 10);
}

#[test]
fn all_mistakes_are_told_at_once_with_their_places() {
    let text = "[identity]\nauthority = 'a'\ncertificate = 'b'\n\n[node]\nid = \"a.b\"\nlisen = '[::1]:1'\n\
                fetch_parallel = 'many'\n[node.serve]\nconections_max = 5\n[egde]\n";
    let found = problems(text);
    let expected = [
        "1:2: identity.key: it is missing",
        "5:2: node.data: it is missing",
        "6:6: node.id: \"a.b\" is not a name",
        "7:1: node.lisen: there is no such field, did you mean `listen`?",
        "8:18: node.fetch_parallel: invalid type: string \"many\", expected a nonzero usize",
        "10:1: node.serve.conections_max: there is no such field, did you mean `connections_max`?",
        "11:2: egde: there is no such field, did you mean `edge`?",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found} / {expected}");
    }
}

#[test]
fn broken_files_are_told_with_their_places() {
    assert!(problems("[identity]\nkey = \n")[0].starts_with("2:7: "), "{:?}", problems("[identity]\nkey = \n"));
    assert!(problems("a = 1\na = 2\n")[0].starts_with("2:1: duplicate key"), "{:?}", problems("a = 1\na = 2\n"));
    assert!(problems("node = 5")[0].contains("1:1: node: it is a table: write [node]"));
    assert!(problems("'node.id' = 'AWS'")[0].contains("no such field"));
    assert!(problems("").is_empty(), "nothing is wrong with nothing, but that it does nothing");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metacdn.toml");
    std::fs::write(&path, b"# \xff\n").unwrap();
    assert!(Draft::read(&path).unwrap_err().to_string().contains("metacdn.toml:1:3: this is not UTF-8"));
    assert!(matches!(Draft::read(folder.path()), Err(ConfigError::Read { .. })));
    assert!(matches!(Draft::read(Path::new("/dev/zero")), Err(ConfigError::Read { .. })), "endless files end");
}

#[test]
fn environment_overrides_the_file_and_flags_override_both() {
    let variables = [
        ("METACDN_NODE_LISTEN", "127.0.0.1:1"),
        ("METACDN_NODE_SEEDS", "a:1, b:2"),
        ("METACDN_NODE_PUBLIC_DOWNLOADS", "true"),
        ("METACDN_EDGE_ROUTE_MEASURE_RETRY_MS", "7"),
        ("METACDN_NODE_IMAGES", "static"),
        ("METACDN_LOG", "debug"),
        ("METACDN_LOG_FILTER", "warn"),
        ("METACDN_CONFIG", "elsewhere"),
    ];
    let mut draft = with_environment(GOOD, &variables).unwrap();
    draft.set("node.images", "dynamic", "[IMAGES]");
    let effective = draft.build().unwrap();
    let Config { node, edge, log, .. } = effective.config.clone();
    let (node, edge) = (node.unwrap(), edge.unwrap());
    assert_eq!(node.listen, "127.0.0.1:1".parse().unwrap());
    assert_eq!((node.seeds.len(), node.public_downloads, node.images), (2, true, ImageMode::Dynamic));
    assert_eq!((edge.route.measure.retry_ms, log.filter.as_str()), (7, "debug"));
    assert_eq!(*effective.source("node.images"), Source::Flag("[IMAGES]"));
    assert_eq!(effective.source("node.listen").to_string(), "METACDN_NODE_LISTEN");
    assert!(effective.source("node.id").to_string().ends_with("metacdn.toml:8:6"));
    assert_eq!(*effective.source("edge.listen"), Source::Default);
    assert!(effective.values().iter().all(|(path, ..)| !path.starts_with("client")));
}

#[test]
fn environment_alone_is_a_configuration() {
    let mut draft = Draft::default();
    let set = ["IDENTITY_AUTHORITY", "IDENTITY_CERTIFICATE", "IDENTITY_KEY", "NODE_DATA", "NODE_ID"];
    draft.overlay_environment(set.map(|name| (format!("METACDN_{name}").into(), "AWS".into())));
    assert_eq!(draft.build().unwrap().config.node.unwrap().id.as_str(), "AWS");
}

#[test]
fn wrong_variables_are_told_by_name() {
    let variables = [("METACDN_NODE_LISEN", "x"), ("METACDN_EDGE_TRIES_MAX", "few"), ("METACDN_NODE_LISTEN", "x")];
    let found = problems_of(with_environment(GOOD, &variables));
    assert_eq!(
        found[0],
        "METACDN_EDGE_TRIES_MAX: edge.tries_max: invalid type: string \"few\", expected a nonzero usize"
    );
    assert_eq!(found[1], "METACDN_NODE_LISEN: there is no such field, did you mean METACDN_NODE_LISTEN?");
    assert_eq!(found[2], "METACDN_NODE_LISTEN: node.listen: \"x\": invalid socket address syntax");
}

#[test]
fn contradictions_are_told() {
    for (line, expected) in [
        ("[edge]\nlisten = '127.0.0.1:22222'", "edge.listen: 127.0.0.1:22222 is taken by node.listen"),
        ("[edge]\nlisten = '[::]:8871'", "edge.listen: [::]:8871 is taken by node.download_listen"),
        ("[edge]\nseeds = []", "edge.seeds: an edge needs"),
        ("[edge]\nhosts = ['http://a']", "edge.hosts: \"http://a\" is no host"),
        ("[node]\nlisten = '0.0.0.0:22222'", "node.advertise: 0.0.0.0:22222 means every address"),
        ("[node]\nmembership.down_after_ms = 10", "node.membership.down_after_ms: must be more than suspect_after_ms"),
        ("[edge]\nserve.connections_max = 0", "edge.serve.connections_max: must be from 1"),
        ("[node]\nserve.header_bytes_max = 10", "node.serve.header_bytes_max: must be at least 1024"),
        (
            "[node]\nresize.thresholds = '1 2'",
            "node.resize.thresholds: \"1 2\": medium from 2 bytes a second would be above",
        ),
        ("[node]\nresize.memory_bytes_max = 0", "node.resize.memory_bytes_max: must be more than 0"),
        ("[edge]\nstall_ms_max = 0", "edge.stall_ms_max: must be more than 0"),
        ("log.filter = 'a=loud'", "log.filter: \"a=loud\" is no filter"),
        ("[client]\nseeds = []", "client.seeds: name the address"),
    ] {
        let (head, addition) = line.split_once('\n').unwrap_or(("", line));
        let text = match head {
            "[edge]" => GOOD.replace("seeds = [\"127.0.0.1:22222\"]", &with_seeds(addition)),
            "[node]" => GOOD.replace("data = \"data\"", &format!("data = \"data\"\n{addition}")),
            _ => format!(
                "{}\n{GOOD}\n{}",
                if head.is_empty() { line } else { "" },
                if head.is_empty() { "" } else { line }
            ),
        };
        let found = problems(&text);
        assert!(found.len() == 1 && found[0].contains(expected), "{line}: {found:?}");
    }
    let free = GOOD.replace("data = \"data\"", "data = \"data\"\nlisten = '127.0.0.1:0'\nprice_listen = '127.0.0.1:0'");
    assert_eq!(problems(&free), [""; 0], "any free port");
}

fn with_seeds(addition: &str) -> String {
    if addition.starts_with("seeds") { addition.to_owned() } else { format!("seeds = ['a:1']\n{addition}") }
}

#[test]
fn an_edge_of_sites_alone_needs_no_identity() {
    let site = "[[edge.site]]\nname = 's'\nhosts = ['s.example']\norigins = ['http://a']\n";
    let effective = draft(&format!("[edge]\n{site}")).unwrap().build().unwrap();
    assert!(effective.config.identity.is_none());
    assert!(effective.verify(SystemTime::now()).unwrap().identity.is_none());
    assert!(effective.values().iter().all(|(field, ..)| !field.starts_with("identity")));

    let lacks = |text: &str| problems(text).iter().filter(|problem| problem.contains("identity.")).count();
    for (text, missing) in [
        (format!("[edge]\nadmin_listen = '[::1]:1'\n{site}"), 0),
        // Operators who are elsewhere, and nodes, have to know whom they speak to.
        (format!("[edge]\nadmin_listen = '0.0.0.0:1'\n{site}"), 3),
        (format!("[edge]\nseeds = ['a:1']\n{site}"), 3),
        (format!("[edge]\n{site}[node]\nid = 'AWS'\ndata = 'data'\n"), 3),
        (format!("[edge]\n{site}[client]\nseeds = ['a:1']\n"), 3),
        // Who has one has all of it.
        (format!("[edge]\n{site}[identity]\nkey = 'k'\n"), 2),
    ] {
        assert_eq!(lacks(&text), missing, "{text}");
    }
    let reason = &problems("[edge]\nseeds = ['a:1']\n")[0];
    assert!(
        reason.contains("only an edge without seeds, and with its admin_listen on loopback, needs none"),
        "{reason}"
    );
}

#[test]
fn identity_and_data_folder_are_verified() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let now = SystemTime::now();
    let authority = Authority::create(now).unwrap();
    let holder = Holder { principal: Principal::Node("AWS".parse().unwrap()), hosts: Vec::new(), days: 10 };
    let issued = authority.issue(&holder, now).unwrap();
    std::fs::create_dir(at("certs")).unwrap();
    std::fs::write(at("certs/authority.pem"), authority.certificate()).unwrap();
    std::fs::write(at("certs/AWS.pem"), &issued.certificate).unwrap();
    std::fs::write(at("certs/AWS.key"), &issued.key).unwrap();
    let verify = |text: &str, now| {
        std::fs::write(at("metacdn.toml"), text).unwrap();
        Draft::read(&at("metacdn.toml")).unwrap().build().unwrap().verify(now)
    };
    let good = GOOD.replace("/etc/keys", "certs");

    let verified = verify(&good, now).unwrap();
    assert_eq!(verified.identity.unwrap().principal(), &holder.principal);
    assert!(verified.warnings[0].to_string().contains("expires in 9 days"), "{:?}", verified.warnings);
    assert!(!at("data").exists(), "checking makes nothing");

    let refused = |text: &str, now| verify(text, now).unwrap_err().to_string();
    let other = refused(&good.replace("id = \"AWS\"", "id = \"GC\""), now);
    assert!(
        other.contains("metacdn.toml:8:6: node.id: the certificate is that of node AWS, not of node GC"),
        "{other}"
    );
    let missing = refused(GOOD, now);
    assert!(
        missing.contains("metacdn.toml:5:7: identity.key: cannot read /etc/keys/AWS.key: No such file"),
        "{missing}"
    );
    let late = refused(&good, now + std::time::Duration::from_secs(11 * 24 * 3600));
    assert!(late.contains("identity.certificate") && late.contains("expired at"), "{late}");
    let file = refused(&good.replace("\"data\"", "\"metacdn.toml/data\""), now);
    assert!(file.contains("node.data: cannot write in"), "{file}");
}

#[test]
fn sections_can_be_left_away() {
    let mut edge_only = draft(GOOD).unwrap();
    edge_only.remove_section("node");
    assert!(edge_only.build().unwrap().config.node.is_none());
    let mut client = draft(&format!("{GOOD}\n[client]\nseeds = ['a:1']\n")).unwrap();
    client.fall_back("edge.seeds", "client.seeds");
    assert_eq!(client.build().unwrap().config.edge.unwrap().seeds[0].port(), 22222, "what is there stays");
}
