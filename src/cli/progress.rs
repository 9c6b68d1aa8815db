//! How far a transfer is: a bar on a terminal, now and then a line elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::output::complain;
use super::{Output, human};

/// How often a line is printed where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(2);

/// How often the bar is drawn although nothing happens, so that its times stay true.
const TICK: Duration = Duration::from_millis(200);

/// How long nothing moves before it is said what is waited for: below that it would only flicker.
const STANDSTILL: Duration = Duration::from_secs(1);

/// A longer forecast is no help.
const FORECAST_MAX: Duration = Duration::from_secs(365 * 86_400);

const TEMPLATE: &str = "{files} [{wide_bar}] {amount} {rate} {left}";

/// The same where it is not known how many bytes there will be.
const TEMPLATE_OPEN: &str = "{spinner} {files} {amount} {rate}";

/// How far a transfer of some files is.
#[derive(Debug)]
pub(super) struct Progress {
    output: Output,
    show: Show,
    started: Instant,
    files_all: u64,
    /// `None` if it is not known.
    bytes_all: Option<u64>,
    files: Arc<AtomicU64>,
    bytes: AtomicU64,
    answers: Arc<Answers>,
}

/// The files that are sent to their last byte, and of which the server has not answered yet that they are stored.
#[derive(Debug)]
struct Answers {
    started: Instant,
    files: AtomicU64,
    /// When something last moved, in milliseconds since the start.
    moved_ms: AtomicU64,
}

#[derive(Debug)]
enum Show {
    Bar(ProgressBar),
    Lines { next: Mutex<Instant> },
    Nothing,
}

impl Progress {
    /// Begins a transfer.
    pub(super) fn start(output: Output, files: u64, bytes: u64) -> Arc<Self> {
        Self::begin(output, files, Some(bytes))
    }

    /// Begins a transfer of which it is not known how many bytes will have to travel.
    pub(super) fn start_open(output: Output, files: u64) -> Arc<Self> {
        Self::begin(output, files, None)
    }

    fn begin(output: Output, files: u64, bytes: Option<u64>) -> Arc<Self> {
        let started = Instant::now();
        let done = Arc::new(AtomicU64::new(0));
        let answers = Arc::new(Answers { started, files: AtomicU64::new(0), moved_ms: AtomicU64::new(0) });
        // A terminal that calls itself dumb cannot go back over a line.
        let terminal = std::io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        let show = if output.is_quiet() || output.is_json() {
            Show::Nothing
        } else if terminal {
            Show::Bar(bar(files, bytes, done.clone(), answers.clone()))
        } else {
            Show::Lines { next: Mutex::new(started + LINE_PERIOD) }
        };
        let bytes_all = bytes;
        Arc::new(Self {
            output,
            show,
            started,
            files_all: files,
            bytes_all,
            files: done,
            bytes: AtomicU64::new(0),
            answers,
        })
    }

    /// Since when.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Some more bytes are on their way.
    pub(super) fn advance(&self, bytes: u64) {
        let all = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.answers.note_move();
        match &self.show {
            Show::Bar(bar) => bar.inc(bytes),
            Show::Lines { next } => self.line_if_due(next, all),
            Show::Nothing => {}
        }
    }

    /// Some bytes have to travel again.
    pub(super) fn retreat(&self, bytes: u64) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Show::Bar(bar) = &self.show {
            bar.set_position(before.saturating_sub(bytes));
        }
    }

    /// A file is sent whole: from now on its copies are waited for.
    pub(super) fn file_sent(&self) {
        self.answers.files.fetch_add(1, Ordering::Relaxed);
    }

    /// A file that was sent whole was answered, or never will be.
    pub(super) fn file_answered(&self) {
        self.answers.files.fetch_sub(1, Ordering::Relaxed);
    }

    /// One more file is dealt with.
    pub(super) fn file_done(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.answers.note_move();
        match &self.show {
            Show::Bar(bar) => bar.tick(),
            Show::Lines { next } => self.line_if_due(next, self.bytes.load(Ordering::Relaxed)),
            Show::Nothing => {}
        }
    }

    /// Says something on the side, unless quiet is wanted.
    pub(super) fn note(&self, line: &str) {
        self.beside(|| self.output.note(line));
    }

    /// Says something that must be seen.
    pub(super) fn alarm(&self, line: &str) {
        self.beside(|| complain(line));
    }

    /// Ends the transfer and its display.
    pub(super) fn finish(&self) {
        if let Show::Bar(bar) = &self.show {
            bar.finish_and_clear();
        }
    }

    fn beside(&self, print: impl FnOnce()) {
        match &self.show {
            Show::Bar(bar) => bar.suspend(print),
            Show::Lines { .. } | Show::Nothing => print(),
        }
    }

    fn line_if_due(&self, next: &Mutex<Instant>, bytes: u64) {
        let now = Instant::now();
        let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
        if now < *next {
            return;
        }
        // Of what has not begun to travel there is nothing to tell: it may be about to fail.
        if bytes == 0 && self.bytes_all != Some(0) {
            return;
        }
        *next = now + LINE_PERIOD;
        let files = self.files.load(Ordering::Relaxed);
        self.output.note(line((files, self.files_all), (bytes, self.bytes_all), self.elapsed()));
    }
}

