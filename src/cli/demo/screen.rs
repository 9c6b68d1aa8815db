//! What a person sees of the demonstration: headings, check marks and bars on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::figures;

/// Lines stay within a terminal of 80 columns.
const WIDTH: usize = 78;

/// How often progress is told where there are no bars.
const TELL_PERIOD: Duration = Duration::from_secs(2);

/// How a piece of text stands out, where there is colour.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tone {
    Plain,
    Strong,
    Good,
    Bad,
    Faint,
}

/// Where a person looks.
#[derive(Debug)]
pub(super) struct Screen {
    output: Option<Output>,
    colour: bool,
    bars: MultiProgress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Stdout,
    Stderr,
}

impl Screen {
    /// A screen on standard output; on standard error where a program reads the output (`json`); none if `quiet`.
    pub(super) fn new(json: bool, quiet: bool) -> Self {
        let output = match (quiet, json) {
            (true, _) => None,
            (false, true) => Some(Output::Stderr),
            (false, false) => Some(Output::Stdout),
        };
        let terminal = match output {
            None => false,
            Some(Output::Stdout) => io::stdout().is_terminal(),
            Some(Output::Stderr) => io::stderr().is_terminal(),
        };
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let target = match output {
            Some(Output::Stdout) if terminal && !dumb => ProgressDrawTarget::stdout(),
            Some(Output::Stderr) if terminal && !dumb => ProgressDrawTarget::stderr(),
            _ => ProgressDrawTarget::hidden(),
        };
        // See https://no-color.org: any value but the empty one.
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { output, colour: terminal && !dumb && !refused, bars: MultiProgress::with_draw_target(target) }
    }

    /// `text` in a tone.
    pub(super) fn toned(&self, tone: Tone, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Strong => "1",
            Tone::Good => "32",
            Tone::Bad => "1;31",
            Tone::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A line of text.
    pub(super) fn line(&self, text: &str) {
        // Nobody is left to be told that the output is closed.
        self.bars.suspend(|| match self.output {
            None => {}
            Some(Output::Stdout) => drop(writeln!(io::stdout(), "{text}")),
            Some(Output::Stderr) => drop(writeln!(io::stderr(), "{text}")),
        });
    }

    /// Removes what an interrupted step has left of bars.
    pub(super) fn clear(&self) {
        // It is an ornament: nobody is helped by an error.
        let _ = self.bars.clear();
    }

    /// The title of a part of the show.
    pub(super) fn heading(&self, text: &str) {
        self.line("");
        self.line(&self.toned(Tone::Strong, text));
    }

    /// A line that explains.
    pub(super) fn note(&self, text: &str) {
        self.line(&self.toned(Tone::Faint, &format!("    {text}")));
    }

    /// What holds, and how long it took to see that.
    pub(super) fn passed(&self, text: &str, took: Duration) {
        let took = figures::time(took);
        let gap = (WIDTH).saturating_sub(4 + text.chars().count() + took.chars().count()).max(2);
        let (mark, took) = (self.toned(Tone::Good, "✓"), self.toned(Tone::Faint, &took));
        self.line(&format!("  {mark} {text}{:gap$}{took}", ""));
    }

    /// What does not hold.
    pub(super) fn failed(&self, text: &str) {
        self.line(&format!("  {} {text}", self.toned(Tone::Bad, "✗")));
    }

    /// Says what is waited for, until the answer is dropped. Only a terminal shows it.
    pub(super) fn waiting(&self, text: &str) -> Waiting {
        let style = ProgressStyle::with_template("  {spinner} {msg}").expect("the template is well-formed");
        let bar = self.bars.add(ProgressBar::new_spinner().with_style(style).with_message(text.to_owned()));
        bar.enable_steady_tick(Duration::from_millis(100));
        Waiting(bar)
    }

    /// A bar for each label; `totals` are what they reach.
    pub(super) fn bars(&self, labels: &[(String, u64)]) -> Bars<'_> {
        let colours = if self.colour { "{bar:26.green/dim}" } else { "{bar:26}" };
        let style = ProgressStyle::with_template(&format!("    {{prefix:9}}{colours} {{msg}}"))
            .expect("the template is well-formed")
            .progress_chars("━━─");
        let bar = |(label, total): &(String, u64)| {
            let bar = ProgressBar::new(*total).with_style(style.clone()).with_prefix(label.clone());
            self.bars.add(bar)
        };
        Bars { screen: self, bars: labels.iter().map(bar).collect(), told: Mutex::new(Instant::now()) }
    }
}

/// What is waited for, while it is shown.
#[derive(Debug)]
pub(super) struct Waiting(ProgressBar);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Bars that are gone when this is dropped; the check that follows says how it ended.
#[derive(Debug)]
pub(super) struct Bars<'a> {
    screen: &'a Screen,
    bars: Vec<ProgressBar>,
    told: Mutex<Instant>,
}

impl Bars<'_> {
    /// Moves the bar `index` to `done`, with words beside it.
    pub(super) fn set(&self, index: usize, done: u64, words: String) {
        if let Some(bar) = self.bars.get(index) {
            bar.set_message(words);
            bar.set_position(done);
        }
        if self.screen.bars.is_hidden() {
            self.tell();
        }
    }

    fn tell(&self) {
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if told.elapsed() < TELL_PERIOD {
            return;
        }
        *told = Instant::now();
        let each = self.bars.iter().map(|bar| format!("{} {}", bar.prefix(), figures::count(bar.position())));
        let total = self.bars.iter().filter_map(ProgressBar::length).max().unwrap_or_default();
        let done = each.collect::<Vec<_>>().join(", ");
        self.screen.line(&format!("    {done} of {}", figures::count(total)));
    }
}

impl Drop for Bars<'_> {
    fn drop(&mut self) {
        for bar in &self.bars {
            bar.finish_and_clear();
        }
    }
}
