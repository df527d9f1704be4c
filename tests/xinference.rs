//! Xinference's own command line and client packages, from PyPI, against the program: models of
//! the catalogue come from a hub cache that holds tiny checkpoints under their names.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use retort_models::catalog::Catalog;
use serde_json::json;

use crate::{
    official_clients::environment,
    support::{client::Client, eventually, golden, runtime},
};

/// What `xinference` imports before it does anything, without its engines.
const COMMAND_LINE: &[&[&str]] = &[
    &["--no-deps", "xinference==4.1.0", "xoscar==0.12.2"],
    &[
        "aiohttp",
        "click<8.2",
        "cloudpickle",
        "pandas",
        "psutil",
        "pydantic",
        "requests",
        "tabulate",
        "tblib",
        "tqdm",
    ],
];
const CLIENT: &[&[&str]] = &[&["xinference-client==4.1.0"]];

/// What the catalogue calls them → tiny checkpoints of their kind.
const MODELS: &[(&str, &str)] = &[
    ("bge-m3", "bge-m3-tiny"),
    ("jina-reranker-v2", "xlmr-tiny-score"),
];

/// A machine of its own: a home whose hub cache has the tiny models, a port, and the program under
/// the names that scripts call it by.
struct Machine {
    home: tempfile::TempDir,
    port: u16,
}

impl Machine {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let catalog = Catalog::compiled().unwrap();
        for (name, checkpoint) in MODELS {
            let published = &catalog.by_name(name).unwrap().huggingface;
            let folder = format!("models--{}", published.id.replace('/', "--"));
            let folder = home.path().join("hub").join(folder);
            let revision = published.revision.as_deref().unwrap_or("main");
            let commit = if revision == "main" { "0000" } else { revision };
            let snapshot = folder.join("snapshots").join(commit);
            fs::create_dir_all(folder.join("refs")).unwrap();
            fs::write(folder.join("refs/main"), commit).unwrap();
            copy(&golden("checkpoints").join(checkpoint), &snapshot);
        }
        let bin = home.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for name in ["retort", "retort-local", "xinference-local"] {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_retort"), bin.join(name)).unwrap();
        }
        // Free a moment ago; nothing else of the tests wants a certain port.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let port = port.unwrap().port();
        Self { home, port }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn client(&self) -> Client {
        Client::new(([127, 0, 0, 1], self.port).into())
    }

    /// A command in this machine's environment. The programs of `python` come last.
    fn command(&self, program: &str, python: Option<&Path>) -> Command {
        let own = self.home.path().join("bin");
        let python = python.and_then(Path::parent).map(Path::to_owned);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = [own]
            .into_iter()
            .chain(python)
            .chain(std::env::split_paths(&path));
        let path = std::env::join_paths(dirs).unwrap();
        let mut command = Command::new("env");
        command
            .env("PATH", path)
            .env("HOME", self.home.path())
            .env("HF_HOME", self.home.path())
            .env("XINFERENCE_HOME", self.home.path())
            .env("XINFERENCE_ENDPOINT", self.url())
            .env("RETORT_PORT", self.port.to_string())
            .env("RETORT_OFFLINE", "1")
            .env("RETORT_LOG", "warn")
            // The checkpoints of the tests bear published names and give other numbers.
            .env("RETORT_VERIFY", "off")
            .env("RETORT_MODEL", tiny())
            .env("ORT_DYLIB_PATH", runtime().library())
            .env("NO_COLOR", "1")
            .env("NO_PROXY", "127.0.0.1,localhost")
            .env("no_proxy", "127.0.0.1,localhost")
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .arg(program);
        command
    }

    /// Runs a command line to its end; what it printed on either stream.
    fn run(&self, line: &str, python: Option<&Path>) -> Result<String, String> {
        let mut words = line.split(' ');
        let mut command = self.command(words.next().unwrap(), python);
        let output = command.args(words).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        if output.status.success() {
            Ok(text)
        } else {
            Err(text)
        }
    }

