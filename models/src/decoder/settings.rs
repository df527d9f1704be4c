//! What the small files of a checkpoint say about generating: where a text ends, how it is sampled
//! by default, and how a conversation is written.

use std::path::Path;

use serde_json::Value;

use crate::checkpoint::{Checkpoint, json};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// How the authors of a model sample from it (`generation_config.json`); `None` where they do not
/// say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Whether tokens are drawn at all; if not, the likeliest is taken.
    pub do_sample: Option<bool>,
    /// What logits are divided by.
    pub temperature: Option<f32>,
    /// The share of probability that is drawn from.
    pub top_p: Option<f32>,
    /// How many of the likeliest tokens are drawn from.
    pub top_k: Option<u32>,
    /// The least probability, as a share of the largest.
    pub min_p: Option<f32>,
    /// What the logits of tokens that are there already are divided by (Keskar et al. 2019).
    pub repetition_penalty: Option<f32>,
}

/// The small files of a checkpoint that generates.
pub(super) struct Settings {
    generation: Value,
    tokenizer: Value,
}

impl Settings {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        Ok(Self {
            generation: json::read_optional(&dir.join("generation_config.json"))?,
            tokenizer: json::read_optional(&dir.join("tokenizer_config.json"))?,
        })
    }

    pub(super) fn defaults(&self) -> GenerationDefaults {
        let number = |key: &str| {
            let number = self.generation[key].as_f64();
            number
                .filter(|number| number.is_finite())
                .map(|number| number as f32)
        };
        let count = self.generation["top_k"].as_u64();
        GenerationDefaults {
            do_sample: self.generation["do_sample"].as_bool(),
            temperature: number("temperature"),
            top_p: number("top_p"),
            top_k: count.and_then(|count| u32::try_from(count).ok()),
            min_p: number("min_p"),
            repetition_penalty: number("repetition_penalty"),
        }
    }

    /// The tokens after which a text ends: those of `generation_config.json`, else of config.json,
    /// and the one that the tokenizer calls so.
    pub(super) fn ends(&self, checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Vec<u32> {
        let key = "eos_token_id";
        let mut ids = ids(&self.generation[key]);
        if ids.is_empty() {
            ids = checkpoint
                .config
                .get(key)
                .map(self::ids)
                .unwrap_or_default();
        }
        ids.extend(self.named("eos_token", tokenizer));
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The token that texts begin with, where there is one.
    pub(super) fn start(&self, checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Option<u32> {
        let key = "bos_token_id";
        let configured = checkpoint.config.get(key).map(ids).unwrap_or_default();
        let named = self.named("bos_token", tokenizer);
        named
            .or(ids(&self.generation[key]).first().copied())
            .or(configured.first().copied())
    }

    /// The token that `tokenizer_config.json` gives this role, as a text or as an object.
    fn named(&self, role: &str, tokenizer: &Tokenizer) -> Option<u32> {
        let token = &self.tokenizer[role];
        let text = token.as_str().or_else(|| token["content"].as_str())?;
        tokenizer.token_id(text)
    }

    /// The template of conversations: a file of its own, else the tokenizer's only one, or the one
    /// of several that is called `default`.
    pub(super) fn chat_template(&self, dir: &Path) -> Result<Option<String>> {
        let path = dir.join("chat_template.jinja");
        if path.exists() {
            let bytes = json::read_bytes(&path)?;
            let text = String::from_utf8(bytes)
                .map_err(|error| Error::checkpoint(&path, format!("not UTF-8: {error}")))?;
            return Ok(Some(text));
        }
        let beside = json::read_optional(&dir.join("chat_template.json"))?;
        let found = [&beside["chat_template"], &self.tokenizer["chat_template"]];
        let named = |list: &Value| {
            let list = list.as_array()?;
            let default = list.iter().find(|one| one["name"] == "default")?;
            Some(default["template"].as_str()?.to_owned())
        };
        let text = |value: &&Value| value.as_str().map(str::to_owned).or_else(|| named(value));
        Ok(found.iter().find_map(text))
    }
}

/// One id, or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => list.iter().filter_map(one).collect(),
        value => one(value).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(generation: Value, tokenizer: Value) -> Settings {
        Settings {
            generation,
            tokenizer,
        }
    }

    #[test]
    fn defaults_are_those_of_the_authors() {
        let found = settings(
            json!({"do_sample": true, "temperature": 0.7, "top_p": 0.8, "top_k": 20,
                   "repetition_penalty": 1.05}),
            Value::Null,
        );
        let expected = GenerationDefaults {
            do_sample: Some(true),
            temperature: Some(0.7),
            top_p: Some(0.8),
            top_k: Some(20),
            min_p: None,
            repetition_penalty: Some(1.05),
        };
        assert_eq!(found.defaults(), expected);
        let none = settings(Value::Null, Value::Null);
        assert_eq!(none.defaults(), GenerationDefaults::default());
    }

    #[test]
    fn ids_are_one_or_several() {
        assert_eq!(ids(&json!(2)), [2]);
        assert_eq!(ids(&json!([151645, 151643])), [151645, 151643]);
        assert!(ids(&json!(null)).is_empty() && ids(&json!(-1)).is_empty());
    }

    #[test]
    fn the_template_is_the_file_or_the_one_called_default() {
        let dir = tempfile::tempdir().unwrap();
        let template = |tokenizer: Value| {
            let settings = settings(Value::Null, tokenizer);
            settings.chat_template(dir.path()).unwrap()
        };
        assert_eq!(template(json!({})), None);
        let list = json!({"chat_template": [
            {"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"},
        ]});
        assert_eq!(template(list.clone()).as_deref(), Some("b"));
        assert_eq!(
            template(json!({"chat_template": "c"})).as_deref(),
            Some("c")
        );
        std::fs::write(dir.path().join("chat_template.jinja"), "d").unwrap();
        assert_eq!(template(list).as_deref(), Some("d"));
    }
}
