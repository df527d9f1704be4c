//! How a command fails: a message, a hint, and the exit code.

use std::fmt;

use anstyle::{AnsiColor, Style};

use crate::{config, provision::ProvisionError, serve::StartError};

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// What the process exits with: 2 for a wrong command line, otherwise 1.
    pub exit_code: u8,
}

impl Failure {
    /// Something went wrong while the command ran.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            exit_code: 1,
        }
    }

    /// The command line asks for something that makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            exit_code: 2,
            ..Self::new(message)
        }
    }

    /// The same failure with advice.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// Prints it to stderr, coloured where that can be seen.
    pub fn print(&self) {
        anstream::eprintln!("{}", self.styled());
    }

    fn styled(&self) -> String {
        let label = |color: AnsiColor, text: &str| {
            let style = Style::new().bold().fg_color(Some(color.into()));
            format!("{style}{text}{style:#}")
        };
        let error = format!("{}: {}", label(AnsiColor::Red, "error"), self.message);
        match &self.hint {
            Some(hint) => format!("{error}\n\n{}: {hint}", label(AnsiColor::Cyan, "hint")),
            None => error,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self {
            hint: error.hint,
            ..Self::new(error.message)
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self {
            hint: error.hint,
            ..Self::new(error.message)
        }
    }
}

impl From<ProvisionError> for Failure {
    fn from(error: ProvisionError) -> Self {
        Self {
            hint: error.hint().map(String::from),
            ..Self::new(error.to_string())
        }
    }
}

impl From<crate::error::Error> for Failure {
    fn from(error: crate::error::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// Output that cannot be written.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(format!("cannot write the output: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_stands_apart_from_the_error() {
        let failure = Failure::new("the port is taken").with_hint("use `--port`");
        let plain = anstream::adapter::strip_str(&failure.styled()).to_string();
        assert_eq!(plain, "error: the port is taken\n\nhint: use `--port`");
        assert_eq!(Failure::usage("x").exit_code, 2);
    }
}