impl Answers {
    fn note_move(&self) {
        self.moved_ms.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What is waited for `now_ms` after the start, if nothing moves for that.
    fn waiting(&self, now_ms: u64) -> Option<String> {
        let still = now_ms.saturating_sub(self.moved_ms.load(Ordering::Relaxed));
        match self.files.load(Ordering::Relaxed) {
            files @ 1.. if u128::from(still) >= STANDSTILL.as_millis() => {
                Some(format!("{} waiting for copies", human::counted(files, "file", "files")))
            }
            _ => None,
        }
    }
}

/// How far a transfer is after `elapsed`: what is done of how much.
fn line((files, files_all): (u64, u64), (bytes, bytes_all): (u64, Option<u64>), elapsed: Duration) -> String {
    let (done, rate) = (human::size(bytes), human::rate(bytes, elapsed));
    // What is written meanwhile comes on top.
    let files_all = files_all.max(files);
    let files = if files_all == 1 { String::new() } else { format!("{files} of {files_all} files, ") };
    let Some(bytes_all) = bytes_all else { return format!("{files}{done} ({rate})") };
    let all = human::size(bytes_all);
    let left = match bytes_all.saturating_sub(bytes) {
        0 => "finishing".to_owned(),
        left => {
            let seconds = elapsed.as_secs_f64() * left as f64 / bytes as f64;
            // Before the first bytes nothing is known of the rate.
            let known = Duration::try_from_secs_f64(seconds).ok().filter(|left| *left < FORECAST_MAX);
            format!("{} left", known.map_or_else(|| "--".to_owned(), human::whole_seconds))
        }
    };
    format!("{files}{done} of {all} ({rate}, {left})")
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn bar(files: u64, bytes: Option<u64>, done: Arc<AtomicU64>, answers: Arc<Answers>) -> ProgressBar {
    let amount = |state: &ProgressState, text: &mut dyn std::fmt::Write| {
        let done = human::size(state.pos());
        // A bar that cannot be written is not worth an error.
        let _ = match state.len() {
            Some(all) => write!(text, "{done} of {}", human::size(all)),
            None => write!(text, "{done}"),
        };
    };
    let rate = |state: &ProgressState, text: &mut dyn std::fmt::Write| {
        let _ = write!(text, "{}/s", human::size(state.per_sec() as u64));
    };
    let left = move |state: &ProgressState, text: &mut dyn std::fmt::Write| {
        if let Some(waiting) = answers.waiting(answers.elapsed_ms()) {
            let _ = write!(text, "{waiting}");
            return;
        }
        if state.len() == Some(state.pos()) {
            // All is sent, and the answer is on its way.
            let _ = write!(text, "finishing");
            return;
        }
        let eta = state.eta();
        // Before the first bytes nothing is known of the rate.
        let known = state.pos() > 0 && eta < FORECAST_MAX;
        let _ = if known { write!(text, "{} left", human::whole_seconds(eta)) } else { write!(text, "-- left") };
    };
    let counted = move |_: &ProgressState, text: &mut dyn std::fmt::Write| {
        let _ = match files {
            1 => write!(text, "1 file"),
            _ => {
                let done = done.load(Ordering::Relaxed);
                write!(text, "{done}/{} files", files.max(done))
            }
        };
    };
    let template = if bytes.is_some() { TEMPLATE } else { TEMPLATE_OPEN };
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    let style = style.with_key("amount", amount).with_key("rate", rate).with_key("left", left);
    let bar = bytes
        .map_or_else(ProgressBar::no_length, ProgressBar::new)
        .with_style(style.with_key("files", counted).progress_chars("=> "));
    bar.enable_steady_tick(TICK);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standstill_tells_what_is_waited_for() {
        let answers = Answers { started: Instant::now(), files: AtomicU64::new(0), moved_ms: AtomicU64::new(5_000) };
        assert_eq!(answers.waiting(9_000), None, "no file is sent whole");
        answers.files.store(8, Ordering::Relaxed);
        assert_eq!(answers.waiting(5_900), None, "it would flicker");
        assert_eq!(answers.waiting(6_000).as_deref(), Some("8 files waiting for copies"));
        answers.note_move();
        assert_eq!(answers.waiting(answers.elapsed_ms()), None);
    }

    #[test]
    fn a_line_tells_rate_and_time_left() {
        let after = Duration::from_secs;
        assert_eq!(line((0, 1), (10_000_000, Some(40_000_000)), after(2)), "10.0 MB of 40.0 MB (5.0 MB/s, 6 s left)");
        assert_eq!(
            line((3, 9), (1000, Some(181_000)), after(1)),
            "3 of 9 files, 1.0 kB of 181.0 kB (1.0 kB/s, 3 min 0 s left)"
        );
        assert_eq!(line((0, 2), (0, Some(5)), after(2)), "0 of 2 files, 0 B of 5 B (0 B/s, -- left)");
        assert_eq!(line((3, 9), (1000, None), after(1)), "3 of 9 files, 1.0 kB (1.0 kB/s)");
        assert_eq!(line((0, 1), (5, Some(5)), after(1)), "5 B of 5 B (5 B/s, finishing)");
    }
}
