//! What the peers need: Python environments with their packages, and checkpoints in their formats.
//! Both are made below `target/` when they are first wanted.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::scenario;
use crate::measure::Outcome;

/// Made by `requirements.txt`.
const MAIN: &str = "main";
/// Made by `requirements-infinity.txt`: its pins exclude the others' versions.
const INFINITY: &str = "infinity";

/// The peers in the order of the tables, and the environment that has them.
const PEERS: &[(&str, &str)] = &[
    ("fastembed fp32", MAIN),
    ("fastembed int8", MAIN),
    ("sentence-transformers fp32", MAIN),
    ("sentence-transformers bf16", MAIN),
    ("onnxruntime fp32", MAIN),
    ("onnxruntime int8", MAIN),
    ("infinity torch fp32", INFINITY),
];

/// One peer: how `worker.py` calls it, and the Python that can run it.
pub struct Peer {
    /// Its name.
    pub name: &'static str,
    /// The interpreter of its environment.
    pub python: PathBuf,
}

/// Where environments and checkpoints are.
pub struct Environment {
    target: PathBuf,
}

impl Environment {
    /// Makes what is missing; the first time this fetches several gigabytes.
    pub fn make(minilm: &Path) -> Outcome<Self> {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers");
        let environment = Self { target };
        environment.python(MAIN, "requirements.txt")?;
        environment.python(INFINITY, "requirements-infinity.txt")?;
        let script = here("models.py");
        run(Command::new(environment.interpreter(MAIN))
            .arg(script)
            .arg(environment.target.join("models"))
            .arg(minilm)
            .args(scenario::models())
            .env("HF_HUB_OFFLINE", "1"))?;
        Ok(environment)
    }

    /// The folder of a checkpoint that `models.py` made.
    pub fn model(&self, name: &str) -> PathBuf {
        self.target.join("models").join(name)
    }

    /// All peers.
    pub fn peers(&self) -> impl Iterator<Item = Peer> {
        PEERS.iter().map(|&(name, environment)| Peer {
            name,
            python: self.interpreter(environment),
        })
    }

    fn interpreter(&self, name: &str) -> PathBuf {
        self.target.join(name).join("bin/python")
    }

    fn python(&self, name: &str, requirements: &str) -> Outcome {
        let dir = self.target.join(name);
        let complete = dir.join("complete");
        if complete.exists() {
            return Ok(());
        }
        eprintln!("making the Python environment `{name}` of the peers; this takes minutes");
        fs::create_dir_all(&self.target)?;
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&dir))?;
        run(Command::new(self.interpreter(name))
            .args(["-m", "pip", "install", "--quiet", "-r"])
            .arg(here(requirements)))?;
        fs::write(complete, "")?;
        Ok(())
    }
}

/// A file beside this one.
pub fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("benches/peers")
        .join(name)
}

fn run(command: &mut Command) -> Outcome {
    let status = command.status()?;
    if status.success() {
        return Ok(());
    }
    Err(format!("`{}` ended with {status}", command.get_program().display()).into())
}
