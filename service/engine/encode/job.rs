//! The unit of work: one input of one request, on its way from the tokenizer to a worker and back.

use std::time::{Duration, Instant};

use retort_models::{Encoding, Heads, MultiVector, SparseVector};
use tokio::sync::oneshot;

use crate::{engine::request::Normalize, error::Result};

/// One input that waits for, or is in, a forward pass.
pub struct Job {
    /// Its token ids.
    pub encoding: Encoding,
    /// What is wanted of it.
    pub heads: Heads,
    /// What is done to the pooled vector before it leaves.
    pub finish: Finish,
    /// When it entered the queue.
    pub arrived: Instant,
    /// Where the answer goes. Closed when the client has left.
    pub reply: oneshot::Sender<Result<Done, Failure>>,
}

impl Job {
    /// Tokens that this job adds to a batch.
    pub fn tokens(&self) -> usize {
        self.encoding.input_ids.len()
    }

    /// True when nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

/// What is done to a pooled vector before it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finish {
    /// Keep the first so many components.
    pub dimensions: Option<usize>,
    /// Give the vector unit length.
    pub normalize: Normalize,
}

/// A finished job.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The heads that were asked for.
    pub values: Values,
    /// Wait between entering the queue and the start of the batch.
    pub queue: Duration,
    /// The forward pass that this job was part of.
    pub inference: Duration,
}

/// What a job asked for. Every number is finite.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Values {
    /// Cut and normalised as asked, none all zero; one per segment of the encoding.
    pub dense: Vec<Vec<f32>>,
    /// Weights of vocabulary entries.
    pub sparse: Option<SparseVector>,
    /// One vector per token.
    pub multi_vector: Option<MultiVector>,
    /// Logits. `[labels]`
    pub scores: Option<Vec<f32>>,
}

/// Why a job has no values; the position within the request is known to the caller only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The model returned something that is not a vector, or not a number.
    BadOutput(String),
    /// The forward pass failed.
    Inference(String),
}
