//! What the answers of several dialects share: the account of tokens, the headers, the stamps.

use std::time::{Duration, Instant};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    engine::request::{Embedding, PairScore, Timings, Usage},
    error::{Error, Result},
    unix_time,
};

/// Answers with more numbers than this are written on a thread that may block.
const BIG_ANSWER_NUMBERS: usize = 64 << 10;

/// The header that asks for an account of each input.
const DETAILS_HEADER: &str = "x-retort-details";

/// Whether the account of each input is asked for: by the body, else by the header.
pub fn wants_details(body: Option<bool>, headers: &HeaderMap) -> bool {
    let header = headers
        .get(DETAILS_HEADER)
        .is_some_and(|value| value != "0");
    body.unwrap_or(header)
}

/// Tokens of the request, special tokens included.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageBody {
    /// Tokens that the model saw.
    prompt_tokens: usize,
    /// The same number: there are no others.
    total_tokens: usize,
    /// One per input or document, when asked for or when one was cut or read in chunks.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Vec<InputUsage>>,
}

/// What was done to one input or document.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct InputUsage {
    /// The place of the input within this request.
    index: usize,
    /// Tokens that the model saw, over all chunks.
    tokens: usize,
    /// Tokens that were cut because they did not fit.
    tokens_cut: usize,
    /// In how many chunks it was read.
    chunks: usize,
}

impl UsageBody {
    /// The account; each input is told when asked for or when there is something to tell.
    pub fn new(usage: Usage, asked: bool, inputs: impl Iterator<Item = InputUsage>) -> Self {
        let mut details: Vec<InputUsage> = inputs.collect();
        for (index, input) in details.iter_mut().enumerate() {
            input.index = index;
        }
        let noteworthy = |input: &InputUsage| input.tokens_cut > 0 || input.chunks > 1;
        let told = asked || details.iter().any(noteworthy);
        Self {
            prompt_tokens: usage.prompt_tokens,
            total_tokens: usage.prompt_tokens,
            details: told.then_some(details),
        }
    }
}

impl From<&Embedding> for InputUsage {
    fn from(embedding: &Embedding) -> Self {
        Self {
            index: 0,
            tokens: embedding.tokens,
            tokens_cut: embedding.tokens_cut,
            chunks: embedding.chunks,
        }
    }
}

impl From<&PairScore> for InputUsage {
    fn from(score: &PairScore) -> Self {
        Self {
            index: 0,
            tokens: score.tokens,
            tokens_cut: score.tokens_cut,
            chunks: score.chunks,
        }
    }
}

/// An id that is made up for one answer.
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::new_v4().simple())
}

/// Seconds since the Unix epoch.
pub fn now() -> u64 {
    unix_time::now().as_secs()
}

/// Writes an answer of so many numbers, off the async threads when they are many.
///
/// # Errors
/// When writing panics.
pub async fn written(
    numbers: usize,
    write: impl FnOnce() -> Vec<u8> + Send + 'static,
) -> Result<Vec<u8>> {
    if numbers <= BIG_ANSWER_NUMBERS {
        return Ok(write());
    }
    tokio::task::spawn_blocking(write)
        .await
        .map_err(|error| Error::Internal(format!("writing an answer: {error}")))
}

/// What the headers tell: the same names as text-embeddings-inference has, and what was cut.
#[derive(Debug, Clone, Copy)]
pub struct Headers {
    timings: Timings,
    usage: Usage,
    started: Instant,
}

impl Headers {
    /// For work whose request arrived at `started`.
    pub fn new(usage: Usage, timings: Timings, started: Instant) -> Self {
        Self {
            timings,
            usage,
            started,
        }
    }

    /// The response with this JSON.
    pub fn respond(self, body: Vec<u8>) -> Response {
        let mut response = Body::from(body).into_response();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        let total = self.started.elapsed();
        let timings: [(&'static str, Duration); 5] = [
            ("x-compute-time", total),
            ("x-total-time", total),
            ("x-tokenization-time", self.timings.tokenize),
            ("x-queue-time", self.timings.queue),
            ("x-inference-time", self.timings.inference),
        ];
        for (name, took) in timings {
            let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            headers.insert(HeaderName::from_static(name), millis.into());
        }
        let Usage {
            prompt_tokens,
            cut_inputs,
            cut_tokens,
        } = self.usage;
        let tokens = HeaderName::from_static("x-compute-tokens");
        headers.insert(tokens, prompt_tokens.into());
        let truncated = (cut_inputs > 0).then(|| format!("{cut_inputs}; tokens_cut={cut_tokens}"));
        if let Some(Ok(value)) = truncated.map(HeaderValue::try_from) {
            headers.insert(HeaderName::from_static("x-retort-truncated"), value);
        }
        response
    }

    /// The response with this body as JSON.
    pub fn respond_json(self, body: &impl Serialize) -> Response {
        self.respond(serde_json::to_vec(body).expect("numbers and strings always serialise"))
    }
}
