//! Replication as a state machine without I/O: what becomes of writes, of what peers list, of deletions and of backups.
//!
//! Every rule works on a [`Ledger`], what one node has written down, within one commit. The catalogue is one; the one in
//! memory is what the simulation in `sim/` runs these same rules on, through crashes and partitions.
//!
//! Last writer wins by [`crate::model::Entry::supersedes`]. Applying is idempotent and does not depend on the order of
//! arrival. The rules that the names below stand for are told in `docs/decisions.md`.

mod absorb;
mod clock;
mod copies;
mod coverage;
mod decide;
mod digest;
mod expire;
mod home;
mod ledger;
#[cfg(any(test, simulation))]
pub mod memory;
mod mend;
mod restore;

pub use absorb::{Page, Taken, absorb, conclude, doubt, give_up, take_in, unpark, write};
pub use clock::{AHEAD_MAX_MS, ahead_of_peers_ms};
pub use copies::CopyHolder;
pub use coverage::Coverage;
pub use decide::{Decision, decide, resume_at};
pub use digest::{BUCKETS, bucket_of, differing, digest_of, sum_of};
pub use expire::{Expired, expire};
pub use home::{Acknowledgement, Decider, decider, have_met, home, is_settled};
pub use ledger::{Debt, Ledger};
pub use mend::Comparison;
pub use restore::{Released, release};
