//! The answer to a chat, written when all of it is there.

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    calls::Call,
    reader::{Delta, Reader, Reading},
    stream::Answering,
};
use crate::{
    api::{
        answer::{new_id, now},
        generation::TokenUsage,
    },
    engine::request::{FinishReason, Generated, TokenLogprob, TokenScore},
};

/// What every part of an answer begins with.
#[derive(Debug, Clone)]
pub struct Naming {
    /// The id of the answer.
    pub id: String,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// The model as the caller named it.
    pub model: String,
}

impl Naming {
    /// A new id with this prefix, now.
    pub fn new(prefix: &str, model: String) -> Self {
        Self {
            id: new_id(prefix),
            created: now(),
            model,
        }
    }
}

/// The answer to a chat.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatAnswer {
    id: String,
    /// Always `chat.completion`.
    object: &'static str,
    /// Seconds since the Unix epoch.
    created: u64,
    /// The model as the caller named it.
    model: String,
    choices: Vec<ChatChoice>,
    usage: TokenUsage,
}

/// One of the answers.
#[derive(Debug, Serialize, ToSchema)]
struct ChatChoice {
    index: usize,
    message: ChatMessage,
    logprobs: Option<LogprobsBody>,
    /// `stop`, `length`, `tool_calls` or `function_call`.
    finish_reason: &'static str,
}

/// What the model says.
#[derive(Debug, Serialize, ToSchema)]
struct ChatMessage {
    /// Always `assistant`.
    role: &'static str,
    /// Null where there is nothing but calls.
    content: Option<String>,
    /// What it thought before.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallBody>,
    /// The call, for those who gave `functions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<FunctionBody>,
}

/// A call of a function.
#[derive(Debug, Serialize, ToSchema)]
struct CallBody {
    id: String,
    /// Always `function`.
    r#type: &'static str,
    function: FunctionBody,
}

/// A function and what it is called with.
#[derive(Debug, Serialize, ToSchema)]
pub struct FunctionBody {
    name: String,
    /// JSON of an object.
    arguments: String,
}

impl From<Call> for FunctionBody {
    fn from(call: Call) -> Self {
        Self {
            name: call.name,
            arguments: call.arguments,
        }
    }
}

/// Log probabilities of all tokens of an answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LogprobsBody {
    content: Vec<TokenBody>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
struct TokenBody {
    #[serde(flatten)]
    score: ScoreBody,
    /// The likeliest tokens.
    top_logprobs: Vec<ScoreBody>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
struct ScoreBody {
    /// What the token writes.
    token: String,
    /// Natural logarithm of its probability.
    logprob: f32,
    /// The bytes that it writes.
    bytes: Vec<u8>,
}

impl From<&TokenScore> for ScoreBody {
    fn from(score: &TokenScore) -> Self {
        Self {
            token: score.text.clone(),
            // JSON has no infinity; a token that could not come is as unlikely as any number says.
            logprob: score.logprob.max(f32::MIN),
            bytes: score.bytes.clone(),
        }
    }
}

impl From<&[TokenLogprob]> for LogprobsBody {
    fn from(logprobs: &[TokenLogprob]) -> Self {
        let content = logprobs.iter().map(|logprob| TokenBody {
            score: (&logprob.token).into(),
            top_logprobs: logprob.top.iter().map(Into::into).collect(),
        });
        Self {
            content: content.collect(),
        }
    }
}

/// An id for a call, as long as OpenAI's.
pub fn call_id() -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("call_{}", &id[..24])
}

/// How an answer ended, told by what it was.
pub fn finish_reason(reason: FinishReason, calls: usize, answering: Answering) -> &'static str {
    match reason {
        FinishReason::Stop if calls > 0 && answering.older_calls => "function_call",
        FinishReason::Stop if calls > 0 => "tool_calls",
        FinishReason::Stop | FinishReason::Length => reason.name(),
    }
}

impl ChatAnswer {
    /// The answer.
    pub fn new(
        generated: &Generated,
        naming: Naming,
        reading: &Reading,
        answering: Answering,
    ) -> Self {
        let choices = generated.choices.iter().enumerate();
        let choices = choices.map(|(index, choice)| {
            let delta = Reader::read(reading, &choice.text);
            let calls = delta.calls.len();
            let told = !choice.logprobs.is_empty();
            ChatChoice {
                index,
                finish_reason: finish_reason(choice.finish.reason, calls, answering),
                message: ChatMessage::new(delta, answering),
                logprobs: told.then(|| choice.logprobs.as_slice().into()),
            }
        });
        Self {
            id: naming.id,
            object: "chat.completion",
            created: naming.created,
            model: naming.model,
            choices: choices.collect(),
            usage: generated.usage.into(),
        }
    }
}

impl ChatMessage {
    fn new(delta: Delta, answering: Answering) -> Self {
        let none = delta.content.is_empty() && !delta.calls.is_empty();
        let mut calls = delta.calls.into_iter();
        let function_call = answering.older_calls.then(|| calls.next()).flatten();
        let tool_calls = calls.map(|call| CallBody {
            id: call_id(),
            r#type: "function",
            function: call.into(),
        });
        Self {
            role: "assistant",
            content: (!none).then_some(delta.content),
            reasoning_content: Some(delta.reasoning).filter(|text| !text.is_empty()),
            function_call: function_call.map(Into::into),
            // Who knows only the older form knows of one call.
            tool_calls: if answering.older_calls {
                Vec::new()
            } else {
                tool_calls.collect()
            },
        }
    }
}
