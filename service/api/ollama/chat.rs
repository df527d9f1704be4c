//! Ollama's `/api/chat` and `/api/generate`: JSON objects on lines of their own while the answer is
//! written, or one object for all of it.

mod lines;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::header;
use retort_models::SpecialTokens;
use serde::{Deserialize, de::IgnoredAny};
use utoipa::ToSchema;

pub use self::lines::OllamaAnswer;
use self::lines::{Form, LineWriter};
use super::keep_alive::Wish;
use crate::{
    api::{
        AppState,
        chat::{self, ChatAsk, Chatting, Format, Message, Reading, Role, Thoughts},
        extract::{JsonBody, WireBody},
        fields::{self, WholeNumber},
        generation::{self, Stop, Streams, Wishes},
        observe::RequestLog,
    },
    engine::{
        Engine,
        generate::{reasoning::Begins, template::Value},
        request::{
            GenerateRequest, ModelInfo, Origin, PromptField, PromptInput, PromptPiece, Sampling,
            Task,
        },
    },
    error::{Error, Result},
    keep_alive::KeepAlive,
};

/// The body of `/api/chat`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `model` and `messages`")]
pub struct OllamaChatBody {
    /// A served name, with or without `:latest`; without one, the first model that generates.
    model: Option<String>,
    /// The conversation so far; none loads the model, or unloads it with `keep_alive` 0.
    messages: Option<Vec<Message>>,
    /// `false` sends one object for all of the answer.
    stream: Option<bool>,
    options: Option<OllamaOptions>,
    /// `json`, or a JSON schema.
    #[schema(value_type = Option<Object>)]
    format: Option<Value>,
    /// Functions that the model may call.
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    /// How long the model stays in memory after this: seconds, or a duration such as `5m`;
    /// negative for ever.
    #[schema(value_type = Option<String>)]
    keep_alive: Option<Wish>,
    /// Whether a model that can think does: `true`, `false`, or how much.
    #[schema(value_type = Option<bool>)]
    think: Option<Value>,
}

impl WireBody for OllamaChatBody {
    const FIELDS: &'static [&'static str] = &[
        "model",
        "messages",
        "stream",
        "options",
        "format",
        "tools",
        "keep_alive",
        "think",
    ];
}

/// The body of `/api/generate`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `model` and `prompt`")]
pub struct OllamaGenerateBody {
    /// A served name, with or without `:latest`; without one, the first model that generates.
    model: Option<String>,
    /// What is asked; nothing loads the model, or unloads it with `keep_alive` 0.
    prompt: Option<String>,
    /// What the model is told before.
    system: Option<String>,
    /// `true` goes on with the prompt as it is, without the model's template.
    raw: Option<bool>,
    /// Not supported, and so not described.
    #[schema(ignore)]
    suffix: Option<String>,
    /// Not supported, and so not described.
    #[schema(ignore)]
    images: Option<Vec<IgnoredAny>>,
    /// `false` sends one object for all of the answer.
    stream: Option<bool>,
    options: Option<OllamaOptions>,
    /// `json`, or a JSON schema.
    #[schema(value_type = Option<Object>)]
    format: Option<Value>,
    /// How long the model stays in memory after this: seconds, or a duration such as `5m`;
    /// negative for ever.
    #[schema(value_type = Option<String>)]
    keep_alive: Option<Wish>,
    /// Whether a model that can think does: `true`, `false`, or how much.
    #[schema(value_type = Option<bool>)]
    think: Option<Value>,
}

impl WireBody for OllamaGenerateBody {
    const FIELDS: &'static [&'static str] = &[
        "model",
        "prompt",
        "system",
        "raw",
        "suffix",
        "images",
        "stream",
        "options",
        "format",
        "keep_alive",
        "think",
    ];
}

impl OllamaGenerateBody {
    /// Refuses what an answer would otherwise leave out in silence.
    fn refuse_unsupported(&self) -> Result<()> {
        if self.suffix.as_ref().is_some_and(|text| !text.is_empty()) {
            return Err(Error::invalid(
                "suffix",
                "`suffix` is not supported: no model here fills in between two texts; leave it out",
            ));
        }
        match self.images.as_ref().map_or(0, Vec::len) {
            0 => Ok(()),
            count => Err(Error::invalid(
                "images",
                format!(
                    "`images` has {count} of them, and no model here sees pictures; leave it out"
                ),
            )),
        }
    }
}