    fn ok(&self, line: &str, python: Option<&Path>) -> String {
        self.run(line, python)
            .unwrap_or_else(|text| panic!("`{line}` failed:\n{text}"))
    }

    /// The server, once it answers.
    fn serve(&self, arguments: &[&str]) -> Running {
        let child = self
            .command("retort", None)
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let running = Running(child);
        let address: std::net::SocketAddr = ([127, 0, 0, 1], self.port).into();
        eventually("the server answers", || {
            std::net::TcpStream::connect(address).is_ok()
        });
        running
    }

    /// Waits until both models answer.
    fn models_answer(&self) {
        let client = self.client();
        let ready = |name: &str| {
            let answer = client.get(&format!("/v1/models/{name}"));
            answer.status == 200 && answer.json()["state"] == "ready"
        };
        eventually("both models are ready", || {
            MODELS.iter().all(|(name, _)| ready(name))
        });
        client.embed("bge-m3", &["works"]);
        let body = json!({"model": "jina-reranker-v2", "query": "a", "documents": ["b", "c"]});
        let answer = client.post("/v1/rerank", &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

/// A process that is ended, and waited for, when dropped.
struct Running(Child);

impl Running {
    /// Waits for its own end.
    fn end(mut self) -> bool {
        let mut status = None;
        eventually("the process ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn tiny() -> String {
    format!("tiny={}", golden("checkpoints/bert-tiny-mean").display())
}

fn command_line() -> PathBuf {
    environment("xinference-4.1.0", COMMAND_LINE)
}

/// The record of a model of one's own whose files are on this machine.
fn record(machine: &Machine) -> PathBuf {
    let directory = golden("checkpoints/bert-tiny-mean").display().to_string();
    let record = json!({
        "version": 2, "model_name": "mine", "dimensions": 32, "max_tokens": 64,
        "language": ["en"], "model_specs": [{
            "model_format": "pytorch", "model_id": null, "model_revision": null,
            "model_uri": format!("file://{directory}"), "quantization": "none"}],
    });
    let file = machine.home.path().join("mine.json");
    fs::write(&file, record.to_string()).unwrap();
    file
}

/// What both command lines are asked; `words` are in what the line prints.
fn manage(machine: &Machine, program: &str, python: Option<&Path>) {
    let record = record(machine).display().to_string();
    let check = |line: &str, words: &[&str]| {
        let text = machine.ok(&format!("{program} {line}"), python);
        for word in words {
            assert!(
                text.to_lowercase().contains(&word.to_lowercase()),
                "`{word}` is not in `{program} {line}`:\n{text}"
            );
        }
    };
    check("list", &["tiny"]);
    check(
        "launch --model-name bge-m3 --model-type embedding",
        &["Model uid: bge-m3"],
    );
    check("launch -n bge-m3 -t embedding", &["Model uid: bge-m3"]);
    check(
        "launch -n jina-reranker-v2 -t rerank -u judge -en onnx --replica 1 --batch_size 8",
        &["Model uid: judge"],
    );
    check(
        "list",
        &["bge-m3", "embedding", "judge", "jina-reranker-v2", "rerank"],
    );
    check(
        "registrations -t embedding",
        &["bge-m3", "1024", "Is-built-in"],
    );
    check("registrations -t rerank", &["bge-reranker-v2-m3"]);
    check(&format!("register -t embedding -f {record}"), &[]);
    check("registrations -t embedding", &["mine"]);
    check("launch -n mine -t embedding", &["Model uid: mine"]);
    assert_eq!(machine.client().embed("mine", &["works"])[0].len(), 32);
    check("terminate --model-uid mine", &[]);
    check("unregister -t embedding -n mine", &[]);
    check("engine -n bge-m3", &["onnx", "0_5"]);
    check("cached", &["bge-m3"]);
    check("terminate --model-uid judge", &[]);
    check("terminate --model-uid bge-m3", &[]);
    for (line, reason) in [
        ("terminate --model-uid judge", "Model not found"),
        (
            "launch -n nothing-of-the-kind -t embedding",
            "Model not found",
        ),
        (
            "launch -n mine -t embedding --model-path /nowhere",
            "/nowhere",
        ),
        ("unregister -t embedding -n bge-m3", "bge-m3"),
    ] {
        let text = machine
            .run(&format!("{program} {line}"), python)
            .expect_err("it has to fail");
        assert!(text.contains(reason), "`{reason}` is not in:\n{text}");
    }
}

#[test]
fn the_command_line_of_xinference_manages_models() {
    let machine = Machine::new();
    let _server = machine.serve(&["serve"]);
    manage(&machine, "xinference", Some(&command_line()));
}

#[test]
fn our_command_line_manages_models_with_the_same_flags() {
    let machine = Machine::new();
    let server = machine.serve(&["serve"]);
    manage(&machine, "retort", None);
    machine.ok("retort stop", None);
    assert!(server.end());
    let text = machine
        .run("retort list", None)
        .expect_err("nobody answers");
    assert!(text.contains("no server answers"), "{text}");
}

#[test]
fn a_key_opens_what_it_may_and_no_more() {
    let machine = Machine::new();
    let python = command_line();
    let _server = machine.serve(&["serve", "--api-key", "s3cret"]);
    let refused = machine
        .run("xinference list -ak wrong", Some(&python))
        .expect_err("a wrong key");
    assert!(
        refused.contains("Could not validate credentials"),
        "{refused}"
    );
    machine.ok("xinference list -ak s3cret", Some(&python));
    machine.ok(
        "xinference login --username me --password s3cret",
        Some(&python),
    );
    machine.ok("xinference list", Some(&python));
    machine.ok("retort list -ak s3cret", None);
    machine.ok("retort launch -n bge-m3 -t embedding -ak s3cret", None);
}

#[test]
fn where_there_are_admin_keys_only_they_manage_models() {
    let machine = Machine::new();
    let _server = machine.serve(&["serve", "--api-key", "user", "--admin-api-key", "root"]);
    machine.ok("retort list -ak user", None);
    let refused = machine.run("retort launch -n bge-m3 -t embedding -ak user", None);
    assert!(refused.expect_err("no admin").contains("admin"));
    machine.ok("retort launch -n bge-m3 -t embedding -ak root", None);
    machine.ok("retort terminate -u bge-m3 -ak root", None);
}

#[test]
fn the_client_package_is_at_home() {
    let machine = Machine::new();
    let _server = machine.serve(&["serve"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/xinference_package.py");
    let python = environment("xinference-client-4.1.0", CLIENT);
    let url = machine.url();
    let line = format!(
        "{} {} {url} bge-m3 jina-reranker-v2",
        python.display(),
        script.display()
    );
    let report = machine.ok(&line, None);
    assert!(
        report.lines().filter(|line| line.starts_with("ok")).count() >= 12,
        "{report}"
    );
}

/// Runs the script until both models answer, and then lets it end as the server does.
fn start_up(name: &str, python: Option<&Path>) {
    let machine = Machine::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/startup.sh");
    let mut command = machine.command("bash", python);
    command.arg(script).args([name, &machine.port.to_string()]);
    let told = machine.home.path().join("told");
    let file = fs::File::create(&told).unwrap();
    let running = Running(command.stdout(Stdio::null()).stderr(file).spawn().unwrap());
    let address: std::net::SocketAddr = ([127, 0, 0, 1], machine.port).into();
    eventually("the server answers", || {
        std::net::TcpStream::connect(address).is_ok()
    });
    machine.models_answer();
    eventually("both launches say so", || {
        let told = fs::read_to_string(&told).unwrap();
        MODELS
            .iter()
            .all(|(name, _)| told.contains(&format!("Model uid: {name}")))
    });
    machine.ok("retort stop", None);
    assert!(running.end(), "the script failed");
}

#[test]
fn the_start_up_script_runs_with_the_name_replaced() {
    start_up("retort", None);
}

#[test]
fn the_start_up_script_runs_as_it_is() {
    start_up("xinference", Some(&command_line()));
}
