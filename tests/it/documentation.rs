//! The examples of `docs/api.md` do what the page says.

use std::path::Path;
use std::process::Command;

use metacdn::model::Principal;
use metacdn::node::Packets;

use crate::cluster::{Cluster, objects};
use crate::edge::fetch;

/// The shell examples of a page, in its order.
fn examples(page: &str) -> Vec<String> {
    let blocks = page.split("\n```sh\n").skip(1);
    blocks.map(|block| block.split("\n```\n").next().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_api_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/api.md")).unwrap();
    let cluster = Cluster::start_with(&["AWS"], |config| config.packets = Packets::Open).await;
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = cluster.pem(Principal::Client("me".parse().unwrap()));
    for (name, text) in [("authority.pem", cluster.authority_pem()), ("me.pem", &certificate), ("me.key", &key)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    std::os::unix::fs::symlink(root.join("tests"), folder.path().join("tests")).unwrap();
    let ports = cluster.ports("AWS");
    let mut said = String::new();
    let examples = examples(&page);
    assert!(examples.len() >= 10, "only {} examples found", examples.len());
    for example in &examples {
        let example = [("22222", ports.api), ("8871", ports.download), ("8700", ports.price)]
            .iter()
            .fold(example.clone(), |text, (port, real)| text.replace(port, &real.port().to_string()));
        let run = Command::new("bash").args(["-euo", "pipefail", "-c", &example]).current_dir(folder.path()).output();
        let run = run.unwrap();
        let complained = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(run.status.success(), "{example}\n{}{complained}", String::from_utf8_lossy(&run.stdout));
        said.push_str(&String::from_utf8_lossy(&run.stdout));
    }
    for shown in [
        "Hello, world\n",
        "world",
        "Content-Range: bytes 0-4/13",
        "text/markdown",
        r#""size":8"#,
        r#""next":"greetings/hello.md""#,
        r#"{"AWS":{"instance_hour":300000000,"network_hour":100000000}}"#,
        "metacdn_node_requests_total",
        r#""server_hourly_cost":".12""#,
        r#""file_name":"packets/hello.txt""#,
    ] {
        assert!(said.contains(shown), "{shown} is not in:\n{said}");
    }
    let kept: Vec<_> = objects(&cluster.client("AWS")).await.into_keys().collect();
    assert_eq!(kept, ["greetings/hello.md", "greetings/hello.txt", "greetings/safe.txt", "packets/hello.txt"]);
}

#[test]
fn the_links_of_the_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = 0;
    for folder in ["", "docs", "examples/three-clouds"] {
        for file in std::fs::read_dir(root.join(folder)).unwrap().map(|file| file.unwrap().path()) {
            if file.extension().is_none_or(|ending| ending != "md") {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap();
            for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
                if !link.contains("://") && !link.is_empty() {
                    let target = file.parent().unwrap().join(link);
                    assert!(target.exists(), "{} links to {link}, which is not there", file.display());
                    found += 1;
                }
            }
        }
    }
    assert!(found >= 12, "only {found} links");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_that_the_operations_page_names_exist() {
    let cluster = Cluster::start(&["AWS"]).await;
    let (_edge, public, admin) = cluster.edge(|_| {}).await;
    fetch(public, "/nothing").await;
    let node = cluster.ports("AWS").price;
    let mut scraped = String::new();
    for at in [admin, node] {
        scraped += &String::from_utf8(fetch(at, "/metrics").await.into_body()).unwrap();
    }
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let named =
        page.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("metacdn_"));
    let named: std::collections::BTreeSet<_> = named.collect();
    assert!(named.len() >= 4, "{named:?}");
    for name in named {
        // A family has no sample before something was counted, but it is described.
        let family = name.trim_end_matches("_total");
        assert!(scraped.contains(&format!("# TYPE {family} ")), "{name} is not in\n{scraped}");
        assert!(family == name || scraped.contains(&format!("# TYPE {family} counter")), "{name} is no counter");
    }
}

/// The text of every Rust file below `folder`.
fn sources(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let text = |path: std::path::PathBuf| match path.is_dir() {
        true => sources(&path),
        false => std::fs::read_to_string(&path).unwrap_or_default(),
    };
    entries.map(text).collect()
}

#[test]
fn every_row_of_the_reference_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/reference.md")).unwrap();
    let tests = sources(&root.join("tests/it")) + &sources(&root.join("src"));
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| test |"));
    let mut count = 0;
    for row in rows {
        let test = row.trim_end_matches('|').rsplit('|').next().unwrap().trim().trim_matches('`');
        assert!(tests.contains(&format!("fn {test}(")), "there is no test {test}, which stands in: {row}");
        count += 1;
    }
    assert!(count >= 50, "only {count} rows found");
}