/// How tokens are chosen. What is about the machine, such as `num_ctx`, is ignored.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "an object of options")]
pub struct OllamaOptions {
    /// The most tokens of an answer; below 1, as many as there is room for.
    #[schema(value_type = Option<i64>)]
    num_predict: Option<WholeNumber>,
    /// 0 to 2; 0 always takes the likeliest token.
    temperature: Option<f32>,
    /// Only the likeliest tokens that together have this probability.
    top_p: Option<f32>,
    /// Only so many of the likeliest tokens.
    #[schema(value_type = Option<i64>)]
    top_k: Option<WholeNumber>,
    /// Only tokens of at least this part of the likeliest one's probability.
    min_p: Option<f32>,
    /// The same seed gives the same text.
    #[schema(value_type = Option<i64>)]
    seed: Option<WholeNumber>,
    /// Texts that end an answer and are no part of it.
    #[schema(schema_with = chat::stop_schema)]
    stop: Option<Stop>,
    /// Divides the logits of tokens that are there already; 1 changes nothing.
    repeat_penalty: Option<f32>,
    /// Against tokens that the answer has already; -2 to 2.
    presence_penalty: Option<f32>,
    /// Against tokens for each time that the answer has them; -2 to 2.
    frequency_penalty: Option<f32>,
}

impl OllamaOptions {
    fn wishes(self) -> Result<Wishes> {
        Ok(Wishes {
            sampling: Sampling {
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: generation::top_k(self.top_k)?,
                min_p: self.min_p,
                presence_penalty: self.presence_penalty,
                frequency_penalty: self.frequency_penalty,
                repetition_penalty: self.repeat_penalty,
                seed: generation::seed(self.seed),
            },
            max_tokens: self.num_predict.filter(|number| number.0 > 0),
            stop: self.stop,
            ..Wishes::default()
        })
    }
}

/// `POST /api/chat`.
pub async fn chat(
    State(state): State<AppState>,
    log: RequestLog,
    JsonBody(body): JsonBody<OllamaChatBody>,
) -> Result<Response> {
    let model = fields::named_model(body.model)?;
    let messages = body.messages.unwrap_or_default();
    let work = Work {
        state: &state,
        log: &log,
        named: model.clone(),
        form: Form::Chat,
        streams: body.stream != Some(false),
    };
    log.asked(messages.len());
    work.keep_alive(body.keep_alive)?;
    if messages.is_empty() {
        return work.load(body.keep_alive).await;
    }
    let (thinking, variables) = thinking(body.think);
    let ask = ChatAsk {
        model,
        messages,
        field: PromptField::Messages,
        tools: body.tools.unwrap_or_default(),
        format: format(body.format),
        thinking,
        variables,
        wishes: body.options.unwrap_or_default().wishes()?,
        ..ChatAsk::default()
    };
    work.answer(ask.start(&state.engine_for(&log)).await?).await
}

/// `POST /api/generate`.
pub async fn generate(
    State(state): State<AppState>,
    log: RequestLog,
    JsonBody(body): JsonBody<OllamaGenerateBody>,
) -> Result<Response> {
    body.refuse_unsupported()?;
    let model = fields::named_model(body.model)?;
    let prompt = body.prompt.unwrap_or_default();
    let work = Work {
        state: &state,
        log: &log,
        named: model.clone(),
        form: Form::Generate,
        streams: body.stream != Some(false),
    };
    log.asked(usize::from(!prompt.is_empty()));
    work.keep_alive(body.keep_alive)?;
    if prompt.is_empty() {
        return work.load(body.keep_alive).await;
    }
    let wishes = body.options.unwrap_or_default().wishes()?;
    if body.raw == Some(true) {
        return work
            .answer(raw(&state.engine_for(&log), model, prompt, wishes).await?)
            .await;
    }
    let system = body.system.filter(|text| !text.is_empty());
    let system = system.map(|text| Message::text(Role::System, text));
    let (thinking, variables) = thinking(body.think);
    let ask = ChatAsk {
        model,
        messages: system
            .into_iter()
            .chain([Message::text(Role::User, prompt)])
            .collect(),
        format: format(body.format),
        thinking,
        variables,
        wishes,
        ..ChatAsk::default()
    };
    work.answer(ask.start(&state.engine_for(&log)).await?).await
}

