//! Where the words of a command go: what was asked for to standard output, everything else to standard error.

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::Context;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

/// Nobody reads standard output any more.
#[derive(Debug, thiserror::Error)]
#[error("the output was closed")]
pub struct OutputClosed;

/// How a command speaks.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    /// For a program if `json`; with as little as possible if `quiet`.
    pub const fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// Whether a program reads the answers.
    pub const fn is_json(self) -> bool {
        self.json
    }

    /// Whether nothing but answers and errors is to be printed.
    pub const fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Prints what was asked for, as a line.
    ///
    /// # Errors
    /// When nobody reads it any more, or when standard output cannot be written.
    pub fn answer(self, line: impl Display) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        written(writeln!(stdout, "{line}").and_then(|()| stdout.flush()))
    }

    /// Prints `value` as a line of JSON.
    ///
    /// # Errors
    /// As [`Output::answer`].
    pub fn answer_json(self, value: &impl Serialize) -> anyhow::Result<()> {
        self.answer(serde_json::to_string(value)?)
    }

    /// Says that something was done; programs and those who want quiet see the exit code.
    ///
    /// # Errors
    /// As [`Output::answer`].
    pub fn done(self, line: impl Display) -> anyhow::Result<()> {
        if self.json || self.quiet { Ok(()) } else { self.answer(line) }
    }

    /// Says something on the side.
    pub fn note(self, line: impl Display) {
        if !self.quiet {
            complain(line);
        }
    }
}

/// Says what must be seen, on standard error. Where that is closed, the exit code has to do: the work goes on.
pub(super) fn complain(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Tells a closed output from other failures to write it.
///
/// # Errors
/// [`OutputClosed`], or the failure.
pub(super) fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        result => result.context("cannot write to standard output"),
    }
}

/// A table with these headings; those of `right` are of numbers.
pub(super) fn table(header: &[&str], right: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.to_vec());
    for (index, name) in header.iter().enumerate() {
        if right.contains(name)
            && let Some(column) = table.column_mut(index)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
