//! The catalogue and the ledger in memory are the same to the rules: what the simulation proves of one holds for both.

use std::fmt::{Debug, Write as _};

use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::*;
use crate::model::{ContentHash, EntryState, Epoch};
use crate::replicate::memory::MemoryLedger;
use crate::replicate::{self, AHEAD_MAX_MS, Coverage, Page};
use crate::store::Catalog;

/// What is done to both. Times are in milliseconds, and so few that they meet.
#[derive(Debug, Clone)]
enum Step {
    Write { key: u8, text: u8, now: u64 },
    Absorb { peer: u8, epoch: u64, since: u64, entries: Vec<Listed>, horizon: Option<u64>, now: u64 },
    Conclude(usize),
    GiveUp { place: usize, are_members: bool },
    Unpark { now: u64 },
    Cover { origin: u8, sequence: u64 },
    Expire { before: u64, limit: usize },
    Withhold(Listed),
    Release { horizon: Option<u64>, limit: usize },
}

/// An entry that a peer lists: its key, time, origin, and what it points at, where 0 is a deletion.
type Listed = (u8, u64, u8, u8);

fn step() -> impl Strategy<Value = Step> {
    let now = || 0..200_u64;
    let listed = || (0..4_u8, 0..200 + AHEAD_MAX_MS, 0..3_u8, 0..4_u8);
    prop_oneof![
        3 => (0..4_u8, 0..4_u8, now()).prop_map(|(key, text, now)| Step::Write { key, text, now }),
        6 => (0..3_u8, 1..3_u64, 0..9_u64, prop::collection::vec(listed(), 0..4), prop::option::of(now()), now())
            .prop_map(|(peer, epoch, since, entries, horizon, now)| {
                Step::Absorb { peer, epoch, since, entries, horizon, now }
            }),
        4 => (0..20_usize).prop_map(Step::Conclude),
        1 => (0..20_usize, any::<bool>()).prop_map(|(place, are_members)| Step::GiveUp { place, are_members }),
        2 => (0..AHEAD_MAX_MS).prop_map(|now| Step::Unpark { now }),
        1 => (0..3_u8, 1..9_u64).prop_map(|(origin, sequence)| Step::Cover { origin, sequence }),
        2 => (now(), 1..4_usize).prop_map(|(before, limit)| Step::Expire { before, limit }),
        2 => listed().prop_map(Step::Withhold),
        2 => (prop::option::of(now()), 1..4_usize).prop_map(|(horizon, limit)| Step::Release { horizon, limit }),
    ]
}

fn node(number: u8) -> NodeId {
    ["B", "C", "D"][usize::from(number)].parse().expect("a name")
}

fn state(text: u8) -> EntryState {
    if text == 0 {
        return EntryState::Deleted;
    }
    EntryState::Live(Content {
        hash: ContentHash::of(&[text]),
        size: 1,
        media_type: "a/b".parse().expect("a value"),
        cache_control: "no-cache".parse().expect("a value"),
    })
}

/// The same write always says the same, and no two have one time.
fn entry((key, time, origin, text): Listed) -> Entry {
    let bits = HybridTime::from_unix_ms(time).bits() + u64::from(key) * 64 + u64::from(origin) * 16 + u64::from(text);
    let origin = Origin { node: node(origin), epoch: Epoch::from_bits(1) };
    let version = Version { time: HybridTime::from_bits(bits), origin, sequence: time };
    Entry { key: key_of(key), version, state: state(text) }
}

fn key_of(key: u8) -> EntryKey {
    format!("k{key}").parse().expect("a key")
}

fn version(time: u64) -> Version {
    entry((0, time, 0, 0)).version
}

/// Does `step`, and answers all that can be asked afterwards.
fn run<L: Ledger<Error: Debug>>(
    ledger: &mut L,
    withhold: impl Fn(&mut L, &Entry),
    seen: &[Entry],
    step: &Step,
) -> String {
    let mut coverage = Coverage::default();
    let answer = match step.clone() {
        Step::Write { key, text, now } => {
            format!("{:?}", replicate::write(ledger, key_of(key), state(text), now).expect("written").version)
        }
        Step::Absorb { peer, epoch, since, entries, horizon, now } => {
            let page = Page {
                peer: node(peer),
                entries: entries.into_iter().map(entry).collect(),
                cursor: Cursor { epoch: Epoch::from_bits(epoch), since },
                horizon: horizon.map(version),
            };
            format!("{:?}", replicate::absorb(ledger, &page, now).expect("absorbed"))
        }
        Step::Conclude(place) => match seen.get(place) {
            Some(entry) => format!("{:?}", replicate::conclude(ledger, entry).expect("concluded")),
            None => String::new(),
        },
        Step::GiveUp { place, are_members } => match seen.get(place) {
            Some(entry) => {
                let in_doubt = replicate::doubt(ledger, entry, |_| are_members).expect("doubted");
                let given_up = replicate::give_up(ledger, &mut coverage, entry).expect("given up");
                format!("{in_doubt} {given_up}")
            }
            None => String::new(),
        },
        Step::Unpark { now } => format!("{:?}", replicate::unpark(ledger, now).expect("unparked")),
        Step::Cover { origin, sequence } => {
            let origin = Origin { node: node(origin), epoch: Epoch::from_bits(1) };
            format!("{:?}", ledger.cover(&[(origin, sequence)].into_iter().collect()).expect("covered"))
        }
        Step::Expire { before, limit } => {
            let (time, passed) =
                (HybridTime::from_unix_ms(before), |version: &Version| !version.sequence.is_multiple_of(3));
            format!("{:?}", replicate::expire(ledger, time, None, limit, passed).expect("expired"))
        }
        Step::Withhold(listed) => {
            withhold(ledger, &entry(listed));
            String::new()
        }
        Step::Release { horizon, limit } => {
            let horizon = horizon.map(version);
            format!("{:?}", replicate::release(ledger, horizon.as_ref(), None, limit).expect("released"))
        }
    };
    format!("{answer}\n{}", all_of(ledger, seen))
}

