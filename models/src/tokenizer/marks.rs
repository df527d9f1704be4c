//! Tokens that frame a text and say nothing about it.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

use super::Tokenizer;
use crate::checkpoint::json;
use crate::error::Result;

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
}
