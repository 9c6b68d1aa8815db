//! Images of strangers: none ends the process, and what a plan allows keeps what it promised.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;

#[path = "../../src/model/mod.rs"]
#[expect(dead_code, unused_imports, reason = "of the values only the variants are used")]
mod model;
#[path = "../../src/resize/mod.rs"]
#[expect(dead_code, reason = "the names of codecs are not fuzzed")]
mod resize;

use model::Variant;
use resize::{Config, Plan, make};

fuzz_target!(|source: &[u8]| {
    let config = Config { source_bytes_max: 1 << 20, pixels_max: 1 << 18 };
    let Ok(plan) = Plan::read(Cursor::new(source), source.len() as u64, &config) else { return };
    // As a node would: what a bitstream may ask for can be more than there is.
    if plan.memory_bytes() > 64 << 20 {
        return;
    }
    assert!(plan.media_type().starts_with("image/"));
    let Ok(both) = make(source, &plan, &Variant::MADE) else { return };
    assert_eq!(both.len(), 2);
    for one in both {
        let again = Plan::read(Cursor::new(&one.bytes), one.bytes.len() as u64, &Config::default());
        assert_eq!(again.map(|plan| plan.media_type()).ok(), Some(plan.media_type()));
        assert_eq!(make(source, &plan, &[one.variant]).ok(), Some(vec![one]));
    }
});
