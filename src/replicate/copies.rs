//! Whether the copies of a write are as many as it asks for.

use std::collections::BTreeSet;

use crate::model::{NodeId, Provider, WaitFor};

/// A node that holds a copy, and where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyHolder<'a> {
    /// The node.
    pub id: &'a NodeId,
    /// Its provider, if the node is registered.
    pub provider: Option<&'a Provider>,
}

impl WaitFor {
    /// Whether copies at `holders` are enough in a cluster of `registered` nodes.
    pub fn is_met(self, holders: usize, registered: usize) -> bool {
        match self {
            Self::Copies(copies) => holders >= copies as usize,
            Self::Quorum => holders > registered / 2,
            Self::All => holders >= registered,
        }
    }

    /// Whether `holders` are as safe as the default of two copies asks for: two copies in two providers, or as many as
    /// the `others` that can be reached besides this node allow.
    pub fn default_is_met(holders: &[CopyHolder<'_>], others: &[CopyHolder<'_>]) -> bool {
        let providers: BTreeSet<_> = holders.iter().filter_map(|holder| holder.provider).collect();
        let elsewhere = |other: &CopyHolder<'_>| other.provider.is_some_and(|provider| !providers.contains(provider));
        let lacks = |other: &CopyHolder<'_>| !holders.iter().any(|holder| holder.id == other.id);
        if others.iter().any(|other| lacks(other) && elsewhere(other)) {
            return providers.len() >= 2;
        }
        holders.len() >= 2 || !others.iter().any(lacks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_two_copies_in_two_providers_if_there_are_two() {
        let (a, b, c): (NodeId, NodeId, NodeId) =
            ("A".parse().expect("a name"), "B".parse().expect("a name"), "C".parse().expect("a name"));
        let (aws, gc): (Provider, Provider) = ("AWS".parse().expect("a name"), "GC".parse().expect("a name"));
        let holder = |id, provider| CopyHolder { id, provider: Some(provider) };
        let (here, near, far) = (holder(&a, &aws), holder(&b, &aws), holder(&c, &gc));
        let met = WaitFor::default_is_met;
        assert!(met(&[here], &[]), "alone");
        assert!(!met(&[here], &[near]) && met(&[here, near], &[near]), "one provider");
        assert!(!met(&[here, near], &[near, far]) && met(&[here, far], &[near, far]), "two providers");
        assert!(met(&[here, near], &[near]), "the other provider is down");
    }

    #[test]
    fn copies_are_counted_with_the_first() {
        assert!(WaitFor::Copies(1).is_met(1, 3) && !WaitFor::Copies(2).is_met(1, 3));
        assert!(!WaitFor::Quorum.is_met(2, 4) && WaitFor::Quorum.is_met(3, 4) && WaitFor::Quorum.is_met(2, 3));
        assert!(!WaitFor::All.is_met(2, 3) && WaitFor::All.is_met(3, 3));
    }
}
