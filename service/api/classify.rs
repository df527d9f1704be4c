//! `POST /v1/classify` as vLLM has it: a text, or a pair of them, to a label and the probabilities
//! of all.

use std::fmt;

use axum::{extract::State, response::Response};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, SeqAccess},
};
use utoipa::ToSchema;

use super::{
    AppState,
    answer::{self, Headers, UsageBody},
    contested::{self, Door, Marks, Speaker},
    errors::INFINITY,
    extract::{JsonBody, WireBody},
    fields::{self, Cut, WholeNumber},
    infinity::InfinityLabels,
    observe::RequestLog,
    rerank::scale,
    texts,
};
use crate::{
    engine::request::{Classified, ClassifyInput, ClassifyRequest, ClassifyResponse},
    error::{Error, Result},
};

/// The body of a request.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object with `model` and `input`")]
pub struct ClassifyBody {
    /// A served name, an alias or a hub id; without one, the first model with labels.
    model: Option<String>,
    /// A text, or a list of texts and of pairs `["premise", "hypothesis"]`.
    #[schema(schema_with = texts::one_or_many_schema)]
    input: Inputs,
    /// Keep at most so many tokens of each input; -1 for the model's maximum.
    #[schema(value_type = Option<i64>)]
    truncate_prompt_tokens: Option<WholeNumber>,
    /// Which end is cut of an input that does not fit.
    #[schema(schema_with = fields::cut_schema)]
    truncate: Option<Cut>,
    /// `false` gives logits instead of probabilities.
    use_activation: Option<bool>,
    /// An older name of `use_activation`.
    activation: Option<bool>,
    /// The opposite of `use_activation`.
    raw_scores: Option<bool>,
}

impl WireBody for ClassifyBody {
    const FIELDS: &'static [&'static str] = &[
        "model",
        "input",
        "truncate_prompt_tokens",
        "truncate",
        "use_activation",
        "activation",
        "raw_scores",
    ];
}

#[derive(Debug, Default)]
struct Inputs(Vec<ClassifyInput>);

struct Item(ClassifyInput);

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Inputs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or a list of texts and of pairs of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Inputs, E> {
                Ok(Inputs(vec![ClassifyInput::Text(text.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Inputs, A::Error> {
                let mut inputs = Vec::new();
                while let Some(Item(input)) = list.next_element()? {
                    inputs.push(input);
                }
                Ok(Inputs(inputs))
            }
        }
        json.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a pair of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Item, E> {
                Ok(Item(ClassifyInput::Text(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Item, A::Error> {
                let first: Option<String> = list.next_element()?;
                let second: Option<String> = list.next_element()?;
                let mut more = 0;
                while let Some(de::IgnoredAny) = list.next_element()? {
                    more += 1;
                }
                match (first, second, more) {
                    (Some(text), None, _) => Ok(Item(ClassifyInput::Text(text))),
                    (Some(a), Some(b), 0) => Ok(Item(ClassifyInput::Pair(a, b))),
                    (Some(_), Some(_), more) => {
                        Err(de::Error::invalid_length(2 + more, &"one text or two"))
                    }
                    (None, ..) => Err(de::Error::custom(
                        "the input is an empty list; send a text, or a pair of texts",
                    )),
                }
            }
        }
        json.deserialize_any(Visitor)
    }
}

/// The body of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClassifyAnswer<'a> {
    /// Made up for this answer.
    id: String,
    /// Always `list`.
    object: &'static str,
    /// Seconds since the Unix epoch.
    created: u64,
    /// The model as the caller named it.
    model: &'a str,
    /// The names of all labels, in the order of `probs`.
    labels: &'a [String],
    /// One per input, in order.
    data: Vec<ClassifyDatum<'a>>,
    usage: UsageBody,
}

#[derive(Debug, Serialize, ToSchema)]
struct ClassifyDatum<'a> {
    /// The place of the input within this request.
    index: usize,
    /// The label of the largest score.
    label: Option<&'a str>,
    /// One per label: the sigmoid of a single one, the softmax of several.
    probs: &'a [f32],
    num_classes: usize,
}

/// `POST /v1/classify`.
pub async fn classify(
    state: State<AppState>,
    log: RequestLog,
    JsonBody(body): JsonBody<ClassifyBody>,
) -> Result<Response> {
    labelled(state, log, body, Door::Versioned).await
}

/// `POST /classify`, which vLLM and Infinity both have.
pub async fn classify_bare(
    state: State<AppState>,
    log: RequestLog,
    JsonBody(body): JsonBody<ClassifyBody>,
) -> Result<Response> {
    labelled(state, log, body, Door::Bare).await
}

/// `POST /infinity/classify`.
pub async fn classify_infinity(
    state: State<AppState>,
    log: RequestLog,
    JsonBody(body): JsonBody<ClassifyBody>,
) -> Result<Response> {
    labelled(state, log, body, Door::Infinity).await
}

async fn labelled(
    State(state): State<AppState>,
    log: RequestLog,
    body: ClassifyBody,
    door: Door,
) -> Result<Response> {
    let marks = Marks {
        infinitys: contested::infinitys(body.model.as_deref(), body.raw_scores),
        ..Marks::default()
    };
    let speaker = contested::classify(door, marks);
    if speaker == Speaker::Infinity {
        log.speaks(&INFINITY);
    }
    let named = body.model.clone().filter(|model| !model.is_empty());
    let request = body.request()?;
    log.asked(request.inputs.len());
    state.announce(&log, request.model.as_deref());
    let response = state.engine_for(&log).classify(request).await?;
    log.answered(&response.model, response.usage, response.timings);
    let headers = Headers::new(response.usage, response.timings, log.started());
    let model = named.as_deref().unwrap_or(&response.model);
    Ok(if speaker == Speaker::Infinity {
        headers.respond_json(&InfinityLabels::new(&response, model))
    } else {
        headers.respond_json(&ClassifyAnswer::new(&response, model))
    })
}

impl ClassifyBody {
    fn request(self) -> Result<ClassifyRequest> {
        if self.input.0.is_empty() {
            return Err(Error::invalid(
                "input",
                "`input` is an empty list; send at least one text",
            ));
        }
        Ok(ClassifyRequest {
            model: fields::named_model(self.model)?,
            inputs: self.input.0,
            scale: scale(self.raw_scores, self.use_activation.or(self.activation)),
            truncate: fields::truncate(self.truncate_prompt_tokens, self.truncate)?,
        })
    }
}

impl<'a> ClassifyAnswer<'a> {
    fn new(response: &'a ClassifyResponse, model: &'a str) -> Self {
        let datum = |(index, result): (usize, &'a Classified)| {
            let scores = result.scores.iter().enumerate();
            let best = scores.max_by(|(_, a), (_, b)| a.total_cmp(b));
            let label = best.and_then(|(place, _)| response.labels.get(place));
            ClassifyDatum {
                index,
                label: label.map(String::as_str),
                probs: &result.scores,
                num_classes: result.scores.len(),
            }
        };
        Self {
            id: answer::new_id("classify"),
            object: "list",
            created: answer::now(),
            model,
            labels: &response.labels,
            data: response.results.iter().enumerate().map(datum).collect(),
            usage: UsageBody::new(response.usage, false, std::iter::empty()),
        }
    }
}
