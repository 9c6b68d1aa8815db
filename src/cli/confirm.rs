//! Asking a person before what cannot be undone.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};

use super::failure::UsageError;

/// Asks `question`, unless `yes` says that it was answered on the command line.
///
/// # Errors
/// When the answer is not yes, or nobody can be asked.
pub(super) async fn confirm(question: String, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(UsageError(format!("nobody can be asked: {question} Repeat with --yes")).into());
    }
    // A thread of its own waits for the line, so that a signal ends the command meanwhile.
    let asked = tokio::task::spawn_blocking(move || ask(&question));
    match asked.await.context("nobody could be asked")?? {
        true => Ok(()),
        false => bail!("nothing was done"),
    }
}

fn ask(question: &str) -> io::Result<bool> {
    write!(io::stderr(), "{question} [y/N] ")?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(is_yes(&line))
}

fn is_yes(line: &str) -> bool {
    matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        assert!(["y\n", "Yes\n", " y "].iter().all(|line| is_yes(line)));
        assert!(!["", "\n", "n\n", "yep\n", "no\n"].iter().any(|line| is_yes(line)));
    }

    #[tokio::test]
    async fn without_a_terminal_nothing_is_assumed() {
        // Where tests run on a terminal, they read nothing from it.
        if io::stdin().is_terminal() {
            return;
        }
        let refused = confirm("Forget GC?".to_owned(), false).await.expect_err("nobody said yes");
        assert!(refused.is::<UsageError>() && refused.to_string().contains("--yes"), "{refused}");
        confirm("Forget GC?".to_owned(), true).await.expect("it was said");
    }
}
