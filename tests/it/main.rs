//! Behaviour, through real roles and real processes.

mod cluster;
mod distribution;
mod serve;
#![expect(clippy::unwrap_used, reason = "what fails in a test shall end it, in its helpers too")]

mod relay;
mod tidy;
