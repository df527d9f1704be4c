//! `POST /v1/models`: what a client of Xinference sends to have a model served → a
//! [`LaunchSpec`]. Options that have no meaning here are handed on by name, to be logged.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use retort_models::{DecoderWeights, DtypeChoice, catalog::Catalog};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    ModelType, flag,
    gpus::{self, Asked},
    parameters,
};
use crate::{
    api::{
        AppState,
        extract::{JsonBody, WireBody, shorten},
    },
    config::{Generation, KV_CACHE_MIB_MAX, REPLICAS_MAX, check_name, is_directory},
    devices::Devices,
    error::{Error, Result},
    fleet::LaunchSpec,
    keep_alive::KeepAlive,
};

const MIB: u64 = 1 << 20;

/// The body of a launch. Whatever else it has is an option of the model.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct LaunchBody {
    /// A name of the catalogue, a hub id, or, with `model_path`, any name.
    model_name: Option<String>,
    /// The name to serve it under; by default the model's own.
    model_uid: Option<String>,
    /// `embedding`, `rerank` or `LLM`; by default what the catalogue or the files say. Clients of
    /// Xinference that are told nothing send `LLM`.
    model_type: Option<String>,
    /// A directory of the server's machine that has the files.
    model_path: Option<String>,
    /// Branch, tag or commit.
    model_revision: Option<String>,
    /// How many times the usual number of sessions: a number, or its text.
    #[schema(value_type = Option<u32>)]
    replica: Option<Value>,
    /// GPUs to run on: a number, or a list whose length is a multiple of `replica`.
    #[schema(value_type = Option<Vec<u32>>)]
    gpu_idx: Option<Value>,
    /// How many GPUs for each replica: a number, or `auto` or null, which leave it to the server.
    #[schema(value_type = Option<String>)]
    n_gpu: Option<Value>,
    /// Where it runs, as in the configuration: `auto`, `cpu`, `cuda`, `cuda:0,1`.
    device: Option<String>,
    /// The longest input in tokens.
    max_tokens: Option<Value>,
    /// How token vectors become one.
    pooling: Option<String>,
    /// What it is computed in: `auto`, `fp32`, `fp16`, `bf16` or `int8`; by default what is
    /// configured.
    dtype: Option<String>,
    /// The same in the words of Xinference and PyTorch: `float32` or `bfloat16`.
    torch_dtype: Option<Value>,
    /// The same: `int8`, and `int4` for a model that generates. Any other means nothing here.
    quantization: Option<Value>,
    /// How a model that generates keeps its matrices: `fp32`, `bf16`, `int8` or `int4`.
    weights: Option<String>,
    /// MiB for the keys and values of all conversations with a model that generates.
    kv_cache_mib: Option<Value>,
    /// How long it stays in memory without requests: seconds, or a text such as `5m`; below 0 for
    /// ever.
    #[schema(value_type = Option<String>)]
    keep_alive: Option<Value>,
    /// Whether it returns after a restart.
    persist: Option<bool>,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    options: Map<String, Value>,
}

impl WireBody for LaunchBody {
    const FIELDS: &'static [&'static str] = &[
        "model_name",
        "model_uid",
        "model_type",
        "model_path",
        "model_revision",
        "pooling",
        "device",
        "dtype",
        "weights",
        "persist",
    ];
}

/// What is behind the `?` of a launch.
#[derive(Debug, Default, Deserialize)]
pub struct LaunchParameters {
    wait_ready: Option<String>,
}

/// The answer to a launch.
#[derive(Debug, Serialize, ToSchema)]
pub struct LaunchAnswer {
    /// The name it is served under.
    model_uid: String,
}

/// Options that the clients send whether asked or not, in their state of rest or not: nobody
/// learns anything from a warning about them.
const UNREMARKABLE: &[&str] = &[
    "model_engine",
    "model_format",
    "model_size_in_billions",
    "n_worker",
    "worker_ip",
    "download_hub",
    "trust_remote_code",
    "enable_thinking",
    "wait_ready",
];

