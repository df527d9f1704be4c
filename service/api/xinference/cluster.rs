//! The pages about a cluster, of which this server is the supervisor and the only worker, and the
//! pages that show who may call.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use utoipa::ToSchema;

use super::{cache::Done, flag, parameters, records};
use crate::{
    api::{
        AppState,
        extract::{JsonBody, WireBody},
    },
    error::{Error, Result},
    unix_time,
};

/// Whether keys are required.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClusterAuth {
    auth: bool,
}

/// Who wants to log in. Users are not kept: the password is a key, whatever the name.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct LoginBody {
    #[serde(rename = "username")]
    #[schema(rename = "username")]
    _username: Option<String>,
    password: Option<String>,
}

impl WireBody for LoginBody {
    const FIELDS: &'static [&'static str] = &["username", "password"];
}

/// What to send from now on.
#[derive(Debug, Serialize, ToSchema)]
pub struct Login {
    access_token: String,
    token_type: &'static str,
    refresh_token: String,
}

/// How the one worker is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    /// Seconds since the server was started.
    uptime: u64,
    workers: BTreeMap<String, WorkerStatus>,
}

/// A worker as the supervisor sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct WorkerStatus {
    /// Seconds since the Unix epoch.
    update_time: f64,
    failure_remaining_count: u32,
    status: DeviceStatus,
}

/// What a worker has.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeviceStatus {
    cpu: CpuStatus,
}

/// Processor and memory, in bytes.
#[derive(Debug, Serialize, ToSchema)]
pub struct CpuStatus {
    /// The share of the processor in use, from 0 to 1, as far as the load of a minute tells it.
    usage: f64,
    /// Cores.
    total: usize,
    memory_used: u64,
    memory_available: u64,
    memory_total: u64,
}

/// A node of the cluster.
#[derive(Debug, Serialize, ToSchema)]
pub struct Node {
    /// `Supervisor` or `Worker`.
    node_type: &'static str,
    ip_address: String,
    gpu_count: usize,
    gpu_vram_total: u64,
    /// With `detailed=true`: cores, memory and what of them is free.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    details: Option<NodeDetails>,
}

/// What is told of a node besides.
#[derive(Debug, Serialize)]
pub struct NodeDetails {
    gpu_vram_available: u64,
    gpu_utilization: f64,
    /// Cores without work.
    cpu_available: f64,
    cpu_count: usize,
    mem_used: u64,
    mem_available: u64,
    mem_total: u64,
}

/// What is behind the `?` of the nodes.
#[derive(Debug, Default, Deserialize)]
pub struct NodeParameters {
    detailed: Option<String>,
}

/// The version of this program, where clients look for that of Xinference.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClusterVersion {
    version: &'static str,
    #[serde(rename = "full-revisionid")]
    #[schema(rename = "full-revisionid")]
    full_revisionid: Option<String>,
}

/// A worker and what it serves.
#[derive(Debug, Serialize, ToSchema)]
pub struct Worker {
    #[serde(rename = "work-ip")]
    #[schema(rename = "work-ip")]
    work_ip: String,
    /// The names of models by uid.
    models: BTreeMap<String, String>,
}

/// Where the supervisor is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Supervisor {
    supervisor_ip: String,
}

/// Model families by what they can do. Chat models are not served here yet.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Families {
    chat: Vec<String>,
    generate: Vec<String>,
    tools: Vec<String>,
    vision: Vec<String>,
    reasoning: Vec<String>,
    audio: Vec<String>,
    omni: Vec<String>,
    hybrid: Vec<String>,
}

/// Model families that vLLM would run.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct VllmModels {
    chat: Vec<String>,
    generate: Vec<String>,
}

/// `GET /v1/cluster/auth`. Every client of Xinference asks this first.
pub async fn auth(State(state): State<AppState>) -> Json<ClusterAuth> {
    Json(ClusterAuth {
        auth: state.settings.keys.required(),
    })
}

/// `POST /token`: the password, when it is a key, is the token.
pub async fn token(
    State(state): State<AppState>,
    JsonBody(body): JsonBody<LoginBody>,
) -> Result<Json<Login>> {
    let password = body.password.unwrap_or_default();
    let keys = &state.settings.keys;
    if keys.required() && !keys.knows(&password) {
        return Err(Error::Unauthorized(
            "the password must be an API key; any user name goes with it",
        ));
    }
    Ok(Json(Login {
        refresh_token: password.clone(),
        access_token: password,
        token_type: "bearer",
    }))
}

