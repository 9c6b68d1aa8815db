//! JSON packets: kept as received, read when they are whole.
//!
//! The values are looked at where they lie, so that a packet costs the memory of its bytes and no copies.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::base64::Base64Decoder;
use super::{DISTRIBUTED_SIZE_MAX, Limits, Packet, PacketError, TEXT_SIZE_MAX, parse_distributed};

/// The deepest nesting, as deep as serde_json itself goes. Fields that are read over have no limit there.
const DEPTH_MAX: usize = 128;

/// The longest escape of one byte, `\u0041`.
const ESCAPE_SIZE: usize = 6;

/// A JSON packet that is still coming.
#[derive(Debug)]
pub(super) struct JsonDecoder {
    limits: Limits,
    buffer: Vec<u8>,
    nesting: Nesting,
}

/// How deep in brackets the text received so far ends.
#[derive(Debug, Default)]
struct Nesting {
    depth: usize,
    in_string: bool,
    after_backslash: bool,
}

/// Both kinds of packet; what else an object has is read over.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    file_name: Option<&'a RawValue>,
    #[serde(borrow)]
    distributed: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    ip_address: Option<&'a RawValue>,
    #[serde(borrow)]
    port: Option<&'a RawValue>,
}

impl JsonDecoder {
    pub(super) const fn new(limits: Limits) -> Self {
        Self { limits, buffer: Vec::new(), nesting: Nesting { depth: 0, in_string: false, after_backslash: false } }
    }

    pub(super) const fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<(), PacketError> {
        let room = self.limits.json_size_max - self.buffer.len();
        let fits = &chunk[..chunk.len().min(room)];
        self.nesting.follow(fits)?;
        if fits.len() < chunk.len() {
            return Err(PacketError::JsonTooLarge(self.limits.json_size_max));
        }
        self.buffer.extend_from_slice(chunk);
        Ok(())
    }

    pub(super) fn finish(self, sink: &mut dyn FnMut(&[u8])) -> Result<Packet, PacketError> {
        let fields: Fields<'_> = serde_json::from_slice(&self.buffer).map_err(|error| match error.is_eof() {
            true => PacketError::Truncated,
            false => PacketError::Json(error.to_string()),
        })?;
        match (fields.message, fields.content) {
            (Some(message), None) => heartbeat(message, &fields),
            (_, content) => {
                let file_name =
                    text("file_name", TEXT_SIZE_MAX, fields.file_name)?.ok_or(PacketError::Missing("file_name"))?;
                let distributed =
                    parse_distributed(text("distributed", DISTRIBUTED_SIZE_MAX, fields.distributed)?.as_deref())?;
                if let Some(content) = content {
                    decode_content(content, self.limits.content_size_max, sink)?;
                }
                Ok(Packet::File { file_name, distributed })
            }
        }
    }
}

