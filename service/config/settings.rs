//! The table of settings: one row gives an option its flag, its variables and its line of help.
//! The default and the type of each are in `config.toml`, under the same key.

/// One option, as a person meets it.
#[derive(Debug)]
pub struct Setting {
    /// Its key in the file, with the section: `server.port`.
    pub key: &'static str,
    /// Its flag without the dashes; empty when it must not be typed, as for tokens.
    pub flag: &'static str,
    /// What stands for the value in `--help`.
    pub value_name: &'static str,
    /// Its variables; the first that is set counts.
    pub variables: &'static [&'static str],
    /// Which commands take it.
    pub scope: Scope,
    /// One line for `--help`.
    pub help: &'static str,
}

/// Which commands an option matters to. A section of `--help` has the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Where and how the service listens.
    Server,
    /// What a caller may ask for.
    Limits,
    /// How models run.
    Inference,
    /// Whose turn it is.
    Scheduling,
    /// Which models, and where they come from.
    Models,
    /// What is told about the run.
    Logging,
}

impl Scope {
    /// The heading of its section in `--help`.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::Limits => "Limits",
            Self::Inference => "Inference",
            Self::Scheduling => "Scheduling",
            Self::Models => "Models and where they come from",
            Self::Logging => "Logging",
        }
    }
}

/// Key of the list of models, the one setting that is not a single value.
pub const MODEL: &str = "model";

