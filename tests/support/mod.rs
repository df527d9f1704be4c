//! What several tests need: ONNX Runtime, MiniLM, servers on free ports, a small HTTP client.

pub mod client;
pub mod numbers;
pub mod ranking;
pub mod server;
pub mod stories;

use std::{
    path::PathBuf,
    sync::LazyLock,
    time::{Duration, Instant},
};

use retort::{
    config::{self, Config, Environment, Inputs, Purpose, Typed},
    provision::{self, ModelRequest, Progress, Weights},
};
use retort_models::Runtime;

/// What is waited for takes seconds even on a machine that other tests keep busy.
const PATIENCE: Duration = Duration::from_secs(300);

/// Looks again until it is true, which must not take for ever.
pub fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

/// The configuration of a service on a free port, with flags as on the command line:
/// `config(&[("max-queue-tokens", "64")])`. A flag may be repeated; `config` names a file.
pub fn config(flags: &[(&str, &str)]) -> Config {
    let mut typed: Vec<Typed> = Vec::new();
    let is_file = |flag: &&(&str, &str)| flag.0 == "config";
    let file = flags.iter().find(is_file).map(|(_, path)| path.into());
    let settings = flags.iter().filter(|flag| !is_file(flag));
    // Most tests compare with the numbers of reference implementations, which compute in 32 bits.
    let is_dtype = |flag: &(&str, &str)| flag.0 == "dtype";
    let exact = (!flags.iter().any(is_dtype)).then_some(&("dtype", "fp32"));
    for &(flag, value) in settings.chain(exact).chain(&[("port", "0")]) {
        match typed.iter_mut().find(|typed| typed.setting.flag == flag) {
            Some(typed) => typed.values.push(value.to_owned()),
            None => typed.push(Typed {
                setting: config::SETTINGS
                    .iter()
                    .find(|setting| setting.flag == flag)
                    .expect("a known flag"),
                values: vec![value.to_owned()],
            }),
        }
    }
    let inputs = Inputs {
        purpose: Purpose::Serve,
        flags: typed,
        file,
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
            entry: None,
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
