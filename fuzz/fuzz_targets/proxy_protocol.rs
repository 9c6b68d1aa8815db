//! PROXY headers of a hostile proxy: however the bytes are cut, no byte of what follows is taken, and none is missed.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/serve/proxy_protocol.rs"]
mod proxy_protocol;

use proxy_protocol::{Header, parse};

/// A fixed part, and as much as its length can say.
const HEADER_BYTES_MAX: usize = 16 + 0xffff;

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Ok(Some(header)) => {
            let Header { length, .. } = header;
            assert!((1..=HEADER_BYTES_MAX.min(bytes.len())).contains(&length));
            assert_eq!(parse(&bytes[..length]), Ok(Some(header)), "what follows changes nothing");
            assert_eq!(parse(&bytes[..length - 1]), Ok(None), "its last byte belongs to it");
        }
        Ok(None) => assert!(bytes.len() < HEADER_BYTES_MAX),
        // What is wrong stays wrong.
        Err(error) => assert_eq!(parse(&[bytes, b"x"].concat()), Err(error)),
    }
});
