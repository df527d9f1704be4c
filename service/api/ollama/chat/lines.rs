//! What Ollama's clients read of an answer: a line for each step, and totals on the last.

use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    api::{
        answer::now,
        chat::{Delta, Reader, Reading, calls::Call},
        errors::OLLAMA,
        generation::Write,
    },
    engine::{
        generate::template::Value,
        request::{FinishReason, GenerateEvent, GenerateTimings, GenerateUsage, Generated},
    },
    error::Error,
    unix_time::rfc3339,
};

/// The type of a stream of lines.
pub const NDJSON: &str = "application/x-ndjson";

/// Which of the two routes answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `/api/chat`.
    Chat,
    /// `/api/generate`.
    Generate,
}

/// A step of an answer, or all of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct OllamaAnswer<'a> {
    /// The model as the caller named it.
    model: &'a str,
    created_at: String,
    /// What is new (`/api/chat`).
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<OllamaMessage>,
    /// What is new (`/api/generate`).
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<String>,
    /// What the model thinks (`/api/generate`).
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<String>,
    /// Whether this is the last.
    done: bool,
    /// `stop`, `length`, `load` or `unload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    /// Always empty: send the messages again, their beginning is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Vec<u32>>,
    #[serde(flatten)]
    totals: OllamaTotals,
}

/// What the model says.
#[derive(Debug, Serialize, ToSchema)]
struct OllamaMessage {
    /// Always `assistant`.
    role: &'static str,
    content: String,
    /// What it thinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<OllamaCall>,
}

/// A call of a function.
#[derive(Debug, Serialize, ToSchema)]
struct OllamaCall {
    function: OllamaFunction,
}

#[derive(Debug, Serialize, ToSchema)]
struct OllamaFunction {
    name: String,
    /// An object, not its text.
    #[schema(value_type = Object)]
    arguments: Value,
}

impl From<Call> for OllamaCall {
    fn from(call: Call) -> Self {
        let none = || Value::from_pairs(Vec::<(Value, Value)>::new());
        let arguments = serde_json::from_str(&call.arguments).unwrap_or_else(|_| none());
        Self {
            function: OllamaFunction {
                name: call.name,
                arguments,
            },
        }
    }
}

/// Counts, and times in nanoseconds: on the last line only.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
struct OllamaTotals {
    /// From the head of the request to here.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_duration: Option<u64>,
    /// Always 0: what loading a sleeping model took is in the total.
    #[serde(skip_serializing_if = "Option::is_none")]
    load_duration: Option<u64>,
    /// Tokens of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_eval_count: Option<usize>,
    /// What they took.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_eval_duration: Option<u64>,
    /// Tokens of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    eval_count: Option<usize>,
    /// What they took.
    #[serde(skip_serializing_if = "Option::is_none")]
    eval_duration: Option<u64>,
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl<'a> OllamaAnswer<'a> {
    fn new(model: &'a str, form: Form, delta: Delta) -> Self {
        let thinking = Some(delta.reasoning).filter(|text| !text.is_empty());
        let mut line = Self {
            model,
            created_at: rfc3339(now()),
            message: None,
            response: None,
            thinking: None,
            done: false,
            done_reason: None,
            context: None,
            totals: OllamaTotals::default(),
        };
        match form {
            Form::Chat => {
                line.message = Some(OllamaMessage {
                    role: "assistant",
                    content: delta.content,
                    thinking,
                    tool_calls: delta.calls.into_iter().map(Into::into).collect(),
                });
            }
            Form::Generate => {
                line.response = Some(delta.content);
                line.thinking = thinking;
            }
        }
        line
    }

    /// The answer to nothing.
    pub fn nothing(model: &'a str, form: Form, reason: &'static str) -> Self {
        Self {
            done: true,
            done_reason: Some(reason),
            ..Self::new(model, form, Delta::default())
        }
    }

    /// As a line.
    pub fn write(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(&mut *out, self).expect("numbers and strings always serialise");
        out.push(b'\n');
    }
}

/// Writes the lines.
pub struct LineWriter {
    model: String,
    form: Form,
    reader: Reader,
    started: Instant,
    reason: FinishReason,
}

impl LineWriter {
    /// For an answer that is read like this.
    pub fn new(model: String, form: Form, reading: &Reading, started: Instant) -> Self {
        Self {
            model,
            form,
            reader: Reader::new(reading),
            started,
            reason: FinishReason::Stop,
        }
    }

    fn line(&self, delta: Delta, out: &mut Vec<u8>) {
        if delta != Delta::default() {
            OllamaAnswer::new(&self.model, self.form, delta).write(out);
        }
    }

    fn last(
        &self,
        delta: Delta,
        usage: GenerateUsage,
        timings: GenerateTimings,
    ) -> OllamaAnswer<'_> {
        OllamaAnswer {
            done: true,
            done_reason: Some(self.reason.name()),
            context: (self.form == Form::Generate).then(Vec::new),
            totals: OllamaTotals {
                total_duration: Some(nanoseconds(self.started.elapsed())),
                load_duration: Some(0),
                prompt_eval_count: Some(usage.prompt_tokens),
                prompt_eval_duration: Some(nanoseconds(timings.prefill)),
                eval_count: Some(usage.completion_tokens),
                eval_duration: Some(nanoseconds(timings.decode)),
            },
            ..OllamaAnswer::new(&self.model, self.form, delta)
        }
    }

    /// All of an answer as one object.
    pub fn whole(mut self, generated: &Generated, reading: &Reading, out: &mut Vec<u8>) {
        let Some(choice) = generated.choices.first() else {
            return;
        };
        self.reason = choice.finish.reason;
        let delta = Reader::read(reading, &choice.text);
        self.last(delta, generated.usage, generated.timings)
            .write(out);
    }
}

impl Write for LineWriter {
    const CONTENT_TYPE: &'static str = NDJSON;

    fn begin(&mut self, _: &mut Vec<u8>) {}

    fn event(&mut self, event: GenerateEvent, out: &mut Vec<u8>) {
        let delta = self.reader.push(&event.text);
        self.line(delta, out);
        if let Some(finished) = event.finish {
            self.reason = finished.reason;
            let rest = self.reader.finish();
            self.line(rest, out);
        }
    }

    fn end(&mut self, usage: GenerateUsage, timings: GenerateTimings, out: &mut Vec<u8>) {
        self.last(Delta::default(), usage, timings).write(out);
    }

    fn broken(&mut self, error: &Error, out: &mut Vec<u8>) {
        out.extend_from_slice(&(OLLAMA.render_error)(error));
        out.push(b'\n');
    }
}
