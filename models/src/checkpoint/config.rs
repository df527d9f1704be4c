//! `config.json`: typed access with errors that name the file, the key and the value.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::json;
use crate::error::{Error, Result};

/// The settings of a model as its authors published them.
#[derive(Debug, Clone)]
pub struct Config {
    path: PathBuf,
    values: Value,
}

impl Config {
    /// Reads `config.json`.
    pub fn read(path: &Path) -> Result<Self> {
        Self::new(path, json::read(path)?)
    }

    /// Takes settings that were read from `path`.
    pub fn new(path: &Path, values: Value) -> Result<Self> {
        if values.is_object() {
            Ok(Self {
                path: path.to_owned(),
                values,
            })
        } else {
            Err(Error::checkpoint(path, "is not a JSON object"))
        }
    }

    /// The value of a key; `None` when it is absent or `null`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// A whole number that must be there and be at least 1.
    pub fn count(&self, key: &str) -> Result<usize> {
        match self.optional_count(key)? {
            Some(count) if count > 0 => Ok(count),
            Some(_) => Err(self.error(key, "must be at least `1`")),
            None => Err(self.error(key, "is missing")),
        }
    }

    /// A whole number that may be absent.
    pub fn optional_count(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64().filter(|&count| count <= i32::MAX as u64) {
            Some(count) => Ok(Some(count as usize)),
            None => Err(self.error(key, &format!("is `{value}`, not a whole number"))),
        }
    }

    /// A number that must be there.
    pub fn number(&self, key: &str) -> Result<f64> {
        let Some(value) = self.get(key) else {
            return Err(self.error(key, "is missing"));
        };
        value
            .as_f64()
            .ok_or_else(|| self.error(key, &format!("is `{value}`, not a number")))
    }

    /// A text that may be absent.
    pub fn optional_text(&self, key: &str) -> Result<Option<&str>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_str() {
            Some(text) => Ok(Some(text)),
            None => Err(self.error(key, &format!("is `{value}`, not a text"))),
        }
    }

    /// The texts of a list; empty when the key is absent.
    pub fn texts(&self, key: &str) -> Vec<&str> {
        let list = self.get(key).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    /// An error about one key of this file.
    pub fn error(&self, key: &str, message: &str) -> Error {
        Error::checkpoint(&self.path, format!("`{key}` {message}"))
    }

    /// A refusal of one key's value, which this file may hold rightly.
    pub fn unsupported(&self, key: &str, expected: &str) -> Error {
        let value = self.get(key).unwrap_or(&Value::Null);
        Error::Unsupported(format!(
            "`{}`: `{key}` is `{value}`, which is not implemented (expected {expected})",
            self.path.display()
        ))
    }

    /// The file these settings come from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
