//! The example files: they parse, they are complete, and what they call a default is one.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use metacdn::config::{Draft, Effective, field_names};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn build(path: &Path) -> Effective {
    Draft::read(path).and_then(Draft::build).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn build_text(text: &str) -> Effective {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metacdn.toml");
    fs::write(&path, text).unwrap();
    build(&path)
}

/// The example with every option switched on.
fn example_in_full() -> (String, usize) {
    let text = fs::read_to_string(root().join("metacdn.example.toml")).unwrap();
    let mut switched = 0;
    let is_option = |line: &str| {
        let name = line.split(" = ").next().unwrap_or_default();
        line.starts_with('[')
            || line.contains(" = ") && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let lines: Vec<_> = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(option) if is_option(option) => {
                switched += 1;
                option
            }
            _ => line,
        })
        .collect();
    (lines.join("\n"), switched)
}

#[test]
fn the_example_has_every_option() {
    let as_it_is = build(&root().join("metacdn.example.toml"));
    assert!(as_it_is.config.node.is_some() && as_it_is.config.edge.is_some());
    let (text, switched) = example_in_full();
    assert!(switched > 40, "only {switched} options were found");
    let full = build_text(&text);
    let missing: Vec<_> = field_names().filter(|field| !full.is_set(field)).collect();
    assert!(missing.is_empty(), "metacdn.example.toml lacks {missing:?}");
}

#[test]
fn the_example_states_the_defaults() {
    let mut least = Draft::default();
    for (field, value) in [
        ("identity.authority", "a"),
        ("identity.certificate", "c"),
        ("identity.key", "k"),
        ("log.format", "text"),
        ("node.id", "AWS"),
        ("node.data", "data"),
    ] {
        least.set(field, value, "--test");
    }
    least.set("edge.seeds", vec!["127.0.0.1:22222"], "--test");
    let defaults = least.build().unwrap();
    let full = build_text(&example_in_full().0);
    let stated = full.values();
    let mut compared = 0;
    for (field, default, _) in defaults.values() {
        let required = field.starts_with("identity.") || field == "node.data";
        // Sites and certificates are examples: no edge has one by itself.
        if required || default.is_null() || field == "edge.site" || field == "edge.certificate" {
            continue;
        }
        let (_, value, _) = stated.iter().find(|(stated, ..)| *stated == field).unwrap();
        assert_eq!(*value, default, "{field}");
        compared += 1;
    }
    assert!(compared > 40, "only {compared} options were compared");
    let certificate = &full.config.edge.as_ref().unwrap().certificate[0];
    assert!(certificate.hosts.is_empty() && !certificate.default);
    let site = &full.config.edge.as_ref().unwrap().site[0];
    let origins: Vec<_> = site.origins.iter().map(|origin| origin.url.to_string()).collect();
    let least = format!("name = \"{}\"\nhosts = {:?}\norigins = {origins:?}\npolicy = \"n\"", site.name, site.hosts);
    let least = format!("{least}\ncompression = {{ codings = [\"gzip\"] }}");
    assert_eq!(*site, toml::from_str(&least).unwrap(), "what else a site has is as it is by default");
}

#[test]
fn three_clouds_are_one_cluster() {
    let folder = root().join("examples/three-clouds");
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let mut nodes = Vec::new();
    let mut seeds = Vec::new();
    for path in &files {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(readme.contains(&format!("`{name}`")), "the README does not speak of {name}");
        let config = build(path).config;
        let holder = config.identity.as_ref().unwrap().certificate.file_stem().unwrap().to_str().unwrap().to_owned();
        let command = match (&config.node, &config.edge) {
            (Some(node), None) => {
                assert_eq!(holder, node.id.as_str(), "{name}");
                nodes.push(node.advertise.clone().unwrap());
                seeds.extend(node.seeds.clone());
                format!("sign {holder}.csr node {holder}")
            }
            (None, Some(edge)) => {
                seeds.extend(edge.seeds.clone());
                format!("sign {holder}.csr edge {holder}")
            }
            _ => {
                seeds.extend(config.client.unwrap().seeds);
                format!("sign {holder}.csr client {holder}")
            }
        };
        assert!(readme.contains(&command), "the README lacks `{command}`");
    }
    assert_eq!((files.len(), nodes.len()), (5, 3));
    assert!(seeds.iter().all(|seed| nodes.contains(seed)), "{seeds:?} are not all in {nodes:?}");
}

#[test]
fn the_service_sets_what_exists() {
    let unit = fs::read_to_string(root().join("examples/metacdn.service")).unwrap();
    let variables: Vec<(OsString, OsString)> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("Environment="))
        .map(|line| line.split_once('=').unwrap())
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    assert!(!variables.is_empty());
    let mut draft = Draft::read(&root().join("examples/three-clouds/aws.toml")).unwrap();
    draft.overlay_environment(variables);
    let config = draft.build().unwrap().config;
    assert_eq!(config.identity.as_ref().unwrap().key, Path::new("%d/identity.key"));
    // The only folder that the service may write.
    assert_eq!(config.node.unwrap().data, Path::new("/var/lib/metacdn"));
    assert!(unit.contains("StateDirectory=metacdn\n") && unit.contains(" run --config /etc/metacdn/metacdn.toml\n"));
}
