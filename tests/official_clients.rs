//! The clients that people really use, from PyPI, against a live service.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use crate::support::server::Server;

const OPENAI: &str = "openai==2.54.0";
const HUGGINGFACE: &str = "huggingface_hub==2.4.0";

/// The Python of an environment with the `openai` package, made once for all tests.
fn python() -> &'static Path {
    static PYTHON: LazyLock<PathBuf> = LazyLock::new(|| python_with(OPENAI));
    &PYTHON
}

/// The same with `huggingface_hub`, whose vectors are numpy's.
fn huggingface_python() -> &'static Path {
    static PYTHON: LazyLock<PathBuf> = LazyLock::new(|| {
        let python = python_with(HUGGINGFACE);
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "numpy"]));
        python
    });
    &PYTHON
}

/// A Python environment under `target/` with this package. Two at once would disturb each other.
fn python_with(package: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("venv")
        .join(package);
    let python = dir.join(if cfg!(windows) {
        "Scripts/python.exe"
    } else {
        "bin/python"
    });
    let complete = dir.join("complete");
    if !complete.exists() {
        eprintln!("making a Python environment with {package}");
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&dir));
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", package]));
        fs::write(&complete, "").unwrap();
    }
    python
}

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} failed:\n{text}\n{errors}"
    );
    text
}

fn openai(server: &Server, model: &str, key: Option<&str>) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/openai_client.py");
    let mut command = Command::new(python());
    command
        .arg(script)
        .arg(format!("http://{}/v1", server.address()))
        .arg(model);
    if let Some(key) = key {
        command.args(["--api-key", key]);
    }
    // A proxy of the environment must not come between two processes of one machine.
    command
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1");
    run(&mut command)
}

#[test]
fn the_openai_package_is_at_home() {
    let report = openai(Server::shared(), "minilm", None);
    assert!(
        report.lines().filter(|line| line.starts_with("ok")).count() >= 8,
        "{report}"
    );
}

#[test]
fn the_openai_package_shows_its_key() {
    let tiny = crate::support::golden("checkpoints/bert-tiny-mean");
    let model = format!("tiny={}", tiny.display());
    let allow = ("allow-untrained-dimensions", "true");
    let server = Server::start(&[("model", &model), ("api-key", "s3cret"), allow]);
    let report = openai(&server, "tiny", Some("s3cret"));
    assert!(report.contains("ok - authentication"), "{report}");
}

#[test]
fn the_huggingface_client_sees_one_model_at_each_root() {
    let [embedder, classifier] = ["bert-tiny-mean", "bert-tiny-score3"].map(|name| {
        let folder = crate::support::golden("checkpoints").join(name);
        format!("{name}={}", folder.display())
    });
    let server = Server::start(&[
        ("model", &embedder),
        ("model", &classifier),
        ("api-key", "s3cret"),
    ]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/huggingface_client.py");
    let mut command = Command::new(huggingface_python());
    command
        .arg(script)
        .arg(format!("http://{}", server.address()))
        .args(["bert-tiny-mean", "bert-tiny-score3", "--api-key", "s3cret"])
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1");
    let report = run(&mut command);
    let good = report.lines().filter(|line| line.starts_with("ok")).count();
    assert_eq!(good, 5, "{report}");
}
