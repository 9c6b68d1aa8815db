//! The metacdn binary.
fn main() {}
