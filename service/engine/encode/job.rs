//! The unit of work: one input on its way from the tokenizer to a worker and back, and whoever
//! waits for it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use retort_models::{Encoding, Heads, MultiVector, SparseVector};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::{
    engine::{lane::Tenant, request::Normalize},
    error::Result,
};

/// One text, or pair of texts, as the model sees it, and what is wanted of it.
#[derive(Debug, Clone)]
pub struct Input {
    /// Its token ids.
    pub encoding: Encoding,
    /// What it is to give.
    pub heads: Heads,
    /// What its token vectors are compared with, by a model that compares.
    pub query: Option<Arc<Encoding>>,
}

/// One input to be run. Equal inputs of one tenant that wait or run at the same time are one job.
pub struct Job {
    /// Its token ids.
    pub encoding: Encoding,
    /// All that somebody wants of it.
    pub heads: Heads,
    /// What its token vectors are compared with.
    pub query: Option<Arc<Encoding>>,
    /// What is the same for equal inputs of one tenant.
    pub fingerprint: Fingerprint,
}

/// Somebody who waits for a job.
pub struct Waiter {
    /// What is wanted of it.
    pub heads: Heads,
    /// What is done to the pooled vector before it leaves.
    pub finish: Finish,
    /// When it began to wait.
    pub arrived: Instant,
    /// When it stops waiting.
    pub deadline: Option<Instant>,
    /// Where the answer goes. Closed when the client has left.
    pub reply: oneshot::Sender<Result<Done, Failure>>,
}

/// What a waiter gets its answer from.
pub type Reply = oneshot::Receiver<Result<Done, Failure>>;

impl Input {
    /// An input that is compared with nothing.
    pub fn new(encoding: Encoding, heads: Heads) -> Self {
        Self {
            encoding,
            heads,
            query: None,
        }
    }

    /// Inputs of which the same is wanted.
    pub fn all(encodings: Vec<Encoding>, heads: Heads) -> Vec<Self> {
        let inputs = encodings.into_iter();
        inputs.map(|encoding| Self::new(encoding, heads)).collect()
    }
}

impl Job {
    /// A job of one tenant's.
    pub fn new(input: Input, tenant: Tenant) -> Self {
        let Input {
            encoding,
            heads,
            query,
        } = input;
        Self {
            fingerprint: Fingerprint::of(&encoding, query.as_deref(), tenant),
            encoding,
            heads,
            query,
        }
    }

    /// Tokens that this job adds to a batch, at most: jobs with the same query add it once.
    pub fn tokens(&self) -> usize {
        let query = self.query.as_ref();
        self.encoding.input_ids.len() + query.map_or(0, |query| query.input_ids.len())
    }
}

impl Waiter {
    /// Somebody who begins to wait now, and where the answer will be.
    pub fn new(heads: Heads, finish: Finish, deadline: Option<Instant>) -> (Self, Reply) {
        let (reply, done) = oneshot::channel();
        let waiter = Self {
            heads,
            finish,
            arrived: Instant::now(),
            deadline,
            reply,
        };
        (waiter, done)
    }

    /// Whether an answer would be of no use any more, and why.
    pub fn gone(&self, now: Instant) -> Option<Gone> {
        if self.reply.is_closed() {
            Some(Gone::Left)
        } else if self.deadline.is_some_and(|deadline| deadline <= now) {
            Some(Gone::Late)
        } else {
            None
        }
    }

    /// Tells whoever waits that the deadline has passed.
    pub fn too_late(self) {
        let waited = self.deadline.map(|deadline| deadline - self.arrived);
        let after = waited.unwrap_or_default();
        // The client may have left just now.
        let _ = self.reply.send(Err(Failure::Late { after }));
    }
}

/// Why nobody waits for an answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The client has left.
    Left,
    /// Its deadline has passed.
    Late,
}

/// SHA-256 of everything that the numbers of an input depend on within one loaded model, and of
/// whose it is. The prompt is among the token ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(encoding: &Encoding, query: Option<&Encoding>, tenant: Tenant) -> Self {
        let mut digest = Sha256::new();
        digest.update(tenant.0);
        for encoding in [encoding].into_iter().chain(query) {
            add(&mut digest, encoding);
        }
        Self(digest.finalize().into())
    }
}

fn add(digest: &mut Sha256, encoding: &Encoding) {
    let adapter = encoding.adapter.map_or(u64::MAX, u64::from);
    let sizes = [
        adapter,
        encoding.prompt_tokens as u64,
        encoding.input_ids.len() as u64,
        encoding.segments.len() as u64,
    ];
    sizes
        .iter()
        .for_each(|size| digest.update(size.to_le_bytes()));
    let words = encoding.input_ids.iter().chain(&encoding.segments);
    let words: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
    digest.update(words);
    digest.update(&encoding.token_type_ids);
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
    /// Instead of them how well they match those of the query.
    pub late_interaction: Option<f32>,
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
    /// The device has no memory for it, even alone.
    NoMemory(String),
    /// The device will not answer again.
    DeviceLost(String),
    /// The deadline passed before it was its turn.
    Late {
        /// The time that there was.
        after: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_tells_apart_what_gives_other_numbers() {
        let plain = Encoding {
            input_ids: vec![7, 8, 9],
            token_type_ids: vec![0; 3],
            ..Encoding::default()
        };
        let with = |change: fn(&mut Encoding)| {
            let mut other = plain.clone();
            change(&mut other);
            Fingerprint::of(&other, None, Tenant::default())
        };
        let beside = |query: &Encoding| Fingerprint::of(&plain, Some(query), Tenant::default());
        let others = [
            with(|_| ()),
            with(|e| e.input_ids[2] = 10),
            with(|e| e.token_type_ids[2] = 1),
            with(|e| e.adapter = Some(0)),
            with(|e| e.segments = vec![3]),
            with(|e| e.prompt_tokens = 1),
            Fingerprint::of(&plain, None, Tenant([1; 32])),
            beside(&plain),
            beside(&Encoding::default()),
        ];
        for (i, a) in others.iter().enumerate() {
            for (j, b) in others.iter().enumerate() {
                assert_eq!(a == b, i == j, "{i} and {j}");
            }
        }
        // How much was cut to get there makes no difference.
        assert_eq!(with(|e| e.tokens_cut = 5), with(|_| ()));
    }
}
