//! The command line.

pub mod certs;
pub mod demo;
