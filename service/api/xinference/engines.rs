//! Which engine runs a model. There is one.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use retort_models::catalog::Entry;
use serde::Serialize;
use utoipa::ToSchema;

use super::{ModelType, parts, registrations::not_found};
use crate::{api::AppState, error::Result};

/// What an engine runs a model from.
#[derive(Debug, Serialize, ToSchema)]
pub struct EngineOption {
    model_name: String,
    model_format: &'static str,
    /// Parameters, with `_` for the point as Xinference writes sizes; null when not known.
    model_size_in_billions: Option<String>,
    quantizations: [&'static str; 1],
}

/// Options by the name of the engine.
pub type Engines = BTreeMap<&'static str, Vec<EngineOption>>;

/// `GET /v1/engines/{model}`, for whatever type.
pub async fn of_model(
    State(state): State<AppState>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Engines>> {
    let name = parts(name)?;
    let catalog = state.fleet.catalog();
    let entry = catalog.find(&name).map_err(|_| not_found(&name))?;
    Ok(Json(engines(entry)))
}

/// `GET /v1/engines/{type}/{model}`.
pub async fn of_typed_model(
    State(state): State<AppState>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<Engines>> {
    let (first, name) = parts(path)?;
    let catalog = state.fleet.catalog();
    let hub_id = format!("{first}/{name}");
    let entry = match ModelType::read(&first) {
        // Clients that are told no type ask for a LLM.
        Ok(ModelType::Llm) => catalog.by_name(&name),
        Ok(model_type) => catalog.by_name(&name).filter(|e| model_type.has(e.task)),
        // Then it is the owner of a hub id.
        Err(_) => catalog.by_hub_id(&hub_id),
    };
    Ok(Json(engines(entry.ok_or_else(|| not_found(&name))?)))
}

fn engines(entry: &Entry) -> Engines {
    let option = EngineOption {
        model_name: entry.name.clone(),
        model_format: "pytorch",
        model_size_in_billions: entry.parameters.map(billions),
        quantizations: ["none"],
    };
    BTreeMap::from([("onnx", vec![option])])
}

/// `7`, `0_568`: three places at most.
fn billions(parameters: u64) -> String {
    let thousandths = (parameters + 500_000) / 1_000_000;
    let (whole, rest) = (thousandths / 1000, thousandths % 1000);
    match rest {
        0 => whole.to_string(),
        _ => format!("{whole}_{}", format!("{rest:03}").trim_end_matches('0')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_xinference_does() {
        assert_eq!(billions(567_754_752), "0_568");
        assert_eq!(billions(7_000_000_000), "7");
        assert_eq!(billions(1_500_000_000), "1_5");
        assert_eq!(billions(22_713_216), "0_023");
    }
}