/// `POST /v1/models`: at once, or with `wait_ready`, which is the default, once it answers.
pub async fn launch(
    State(state): State<AppState>,
    query: Result<Query<LaunchParameters>, QueryRejection>,
    JsonBody(body): JsonBody<LaunchBody>,
) -> Result<Json<LaunchAnswer>> {
    let wait_ready = flag(parameters(query)?.wait_ready.as_deref()).unwrap_or(true);
    let means = Means {
        catalog: &state.fleet.catalog(),
        devices: &state.settings.devices,
        defaults: &state.fleet.spec(""),
    };
    let spec = spec(body, &means)?;
    refuse_elsewhere(&spec, &state)?;
    let launched = state.fleet.launch(spec)?;
    if wait_ready {
        state.fleet.wait_ready(&launched.uid).await?;
    }
    Ok(Json(LaunchAnswer {
        model_uid: launched.uid,
    }))
}

/// What a body is read by.
struct Means<'a> {
    /// Tells names from misspelt ones before anything is begun.
    catalog: &'a Catalog,
    /// What there is to run on.
    devices: &'a Devices,
    /// What holds where the body says nothing.
    defaults: &'a LaunchSpec,
}

/// What a body asks for.
fn spec(body: LaunchBody, means: &Means<'_>) -> Result<LaunchSpec> {
    let Means {
        catalog,
        devices,
        defaults,
    } = *means;
    let given = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
    let name = given(body.model_name)
        .ok_or_else(|| Error::invalid("model_name", "`model_name` is missing"))?;
    let path = given(body.model_path);
    let model_type = match given(body.model_type) {
        Some(text) => Some(ModelType::read(&text)?),
        None => None,
    };
    check_type(model_type, &name, path.as_deref(), catalog)?;
    let uid = given(body.model_uid).or_else(|| path.is_some().then(|| name.clone()));
    if let Some(uid) = &uid {
        check_uid(uid)?;
    }
    let replicas = read_replicas(body.replica.as_ref())?;
    let asked = Asked {
        gpu_idx: body.gpu_idx.as_ref(),
        n_gpu: body.n_gpu.as_ref(),
        device: body.device.as_deref().filter(|text| !text.is_empty()),
        replicas,
    };
    let device = gpus::device(&asked, devices)?;
    let reference = match path {
        Some(path) => path,
        None => resolved(name, catalog)?,
    };
    let dtype = match given(body.dtype) {
        Some(name) => Some(read_dtype(&name)?),
        None => implied_dtype([&body.torch_dtype, &body.quantization]),
    };
    let weights = match given(body.weights) {
        Some(name) => Some(read_weights(&name)?),
        None => implied_weights(body.quantization.as_ref(), dtype),
    };
    let kv_cache = read_kv_cache(body.kv_cache_mib.as_ref())?;
    let mut options = body.options;
    if let Some(other) = body.torch_dtype.filter(|_| dtype.is_none()) {
        options.insert("torch_dtype".into(), other);
    }
    let set = |(_, value): &(&String, &Value)| !value.is_null() && **value != Value::Bool(false);
    let remarkable = |(name, _): &(&String, &Value)| !UNREMARKABLE.contains(&name.as_str());
    let ignored = options.iter().filter(set).filter(remarkable);
    Ok(LaunchSpec {
        uid,
        task: model_type.and_then(ModelType::task),
        replicas,
        max_tokens: read_count("max_tokens", body.max_tokens.as_ref())?,
        pooling: read_pooling(given(body.pooling))?,
        keep_alive: read_keep_alive(body.keep_alive.as_ref())?.unwrap_or(defaults.keep_alive),
        device,
        dtype: dtype.unwrap_or(defaults.dtype),
        generation: Generation {
            weights: weights.unwrap_or(defaults.generation.weights),
            kv_cache_bytes: kv_cache.unwrap_or(defaults.generation.kv_cache_bytes),
        },
        persist: body.persist.unwrap_or(defaults.persist),
        revision: given(body.model_revision),
        ignored: ignored.map(|(name, _)| shorten(name, 100)).collect(),
        ..LaunchSpec::of(reference)
    })
}

