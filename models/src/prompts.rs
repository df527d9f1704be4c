//! The prompts of a checkpoint: texts that it wants before inputs, as sentence-transformers keeps
//! them. What they mean to a tokenizer is the tokenizer's affair.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::checkpoint::json;
use crate::error::{Error, Result};

/// `prompts` and `default_prompt_name` of `config_sentence_transformers.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompts {
    /// The texts by their names, such as `query`.
    pub named: BTreeMap<String, String>,
    /// The name of the one that goes before every text unless told otherwise.
    pub default: Option<String>,
}

/// The prompt that a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptChoice<'a> {
    /// The one of this name.
    Named(&'a str),
    /// This text.
    Text(&'a str),
    /// None, not even the checkpoint's default.
    Absent,
}

impl Prompts {
    /// Reads the file of a checkpoint directory; without it there are no prompts.
    ///
    /// # Errors
    /// `Error::Checkpoint` when a prompt is not a text or the default has no text.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config_sentence_transformers.json");
        let config = json::read_optional(&path)?;
        let malformed = |message: String| Err(Error::checkpoint(&path, message));
        let mut prompts = Self::default();
        match &config["prompts"] {
            Value::Null => {}
            Value::Object(entries) => {
                for (name, text) in entries {
                    let Value::String(text) = text else {
                        return malformed(format!("prompt `{name}` is `{text}`, not a text"));
                    };
                    prompts.named.insert(name.clone(), text.clone());
                }
            }
            other => return malformed(format!("`prompts` is `{other}`, not names with texts")),
        }
        match &config["default_prompt_name"] {
            Value::Null => {}
            Value::String(name) if prompts.named.contains_key(name) => {
                prompts.default = Some(name.clone());
            }
            name => {
                return malformed(format!(
                    "`default_prompt_name` is `{name}`, which is not among its prompts ({})",
                    prompts.names()
                ));
            }
        }
        Ok(prompts)
    }

    /// Adds what task adapters want before texts, under their names, where the file says nothing.
    pub(crate) fn add(&mut self, instructions: &[(String, String)]) {
        for (name, text) in instructions {
            let named = self.named.entry(name.clone());
            named.or_insert_with(|| text.clone());
        }
    }

    /// What goes before a text: what was asked for, else the default, else nothing.
    ///
    /// # Errors
    /// `Error::Unsupported` lists the known names when the one asked for is not among them.
    pub fn resolve<'a>(&'a self, choice: Option<PromptChoice<'a>>) -> Result<&'a str> {
        let name = match choice {
            Some(PromptChoice::Text(text)) => return Ok(text),
            Some(PromptChoice::Absent) => return Ok(""),
            Some(PromptChoice::Named(name)) => name,
            None => match &self.default {
                Some(name) => name,
                None => return Ok(""),
            },
        };
        self.named.get(name).map(String::as_str).ok_or_else(|| {
            Error::Unsupported(format!(
                "the model has no prompt `{name}` (it has: {})",
                self.names()
            ))
        })
    }

    fn names(&self) -> String {
        if self.named.is_empty() {
            return "none".to_owned();
        }
        let names: Vec<String> = self.named.keys().map(|name| format!("`{name}`")).collect();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &str) -> Result<Prompts> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config_sentence_transformers.json"), config).unwrap();
        Prompts::read(dir.path())
    }

    #[test]
    fn what_is_asked_for_wins_over_the_default() {
        let prompts = read(
            r#"{"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": "query"}"#,
        )
        .unwrap();
        assert_eq!(prompts.resolve(None).unwrap(), "q: ");
        for (choice, expected) in [
            (PromptChoice::Named("query"), "q: "),
            (PromptChoice::Named("document"), ""),
            (PromptChoice::Text("x "), "x "),
            (PromptChoice::Absent, ""),
        ] {
            assert_eq!(prompts.resolve(Some(choice)).unwrap(), expected);
        }
        let error = prompts.resolve(Some(PromptChoice::Named("passage")));
        let error = error.unwrap_err().to_string();
        assert_eq!(
            error,
            "the model has no prompt `passage` (it has: `document`, `query`)"
        );
    }

    #[test]
    fn a_checkpoint_may_have_none() {
        let none = Prompts::default();
        assert_eq!(none.resolve(None).unwrap(), "");
        let error = none.resolve(Some(PromptChoice::Named("query")));
        assert!(error.unwrap_err().to_string().contains("none"));
        for config in ["{}", r#"{"prompts": null, "default_prompt_name": null}"#] {
            assert_eq!(read(config).unwrap(), none);
        }
        assert_eq!(Prompts::read(Path::new("nowhere")).unwrap(), none);
    }

    #[test]
    fn instructions_of_adapters_do_not_replace_prompts() {
        let mut prompts = read(r#"{"prompts": {"query": "q: "}}"#).unwrap();
        let instruction = |name: &str| (name.to_owned(), "other: ".to_owned());
        prompts.add(&[instruction("query"), instruction("passage")]);
        let text = |name| prompts.resolve(Some(PromptChoice::Named(name))).unwrap();
        assert_eq!((text("query"), text("passage")), ("q: ", "other: "));
    }

    #[test]
    fn prompts_that_are_none_are_refused() {
        for (config, word) in [
            (r#"{"prompts": {"query": 3}}"#, "prompt `query` is `3`"),
            (r#"{"prompts": ["query"]}"#, "`prompts` is"),
            (r#"{"default_prompt_name": "query"}"#, "`\"query\"`"),
            (r#"{"default_prompt_name": 1}"#, "`1`"),
        ] {
            let error = read(config).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
