//! What runs: the instances of models with their replicas, how far a launch is, and the ends of
//! models. A replica is a share of the sessions of one process, so all have the model's state.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{launch::read_replicas, parameters, parts};
use crate::{
    api::{
        AppState,
        extract::{JsonBody, WireBody},
    },
    devices::numbers_of,
    error::{Error, Result},
    fleet::{FleetModel, LaunchProgress, Stage},
};

/// What is behind the `?` of the instances.
#[derive(Debug, Default, Deserialize)]
pub struct InstanceFilter {
    model_name: Option<String>,
    model_uid: Option<String>,
}

/// A model with its replicas.
#[derive(Debug, Serialize, ToSchema)]
pub struct Instance {
    model_name: String,
    model_uid: String,
    model_version: Option<String>,
    model_ability: Vec<&'static str>,
    replica: usize,
    /// `CREATING`, `LOADING`, `READY`, `ERROR` or `TERMINATED`.
    status: &'static str,
    /// When it was launched, in seconds since the Unix epoch.
    instance_created_ts: u64,
    n_worker: u32,
    replica_statuses: Vec<Replica>,
}

/// One replica.
#[derive(Debug, Serialize, ToSchema)]
pub struct Replica {
    /// From 0.
    replica_id: usize,
    /// The uid, `-`, and the number of the replica.
    replica_model_uid: String,
    /// `host:port` of this server.
    worker_address: String,
    status: &'static str,
    /// `registering`, `loading`, `ready`, `error` or `stopping`.
    model_state: &'static str,
    created_ts: u64,
    /// Why it did not load.
    error_message: Option<String>,
    replica_uid: Option<String>,
    gpu_idx: Option<Vec<usize>>,
}

/// How far a launch is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Progress {
    /// From 0.0 to 1.0.
    progress: f64,
    /// `pending` for a model that nobody has launched.
    stage: &'static str,
    download_files: Vec<DownloadFile>,
    replicas: Vec<Replica>,
}

/// How far the download of one file is.
#[derive(Debug, Serialize, ToSchema)]
pub struct DownloadFile {
    name: String,
    /// Bytes that are here.
    downloaded: u64,
    /// Its size, when the source says it.
    total: Option<u64>,
}

/// How many replicas are wanted besides.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct ReplicaBody {
    /// A number, or its text; 1 unless said.
    #[schema(value_type = Option<u32>)]
    replica: Option<Value>,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    _options: Map<String, Value>,
}

impl WireBody for ReplicaBody {
    const FIELDS: &'static [&'static str] = &["replica"];
}

/// The replicas that were added: one by itself, several in a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Added {
    /// One.
    One(Box<Replica>),
    /// Several.
    Several {
        /// How many.
        replica: usize,
        /// Each of them.
        replicas: Vec<Replica>,
    },
}

/// What is left after a replica was ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct Remaining {
    remaining_replicas: usize,
}

/// The body of an abort, of which nothing is used.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct AbortBody {
    /// For how many seconds the request's id would be refused.
    #[serde(rename = "block_duration")]
    #[schema(value_type = Option<f64>)]
    _block_duration: Option<Value>,
}

impl WireBody for AbortBody {
    const FIELDS: &'static [&'static str] = &["block_duration"];
}

/// What became of an abort.
#[derive(Debug, Serialize, ToSchema)]
pub struct Aborted {
    /// `Not found`, in Xinference's words: an inference has no id that a client could know.
    msg: &'static str,
}

/// `GET /v1/models/instances`.
pub async fn instances(
    State(state): State<AppState>,
    query: Result<Query<InstanceFilter>, QueryRejection>,
) -> Result<Json<Vec<Instance>>> {
    let filter = parameters(query)?;
    let wanted = |model: &FleetModel| filter.fits(model);
    let models = state.fleet.models().into_iter().filter(wanted);
    let address = &state.settings.address;
    Ok(Json(models.map(|m| Instance::new(&m, address)).collect()))
}

