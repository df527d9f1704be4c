//! `POST /pooling`: whatever a model gives of a text, by the name of vLLM's task.

use axum::{extract::State, response::Response};
use retort_models::{Head, Heads};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{
        AppState,
        answer::{Headers, UsageBody, new_id, now},
        extract::{JsonBody, WireBody},
        fields::{self, Cut, WholeNumber},
        observe::RequestLog,
        openai::{Encoding, Input, Item, Written, input_schema},
        rerank::scale,
    },
    engine::request::{
        ClassifyInput, ClassifyRequest, EmbedInput, EmbedRequest, ModelKind, Normalize, Scale,
        Task, Timings, Usage,
    },
    error::{Error, Result},
};

/// The body of a request.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `model` and `input`")]
pub struct PoolingBody {
    /// A served name, an alias or a hub id.
    model: Option<String>,
    /// A text, a list of token ids of the model's own vocabulary, or a list of these.
    #[schema(schema_with = input_schema)]
    input: Input,
    /// `embed` (default of embedding models), `token_embed` or `classify` (default of others).
    #[schema(value_type = Option<String>)]
    task: Option<PoolingTask>,
    /// `float` (default) or `base64`.
    encoding_format: Option<Encoding>,
    /// Keep the first so many components, then normalise again.
    #[schema(value_type = Option<u64>)]
    dimensions: Option<WholeNumber>,
    /// `false` leaves vectors as the pooling made them.
    normalize: Option<bool>,
    /// `false` gives vectors as they were pooled, and logits.
    use_activation: Option<bool>,
    /// An older name of `use_activation`.
    activation: Option<bool>,
    /// Keep at most so many tokens of each input; -1 for the model's maximum.
    #[schema(value_type = Option<i64>)]
    truncate_prompt_tokens: Option<WholeNumber>,
    /// Which end is cut of an input that does not fit.
    #[schema(schema_with = fields::cut_schema)]
    truncate: Option<Cut>,
}

impl WireBody for PoolingBody {
    const FIELDS: &'static [&'static str] = &[
        "model",
        "input",
        "task",
        "encoding_format",
        "dimensions",
        "normalize",
        "use_activation",
        "activation",
        "truncate_prompt_tokens",
        "truncate",
    ];
}

/// What is wanted of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
enum PoolingTask {
    Embed,
    TokenEmbed,
    Classify,
}

impl TryFrom<String> for PoolingTask {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "embed" | "encode" => Ok(Self::Embed),
            "token_embed" => Ok(Self::TokenEmbed),
            "classify" | "score" => Ok(Self::Classify),
            _ => Err(format!(
                "`{name}` is none of `embed`, `token_embed` and `classify`"
            )),
        }
    }
}

/// The body of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct PoolingAnswer<'a> {
    /// Made up for this answer.
    id: String,
    /// Always `list`.
    object: &'static str,
    /// Seconds since the Unix epoch.
    created: u64,
    /// The model as the caller named it.
    model: &'a str,
    /// One per input, in order.
    data: Vec<PoolingDatum<'a>>,
    usage: PoolingUsage,
}

#[derive(Debug, Serialize, ToSchema)]
struct PoolingDatum<'a> {
    /// The place of the input within this request.
    index: usize,
    /// Always `pooling`.
    object: &'static str,
    /// A vector, the vectors of the tokens, or the probabilities of the labels.
    #[schema(value_type = PooledForm)]
    data: Pooled<'a>,
}