impl Nesting {
    fn follow(&mut self, bytes: &[u8]) -> Result<(), PacketError> {
        for &byte in bytes {
            if self.in_string {
                match byte {
                    _ if self.after_backslash => self.after_backslash = false,
                    b'\\' => self.after_backslash = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' if self.depth == DEPTH_MAX => return Err(PacketError::JsonTooDeep(DEPTH_MAX)),
                b'{' | b'[' => self.depth += 1,
                // What closes more than was opened is for the parser to refuse.
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        Ok(())
    }
}

fn heartbeat(message: &RawValue, fields: &Fields<'_>) -> Result<Packet, PacketError> {
    let required = |field, value| text(field, TEXT_SIZE_MAX, value)?.ok_or(PacketError::Missing(field));
    Ok(Packet::Heartbeat {
        name: required("name", fields.name)?,
        ip_address: required("ip_address", fields.ip_address)?,
        port: port(fields.port.ok_or(PacketError::Missing("port"))?)?,
        message: text("message", TEXT_SIZE_MAX, Some(message))?.unwrap_or_default(),
    })
}

/// Reads a text that must not be long; an empty one is none, as in proto3.
fn text(field: &'static str, max: usize, value: Option<&RawValue>) -> Result<Option<String>, PacketError> {
    let Some(value) = value.map(RawValue::get) else { return Ok(None) };
    if !value.starts_with('"') {
        return Err(PacketError::NotText(field));
    }
    let too_long = PacketError::TextTooLong { field, max };
    if value.len() > ESCAPE_SIZE * max + 2 {
        return Err(too_long);
    }
    // The text was found to be JSON already, but for surrogates without their other half.
    let text: String = serde_json::from_str(value).map_err(|_| PacketError::NotUtf8(field))?;
    if text.len() > max {
        return Err(too_long);
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// Reads a port, which some senders write as a number and some as a text.
fn port(value: &RawValue) -> Result<u16, PacketError> {
    let value = value.get();
    value.trim_matches('"').parse().map_err(|_| PacketError::InvalidPort(value.chars().take(16).collect()))
}

fn decode_content(content: &RawValue, size_max: u64, sink: &mut dyn FnMut(&[u8])) -> Result<(), PacketError> {
    let quoted = content.get();
    let Some(mut rest) = quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
        return Err(PacketError::NotText("content"));
    };
    let mut decoder = Base64Decoder::new(size_max);
    // Some writers escape each slash, so an escape is no reason to copy the text.
    while let Some(start) = rest.find('\\') {
        let (text, escape) = rest.split_at(start);
        let (byte, escape_size) = unescape(escape);
        decoder.push(text.as_bytes(), sink)?;
        decoder.push(&[byte], sink)?;
        rest = &escape[escape_size..];
    }
    decoder.push(rest.as_bytes(), sink)?;
    decoder.finish()
}

/// The character that a valid escape stands for and the escape's length, if it is one that base64 has. Else the
/// backslash itself, which base64 refuses where it stands.
fn unescape(escape: &str) -> (u8, usize) {
    match escape.as_bytes()[1] {
        b'/' => (b'/', 2),
        b'u' => {
            let character = u8::from_str_radix(&escape[2..ESCAPE_SIZE], 16).ok();
            (character.filter(u8::is_ascii).unwrap_or(b'\\'), ESCAPE_SIZE)
        }
        _ => (b'\\', 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(json: &str) -> (Vec<u8>, Result<Packet, PacketError>) {
        let mut content = Vec::new();
        let mut decoder = JsonDecoder::new(Limits::default());
        let result =
            decoder.push(json.as_bytes()).and_then(|()| decoder.finish(&mut |bytes| content.extend_from_slice(bytes)));
        (content, result)
    }

    fn file(file_name: &str, distributed: bool) -> Result<Packet, PacketError> {
        Ok(Packet::File { file_name: file_name.to_owned(), distributed })
    }

    #[test]
    fn keys_come_in_any_order_among_others() {
        for (json, content, packet) in [
            (r#"{"file_name":"a.txt","distributed":"F"}"#, &b""[..], file("a.txt", false)),
            (
                r#"{"content":"QUJD","more":[{"x":{}},1e9,null],"distributed":"T","file_name":"a"}"#,
                b"ABC",
                file("a", true),
            ),
            (
                "{ \"file_name\" : \"\\u00fc\\ud83d\\ude00\" ,\n\"distributed\":\"F\",\"content\":null}\n",
                b"",
                file("ü😀", false),
            ),
            (r#"{"file_name":"a","distributed":"F","content":"","message":"hello"}"#, b"", file("a", false)),
            // PHP escapes the slash, others escape what they like.
            (
                r#"{"file_name":"a\/b","distributed":"F","content":"\/\/\/\/\u0051UI\u003D"}"#,
                b"\xff\xff\xffAB",
                file("a/b", false),
            ),
        ] {
            assert_eq!(decode(json), (content.to_vec(), packet), "{json}");
        }
    }

    #[test]
    fn message_without_content_is_a_heartbeat() {
        let heartbeat = |port, message: &str| {
            let (name, ip_address) = ("Program".to_owned(), "10.0.0.7".to_owned());
            Ok(Packet::Heartbeat { name, ip_address, port, message: message.to_owned() })
        };
        let json = r#"{"file_name": "heartbeat", "message": "I am alive", "ip_address": "10.0.0.7", "port": 22222, "name": "Program"}"#;
        assert_eq!(decode(json), (Vec::new(), heartbeat(22222, "I am alive")));
        assert_eq!(decode(&json.replace("22222", "\"3389\"")).1, heartbeat(3389, "I am alive"));
        assert_eq!(decode(&json.replace("I am alive", "")).1, heartbeat(22222, ""));
        assert_eq!(decode(&json.replace("\"name\"", "\"nickname\"")).1, Err(PacketError::Missing("name")));
        assert_eq!(decode(&json.replace("\"port\"", "\"harbour\"")).1, Err(PacketError::Missing("port")));
        for bad in ["65536", "-1", "1.5", "\"ssh\"", "[22]", "{}"] {
            let result = decode(&json.replace("22222", bad)).1;
            assert_eq!(result, Err(PacketError::InvalidPort(bad.to_owned())));
        }
    }

    #[test]
    fn each_bad_packet_is_refused_for_its_own_reason() {
        let name = "a".repeat(TEXT_SIZE_MAX + 1);
        let long_name = format!(r#"{{"file_name":"{name}","distributed":"F"}}"#);
        let too_long = PacketError::TextTooLong { field: "file_name", max: TEXT_SIZE_MAX };
        for (json, error) in [
            (r#"{"distributed":"F"}"#, PacketError::Missing("file_name")),
            (r#"{"file_name":"","distributed":"F"}"#, PacketError::Missing("file_name")),
            (r#"{"file_name":"a"}"#, PacketError::Missing("distributed")),
            (r#"{"file_name":"a","distributed":"false"}"#, PacketError::InvalidDistributed("false".to_owned())),
            (
                r#"{"file_name":"a","distributed":"FFFFFFFFFFFFFFFFF"}"#,
                PacketError::TextTooLong { field: "distributed", max: DISTRIBUTED_SIZE_MAX },
            ),
            (r#"{"file_name":"a","distributed":false}"#, PacketError::NotText("distributed")),
            (r#"{"file_name":"a","distributed":"F","content":7}"#, PacketError::NotText("content")),
            (r#"{"file_name":"\udc00","distributed":"F"}"#, PacketError::NotUtf8("file_name")),
            (r#"{"file_name":"a","distributed":"F","content":"QU"#, PacketError::Truncated),
            (r#"{"file_name":"a","distributed":"F""#, PacketError::Truncated),
            (r#"{"file_name":"a","distributed":"F","content":"QUI"}"#, PacketError::Base64Cut(3)),
            (
                r#"{"file_name":"a","distributed":"F","content":"QUI\n"}"#,
                PacketError::NotBase64 { byte: b'\\', position: 3 },
            ),
            (
                r#"{"file_name":"a","distributed":"F","content":"\u00ff\"AA"}"#,
                PacketError::NotBase64 { byte: b'\\', position: 0 },
            ),
            (&long_name, too_long.clone()),
            (&long_name.replace('a', r"\u0061"), too_long),
        ] {
            assert_eq!(decode(json), (Vec::new(), Err(error)), "{json}");
        }
        for json in [r#"{"file_name":"a",}"#, "{]", "{} {}", r#"{"content":"","content":""}"#] {
            assert!(matches!(decode(json), (_, Err(PacketError::Json(_)))), "{json}");
        }
    }

    #[test]
    fn endless_json_stops_at_the_limit() {
        let limits = Limits { json_size_max: 10_000, ..Limits::default() };
        let mut decoder = JsonDecoder::new(limits);
        decoder.push(br#"{"content": ""#).unwrap();
        let error = (0..1000).find_map(|_| decoder.push(&[b'A'; 999]).err());
        assert_eq!(error, Some(PacketError::JsonTooLarge(10_000)));
        assert!(decoder.buffered_bytes() <= 10_000);
    }

    #[test]
    fn endless_nesting_stops_at_once() {
        let mut decoder = JsonDecoder::new(Limits::default());
        assert_eq!(decoder.push(&[b'['; DEPTH_MAX]), Ok(()));
        assert_eq!(decoder.push(b"{"), Err(PacketError::JsonTooDeep(DEPTH_MAX)));

        let side_by_side = format!(r#"{{"file_name":"a","distributed":"F","more":[{}[]]}}"#, "[],".repeat(1000));
        assert!(decode(&side_by_side).1.is_ok());
        let brackets_in_text = format!(r#"{{"file_name":"\"{}","distributed":"F"}}"#, "[".repeat(1000));
        assert!(decode(&brackets_in_text).1.is_ok());
    }
}