/// Every option, in the order of `--help`.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: MODEL,
        flag: "model",
        value_name: "MODEL",
        variables: &["RETORT_MODEL", "RETORT_MODELS"],
        scope: Scope::Models,
        help: "Model: name, hub id or directory, as `[name=]id[@revision]`; repeat for several",
    },
    Setting {
        key: "models.sources",
        flag: "source",
        value_name: "SOURCE",
        variables: &["RETORT_MODEL_SRC", "XINFERENCE_MODEL_SRC"],
        scope: Scope::Models,
        help: "Where to look for models: a single one goes first, several are tried in order",
    },
    Setting {
        key: "models.catalog_dir",
        flag: "catalog-dir",
        value_name: "DIR",
        variables: &["RETORT_CATALOG_DIR"],
        scope: Scope::Models,
        help: "Your own entries of the model catalogue, one TOML file each",
    },
    Setting {
        key: "models.cache_dir",
        flag: "cache-dir",
        value_name: "DIR",
        variables: &["RETORT_CACHE_DIR"],
        scope: Scope::Models,
        help: "Where fetched models and runtimes are kept",
    },
    Setting {
        key: "models.offline",
        flag: "offline",
        value_name: "BOOL",
        variables: &["RETORT_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"],
        scope: Scope::Models,
        help: "Use only what is on this machine",
    },
    Setting {
        key: "models.hf_endpoint",
        flag: "hf-endpoint",
        value_name: "URL",
        variables: &["RETORT_HF_ENDPOINT", "HF_ENDPOINT"],
        scope: Scope::Models,
        help: "Another address for the Hugging Face hub",
    },
    Setting {
        key: "models.hf_token",
        flag: "",
        value_name: "TOKEN",
        variables: &["RETORT_HF_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"],
        scope: Scope::Models,
        help: "Token for gated models of the Hugging Face hub",
    },
    Setting {
        key: "models.hf_home",
        flag: "",
        value_name: "DIR",
        variables: &["RETORT_HF_HOME", "HF_HOME"],
        scope: Scope::Models,
        help: "Hugging Face's own directory, whose cache is read as well",
    },
    Setting {
        key: "server.host",
        flag: "host",
        value_name: "HOST",
        variables: &["RETORT_HOST"],
        scope: Scope::Server,
        help: "Address to listen on",
    },
    Setting {
        key: "server.port",
        flag: "port",
        value_name: "PORT",
        variables: &["RETORT_PORT"],
        scope: Scope::Server,
        help: "Port to listen on; 0 takes any free one",
    },
    Setting {
        key: "server.api_keys",
        flag: "api-key",
        value_name: "KEY",
        variables: &["RETORT_API_KEY", "RETORT_API_KEYS"],
        scope: Scope::Server,
        help: "Key that callers must send; other users can see flags, so prefer the variable",
    },
    Setting {
        key: "server.admin_api_keys",
        flag: "admin-api-key",
        value_name: "KEY",
        variables: &["RETORT_ADMIN_API_KEY", "RETORT_ADMIN_API_KEYS"],
        scope: Scope::Server,
        help: "Key that may also launch and unload models; without one, every key may",
    },
    Setting {
        key: "server.allow_public",
        flag: "allow-public",
        value_name: "BOOL",
        variables: &["RETORT_ALLOW_PUBLIC"],
        scope: Scope::Server,
        help: "Serve other machines although no key is set",
    },
    Setting {
        key: "server.cors_origins",
        flag: "cors-origin",
        value_name: "ORIGIN",
        variables: &["RETORT_CORS_ORIGINS"],
        scope: Scope::Server,
        help: "Origins whose pages may call the service from a browser",
    },
    Setting {
        key: "server.cors_admin",
        flag: "cors-admin",
        value_name: "BOOL",
        variables: &["RETORT_CORS_ADMIN"],
        scope: Scope::Server,
        help: "Those pages may also launch and unload models",
    },
    Setting {
        key: "server.metrics_open",
        flag: "metrics-open",
        value_name: "BOOL",
        variables: &["RETORT_METRICS_OPEN"],
        scope: Scope::Server,
        help: "Answer `/metrics` without a key although keys are set",
    },
    Setting {
        key: "server.request_timeout_s",
        flag: "request-timeout-s",
        value_name: "SECONDS",
        variables: &["RETORT_REQUEST_TIMEOUT_S"],
        scope: Scope::Server,
        help: "Longest time for one request",
    },
    Setting {
        key: "server.stall_timeout_s",
        flag: "stall-timeout-s",
        value_name: "SECONDS",
        variables: &["RETORT_STALL_TIMEOUT_S"],
        scope: Scope::Server,
        help: "Longest pause of a caller within a request or its answer",
    },
    Setting {
        key: "server.idle_timeout_s",
        flag: "idle-timeout-s",
        value_name: "SECONDS",
        variables: &["RETORT_IDLE_TIMEOUT_S"],
        scope: Scope::Server,
        help: "Longest time of a connection without a request",
    },
    Setting {
        key: "server.max_connections",
        flag: "max-connections",
        value_name: "N",
        variables: &["RETORT_MAX_CONNECTIONS"],
        scope: Scope::Limits,
        help: "Connections at the same time",
    },
    Setting {
        key: "server.drain_timeout_s",
        flag: "drain-timeout-s",
        value_name: "SECONDS",
        variables: &["RETORT_DRAIN_TIMEOUT_S"],
        scope: Scope::Server,
        help: "Time that requests under way get on shutdown",
    },
    Setting {
        key: "server.drain_delay_s",
        flag: "drain-delay-s",
        value_name: "SECONDS",
        variables: &["RETORT_DRAIN_DELAY_S"],
        scope: Scope::Server,
        help: "Time before that in which requests are taken, not ready any more",
    },
    Setting {
        key: "server.max_body_bytes",
        flag: "max-body-bytes",
        value_name: "BYTES",
        variables: &["RETORT_MAX_BODY_BYTES"],
        scope: Scope::Limits,
        help: "Largest request body",
    },
    Setting {
        key: "limits.max_inputs_per_request",
        flag: "max-inputs-per-request",
        value_name: "N",
        variables: &["RETORT_MAX_INPUTS_PER_REQUEST"],
        scope: Scope::Limits,
        help: "Inputs per request",
    },
    Setting {
        key: "limits.max_queue_tokens",
        flag: "max-queue-tokens",
        value_name: "TOKENS",
        variables: &["RETORT_MAX_QUEUE_TOKENS"],
        scope: Scope::Limits,
        help: "Tokens that may wait before requests are refused",
    },
    Setting {
        key: "limits.requests_per_minute",
        flag: "requests-per-minute",
        value_name: "N",
        variables: &["RETORT_REQUESTS_PER_MINUTE"],
        scope: Scope::Limits,
        help: "Requests per minute and key; 0: any number",
    },
    Setting {
        key: "limits.tokens_per_minute",
        flag: "tokens-per-minute",
        value_name: "TOKENS",
        variables: &["RETORT_TOKENS_PER_MINUTE"],
        scope: Scope::Limits,
        help: "Tokens per minute and key; 0: any number",
    },
    Setting {
        key: "limits.max_batch_tokens",
        flag: "max-batch-tokens",
        value_name: "TOKENS",
        variables: &["RETORT_MAX_BATCH_TOKENS"],
        scope: Scope::Inference,
        help: "Tokens per forward pass; 0 chooses for the device",
    },
    Setting {
        key: "cpu.threads",
        flag: "threads",
        value_name: "N",
        variables: &["RETORT_THREADS"],
        scope: Scope::Inference,
        help: "Threads for inference; 0 means one per core",
    },
    Setting {
        key: "cpu.workers",
        flag: "workers",
        value_name: "N",
        variables: &["RETORT_WORKERS"],
        scope: Scope::Inference,
        help: "Batches that run at the same time; 0 chooses",
    },
    Setting {
        key: "models.dtype",
        flag: "dtype",
        value_name: "DTYPE",
        variables: &["RETORT_DTYPE"],
        scope: Scope::Inference,
        help: "What models are computed in: `auto`, `fp32`, `bf16` or `int8`",
    },
    Setting {
        key: "models.verify",
        flag: "verify",
        value_name: "WHEN",
        variables: &["RETORT_VERIFY"],
        scope: Scope::Inference,
        help: "Check published numbers before serving: `first-load`, `always` or `off`",
    },
    Setting {
        key: "models.memory_budget_mib",
        flag: "memory-budget-mib",
        value_name: "MIB",
        variables: &["RETORT_MEMORY_BUDGET_MIB"],
        scope: Scope::Inference,
        help: "Memory that a model must fit in to be loaded; 0 means what the process may use",
    },
    Setting {
        key: "models.keep_alive",
        flag: "keep-alive",
        value_name: "TIME",
        variables: &["RETORT_KEEP_ALIVE"],
        scope: Scope::Inference,
        help: "Time a model stays in memory without requests, such as `5m`; -1: for ever",
    },
    Setting {
        key: "models.allow_eviction",
        flag: "allow-eviction",
        value_name: "BOOL",
        variables: &["RETORT_ALLOW_EVICTION"],
        scope: Scope::Inference,
        help: "Unload idle models to make room for others",
    },
    Setting {
        key: "models.persist",
        flag: "persist",
        value_name: "BOOL",
        variables: &["RETORT_PERSIST"],
        scope: Scope::Models,
        help: "Models launched while serving return after a restart",
    },
    Setting {
        key: "models.state_file",
        flag: "state-file",
        value_name: "FILE",
        variables: &["RETORT_STATE_FILE"],
        scope: Scope::Models,
        help: "File that says which launched models return after a restart",
    },
    Setting {
        key: "scheduling.interactive_max_inputs",
        flag: "interactive-max-inputs",
        value_name: "N",
        variables: &["RETORT_INTERACTIVE_MAX_INPUTS"],
        scope: Scope::Scheduling,
        help: "Texts up to which a request counts as interactive",
    },
    Setting {
        key: "scheduling.interactive_max_tokens",
        flag: "interactive-max-tokens",
        value_name: "TOKENS",
        variables: &["RETORT_INTERACTIVE_MAX_TOKENS"],
        scope: Scope::Scheduling,
        help: "Tokens up to which a request counts as interactive",
    },
    Setting {
        key: "scheduling.interactive_max_pairs",
        flag: "interactive-max-pairs",
        value_name: "N",
        variables: &["RETORT_INTERACTIVE_MAX_PAIRS"],
        scope: Scope::Scheduling,
        help: "Documents up to which reranking counts as interactive",
    },
    Setting {
        key: "scheduling.interactive_share",
        flag: "interactive-share",
        value_name: "PERCENT",
        variables: &["RETORT_INTERACTIVE_SHARE"],
        scope: Scope::Scheduling,
        help: "Part of the processor for interactive work when bulk work wants it too",
    },
    Setting {
        key: "scheduling.interactive_deadline_s",
        flag: "interactive-deadline-s",
        value_name: "SECONDS",
        variables: &["RETORT_INTERACTIVE_DEADLINE_S"],
        scope: Scope::Scheduling,
        help: "Longest time for an interactive request; 0 sets none",
    },
    Setting {
        key: "scheduling.bulk_deadline_s",
        flag: "bulk-deadline-s",
        value_name: "SECONDS",
        variables: &["RETORT_BULK_DEADLINE_S"],
        scope: Scope::Scheduling,
        help: "Longest time for a bulk request; 0 sets none",
    },
    Setting {
        key: "scheduling.cache_mib",
        flag: "cache-mib",
        value_name: "MIB",
        variables: &["RETORT_CACHE_MIB"],
        scope: Scope::Scheduling,
        help: "Results kept for inputs that come again; 0 keeps none",
    },
    Setting {
        key: "runtime.library",
        flag: "runtime-library",
        value_name: "FILE",
        variables: &["RETORT_RUNTIME_LIBRARY", "ORT_DYLIB_PATH"],
        scope: Scope::Inference,
        help: "ONNX Runtime's shared library, instead of finding or fetching one",
    },
    Setting {
        key: "embeddings.token_ids",
        flag: "token-ids",
        value_name: "VOCABULARY",
        variables: &["RETORT_TOKEN_IDS"],
        scope: Scope::Limits,
        help: "What integers in `input` are: `cl100k` or `model`",
    },
    Setting {
        key: "embeddings.allow_untrained_dimensions",
        flag: "allow-untrained-dimensions",
        value_name: "BOOL",
        variables: &["RETORT_ALLOW_UNTRAINED_DIMENSIONS"],
        scope: Scope::Limits,
        help: "Take `dimensions` that a model was not trained to be cut to",
    },
    Setting {
        key: "rerank.return_documents_default",
        flag: "return-documents-default",
        value_name: "BOOL",
        variables: &["RETORT_RETURN_DOCUMENTS_DEFAULT"],
        scope: Scope::Limits,
        help: "Rerank answers contain the documents unless the request says",
    },
    Setting {
        key: "server.log",
        flag: "log",
        value_name: "LEVEL",
        variables: &["RETORT_LOG", "RUST_LOG"],
        scope: Scope::Logging,
        help: "error, warn, info, debug, trace, or directives such as `info,retort=debug`",
    },
    Setting {
        key: "server.log_format",
        flag: "log-format",
        value_name: "FORMAT",
        variables: &["RETORT_LOG_FORMAT"],
        scope: Scope::Logging,
        help: "`text` for people, `json` for machines",
    },
];