fn all_of<L: Ledger<Error: Debug>>(ledger: &L, seen: &[Entry]) -> String {
    let mut text = String::new();
    for key in 0..4 {
        writeln!(text, "{:?}", ledger.listed(&key_of(key)).expect("readable")).expect("text");
    }
    for entry in seen {
        let (owes, lister) = (ledger.owes(entry).expect("readable"), ledger.lister(entry).expect("readable"));
        let holds = entry.content().map(|content| ledger.holds(content).expect("readable"));
        writeln!(text, "{} {owes} {lister:?} {holds:?}", entry.version).expect("text");
    }
    for peer in 0..3 {
        writeln!(text, "{:?}", ledger.cursor(&node(peer)).expect("readable")).expect("text");
    }
    let end = HybridTime::from_unix_ms(1 << 40);
    let parked = ledger.parked(end, 100).expect("readable");
    let tombstones = ledger.tombstones(end, None, 100).expect("readable");
    let after = tombstones.first().map(|entry| (entry.version.time, entry.key.clone()));
    let more = ledger.tombstones(end, after, 2).expect("readable");
    let withheld = ledger.withheld(None, 100).expect("readable");
    let later = ledger.withheld(Some(&key_of(1)), 2).expect("readable");
    writeln!(text, "{parked:?} {tombstones:?} {more:?} {withheld:?} {later:?}").expect("text");
    let (debt, vector) = (ledger.debt().expect("readable"), ledger.vector().expect("readable"));
    writeln!(text, "{debt:?} {vector:?} {:?}", ledger.horizon().expect("readable")).expect("text");
    text
}

/// The entries that `steps` speak of.
fn entries(steps: &[Step]) -> Vec<Entry> {
    let listed = steps.iter().flat_map(|step| match step {
        Step::Absorb { entries, .. } => entries.clone(),
        Step::Withhold(listed) => vec![*listed],
        _ => Vec::new(),
    });
    listed.map(entry).take(20).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_catalogue_and_the_ledger_in_memory_are_alike(steps in prop::collection::vec(step(), 1..40)) {
        let folder = tempfile::tempdir().expect("a folder");
        let id: NodeId = "A".parse().expect("a name");
        let origin = Origin { node: id.clone(), epoch: Epoch::from_bits(1) };
        let mut memory = MemoryLedger::new(origin);
        let seen = entries(&steps);
        let runtime = Runtime::new().expect("a runtime");
        let catalog = Catalog::open(folder.path(), &id, Epoch::from_bits(1)).expect("a catalogue");
        for part in steps.chunks(10) {
            let withhold = |ledger: &mut MemoryLedger, entry: &Entry| ledger.withhold([entry]);
            let expected: Vec<_> = part.iter().map(|step| run(&mut memory, withhold, &seen, step)).collect();
            let (work, seen) = (part.to_vec(), seen.clone());
            let answered = runtime.block_on(catalog.transact(move |transaction| {
                let withhold = |ledger: &mut Transaction<'_>, entry: &Entry| ledger.withhold(entry).expect("withheld");
                Ok(work.iter().map(|step| run(transaction, withhold, &seen, step)).collect::<Vec<_>>())
            }));
            prop_assert_eq!(answered.expect("a commit"), expected);
            prop_assert_eq!(catalog.digests().expect("readable"), memory.sums());
            for key in 0..4 {
                prop_assert!(catalog.is_digest_right(bucket_of(&key_of(key))).expect("readable"));
            }
            prop_assert!(!memory.clone().recount());
        }
        let page = catalog.feed(0, 1000, crate::store::Select::All).expect("a page");
        let feed = memory.feed(0).into_iter().map(|(_, entry)| entry).collect::<Vec<_>>();
        prop_assert_eq!((page.entries, page.next), (feed, memory.sequence));
    }
}

#[test]
fn bytes_that_are_known_to_be_broken_are_not_held() {
    let folder = tempfile::tempdir().expect("a folder");
    let me = "A".parse().expect("a name");
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let catalog = Catalog::open(folder.path(), &me, Epoch::from_bits(1)).expect("a catalogue");
        let content = Content {
            hash: ContentHash::of(b"text"),
            size: 4,
            media_type: "text/plain".parse().expect("a value"),
            cache_control: "no-store".parse().expect("a value"),
        };
        let change = move |t: &mut Transaction<'_>| {
            let before = t.holds(&content)?;
            replicate::write(t, "a".parse().expect("a key"), EntryState::Live(content.clone()), 1)?;
            let listed = t.holds(&content)?;
            t.note_damaged(crate::store::NamedBlob { hash: content.hash, size: content.size }, None, 2)?;
            let damaged = t.holds(&content)?;
            t.forget_damaged(&content.hash)?;
            Ok([before, listed, damaged, t.holds(&content)?])
        };
        assert_eq!(catalog.transact(change).await.expect("a commit"), [false, true, false, true]);
    });
}
