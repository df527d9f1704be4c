//! Whether the server lives, whether its models answer, and what it has counted.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use crate::{
    engine::{
        Faults, Probe,
        request::{ModelInfo, ModelState},
    },
    error::{Error, Result},
    telemetry::{ModelLabels, TextFormat},
    unix_time,
};

/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The answer of `/health`: llama.cpp's clients read `status`, Infinity's read `unix`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`; anything else is an error body.
    status: &'static str,
    /// Seconds since the Unix epoch, by this machine's clock.
    unix: f64,
}

/// The answer of `/livez`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Alive {
    /// Always `alive`.
    status: &'static str,
}

/// The answer of `/readyz`, when it is 200 and when it is 503.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// `ready` or `not ready`.
    status: &'static str,
    /// What is missing; the keys that error bodies have, absent when nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// One per model.
    models: Vec<ModelReadiness>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ModelReadiness {
    /// The served name.
    model: String,
    /// The device that ran the forward pass.
    device: String,
    ready: bool,
    /// How long the forward pass took; absent for a model that sleeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ms: Option<f64>,
    /// Why there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The answer of `/version`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Version {
    /// The version of this program.
    version: &'static str,
    /// The version of the ONNX Runtime that it has loaded.
    onnxruntime: String,
}

/// `GET /health`: 200 as soon as any model is ready.
pub async fn health(State(state): State<AppState>) -> Result<Json<Health>> {
    if let Some(reason) = state.engine.faults().current() {
        return Err(Faults::error(&reason));
    }
    let models = state.engine.models();
    if models.iter().any(|model| model.state == ModelState::Ready) {
        return Ok(Json(Health {
            status: "ok",
            unix: unix_time::now().as_secs_f64(),
        }));
    }
    let states: Vec<_> = models.iter().map(in_words).collect();
    Err(Error::NotReady(format!(
        "no model is ready: {}",
        states.join("; ")
    )))
}

fn in_words(model: &ModelInfo) -> String {
    let name = &model.name;
    match &model.state {
        ModelState::Loading => format!("`{name}` is loading"),
        ModelState::Ready => format!("`{name}` is ready"),
        ModelState::Failed(reason) => format!("`{name}` has failed: {reason}"),
    }
}

/// `GET /livez`: 200 while the process can answer at all.
pub async fn livez() -> Json<Alive> {
    Json(Alive { status: "alive" })
}

/// `GET /readyz`: a real forward pass on every loaded model; 503 unless all of them answer and
/// those that are required are loaded. A model that sleeps counts as ready.
pub async fn readyz(State(state): State<AppState>) -> Response {
    let leaves = state.lifetime.is_leaving() || state.engine.is_draining();
    let lost = state.engine.faults().current();
    let lost = lost.map(|reason| Faults::error(&reason).public_message());
    let leaves = leaves.then(|| "the server is shutting down".to_owned());
    let detail = lost.or(leaves);
    let (status, readiness) = if detail.is_some() {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            Readiness {
                status: "not ready",
                detail,
                models: vec![],
            },
        )
    } else {
        judge(state.engine.probe().await)
    };
    let mut response = (status, Json(readiness)).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, 5.into());
    }
    response
}

fn judge(probes: Vec<Probe>) -> (StatusCode, Readiness) {
    let models: Vec<_> = probes.into_iter().map(ModelReadiness::from).collect();
    let failing: Vec<_> = models
        .iter()
        .filter(|m| !m.ready)
        .map(|m| m.model.as_str())
        .collect();
    let detail = if models.is_empty() {
        Some("no model is configured".to_owned())
    } else if failing.is_empty() {
        None
    } else {
        Some(format!("not ready: {}", failing.join(", ")))
    };
    match detail {
        None => (
            StatusCode::OK,
            Readiness {
                status: "ready",
                detail,
                models,
            },
        ),
        Some(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Readiness {
                status: "not ready",
                detail,
                models,
            },
        ),
    }
}

impl From<Probe> for ModelReadiness {
    fn from(probe: Probe) -> Self {
        let Probe {
            model,
            device,
            outcome,
        } = probe;
        let millis = |took: Duration| (took.as_secs_f64() * 1e6).round() / 1e3;
        match outcome {
            Ok(took) => Self {
                model,
                device,
                ready: true,
                took_ms: took.map(millis),
                reason: None,
            },
            Err(error) => Self {
                model,
                device,
                ready: false,
                took_ms: None,
                reason: Some(error.public_message()),
            },
        }
    }
}

/// `GET /metrics`.
pub async fn metrics(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let labels = |model: ModelInfo| {
        let encoder = model.encoder?;
        Some(ModelLabels {
            model: model.name,
            architecture: encoder.architecture,
            device: encoder.device,
            dtype: encoder.dtype,
        })
    };
    let models = state.engine.models().into_iter();
    state.telemetry.models_listed(models.filter_map(labels));
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    let format = match accept {
        Some(accept) if accept.contains("application/openmetrics-text") => TextFormat::OpenMetrics,
        _ => TextFormat::Plain,
    };
    (
        [(header::CONTENT_TYPE, format.content_type())],
        state.telemetry.render(format),
    )
        .into_response()
}

/// `GET /version`.
pub async fn version(State(state): State<AppState>) -> Json<Version> {
    let onnxruntime = state.settings.onnxruntime_version.clone();
    Json(Version {
        version: VERSION,
        onnxruntime,
    })
}

/// `GET /`: where a person who opens the address finds the rest.
pub async fn root() -> String {
    format!(
        "Retort {VERSION}\n\n\
         POST /v1/embeddings   texts to vectors\n\
         GET  /v1/models       what is served\n\
         GET  /docs            every route, to try out\n\
         GET  /readyz          whether the models answer\n\
         GET  /metrics         what was counted\n\n\
         For clients that look for these words here: Ollama is running\n"
    )
}
