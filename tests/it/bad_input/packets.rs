//! Packets that are cut, garbled or lie about themselves.

use metacdn::model::Principal;
use metacdn::protocol::packet::Format;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{Bystander, nothing_stored, open_node};
use crate::answers::connect_as;
use crate::cluster::{Cluster, PATIENCE};
use crate::packets::send;

/// A packet as the reference's client writes it.
fn packet(format: Format, content: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let content = base64::engine::general_purpose::STANDARD.encode(content);
    match format {
        Format::Json => {
            format!(r#"{{"file_name": "cut.bin", "distributed": "F", "content": "{content}"}}"#).into_bytes()
        }
        Format::Protobuf3 => {
            let mut packet = vec![0x0A];
            prost::encoding::encode_varint(content.len() as u64, &mut packet);
            packet.extend(content.as_bytes());
            packet.extend(b"\x12\x07cut.bin\x1A\x01F");
            packet
        }
    }
}

/// Sends a packet and ends without a word, as a connection that breaks does.
async fn send_and_end_bare(cluster: &Cluster, packet: &[u8]) -> Value {
    let mut stream = connect_as(cluster, "AWS", Principal::Anonymous).await;
    stream.write_all(packet).await.unwrap();
    stream.flush().await.unwrap();
    stream.get_mut().0.shutdown().await.unwrap();
    let mut line = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut line)).await.expect("an answer comes").unwrap();
    serde_json::from_str(&line).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_that_is_cut_anywhere_stores_nothing() {
    let (cluster, client) = open_node(|_| {}).await;
    let bystander = Bystander::of(&client);
    for format in [Format::Json, Format::Protobuf3] {
        // More than is gathered before it is decoded, so that some has reached the disk.
        for (size, step) in [(60, 1), (900_000, 111_119)] {
            let whole = packet(format, &vec![b'x'; size]);
            // Around the ends of fields, and every so often between.
            let near_ends = |cut: &usize| *cut < 4 || *cut > whole.len() - 14 || cut.is_multiple_of(step * 7);
            for cut in (1..whole.len()).filter(near_ends) {
                for answer in [
                    send(&cluster, "AWS", Principal::Anonymous, &whole[..cut]).await,
                    send_and_end_bare(&cluster, &whole[..cut]).await,
                ] {
                    assert!(answer["error"].is_string(), "{format} {size} cut at {cut}: {answer}");
                }
            }
        }
    }
    bystander.was_served().await;
    nothing_stored(&cluster, &client).await;
    assert_eq!(send_and_end_bare(&cluster, &packet(Format::Json, b"whole")).await["size"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbled_packets_are_refused_each_for_its_reason() {
    let (cluster, client) = open_node(|config| config.object_bytes_max = 1 << 20).await;
    let deep = "[".repeat(100_000);
    let large = format!(r#"{{"file_name":"a","distributed":"F","content":"{}"}}"#, "A".repeat(1_400_000));
    for (packet, reason) in [
        (&br#"{"file_name":"a","distributed":"F","content":"QU*D"}"#[..], "not base64: byte 0x2A at position 2"),
        (br#"{"file_name":"a","distributed":"F","content":"QUJ"}"#, "pad it with ="),
        (br#"{"file_name":"a","distributed":"F","content":"QU=D"}"#, "not base64"),
        (br#"{"file_name":"a","distributed":"F","content":"QUJD\n"}"#, "not base64"),
        (br#"{"file_name":"a","distributed":"F","content":7}"#, "content is not a text"),
        (b"{\"file_name\":\"a\xFF\",\"distributed\":\"F\"}", "not valid JSON"),
        (br#"{"file_name":"\ud800","distributed":"F"}"#, "file_name is not valid UTF-8"),
        (br#"{"file_name":"a","distributed":"X"}"#, "send \"F\""),
        (br#"{"file_name":"a"}"#, "no distributed"),
        (br#"{"distributed":"F"}"#, "no file_name"),
        (br#"{}"#, "no file_name"),
        (br#"{"file_name":"a","distributed":"F"}{"#, "not valid JSON"),
        (br#"{"file_name":"a","file_name":"b","distributed":"F"}"#, "not valid JSON"),
        (br#"{"message":"I am alive"}"#, "no name"),
        (b"{\"file_name\":\"a\"", "cut off"),
        (format!(r#"{{"x":{deep}"#).leak().as_bytes(), "128 levels deep"),
        (large.leak().as_bytes(), "larger than"),
        (b"\x0A\x04QU*D\x12\x01a\x1A\x01F", "not base64"),
        (b"\x0A\x03QUJ\x12\x01a\x1A\x01F", "pad it with ="),
        (b"\x12\x02a\xFF\x1A\x01F", "file_name is not valid UTF-8"),
        (b"\x12\x01a\x1A\x01f", "send \"F\""),
        // Sizes that nobody has: of the content, of the name, of a field that is read over, and beyond 64 bits.
        (b"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", "larger than the 1048576 bytes"),
        (b"\x0A\x80\x80\x80\x01", "larger than the 1048576 bytes"),
        (b"\x12\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", "longer than the 1024 bytes"),
        (b"\x12\x01a\x1A\x01F\x3A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", "beside its content"),
        (b"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", "more than 64 bits"),
        (b"\x0A\x00\x0A\x00\x12\x01a\x1A\x01F", "more than one content"),
        (b"\x12\x01a\x3B", "invalid tag"),
    ] {
        let shown = String::from_utf8_lossy(&packet[..packet.len().min(80)]).into_owned();
        let answer = send(&cluster, "AWS", Principal::Anonymous, packet).await;
        let error = answer["error"].as_str().unwrap_or_else(|| panic!("{shown:?}: {answer}"));
        assert!(error.contains(reason), "{shown:?}: {error}");
    }
    nothing_stored(&cluster, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_read_over() {
    let (cluster, client) = open_node(|_| {}).await;
    for packet in [
        &br#"{"owner":{"name":["x",null,1e9]},"file_name":"a","distributed":"F","content":"QUJD","more":true}"#[..],
        b"\x12\x01b\x3A\x02hi\x40\x07\x12\x01a\x0A\x04QUJD\x1A\x01F\x2A\x02\x08\x01\x4D\x01\x02\x03\x04",
    ] {
        let answer = send(&cluster, "AWS", Principal::Anonymous, packet).await;
        assert_eq!((answer["file_name"].as_str(), answer["size"].as_u64()), (Some("a"), Some(3)), "{answer}");
        assert_eq!(crate::cluster::get(&client, "a").await.unwrap(), b"ABC");
        client.delete_object(&crate::cluster::key("a")).await.unwrap();
    }
}
