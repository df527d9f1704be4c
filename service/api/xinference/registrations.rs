//! The catalogue over HTTP: which models are known by name, what is known of each, and a client's
//! own models beside the built-in ones.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
};
use retort_models::catalog::Entry;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    ModelType, cache, flag, parameters, parts, records::CatalogRecord, register::CustomModel,
};
use crate::{
    api::{
        AppState,
        extract::{JsonBody, WireBody, shorten},
    },
    error::{Error, Result},
};

/// What is behind the `?` of the list.
#[derive(Debug, Default, Deserialize)]
pub struct ListParameters {
    detailed: Option<String>,
}

/// A row of the list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Registration {
    /// What is always told.
    Brief {
        /// The name of the catalogue.
        model_name: String,
        /// Whether it is part of the program.
        is_builtin: bool,
    },
    /// With `detailed=true`, everything.
    Detailed(Box<CatalogRecord>),
}

/// The body that registers a model.
#[derive(Debug, Deserialize, ToSchema)]
pub struct RegisterBody {
    /// The record of the model, as JSON in a text; an object is taken as well.
    #[schema(value_type = String)]
    model: Option<Value>,
    /// Whether it is known after a restart.
    persist: Option<bool>,
}

impl WireBody for RegisterBody {
    const FIELDS: &'static [&'static str] = &["model", "persist"];
}

/// `GET /v1/model_registrations/{type}`.
pub async fn list(
    State(state): State<AppState>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<ListParameters>, QueryRejection>,
) -> Result<Json<Vec<Registration>>> {
    let model_type = ModelType::read(&parts(path)?)?;
    let catalog = state.fleet.catalog();
    let entries = catalog.entries().iter();
    let entries = entries.filter(|entry| model_type.has(entry.task));
    let detailed = flag(parameters(query)?.detailed.as_deref()) == Some(true);
    if !detailed {
        let brief = |entry: &Entry| Registration::Brief {
            model_name: entry.name.clone(),
            is_builtin: state.fleet.is_builtin(&entry.name),
        };
        return Ok(Json(entries.map(brief).collect()));
    }
    let cached: Vec<String> = cache::models(&state)
        .await?
        .into_iter()
        .map(|m| m.name)
        .collect();
    let record = |entry: &Entry| {
        let is_builtin = state.fleet.is_builtin(&entry.name);
        Registration::Detailed(Box::new(CatalogRecord::detailed(
            entry, is_builtin, &cached,
        )))
    };
    Ok(Json(entries.map(record).collect()))
}

/// `GET /v1/model_registrations/{type}/{name}`.
pub async fn one(
    State(state): State<AppState>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<CatalogRecord>> {
    let (model_type, name) = parts(path)?;
    let model_type = ModelType::read(&model_type)?;
    let catalog = state.fleet.catalog();
    let entry = catalog.by_name(&name);
    let entry = entry.filter(|entry| model_type.has(entry.task));
    entry
        .map(|entry| Json(CatalogRecord::new(entry)))
        .ok_or_else(|| not_found(&name))
}

/// `POST /v1/model_registrations/{type}`.
pub async fn register(
    State(state): State<AppState>,
    path: Result<Path<String>, PathRejection>,
    JsonBody(body): JsonBody<RegisterBody>,
) -> Result<Json<()>> {
    let model_type = ModelType::read(&parts(path)?)?;
    let entry = CustomModel::read(body.model)?.entry(model_type)?;
    state.fleet.register(entry, body.persist.unwrap_or(false))?;
    Ok(Json(()))
}

/// `DELETE /v1/model_registrations/{type}/{name}`.
pub async fn unregister(
    State(state): State<AppState>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<()>> {
    let (model_type, name) = parts(path)?;
    let model_type = ModelType::read(&model_type)?;
    let catalog = state.fleet.catalog();
    let entry = catalog.by_name(&name);
    let entry = entry.filter(|entry| model_type.has(entry.task));
    state
        .fleet
        .unregister(&entry.ok_or_else(|| not_found(&name))?.name)?;
    Ok(Json(()))
}

/// `GET /v1/models/{type}/{name}/versions`: the catalogue keeps none.
pub async fn versions(
    State(state): State<AppState>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<Vec<Value>>> {
    let (model_type, name) = parts(path)?;
    ModelType::read(&model_type)?;
    let catalog = state.fleet.catalog();
    catalog.by_name(&name).ok_or_else(|| not_found(&name))?;
    Ok(Json(Vec::new()))
}

/// Xinference answers with 400, as a name in a path is a parameter to it.
pub fn not_found(name: &str) -> Error {
    Error::invalid(
        "model_name",
        format!("Model {} not found", shorten(name, 100)),
    )
}