/// What `data` may be.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it only describes `Pooled`")]
enum PooledForm {
    Numbers(Vec<f32>),
    Base64(String),
    Rows(Vec<Vec<f32>>),
    Base64Rows(Vec<String>),
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Pooled<'a> {
    One(Written<'a>),
    Rows(Vec<Written<'a>>),
}

#[derive(Debug, Serialize, ToSchema)]
struct PoolingUsage {
    #[serde(flatten)]
    usage: UsageBody,
    /// Always 0: nothing is generated.
    completion_tokens: usize,
}

/// What an answer is about.
struct Done<'a> {
    named: Option<&'a str>,
    model: &'a str,
    usage: Usage,
    timings: Timings,
}

/// `POST /pooling`.
pub async fn pooling(
    State(state): State<AppState>,
    log: RequestLog,
    JsonBody(body): JsonBody<PoolingBody>,
) -> Result<Response> {
    let named = fields::named_model(body.model.clone())?;
    let encoding = body.encoding_format.unwrap_or_default();
    let written = |vector| Written { vector, encoding };
    let task = match body.task {
        Some(task) => task,
        None => match state.engine.choose(named.as_deref(), Task::Embed)?.kind() {
            Some(ModelKind::Reranker | ModelKind::Classifier) => PoolingTask::Classify,
            // A model that generates refuses, and says what it is.
            Some(ModelKind::Embedding | ModelKind::Generator) | None => PoolingTask::Embed,
        },
    };
    if task == PoolingTask::Classify {
        let request = body.classify_request()?;
        log.asked(request.inputs.len());
        let response = state.engine_for(&log).classify(request).await?;
        let done = Done {
            named: named.as_deref(),
            model: &response.model,
            usage: response.usage,
            timings: response.timings,
        };
        let scores = response.results.iter();
        let data = scores.map(|result| Pooled::One(written(&result.scores)));
        return Ok(done.respond(&log, data.collect()));
    }
    let heads = match task {
        PoolingTask::TokenEmbed => Head::MultiVector.into(),
        PoolingTask::Embed | PoolingTask::Classify => Heads::DENSE,
    };
    let request = body.embed_request(heads)?;
    log.asked(request.inputs.len());
    let response = state.engine_for(&log).embed(request).await?;
    let done = Done {
        named: named.as_deref(),
        model: &response.model,
        usage: response.usage,
        timings: response.timings,
    };
    let data = response
        .embeddings
        .iter()
        .map(|embedding| match &embedding.multi_vector {
            Some(vectors) => Pooled::Rows(vectors.rows().map(written).collect()),
            None => Pooled::One(written(&embedding.vector)),
        });
    Ok(done.respond(&log, data.collect()))
}

impl Done<'_> {
    fn respond(&self, log: &RequestLog, pooled: Vec<Pooled<'_>>) -> Response {
        log.answered(self.model, self.usage, self.timings);
        let datum = |(index, data)| PoolingDatum {
            index,
            object: "pooling",
            data,
        };
        let answer = PoolingAnswer {
            id: new_id("pooling"),
            object: "list",
            created: now(),
            model: self.named.unwrap_or(self.model),
            data: pooled.into_iter().enumerate().map(datum).collect(),
            usage: PoolingUsage {
                usage: UsageBody::new(self.usage, false, std::iter::empty()),
                completion_tokens: 0,
            },
        };
        Headers::new(self.usage, self.timings, log.started()).respond_json(&answer)
    }
}

impl PoolingBody {
    fn scale(&self) -> Scale {
        scale(None, self.use_activation.or(self.activation))
    }

    fn items(input: Input) -> Result<Vec<Item>> {
        let items = input.into_items();
        if items.is_empty() {
            return Err(Error::Empty("input"));
        }
        Ok(items)
    }

    fn embed_request(self, heads: Heads) -> Result<EmbedRequest> {
        let plain = self.normalize == Some(false) || self.scale() == Scale::Raw;
        let dimensions = match self.dimensions {
            None | Some(WholeNumber(0)) => None,
            Some(number) => Some(number.at_least(1, "dimensions")?),
        };
        let input = |item| match item {
            Item::Text(text) => EmbedInput::Text(text),
            Item::Ids(ids) => EmbedInput::ModelIds(ids),
        };
        Ok(EmbedRequest {
            model: fields::named_model(self.model)?,
            truncate: fields::truncate(self.truncate_prompt_tokens, self.truncate)?,
            inputs: Self::items(self.input)?.into_iter().map(input).collect(),
            heads,
            dimensions,
            normalize: if plain { Normalize::No } else { Normalize::Yes },
            ..EmbedRequest::default()
        })
    }

    fn classify_request(self) -> Result<ClassifyRequest> {
        let scale = self.scale();
        let input = |item| match item {
            Item::Text(text) => Ok(ClassifyInput::Text(text)),
            Item::Ids(_) => Err(Error::invalid(
                "input",
                "token ids cannot be classified; send texts",
            )),
        };
        let inputs = Self::items(self.input)?.into_iter().map(input);
        Ok(ClassifyRequest {
            inputs: inputs.collect::<Result<_>>()?,
            model: fields::named_model(self.model)?,
            scale,
            truncate: fields::truncate(self.truncate_prompt_tokens, self.truncate)?,
        })
    }
}
