//! The body of a chat, as typed.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::{
    ToSchema,
    openapi::{
        RefOr,
        schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type},
    },
};

use super::{
    ask::ChatAsk,
    constraint::{Format, FunctionChoice, ResponseFormat, ToolChoice},
    messages::Message,
    reader::Thoughts,
    stream::Answering,
};
use crate::{
    api::{
        addressed::Addressed,
        extract::WireBody,
        fields::WholeNumber,
        generation::{self, Ignored, Stop, StreamOptions, Wishes},
    },
    engine::{
        generate::template::{Ending, Value},
        request::{PromptField, Sampling},
    },
    error::{Error, Result},
};

/// The body of a chat. Unknown fields are ignored and `null` means not given, because every client
/// sends some of either.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `model` and `messages`")]
pub struct ChatBody {
    /// A served name, an alias or a hub id; without one, the first model that generates.
    model: Option<String>,
    /// `{"include_usage": true}` sends the token counts in a last chunk.
    #[schema(value_type = Option<Object>)]
    stream_options: Option<StreamOptions>,
    /// The conversation so far.
    messages: Vec<Message>,
    /// `true` sends the answer while it is written, as server-sent events.
    stream: Option<bool>,
    /// The most tokens of an answer; without, until it ends or the context is full.
    #[schema(value_type = Option<u64>)]
    max_tokens: Option<WholeNumber>,
    /// The newer name of `max_tokens`, which goes before it.
    #[schema(value_type = Option<u64>)]
    max_completion_tokens: Option<WholeNumber>,
    /// 0 to 2; 0 always takes the likeliest token. What is not given is as the model says.
    temperature: Option<f32>,
    /// Only the likeliest tokens that together have this probability.
    top_p: Option<f32>,
    /// Only so many of the likeliest tokens; 0 and -1 mean all.
    #[schema(value_type = Option<i64>)]
    top_k: Option<WholeNumber>,
    /// Only tokens of at least this part of the likeliest one's probability.
    min_p: Option<f32>,
    /// Against tokens that the answer has already; -2 to 2.
    presence_penalty: Option<f32>,
    /// Against tokens for each time that the answer has them; -2 to 2.
    frequency_penalty: Option<f32>,
    /// Divides the logits of tokens that are there already; 1 changes nothing.
    repetition_penalty: Option<f32>,
    /// The same seed gives the same text.
    #[schema(value_type = Option<i64>)]
    seed: Option<WholeNumber>,
    /// Texts that end an answer and are no part of it.
    #[schema(schema_with = stop_schema)]
    stop: Option<Stop>,
    /// How many answers.
    #[schema(value_type = Option<u64>)]
    n: Option<WholeNumber>,
    /// `true` tells the log probability of every token.
    logprobs: Option<bool>,
    /// How many of the likeliest tokens are told besides; 0 to 20.
    #[schema(value_type = Option<u64>)]
    top_logprobs: Option<WholeNumber>,
    /// Functions that the model may call.
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    /// `auto` (default), `none`, `required`, or `{"type": "function", "function": {"name": …}}`.
    #[schema(value_type = Option<Object>)]
    tool_choice: Option<ToolChoice>,
    /// The older form of `tools`.
    #[schema(value_type = Option<Vec<Object>>)]
    functions: Option<Vec<Value>>,
    /// The older form of `tool_choice`.
    #[schema(value_type = Option<Object>)]
    function_call: Option<FunctionChoice>,
    /// `{"type": "json_object"}` or `{"type": "json_schema", "json_schema": {"schema": …}}`.
    #[schema(value_type = Option<Object>)]
    response_format: Option<ResponseFormat>,
    /// Variables of the model's chat template: an object, or its JSON in a text.
    #[schema(value_type = Option<Object>)]
    chat_template_kwargs: Option<Value>,
    /// Whether a model that can think does.
    enable_thinking: Option<bool>,
    /// `none` leaves `<think>…</think>` in the content; else it is told apart.
    reasoning_format: Option<String>,
    /// For templates that know of it.
    reasoning_effort: Option<String>,
    /// `false` continues the last message (vLLM).
    add_generation_prompt: Option<bool>,
    /// `true` goes on beyond the end of the answer: for benchmarks.
    ignore_eos: Option<bool>,
    /// Not supported, and so not described.
    #[schema(ignore)]
    logit_bias: Option<Ignored>,
}

