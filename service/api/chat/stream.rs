//! The answer to a chat, written while it comes: server-sent events as OpenAI has them.

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    answer::{FunctionBody, LogprobsBody, Naming, call_id, finish_reason},
    ask::Chatting,
    calls::Call,
    reader::{Delta, Reader},
};
use crate::{
    api::generation::{DONE, EVENT_STREAM, TokenUsage, Write, sse, sse_error},
    engine::request::{GenerateEvent, GenerateTimings, GenerateUsage, TokenLogprob},
    error::Error,
};

/// What of an answer's form depends on the request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Answering {
    /// Whether it is sent while it is written.
    pub streams: bool,
    /// Whether a stream ends with the token counts.
    pub tells_usage: bool,
    /// Whether calls have OpenAI's older form.
    pub older_calls: bool,
}

/// One event of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChunk<'a> {
    id: &'a str,
    /// Always `chat.completion.chunk`.
    object: &'static str,
    /// Seconds since the Unix epoch.
    created: u64,
    /// The model as the caller named it.
    model: &'a str,
    /// One; none in the chunk that has the token counts.
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<TokenUsage>,
}

/// What is new in one of the answers.
#[derive(Debug, Serialize, ToSchema)]
struct ChunkChoice {
    index: usize,
    delta: DeltaBody,
    logprobs: Option<LogprobsBody>,
    /// In the last chunk of the answer.
    finish_reason: Option<&'static str>,
}

/// What is new.
#[derive(Debug, Default, Serialize, ToSchema)]
struct DeltaBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallDelta; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<FunctionBody>,
}

/// A part of a call: first its name, then its arguments.
#[derive(Debug, Serialize, ToSchema)]
struct CallDelta {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: FunctionDelta,
}

#[derive(Debug, Serialize, ToSchema)]
struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

/// Writes the events.
pub struct ChunkWriter {
    naming: Naming,
    answering: Answering,
    choices: Vec<Progress>,
}

/// How far one answer has come.
struct Progress {
    reader: Reader,
    calls: usize,
    /// Of tokens whose text is held back.
    logprobs: Vec<TokenLogprob>,
}

impl ChunkWriter {
    /// For the answers of a chat.
    pub fn new(naming: Naming, chatting: &Chatting, answering: Answering) -> Self {
        let progress = || Progress {
            reader: Reader::new(&chatting.reading),
            calls: 0,
            logprobs: Vec::new(),
        };
        Self {
            naming,
            answering,
            choices: (0..chatting.choices).map(|_| progress()).collect(),
        }
    }

    fn chunk(&self, choice: Option<ChunkChoice>, usage: Option<TokenUsage>, out: &mut Vec<u8>) {
        let chunk = ChatChunk {
            id: &self.naming.id,
            object: "chat.completion.chunk",
            created: self.naming.created,
            model: &self.naming.model,
            choices: choice.into_iter().collect(),
            usage,
        };
        sse(&chunk, out);
    }

    /// What is new in an answer, in as many chunks as it takes.
    fn delta(&mut self, index: usize, delta: Delta, out: &mut Vec<u8>) {
        let Some(progress) = self.choices.get_mut(index) else {
            return;
        };
        let mut bodies = Vec::new();
        let given = |text: String| (!text.is_empty()).then_some(text);
        if !(delta.reasoning.is_empty() && delta.content.is_empty()) {
            bodies.push(DeltaBody {
                content: given(delta.content),
                reasoning_content: given(delta.reasoning),
                ..DeltaBody::default()
            });
        }
        for call in delta.calls {
            if !self.answering.older_calls {
                bodies.extend(call_deltas(call, progress.calls));
            } else if progress.calls == 0 {
                // Who knows only the older form knows of one call.
                bodies.push(DeltaBody {
                    function_call: Some(call.into()),
                    ..DeltaBody::default()
                });
            }
            progress.calls += 1;
        }
        for body in bodies {
            let logprobs = self.take_logprobs(index);
            let choice = ChunkChoice {
                index,
                delta: body,
                logprobs,
                finish_reason: None,
            };
            self.chunk(Some(choice), None, out);
        }
    }

    fn take_logprobs(&mut self, index: usize) -> Option<LogprobsBody> {
        let held = std::mem::take(&mut self.choices[index].logprobs);
        (!held.is_empty()).then(|| held.as_slice().into())
    }
}

/// The name with the id, then the arguments.
fn call_deltas(call: Call, index: usize) -> [DeltaBody; 2] {
    let body = |call| DeltaBody {
        tool_calls: Some([call]),
        ..DeltaBody::default()
    };
    let name = CallDelta {
        index,
        id: Some(call_id()),
        r#type: Some("function"),
        function: FunctionDelta {
            name: Some(call.name),
            arguments: String::new(),
        },
    };
    let arguments = CallDelta {
        index,
        id: None,
        r#type: None,
        function: FunctionDelta {
            name: None,
            arguments: call.arguments,
        },
    };
    [body(name), body(arguments)]
}

impl Write for ChunkWriter {
    const CONTENT_TYPE: &'static str = EVENT_STREAM;

    fn begin(&mut self, out: &mut Vec<u8>) {
        for index in 0..self.choices.len() {
            let delta = DeltaBody {
                role: Some("assistant"),
                content: Some(String::new()),
                ..DeltaBody::default()
            };
            let choice = ChunkChoice {
                index,
                delta,
                logprobs: None,
                finish_reason: None,
            };
            self.chunk(Some(choice), None, out);
        }
    }

    fn event(&mut self, event: GenerateEvent, out: &mut Vec<u8>) {
        let index = event.choice;
        let Some(progress) = self.choices.get_mut(index) else {
            return;
        };
        progress.logprobs.extend(event.logprobs);
        let delta = progress.reader.push(&event.text);
        self.delta(index, delta, out);
        let Some(finished) = event.finish else {
            return;
        };
        let rest = self.choices[index].reader.finish();
        self.delta(index, rest, out);
        let calls = self.choices[index].calls;
        let choice = ChunkChoice {
            index,
            delta: DeltaBody::default(),
            logprobs: self.take_logprobs(index),
            finish_reason: Some(finish_reason(finished.reason, calls, self.answering)),
        };
        self.chunk(Some(choice), None, out);
    }

    fn end(&mut self, usage: GenerateUsage, _: GenerateTimings, out: &mut Vec<u8>) {
        if self.answering.tells_usage {
            self.chunk(None, Some(usage.into()), out);
        }
        out.extend_from_slice(DONE);
    }

    fn broken(&mut self, error: &Error, out: &mut Vec<u8>) {
        sse_error(error, out);
    }
}
