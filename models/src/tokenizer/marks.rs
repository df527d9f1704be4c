//! Tokens that frame a text and say nothing about it, and those that mark what it is.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

use super::{Prompt, Tokenizer};
use crate::checkpoint::json;
use crate::error::{Error, Result};

/// The tokens that BGE-M3 gives no lexical weight, as FlagEmbedding has them, by their names in
/// `tokenizer_config.json`.
const FRAMES: [&str; 4] = ["cls_token", "eos_token", "pad_token", "unk_token"];

impl Tokenizer {
    /// The ids of the tokens that stand for no part of a text: begin, end, padding, unknown.
    /// Where `tokenizer_config.json` names none of them, all special tokens are meant.
    pub(crate) fn frame_tokens(&self, dir: &Path) -> Result<HashSet<u32>> {
        let settings = json::read_optional(&dir.join("tokenizer_config.json"))?;
        let named = FRAMES.iter().filter_map(|key| match &settings[key] {
            Value::String(token) => Some(token.as_str()),
            // Older files spell a token out with its properties.
            token => token["content"].as_str(),
        });
        let ids: HashSet<u32> = named
            .filter_map(|token| self.inner.token_to_id(token))
            .collect();
        if !ids.is_empty() {
            return Ok(ids);
        }
        let added = self.inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special);
        Ok(special.map(|(&id, _)| id).collect())
    }

    /// A prompt that is one token of the vocabulary, even where a text of its spelling would
    /// become several.
    ///
    /// # Errors
    /// `Error::Tokenize` when the vocabulary has no such token.
    pub fn marker(&self, token: &str) -> Result<Prompt> {
        let id = self.inner.token_to_id(token).ok_or_else(|| {
            Error::Tokenize(format!(
                "the vocabulary has no token `{token}` to mark texts"
            ))
        })?;
        Ok(Prompt {
            text: String::new(),
            ids: vec![id],
        })
    }

    /// The only token of a prompt of `marker`.
    pub(crate) fn marker_id(prompt: &Prompt) -> Option<u32> {
        prompt.ids.first().copied()
    }

    /// The id of a token of the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The first token of a text without special tokens; `None` when it has none.
    ///
    /// # Errors
    /// `Error::Tokenize` when the tokenizer fails.
    pub(crate) fn first_token(&self, text: &str) -> Result<Option<u32>> {
        Ok(self.prepare_prompt(text)?.ids.first().copied())
    }

    /// How many special tokens are before a text.
    pub(crate) fn tokens_before_text(&self) -> usize {
        self.single.before_first()
    }
}