impl WireBody for ChatBody {
    const FIELDS: &'static [&'static str] = &[
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "seed",
        "stop",
        "n",
        "logprobs",
        "top_logprobs",
        "tools",
        "tool_choice",
        "functions",
        "function_call",
        "response_format",
        "chat_template_kwargs",
        "enable_thinking",
        "reasoning_format",
        "reasoning_effort",
        "add_generation_prompt",
        "ignore_eos",
        "logit_bias",
    ];
}

impl ChatBody {
    /// What of the answer's form depends on the request.
    pub fn answering(&self) -> Answering {
        Answering {
            streams: self.stream == Some(true),
            tells_usage: self.stream_options.and_then(|o| o.include_usage) == Some(true),
            older_calls: self.tools.is_none() && self.functions.is_some(),
        }
    }

    /// What is asked, without its wire form.
    ///
    /// # Errors
    /// When a field has a value that it cannot have.
    pub fn into_ask(mut self, addressed: Addressed) -> Result<ChatAsk> {
        if self.messages.is_empty() {
            return Err(Error::Empty("messages"));
        }
        let variables = self.variables()?;
        let functions = self.functions.take().map(|list| {
            let wrap = |function| {
                let kind = (Value::from("type"), Value::from("function"));
                Value::from_pairs([kind, (Value::from("function"), function)])
            };
            list.into_iter().map(wrap).collect()
        });
        let older_choice = self.function_call.take().map(FunctionChoice::into_choice);
        let thoughts = match self.reasoning_format.as_deref() {
            Some("none") => Thoughts::InText,
            _ => Thoughts::Apart,
        };
        let ending = match self.add_generation_prompt {
            Some(false) => Ending::Message,
            Some(true) | None => Ending::Answer,
        };
        Ok(ChatAsk {
            model: addressed.or(self.model.take())?,
            messages: std::mem::take(&mut self.messages),
            field: PromptField::Messages,
            tools: self.tools.take().or(functions).unwrap_or_default(),
            tool_choice: self.tool_choice.take().or(older_choice).unwrap_or_default(),
            format: self
                .response_format
                .take()
                .map_or(Ok(Format::Text), ResponseFormat::format)?,
            thinking: self.enable_thinking,
            logprobs: self.logprobs()?,
            variables,
            thoughts,
            ending,
            wishes: self.wishes()?,
        })
    }

    /// Variables for the template.
    fn variables(&mut self) -> Result<BTreeMap<String, Value>> {
        let wrong = || {
            Error::invalid(
                "chat_template_kwargs",
                "`chat_template_kwargs` is no object; send one, or its JSON in a text",
            )
        };
        let mut variables = BTreeMap::new();
        let given = self
            .chat_template_kwargs
            .take()
            .filter(|value| !value.is_none());
        let given = match given.as_ref().and_then(Value::as_str) {
            Some(text) => Some(serde_json::from_str(text).map_err(|_| wrong())?),
            None => given,
        };
        if let Some(object) = given {
            for key in object.try_iter().map_err(|_| wrong())? {
                let value = object.get_item(&key).map_err(|_| wrong())?;
                if value.is_undefined() {
                    return Err(wrong());
                }
                variables.insert(key.to_string(), value);
            }
        }
        if let Some(effort) = self.reasoning_effort.take() {
            let name = "reasoning_effort".to_owned();
            variables.entry(name).or_insert_with(|| effort.into());
        }
        Ok(variables)
    }

    fn logprobs(&self) -> Result<Option<usize>> {
        if self.logprobs != Some(true) {
            return Ok(None);
        }
        let top = self.top_logprobs.unwrap_or(WholeNumber(0));
        top.at_least(0, "top_logprobs").map(Some)
    }

    fn wishes(self) -> Result<Wishes> {
        Ok(Wishes {
            sampling: Sampling {
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: generation::top_k(self.top_k)?,
                min_p: self.min_p,
                presence_penalty: self.presence_penalty,
                frequency_penalty: self.frequency_penalty,
                repetition_penalty: self.repetition_penalty,
                seed: generation::seed(self.seed),
            },
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            n: self.n,
            stop: self.stop,
            ignore_eos: self.ignore_eos,
            logit_bias: self.logit_bias,
        })
    }
}

/// The description of `stop`.
pub fn stop_schema() -> RefOr<Schema> {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let either = OneOfBuilder::new()
        .item(text())
        .item(ArrayBuilder::new().items(text()))
        .item(ObjectBuilder::new().schema_type(Type::Null));
    Schema::OneOf(either.build()).into()
}
