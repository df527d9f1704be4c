//! What the engine is asked and what it answers: plain structs that no wire format leaks into.

use std::time::Duration;

use retort_models::TruncationSide;

/// Texts to be embedded by one model.
#[derive(Debug, Clone)]
pub struct EmbedRequest {
    /// The model as the caller named it; `None` means the only (or first) embedding model.
    pub model: Option<String>,
    /// What to embed, in the order of the answer.
    pub inputs: Vec<EmbedInput>,
    /// What to do with inputs that are too long.
    pub truncate: Truncate,
    /// Keep the first so many components (Matryoshka), then normalise again.
    pub dimensions: Option<usize>,
    /// L2-normalise the vectors, or return them as pooled.
    pub normalize: Normalize,
}

/// One thing to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmbedInput {
    /// A text.
    Text(String),
    /// Token ids of OpenAI's `cl100k_base` vocabulary, which stand for a text.
    Cl100kIds(Vec<u32>),
    /// Token ids of the model's own vocabulary, taken as they are.
    ModelIds(Vec<u32>),
}

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

/// The answer to an [`EmbedRequest`].
#[derive(Debug, Clone)]
pub struct EmbedResponse {
    /// The name under which the model is served.
    pub model: String,
    /// One per input, in order.
    pub embeddings: Vec<Embedding>,
    /// Tokens over all inputs.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// One vector and what was done to its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Finite and never all zero. `[dimensions]`
    pub vector: Vec<f32>,
    /// Tokens that the model saw, special tokens included.
    pub tokens: usize,
    /// Tokens of the input that were cut because they did not fit.
    pub tokens_cut: usize,
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

/// Where the time of a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Text to token ids.
    pub tokenize: Duration,
    /// The longest wait of any input between tokenization and the start of its batch.
    pub queue: Duration,
    /// The longest forward pass that any input was part of.
    pub inference: Duration,
}

/// What is known of a served model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The name it is served under; no `/`, as Dify refuses those.
    pub name: String,
    /// Other names it answers to, its hub id among them.
    pub aliases: Vec<String>,
    /// What it can do.
    pub kind: ModelKind,
    /// Loading, ready or failed.
    pub state: ModelState,
    /// Where the files came from, in words for people.
    pub origin: String,
    /// The revision of the files, when the source has one.
    pub revision: Option<String>,
    /// What the checkpoint says; present once loaded.
    pub encoder: Option<retort_models::EncoderInfo>,
    /// When loading finished, in seconds since the Unix epoch; 0 before.
    pub created: u64,
}

/// What a model can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelKind {
    /// Text in, vector out.
    Embedding,
}

/// Where a model stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelState {
    /// Files or sessions are being made.
    Loading,
    /// It answers.
    Ready,
    /// It did not load; the reason.
    Failed(String),
}
