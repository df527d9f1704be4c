//! What several tests need: ONNX Runtime, MiniLM, servers on free ports, a small HTTP client.

pub mod client;
pub mod server;

use std::{path::PathBuf, sync::LazyLock};

use retort::{
    config::{self, Config, Environment, Inputs, Purpose, Typed},
    provision::{self, ModelRequest, Progress, Weights},
};
use retort_models::Runtime;

/// The configuration of a service on a free port, with flags as on the command line:
/// `config(&[("max-queue-tokens", "64")])`.
pub fn config(flags: &[(&str, &str)]) -> Config {
    let typed = |&(flag, value): &(&str, &str)| Typed {
        setting: config::SETTINGS
            .iter()
            .find(|s| s.flag == flag)
            .expect("a known flag"),
        values: vec![value.to_owned()],
    };
    let mut flags: Vec<_> = flags.to_vec();
    flags.push(("port", "0"));
    let inputs = Inputs {
        purpose: Purpose::Serve,
        flags: flags.iter().map(typed).collect(),
        file: None,
        environment: Environment::of_process(),
        directory: env!("CARGO_TARGET_TMPDIR").into(),
    };
    config::load(&inputs)
        .unwrap_or_else(|error| panic!("{error}"))
        .config
}

/// ONNX Runtime, found or fetched as the service does it. One per process.
pub fn runtime() -> Runtime {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        let library = provision::runtime(&config(&[]).provision, &Progress::stderr())
            .unwrap_or_else(|error| panic!("{error}"));
        Runtime::load(&library.path).unwrap_or_else(|error| panic!("{error}"))
    });
    RUNTIME.clone()
}

/// The folder of the real all-MiniLM-L6-v2, found or fetched as the service does it.
pub fn minilm() -> PathBuf {
    static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
        let request = ModelRequest {
            id: "sentence-transformers/all-MiniLM-L6-v2",
            revision: None,
            weights: Weights::Checkpoint,
        };
        provision::model(&config(&[]).provision, &request, &Progress::stderr())
            .unwrap_or_else(|error| panic!("{error}"))
            .dir
    });
    DIR.clone()
}

/// A folder of `tests/golden`.
pub fn golden(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(folder)
}
