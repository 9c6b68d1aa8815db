//! Hundreds of real, odd, broken and hostile images through real nodes: none is lost, none does harm.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use http::StatusCode;
use metacdn::client::Peer;
use metacdn::model::ContentHash;

use crate::answers::ask;
use crate::cluster::{objects, put, wait_until};
use crate::pictures::corpus;
use crate::processes::Processes;

/// What all jobs of a node may take together by default, and what a node takes besides.
const MEMORY_MIB_MAX: u64 = 256 + 128;

/// No answer keeps a client waiting for long: the bound of a node's wait, and a machine that is busy.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The most memory that the process ever had, in MiB.
fn peak_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// A variant of the image `name`: which one came, and the hash of its bytes.
async fn variant(node: &Peer, name: &str, wanted: &str) -> (String, ContentHash) {
    let path = format!("/v1/objects/{name}?variant={wanted}");
    loop {
        let start = Instant::now();
        let answer = ask(node, "GET", &path, &[], "").await;
        assert!(start.elapsed() < ANSWER_MAX, "{path} took {:?}", start.elapsed());
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        // What is not ready in time comes as it is, and is soon.
        if answer.header("cache-control") != "no-store" {
            return (answer.header("metacdn-variant").to_owned(), ContentHash::of(&answer.body));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_images_of_all_kinds_do_no_harm_in_either_mode() {
    let mut processes = Processes::prepare(&["AWS", "GC"]);
    for (name, mode) in [("AWS", "static"), ("GC", "dynamic")] {
        processes.configure(name, &format!("images = \"{mode}\""));
        processes.spawn(name);
        processes.up(name).await;
    }
    let nodes = [processes.client("AWS"), processes.client("GC")];
    let mut expected = BTreeMap::new();
    for (number, path) in corpus().into_iter().enumerate() {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("jpg");
        let name = format!("{number}.{ending}");
        let bytes = fs::read(&path).unwrap();
        expected.insert(name.clone(), ContentHash::of(&bytes));
        put(&nodes[number % 2], &name, bytes).await;
    }
    assert!(expected.len() >= 500);
    for node in &nodes {
        wait_until("both hold all", async || objects(node).await == expected).await;
    }
    let mut came = BTreeMap::<String, usize>::new();
    for (name, original) in &expected {
        for wanted in ["low", "medium"] {
            let made = tokio::join!(variant(&nodes[0], name, wanted), variant(&nodes[1], name, wanted));
            assert_eq!(made.0, made.1, "{name}: both modes make the same");
            let (variant, hash) = made.0;
            let is_original = matches!(&*variant, "original" | "") && hash == *original;
            assert!(variant == wanted || is_original, "{name}: {variant}");
            *came.entry(variant).or_default() += 1;
        }
    }
    assert!(came["low"] >= 150 && came["medium"] >= 150, "{came:?}");
    for name in ["AWS", "GC"] {
        let peak = peak_mib(processes.pid(name));
        assert!(peak < MEMORY_MIB_MAX, "{name} took {peak} MiB");
    }
}