/// Refuses a type that is not served, and says which one the model has.
fn check_type(
    asked: Option<ModelType>,
    name: &str,
    path: Option<&str>,
    catalog: &Catalog,
) -> Result<()> {
    let Some(asked) = asked else { return Ok(()) };
    let known = catalog.find(name).ok();
    let is_found = path.is_some() || name.contains('/') || is_directory(name);
    let message = match known.map(|entry| ModelType::of(entry.task).name()) {
        // What an encoder can do besides is told by its files.
        _ if matches!(asked, ModelType::Embedding | ModelType::Rerank) => return Ok(()),
        None if asked == ModelType::Llm && is_found => return Ok(()),
        Some(own) => format!(
            "model `{}` is of the type `{own}`, not `{}`; launch it with `model_type` `{own}`",
            shorten(name, 100),
            asked.name()
        ),
        None if asked == ModelType::Llm => format!(
            "Model not found, name: {}; no `LLM` is known by its name here: give a hub id or a \
             `model_path`; for others, say `model_type` `embedding` or `rerank`, and for a `LLM` \
             of another server, specify the `model_engine` field",
            shorten(name, 100)
        ),
        None => format!("models of the type `{}` are not served", asked.name()),
    };
    Err(Error::invalid("model_type", message))
}

/// Checks the name that clients will put into paths.
///
/// # Errors
/// When it cannot be part of a path, or is what Xinference calls a replica.
fn check_uid(uid: &str) -> Result<()> {
    check_name(uid).map_err(|error| Error::invalid("model_uid", error.message))?;
    let number = uid.rsplit_once("-rep").map(|(_, number)| number);
    if number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
        let message = format!("the uid `{uid}` ends like the name of a replica; choose another");
        return Err(Error::invalid("model_uid", message));
    }
    Ok(())
}

/// Refuses a name of a server elsewhere: whoever uses it would get another model's answers.
///
/// # Errors
/// [`Error::ServedElsewhere`].
fn refuse_elsewhere(spec: &LaunchSpec, state: &AppState) -> Result<()> {
    let uid = state.fleet.wished_uid(spec);
    if !state.settings.upstreams.has(&uid) {
        return Ok(());
    }
    Err(Error::ServedElsewhere {
        uid,
        wanted: shorten(&spec.reference, 100),
    })
}

/// A name that leads to a model: one of the catalogue, a hub id or a directory.
fn resolved(name: String, catalog: &Catalog) -> Result<String> {
    if is_directory(&name) || name.contains('/') {
        return Ok(name);
    }
    match catalog.find(&name) {
        Ok(_) => Ok(name),
        Err(error) => Err(Error::invalid(
            "model_name",
            format!("Model not found, name: {}: {error}", shorten(&name, 100)),
        )),
    }
}

/// A whole number from 1 up, or its text. Booleans and fractions are neither.
fn read_count(field: &'static str, value: Option<&Value>) -> Result<Option<usize>> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match number.and_then(|n| usize::try_from(n).ok()) {
        Some(count) if count >= 1 => Ok(Some(count)),
        _ => Err(Error::invalid(
            field,
            format!(
                "`{field}` is `{}`; give a whole number from 1 up",
                shorten(&value.to_string(), 100)
            ),
        )),
    }
}

pub(super) fn read_replicas(value: Option<&Value>) -> Result<usize> {
    let replicas = read_count("replica", value)?.unwrap_or(1);
    if replicas > REPLICAS_MAX {
        let message = format!("`replica` is `{replicas}`, more than the limit of {REPLICAS_MAX}");
        return Err(Error::invalid("replica", message));
    }
    Ok(replicas)
}

/// MiB, as bytes.
fn read_kv_cache(value: Option<&Value>) -> Result<Option<u64>> {
    let Some(mib) = read_count("kv_cache_mib", value)? else {
        return Ok(None);
    };
    let (mib, limit) = (mib as u64, KV_CACHE_MIB_MAX.unsigned_abs());
    if mib <= limit {
        return Ok(Some(mib * MIB));
    }
    Err(Error::invalid(
        "kv_cache_mib",
        format!("`kv_cache_mib` is `{mib}`, more than the limit of {limit}"),
    ))
}

