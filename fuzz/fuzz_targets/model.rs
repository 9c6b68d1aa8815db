//! The texts that become values at the border: what parses reads back as itself, and keeps its promises.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/model/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the values are fuzzed, not what is done with them")]
mod model;

use model::{
    Address, ContentHash, Entry, EntryKey, Epoch, FieldValue, MembersDigest, NanoDollars, NodeId, ObjectKey, Principal,
    Record, RecordKey, Variant, Version, VersionVector, WaitFor,
};

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
    if let Ok(version) = text.parse::<Version>() {
        assert_eq!(version.to_string(), text);
    }
    if let Ok(epoch) = text.parse::<Epoch>() {
        assert_eq!(epoch.to_string().parse(), Ok(epoch));
    }
    if let Ok(digest) = text.parse::<MembersDigest>() {
        assert_eq!(digest.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(copies) = text.parse::<WaitFor>() {
        assert_eq!(copies.to_string().parse(), Ok(copies));
    }
    if let Ok(variant) = text.parse::<Variant>() {
        assert_eq!(variant.to_string().parse(), Ok(variant));
    }
    if let Ok(entry) = serde_json::from_str::<Entry>(text) {
        let again = serde_json::to_string(&entry).expect("an entry is JSON");
        assert_eq!(serde_json::from_str::<Entry>(&again).expect("what was written is read"), entry);
        let _ = entry.check();
    }
    if let Ok(vector) = serde_json::from_str::<VersionVector>(text) {
        let again = serde_json::to_string(&vector).expect("a vector is JSON");
        assert_eq!(serde_json::from_str::<VersionVector>(&again).expect("what was written is read"), vector);
        assert!(vector.covers(&vector) && vector.common(&vector) == vector);
    }
    let _ = Principal::from_dns_names([text]);
});
