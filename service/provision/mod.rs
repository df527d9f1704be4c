//! Makes what the service runs on present on this machine: ONNX Runtime and model files.
//! Looks locally first, then fetches from the configured sources; it loads and interprets nothing.
//! All of it is blocking and belongs before the server starts or on a blocking thread.

mod cache;
mod config;
mod cuda;
mod digest;
mod download;
mod error;
mod files;
mod http;
mod hub;
mod model;
mod modelscope;
mod pip;
mod progress;
mod published;
mod pypi_model;
mod report;
mod runtime;
mod secret;
#[cfg(test)]
mod tests;
mod wheels;

pub use config::{
    CudaPlaces, HuggingFaceConfig, ModelScopeConfig, ModelSource, Network, ProvisionConfig,
    Timeouts,
};
pub use cuda::{
    CUDA_DOWNLOAD, CUDA_VERSION, CudaLibraries, CudaOrigin, DRIVER_VERSION_MIN, Fetch, cuda_runtime,
};
pub use error::{Attempt, ProvisionError};
pub use files::Weights;
pub use model::{ModelFiles, ModelOrigin, ModelRequest, model};
pub use progress::{Progress, Watch};
pub use report::{CacheEntry, SourceProbe, cache_report, probe_sources};
pub use runtime::{RUNTIME_VERSION, RuntimeLibrary, RuntimeOrigin, runtime};
pub use secret::Secret;
