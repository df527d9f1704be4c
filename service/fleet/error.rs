//! Why something did not start, in words for the person who started it.

use std::fmt;

use retort_models::CatalogError;

use crate::provision::ProvisionError;

/// Why the service did not start, a model did not load, or a command could not do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartError {
    /// What was wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl StartError {
    /// Both in one sentence, for those who get one.
    pub fn with_hint(self) -> String {
        match self.hint {
            Some(hint) => format!("{}; {hint}", self.message),
            None => self.message,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StartError {}

impl From<ProvisionError> for StartError {
    fn from(error: ProvisionError) -> Self {
        Self {
            message: error.to_string(),
            hint: error.hint().map(Into::into),
        }
    }
}

impl From<retort_models::Error> for StartError {
    fn from(error: retort_models::Error) -> Self {
        Self {
            message: error.to_string(),
            hint: None,
        }
    }
}

impl From<crate::error::Error> for StartError {
    fn from(error: crate::error::Error) -> Self {
        Self {
            message: error.to_string(),
            hint: None,
        }
    }
}

impl From<CatalogError> for StartError {
    fn from(error: CatalogError) -> Self {
        Self {
            message: error.to_string(),
            hint: None,
        }
    }
}