/// Goes on with a prompt as it is.
async fn raw(
    engine: &Engine,
    model: Option<String>,
    prompt: String,
    wishes: Wishes,
) -> Result<Chatting> {
    let mut request = GenerateRequest::new(PromptInput::Text {
        pieces: vec![PromptPiece {
            text: prompt,
            origin: Origin::Template,
        }],
        special_tokens: SpecialTokens::Keep,
    });
    wishes.apply(&mut request)?;
    let generator = engine.generator(model.as_deref()).await?;
    if let Ok(template) = generator.template() {
        request.special_tokens = template.tags();
    }
    Ok(Chatting {
        model: generator.name().to_owned(),
        stream: generator.generate(request).await?,
        reading: Reading {
            thoughts: Thoughts::InText,
            begins: Begins::Freely,
            calls: None,
            names: BTreeSet::new(),
        },
        choices: 1,
    })
}

/// `json` or a schema.
fn format(format: Option<Value>) -> Format {
    match format.filter(|format| !format.is_none()) {
        None => Format::Text,
        Some(format) => match format.as_str() {
            Some("json") => Format::JsonObject,
            Some(_) => Format::Text,
            None => Format::JsonSchema(format),
        },
    }
}

/// Whether to think, and how much where the template knows of that.
fn thinking(think: Option<Value>) -> (Option<bool>, BTreeMap<String, Value>) {
    let Some(think) = think.filter(|think| !think.is_none()) else {
        return (None, [].into());
    };
    match think.as_str() {
        Some(effort) => {
            let effort = ("reasoning_effort".to_owned(), Value::from(effort));
            (Some(true), [effort].into())
        }
        None => (Some(think.is_true()), [].into()),
    }
}

/// One request, and how it is answered.
struct Work<'a> {
    state: &'a AppState,
    log: &'a RequestLog,
    /// The model as the caller names it.
    named: Option<String>,
    form: Form,
    streams: bool,
}

impl Work<'_> {
    /// The model that is meant, if it is one that generates.
    fn model(&self) -> Result<ModelInfo> {
        let engine = &self.state.engine;
        let info = engine.choose(self.named.as_deref(), Task::Generate)?;
        info.check(Task::Generate)?;
        Ok(info)
    }

    fn keep_alive(&self, wish: Option<Wish>) -> Result<()> {
        self.state.announce(self.log, self.named.as_deref());
        if let Some(Wish(keep_alive)) = wish {
            let model = self.model()?;
            self.state.fleet.keep_alive(&model.name, keep_alive)?;
        }
        Ok(())
    }

    /// Nothing to answer: Ollama's way to have a model loaded, or unloaded with a wish of zero.
    async fn load(self, wish: Option<Wish>) -> Result<Response> {
        let model = self.model()?.name;
        let unloads = wish == Some(Wish(KeepAlive::For(Duration::ZERO)));
        if !unloads {
            self.state.engine.wake(&model, Task::Generate).await?;
        }
        let reason = if unloads { "unload" } else { "load" };
        let mut out = Vec::new();
        let model = self.named.unwrap_or(model);
        OllamaAnswer::nothing(&model, self.form, reason).write(&mut out);
        Ok(([(header::CONTENT_TYPE, "application/json")], out).into_response())
    }

    async fn answer(self, chatting: Chatting) -> Result<Response> {
        chat::account(self.log, &chatting);
        let model = self.named.unwrap_or_else(|| chatting.model.clone());
        let writer = LineWriter::new(model, self.form, &chatting.reading, self.log.started());
        let streams = Streams::one(chatting.stream, self.log);
        if self.streams {
            return Ok(generation::stream(streams, writer));
        }
        let generated = streams.collect().await?;
        let mut out = Vec::new();
        writer.whole(&generated, &chatting.reading, &mut out);
        Ok(([(header::CONTENT_TYPE, "application/json")], out).into_response())
    }
}
