//! `GET /props` and `GET /slots`: what llama.cpp tells of its one model and of its places for
//! requests, which here are the workers.

use axum::{
    Json,
    extract::{OriginalUri, State},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    api::{AppState, addressed::Addressed},
    engine::request::Task,
    error::{Error, Result},
};

/// The answer of `/props`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LlamaProperties)]
pub struct Properties {
    default_generation_settings: Settings,
    /// Batches that run at the same time.
    total_slots: usize,
    /// The served name.
    model_alias: String,
    /// Where the files came from.
    model_path: String,
    modalities: Modalities,
    /// Always empty: embedding models and rerankers have none.
    chat_template: &'static str,
    build_info: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LlamaSettings)]
struct Settings {
    /// The most tokens of one input; 0 while the model loads.
    n_ctx: usize,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LlamaModalities)]
struct Modalities {
    vision: bool,
    audio: bool,
}

/// One place for a batch.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LlamaSlot)]
pub struct Slot {
    id: usize,
    /// The most tokens of one input; 0 while the model loads.
    n_ctx: usize,
    /// Whether there are at least so many requests that this slot is taken.
    is_processing: bool,
}

/// `GET /props`.
pub async fn props(State(state): State<AppState>, model: Addressed) -> Result<Json<Properties>> {
    let info = state
        .engine
        .choose(model.or(None)?.as_deref(), Task::Embed)?;
    let n_ctx = info.encoder.as_ref().map_or(0, |e| e.max_tokens);
    Ok(Json(Properties {
        default_generation_settings: Settings { n_ctx },
        total_slots: total_slots(&state),
        model_alias: info.name,
        model_path: info.origin,
        modalities: Modalities {
            vision: false,
            audio: false,
        },
        chat_template: "",
        build_info: concat!("retort-", env!("CARGO_PKG_VERSION")),
    }))
}

/// `GET /slots`; with `?fail_on_no_slot=1` a 503 when all are taken.
pub async fn slots(
    State(state): State<AppState>,
    OriginalUri(uri): OriginalUri,
    model: Addressed,
) -> Result<Json<Vec<Slot>>> {
    let info = state
        .engine
        .choose(model.or(None)?.as_deref(), Task::Embed)?;
    let n_ctx = info.encoder.as_ref().map_or(0, |e| e.max_tokens);
    let (slots, taken) = (total_slots(&state), state.engine.in_flight());
    let query = uri.query().unwrap_or_default();
    let must_be_free = form_urlencoded::parse(query.as_bytes())
        .any(|(key, value)| key == "fail_on_no_slot" && !value.is_empty());
    if must_be_free && taken >= slots {
        return Err(Error::NotReady(format!("all {slots} slots are taken")));
    }
    let slot = |id| Slot {
        id,
        n_ctx,
        is_processing: id < taken,
    };
    Ok(Json((0..slots).map(slot).collect()))
}

fn total_slots(state: &AppState) -> usize {
    let limits = state.engine.limits();
    limits.workers.clamp(1, limits.threads.max(1))
}
