//! The roles of one process: they start by a configuration, answer, and end together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use metacdn::cli::roles::{Ports, Roles};
use metacdn::config::{Draft, Effective};
use metacdn::model::Principal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, PATIENCE, wait_until};

const PORTS_FREE: [&str; 5] =
    ["node.listen", "node.download_listen", "node.price_listen", "edge.listen", "edge.admin_listen"];

/// Certificates of a node AWS, and a configuration that runs it with an edge, all on free ports.
async fn configuration() -> (Cluster, PathBuf) {
    let cluster = Cluster::start(&[]).await;
    let folder = cluster.folder.path();
    let (certificate, key) = cluster.pem(Principal::Node("AWS".parse().unwrap()));
    let bundle = format!("{key}{certificate}{}", cluster.authority_pem());
    std::fs::write(folder.join("AWS.pem"), bundle).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let text = format!(
        "[identity]\nauthority = 'AWS.pem'\ncertificate = 'AWS.pem'\nkey = 'AWS.pem'\n\
         [node]\nid = 'AWS'\ndata = 'data'\nlisten = '{free}'\n[edge]\nseeds = ['{free}']\n"
    );
    let path = folder.join("metacdn.toml");
    std::fs::write(&path, text).unwrap();
    (cluster, path)
}

fn effective(path: &Path, change: impl FnOnce(&mut Draft)) -> Effective {
    let mut draft = Draft::read(path).unwrap();
    for field in &PORTS_FREE[1..] {
        draft.set(field, "127.0.0.1:0", "--test");
    }
    change(&mut draft);
    draft.build().unwrap()
}

async fn bind(effective: &Effective, ports: Ports) -> anyhow::Result<Roles> {
    let identity = effective.verify(SystemTime::now())?.identity;
    Roles::bind(effective, identity, ports).await
}

async fn status_of(address: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

#[tokio::test]
async fn both_roles_run_in_one_process_and_stop() {
    let (_cluster, path) = configuration().await;
    let roles = bind(&effective(&path, |_| {}), Ports::Exact).await.unwrap();
    let at: BTreeMap<_, _> = roles.addresses().unwrap().into_iter().collect();
    assert_eq!(at.len(), PORTS_FREE.len());
    assert!(at.values().all(|address| address.port() != 0), "{at:?}");
    assert_eq!(roles.files_max(), 3 * 1024 + 2 * 8192 + 256);
    let stop = CancellationToken::new();
    let running = tokio::spawn(roles.serve(stop.clone()));
    for field in ["node.download_listen", "node.price_listen", "edge.admin_listen"] {
        assert_eq!(status_of(at[field], "/health").await, Some(200), "{field}");
    }
    wait_until("the edge is ready", async || status_of(at["edge.admin_listen"], "/ready").await == Some(200)).await;
    assert_eq!(status_of(at["edge.listen"], "/nothing.txt").await, Some(404));
    stop.cancel();
    timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
    for (field, address) in at {
        assert!(TcpStream::connect(address).await.is_err(), "{field} is closed");
    }
}

#[tokio::test]
async fn if_one_role_fails_so_does_the_process() {
    let (_cluster, path) = configuration().await;
    let first = bind(&effective(&path, |_| {}), Ports::Exact).await.unwrap();
    let (stop, price) = (CancellationToken::new(), first.addresses().unwrap()[2].1);
    let first = tokio::spawn(first.serve(stop.clone()));
    wait_until("the first runs", async || status_of(price, "/health").await == Some(200)).await;
    // Other ports, the same data folder.
    let second = effective(&path, |draft| draft.set("node.listen", "127.0.0.1:0", "--test"));
    let second = bind(&second, Ports::Exact).await.unwrap();
    let error = timeout(PATIENCE, second.serve(CancellationToken::new())).await.unwrap().unwrap_err();
    let text = format!("{error:#}");
    assert!(text.starts_with("the node failed") && text.contains("in use by another process"), "{text}");
    stop.cancel();
    timeout(PATIENCE, first).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_port_is_told_or_passed_over() {
    let (_cluster, path) = configuration().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = taken.local_addr().unwrap();
    let given = effective(&path, |draft| draft.set("edge.listen", at.to_string(), "--listen"));
    for ports in [Ports::Exact, Ports::NextFree] {
        let text = format!("{:#}", bind(&given, ports).await.unwrap_err());
        assert!(
            text.contains(&format!("cannot listen on {at} (edge.listen): another process has that port")),
            "{text}"
        );
        assert!(text.contains(&format!("sport = :{}", at.port())), "{text}");
    }

    // An address that nobody gave moves; one that others were told does not.
    let by_default = |advertise: bool| {
        let mut draft = Draft::default();
        draft.set_default("node.download_listen", at.to_string());
        if advertise {
            draft.set("node.download_advertise", at.to_string(), "--download-advertise");
        }
        for field in ["identity.authority", "identity.certificate", "identity.key"] {
            draft.set(field, path.with_file_name("AWS.pem").to_string_lossy(), "--test");
        }
        draft.set("node.id", "AWS", "--name");
        draft.set("node.data", path.with_file_name("other").to_string_lossy(), "--data");
        draft.set("node.listen", "127.0.0.1:0", "--listen");
        draft.set("node.price_listen", "127.0.0.1:0", "--price-listen");
        draft.build().unwrap()
    };
    let moved = bind(&by_default(false), Ports::NextFree).await.unwrap().addresses().unwrap()[1].1;
    assert!((at.port() + 1..=at.port() + 16).contains(&moved.port()), "{at} moved to {moved}");
    assert!(bind(&by_default(true), Ports::NextFree).await.is_err());
    assert!(bind(&by_default(false), Ports::Exact).await.is_err());
}

#[tokio::test]
async fn nothing_to_run_is_an_error() {
    let (_cluster, path) = configuration().await;
    let mut draft = Draft::read(&path).unwrap();
    draft.remove_section("node");
    draft.remove_section("edge");
    let error = bind(&draft.build().unwrap(), Ports::Exact).await.unwrap_err();
    assert!(error.to_string().contains("[node], [edge] or both"), "{error}");
}
