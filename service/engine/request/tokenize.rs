//! Texts to tokens and back: what is asked and what comes back.

use retort_models::{SpecialTokens, Token};

use super::PromptWish;

/// Texts to be taken apart by the tokenizer of one model.
#[derive(Debug, Clone)]
pub struct TokenizeRequest {
    /// The model as the caller named it; `None` means the first embedding model.
    pub model: Option<String>,
    /// The texts.
    pub texts: Vec<String>,
    /// Whether special tokens are put around each.
    pub special_tokens: SpecialTokens,
    /// What goes before each text.
    pub prompt: Option<PromptWish>,
}

/// The answer to a [`TokenizeRequest`].
#[derive(Debug, Clone)]
pub struct TokenizeResponse {
    /// The name under which the model is served.
    pub model: String,
    /// The most tokens that the model reads of one input.
    pub max_tokens: usize,
    /// One list per text, in order; nothing is cut.
    pub texts: Vec<Vec<Token>>,
}

/// Token ids to be put together to texts.
#[derive(Debug, Clone)]
pub struct DetokenizeRequest {
    /// The model as the caller named it; `None` means the first embedding model.
    pub model: Option<String>,
    /// One list per text, of ids of the model's own vocabulary.
    pub ids: Vec<Vec<u32>>,
    /// Whether special tokens are written out.
    pub special_tokens: SpecialTokens,
}

/// The answer to a [`DetokenizeRequest`].
#[derive(Debug, Clone)]
pub struct DetokenizeResponse {
    /// The name under which the model is served.
    pub model: String,
    /// One per list of ids, in order.
    pub texts: Vec<String>,
}

/// Token ids whose tokens are wanted, as the vocabulary writes them.
#[derive(Debug, Clone)]
pub struct PiecesRequest {
    /// The model as the caller named it; `None` means the first embedding model.
    pub model: Option<String>,
    /// Lists of ids of the model's own vocabulary.
    pub ids: Vec<Vec<u32>>,
}

/// The answer to a [`PiecesRequest`].
#[derive(Debug, Clone)]
pub struct PiecesResponse {
    /// The name under which the model is served.
    pub model: String,
    /// One token per id, in lists as the ids were.
    pub pieces: Vec<Vec<String>>,
}
