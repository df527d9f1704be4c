//! Text to token ids and back. The truncation and padding that a published `tokenizer.json` may
//! carry are switched off: a server cuts by its own limits, says how much it cut, and never pads.

mod marks;
mod pieces;
mod vocabulary_file;

use std::collections::HashSet;
use std::path::Path;

use tokenizers::Encoding as RawEncoding;
use tokenizers::processors::PostProcessorWrapper;
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

/// Which tokens of a text a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenSet {
    /// Those of the text, with the special tokens that the file puts around them.
    #[default]
    Framed,
    /// Those of the text alone.
    Bare,
    /// Those of the text alone, without the token that stands for what the vocabulary lacks.
    Known,
}

/// The tokenizer of one checkpoint. Shared by all threads of a service.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    // Tokens that the post-processor puts around one text.
    special_tokens: usize,
    vocab_size: usize,
    lowercases: bool,
    token_set: TokenSet,
    // The token that is dropped; `None` when all are kept.
    dropped: Option<u32>,
    // Tokens that a text may have but not consist of.
    silent: HashSet<u32>,
}

impl Tokenizer {
    /// The tokenizer of a transformer, which takes special tokens too; see `load_for`.
    ///
    /// # Errors
    /// As `load_for`.
    pub fn load(dir: &Path) -> Result<Self> {
        Self::load_for(dir, TokenSet::default())
    }

    /// Reads `tokenizer.json` of a checkpoint directory, or, where an old BERT checkpoint has only
    /// `vocab.txt`, builds the WordPiece tokenizer that the file stands for.
    ///
    /// # Errors
    /// `Error::Checkpoint` when neither file is there or one is malformed.
    pub fn load_for(dir: &Path, token_set: TokenSet) -> Result<Self> {
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
        let dropped = match token_set {
            TokenSet::Known => unknown_token(&inner)?,
            TokenSet::Framed | TokenSet::Bare => None,
        };
        if token_set != TokenSet::Framed {
            // What it would add is not in the table of such a model, or has another's number.
            inner.with_post_processor(None::<PostProcessorWrapper>);
        }
        let lowercases = json::sentence_bert_config(dir)?
            .is_some_and(|(_, config)| config["do_lower_case"].as_bool() == Some(true));
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
            token_set,
            dropped,
            silent: HashSet::new(),
        })
    }

    /// Turns one text into token ids with the special tokens around it. When the text is too long,
    /// the special tokens stay and the text between them is cut.
    ///
    /// # Errors
    /// `Error::InputTooLong` when it must not be cut; `Error::Tokenize` when not even the special
    /// tokens fit, no token is left for a model without special ones, or the tokenizer fails.
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
        self.kept(Encoding {
            input_ids: whole.get_ids().to_vec(),
            token_type_ids: types.collect(),
            tokens_cut,
            ..Encoding::default()
        })
    }

    /// Leaves out the tokens that the model does not take. This comes after the cut, as in
    /// model2vec, so they count towards a limit.
    fn kept(&self, mut encoding: Encoding) -> Result<Encoding> {
        if let Some(dropped) = self.dropped {
            let ids = encoding.input_ids.iter();
            let mut stays = ids.map(|&id| id != dropped).collect::<Vec<_>>().into_iter();
            encoding
                .token_type_ids
                .retain(|_| stays.next().unwrap_or_default());
            encoding.input_ids.retain(|&id| id != dropped);
        }
        if self.token_set == TokenSet::Framed {
            return Ok(encoding);
        }
        let silent = |id: &u32| self.silent.contains(id);
        let lack = match &encoding.input_ids[..] {
            [] => "no token that the model knows",
            ids if ids.iter().all(silent) => "only tokens whose vectors are zero in this model",
            _ => return Ok(encoding),
        };
        Err(Error::Tokenize(format!(
            "the text has {lack}, so it has no vector"
        )))
    }

    /// Names tokens that say nothing alone: a text of nothing else is an `Error::Tokenize`.
    pub(crate) fn with_silent(self, silent: HashSet<u32>) -> Self {
        Self { silent, ..self }
    }

    /// The tokens of a text without special ones.
    fn tokenize(&self, text: &str) -> Result<RawEncoding> {
        let lowered = self.lowercases.then(|| text.to_lowercase());
        self.inner
            .encode_fast(lowered.as_deref().unwrap_or(text), false)
            .map_err(|error| Error::Tokenize(error.to_string()))
    }

    /// Takes the caller's own token ids as they are: no special tokens are added. Only what the
    /// model would not take from a text either is left out.
    ///
    /// # Errors
    /// `Error::Tokenize` when there are none, none is left, or one is outside the vocabulary,
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
        self.kept(Encoding {
            input_ids,
            token_type_ids: vec![0; kept],
            tokens_cut: ids.len() - kept,
            ..Encoding::default()
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

/// The token that stands for what the vocabulary lacks, where it has one: WordPiece, BPE and
/// WordLevel name it, Unigram gives its number.
fn unknown_token(inner: &tokenizers::Tokenizer) -> Result<Option<u32>> {
    let model = serde_json::to_value(inner.get_model())
        .map_err(|error| Error::Tokenize(error.to_string()))?;
    let numbered = model["unk_id"].as_u64();
    let named = model["unk_token"].as_str();
    Ok(numbered
        .and_then(|id| u32::try_from(id).ok())
        .or_else(|| inner.token_to_id(named?)))
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
