//! Turns on the parts of metacdn that only the simulation needs.

fn main() {
    println!("cargo::rustc-cfg=simulation");
    println!("cargo::rerun-if-changed=build.rs");
}
