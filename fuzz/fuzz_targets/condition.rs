//! Conditional requests: any field values are evaluated, and what matches nothing never passes `If-Match`.
#![no_main]

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Method, header};
use libfuzzer_sys::fuzz_target;

#[path = "../../src/serve/condition.rs"]
mod condition;

use condition::{Validators, Verdict, evaluate, range_applies};

fuzz_target!(|input: (Vec<(u8, &[u8])>, u32, bool)| {
    let (fields, seconds, exists) = input;
    let names = [
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::IF_RANGE,
        header::RANGE,
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(&names[usize::from(name) % names.len()], value);
        }
    }
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into());
    let current = Validators { etag: "\"tag\"", modified: Some(modified) };
    let verdict = evaluate(&Method::GET, &headers, exists.then_some(current));
    if headers.contains_key(header::IF_MATCH) && !exists {
        assert_eq!(verdict, Verdict::Failed);
    }
    if !exists {
        assert_ne!(verdict, Verdict::NotModified);
    }
    range_applies(&Method::GET, &headers, current);
});
