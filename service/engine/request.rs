//! What the engine is asked and what it answers: plain structs that no wire format leaks into.
//! Here is what all verbs share.

mod classify;
mod embed;
mod generate;
mod model;
mod score;
mod tokenize;

use std::time::Duration;

use retort_models::TruncationSide;

use super::lane::Lane;

pub use self::{
    classify::{Classified, ClassifyInput, ClassifyRequest, ClassifyResponse, label_name},
    embed::{
        Chunk, ChunkPooling, Conditioning, Context, EmbedInput, EmbedRequest, EmbedResponse,
        Embedding, LongInput, PromptWish,
    },
    generate::{
        Begins, Choice, Constraint, EndOfText, FinishReason, Finished, GenerateEvent,
        GenerateRequest, GenerateTimings, GenerateUsage, Generated, Grammar, Origin, PromptField,
        PromptInput, PromptPiece, Sampling, TokenLogprob, TokenScore,
    },
    model::{
        Backlog, Chats, ModelInfo, ModelKind, ModelState, Task, score_meaning, unsupported,
        vector_heads,
    },
    score::{
        HybridWeights, LongDocument, PairScore, Pairs, Ranked, RerankRequest, RerankResponse,
        Scale, ScoreOptions, ScoreRequest, ScoreResponse,
    },
    tokenize::{
        DetokenizeRequest, DetokenizeResponse, PiecesRequest, PiecesResponse, TokenizeRequest,
        TokenizeResponse,
    },
};

/// How a long input is made to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncate {
    /// The most tokens to keep, special tokens included; `None` means the model's maximum.
    pub max_tokens: Option<usize>,
    /// Which end is cut, or whether too long an input is refused.
    pub side: TruncationSide,
}

impl Default for Truncate {
    fn default() -> Self {
        Self {
            max_tokens: None,
            side: TruncationSide::End,
        }
    }
}

/// Whether a vector leaves with unit length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Normalize {
    /// L2-normalised, which every peer does unless told otherwise.
    #[default]
    Yes,
    /// As the pooling left it.
    No,
}

/// Token counts of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens that the model saw.
    pub prompt_tokens: usize,
    /// Tokens that were cut.
    pub cut_tokens: usize,
    /// Inputs of which something was cut.
    pub cut_inputs: usize,
}

/// Where the time of a request went, and what it did not have to be spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Text to token ids.
    pub tokenize: Duration,
    /// The longest wait of any input between tokenization and the start of its batch.
    pub queue: Duration,
    /// The longest forward pass that any input was part of.
    pub inference: Duration,
    /// Where the inputs waited.
    pub lane: Option<Lane>,
    /// Inputs whose numbers were there already, chunks and queries counted apart.
    pub cached: usize,
    /// Inputs that were run once together with an equal one.
    pub coalesced: usize,
}

impl Usage {
    /// Adds one input of which the model saw so many tokens.
    pub fn add(&mut self, tokens: usize, tokens_cut: usize) {
        self.prompt_tokens += tokens;
        self.cut_tokens += tokens_cut;
        self.cut_inputs += usize::from(tokens_cut > 0);
    }
}
