//! The metacdn binary: reads the command line, hands over to [`metacdn::cli`], and decides the exit code.
//!
//! 0: done. 1: it failed. 2: the command line is not understood. 130 and 143: SIGINT
//! (Ctrl-C) or SIGTERM ended it before it was done, except for roles and a demonstration that stays up: these run until
//! a signal, and one is no failure.

use std::process::ExitCode;

use clap::Parser;
use metacdn::cli::Cli;
use metacdn::cli::failure::{Failure, report};
use tikv_jemallocator::Jemalloc;

/// It gives again first what was given back last, which is still in the core's cache: what goes out over TLS takes a third less CPU than with
/// mimalloc (`docs/decisions.md`).
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            // Help counts as an answer, anything else as a mistake; nobody may be there to read either.
            let _ = message.print();
            return if message.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let Err(error) = cli.run() else { return ExitCode::SUCCESS };
    match report(&error) {
        // Whoever reads our output has read enough, as `head` does.
        Failure::OutputClosed => ExitCode::SUCCESS,
        Failure::Usage => ExitCode::from(2),
        Failure::Interrupted(code) => ExitCode::from(code),
        Failure::Failed => ExitCode::FAILURE,
    }
}
