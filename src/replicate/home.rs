//! Which node decides on the conditional writes of a key, and when another one may (rule 10).
//!
//! Each key has one home among the registered nodes, alive or not, and every conditional write of the key is decided in
//! a commit there. So they are linearizable among themselves as long as no two nodes are the home at once, also while
//! nodes join: a node is the home only under a set that is *settled*, which each member of the set has said to know.
//! Whoever has said so decides by that set, or a later one, from then on. So when it is settled at the new home, the
//! old one has stopped; and the new one has read all that the old one had decided by then.

use std::collections::BTreeSet;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::model::{Cursor, MemberSet, MembersDigest, NodeId, ObjectKey};

/// The home of `key` among `members`: the one with the greatest weight, which is the XXH3 hash (64 bits) of the key's
/// UTF-8 text, seeded with the XXH3 hash (64 bits, seed 0) of the member's name; of equals the greatest name. Nodes of
/// all versions must agree on it. A member that joins takes keys only for itself (highest random weight: Thaler and
/// Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996).
pub fn home<'a>(key: &ObjectKey, members: &'a MemberSet) -> Option<&'a NodeId> {
    let weight = |id: &NodeId| xxh3_64_with_seed(key.as_str().as_bytes(), xxh3_64(id.as_str().as_bytes()));
    members.iter().max_by_key(|id| (weight(id), *id))
}

/// Who decides on the conditional writes of a key, as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decider {
    /// This node.
    Here,
    /// That node, if it agrees.
    There(NodeId),
    /// Nobody, until all registered nodes know each other: then this node.
    Nobody,
}

/// Who decides on the conditional writes of `key`, as `me` sees it, which knows the `registered` nodes. `settled` is the
/// set that it last saw settled, and all that have come and gone since: one of them may have been the home meanwhile.
pub fn decider(key: &ObjectKey, me: &NodeId, registered: &MemberSet, settled: Option<&MemberSet>) -> Decider {
    match home(key, registered) {
        Some(home) if home != me => Decider::There(home.clone()),
        Some(_) if settled.and_then(|settled| home(key, settled)) == Some(me) => Decider::Here,
        _ => Decider::Nobody,
    }
}

/// What a member has said in answer to a heartbeat: which nodes it knows, and where its feed ended when it said so. One
/// that is to join a cluster says so only when it was welcomed there: else two that know but each other would be a
/// second cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The nodes that it knows.
    pub members: MembersDigest,
    /// The end of its feed: before it stands all that it decided by another set.
    pub head: Cursor,
}

/// Whether `me` may take the set `registered` for settled: every other member of it, alive or not, has said to know it
/// (`acknowledged`), and all that stood in its feed by then was read (`read`). A node that is alone is a cluster only
/// if it `founds` one: one that is to join knows nobody yet, and others may decide meanwhile.
pub fn is_settled(
    me: &NodeId,
    registered: &MemberSet,
    founds: bool,
    acknowledged: impl Fn(&NodeId) -> Option<Acknowledgement>,
    read: impl Fn(&NodeId) -> Option<Cursor>,
) -> bool {
    let digest = registered.digest();
    let has_settled = |id: &NodeId| {
        let Some(Acknowledgement { members, head }) = acknowledged(id) else { return false };
        members == digest && read(id).is_some_and(|read| read.epoch == head.epoch && read.since >= head.since)
    };
    let is_cluster = registered.contains(me) && (founds || registered.len() > 1);
    is_cluster && registered.iter().filter(|id| *id != me).all(has_settled)
}

