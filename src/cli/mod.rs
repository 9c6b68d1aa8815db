//! The command line.

pub mod certs;
pub mod config;
pub mod demo;
pub mod proxy;
pub mod roles;
pub mod run;
pub mod server;
