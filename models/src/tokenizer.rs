//! Text to token ids and back. The truncation and padding that a published `tokenizer.json` may
//! carry are switched off: a server cuts by its own limits, says how much it cut, and never pads.

mod pieces;
mod vocabulary_file;

use std::path::Path;

use tokenizers::Encoding as RawEncoding;
use tokenizers::utils::truncation::TruncationDirection;

use self::pieces::{PIECE_SIZE, PieceSize, pieces};
use crate::batch::Encoding;
use crate::checkpoint::json;
use crate::error::{Error, Result};

/// How far an input may reach and what happens to the rest of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncation {
    /// The most tokens an encoding may have, special tokens included.
    pub max_tokens: usize,
    /// What is left out when the input is longer.
    pub side: TruncationSide,
}

/// Which end of a text is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TruncationSide {
    /// Keep the beginning.
    #[default]
    End,
    /// Keep the end.
    Start,
    /// Cut nothing: a longer input is `Error::InputTooLong`.
    Refuse,
}

/// What decoding does with `[CLS]`, `</s>` and their like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// Write them out.
    Keep,
    /// Leave them out.
    Skip,
}

/// The tokenizer of one checkpoint. Shared by all threads of a service.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    // Tokens that the post-processor puts around one text.
    special_tokens: usize,
    vocab_size: usize,
    lowercases: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a checkpoint directory, or, where an old BERT checkpoint has only
    /// `vocab.txt`, builds the WordPiece tokenizer that the file stands for.
    ///
    /// # Errors
    /// `Error::Checkpoint` when neither file is there or one is malformed.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let settings = json::read_optional(&dir.join("tokenizer_config.json"))?;
        let mut inner = if path.exists() {
            let bytes = json::read_bytes(&path)?;
            tokenizers::Tokenizer::from_bytes(bytes)
                .map_err(|error| Error::checkpoint(&path, format!("not a tokenizer: {error}")))?
        } else {
            vocabulary_file::load(dir, &settings)?
        };
        vocabulary_file::apply_settings(&mut inner, &settings)
            .and_then(|()| inner.with_truncation(None).map(|_| ()))
            .map_err(|error| Error::checkpoint(&path, error.to_string()))?;
        inner.with_padding(None);
        let lowercases = json::sentence_bert_config(dir)?
            .is_some_and(|(_, config)| config["do_lower_case"].as_bool() == Some(true));
        Self::from_inner(inner, lowercases)
    }

    fn from_inner(inner: tokenizers::Tokenizer, lowercases: bool) -> Result<Self> {
        let special_tokens = inner
            .post_process(RawEncoding::default(), None, true)
            .map_err(|error| Error::Tokenize(error.to_string()))?
            .len();
        let last = inner.get_vocab(true).into_values().max();
        let vocab_size = last.map_or(0, |last| last as usize + 1);
        Ok(Self {
            inner,
            special_tokens,
            vocab_size,
            lowercases,
        })
    }

    /// Turns one text into token ids with the special tokens around it. When the text is too long,
    /// the special tokens stay and the text between them is cut.
    ///
    /// # Errors
    /// `Error::InputTooLong` when it must not be cut; `Error::Tokenize` when not even the special
    /// tokens fit, or the tokenizer fails.
    pub fn encode(&self, text: &str, truncation: Truncation) -> Result<Encoding> {
        self.encode_in_pieces(text, truncation, PIECE_SIZE)
    }

    fn encode_in_pieces(
        &self,
        text: &str,
        truncation: Truncation,
        size: PieceSize,
    ) -> Result<Encoding> {
        let Some(room) = truncation.max_tokens.checked_sub(self.special_tokens) else {
            return Err(Error::Tokenize(format!(
                "a limit of `{}` tokens leaves no room for the model's `{}` special tokens",
                truncation.max_tokens, self.special_tokens
            )));
        };
        let mut middle = RawEncoding::default();
        let mut tokens = 0;
        for piece in pieces(text, size) {
            let piece = self.tokenize(piece)?;
            tokens += piece.len();
            // Once the beginning is full, what follows is only counted.
            if middle.len() < room || truncation.side == TruncationSide::Start {
                middle.merge_with(piece, false);
                keep(&mut middle, room, truncation.side);
            }
        }
        let tokens_cut = tokens.saturating_sub(room);
        if tokens_cut > 0 && truncation.side == TruncationSide::Refuse {
            let (tokens, limit) = (tokens + self.special_tokens, truncation.max_tokens);
            return Err(Error::InputTooLong { tokens, limit });
        }
        let whole = self
            .inner
            .post_process(middle, None, true)
            .map_err(|error| Error::Tokenize(error.to_string()))?;
        let types = whole
            .get_type_ids()
            .iter()
            .map(|&id| u8::try_from(id).unwrap_or(u8::MAX));
        Ok(Encoding {
            input_ids: whole.get_ids().to_vec(),
            token_type_ids: types.collect(),
            tokens_cut,
        })
    }

    /// The tokens of a text without special ones.
    fn tokenize(&self, text: &str) -> Result<RawEncoding> {
        let lowered = self.lowercases.then(|| text.to_lowercase());
        self.inner
            .encode_fast(lowered.as_deref().unwrap_or(text), false)
            .map_err(|error| Error::Tokenize(error.to_string()))
    }

    /// Takes the caller's own token ids as they are: no special tokens are added.
    ///
    /// # Errors
    /// `Error::Tokenize` when there are none or one is outside the vocabulary,
    /// `Error::InputTooLong` when there are too many and they must not be cut.
    pub fn encode_ids(&self, ids: &[u32], truncation: Truncation) -> Result<Encoding> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            return Err(Error::Tokenize(format!(
                "token id `{id}` is outside the vocabulary of `{}` tokens",
                self.vocab_size
            )));
        }
        let kept = ids.len().min(truncation.max_tokens);
        if kept == 0 {
            return Err(Error::Tokenize("no token ids".into()));
        }
        let input_ids = match truncation.side {
            TruncationSide::Refuse if kept < ids.len() => {
                return Err(Error::InputTooLong {
                    tokens: ids.len(),
                    limit: truncation.max_tokens,
                });
            }
            TruncationSide::End | TruncationSide::Refuse => ids[..kept].to_vec(),
            TruncationSide::Start => ids[ids.len() - kept..].to_vec(),
        };
        Ok(Encoding {
            input_ids,
            token_type_ids: vec![0; kept],
            tokens_cut: ids.len() - kept,
        })
    }

    /// Turns token ids back into text, as well as the vocabulary allows.
    pub fn decode(&self, ids: &[u32], special_tokens: SpecialTokens) -> Result<String> {
        let skip = special_tokens == SpecialTokens::Skip;
        self.inner
            .decode(ids, skip)
            .map_err(|error| Error::Tokenize(error.to_string()))
    }

    /// The token that an id stands for.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// One more than the largest id, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// How many special tokens are put around one text.
    pub fn special_tokens(&self) -> usize {
        self.special_tokens
    }
}

/// Leaves at most `room` tokens of an encoding.
fn keep(encoding: &mut RawEncoding, room: usize, side: TruncationSide) {
    if encoding.len() <= room {
        return;
    }
    let direction = match side {
        TruncationSide::End | TruncationSide::Refuse => TruncationDirection::Right,
        TruncationSide::Start => TruncationDirection::Left,
    };
    encoding.truncate(room, 0, direction);
    // The cut part would otherwise go through the post-processor too.
    drop(encoding.take_overflowing());
}

#[cfg(test)]
mod tests;
