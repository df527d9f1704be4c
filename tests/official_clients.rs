//! The clients that people really use, from PyPI, against a live service.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{LazyLock, Mutex, PoisonError},
};

use crate::support::{golden, server::Server, stories};

/// The Python of an environment with the `openai` package, made once for all tests.
static OPENAI: LazyLock<PathBuf> = LazyLock::new(|| python_with("openai==2.54.0"));

/// With the `cohere` package.
static COHERE: LazyLock<PathBuf> = LazyLock::new(|| python_with("cohere==5.21.1"));

/// With the `ollama` package.
static OLLAMA: LazyLock<PathBuf> = LazyLock::new(|| python_with("ollama==0.6.3"));

/// With Infinity's own client.
static INFINITY: LazyLock<PathBuf> = LazyLock::new(|| python_with("infinity_client==0.0.78"));

/// With `huggingface_hub`, whose vectors are numpy's.
static HUGGINGFACE: LazyLock<PathBuf> = LazyLock::new(|| {
    let python = python_with("huggingface_hub==2.4.0");
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "numpy"]));
    python
});

/// With this package and nothing else.
fn python_with(package: &str) -> PathBuf {
    environment(package, &[&[package]])
}

/// A Python environment under `target/` of this name, made with one call of pip for each list of
/// arguments. Two at once would disturb each other.
pub fn environment(name: &str, installs: &[&[&str]]) -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("venv")
        .join(name);
    let python = dir.join(if cfg!(windows) {
        "Scripts/python.exe"
    } else {
        "bin/python"
    });
    let complete = dir.join("complete");
    if !complete.exists() {
        eprintln!("making a Python environment for {name}");
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&dir));
        for install in installs {
            run(Command::new(&python)
                .args(["-m", "pip", "install", "--quiet"])
                .args(*install));
        }
        fs::write(&complete, "").unwrap();
    }
    python
}

/// What a command prints; it must succeed.
pub fn run(command: &mut Command) -> String {
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
    let root = format!("http://{}/v1", server.address());
    checked(&OPENAI, "openai_client.py", &[&root, model], key)
}

/// What a script in `tests/clients/` reports; it must succeed.
fn checked(python: &Path, script: &str, arguments: &[&str], key: Option<&str>) -> String {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut command = Command::new(python);
    command.arg(clients.join(script)).args(arguments);
    if let Some(key) = key {
        command.args(["--api-key", key]);
    }
    // A proxy of the environment must not come between two processes of one machine.
    command
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    run(&mut command)
}

/// A model that tells stories has no template of its own: with this one it goes on with what is
/// said to it.
const CHAT_TEMPLATE: &str =
    "{{ bos_token }}One day, {% for m in messages %}{{ m.content }}{% endfor %}";

/// What a client reports that chats with a model whose answers are text: stories260K.
fn chats(python: &Path, script: &str, root: &str) -> Option<String> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/models/stories260K");
    if !data.is_dir() {
        println!("stepping aside: `{}` is not here", data.display());
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let files = ["stories260K.bin", "tok512.bin"].map(|name| data.join(name));
    stories::write_checkpoint(&files[0], &files[1], folder.path());
    fs::write(folder.path().join("chat_template.jinja"), CHAT_TEMPLATE).unwrap();
    let model = format!("chat={}", folder.path().display());
    let server = Server::start(&[("model", &model)]);
    let root = format!("http://{}{root}", server.address());
    Some(checked(python, script, &[&root, "chat"], None))
}

#[test]
fn the_openai_package_chats() {
    let Some(report) = chats(&OPENAI, "openai_chat.py", "/v1") else {
        return;
    };
    let good = report.lines().filter(|line| line.starts_with("ok")).count();
    assert_eq!(good, 9, "{report}");
}

#[test]
fn the_ollama_package_chats() {
    let Some(report) = chats(&OLLAMA, "ollama_chat.py", "") else {
        return;
    };
    let good = report.lines().filter(|line| line.starts_with("ok")).count();
    assert_eq!(good, 6, "{report}");
}

/// A server with the tiny models `tiny` (vectors), `judge` (a reranker) and `nli` (three labels).
fn tiny_models(more: &[(&str, &str)]) -> Server {
    let model = |name, folder| format!("{name}={}", golden("checkpoints").join(folder).display());
    let tiny = model("tiny", "bert-tiny-mean");
    let judge = model("judge", "bert-tiny-score");
    let nli = model("nli", "bert-tiny-score3");
    let mut flags: Vec<_> = [&tiny, &judge, &nli]
        .map(|model| ("model", model.as_str()))
        .into();
    flags.extend_from_slice(more);
    Server::start(&flags)
}

/// A client whose script takes the root, an embedding model and a reranker, with and without keys.
fn is_at_home(python: &Path, script: &str) {
    for key in [None, Some("s3cret")] {
        let more: Vec<_> = key.iter().map(|key| ("api-key", *key)).collect();
        let server = tiny_models(&more);
        let root = format!("http://{}", server.address());
        let report = checked(python, script, &[&root, "tiny", "judge"], key);
        assert!(
            report.lines().filter(|line| line.starts_with("ok")).count() >= 6,
            "{report}"
        );
    }
}

#[test]
fn the_cohere_package_is_at_home() {
    is_at_home(&COHERE, "cohere_client.py");
}

#[test]
fn the_ollama_package_is_at_home() {
    is_at_home(&OLLAMA, "ollama_client.py");
}

#[test]
fn the_infinity_client_package_is_at_home() {
    is_at_home(&INFINITY, "infinity.py");
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
    let tiny = golden("checkpoints/bert-tiny-mean");
    let model = format!("tiny={}", tiny.display());
    let allow = ("allow-untrained-dimensions", "true");
    let server = Server::start(&[("model", &model), ("api-key", "s3cret"), allow]);
    let report = openai(&server, "tiny", Some("s3cret"));
    assert!(report.contains("ok - authentication"), "{report}");
}

#[test]
fn the_huggingface_client_sees_one_model_at_each_root() {
    let [embedder, classifier] = ["bert-tiny-mean", "bert-tiny-score3"].map(|name| {
        let folder = golden("checkpoints").join(name);
        format!("{name}={}", folder.display())
    });
    let server = Server::start(&[
        ("model", &embedder),
        ("model", &classifier),
        ("api-key", "s3cret"),
    ]);
    let root = format!("http://{}", server.address());
    let roots = [&root[..], "bert-tiny-mean", "bert-tiny-score3"];
    let script = "huggingface_client.py";
    let report = checked(&HUGGINGFACE, script, &roots, Some("s3cret"));
    let good = report.lines().filter(|line| line.starts_with("ok")).count();
    assert_eq!(good, 5, "{report}");
}
