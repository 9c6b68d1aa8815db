//! What a command waits for: one line that changes on a terminal, now and then a line elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Output;

/// How often a line is printed where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(2);

/// How often the wheel turns, so that it is seen that the command lives.
const TICK: Duration = Duration::from_millis(200);

/// A wait that is shown until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    output: Output,
    show: Show,
}

#[derive(Debug)]
enum Show {
    Wheel(ProgressBar),
    Lines { next: Instant, last: String },
    Nothing,
}

impl Waiting {
    /// Begins to wait.
    pub(super) fn start(output: Output) -> Self {
        let terminal = std::io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        let show = if output.is_quiet() || output.is_json() {
            Show::Nothing
        } else if terminal {
            let style = ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is well-formed");
            let wheel = ProgressBar::new_spinner().with_style(style);
            wheel.enable_steady_tick(TICK);
            Show::Wheel(wheel)
        } else {
            Show::Lines { next: Instant::now(), last: String::new() }
        };
        Self { output, show }
    }

    /// Says what is waited for now.
    pub(super) fn say(&mut self, line: String) {
        match &mut self.show {
            Show::Wheel(wheel) => wheel.set_message(line),
            Show::Lines { next, last } => {
                let now = Instant::now();
                if now >= *next && *last != line {
                    self.output.note(&line);
                    (*next, *last) = (now + LINE_PERIOD, line);
                }
            }
            Show::Nothing => {}
        }
    }

    /// Says something beside it that stays.
    pub(super) fn note(&self, line: &str) {
        match &self.show {
            Show::Wheel(wheel) => wheel.suspend(|| self.output.note(line)),
            Show::Lines { .. } | Show::Nothing => self.output.note(line),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Show::Wheel(wheel) = &self.show {
            wheel.finish_and_clear();
        }
    }
}
