//! The one error of provisioning, written for the person at the terminal.

use std::fmt;

/// What could not be provided, every place that was tried, and what to do about it.
///
/// `Display` prints the message and one indented line per attempt; the hint is separate because
/// the caller prints it as its own `hint:` line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ProvisionError {
    message: String,
    attempts: Vec<Attempt>,
    hint: Option<String>,
}

/// One place that was tried and why it did not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Where: a source with its endpoint, a command or a path.
    pub source: String,
    /// Why not, in one line.
    pub reason: String,
}

impl ProvisionError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            attempts: Vec::new(),
            hint: None,
        }
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn with_attempts(mut self, attempts: Vec<Attempt>) -> Self {
        self.attempts = attempts;
        self
    }

    /// Every place that was tried, in order.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// What the person can do, when that is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for ProvisionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        for attempt in &self.attempts {
            write!(formatter, "\n  {attempt}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.source, self.reason)
    }
}

/// Why one source did not serve: a single line, and the remedy where one is known.
///
/// It stays inside the module; [`ProvisionError`] gathers these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceError {
    pub reason: String,
    pub hint: Option<String>,
}

impl SourceError {
    pub fn new(reason: impl Into<String>) -> Self {
        // A reason is shown on one line whatever a server or a library put into it.
        let reason = reason.into();
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        Self { reason, hint: None }
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A file operation that failed, naming the path.
    pub fn io(action: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::new(format!("cannot {action} `{}`: {error}", path.display()))
    }
}
