//! What a gigabyte of bad input costs: measured in a process that does nothing else.

use std::process::Command;

use metacdn::model::Principal;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{Bystander, nothing_stored, open_node};
use crate::answers::{Answer, connect, connect_as};
use crate::cluster::{Cluster, PATIENCE};

const GIGABYTE: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// What the process may grow by, the sender, the node and another caller together.
const GROWTH_MAX: u64 = 150 * MIB;

/// How much of a gigabyte the node may take before it is seen to have refused. The refusal may be known after the first
/// byte, but for two seconds a node reads on so that its answer arrives.
const TAKEN_MAX: u64 = GIGABYTE / 2;

/// Set in the process that a test has to itself.
const ALONE: &str = "METACDN_TEST_ALONE";

/// Whether this process has nothing to do but the test `name`; if not, one that has is run and must succeed.
pub fn alone(name: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

/// The resident memory of this process: now, and its highest since [`forget_peak`].
pub fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let bytes = |field: &str| {
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    (bytes("VmRSS:"), bytes("VmHWM:"))
}

pub fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Sends `start`, then a gigabyte of `filler` until the node will not have more; its answer, and how much it took.
async fn send_gigabyte(cluster: &Cluster, start: &[u8], filler: u8) -> (Value, u64) {
    let stream = connect_as(cluster, "AWS", Principal::Anonymous).await;
    let (mut read, mut write) = tokio::io::split(stream);
    let chunk = vec![filler; 1 << 18];
    let mut sent = 0;
    let sending = async {
        let mut result = write.write_all(start).await;
        while result.is_ok() && sent < GIGABYTE {
            result = write.write_all(&chunk).await;
            sent += chunk.len() as u64;
        }
        let _ = write.shutdown().await;
    };
    let reading = async {
        let mut line = String::new();
        let read = timeout(PATIENCE, read.read_to_string(&mut line)).await;
        let _ = read.expect("an answer comes");
        line
    };
    // Once the answer is there, nothing more need be sent.
    let mut reading = std::pin::pin!(reading);
    let line = tokio::select! {
        line = &mut reading => line,
        () = sending => reading.await,
    };
    (serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}")), sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_of_bad_packet_is_cut_off_early() {
    if !alone("bad_input::memory::a_gigabyte_of_bad_packet_is_cut_off_early") {
        return;
    }
    let (cluster, client) = open_node(|_| {}).await;
    let bystander = Bystander::of(&client);
    let (before, _) = memory();
    forget_peak();
    for (start, filler, error) in [
        (&br#"{"content": ""#[..], b'A', "JSON packet is larger than"),
        (br#"{"content": ""#, b'\\', "JSON packet is larger than"),
        (br#"{"#, b' ', "JSON packet is larger than"),
        (b"\x0A", 0x0A, "not base64"),
        (b"\x0A", b'A', ""),
        (b"\x0A", 0xFF, "more than 64 bits"),
        (b"\x0A\x80\x80\x80\x80\x04", 0x00, "not base64"),
    ] {
        let (answer, taken) = send_gigabyte(&cluster, start, filler).await;
        let found = answer["error"].as_str().unwrap_or_else(|| panic!("{answer}"));
        assert!(found.contains(error), "{start:?} {filler}: {found}");
        assert!(taken < TAKEN_MAX, "{start:?} {filler}: {taken} bytes were taken");
        let growth = memory().1.saturating_sub(before);
        assert!(growth < GROWTH_MAX, "{start:?} {filler}: grew by {} MiB", growth / MIB);
    }
    bystander.was_served().await;
    nothing_stored(&cluster, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_of_good_packet_streams_to_the_disk_up_to_the_limit() {
    if !alone("bad_input::memory::a_gigabyte_of_good_packet_streams_to_the_disk_up_to_the_limit") {
        return;
    }
    let start = b"\x0A\x80\x80\x80\x80\x04";
    let (cluster, client) = open_node(|config| config.object_bytes_max = 1 << 20).await;
    let (answer, taken) = send_gigabyte(&cluster, start, b'A').await;
    assert!(answer["error"].as_str().unwrap().contains("larger than the 1048576 bytes"), "{answer}");
    assert!(taken < TAKEN_MAX, "{taken} bytes were taken of what is declared too large");
    nothing_stored(&cluster, &client).await;

    let (cluster, client) = open_node(|_| {}).await;
    let bystander = Bystander::of(&client);
    let (before, _) = memory();
    forget_peak();
    let (answer, taken) = send_gigabyte(&cluster, start, b'A').await;
    // All content and no name: refused at its end, when a gigabyte of base64 lies on the disk.
    assert_eq!((answer["error"].as_str(), taken), (Some("the packet has no file_name"), GIGABYTE));
    let growth = memory().1.saturating_sub(before);
    assert!(growth < 50 * MIB, "grew by {} MiB", growth / MIB);
    bystander.was_served().await;
    nothing_stored(&cluster, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_come_one_by_one_cost_no_more_than_others() {
    if !alone("bad_input::memory::bytes_that_come_one_by_one_cost_no_more_than_others") {
        return;
    }
    const CONNECTIONS: usize = 32;
    const BYTES: usize = 500;
    let (cluster, client) = open_node(|_| {}).await;
    let mut packets = Vec::new();
    let mut puts = Vec::new();
    for number in 0..CONNECTIONS {
        let mut packet = connect_as(&cluster, "AWS", Principal::Anonymous).await;
        packet.write_all(b"\x0A\x80\x80\x80\x01").await.unwrap();
        packets.push(packet);
        let mut put = connect(&cluster, "AWS").await;
        let head = format!("PUT /v1/objects/{number} HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n");
        put.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
        puts.push(put);
    }
    let (before, _) = memory();
    forget_peak();
    for _ in 0..BYTES {
        // Each byte is a TLS record and a segment of its own, which the node has read before the next one comes.
        for stream in packets.iter_mut().chain(&mut puts) {
            stream.write_all(b"A").await.unwrap();
            stream.flush().await.unwrap();
        }
        client.ping().await.unwrap();
    }
    for mut put in puts {
        let mut answer = Vec::new();
        timeout(PATIENCE, put.read_to_end(&mut answer)).await.expect("an answer comes").unwrap();
        assert_eq!(Answer::parse(&answer).status, 201);
    }
    let growth = memory().1.saturating_sub(before);
    assert!(growth < 20 * MIB, "grew by {} MiB", growth / MIB);
}
