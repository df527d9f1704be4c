//! What is asked of the fleet and what it tells: plain structs, no logic beyond their defaults.

use std::{path::PathBuf, time::Duration};

use retort_models::{DtypeChoice, Pooling, catalog};
use serde::{Deserialize, Serialize};

use crate::{
    config::{DeviceChoice, Generation},
    engine::{
        KeepAlive,
        request::{ModelInfo, Task},
    },
};

/// A model that is to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchSpec {
    /// The name to serve it under; `None` takes the catalogue's name or the last part of the
    /// reference, as Dify refuses names with a `/`.
    pub uid: Option<String>,
    /// A name of the catalogue, `organisation/name` on a hub, or a directory.
    pub reference: String,
    /// What it is wanted for; a model that cannot do it fails to load.
    pub task: Option<Task>,
    /// How many times the usual number of sessions it gets; they share its weights.
    pub replicas: usize,
    /// The longest input in tokens, instead of what the checkpoint states.
    pub max_tokens: Option<usize>,
    /// How token vectors become one, instead of what the checkpoint states.
    pub pooling: Option<Pooling>,
    /// Where it runs; `None` means where all models do.
    pub device: Option<DeviceChoice>,
    /// What it is computed in.
    pub dtype: DtypeChoice,
    /// How it is kept if it generates.
    pub generation: Generation,
    /// How long it stays in memory without requests.
    pub keep_alive: KeepAlive,
    /// Whether it returns after a restart.
    pub persist: bool,
    /// Whether the service is not ready without it.
    pub required: bool,
    /// Branch, tag or commit; `None` means the source's default.
    pub revision: Option<String>,
    /// Options that were sent and mean nothing here; they are logged.
    pub ignored: Vec<String>,
}

impl LaunchSpec {
    /// A launch with nothing but the model said.
    pub fn of(reference: impl Into<String>) -> Self {
        Self {
            uid: None,
            reference: reference.into(),
            task: None,
            replicas: 1,
            max_tokens: None,
            pooling: None,
            device: None,
            dtype: DtypeChoice::Auto,
            generation: Generation::default(),
            keep_alive: KeepAlive::Forever,
            persist: false,
            required: false,
            revision: None,
            ignored: Vec::new(),
        }
    }
}

/// A launch that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    /// The name it is served under.
    pub uid: String,
    /// Whether the same model was there under this name before.
    pub already: bool,
}

/// Where a model stands, in more detail than its callers need to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its turn has not come.
    Queued,
    /// Its files are looked for or fetched.
    Fetching,
    /// Weights are read and sessions made.
    Loading,
    /// Its numbers are held against published ones.
    Verifying,
    /// Every session runs once.
    Warming,
    /// It answers.
    Ready,
    /// It answers, after it is loaded again: it was unloaded because nobody had asked.
    Asleep,
    /// It did not load.
    Failed,
    /// Its last requests are answered.
    Terminating,
}

impl Stage {
    /// In one word, as clients are told it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "pending",
            Self::Fetching => "downloading",
            Self::Loading => "loading",
            Self::Verifying => "verifying",
            Self::Warming => "warming",
            Self::Ready => "ready",
            Self::Asleep => "asleep",
            Self::Failed => "error",
            Self::Terminating => "terminating",
        }
    }

    /// Whether a load is under way or waits for its turn.
    pub fn is_loading(self) -> bool {
        match self {
            Self::Queued | Self::Fetching | Self::Loading | Self::Verifying | Self::Warming => true,
            Self::Ready | Self::Asleep | Self::Failed | Self::Terminating => false,
        }
    }
}

/// How far a launch is.
#[derive(Debug, Clone, PartialEq)]
pub struct LaunchProgress {
    /// From 0.0 to 1.0; never goes back during one load.
    pub fraction: f64,
    /// What is done now.
    pub stage: Stage,
    /// Bytes that were fetched.
    pub bytes: u64,
    /// Bytes of the files that are being fetched, as far as that is known.
    pub bytes_total: Option<u64>,
    /// The files that were fetched or are being fetched.
    pub files: Vec<FileProgress>,
    /// Why it did not load.
    pub error: Option<String>,
}

/// How far the download of one file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProgress {
    /// Its name.
    pub name: String,
    /// Bytes that are here.
    pub bytes: u64,
    /// Its size, when the source says it.
    pub bytes_total: Option<u64>,
}

/// A model that is served, or is going to be.
#[derive(Debug, Clone)]
pub struct FleetModel {
    /// What callers of the engine are told.
    pub info: ModelInfo,
    /// How it was launched; its uid is the served name.
    pub spec: LaunchSpec,
    /// What the catalogue says of it, if it is in there.
    pub known: Option<catalog::Entry>,
    /// Where it stands.
    pub progress: LaunchProgress,
    /// When it was launched, in seconds since the Unix epoch.
    pub launched: u64,
    /// Where its files are, once they are found.
    pub directory: Option<PathBuf>,
    /// What it takes of memory while it is loaded: the estimate, or else the size of its weights.
    pub memory_bytes: Option<u64>,
    /// Requests that are inside.
    pub in_flight: usize,
    /// How long ago the last request left; `None` while one is inside or it is not loaded.
    pub idle: Option<Duration>,
    /// How long it stays in memory without requests, the last request's wish included.
    pub keep_alive: KeepAlive,
    /// When it will be unloaded if nobody asks; `None` for never, and while it is not loaded.
    pub unloads_in: Option<Duration>,
}

/// Files of a model on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedModel {
    /// The hub's `organisation/name`, or the package.
    pub name: String,
    /// Which cache it is in, for people.
    pub source: String,
    /// The folder.
    pub path: PathBuf,
    /// Its size on disk.
    pub bytes: u64,
}
