//! Texts to vectors: what is asked and what comes back.

use retort_models::{Heads, MultiVector, SparseVector};

use super::{Normalize, Timings, Truncate, Usage};

/// Texts to be embedded by one model.
#[derive(Debug, Clone, Default)]
pub struct EmbedRequest {
    /// The model as the caller named it; `None` means the only (or first) embedding model.
    pub model: Option<String>,
    /// What to embed, in the order of the answer.
    pub inputs: Vec<EmbedInput>,
    /// What is wanted of each, all from one forward pass; without any, the model's dense vector,
    /// or else all that it gives.
    pub heads: Heads,
    /// What the texts are for.
    pub conditioning: Conditioning,
    /// How far a text may reach.
    pub truncate: Truncate,
    /// What is done with a text that reaches further.
    pub long: LongInput,
    /// Whether the texts know of each other.
    pub context: Context,
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

/// What texts are for, which some models want to be told by a prompt or a task adapter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditioning {
    /// What goes before each text; `None` leaves it to the rest and then to the checkpoint.
    pub prompt: Option<PromptWish>,
    /// The task of a model that has tasks, such as `retrieval.query`; ignored by others.
    pub task: Option<String>,
    /// A hint such as `query` or `passage`; ignored by models that make no difference.
    pub input_type: Option<String>,
}

/// What goes before each text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptWish {
    /// The checkpoint's prompt of this name.
    Named(String),
    /// This text.
    Text(String),
    /// This instruction, in the form that the checkpoint's query prompt has.
    Instruction(String),
}

/// What is done with a text that is longer than fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LongInput {
    /// It is cut, or refused, as [`Truncate`] says.
    #[default]
    Cut,
    /// It is read in chunks, whose vectors become one.
    Chunk(Chunk),
}

/// How a long text is read in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chunk {
    /// The most tokens a chunk may have, special tokens and prompt included; `None` means as many
    /// as a text may have.
    pub max_tokens: Option<usize>,
    /// The most tokens a chunk has in common with the one before it; `None` lets the engine choose.
    pub overlap: Option<usize>,
    /// How the vectors of the chunks become one.
    pub pooling: ChunkPooling,
}

/// How the vectors of chunks become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChunkPooling {
    /// The mean of their unit vectors.
    #[default]
    Mean,
    /// The largest value of their unit vectors, per component.
    Max,
    /// Over the tokens of all chunks as the model pools those of one; for models that pool by mean
    /// or max.
    Late,
}

/// Whether the texts of a request know of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Context {
    /// Each is read alone.
    #[default]
    Apart,
    /// They are read as one text and pooled apart: late chunking (Günther et al. 2024).
    Joined,
}

/// The answer to an [`EmbedRequest`].
#[derive(Debug, Clone)]
pub struct EmbedResponse {
    /// The name under which the model is served.
    pub model: String,
    /// What each embedding has.
    pub heads: Heads,
    /// One per input, in order.
    pub embeddings: Vec<Embedding>,
    /// Tokens over all inputs.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

impl EmbedResponse {
    /// The products of the first dense vector with each of the others: their cosines, when the
    /// vectors were normalised.
    pub fn products(&self) -> Vec<f32> {
        let Some((first, others)) = self.embeddings.split_first() else {
            return Vec::new();
        };
        let product = |other: &Embedding| {
            let pairs = first.vector.iter().zip(&other.vector);
            pairs
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum::<f64>() as f32
        };
        others.iter().map(product).collect()
    }
}

/// What a text became and what was done to it. Every number is finite.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Embedding {
    /// Never all zero; empty when it was not wanted. `[dimensions]`
    pub vector: Vec<f32>,
    /// Weights of vocabulary entries, when wanted.
    pub sparse: Option<SparseVector>,
    /// One vector per token, when wanted.
    pub multi_vector: Option<MultiVector>,
    /// Tokens that the model saw, special tokens included, over all chunks.
    pub tokens: usize,
    /// Tokens of the input that were cut because they did not fit.
    pub tokens_cut: usize,
    /// In how many chunks it was read.
    pub chunks: usize,
}
