//! Text to token ids, in parallel and off the async threads.
//! Decides nothing about batches; knows the meaning of each kind of input.

use std::sync::Arc;

use rayon::prelude::*;
use retort_models::{Encoding, Tokenizer, Truncation};
use tiktoken_rs::cl100k_base_singleton;
use tokio::sync::oneshot;

use crate::{
    engine::request::{EmbedInput, Truncate},
    error::{Error, Result},
};

/// The threads that all models share for tokenization.
#[derive(Clone)]
pub struct TokenizerPool(Arc<rayon::ThreadPool>);

impl TokenizerPool {
    /// A pool of so many threads.
    ///
    /// # Errors
    /// When the operating system refuses the threads.
    pub fn new(threads: usize) -> Result<Self> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("tokenize-{i}"))
            .build()
            .map(|pool| Self(Arc::new(pool)))
            .map_err(|error| Error::Internal(format!("tokenizer threads: {error}")))
    }

    /// Encodes all inputs, in order.
    ///
    /// # Errors
    /// The first (by position) input that is too long or not valid.
    pub async fn encode(
        &self,
        tokenizer: Arc<Tokenizer>,
        inputs: Vec<EmbedInput>,
        truncation: Truncation,
    ) -> Result<Vec<Encoding>> {
        let (reply, encodings) = oneshot::channel();
        self.0.spawn(move || {
            let encode = |(index, input): (usize, &EmbedInput)| {
                // When the client has left, the rest of a long list is not worth the time.
                if reply.is_closed() {
                    return Err(Error::Internal("the client left".into()));
                }
                encode_one(&tokenizer, input, truncation).map_err(|error| at(index, error))
            };
            let encodings: Vec<Result<Encoding>> = match inputs.as_slice() {
                [input] => vec![encode((0, input))],
                many => many.par_iter().enumerate().map(encode).collect(),
            };
            let encodings: Result<Vec<Encoding>> = encodings.into_iter().collect();
            // Nobody to tell means that the client has left.
            let _ = reply.send(encodings);
        });
        encodings
            .await
            .map_err(|_| Error::Internal("the tokenizer panicked".into()))?
    }
}

fn encode_one(
    tokenizer: &Tokenizer,
    input: &EmbedInput,
    truncation: Truncation,
) -> Result<Encoding, retort_models::Error> {
    match input {
        EmbedInput::Text(text) => tokenizer.encode(text, truncation),
        EmbedInput::ModelIds(ids) => tokenizer.encode_ids(ids, truncation),
        EmbedInput::Cl100kIds(ids) => {
            let bytes = cl100k_base_singleton().decode_bytes(ids).map_err(|error| {
                retort_models::Error::Tokenize(format!(
                    "token arrays are read as `cl100k_base` ids, as OpenAI clients send them, and \
                     this one is not: {error}; set `token_ids = \"model\"` to have them read as \
                     the model's own ids"
                ))
            })?;
            // A cut through the middle of a character leaves bytes that are no character.
            tokenizer.encode(&String::from_utf8_lossy(&bytes), truncation)
        }
    }
}

/// Says which input an error is about, in the caller's terms.
fn at(index: usize, error: retort_models::Error) -> Error {
    match error {
        retort_models::Error::InputTooLong { tokens, limit } => Error::InputTooLong {
            index,
            tokens,
            limit,
        },
        other => Error::invalid("input", format!("input[{index}]: {other}")),
    }
}

/// The model's limit and the caller's wish, as one rule for the tokenizer.
///
/// # Errors
/// When the caller asks to keep no tokens, or refuses cutting and allows more than the model has.
pub fn truncation(wish: Truncate, model_max_tokens: usize) -> Result<Truncation> {
    match wish.max_tokens {
        Some(0) => Err(Error::invalid(
            "truncate_prompt_tokens",
            "`truncate_prompt_tokens` is 0; it must be at least 1, or -1 for the model's maximum",
        )),
        Some(wanted) => Ok(Truncation {
            max_tokens: wanted.min(model_max_tokens),
            side: wish.side,
        }),
        None => Ok(Truncation {
            max_tokens: model_max_tokens,
            side: wish.side,
        }),
    }
}
