//! `metacdn upload` in the reference's packet formats.

use metacdn::model::{ContentHash, Principal};
use metacdn::protocol::identity::TlsVersions;
use metacdn::protocol::packet::{Decoder, Limits, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::{User, noise};
use crate::cluster::{Cluster, objects, wait_until};

/// A server that records a packet for each of `answers`, gives that and closes.
async fn recorder(cluster: &Cluster, answers: Vec<String>) -> (String, JoinHandle<Vec<Vec<u8>>>) {
    let identity = cluster.identity(Principal::Node("Recorder".parse().unwrap()));
    let acceptor = TlsAcceptor::from(identity.server_config(TlsVersions::Only13));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let recording = tokio::spawn(async move {
        let mut wires = Vec::new();
        for answer in &answers {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut wire = Vec::new();
            // An end without close_notify would be an error here.
            stream.read_to_end(&mut wire).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            wires.push(wire);
        }
        wires
    });
    (address, recording)
}

fn decode(wire: &[u8]) -> (Packet, Vec<u8>) {
    let mut content = Vec::new();
    let mut decoder = Decoder::new(Limits::default());
    decoder.push(wire, &mut |bytes| content.extend_from_slice(bytes)).unwrap();
    let packet = decoder.finish(&mut |bytes| content.extend_from_slice(bytes)).unwrap();
    (packet, content)
}

/// Decodes a packet with PyPI's protobuf, which shares no code with us; `./test.sh setup` installs it.
fn decode_with_protobuf(file: &std::path::Path, wire: &[u8], size: usize) {
    std::fs::write(file, wire).unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".tools/python/bin/python3");
    let decode = std::process::Command::new(&python).arg(root.join("tests/python/packet_decode.py")).arg(file).output();
    let decoded = decode.unwrap_or_else(|error| panic!("{}: {error}; run ./test.sh setup", python.display()));
    assert!(decoded.status.success(), "{}", String::from_utf8_lossy(&decoded.stderr));
    let facts: serde_json::Value = serde_json::from_slice(&decoded.stdout).unwrap();
    assert_eq!((&facts["size"], &facts["packet_length"]), (&size.into(), &wire.len().into()));
    assert_eq!((&facts["file_name"], &facts["distributed"]), (&"photo.jpg".into(), &"F".into()));
    assert_eq!((&facts["last_updated"], &facts["unknown_fields"]), (&serde_json::Value::Null, &false.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_have_exactly_the_references_sizes_on_the_wire() {
    let cluster = Cluster::start(&[]).await;
    let user = User::with_seeds(&cluster, &["127.0.0.1:1".parse().unwrap()]);
    let sizes = [
        (1 << 10, 1429, 1385),
        (10 << 10, 13_717, 13_673),
        (100 << 10, 136_597, 136_554),
        (1 << 20, 1_398_165, 1_398_122),
        (10 << 20, 13_981_077, 13_981_035),
    ];
    for (size, json, protobuf) in sizes {
        let bytes = noise(size, 2);
        let file = user.file("photo.jpg", &bytes);
        for (format, expected) in [("Json", json), ("Protobuf3", protobuf)] {
            let hash = ContentHash::of(&bytes);
            let answer = format!("{{\"file_name\":\"photo.jpg\",\"size\":{size},\"hash\":\"{hash}\"}}\n");
            let (address, recording) = recorder(&cluster, vec![answer]).await;
            let ended = user.run(&["upload", &file, &address, format, "--json"]).await.ok();
            assert_eq!(ended.json()[0]["hash"], hash.to_string());
            let wire = recording.await.unwrap().remove(0);
            assert_eq!(wire.len(), expected, "{format} of {size} bytes");
            let file_name = "photo.jpg".to_owned();
            assert_eq!(decode(&wire), (Packet::File { file_name, distributed: false }, bytes.clone()));
            if format == "Protobuf3" {
                decode_with_protobuf(user.path("wire").as_path(), &wire, size);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_answers_to_a_packet_counts() {
    let cluster = Cluster::start(&[]).await;
    let user = User::with_seeds(&cluster, &["127.0.0.1:1".parse().unwrap()]);
    let file = user.file("cat.jpg", b"meow");
    let upload = async |answers: &[&str]| {
        let answers = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let (address, recording) = recorder(&cluster, answers).await;
        let ended = user.run(&["upload", &file, &address, "json"]).await;
        recording.await.unwrap();
        ended
    };
    let hash = |bytes: &[u8]| format!("{{\"hash\": \"{}\"}}\n", ContentHash::of(bytes));
    let silent = upload(&[""; 4]).await.failed(1, &["retry 4 of 4", "cannot publish", "without an answer"]);
    assert_eq!(silent.stdout, "", "what nobody confirmed is not published");
    let late = upload(&["", &hash(b"meow")]).await.ok();
    assert!(late.stdout.starts_with("published cat.jpg") && late.stderr.contains("retry 2 of 4"), "{late:?}");
    upload(&["{\"error\": \"no room\"}\n"]).await.failed(1, &["cannot publish", "no room"]);
    upload(&["hello"]).await.failed(1, &["not understood"]);
    upload(&[&hash(b"woof")]).await.failed(1, &["corrupted on the way"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_reach_every_node() {
    let cluster = Cluster::start(&["AWS", "GC"]).await;
    let user = User::of(&cluster, &["AWS", "GC"]);
    let bytes = noise(300_000, 3);
    user.file("site/a/one.bin", &bytes);
    user.file("site/two.bin", b"2");
    let site = user.path("site").to_str().unwrap().to_owned();
    for format in ["json", "protobuf3"] {
        user.run(&["upload", &site, "GC", format, "--prefix", format, "--parallel", "2"]).await.ok();
    }
    let aws = cluster.client("AWS");
    wait_until("AWS has what came in packets", async || objects(&aws).await.len() == 4).await;
    assert_eq!(objects(&aws).await["protobuf3/a/one.bin"], ContentHash::of(&bytes));
}
