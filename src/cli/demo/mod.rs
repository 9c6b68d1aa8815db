//! The demonstration: a whole cluster on loopback, with the distances between its parts emulated.

pub mod relay;