/// Whether `me` and its `seeds`, each with the nodes that it waits for itself as far as it has found them, wait for nobody
/// but each other. Then there is no cluster that any of them was to join, and they are one. Who finds but itself at its seeds
/// has met nobody: behind such an address others may be.
pub fn have_met(me: &NodeId, seeds: &[(&NodeId, Option<&BTreeSet<NodeId>>)]) -> bool {
    let is_here = |id: &NodeId| id == me || seeds.iter().any(|(seed, _)| *seed == id);
    let meets_another = seeds.iter().any(|(id, _)| *id != me);
    meets_another
        && seeds.iter().all(|(id, theirs)| *id == me || theirs.is_some_and(|theirs| theirs.iter().all(is_here)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Epoch;

    fn id(name: &str) -> NodeId {
        name.parse().expect("a name")
    }

    fn set(names: &[&str]) -> MemberSet {
        names.iter().map(|name| id(name)).collect()
    }

    fn key(text: &str) -> ObjectKey {
        text.parse().expect("a key")
    }

    /// A key whose home among `members` is `home`, and with `joined` among them is `moved_to`.
    fn moving_key(members: &[&str], home_before: &str, joined: &[&str], moved_to: &str) -> ObjectKey {
        let (before, after) = (set(members), set(&[members, joined].concat()));
        let mut keys = (0..1_000).map(|number| key(&number.to_string()));
        let fits =
            |key: &ObjectKey| home(key, &before) == Some(&id(home_before)) && home(key, &after) == Some(&id(moved_to));
        keys.find(fits).expect("one of a thousand")
    }

    #[test]
    fn the_formula_stays_what_it_is() {
        let three = set(&["AWS", "GC", "Program"]);
        let homes: Vec<_> = ["a", "b", "photos/cat.jpg", "日本"]
            .iter()
            .filter_map(|text| home(&key(text), &three).map(NodeId::as_str))
            .collect();
        assert_eq!(homes, ["GC", "GC", "Program", "Program"]);
        assert_eq!(home(&key("a"), &MemberSet::default()), None);
    }

    #[test]
    fn keys_are_spread_evenly() {
        let three = set(&["AWS", "GC", "Program"]);
        let mut counts = BTreeMap::<_, u32>::new();
        for number in 0..3_000 {
            *counts.entry(home(&key(&format!("key-{number}")), &three)).or_default() += 1;
        }
        assert!(counts.len() == 3 && counts.values().all(|count| (900..1_100).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_key_whose_home_moves_is_decided_by_nobody_until_the_set_is_settled() {
        let moving = moving_key(&["A", "B"], "A", &["C"], "C");
        let staying = moving_key(&["A", "B"], "A", &["C"], "A");
        let (old, new) = (set(&["A", "B"]), set(&["A", "B", "C"]));
        let decides = |key, me, registered, settled| decider(key, &id(me), registered, settled);
        assert_eq!(decides(&moving, "A", &old, Some(&old)), Decider::Here);
        assert_eq!(decides(&moving, "B", &old, Some(&old)), Decider::There(id("A")));
        assert_eq!(decides(&moving, "A", &new, Some(&old)), Decider::There(id("C")));
        assert_eq!(decides(&moving, "C", &new, None), Decider::Nobody);
        assert_eq!(decides(&moving, "C", &new, Some(&old)), Decider::Nobody);
        assert_eq!(decides(&moving, "C", &new, Some(&new)), Decider::Here);
        assert_eq!(decides(&moving, "A", &old, Some(&new)), Decider::Nobody, "C was forgotten, and B may not know yet");
        for settled in [&old, &new] {
            assert_eq!(decides(&staying, "A", &new, Some(settled)), Decider::Here, "it stays all the time");
        }
    }

    #[test]
    fn a_set_is_settled_when_all_have_said_so_and_were_read_up_to_there() {
        let members = set(&["A", "B", "C"]);
        let at = |epoch, since| Cursor { epoch: Epoch::from_bits(epoch), since };
        let said = |members: &MemberSet, head| Some(Acknowledgement { members: members.digest(), head });
        let settled = |of_b: Option<Acknowledgement>, read_of_b: Option<Cursor>| {
            let acknowledged = |other: &NodeId| if *other == id("B") { of_b } else { said(&members, at(1, 5)) };
            let read = |other: &NodeId| if *other == id("B") { read_of_b } else { Some(at(1, 5)) };
            is_settled(&id("A"), &members, false, acknowledged, read)
        };
        assert!(settled(said(&members, at(2, 7)), Some(at(2, 7))));
        assert!(settled(said(&members, at(2, 7)), Some(at(2, 9))));
        assert!(!settled(None, Some(at(2, 7))), "B is down, or has not said anything yet");
        assert!(!settled(said(&set(&["A", "B"]), at(2, 7)), Some(at(2, 7))), "B does not know C");
        assert!(!settled(said(&members, at(2, 7)), Some(at(2, 6))), "what B decided last was not read");
        assert!(!settled(said(&members, at(2, 7)), Some(at(1, 9))), "it was another life of B");
        assert!(!settled(said(&members, at(2, 7)), None));
        for founds in [true, false] {
            assert_eq!(is_settled(&id("A"), &set(&["A"]), founds, |_| None, |_| None), founds, "alone");
        }
        let of_b = said(&set(&["B"]), at(1, 0));
        assert!(!is_settled(&id("A"), &set(&["B"]), true, |_| of_b, |_| Some(at(1, 0))), "it is no member");
    }

    /// One node of a small model: what it knows, what it saw settled, what others said to it.
    #[derive(Clone, Default)]
    struct Model {
        registered: MemberSet,
        gone: MemberSet,
        /// Whether it was welcomed by the node that it joins by.
        joined: bool,
        /// The set that it settled last, and who was gone by then.
        settled: Option<(MemberSet, MemberSet)>,
        heard: BTreeMap<NodeId, Acknowledgement>,
        /// The registered nodes, and the settled set, since when that was heard.
        known: (MemberSet, Option<MemberSet>),
        /// How many entries its feed has, and up to which ones of others it has read.
        head: u64,
        read: BTreeMap<NodeId, u64>,
        /// The value of the one key as it knows it: a count of decisions.
        value: u64,
        has_stopped: bool,
    }

    const NAMES: [&str; 4] = ["A", "B", "C", "D"];

    /// A cluster that A founds; the others join by the one with that number.
    fn models(seeds: &[usize; 4]) -> Vec<Model> {
        let alone = |name: &&str| Model { registered: set(&[name]), ..Model::default() };
        let mut nodes: Vec<_> = NAMES.iter().map(alone).collect();
        (nodes[0].joined, nodes[0].settled) = (true, Some((set(&["A"]), set(&[]))));
        assert!(seeds.iter().enumerate().skip(1).all(|(node, seed)| *seed < node));
        nodes
    }

    fn union(one: &MemberSet, other: &MemberSet) -> MemberSet {
        one.iter().chain(other.iter()).cloned().collect()
    }

    fn without(one: &MemberSet, other: &MemberSet) -> MemberSet {
        one.iter().filter(|id| !other.contains(id)).cloned().collect()
    }

    impl Model {
        fn acknowledgement(&self) -> Option<Acknowledgement> {
            let head = Cursor { epoch: Epoch::from_bits(1), since: self.head };
            self.joined.then(|| Acknowledgement { members: self.registered.digest(), head })
        }

        /// What it saw settled, and who came and went since.
        fn settled(&self) -> Option<MemberSet> {
            self.settled.as_ref().map(|(members, gone)| union(members, &without(&self.gone, gone)))
        }

        fn list(&mut self, value: u64) {
            if value > self.value {
                self.value = value;
                self.head += 1;
            }
        }

        /// Looks whether the set is settled.
        fn settle(&mut self, me: &NodeId) {
            let (registered, settled) = (self.registered.clone(), self.settled());
            let known = (registered.clone(), settled.clone());
            if self.known != known {
                self.known = known;
                self.heard.clear();
            }
            let read =
                |id: &NodeId| self.read.get(id).map(|since| Cursor { epoch: Epoch::from_bits(1), since: *since });
            let heard = |id: &NodeId| self.heard.get(id).copied();
            if self.joined && is_settled(me, &registered, settled.is_some(), heard, read) {
                self.settled = Some((registered, self.gone.clone()));
            }
        }
    }

    /// Lets one thing happen at the node `one`, some with the node `other`; answers the decision that was made, if any.
    fn step(
        nodes: &mut [Model],
        seeds: &[usize; 4],
        key: &ObjectKey,
        act: u8,
        one: usize,
        other: usize,
    ) -> Option<u64> {
        let (me, them) = (id(NAMES[one]), id(NAMES[other]));
        let theirs = nodes[other].clone();
        // One that was forgotten learns so, and ends.
        if nodes[one].has_stopped || (theirs.has_stopped && act != 5) || nodes[one].gone.contains(&them) {
            return None;
        }
        match act {
            // It hears of the members that the other knows; from the one that it joins by it is a welcome.
            0 => {
                let node = &mut nodes[one];
                node.gone = union(&node.gone, &theirs.gone);
                node.registered = without(&union(&node.registered, &theirs.registered), &node.gone);
                node.joined |= one != 0 && seeds[one] == other;
            }
            // It pings the other.
            1 => _ = theirs.acknowledgement().and_then(|said| nodes[one].heard.insert(them, said)),
            // It reads the other's feed.
            2 => {
                nodes[one].read.insert(them, theirs.head);
                nodes[one].list(theirs.value);
            }
            3 => nodes[one].settle(&me),
            // The other stops for good, once; what it decided others have.
            4 => {
                let keeps = nodes.iter().enumerate().any(|(node, model)| node != other && model.value >= theirs.value);
                let is_first = nodes.iter().all(|model| !model.has_stopped);
                nodes[other].has_stopped = is_first && keeps && theirs.joined && one != other;
            }
            // A person has the other forgotten.
            5 => {
                if theirs.has_stopped && nodes[one].registered.contains(&them) {
                    let node = &mut nodes[one];
                    node.gone = union(&node.gone, &set(&[NAMES[other]]));
                    node.registered = without(&node.registered, &node.gone);
                }
            }
            // It decides, if it may, and the other has a copy, if there is any other.
            _ => {
                let node = &nodes[one];
                let is_copied = node.registered.contains(&them);
                let may = decider(key, &me, &node.registered, node.settled().as_ref()) == Decider::Here;
                if may && (is_copied || node.registered.len() == 1) {
                    let value = node.value + 1;
                    nodes[one].list(value);
                    if is_copied {
                        nodes[other].list(value);
                    }
                    return Some(value);
                }
            }
        }
        None
    }

    #[test]
    fn in_the_model_decisions_go_over_to_a_node_that_joined() {
        let key = moving_key(&["A"], "A", &["B"], "B");
        let seeds = [0, 0, 0, 0];
        let mut nodes = models(&seeds);
        let mut run = |steps: &[(u8, usize, usize)]| {
            let made = steps.iter().filter_map(|(act, one, other)| step(&mut nodes, &seeds, &key, *act, *one, *other));
            made.collect::<Vec<_>>()
        };
        assert_eq!(run(&[(6, 0, 1), (6, 1, 0)]), [1], "A alone");
        assert_eq!(run(&[(0, 0, 1), (0, 1, 0), (6, 0, 1), (6, 1, 0)]), Vec::<u64>::new(), "nobody");
        assert_eq!(run(&[(3, 1, 0), (1, 1, 0), (2, 1, 0), (3, 1, 0), (6, 0, 1), (6, 1, 0)]), [2], "B");
    }

    #[test]
    fn in_the_model_a_node_that_came_and_went_has_decided() {
        let key = moving_key(&["A", "B", "D"], "A", &["C"], "C");
        let seeds = [0, 0, 0, 0];
        let mut nodes = models(&seeds);
        let mut run = |steps: &[(u8, usize, usize)]| {
            let made = steps.iter().filter_map(|(act, one, other)| step(&mut nodes, &seeds, &key, *act, *one, *other));
            made.collect::<Vec<_>>()
        };
        let meet = |nodes: &[usize]| {
            let pairs = nodes.iter().flat_map(|one| nodes.iter().map(move |other| (*one, *other)));
            pairs.filter(|(one, other)| one != other).collect::<Vec<_>>()
        };
        let all = |act: u8, nodes: &[usize]| {
            meet(nodes).into_iter().map(|(one, other)| (act, one, other)).collect::<Vec<_>>()
        };
        for act in [0, 0, 3, 1, 2, 3] {
            run(&all(act, &[0, 1, 3]));
        }
        assert_eq!(run(&[(6, 0, 3)]), [1]);
        // C joins: A says that it knows of it, and does not settle that itself.
        for act in [0, 0] {
            run(&all(act, &[0, 1, 2, 3]));
        }
        run(&[(3, 2, 0), (1, 2, 0), (1, 2, 1), (1, 2, 3), (2, 2, 0), (2, 2, 1), (2, 2, 3), (3, 2, 0)]);
        assert_eq!(run(&[(6, 2, 1)]), [2], "C decides, and B has a copy");
        run(&[(4, 3, 2), (5, 3, 2), (0, 0, 3)]);
        assert_eq!(run(&[(6, 0, 3)]), Vec::<u64>::new(), "A has not read B yet");
        for act in [0, 3, 1, 2, 3] {
            run(&all(act, &[0, 1, 3]));
        }
        assert_eq!(run(&[(6, 0, 3)]), [3]);
    }

    /// A step; that a node stops is rare, or it would stop before anything was decided.
    fn act() -> impl Strategy<Value = u8> {
        prop_oneof![40 => 0..4_u8, 1 => Just(4_u8), 4 => Just(5_u8), 15 => Just(6_u8)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// However nodes join, hear of each other, and one goes for good: no two decisions build on the same value.
        #[test]
        fn decisions_on_one_key_are_a_chain(
            key in "[a-z]{1,4}",
            joining in 2..=4_usize,
            seeds in (Just(0_usize), 0..1_usize, 0..2_usize, 0..3_usize),
            steps in prop::collection::vec((act(), 0..4_usize, 0..4_usize), 1..400),
        ) {
            let key: ObjectKey = key.parse().expect("a key");
            let seeds = [seeds.0, seeds.1, seeds.2, seeds.3];
            let mut nodes = models(&seeds);
            let between = steps.into_iter().map(|(act, one, other)| (act, one % joining, other % joining));
            let between = between.filter(|(_, one, other)| one != other);
            let made: Vec<_> =
                between.filter_map(|(act, one, other)| step(&mut nodes, &seeds, &key, act, one, other)).collect();
            let distinct: std::collections::BTreeSet<_> = made.iter().collect();
            prop_assert_eq!(distinct.len(), made.len(), "{:?}", made);
        }
    }

    proptest! {
        #[test]
        fn a_member_that_joins_takes_keys_only_for_itself(
            key in "[a-z]{1,9}",
            names in prop::collection::btree_set("[A-Z]{1,3}", 1..6),
        ) {
            let key: ObjectKey = key.parse().expect("a key");
            let members: MemberSet = names.iter().map(|name| id(name)).collect();
            let joined: MemberSet = members.iter().cloned().chain([id("new")]).collect();
            let (before, after) = (home(&key, &members), home(&key, &joined));
            prop_assert!(after == before || after == Some(&id("new")));
        }
    }
}
