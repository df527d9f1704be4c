//! How a late-interaction model is told queries from documents: a marker after the first special
//! token, a limit for each, and punctuation of documents that gets no vectors. What a query is
//! filled up with in training (`[MASK]`, which sees the query and is not seen) is not built: packed
//! attention has no tokens of one direction.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::checkpoint::{Config, json};
use crate::error::{Error, Result};
use crate::tokenizer::{Prompt, Tokenizer};

/// What `ColBERT` (Khattab & Zaharia 2020) writes beside its weights.
const COLBERT_FILE: &str = "artifact.metadata";
/// What ColBERT's own checkpoints are called in config.json.
const COLBERT_CLASS: &str = "HF_ColBERT";
/// Where `PyLate` writes the same, among what sentence-transformers writes.
const PYLATE_FILE: &str = "config_sentence_transformers.json";
/// Python's `string.punctuation`.
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// What a late-interaction model makes of queries and of documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateInteraction {
    /// How queries are encoded.
    pub query: Side,
    /// How documents are encoded.
    pub document: Side,
    // Tokens of documents that get no vector.
    skipped: HashSet<u32>,
    // Where the marker is in a sequence.
    place: usize,
}

/// How the texts of one side of a comparison are encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// The marker, which `Tokenizer::encode_prompted` puts before a text.
    pub prompt: Prompt,
    /// The most tokens, special ones and the marker included; `None` when only the model limits
    /// them.
    pub max_tokens: Option<usize>,
}

/// The names of one file's settings.
struct Keys {
    query: [&'static str; 2],
    document: [&'static str; 2],
}

const COLBERT_KEYS: Keys = Keys {
    query: ["query_token_id", "query_maxlen"],
    document: ["doc_token_id", "doc_maxlen"],
};

const PYLATE_KEYS: Keys = Keys {
    query: ["query_prefix", "query_length"],
    document: ["document_prefix", "document_length"],
};

impl LateInteraction {
    /// Reads what a checkpoint says; `None` when it says nothing.
    ///
    /// # Errors
    /// `Error::Checkpoint` when a file is malformed or names a marker that is no token.
    pub(crate) fn read(dir: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let file = dir.join(COLBERT_FILE);
        if file.exists() {
            let settings = Settings::new(file, tokenizer)?;
            return settings
                .both(&COLBERT_KEYS, settings.punctuation()?)
                .map(Some);
        }
        let file = dir.join(PYLATE_FILE);
        if !file.exists() {
            return Ok(None);
        }
        let settings = Settings::new(file, tokenizer)?;
        if settings.values[PYLATE_KEYS.query[0]].is_null() {
            return Ok(None);
        }
        settings.both(&PYLATE_KEYS, settings.skip_list()).map(Some)
    }

    /// What is wrong with a ColBERT model whose files do not say how its texts are marked; `sign`
    /// says what shows that it is one.
    pub(crate) fn unmarked(sign: &str) -> Error {
        Error::Unsupported(format!(
            "{sign}, so it is a ColBERT model, but its folder has no `{COLBERT_FILE}` that says \
             how queries and documents are marked, and without the markers its vectors would be \
             other ones; put that file of the published model beside config.json"
        ))
    }

    /// Refuses a checkpoint of ColBERT's class of which `read` found nothing.
    ///
    /// # Errors
    /// `Error::Unsupported` names the file that is missing.
    pub(crate) fn check(found: Option<&Self>, config: &Config) -> Result<()> {
        let classes = config.texts("architectures");
        match classes.into_iter().find(|class| *class == COLBERT_CLASS) {
            Some(class) if found.is_none() => {
                Err(Self::unmarked(&format!("config.json names `{class}`")))
            }
            _ => Ok(()),
        }
    }

    /// Which tokens of one sequence of a batch get a vector. A document is told by its marker.
    pub(crate) fn keeps<'b>(&'b self, ids: &'b [i64]) -> impl Fn(usize) -> bool + 'b {
        let is =
            |id: i64, wanted: Option<u32>| wanted.is_some_and(|wanted| i64::from(wanted) == id);
        let marker = Tokenizer::marker_id(&self.document.prompt);
        let document = ids.get(self.place).is_some_and(|&id| is(id, marker));
        move |token| {
            let skipped = u32::try_from(ids[token]).is_ok_and(|id| self.skipped.contains(&id));
            !(document && skipped)
        }
    }
}

/// A file of settings, and what turns its texts into tokens.
struct Settings<'t> {
    path: PathBuf,
    values: Value,
    tokenizer: &'t Tokenizer,
}

impl<'t> Settings<'t> {
    fn new(path: PathBuf, tokenizer: &'t Tokenizer) -> Result<Self> {
        let values = json::read(&path)?;
        Ok(Self {
            path,
            values,
            tokenizer,
        })
    }

    fn both(&self, keys: &Keys, skipped: HashSet<u32>) -> Result<LateInteraction> {
        Ok(LateInteraction {
            query: self.side(keys.query)?,
            document: self.side(keys.document)?,
            skipped,
            place: self.tokenizer.tokens_before_text(),
        })
    }

    fn side(&self, [marker, length]: [&'static str; 2]) -> Result<Side> {
        let wrong = |key: &str| {
            let message = format!("`{key}` is `{}`", self.values[key]);
            Error::checkpoint(&self.path, message)
        };
        let token = self.values[marker].as_str().ok_or_else(|| wrong(marker))?;
        let prompt = self
            .tokenizer
            .marker(token)
            .map_err(|error| Error::checkpoint(&self.path, error.to_string()))?;
        let max_tokens = match &self.values[length] {
            Value::Null => None,
            value => match value.as_u64().filter(|&tokens| tokens > 0) {
                Some(tokens) => Some(tokens as usize),
                None => return Err(wrong(length)),
            },
        };
        Ok(Side { prompt, max_tokens })
    }

    /// Each mark itself, and the first token that it becomes as a text.
    fn punctuation(&self) -> Result<HashSet<u32>> {
        let mut skipped = HashSet::new();
        if self.values["mask_punctuation"] != Value::Bool(false) {
            for mark in PUNCTUATION.chars() {
                skipped.extend(self.tokenizer.first_token(&mark.to_string())?);
            }
        }
        Ok(skipped)
    }

    /// The tokens of these spellings; Python's punctuation when there is no list.
    fn skip_list(&self) -> HashSet<u32> {
        let token = |word: &str| self.tokenizer.token_id(word);
        match self.values["skiplist_words"].as_array() {
            Some(words) => words
                .iter()
                .filter_map(Value::as_str)
                .filter_map(token)
                .collect(),
            None => PUNCTUATION
                .chars()
                .filter_map(|mark| token(&mark.to_string()))
                .collect(),
        }
    }
}
