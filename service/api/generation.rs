//! What chats and completions have in common, whoever speaks: the fields that say how tokens are
//! chosen, and answers that go out while they are written.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use hyper::body::Frame;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::{fields::WholeNumber, observe::RequestLog};
use crate::{
    engine::{
        generate::GenerateStream,
        request::{
            EndOfText, GenerateEvent, GenerateRequest, GenerateTimings, GenerateUsage, Generated,
            Sampling,
        },
    },
    error::{Error, Result},
};

/// How tokens are chosen and when an answer ends, as a body gives it.
#[derive(Debug, Default)]
pub struct Wishes {
    /// Numbers as typed.
    pub sampling: Sampling,
    /// The most tokens of an answer.
    pub max_tokens: Option<WholeNumber>,
    /// How many answers.
    pub n: Option<WholeNumber>,
    /// Texts that end an answer.
    pub stop: Option<Stop>,
    /// `true` goes on beyond the end.
    pub ignore_eos: Option<bool>,
    /// Something that is not served here.
    pub logit_bias: Option<Ignored>,
}

impl Wishes {
    /// Puts them into a request.
    ///
    /// # Errors
    /// When a count is below one, or a feature is asked for that is not here.
    pub fn apply(self, request: &mut GenerateRequest) -> Result<()> {
        if self.logit_bias.is_some_and(|Ignored { empty }| !empty) {
            return Err(Error::NotImplemented(
                "`logit_bias` is not supported; leave it out".into(),
            ));
        }
        request.sampling = self.sampling;
        let at_least_one = |number: Option<WholeNumber>, field| {
            number.map(|number| number.at_least(1, field)).transpose()
        };
        request.max_tokens = at_least_one(self.max_tokens, "max_tokens")?;
        request.n = at_least_one(self.n, "n")?.unwrap_or(1);
        request.stop = self.stop.map(Stop::into_texts).unwrap_or_default();
        if self.ignore_eos == Some(true) {
            request.end_of_text = EndOfText::Ignored;
        }
        Ok(())
    }
}

/// `stop`: a text or a list of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub enum Stop {
    /// One.
    One(String),
    /// Some.
    Many(Vec<String>),
}

impl Stop {
    fn into_texts(self) -> Vec<String> {
        let texts = match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        };
        // Forms that people left open send empty ones.
        texts.into_iter().filter(|text| !text.is_empty()).collect()
    }
}

/// Any JSON, of which only matters whether there is something in it.
#[derive(Debug, Clone, Copy)]
pub struct Ignored {
    empty: bool,
}

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(json)?;
        Ok(Self {
            empty: match value {
                serde_json::Value::Object(fields) => fields.is_empty(),
                serde_json::Value::Null => true,
                _ => false,
            },
        })
    }
}

/// `stream_options`.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(expecting = "an object with `include_usage`")]
pub struct StreamOptions {
    /// `true` sends the token counts in a last chunk.
    pub include_usage: Option<bool>,
}

/// `seed` as clients write it: any whole number.
pub fn seed(seed: Option<WholeNumber>) -> Option<u64> {
    // Which number a negative one becomes does not matter, as long as it is always the same.
    seed.map(|WholeNumber(number)| number.cast_unsigned())
}

/// `top_k` as clients write it: -1 and 0 mean all.
///
/// # Errors
/// Below -1.
pub fn top_k(top_k: Option<WholeNumber>) -> Result<Option<usize>> {
    match top_k {
        Some(WholeNumber(-1)) => Ok(Some(0)),
        Some(number) => number.at_least(0, "top_k").map(Some),
        None => Ok(None),
    }
}

/// Token counts.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct TokenUsage {
    /// Tokens of the prompt.
    prompt_tokens: usize,
    /// Tokens of all answers.
    completion_tokens: usize,
    /// Both.
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
}

/// More about the prompt.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
struct PromptDetails {
    /// Tokens whose work was done before, for another request that began alike.
    cached_tokens: usize,
}

impl From<GenerateUsage> for TokenUsage {
    fn from(usage: GenerateUsage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details: PromptDetails {
                cached_tokens: usage.cached_tokens,
            },
        }
    }
}

/// How one dialect writes an answer while it comes.
pub trait Write: Send + Unpin + 'static {
    /// The type of the whole.
    const CONTENT_TYPE: &'static str;

    /// What goes before everything.
    fn begin(&mut self, out: &mut Vec<u8>);

    /// What an event of the engine adds; often nothing.
    fn event(&mut self, event: GenerateEvent, out: &mut Vec<u8>);

    /// What comes last, when all has gone well.
    fn end(&mut self, usage: GenerateUsage, timings: GenerateTimings, out: &mut Vec<u8>);

    /// What comes last, when it has not.
    fn broken(&mut self, error: &Error, out: &mut Vec<u8>);
}

