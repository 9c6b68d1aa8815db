//! The examples of `docs/api.md` do what the page says.

use std::path::Path;
use std::process::Command;

use metacdn::model::Principal;
use metacdn::node::Packets;

use crate::cluster::{Cluster, objects};

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
    assert_eq!(kept, ["greetings/hello.md", "greetings/hello.txt", "packets/hello.txt"]);
}
