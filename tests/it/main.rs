//! Behaviour, through real roles and real processes.

mod cluster;
mod distribution;
mod serve;
