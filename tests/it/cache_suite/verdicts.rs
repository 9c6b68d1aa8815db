//! What came of the tests of the public cache suite, compared with what is expected. Knows nothing of how they run.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;

/// How many tests there are in version 0.4.5, without those for browsers alone.
const TESTS: [(Kind, usize); 3] = [(Kind::Required, 157), (Kind::Optimal, 86), (Kind::Check, 86)];

/// What the suite asks with a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Whether a rule is kept.
    Required,
    /// Whether use is made of what the rules allow.
    Optimal,
    /// What the cache does where the rules leave it free: neither answer is better.
    Check,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optimal => "optimal",
            Self::Check => "check",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Passed,
    Failed,
    /// What had to come before the question went otherwise, so it was not asked.
    NotSetUp,
    /// There was no answer, or none that the client can read.
    BrokeOff,
}

/// What came of one test.
#[derive(Debug, Clone, Deserialize)]
pub struct Outcome {
    pub id: String,
    kind: Kind,
    /// Tests without which this one means nothing.
    needs: Vec<String>,
    verdict: Verdict,
    /// Why it did not pass, in the suite's words.
    message: String,
}

impl Outcome {
    fn passed(&self) -> bool {
        self.verdict == Verdict::Passed
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Passed => return write!(to, "{} ({}): passed", self.id, self.kind.name()),
            Verdict::Failed => "failed",
            Verdict::NotSetUp => "not set up",
            Verdict::BrokeOff => "broke off",
        };
        write!(to, "{} ({}): {verdict}: {}", self.id, self.kind.name(), self.message)
    }
}

/// The tests that are known not to pass, by id, each with the reason.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expected {
    /// No cache can pass these here, whatever it does.
    cannot_be_set_up: BTreeMap<String, String>,
    required: BTreeMap<String, String>,
    optimal: BTreeMap<String, String>,
}

impl Expected {
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn tables(&self) -> [(Option<Kind>, &BTreeMap<String, String>); 3] {
        [(None, &self.cannot_be_set_up), (Some(Kind::Required), &self.required), (Some(Kind::Optimal), &self.optimal)]
    }

    fn reason(&self, id: &str) -> Option<&str> {
        self.tables().into_iter().find_map(|(_, table)| table.get(id)).map(String::as_str)
    }
}

/// What came of all tests, beside what is expected.
pub struct Report {
    outcomes: BTreeMap<String, Outcome>,
    expected: Expected,
}

impl Report {
    pub fn new(outcomes: Vec<Outcome>, expected: Expected) -> Self {
        let mut report = Self { outcomes: BTreeMap::new(), expected };
        report.replace(outcomes);
        report
    }

    /// Takes later outcomes instead of those that there are.
    pub fn replace(&mut self, outcomes: Vec<Outcome>) {
        self.outcomes.extend(outcomes.into_iter().map(|outcome| (outcome.id.clone(), outcome)));
    }

    /// What is listed and passes, or the other way round. Questions without a right answer surprise nobody.
    pub fn surprises(&self) -> impl Iterator<Item = &Outcome> {
        let asked = self.outcomes.values().filter(|outcome| outcome.kind != Kind::Check);
        asked.filter(|outcome| outcome.passed() == self.expected.reason(&outcome.id).is_some())
    }

    /// What is to be changed, in the edge or in the list; nothing if all is as expected.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (kind, tests) in TESTS {
            let ran = self.of(kind).count();
            if ran != tests {
                complaints.push(format!("{ran} {} tests ran, of {tests}", kind.name()));
            }
        }
        for (kind, table) in self.expected.tables() {
            for (id, reason) in table {
                match self.outcomes.get(id) {
                    None => complaints.push(format!("listed, and there is no such test: {id}")),
                    Some(outcome) if kind.is_some_and(|kind| kind != outcome.kind) => {
                        complaints.push(format!("listed at the wrong place: {id} is {}", outcome.kind.name()));
                    }
                    Some(_) if reason.trim().is_empty() => complaints.push(format!("listed without a reason: {id}")),
                    Some(_) => {}
                }
            }
        }
        // As lines of the list, to be taken over once their reasons are known.
        complaints.extend(self.surprises().map(|outcome| match outcome.verdict {
            Verdict::Passed => format!("listed, and it passes: {outcome}"),
            _ => format!("not listed: [{}] {:?} = {:?}", outcome.kind.name(), outcome.id, outcome.message),
        }));
        complaints
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Outcome> {
        self.outcomes.values().filter(move |outcome| outcome.kind == kind)
    }

    /// Whether a test passes and so do all without which it means nothing: so the suite's own pages count.
    fn counts(&self, outcome: &Outcome) -> bool {
        let passes = |id: &String| self.outcomes.get(id).is_some_and(|needed| self.counts(needed));
        outcome.passed() && outcome.needs.iter().all(passes)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unanswerable = |outcome: &&Outcome| self.expected.cannot_be_set_up.contains_key(&outcome.id);
        for (kind, _) in TESTS {
            let passed = self.of(kind).filter(|outcome| outcome.passed()).count();
            let without = self.of(kind).filter(unanswerable).count();
            let total = self.of(kind).count() - without;
            match kind {
                Kind::Check => writeln!(to, "check: {passed} yes, {} no", total - passed)?,
                _ if without > 0 => {
                    writeln!(to, "{}: {passed} of {total} passed; {without} cannot be set up", kind.name())?;
                }
                _ => writeln!(to, "{}: {passed} of {total} passed", kind.name())?,
            }
        }
        let strict = [Kind::Required, Kind::Optimal].map(|kind| self.of(kind).filter(|one| self.counts(one)).count());
        writeln!(to, "as the suite's pages count: {} required, {} optimal", strict[0], strict[1])?;
        for kind in [Kind::Required, Kind::Optimal] {
            for outcome in self.of(kind).filter(|outcome| !outcome.passed()) {
                writeln!(to, "  {outcome}")?;
                if let Some(reason) = self.expected.reason(&outcome.id) {
                    writeln!(to, "      {reason}")?;
                }
            }
        }
        let no: Vec<_> = self.of(Kind::Check).filter(|one| !one.passed()).map(|one| one.id.as_str()).collect();
        write!(to, "  no: {}", no.join(", "))
    }
}

