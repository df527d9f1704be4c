//! The table of settings: one row gives an option its flag, its variables and its line of help.
//! The default and the type of each are in `config.toml`, under the same key.

mod table;

pub use self::table::SETTINGS;

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
        "GPUs that may be used; numbers as in `cuda:0` count among them",
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
