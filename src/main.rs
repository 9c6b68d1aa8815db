//! The metacdn binary: reads the command line, hands over to [`metacdn::cli`], and decides the exit code.
//!
//! 0: done. 1: it failed. 2: the command line is not understood.

use std::process::ExitCode;

use clap::Parser;
use metacdn::cli::Cli;
use metacdn::cli::failure::{Failure, report};

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
        Failure::Failed => ExitCode::FAILURE,
    }
}
