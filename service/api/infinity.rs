//! Infinity: what its clients read otherwise than everybody else's. Its routes are under
//! `/infinity`, the root to give its clients; at the paths that it shares with others, its requests
//! are told by their bodies.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    AppState,
    answer::{UsageBody, new_id, now},
};
use crate::engine::request::{Backlog, ClassifyResponse, ModelInfo, ModelKind, label_name};

/// The labels of texts, in Infinity's form.
#[derive(Debug, Serialize, ToSchema)]
pub struct InfinityLabels<'a> {
    /// Made up for this answer.
    id: String,
    /// Always `classify`.
    object: &'static str,
    /// One list per input, in order; in it all labels, the likeliest first.
    data: Vec<Vec<InfinityLabel<'a>>>,
    /// The model as the caller named it.
    model: &'a str,
    usage: UsageBody,
    /// Seconds since the Unix epoch.
    created: u64,
}

#[derive(Debug, Serialize, ToSchema)]
struct InfinityLabel<'a> {
    /// A probability, or a logit when raw scores were asked for.
    score: f32,
    /// The checkpoint's name for it.
    #[schema(value_type = String)]
    label: std::borrow::Cow<'a, str>,
}

/// What is served, in Infinity's form.
#[derive(Debug, Serialize, ToSchema)]
pub struct InfinityModels {
    /// Always `list`.
    object: &'static str,
    data: Vec<InfinityModel>,
}

#[derive(Debug, Serialize, ToSchema)]
struct InfinityModel {
    /// The served name.
    id: String,
    /// Always `model`.
    object: &'static str,
    /// Always `infinity`, as its clients may check.
    owned_by: &'static str,
    /// When it was loaded, in seconds since the Unix epoch.
    created: u64,
    /// What runs it.
    backend: &'static str,
    /// Of `embed`, `rerank` and `classify`.
    capabilities: [&'static str; 1],
    stats: InfinityStats,
}

/// What waits for a model.
#[derive(Debug, Serialize, ToSchema)]
struct InfinityStats {
    /// Tokens that wait, as a part of those that may.
    queue_fraction: f32,
    /// Inputs that wait.
    queue_absolute: usize,
}

impl From<Backlog> for InfinityStats {
    fn from(backlog: Backlog) -> Self {
        Self {
            queue_fraction: backlog.tokens as f32 / backlog.max_tokens.max(1) as f32,
            queue_absolute: backlog.inputs,
        }
    }
}

/// `GET /infinity/models`: the models that are loaded.
pub async fn models(State(state): State<AppState>) -> Json<InfinityModels> {
    let model = |info: ModelInfo| {
        let backlog = state.engine.backlog(&info.name);
        InfinityModel::new(info, backlog)
    };
    let models = state.engine.models().into_iter();
    Json(InfinityModels {
        object: "list",
        data: models.filter_map(model).collect(),
    })
}

impl InfinityModel {
    fn new(info: ModelInfo, backlog: Backlog) -> Option<Self> {
        let capability = match info.kind()? {
            ModelKind::Embedding => "embed",
            ModelKind::Reranker => "rerank",
            ModelKind::Classifier => "classify",
            ModelKind::Generator => "generate",
        };
        Some(Self {
            id: info.name,
            object: "model",
            owned_by: "infinity",
            created: info.created,
            backend: "onnx",
            capabilities: [capability],
            stats: backlog.into(),
        })
    }
}

impl<'a> InfinityLabels<'a> {
    /// The answer for `model`, as the caller named it.
    pub fn new(response: &'a ClassifyResponse, model: &'a str) -> Self {
        let label = |(place, score): (usize, &f32)| InfinityLabel {
            score: *score,
            label: label_name(&response.labels, place),
        };
        let labels = |scores: &[f32]| {
            let mut labels: Vec<_> = scores.iter().enumerate().map(label).collect();
            labels.sort_by(|a, b| b.score.total_cmp(&a.score));
            labels
        };
        let data = response.results.iter();
        Self {
            id: new_id("infinity"),
            object: "classify",
            data: data.map(|result| labels(&result.scores)).collect(),
            model,
            usage: UsageBody::new(response.usage, false, std::iter::empty()),
            created: now(),
        }
    }
}
