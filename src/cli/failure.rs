//! How a failure is told: one line that says what failed, why, and what to do.

use std::error::Error;

use super::interrupt::Interrupted;
use super::output::{OutputClosed, complain};

/// The command line is understood word by word, but makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Something failed and was reported when it happened.
#[derive(Debug, thiserror::Error)]
#[error("some of it failed")]
pub struct Reported;

/// What kind of failure ends the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nobody reads the output any more.
    OutputClosed,
    /// The command line makes no sense.
    Usage,
    /// A signal ended it; with the exit code for that.
    Interrupted(u8),
    /// Anything else.
    Failed,
}

/// Prints `error`, unless that was done or nobody needs it, and says of what kind it is.
pub fn report(error: &anyhow::Error) -> Failure {
    if error.is::<OutputClosed>() {
        return Failure::OutputClosed;
    }
    if !error.is::<Reported>() {
        complain(format_args!("error: {}", explain(error.as_ref())));
    }
    match error.downcast_ref::<Interrupted>() {
        Some(interrupted) => Failure::Interrupted(interrupted.exit_code),
        None if error.is::<UsageError>() => Failure::Usage,
        None => Failure::Failed,
    }
}

/// The error and its causes in one text. Causes that say nothing new are left out.
pub fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        next = cause.source();
        let words = match cause.to_string().as_str() {
            // Otherwise a user who has the profile of another cluster would have to know what an issuer is.
            "invalid peer certificate: UnknownIssuer" => "its certificate is of another cluster".to_owned(),
            words => words.to_owned(),
        };
        // The HTTP client wraps every cause in a kind of failure, which the cause itself makes clear.
        let wrapper = words.starts_with("client error (") && next.is_some();
        if !wrapper && !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn causes_follow_in_one_line_and_none_twice() {
        let error = std::io::Error::other("connection refused");
        let error = Err::<(), _>(error).context("cannot reach a:1").context("client error (Connect)");
        let error = error.context("cannot publish a: connection refused").unwrap_err();
        assert_eq!(explain(error.as_ref()), "cannot publish a: connection refused: cannot reach a:1");
    }

    #[test]
    fn a_kind_is_found_below_its_context() {
        let usage = anyhow::Error::new(UsageError("no".into())).context("more");
        assert_eq!(report(&usage), Failure::Usage);
        assert_eq!(report(&anyhow::Error::new(OutputClosed)), Failure::OutputClosed);
        assert_eq!(report(&Reported.into()), Failure::Failed);
    }
}
