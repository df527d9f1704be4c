//! Files of models on this machine. Xinference calls what tells two copies apart a version; here
//! it is the folder's name, or the model's where only one folder has it.

use std::path::{Path, PathBuf};

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ModelType, parameters};
use crate::{
    api::{AppState, extract::shorten},
    error::{Error, Result},
    fleet::CachedModel,
};

/// What is behind the `?` of these routes.
#[derive(Debug, Default, Deserialize)]
pub struct CacheFilter {
    model_name: Option<String>,
    model_version: Option<String>,
}

/// What is on this machine.
#[derive(Debug, Serialize, ToSchema)]
pub struct CacheList {
    list: Vec<CacheRow>,
}

/// One folder. `xinference cached` shows the keys as columns, in this order.
#[derive(Debug, Serialize, ToSchema)]
pub struct CacheRow {
    model_name: String,
    /// Null for a model that the catalogue does not know.
    model_type: Option<&'static str>,
    /// What to remove it by.
    model_version: String,
    model_format: &'static str,
    model_size_in_billions: Option<String>,
    quantization: &'static str,
    path: String,
    /// Its size on disk in bytes.
    bytes: u64,
    /// Which cache it is in.
    source: String,
    /// `host:port` of this server.
    actor_ip_address: String,
}

/// What a removal would remove.
#[derive(Debug, Serialize, ToSchema)]
pub struct CacheFiles {
    model_version: String,
    worker_ip: String,
    paths: Vec<String>,
}

/// Whether it was done.
#[derive(Debug, Serialize, ToSchema)]
pub struct Done {
    /// Always true; anything else is an error.
    pub result: bool,
}

/// `GET /v1/cache/models`.
pub async fn list(
    State(state): State<AppState>,
    query: Result<Query<CacheFilter>, QueryRejection>,
) -> Result<Json<CacheList>> {
    let wanted = parameters(query)?
        .model_name
        .filter(|name| !name.is_empty());
    let rows = models(&state).await?.into_iter().map(|m| row(&state, &m));
    let fits = |row: &CacheRow| wanted.as_ref().is_none_or(|name| row.model_name == *name);
    Ok(Json(CacheList {
        list: rows.filter(fits).collect(),
    }))
}

/// `GET /v1/cache/models/files`; a version that is not here has no paths.
pub async fn files(
    State(state): State<AppState>,
    query: Result<Query<CacheFilter>, QueryRejection>,
) -> Result<Json<CacheFiles>> {
    let model_version = version(query)?;
    let paths = paths(&state, &model_version).await?;
    Ok(Json(CacheFiles {
        model_version,
        worker_ip: state.settings.address.clone(),
        paths: paths.iter().map(|p| p.display().to_string()).collect(),
    }))
}

/// `DELETE /v1/cache/models`.
pub async fn remove(
    State(state): State<AppState>,
    query: Result<Query<CacheFilter>, QueryRejection>,
) -> Result<Json<Done>> {
    let model_version = version(query)?;
    let paths = paths(&state, &model_version).await?;
    if paths.is_empty() {
        let version = shorten(&model_version, 100);
        let message = format!("no files of `{version}` are on this machine");
        return Err(Error::invalid("model_version", message));
    }
    let fleet = state.fleet.clone();
    let removed = move || paths.iter().try_for_each(|path| fleet.remove_cached(path));
    blocking(removed).await??;
    Ok(Json(Done { result: true }))
}

/// What is on this machine, read off the async threads.
pub async fn models(state: &AppState) -> Result<Vec<CachedModel>> {
    let fleet = state.fleet.clone();
    blocking(move || fleet.cached()).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Internal(format!("reading the cache: {error}")))
}

fn version(query: Result<Query<CacheFilter>, QueryRejection>) -> Result<String> {
    parameters(query)?
        .model_version
        .filter(|version| !version.is_empty())
        .ok_or_else(|| Error::invalid("model_version", "`model_version` is missing"))
}

async fn paths(state: &AppState, version: &str) -> Result<Vec<PathBuf>> {
    let found = models(state).await?.into_iter().filter(|model| {
        let known = row(state, model);
        known.model_version == version || known.model_name == version || model.name == version
    });
    Ok(found.map(|model| model.path).collect())
}

fn row(state: &AppState, cached: &CachedModel) -> CacheRow {
    let catalog = state.fleet.catalog();
    let entry = catalog.by_hub_id(&cached.name);
    CacheRow {
        model_name: entry.map_or(&cached.name, |entry| &entry.name).clone(),
        model_type: entry.map(|entry| ModelType::of(entry.task).name()),
        model_version: folder_name(&cached.path),
        model_format: "pytorch",
        model_size_in_billions: None,
        quantization: "none",
        path: cached.path.display().to_string(),
        bytes: cached.bytes,
        source: cached.source.clone(),
        actor_ip_address: state.settings.address.clone(),
    }
}

fn folder_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