/// `GET /v1/models/{model}/progress`; a model that nobody launched is at the beginning.
pub async fn progress(
    State(state): State<AppState>,
    model: Result<Path<String>, PathRejection>,
) -> Result<Json<Progress>> {
    let model = match state.fleet.model(&parts(model)?) {
        Ok(model) => Some(model),
        Err(Error::ModelNotFound { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(Json(Progress::new(model.as_ref(), &state.settings.address)))
}

/// `GET /v1/models/{model}/replicas`.
pub async fn replicas(
    State(state): State<AppState>,
    model: Result<Path<String>, PathRejection>,
) -> Result<Json<Vec<Replica>>> {
    let model = state.fleet.model(&parts(model)?)?;
    Ok(Json(replicas_of(&model, &state.settings.address)))
}

/// `POST /v1/models/{model}/replicas`: so many more.
pub async fn add_replicas(
    State(state): State<AppState>,
    model: Result<Path<String>, PathRejection>,
    JsonBody(body): JsonBody<ReplicaBody>,
) -> Result<Json<Added>> {
    let uid = parts(model)?;
    let more = read_replicas(body.replica.as_ref())?;
    let before = state.fleet.model(&uid)?.spec.replicas;
    let sum = Value::from(before.saturating_add(more));
    state.fleet.scale(&uid, read_replicas(Some(&sum))?)?;
    // Clients use what was added as soon as they are told of it.
    state.fleet.wait_ready(&uid).await?;
    let model = state.fleet.model(&uid)?;
    let mut added = replicas_of(&model, &state.settings.address);
    added.drain(..before.min(added.len()));
    Ok(Json(match added.pop() {
        Some(one) if added.is_empty() => Added::One(Box::new(one)),
        last => {
            added.extend(last);
            Added::Several {
                replica: added.len(),
                replicas: added,
            }
        }
    }))
}

/// `DELETE /v1/models/{model}/replicas/{replica}`: one less; the last one ends the model.
pub async fn end_replica(
    State(state): State<AppState>,
    path: Result<Path<(String, usize)>, PathRejection>,
) -> Result<Json<Remaining>> {
    let (uid, replica) = parts(path)?;
    let replicas = state.fleet.model(&uid)?.spec.replicas;
    if replica >= replicas {
        let message = format!("model `{uid}` has the replicas 0 to {}", replicas - 1);
        return Err(Error::invalid("replica_id", message));
    }
    let remaining_replicas = replicas - 1;
    if remaining_replicas == 0 {
        state.fleet.terminate(&uid).await?;
    } else {
        state.fleet.scale(&uid, remaining_replicas)?;
        state.fleet.wait_ready(&uid).await?;
    }
    Ok(Json(Remaining { remaining_replicas }))
}

/// `GET /v1/models/{model}/events`: none are kept; the log has them.
pub async fn events(
    State(state): State<AppState>,
    model: Result<Path<String>, PathRejection>,
) -> Result<Json<Vec<Value>>> {
    state.fleet.model(&parts(model)?)?;
    Ok(Json(Vec::new()))
}

/// `POST /v1/models/{model}/cancel`.
pub async fn cancel(
    State(state): State<AppState>,
    model: Result<Path<String>, PathRejection>,
) -> Result<Json<()>> {
    state.fleet.cancel(&parts(model)?)?;
    Ok(Json(()))
}

/// `POST /v1/models/{model}/requests/{request}/abort`.
pub async fn abort(
    State(state): State<AppState>,
    path: Result<Path<(String, String)>, PathRejection>,
    JsonBody(_): JsonBody<AbortBody>,
) -> Result<Json<Aborted>> {
    let (model, _) = parts(path)?;
    state.fleet.model(&model)?;
    Ok(Json(Aborted { msg: "Not found" }))
}

/// `DELETE /v1/models/{model}`.
pub async fn terminate(
    State(state): State<AppState>,
    model: Result<Path<String>, PathRejection>,
) -> Result<Json<()>> {
    state.fleet.terminate(&parts(model)?).await?;
    Ok(Json(()))
}

/// `DELETE /v1/models/{owner}/{name}`: a model by its hub id.
pub async fn terminate_hub_id(
    State(state): State<AppState>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<()>> {
    let (owner, name) = parts(path)?;
    state.fleet.terminate(&format!("{owner}/{name}")).await?;
    Ok(Json(()))
}

impl InstanceFilter {
    /// A uid decides alone: whoever knows it may have another name of the model in mind.
    fn fits(&self, model: &FleetModel) -> bool {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let answers = |name: &String| model.info.name == *name || model.info.aliases.contains(name);
        let known = |name: &String| {
            let entry = model.known.as_ref();
            entry.is_some_and(|entry| entry.answers_to(name) || entry.is_published_as(name))
        };
        match (given(&self.model_uid), given(&self.model_name)) {
            (Some(uid), _) => answers(&uid),
            (None, Some(name)) => answers(&name) || known(&name),
            (None, None) => true,
        }
    }
}

impl Instance {
    fn new(model: &FleetModel, address: &str) -> Self {
        let replica_statuses = replicas_of(model, address);
        Self {
            model_name: super::records::model_name(model).to_owned(),
            model_uid: model.info.name.clone(),
            model_version: None,
            model_ability: super::records::abilities(model).to_vec(),
            replica: replica_statuses.len(),
            status: states(model.progress.stage).0,
            instance_created_ts: model.launched,
            n_worker: 1,
            replica_statuses,
        }
    }
}

fn replicas_of(model: &FleetModel, address: &str) -> Vec<Replica> {
    let (status, model_state) = states(model.progress.stage);
    let encoder = model.info.encoder.as_ref();
    let gpus = encoder.map_or_else(Vec::new, |encoder| numbers_of(&encoder.device));
    // Those of a launch are shared out in their order, as Xinference does it.
    let replicas = model.spec.replicas;
    let own = |replica: usize| match gpus.len().checked_div(replicas) {
        None | Some(0) => gpus.clone(),
        Some(each) => gpus[replica * each..][..each].to_vec(),
    };
    let replica = |replica_id| Replica {
        replica_id,
        replica_model_uid: format!("{}-{replica_id}", model.info.name),
        worker_address: address.to_owned(),
        status,
        model_state,
        created_ts: model.launched,
        error_message: model.progress.error.clone(),
        replica_uid: None,
        gpu_idx: Some(own(replica_id)).filter(|gpus| !gpus.is_empty()),
    };
    (0..replicas).map(replica).collect()
}

/// The status of an instance and the state of its model, in Xinference's words. A model that
/// sleeps answers the next request, so it is ready.
fn states(stage: Stage) -> (&'static str, &'static str) {
    match stage {
        Stage::Queued => ("CREATING", "registering"),
        Stage::Fetching | Stage::Loading | Stage::Verifying | Stage::Warming => {
            ("LOADING", "loading")
        }
        Stage::Ready | Stage::Asleep => ("READY", "ready"),
        Stage::Failed => ("ERROR", "error"),
        Stage::Terminating => ("TERMINATED", "stopping"),
    }
}

impl Progress {
    fn new(model: Option<&FleetModel>, address: &str) -> Self {
        let Some(model) = model else {
            return Self {
                progress: 0.0,
                stage: "pending",
                download_files: Vec::new(),
                replicas: Vec::new(),
            };
        };
        let LaunchProgress {
            fraction,
            stage,
            files,
            ..
        } = &model.progress;
        let file = |file: &crate::fleet::FileProgress| DownloadFile {
            name: file.name.clone(),
            downloaded: file.bytes,
            total: file.bytes_total,
        };
        Self {
            progress: *fraction,
            stage: stage.name(),
            download_files: files.iter().map(file).collect(),
            replicas: replicas_of(model, address),
        }
    }
}