/// Variables with the path of a file that has the value, for secrets that are mounted; what is in
/// it counts as if the variable without `_FILE` were set.
pub const FILE_VARIABLES: &[(&str, &str)] = &[
    ("server.api_keys", "RETORT_API_KEY_FILE"),
    ("server.admin_api_keys", "RETORT_ADMIN_API_KEY_FILE"),
    ("models.hf_token", "RETORT_HF_TOKEN_FILE"),
];

/// Variables that are read but set no option, and what each is for.
pub const OTHER_VARIABLES: &[(&str, &str)] = &[
    ("RETORT_CONFIG", "The configuration file, as `--config`"),
    ("NO_COLOR", "Any value: print without colours"),
    (
        "XDG_CONFIG_HOME",
        "Directory that holds `retort/config.toml`",
    ),
    (
        "XDG_CACHE_HOME",
        "Directory that holds `retort` and `huggingface`, the caches",
    ),
    (
        "HF_HUB_CACHE",
        "Cache of the Hugging Face hub, instead of `hub` in HF_HOME",
    ),
    (
        "HF_TOKEN_PATH",
        "File with the token of the Hugging Face hub",
    ),
    ("MODELSCOPE_ENDPOINT", "Another address for ModelScope"),
    (
        "MODELSCOPE_CACHE",
        "ModelScope's own cache, which is read as well",
    ),
    (
        "CUDA_VISIBLE_DEVICES",
        "GPUs; none is used in this version, and naming one is warned about",
    ),
    (
        "NOTIFY_SOCKET",
        "Set by systemd for `Type=notify`: told when the models are ready",
    ),
    (
        "HTTPS_PROXY",
        "Proxy for fetching, as are HTTP_PROXY, ALL_PROXY and NO_PROXY",
    ),
];

/// The row of a key.
pub fn setting(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

impl Setting {
    /// Whether the value must never be shown.
    pub fn is_secret(&self) -> bool {
        matches!(
            self.key,
            "server.api_keys" | "server.admin_api_keys" | "models.hf_token"
        )
    }

    /// All ways of changing it, for hints: "`--port`, `RETORT_PORT`, or `port` under `[server]`".
    pub fn ways(&self) -> String {
        let mut ways = Vec::new();
        if !self.flag.is_empty() {
            ways.push(format!("`--{}`", self.flag));
        }
        ways.extend(self.variables.first().map(|name| format!("`{name}`")));
        let in_file = match self.key.split_once('.') {
            Some((section, key)) => format!("`{key}` under `[{section}]` in the file"),
            None => format!("`[[{}]]` in the file", self.key),
        };
        format!("{} or {in_file}", ways.join(", "))
    }
}