/// `GET /status`.
pub async fn status(State(state): State<AppState>) -> Json<Status> {
    let machine = Machine::now();
    let cpu = CpuStatus {
        usage: machine.load,
        total: machine.cores,
        memory_used: machine.memory_total - machine.memory_available,
        memory_available: machine.memory_available,
        memory_total: machine.memory_total,
    };
    let worker = WorkerStatus {
        update_time: unix_time::now().as_secs_f64(),
        failure_remaining_count: 5,
        status: DeviceStatus { cpu },
    };
    Json(Status {
        uptime: state.lifetime.uptime().as_secs(),
        workers: BTreeMap::from([(state.settings.address.clone(), worker)]),
    })
}

/// `GET /v1/address`: a JSON string.
pub async fn address(State(state): State<AppState>) -> Json<String> {
    Json(state.settings.address.clone())
}

/// `GET /v1/cluster/info`.
pub async fn info(
    State(state): State<AppState>,
    query: Result<Query<NodeParameters>, QueryRejection>,
) -> Result<Json<Vec<Node>>> {
    let detailed = flag(parameters(query)?.detailed.as_deref()) == Some(true);
    let address = &state.settings.address;
    let ip = address.rsplit_once(':').map_or(&**address, |(ip, _)| ip);
    let gpus = state.settings.devices.gpus();
    let node = |node_type| Node {
        node_type,
        ip_address: ip.to_owned(),
        gpu_count: gpus.len(),
        gpu_vram_total: gpus.iter().map(|gpu| gpu.memory_bytes).sum(),
        details: detailed.then(|| NodeDetails::of(&Machine::now())),
    };
    Ok(Json(vec![node("Supervisor"), node("Worker")]))
}

/// `GET /v1/cluster/version`.
pub async fn version() -> Json<ClusterVersion> {
    Json(ClusterVersion {
        version: env!("CARGO_PKG_VERSION"),
        full_revisionid: None,
    })
}

/// `GET /v1/cluster/devices`: how many GPUs models can run on.
pub async fn devices(State(state): State<AppState>) -> Json<usize> {
    Json(state.settings.devices.gpus().len())
}

/// `GET /v1/cluster/ui_config`: nothing to configure.
pub async fn ui_config() -> Json<BTreeMap<String, Value>> {
    Json(BTreeMap::new())
}

/// `GET /v1/workers`.
pub async fn workers(State(state): State<AppState>) -> Json<Vec<Worker>> {
    let models = state.fleet.models();
    let named =
        |m: &crate::fleet::FleetModel| (m.info.name.clone(), records::model_name(m).to_owned());
    Json(vec![Worker {
        work_ip: state.settings.address.clone(),
        models: models.iter().map(named).collect(),
    }])
}

/// `GET /v1/supervisor`.
pub async fn supervisor(State(state): State<AppState>) -> Json<Supervisor> {
    Json(Supervisor {
        supervisor_ip: state.settings.address.clone(),
    })
}

/// `DELETE /v1/clusters`: answers, then finishes what is inside and ends the server.
pub async fn stop(State(state): State<AppState>) -> Json<Done> {
    state.lifetime.end();
    Json(Done { result: true })
}

/// `GET /v1/models/prompts`: chat templates come with the models.
pub async fn prompts() -> Json<BTreeMap<String, Value>> {
    Json(BTreeMap::new())
}

/// `GET /v1/models/families`.
pub async fn families() -> Json<Families> {
    Json(Families::default())
}

/// `GET /v1/models/vllm-supported`.
pub async fn vllm_supported() -> Json<VllmModels> {
    Json(VllmModels::default())
}

impl NodeDetails {
    fn of(machine: &Machine) -> Self {
        Self {
            gpu_vram_available: 0,
            gpu_utilization: 0.0,
            cpu_available: (1.0 - machine.load) * machine.cores as f64,
            cpu_count: machine.cores,
            mem_used: machine.memory_total - machine.memory_available,
            mem_available: machine.memory_available,
            mem_total: machine.memory_total,
        }
    }
}

/// What the machine has, or the container that limits it.
struct Machine {
    /// From 0 to 1.
    load: f64,
    cores: usize,
    memory_total: u64,
    /// At most the total.
    memory_available: u64,
}

impl Machine {
    fn now() -> Self {
        let memory = MemoryRefreshKind::nothing().with_ram();
        let wanted = RefreshKind::nothing().with_memory(memory);
        let system = System::new_with_specifics(wanted.with_cpu(CpuRefreshKind::nothing()));
        let (total, available) = match system.cgroup_limits() {
            Some(limits) => (limits.total_memory, limits.free_memory),
            None => (system.total_memory(), system.available_memory()),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let load = System::load_average().one / cores as f64;
        Self {
            load: load.clamp(0.0, 1.0),
            cores,
            memory_total: total,
            memory_available: available.min(total),
        }
    }
}
