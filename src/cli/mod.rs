//! The command line.

pub mod certs;
