//! The texts that become values at the border: what parses reads back as itself, and keeps its promises.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/model/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the values are fuzzed, not what is done with them")]
mod model;

use model::{Address, ContentHash, EntryKey, FieldValue, NanoDollars, NodeId, ObjectKey, Principal, Record, RecordKey};

fuzz_target!(|text: &str| {
    if let Ok(key) = text.parse::<ObjectKey>() {
        assert_eq!(key.as_str(), text);
        assert!(!text.starts_with('/') && text.split('/').all(|segment| !["", ".", ".."].contains(&segment)));
        assert!(!text.starts_with(".metacdn/") && !key.guessed_media_type().is_empty());
        assert!(std::path::Path::new("/data").join(text).starts_with("/data"));
    }
    if let Ok(key) = text.parse::<EntryKey>() {
        assert_eq!(key.as_str(), text);
    }
    if let Ok(value) = text.parse::<FieldValue>() {
        assert!(value.as_str().bytes().all(|byte| (0x20..0x7f).contains(&byte)));
    }
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    if let Ok(money) = text.parse::<NanoDollars>() {
        assert_eq!(money.to_string().parse(), Ok(money));
        assert_eq!(money.to_reference().parse(), Ok(money));
    }
    if let Ok(hash) = text.parse::<ContentHash>() {
        assert_eq!(hash.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(key) = text.parse::<RecordKey>() {
        let _ = Record::read(&key, Some(text));
    }
    if let Ok(id) = "AWS".parse::<NodeId>() {
        let _ = Record::read(&RecordKey::node(&id), Some(text));
    }
    let _ = Principal::from_dns_names([text]);
});
