//! `POST /v1/completions`: a text to be gone on with, as OpenAI's older interface has it. What the
//! fields mean: §2.4 of the API contract.

mod answer;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::header;
use retort_models::{SpecialTokens, Tokenizer};
use serde::Deserialize;
use utoipa::ToSchema;

pub use self::answer::CompletionAnswer;
use self::answer::{CompletionWriter, Form};
use super::{
    AppState,
    addressed::Addressed,
    extract::{RawBody, WireBody},
    fields::WholeNumber,
    generation::{self, Ignored, Stop, StreamOptions, Streams, Wishes},
    observe::RequestLog,
    openai::{Input, Item, input_schema},
};
use crate::{
    engine::{
        generate::GenerateStream,
        request::{GenerateRequest, Origin, PromptInput, PromptPiece, Sampling, Timings, Usage},
    },
    error::{Error, Result},
};

/// The body of a request. Unknown fields are ignored and `null` means not given.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `model` and `prompt`")]
pub struct CompletionBody {
    /// A served name, an alias or a hub id; without one, the first model that generates.
    model: Option<String>,
    /// What is gone on with: a text, a list of texts, a list of the model's own token ids, or a
    /// list of such lists.
    #[schema(schema_with = input_schema)]
    prompt: Input,
    /// `true` sends the answer while it is written, as server-sent events.
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// `true` puts the prompt in front of its answer.
    echo: Option<bool>,
    /// The most tokens of an answer; without, until it ends or the context is full.
    #[schema(value_type = Option<u64>)]
    max_tokens: Option<WholeNumber>,
    /// 0 to 2; 0 always takes the likeliest token.
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
    #[schema(schema_with = super::chat::stop_schema)]
    stop: Option<Stop>,
    /// How many answers to each prompt.
    #[schema(value_type = Option<u64>)]
    n: Option<WholeNumber>,
    /// How many of the likeliest tokens are told of each token; 0 tells the token's own
    /// probability.
    #[schema(value_type = Option<u64>)]
    logprobs: Option<WholeNumber>,
    /// `true` goes on beyond the end of the answer: for benchmarks.
    ignore_eos: Option<bool>,
    /// Not supported, and so not described.
    #[schema(ignore)]
    logit_bias: Option<Ignored>,
}

impl WireBody for CompletionBody {
    const FIELDS: &'static [&'static str] = &[
        "model",
        "prompt",
        "stream",
        "stream_options",
        "echo",
        "max_tokens",
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
        "ignore_eos",
        "logit_bias",
    ];
}

/// `POST /v1/completions`.
pub async fn completions(
    State(state): State<AppState>,
    log: RequestLog,
    addressed: Addressed,
    raw: RawBody,
) -> Result<Response> {
    let path = "/v1/completions";
    if let Some(answer) = state.elsewhere(path, &raw, &addressed, &log).await? {
        return Ok(answer);
    }
    let mut body: CompletionBody = raw.parsed().await?;
    let model = addressed.or(body.model.take())?;
    let prompts = body.prompts(state.settings.max_inputs_per_request)?;
    log.asked(prompts.len());
    state.announce(&log, model.as_deref());
    let form = body.form();
    let echo = body.echo == Some(true);
    let streams = body.stream == Some(true);
    let request = body.into_request()?;
    let generator = state.engine_for(&log).generator(model.as_deref()).await?;
    let served = generator.name().to_owned();
    let echoes = prompts.iter().map(|prompt| match echo {
        true => text(prompt, generator.tokenizer()),
        false => Ok(String::new()),
    });
    let echoes = echoes.collect::<Result<_>>()?;
    let requests = prompts.into_iter().map(|item| GenerateRequest {
        prompt: prompt(item),
        ..request.clone()
    });
    let begun = generator.generate_all(requests.collect()).await?;
    account(&log, &served, &begun);
    let form = form.about(model.unwrap_or(served), echoes, request.n);
    let all = Streams::new(begun, request.n, &log);
    if streams {
        return Ok(generation::stream(all, CompletionWriter::new(form)));
    }
    let generated = all.collect().await?;
    let json = [(header::CONTENT_TYPE, "application/json")];
    Ok((json, answer::whole(&generated, &form)).into_response())
}

/// Tells the log what is known when the first token is there: all prompts were taken, so all of
/// them count, whatever comes of one.
fn account(log: &RequestLog, model: &str, begun: &[GenerateStream]) {
    let (mut usage, mut timings) = (Usage::default(), Timings::default());
    for stream in begun {
        let told = stream.timings();
        usage.prompt_tokens += stream.usage().prompt_tokens;
        timings.tokenize += told.tokenize;
        timings.queue = timings.queue.max(told.queue);
        timings.inference += told.prefill;
    }
    log.answered(model, usage, timings);
}

/// What a prompt says.
fn text(item: &Item, tokenizer: &Tokenizer) -> Result<String> {
    match item {
        Item::Text(text) => Ok(text.clone()),
        Item::Ids(ids) => tokenizer
            .decode(ids, SpecialTokens::Keep)
            .map_err(|error| Error::invalid("prompt", error.to_string())),
    }
}

/// Whoever writes a whole prompt writes its control tokens, too.
fn prompt(item: Item) -> PromptInput {
    match item {
        Item::Ids(ids) => PromptInput::Ids(ids),
        Item::Text(text) => PromptInput::Text {
            pieces: vec![PromptPiece {
                text,
                origin: Origin::Template,
            }],
            special_tokens: SpecialTokens::Keep,
        },
    }
}

impl CompletionBody {
    fn prompts(&mut self, most: usize) -> Result<Vec<Item>> {
        let prompts = std::mem::take(&mut self.prompt).into_items();
        match prompts.len() {
            0 => Err(Error::Empty("prompt")),
            count if count > most => Err(Error::invalid(
                "prompt",
                format!("`prompt` has {count} items, more than the limit of {most}"),
            )),
            _ => Ok(prompts),
        }
    }

    fn form(&self) -> Form {
        let usage = self
            .stream_options
            .and_then(|options| options.include_usage);
        Form::new(usage == Some(true))
    }

    fn into_request(self) -> Result<GenerateRequest> {
        let mut request = GenerateRequest::new(PromptInput::Ids(Vec::new()));
        let logprobs = self.logprobs.map(|number| number.at_least(0, "logprobs"));
        request.logprobs = logprobs.transpose()?;
        let wishes = Wishes {
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
            max_tokens: self.max_tokens,
            n: self.n,
            stop: self.stop,
            ignore_eos: self.ignore_eos,
            logit_bias: self.logit_bias,
        };
        wishes.apply(&mut request)?;
        Ok(request)
    }
}
