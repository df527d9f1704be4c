//! Text to token ids and back. The truncation and padding that a published `tokenizer.json` may
//! carry are switched off: a server cuts by its own limits, says how much it cut, and never pads.

pub mod chunks;
pub mod pair;
pub mod rendered;
pub mod spelling;
pub mod template;
pub mod tokens;

mod byte_level;
mod frame;
mod marks;
mod pieces;
mod scan;
mod vocabulary_file;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};

pub use self::scan::Prompt;

use self::frame::Frame;
use self::pieces::{PIECE_SIZE, PieceSize};
use self::rendered::ControlNames;
use self::scan::{Joint, Keep};
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

/// What is done with `[CLS]`, `</s>` and their like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// Decoding writes them out; what is encoded has them around it.
    Keep,
    /// They are left out.
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
    // What the post-processor puts around one text, and around two where it takes two.
    single: Frame,
    pair: Option<Frame>,
    joint: Joint,
    vocab_size: usize,
    lowercases: bool,
    token_set: TokenSet,
    // The token that is dropped; `None` when all are kept.
    dropped: Option<u32>,
    // Tokens that a text may have but not consist of.
    silent: HashSet<u32>,
    // What prompts with control tokens are read by; made for the first of them.
    control: OnceLock<Result<Arc<ControlNames>, String>>,
}

impl Tokenizer {
    /// The tokenizer of a transformer, which takes special tokens too; see `load_for`.
    ///
    /// # Errors
    /// As `load_for`.
    pub fn load(dir: &Path) -> Result<Self> {
        Self::load_for(dir, TokenSet::default())
    }

    /// Reads `tokenizer.json` of a checkpoint directory, or builds the tokenizer that an old
    /// checkpoint's `vocab.txt` (BERT) or `vocab.json` and `merges.txt` (RoBERTa, Qwen2) stand for.
    ///
    /// # Errors
    /// `Error::Checkpoint` when none of them is there or one is malformed.
    pub fn load_for(dir: &Path, token_set: TokenSet) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let settings = json::read_optional(&dir.join("tokenizer_config.json"))?;
        let bytes = path.exists().then(|| json::read_bytes(&path)).transpose()?;
        let mut inner = match bytes {
            Some(bytes) => guarded(|| tokenizers::Tokenizer::from_bytes(&bytes))
                .map_err(|error| Error::checkpoint(&path, format!("not a tokenizer: {error}")))?,
            None => vocabulary_file::load(dir, &settings)?,
        };
        guarded(|| {
            vocabulary_file::apply_settings(&mut inner, &settings)?;
            inner.with_truncation(None).map(|_| ())
        })
        .map_err(|error| Error::checkpoint(&path, error.to_string()))?;
        inner.with_padding(None);
        let dropped = match token_set {
            TokenSet::Known => unknown_token(&inner)?,
            TokenSet::Framed | TokenSet::Bare => None,
        };
        let (single, pair) = match token_set {
            TokenSet::Framed => {
                let single = Frame::learn(&inner, 1)
                    .map_err(|error| Error::checkpoint(&path, error.to_string()))?;
                (single, Frame::learn(&inner, 2).ok())
            }
            // What a file would add is not in the table of such a model, or has another's number.
            TokenSet::Bare | TokenSet::Known => (Frame::bare(), None),
        };
        let joint =
            Joint::learn(&inner).map_err(|error| Error::checkpoint(&path, error.to_string()))?;
        let lowercases = json::sentence_bert_config(dir)?
            .is_some_and(|(_, config)| config["do_lower_case"].as_bool() == Some(true));
        let last = inner.get_vocab(true).into_values().max();
        let vocab_size = last.map_or(0, |last| last as usize + 1);
        Ok(Self {
            inner,
            single,
            pair,
            joint,
            vocab_size,
            lowercases,
            token_set,
            dropped,
            silent: HashSet::new(),
            control: OnceLock::new(),
        })
    }

    /// Turns one text into token ids with the special tokens around it. When the text is too long,
    /// the special tokens stay and the text between them is cut.
    ///
    /// # Errors
    /// `Error::InputTooLong` when it must not be cut; `Error::Tokenize` when not even the special
    /// tokens fit, no token is left for a model without special ones, or the tokenizer fails.
    pub fn encode(&self, text: &str, truncation: Truncation) -> Result<Encoding> {
        self.encode_prompted(&Prompt::default(), text, truncation)
    }

    /// As `encode`, with a prompt glued before the text as sentence-transformers does. The prompt
    /// counts as tokens and is never cut; `Encoding::prompt_tokens` says where it ends.
    ///
    /// # Errors
    /// As `encode`; and `Error::Tokenize` when the prompt alone does not fit.
    pub fn encode_prompted(
        &self,
        prompt: &Prompt,
        text: &str,
        truncation: Truncation,
    ) -> Result<Encoding> {
        self.encode_in_pieces(prompt, text, truncation, PIECE_SIZE)
    }

    fn encode_in_pieces(
        &self,
        prompt: &Prompt,
        text: &str,
        truncation: Truncation,
        size: PieceSize,
    ) -> Result<Encoding> {
        let room = self.room(&self.single, prompt, truncation.max_tokens)?;
        let side = truncation.side;
        let scanned = self.scan(prompt, text, Keep { room, side }, size)?;
        let tokens_cut = scanned.total.saturating_sub(room);
        if tokens_cut > 0 && side == TruncationSide::Refuse {
            return Err(Error::InputTooLong {
                tokens: scanned.total + self.special_tokens(),
                limit: truncation.max_tokens,
            });
        }
        self.kept(Encoding {
            tokens_cut,
            prompt_tokens: self.prompt_tokens(prompt),
            ..self.single.fill(&scanned.ids, &[])
        })
    }

    /// How many tokens of texts a frame leaves, the prompt's among them.
    fn room(&self, frame: &Frame, prompt: &Prompt, max_tokens: usize) -> Result<usize> {
        let special = frame.special_tokens();
        let Some(room) = max_tokens.checked_sub(special) else {
            return Err(Error::Tokenize(format!(
                "a limit of `{max_tokens}` tokens leaves no room for the model's `{special}` \
                 special tokens"
            )));
        };
        if prompt.tokens() > room {
            return Err(Error::Tokenize(format!(
                "the prompt has `{}` tokens, and a limit of `{max_tokens}` leaves `{room}` for it \
                 and the text",
                prompt.tokens()
            )));
        }
        Ok(room)
    }

    /// The tokens at the beginning that are not the text's, as sentence-transformers counts them:
    /// by the prompt alone.
    fn prompt_tokens(&self, prompt: &Prompt) -> usize {
        match prompt.tokens() {
            0 => 0,
            tokens => self.single.before_first() + tokens,
        }
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
        guarded(|| self.inner.decode(ids, skip))
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
        self.single.special_tokens()
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

/// Runs the tokenizer, whose code takes for granted what a damaged file does not keep: a panic in
/// it is an error of this one text or file, not the end of the service.
fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(done) => done.map_err(|error| Error::Tokenize(error.to_string())),
        Err(_) => Err(Error::Tokenize(
            "it failed where it never should; its files are damaged".into(),
        )),
    }
}

#[cfg(test)]
mod tests;
