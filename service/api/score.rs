//! `POST /v1/score` as vLLM has it: pairs of texts to scores, in the order of the request.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    AppState,
    answer::{self, Headers, InputUsage, UsageBody},
    extract::{JsonBody, WireBody},
    fields::{self, Cut, WholeNumber},
    observe::RequestLog,
    rerank::scale,
    texts::{self, OneOrMany},
};
use crate::{
    engine::request::{Pairs, ScoreOptions, ScoreRequest, ScoreResponse},
    error::{Error, Result},
};

/// The body of a request. The two sides have three pairs of names.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `text_1` and `text_2`")]
pub struct ScoreBody {
    /// A served name, an alias or a hub id; without one, the first reranker.
    model: Option<String>,
    /// One text, or one for each of `text_2`.
    #[schema(schema_with = texts::one_or_many_schema)]
    text_1: Option<OneOrMany>,
    /// What is scored against it.
    #[schema(schema_with = texts::one_or_many_schema)]
    text_2: Option<OneOrMany>,
    /// A newer name of `text_1`.
    #[schema(schema_with = texts::one_or_many_schema)]
    queries: Option<OneOrMany>,
    /// A newer name of `text_2`.
    #[schema(schema_with = texts::one_or_many_schema)]
    documents: Option<OneOrMany>,
    /// Another name of `text_2`.
    #[schema(schema_with = texts::one_or_many_schema)]
    items: Option<OneOrMany>,
    /// Another name of `text_1`.
    #[schema(schema_with = texts::one_or_many_schema)]
    data_1: Option<OneOrMany>,
    /// Another name of `text_2`.
    #[schema(schema_with = texts::one_or_many_schema)]
    data_2: Option<OneOrMany>,
    /// Keep at most so many tokens of a pair; -1 for the model's maximum.
    #[schema(value_type = Option<i64>)]
    truncate_prompt_tokens: Option<WholeNumber>,
    /// Which end is cut of a text that does not fit.
    #[schema(schema_with = fields::cut_schema)]
    truncate: Option<Cut>,
    /// `false` gives logits, or similarities as they are.
    use_activation: Option<bool>,
    /// An older name of `use_activation`.
    activation: Option<bool>,
    /// The opposite of `use_activation`.
    raw_scores: Option<bool>,
    /// What the model is to judge by.
    instruction: Option<String>,
    /// `true` adds to `usage` the tokens of each pair and how many of them were cut.
    usage_details: Option<bool>,
}

impl WireBody for ScoreBody {
    const FIELDS: &'static [&'static str] = &[
        "model",
        "text_1",
        "text_2",
        "queries",
        "documents",
        "items",
        "data_1",
        "data_2",
        "truncate_prompt_tokens",
        "truncate",
        "use_activation",
        "activation",
        "raw_scores",
        "instruction",
        "usage_details",
    ];
}

/// The body of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScoreAnswer<'a> {
    /// Made up for this answer.
    id: String,
    /// Always `list`.
    object: &'static str,
    /// Seconds since the Unix epoch.
    created: u64,
    /// The model as the caller named it.
    model: &'a str,
    /// One per pair, in order.
    data: Vec<ScoreDatum>,
    usage: ScoreUsage,
}

#[derive(Debug, Serialize, ToSchema)]
struct ScoreDatum {
    /// The place of the pair within this request.
    index: usize,
    /// Always `score`.
    object: &'static str,
    /// From 0 to 1 unless raw scores were asked for.
    score: f32,
}

#[derive(Debug, Serialize, ToSchema)]
struct ScoreUsage {
    #[serde(flatten)]
    usage: UsageBody,
    /// Always 0: nothing is generated.
    completion_tokens: usize,
}

/// `POST /v1/score`.
pub async fn score(
    State(state): State<AppState>,
    log: RequestLog,
    headers: HeaderMap,
    JsonBody(body): JsonBody<ScoreBody>,
) -> Result<Response> {
    let named = body.model.clone().filter(|model| !model.is_empty());
    let details = answer::wants_details(body.usage_details, &headers);
    let request = body.request()?;
    log.asked(request.pairs.documents.len());
    state.announce(&log, request.model.as_deref());
    let response = state.engine_for(&log).score(request).await?;
    log.answered(&response.model, response.usage, response.timings);
    let headers = Headers::new(response.usage, response.timings, log.started());
    let model = named.as_deref().unwrap_or(&response.model);
    Ok(headers.respond_json(&ScoreAnswer::new(&response, model, details)))
}

impl ScoreBody {
    fn request(self) -> Result<ScoreRequest> {
        let first = self.text_1.or(self.queries).or(self.data_1);
        let first = first.ok_or_else(|| Error::missing("text_1"))?.into_texts();
        let second = self
            .text_2
            .or(self.documents)
            .or(self.items)
            .or(self.data_2);
        let second = second.ok_or_else(|| Error::missing("text_2"))?.into_texts();
        let (one, many) = (first.len(), second.len());
        if many == 0 || one != 1 && one != many {
            return Err(Error::invalid(
                "text_2",
                format!(
                    "`text_1` has {one} texts and `text_2` {many}; send one and any number, or as \
                     many of both"
                ),
            ));
        }
        let truncate = fields::truncate(self.truncate_prompt_tokens, self.truncate)?;
        Ok(ScoreRequest {
            model: fields::named_model(self.model)?,
            pairs: Pairs {
                queries: Arc::from(first),
                documents: Arc::from(second),
            },
            options: ScoreOptions {
                scale: scale(self.raw_scores, self.use_activation.or(self.activation)),
                instruction: self.instruction.filter(|text| !text.is_empty()),
                truncate,
                ..ScoreOptions::default()
            },
        })
    }
}

impl<'a> ScoreAnswer<'a> {
    fn new(response: &ScoreResponse, model: &'a str, details: bool) -> Self {
        let inputs = response.scores.iter().map(InputUsage::from);
        let datum = |(index, score): (usize, &crate::engine::request::PairScore)| ScoreDatum {
            index,
            object: "score",
            score: score.score,
        };
        Self {
            id: answer::new_id("score"),
            object: "list",
            created: answer::now(),
            model,
            data: response.scores.iter().enumerate().map(datum).collect(),
            usage: ScoreUsage {
                usage: UsageBody::new(response.usage, details, inputs),
                completion_tokens: 0,
            },
        }
    }
}