/// All tests of the suite, which pass but for these.
fn outcomes(failing: &[(&str, Kind, Verdict)]) -> Vec<Outcome> {
    let mut all: Vec<_> = failing
        .iter()
        .map(|(id, kind, verdict)| Outcome {
            id: (*id).to_owned(),
            kind: *kind,
            needs: Vec::new(),
            verdict: *verdict,
            message: "Response 2 comes from cache".to_owned(),
        })
        .collect();
    for (kind, tests) in TESTS {
        let others = tests - failing.iter().filter(|(_, other, _)| *other == kind).count();
        all.extend((0..others).map(|number| Outcome {
            id: format!("{}-{number}", kind.name()),
            kind,
            needs: Vec::new(),
            verdict: Verdict::Passed,
            message: String::new(),
        }));
    }
    all
}

fn list(text: &str) -> Expected {
    toml::from_str(text).unwrap()
}

#[test]
fn what_is_as_listed_is_no_complaint() {
    let outcomes = outcomes(&[("a", Kind::Required, Verdict::NotSetUp), ("b=1", Kind::Check, Verdict::Failed)]);
    let report = Report::new(outcomes, list("[cannot_be_set_up]\na = 'no'\n"));
    assert_eq!(report.complaints(), Vec::<String>::new());
    let summary = report.to_string();
    assert!(summary.starts_with("required: 156 of 156 passed; 1 cannot be set up\n"), "{summary}");
    assert!(summary.contains("\ncheck: 85 yes, 1 no\n") && summary.ends_with("  no: b=1"), "{summary}");
}

#[test]
fn an_unlisted_failure_is_a_complaint_that_can_be_listed() {
    let report = Report::new(outcomes(&[("a", Kind::Optimal, Verdict::BrokeOff)]), Expected::default());
    assert_eq!(report.complaints(), ["not listed: [optimal] \"a\" = \"Response 2 comes from cache\""]);
    assert_eq!(report.surprises().map(|outcome| outcome.id.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_listed_test_that_passes_is_a_complaint_until_it_fails_again() {
    let mut report = Report::new(outcomes(&[]), list("[required]\nrequired-7 = 'no'\n"));
    assert_eq!(report.complaints(), ["listed, and it passes: required-7 (required): passed"]);
    let mut again = report.outcomes["required-7"].clone();
    again.verdict = Verdict::Failed;
    report.replace(vec![again]);
    assert_eq!(report.complaints(), Vec::<String>::new());
}

#[test]
fn tests_that_did_not_run_are_complaints() {
    let outcomes: Vec<_> = outcomes(&[]).into_iter().filter(|outcome| outcome.id != "optimal-3").collect();
    let report = Report::new(outcomes, list("[optimal]\noptimal-3 = 'no'\n"));
    assert_eq!(report.complaints(), ["85 optimal tests ran, of 86", "listed, and there is no such test: optimal-3"]);
}

#[test]
fn lines_of_the_list_say_of_what_kind_a_test_is_and_why_it_fails() {
    let failing = [("a", Kind::Optimal, Verdict::Failed), ("b", Kind::Required, Verdict::Failed)];
    let report = Report::new(outcomes(&failing), list("[required]\na = 'no'\nb = ' '\n"));
    assert_eq!(report.complaints(), ["listed at the wrong place: a is optimal", "listed without a reason: b"]);
}

#[test]
fn a_test_counts_on_the_suites_pages_if_what_it_needs_passes_too() {
    let mut outcomes = outcomes(&[("a", Kind::Check, Verdict::Failed)]);
    let needs = |outcomes: &mut Vec<Outcome>, id: &str, needed: &str| {
        let outcome = outcomes.iter_mut().find(|outcome| outcome.id == id).unwrap();
        outcome.needs = vec![needed.to_owned()];
    };
    needs(&mut outcomes, "required-1", "a");
    needs(&mut outcomes, "required-2", "required-1");
    let report = Report::new(outcomes, Expected::default());
    assert!(report.to_string().contains("\nas the suite's pages count: 155 required, 86 optimal\n"), "{report}");
}
