//! Requests of a hostile client: the verdict on a connection must not depend on how its bytes are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/serve/framing.rs"]
#[expect(dead_code, reason = "how a connection uses the inspector is not fuzzed")]
mod framing;

use framing::Inspector;

fuzz_target!(|input: (&[u8], u8)| {
    let (bytes, size) = input;
    let whole = Inspector::new().feed(bytes);
    let mut inspector = Inspector::new();
    let cut = bytes.chunks(usize::from(size) + 1).find_map(|chunk| inspector.feed(chunk));
    assert_eq!(whole, cut);
});