fn read_dtype(name: &str) -> Result<DtypeChoice> {
    let read = name.to_ascii_lowercase().parse();
    read.map_err(|_| {
        let known = DtypeChoice::ALL.map(DtypeChoice::name).join(", ");
        let name = shorten(name, 100);
        Error::invalid("dtype", format!("`dtype` is `{name}`; known are {known}"))
    })
}

/// What the options of other servers mean, where they mean something here. `float16`, which GPUs
/// compute in, and quantizations of files leave the choice as it is.
fn implied_dtype(options: [&Option<Value>; 2]) -> Option<DtypeChoice> {
    let [torch_dtype, quantization] = options.map(|option| option.as_ref()?.as_str());
    match (quantization, torch_dtype) {
        (Some("int8"), _) => Some(DtypeChoice::Int8),
        (_, Some("float32" | "torch.float32")) => Some(DtypeChoice::Fp32),
        (_, Some("bfloat16" | "torch.bfloat16")) => Some(DtypeChoice::Bf16),
        _ => None,
    }
}

fn read_weights(name: &str) -> Result<DecoderWeights> {
    let read = name.to_ascii_lowercase().parse();
    read.map_err(|_| {
        let known = DecoderWeights::ALL.map(DecoderWeights::name).join(", ");
        let name = shorten(name, 100);
        Error::invalid(
            "weights",
            format!("`weights` is `{name}`; known are {known}"),
        )
    })
}

/// What the words of other servers, or those for any model, mean for one that generates.
fn implied_weights(
    quantization: Option<&Value>,
    dtype: Option<DtypeChoice>,
) -> Option<DecoderWeights> {
    let name = quantization.and_then(Value::as_str).unwrap_or_default();
    match name.to_ascii_lowercase().as_str() {
        "int8" | "8-bit" => Some(DecoderWeights::Int8),
        "int4" | "4-bit" => Some(DecoderWeights::Int4),
        _ => match dtype? {
            // What is for GPUs leaves the choice open, as a decoder runs on none.
            DtypeChoice::Auto | DtypeChoice::Fp16 => None,
            DtypeChoice::Fp32 => Some(DecoderWeights::Fp32),
            DtypeChoice::Bf16 => Some(DecoderWeights::Bf16),
            DtypeChoice::Int8 => Some(DecoderWeights::Int8),
        },
    }
}

fn read_pooling(name: Option<String>) -> Result<Option<retort_models::Pooling>> {
    let Some(name) = name else { return Ok(None) };
    match name.to_ascii_lowercase().parse() {
        Ok(pooling) => Ok(Some(pooling)),
        Err(_) => {
            let known: Vec<&str> = retort_models::Pooling::ALL
                .iter()
                .map(|pooling| pooling.name())
                .collect();
            let message = format!(
                "there is no pooling `{}`; known are {}",
                shorten(&name, 100),
                known.join(", ")
            );
            Err(Error::invalid("pooling", message))
        }
    }
}

