//! Who is alive, as one observer sees it.
//!
//! Liveness is an observation, membership is data: which nodes are members is said by their records, and the caller
//! tells this module whom to expect. Times are durations since any start that the caller keeps to.

mod detector;

pub use detector::{Config, Detector};
