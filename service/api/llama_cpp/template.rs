//! `POST /apply-template`: what a chat's messages become, without a model running.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    api::{AppState, addressed::Addressed, chat::ChatBody, extract::JsonBody, observe::RequestLog},
    error::Result,
};

/// The answer of `/apply-template`.
#[derive(Debug, Serialize, ToSchema)]
pub struct AppliedTemplate {
    /// The text that the model would go on with.
    prompt: String,
}

/// `POST /apply-template`: the body of a chat, of which the messages, the functions and what the
/// template is told matter.
pub async fn apply_template(
    State(state): State<AppState>,
    log: RequestLog,
    addressed: Addressed,
    JsonBody(body): JsonBody<ChatBody>,
) -> Result<Json<AppliedTemplate>> {
    let ask = body.into_ask(addressed)?;
    log.asked(ask.messages.len());
    state.announce(&log, ask.model.as_deref());
    let (prompt, model) = ask.prompt(&state.engine_for(&log)).await?;
    log.about(&model);
    Ok(Json(AppliedTemplate { prompt }))
}