/// Seconds, or a text with a unit.
fn read_keep_alive(value: Option<&Value>) -> Result<Option<KeepAlive>> {
    let read = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_f64().map(KeepAlive::from_seconds),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) => None,
    };
    read.map(Some).ok_or_else(|| {
        let value = value.map(ToString::to_string).unwrap_or_default();
        let message = format!(
            "`keep_alive` is `{}`; give seconds, or a text such as `5m`",
            shorten(&value, 100)
        );
        Error::invalid("keep_alive", message)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<LaunchSpec> {
        let body = serde_json::from_value(body.clone()).unwrap();
        let means = Means {
            catalog: &Catalog::compiled().unwrap(),
            devices: &Devices::default(),
            defaults: &LaunchSpec::of(""),
        };
        spec(body, &means)
    }

    #[test]
    fn what_a_launch_leaves_open_is_as_configured() {
        let defaults = LaunchSpec {
            keep_alive: KeepAlive::For(Duration::from_secs(7)),
            persist: true,
            dtype: DtypeChoice::Fp32,
            ..LaunchSpec::of("")
        };
        let read = |body: Value| {
            let body = serde_json::from_value(body).unwrap();
            let means = Means {
                catalog: &Catalog::compiled().unwrap(),
                devices: &Devices::default(),
                defaults: &defaults,
            };
            let spec = spec(body, &means).unwrap();
            (spec.keep_alive, spec.persist, spec.dtype)
        };
        let open = json!({"model_name": "bge-m3"});
        assert_eq!(read(open), (defaults.keep_alive, true, DtypeChoice::Fp32));
        let said = json!({"model_name": "bge-m3", "keep_alive": -1, "persist": false,
            "dtype": "auto"});
        let expected = (KeepAlive::Forever, false, DtypeChoice::Auto);
        assert_eq!(read(said), expected);
    }

    fn refusal(body: &Value) -> String {
        match read(body) {
            Err(Error::InvalidRequest { message, .. }) => message,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn what_the_command_line_of_xinference_sends_is_taken_without_a_remark() {
        let spec = read(&json!({
            "model_uid": null, "model_name": "bge-m3", "model_engine": null,
            "peft_model_config": null, "model_type": "embedding", "model_size_in_billions": null,
            "model_format": null, "quantization": null, "replica": 1, "n_worker": 1,
            "n_gpu": "auto", "request_limits": null, "worker_ip": null, "gpu_idx": null,
            "replica_config": null, "model_path": null, "enable_thinking": false,
            "enable_virtual_env": null, "virtual_env_packages": null,
            "virtual_env_find_links": null, "envs": null, "trust_remote_code": true,
        }))
        .unwrap();
        let expected = LaunchSpec {
            task: Some(crate::engine::request::Task::Embed),
            ..LaunchSpec::of("bge-m3")
        };
        assert_eq!(spec, expected);
    }

    #[test]
    fn options_without_a_meaning_here_are_handed_on_and_others_are_read() {
        let spec = read(&json!({
            "model_name": "mine", "model_path": "/models/mine", "model_type": "rerank",
            "batch_size": 8, "torch_dtype": "float16", "use_fp16": false, "max_tokens": "256",
            "keep_alive": "5m", "replica": "2", "n_gpu": 0, "persist": true,
        }))
        .unwrap();
        assert_eq!(spec.uid.as_deref(), Some("mine"));
        assert_eq!(spec.reference, "/models/mine");
        assert_eq!((spec.max_tokens, spec.replicas), (Some(256), 2));
        assert_eq!(spec.keep_alive, KeepAlive::For(Duration::from_secs(300)));
        assert!(spec.persist);
        assert_eq!(spec.ignored, ["batch_size", "torch_dtype"]);
    }

    #[test]
    fn a_dtype_is_read_in_the_words_of_three_programs() {
        let asked = |key: &str, value: &str| {
            let spec = read(&json!({"model_name": "bge-m3", key: value})).unwrap();
            (spec.dtype, spec.ignored)
        };
        let none = Vec::new;
        assert_eq!(asked("dtype", "BF16"), (DtypeChoice::Bf16, none()));
        assert_eq!(asked("torch_dtype", "float32"), (DtypeChoice::Fp32, none()));
        assert_eq!(asked("quantization", "int8"), (DtypeChoice::Int8, none()));
        assert_eq!(asked("quantization", "none"), (DtypeChoice::Auto, none()));
        let half = asked("torch_dtype", "float16");
        assert_eq!(half, (DtypeChoice::Auto, vec!["torch_dtype".to_owned()]));
        let message = refusal(&json!({"model_name": "bge-m3", "dtype": "fp8"}));
        assert!(
            message.contains("`fp8`") && message.contains("bf16"),
            "{message}"
        );
    }

    #[test]
    fn what_generates_is_launched_by_its_id_and_kept_as_wished() {
        let body = |more: Value| {
            let mut body = json!({"model_name": "org/chat", "model_type": "LLM"});
            let fields = more.as_object().unwrap().clone();
            body.as_object_mut().unwrap().extend(fields);
            body
        };
        let read = |more| read(&body(more)).unwrap();
        let plain = read(json!({}));
        assert_eq!(plain.task, Some(crate::engine::request::Task::Generate));
        assert_eq!(plain.generation, Generation::default());
        let weights = |more| read(more).generation.weights;
        assert_eq!(weights(json!({"weights": "Int4"})), DecoderWeights::Int4);
        let quantized = json!({"quantization": "4-bit"});
        assert_eq!(weights(quantized), DecoderWeights::Int4);
        assert_eq!(weights(json!({"dtype": "int8"})), DecoderWeights::Int8);
        let cache = read(json!({"kv_cache_mib": "64"}))
            .generation
            .kv_cache_bytes;
        assert_eq!(cache, 64 << 20);
        let message = refusal(&body(json!({"weights": "int2"})));
        assert!(
            message.contains("`int2`") && message.contains("int4"),
            "{message}"
        );
    }

    #[test]
    fn a_misspelt_name_is_told_the_right_one() {
        let message = refusal(&json!({"model_name": "bge-m4", "model_type": "embedding"}));
        assert!(
            message.starts_with("Model not found, name: bge-m4"),
            "{message}"
        );
        assert!(message.contains("`bge-m3`"), "{message}");
    }

    #[test]
    fn the_type_that_clients_send_unasked_is_corrected() {
        let message = refusal(&json!({"model_name": "bge-m3", "model_type": "LLM"}));
        assert!(message.contains("`model_type` `embedding`"), "{message}");
        let message = refusal(&json!({"model_name": "qwen3", "model_type": "LLM"}));
        assert!(
            message.contains("specify the `model_engine` field"),
            "{message}"
        );
        assert!(read(&json!({"model_name": "bge-m3"})).is_ok());
    }

    #[test]
    fn a_gpu_is_not_replaced_by_the_cpu_in_silence() {
        for (field, value) in [
            ("gpu_idx", json!(0)),
            ("gpu_idx", json!([0])),
            ("n_gpu", json!(1)),
            ("n_gpu", json!("2")),
        ] {
            let mut body = json!({"model_name": "bge-m3"});
            body[field] = value;
            let message = refusal(&body);
            assert!(
                message.starts_with(&format!("`{field}` asks for a GPU"))
                    && message.contains("CPU"),
                "{message}"
            );
        }
        for value in [json!(null), json!("auto"), json!(0), json!("0")] {
            let body = json!({"model_name": "bge-m3", "n_gpu": value, "gpu_idx": null});
            assert!(read(&body).is_ok(), "{body}");
        }
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for wrong in [
            json!({}),
            json!({"model_name": " "}),
            json!({"model_name": "bge-m3", "replica": true}),
            json!({"model_name": "bge-m3", "replica": 0}),
            json!({"model_name": "bge-m3", "replica": 1.5}),
            json!({"model_name": "bge-m3", "replica": "two"}),
            json!({"model_name": "bge-m3", "replica": 1_000_000}),
            json!({"model_name": "bge-m3", "replica": 2, "gpu_idx": [0, 1, 2]}),
            json!({"model_name": "bge-m3", "gpu_idx": ["a"]}),
            json!({"model_name": "bge-m3", "n_gpu": "many"}),
            json!({"model_name": "bge-m3", "max_tokens": -1}),
            json!({"model_name": "bge-m3", "kv_cache_mib": KV_CACHE_MIB_MAX + 1}),
            json!({"model_name": "bge-m3", "kv_cache_mib": u64::MAX}),
            json!({"model_name": "bge-m3", "keep_alive": "soon"}),
            json!({"model_name": "bge-m3", "pooling": "sum of all"}),
            json!({"model_name": "bge-m3", "model_uid": "a/b"}),
            json!({"model_name": "bge-m3", "model_uid": "bge-rep1"}),
            json!({"model_name": "x", "model_type": "image"}),
        ] {
            refusal(&wrong);
        }
        assert!(read(&json!({"model_name": "bge-m3", "model_uid": "bge-report"})).is_ok());
    }
}