/// The answers to several prompts as one stream; those of the second go on counting where those of
/// the first end.
///
/// When it is dropped, at the end or because the client has left, the log is told how many tokens
/// were written.
pub struct Streams {
    streams: Vec<(GenerateStream, Ended)>,
    answers_each: usize,
    log: RequestLog,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    No,
    Yes,
}

impl Streams {
    /// The answers to one prompt.
    pub fn one(stream: GenerateStream, log: &RequestLog) -> Self {
        Self::new(vec![stream], 0, log)
    }

    /// All of them, with so many answers to each prompt.
    pub fn new(streams: Vec<GenerateStream>, answers_each: usize, log: &RequestLog) -> Self {
        let streams = streams.into_iter().map(|stream| (stream, Ended::No));
        Self {
            streams: streams.collect(),
            answers_each,
            log: log.clone(),
        }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<GenerateEvent>>> {
        let mut all_ended = true;
        for (index, (stream, ended)) in self.streams.iter_mut().enumerate() {
            if *ended == Ended::Yes {
                continue;
            }
            match stream.poll_next(context) {
                Poll::Pending => all_ended = false,
                Poll::Ready(None) => *ended = Ended::Yes,
                Poll::Ready(Some(event)) => {
                    let event = event.map(|mut event| {
                        event.choice += index * self.answers_each;
                        event
                    });
                    return Poll::Ready(Some(event));
                }
            }
        }
        if all_ended {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }

    /// All answers, once they are all there.
    ///
    /// # Errors
    /// Why one of them is not.
    pub async fn collect(mut self) -> Result<Generated> {
        let mut all = Generated {
            choices: Vec::new(),
            usage: GenerateUsage::default(),
            timings: self.timings(),
        };
        for (stream, _) in &mut self.streams {
            let one = stream.gather().await?;
            all.choices.extend(one.choices);
            add_usage(&mut all.usage, one.usage);
        }
        Ok(all)
    }

    fn usage(&self) -> GenerateUsage {
        let mut all = GenerateUsage::default();
        for (stream, _) in &self.streams {
            add_usage(&mut all, stream.usage());
        }
        all
    }

    fn timings(&self) -> GenerateTimings {
        let first = self.streams.first();
        first.map_or_else(GenerateTimings::default, |(stream, _)| stream.timings())
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.log.wrote(self.usage().completion_tokens);
    }
}

/// Adds the counts of one prompt to those of others.
fn add_usage(all: &mut GenerateUsage, one: GenerateUsage) {
    all.prompt_tokens += one.prompt_tokens;
    all.cached_tokens += one.cached_tokens;
    all.completion_tokens += one.completion_tokens;
}

/// The response whose body is written as the answers come. A client who hangs up drops the body,
/// and with it the work.
pub fn stream<W: Write>(streams: Streams, writer: W) -> Response {
    let body = Streamed {
        stream: streams,
        writer,
        stage: Stage::Begin,
    };
    let mut response = Body::new(body).into_response();
    let headers = response.headers_mut();
    let fixed = HeaderValue::from_static;
    headers.insert(header::CONTENT_TYPE, fixed(W::CONTENT_TYPE));
    headers.insert(header::CACHE_CONTROL, fixed("no-cache"));
    send_at_once(headers);
    response
}

/// Asks nginx not to collect the pieces of an answer.
pub fn send_at_once(headers: &mut HeaderMap) {
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
}

struct Streamed<W> {
    stream: Streams,
    writer: W,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begin,
    Middle,
    End,
}

impl<W: Write> hyper::body::Body for Streamed<W> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let mut out = Vec::new();
        if this.stage == Stage::Begin {
            this.writer.begin(&mut out);
            this.stage = Stage::Middle;
        }
        // What is there already goes out together.
        while this.stage == Stage::Middle {
            match this.stream.poll_next(context) {
                Poll::Pending if out.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Some(Ok(event))) => this.writer.event(event, &mut out),
                Poll::Ready(Some(Err(error))) => {
                    this.writer.broken(&error, &mut out);
                    this.stage = Stage::End;
                }
                Poll::Ready(None) => {
                    let (usage, timings) = (this.stream.usage(), this.stream.timings());
                    this.writer.end(usage, timings, &mut out);
                    this.stage = Stage::End;
                }
            }
        }
        if out.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(out.into()))))
    }
}

/// Writes one server-sent event: `data: `, JSON, and two line feeds, because some clients split the
/// bytes there and take everything between for JSON.
pub fn sse(event: &impl Serialize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut *out, event).expect("numbers and strings always serialise");
    out.extend_from_slice(b"\n\n");
}

/// The type of a stream of such events.
pub const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

/// The event that ends it.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// The event of an error after the first token.
pub fn sse_error(error: &Error, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(&(super::errors::OPENAI.render_error)(error));
    out.extend_from_slice(b"\n\n");
}
