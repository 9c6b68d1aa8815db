//! `Range` headers: whatever they say, the parts lie within the representation and add up to no more than it.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/serve/range.rs"]
mod range;

use range::{Selection, select};

fuzz_target!(|input: (&str, u64)| {
    let (header, size) = input;
    if let Selection::Parts(parts) = select(header, size) {
        assert!(!parts.is_empty());
        let mut total = 0_u64;
        for part in &parts {
            assert!(part.start < part.end && part.end <= size, "{part:?} of {size}");
            total += part.end - part.start;
        }
        assert!(total <= size);
    }
});
